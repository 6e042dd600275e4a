// coir/sync/broadcast.hpp: one says it, all who have subscribed hear it.
//
//   coir::broadcast<price> prices(64);                      // keeps the last 64 for those who are slow
//   auto mine = prices.subscribe();
//   prices.publish(price(7));                               // never waits
//   while (auto got = co_await mine.receive()) {            // ends when it is closed and drained
//     if (got->missed() != 0) tell_of_a_gap(got->missed());
//     handle(got->value());
//   }                                                       [tests/sync/broadcast_test.cpp]
//
// Every subscriber gets every value that is published after it has subscribed, as long as it is not slower than the
// history is long: then the oldest values are gone for it, and the next that it gets says how many it missed.
//
// Shape    an object that is neither copied nor moved, and subscriptions, which are moved (while nobody waits in them)
//          and end when they are destroyed. T has a copy constructor, and a move constructor that does not throw.
// Order    that of publishing, for all. Those who wait are woken in the order in which they came.
// Thread   one loop: another is an assertion that names both.
// Lifetime a subscription may outlive its broadcast: it is then at its end, without what it had not received. Who waits
//          when the broadcast goes waits until it is cancelled. A subscription outlives the wait in it.
// Cancel   aborts now as long as nothing was published. Who was woken gets a value. A receive that is cancelled, or not
//          finished, takes nothing.
// Errors   closed: publish. receive: the error that it was closed with, and what copying a value throws, which stays
//          there. std::bad_alloc: publish, when the history cannot grow; nobody got the value then.
//          std::logic_error: a history of none; two receives at a time of one subscription; close() with an empty
//          exception_ptr.
// Cost     publish: the value is kept once, whoever waits is woken, and without subscribers nothing is kept. receive:
//          a copy. For large values publish a std::shared_ptr<const T>.
// See      coir/sync/channel.hpp; lib/sync/NOTE.md
#pragma once

#include <coir/base/assert.hpp>
#include <coir/base/list.hpp>
#include <coir/fiber/op.hpp>
#include <coir/sync/closed.hpp>
#include <coir/sync/value_ring.hpp>
#include <coir/sync/wait_list.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <optional>
#include <string>
#include <type_traits>
#include <typeinfo>
#include <utility>

namespace coir {

template <class T>
class broadcast;
template <class T>
class subscription;

struct broadcast_stats {
  std::uint64_t published = 0;
  std::uint64_t missed = 0;  // by all subscribers together
  std::size_t kept = 0;
  std::size_t subscribers = 0;
  std::size_t waiting = 0;
};

// A value as a subscriber gets it.
template <class T>
class heard {
 public:
  heard(T value, std::uint64_t missed) : value_(std::move(value)), missed_(missed) {}
  T& value() & noexcept { return value_; }
  const T& value() const& noexcept { return value_; }
  T&& value() && noexcept { return std::move(value_); }
  // So many came between this one and the one before, and are gone.
  std::uint64_t missed() const noexcept { return missed_; }

 private:
  T value_;
  std::uint64_t missed_;
};

namespace priv {

void describe_broadcast(std::string& text, const std::type_info& type, std::uint64_t published);
[[noreturn, gnu::cold]] void throw_no_history();
[[noreturn, gnu::cold]] void throw_subscriber_waits();
[[noreturn, gnu::cold]] void throw_no_reason_to_close();

}  // namespace priv

template <class T>
class [[nodiscard("co_await it, or coir::await(it)")]] broadcast_receive_op : public wait_node {
 public:
  static constexpr const char* name = "broadcast receive";
  explicit broadcast_receive_op(subscription<T>& of) noexcept : of_(&of) {}
  broadcast_receive_op(broadcast_receive_op&& other) noexcept : wait_node(other), of_(other.of_) {}
  ~broadcast_receive_op() { finish(); }

  bool start(waiter& told) {
    if (of_->busy_) [[unlikely]]
      priv::throw_subscriber_waits();
    broadcast<T>* const from = of_->from_;
    if (from != nullptr) {
      from->bound_.check();
      if (of_->next_ == from->next_ && !from->closed_) {
        from->waiting_.add(*this, told);
        of_->busy_ = began_ = true;
        return true;
      }
    }
    // What is there now may be gone for a slow subscriber, but then there is more.
    of_->busy_ = began_ = true;
    return false;
  }
  abort_answer abort() noexcept {
    const abort_answer answer = leave();
    if (answer == abort_answer::now) finish();
    return answer;
  }
  std::optional<heard<T>> take() {
    finish();
    return of_->next();
  }
  void describe(std::string& text) const;

 private:
  void finish() noexcept {
    if (std::exchange(began_, false)) of_->busy_ = false;
  }

  subscription<T>* of_;
  bool began_ = false;
};

template <class T>
class [[nodiscard("it ends when it is destroyed")]] subscription : private list_node {
 public:
  subscription(subscription&& other) noexcept : list_node(), next_(other.next_), missed_(other.missed_) {
    take_over(other);
  }
  subscription& operator=(subscription&& other) noexcept {
    if (this != &other) {
      end();
      next_ = other.next_;
      missed_ = other.missed_;
      take_over(other);
    }
    return *this;
  }
  ~subscription() { end(); }

  broadcast_receive_op<T> receive() noexcept { return broadcast_receive_op<T>(*this); }
  // Empty: there is nothing now, or nothing more.
  std::optional<heard<T>> try_receive() {
    if (from_ != nullptr) from_->bound_.check();
    if (busy_) [[unlikely]]
      priv::throw_subscriber_waits();
    if (from_ == nullptr || next_ == from_->next_) return std::nullopt;
    return next();
  }
  // So many can be received without waiting.
  std::size_t pending() const noexcept {
    if (from_ == nullptr) return 0;
    return static_cast<std::size_t>(from_->next_ - std::max(next_, from_->first()));
  }
  // Of all values so far.
  std::uint64_t missed() const noexcept { return missed_; }

 private:
  friend class broadcast<T>;
  friend class broadcast_receive_op<T>;
  friend class list<subscription>;
  explicit subscription(broadcast<T>& from) noexcept : from_(&from), next_(from.next_) {
    from.subscribers_.push_back(*this);
  }
  void take_over(subscription& other) noexcept {
    COIR_ASSERT(!other.busy_, "a subscription was moved while a fiber waits in it");
    from_ = std::exchange(other.from_, nullptr);
    if (from_ == nullptr) return;
    other.unlink();
    from_->subscribers_.push_back(*this);
  }
  void end() noexcept {
    COIR_ASSERT(!linked() || !busy_, "a subscription was destroyed while a fiber waits in it");
    if (from_ == nullptr) return;
    unlink();
    from_->missed_before_ += missed_;
    if (from_->subscribers_.empty()) from_->history_.reset();
    from_ = nullptr;
  }
  // There is a value, or an end.
  std::optional<heard<T>> next() {
    if (from_ == nullptr) return std::nullopt;
    if (next_ == from_->next_) {
      if (from_->error_ != nullptr) std::rethrow_exception(from_->error_);
      return std::nullopt;
    }
    const std::uint64_t at = std::max(next_, from_->first());
    const std::uint64_t gone = at - next_;
    std::optional<heard<T>> got(std::in_place, from_->history_[static_cast<std::size_t>(at - from_->first())], gone);
    missed_ += gone;
    next_ = at + 1;
    return got;
  }

  broadcast<T>* from_ = nullptr;  // null: it is gone
  std::uint64_t next_;            // the number of the value that comes next
  std::uint64_t missed_ = 0;
  bool busy_ = false;  // a receive has begun, and was not finished
};

template <class T>
class broadcast {
  static_assert(std::is_copy_constructible_v<T>, "every subscriber gets a copy");

 public:
  explicit broadcast(std::size_t history) : limit_(history) {
    if (history == 0) [[unlikely]]
      priv::throw_no_history();
  }
  broadcast(const broadcast&) = delete;
  broadcast& operator=(const broadcast&) = delete;
  ~broadcast() {
    while (!subscribers_.empty()) subscribers_.pop_front().from_ = nullptr;
  }

  // To whoever has subscribed by now.
  void publish(const T& value) { publish(T(value)); }
  void publish(T&& value) {
    bound_.check();
    if (closed_) [[unlikely]]
      priv::throw_closed("publishing to a broadcast");
    if (!subscribers_.empty()) {
      if (history_.size() == limit_) history_.pop_front();
      history_.push_back(std::move(value));
    }
    ++next_;
    waiting_.wake_all();
  }
  subscription<T> subscribe() noexcept {
    bound_.check();
    return subscription<T>(*this);
  }

  // The first time. False: it was closed before, and nothing has changed.
  bool close() noexcept { return finish(nullptr); }
  bool close(std::exception_ptr why) {
    if (why == nullptr) [[unlikely]]
      priv::throw_no_reason_to_close();
    return finish(std::move(why));
  }
  bool is_closed() const noexcept { return closed_; }

  std::size_t subscribers() const noexcept {
    std::size_t count = 0;
    subscribers_.for_each([&](const subscription<T>&) { ++count; });
    return count;
  }
  broadcast_stats stats() const noexcept {
    broadcast_stats all{next_, missed_before_, history_.size(), subscribers(), waiting_.size()};
    subscribers_.for_each([&](const subscription<T>& each) { all.missed += each.missed_; });
    return all;
  }

 private:
  friend class subscription<T>;
  friend class broadcast_receive_op<T>;

  std::uint64_t first() const noexcept { return next_ - history_.size(); }
  bool finish(std::exception_ptr why) noexcept {
    bound_.check();
    if (closed_) return false;
    closed_ = true;
    error_ = std::move(why);
    waiting_.wake_all();
    return true;
  }

  list<subscription<T>> subscribers_;
  wait_list<broadcast_receive_op<T>> waiting_;
  value_ring<T> history_;
  std::size_t limit_;
  std::uint64_t next_ = 0;           // the number of the value that is published next
  std::uint64_t missed_before_ = 0;  // by subscribers that have ended
  bool closed_ = false;
  priv::loop_bound bound_;
  std::exception_ptr error_;
};

template <class T>
void broadcast_receive_op<T>::describe(std::string& text) const {
  if (waiting()) priv::describe_broadcast(text, typeid(T), of_->from_->next_);
}

}  // namespace coir
