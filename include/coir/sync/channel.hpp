// coir/sync/channel.hpp: values from fiber to fiber: bounded, unbounded, or from hand to hand.
//
//   coir::channel<order> orders(128);                       // 0: rendezvous; or coir::unbounded
//   co_await orders.send(o);                                // waits while it is full; throws coir::closed
//   while (auto o = co_await orders.receive()) handle(*o);  // ends when it is closed and drained
//   orders.close();   orders.close(std::current_exception());
//                                                           [tests/sync/channel_test.cpp]
//
// A value that is sent goes straight to the receiver that waits longest, and else into the buffer. Who makes room,
// whether by receiving, removing, clearing or a greater capacity, moves the values of exactly as many waiting
// senders as now fit into the buffer, in order, and these go on. So whoever is woken has sent, or has received.
//
// A send that did not happen keeps its value, and may be awaited again:
//   auto sending = orders.send(std::move(o));
//   try { co_await sending; } catch (...) { o = sending.value(); throw; }
//
// After close() nothing is sent any more; what is left can still be received, and then receivers get an empty
// optional, or the error that it was closed with. Those who wait to send get `closed`. The first close counts.
//
// Shape    an object that is neither copied nor moved. T has a move constructor that does not throw.
// Order    first in, first out; senders and receivers are served in the order in which they came. unshift() puts a
//          value in front of the others, also where there is no room.
// Thread   one loop: another is an assertion that names both. Between loops: coir/thread/mailbox.hpp.
// Lifetime who still waits when it goes waits until it is cancelled. An op that was given a value and is destroyed
//          without take() puts it back, in front: the channel must still be there.
// Cancel   aborts now as long as nothing was given. What was given stays so: nothing is lost, nothing comes twice.
// Errors   closed (a std::system_error, EPIPE): send, try_send, unshift. std::bad_alloc when the buffer cannot
//          grow; then the value is not sent. receive: the error that it was closed with. Those who compare
//          in remove(), and the destructors of what it removes, must leave the channel alone. std::logic_error: a send
//          that has sent is awaited again, or asked for its value.
// Cost     no allocation for a message. The buffer grows as it fills, and keeps its memory until clear(). Counting
//          those who wait is O(n).
// See      coir/sync/broadcast.hpp, coir/sync/inbox.hpp; lib/sync/NOTE.md
#pragma once

#include <coir/base/error.hpp>
#include <coir/fiber/fiber_base.hpp>
#include <coir/fiber/op.hpp>
#include <coir/sync/closed.hpp>
#include <coir/sync/received.hpp>
#include <coir/sync/value_ring.hpp>
#include <coir/sync/wait_list.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <typeinfo>
#include <utility>
#include <vector>

namespace coir {

// A capacity that is never reached.
inline constexpr std::size_t unbounded = std::numeric_limits<std::size_t>::max();

template <class T>
class channel;

struct channel_stats {
  std::uint64_t sent = 0;
  std::uint64_t received = 0;
  std::uint64_t removed = 0;  // by remove(), remove_if(), clear()
  std::size_t buffered = 0;
  std::size_t senders_waiting = 0;
  std::size_t receivers_waiting = 0;
};

namespace priv {

// What can be told about a channel without knowing its type.
struct channel_picture {
  const std::type_info* type;
  std::size_t size;
  std::size_t capacity;
  std::size_t before;           // so many wait longer, or places_told
  const fiber_base* inbox_of;  // null: it is nobody's
};
void describe_channel(std::string& text, const channel_picture& what);
[[noreturn, gnu::cold]] void throw_sent_already();
[[noreturn, gnu::cold]] void throw_sent_twice();
[[noreturn, gnu::cold]] void throw_no_reason();

}  // namespace priv

template <class T>
class [[nodiscard("co_await it, or coir::await(it)")]] channel_send_op : public wait_node {
 public:
  static constexpr const char* name = "channel send";
  channel_send_op(channel<T>& to, const T& value) : to_(&to), value_(value) {}
  channel_send_op(channel<T>& to, T&& value) noexcept : to_(&to), value_(std::move(value)) {}

  bool start(waiter& told) {
    if (end_ == end::sent) [[unlikely]]
      priv::throw_sent_twice();
    return to_->begin_send(*this, told);
  }
  abort_answer abort() noexcept { return leave(); }
  void take() const {
    if (end_ == end::refused) [[unlikely]]
      priv::throw_closed("sending to a channel");
  }
  void describe(std::string& text) const {
    if (waiting()) to_->describe_wait(text, to_->senders_, *this);
  }

  // What was not sent.
  T&& value() {
    if (end_ == end::sent) [[unlikely]]
      priv::throw_sent_already();
    return std::move(value_);
  }

 private:
  friend class channel<T>;
  enum class end : std::uint8_t { open, sent, refused };

  channel<T>* to_;
  T value_;
  end end_ = end::open;
};

template <class T>
class [[nodiscard("co_await it, or coir::await(it)")]] channel_receive_op : public wait_node {
 public:
  static constexpr const char* name = "channel receive";
  explicit channel_receive_op(channel<T>& from) noexcept : from_(&from) {}
  channel_receive_op(channel_receive_op&& other) noexcept : wait_node(other), from_(other.from_) {}
  ~channel_receive_op() {
    if (got_ != got::nothing) [[unlikely]]
      drop();
  }

  bool start(waiter& told) { return from_->begin_receive(*this, told); }
  abort_answer abort() noexcept { return leave(); }
  received<T> take() {
    if (got_ == got::value) [[likely]] {
      const spent value{*this};
      return received<T>(std::in_place, std::move(value_));
    }
    if (got_ == got::error) std::rethrow_exception(take_error());
    return std::nullopt;
  }
  void describe(std::string& text) const {
    if (waiting()) from_->describe_wait(text, from_->receivers_, *this);
  }

 private:
  friend class channel<T>;
  enum class got : std::uint8_t { nothing, value, error };

  // Destroys the value when it has been moved to where it is wanted.
  struct spent {
    channel_receive_op& of;
    ~spent() {
      std::destroy_at(&of.value_);
      of.got_ = got::nothing;
    }
  };
  void give(T&& value) noexcept {
    std::construct_at(&value_, std::move(value));
    got_ = got::value;
  }
  // There is nothing more to come.
  void give_end(const std::exception_ptr& why) noexcept {
    if (why == nullptr) return;
    std::construct_at(&error_, why);
    got_ = got::error;
  }
  std::exception_ptr take_error() noexcept {
    got_ = got::nothing;
    std::exception_ptr why = std::move(error_);
    std::destroy_at(&error_);
    return why;
  }
  [[gnu::cold, gnu::noinline]] void drop() noexcept {
    if (got_ == got::error) {
      take_error();
    } else {
      from_->put_back(std::move(value_));
      std::destroy_at(&value_);
    }
  }

  channel<T>* from_;
  union {
    T value_;
    std::exception_ptr error_;
  };
  got got_ = got::nothing;
};

template <class T>
class channel {
 public:
  using value_type = T;
  explicit channel(std::size_t capacity = 0) noexcept : room_(capacity), capacity_(capacity) {}
  channel(const channel&) = delete;
  channel& operator=(const channel&) = delete;

  channel_send_op<T> send(const T& value) { return {*this, value}; }
  channel_send_op<T> send(T&& value) noexcept { return {*this, std::move(value)}; }
  channel_receive_op<T> receive() noexcept { return channel_receive_op<T>(*this); }

  // False: it would have to wait. Whether it says so or throws, the value was not touched.
  bool try_send(const T& value) {
    if (!can_send()) return false;
    put(T(value));
    return true;
  }
  bool try_send(T&& value) {
    if (!can_send()) return false;
    put(std::move(value));
    return true;
  }
  // Empty: there is nothing now. is_closed() says whether there can be something later.
  std::optional<T> try_receive() noexcept {
    bound_.check();
    std::optional<T> got;
    const auto fill = [&](T&& value) { got.emplace(std::move(value)); };
    if (!values_.empty()) {
      values_.move_front(fill);
      admit();
    } else if (!senders_.empty()) {
      fill(std::move(senders_.front().value_));
      wake_sender();
    }
    return got;
  }
  // All that can be had without waiting, that of waiting senders too.
  std::vector<T> receive_all() {
    std::vector<T> all;
    all.reserve(size() + senders_waiting());
    while (std::optional<T> one = try_receive()) all.push_back(*std::move(one));
    return all;
  }

  // To the front, whether or not there is room: for what was received and is put back.
  void unshift(const T& value) { unshift(T(value)); }
  void unshift(T&& value) {
    bound_.check();
    if (closed_) [[unlikely]]
      priv::throw_closed("putting a value into a channel");
    put_in_front(std::move(value));
    ++sent_;
  }
  // Of what is buffered, all that are equal to `value`. Returns how many.
  std::size_t remove(const T& value) {
    return remove_if([&](const T& each) { return each == value; });
  }
  template <class Unwanted>
  std::size_t remove_if(Unwanted&& unwanted) {
    bound_.check();
    // Also when it throws: then some may be gone.
    struct admitting {
      channel& mine;
      std::size_t before;
      ~admitting() {
        mine.removed_ += before - mine.size();
        mine.admit();
      }
    };
    const admitting after{*this, size()};
    return values_.remove_if(unwanted);
  }
  // All that is buffered, and its memory. Returns how many.
  std::size_t clear() noexcept {
    bound_.check();
    // One by one, so that the channel is in order whenever a destructor looks at it.
    std::size_t count = 0;
    for (std::size_t left = size(); left != 0 && !values_.empty(); --left, ++count) {
      ++removed_;
      [[maybe_unused]] const T gone = values_.pop_front();
      admit();
    }
    if (values_.empty()) values_.reset();
    return count;
  }

  // The first time. False: it was closed before, and nothing has changed.
  bool close() noexcept {
    bound_.check();
    return finish(nullptr);
  }
  // Receivers get what is left, and then all of them this error.
  bool close(std::exception_ptr why) {
    if (why == nullptr) [[unlikely]]
      priv::throw_no_reason();
    bound_.check();
    return finish(std::move(why));
  }
  bool is_closed() const noexcept { return closed_; }

  // Of values that are buffered. More than the capacity after unshift() or a smaller capacity: nothing is thrown
  // away.
  std::size_t size() const noexcept { return values_.size(); }
  bool empty() const noexcept { return values_.empty(); }
  std::size_t capacity() const noexcept { return capacity_; }
  void set_capacity(std::size_t capacity) {
    bound_.check();
    if (!closed_) {
      if (!senders_.empty()) values_.reserve(std::min(capacity, size() + senders_waiting()));
      room_ = capacity;
    }
    capacity_ = capacity;
    admit();
  }
  std::size_t senders_waiting() const noexcept { return senders_.size(); }
  std::size_t receivers_waiting() const noexcept { return receivers_.size(); }
  channel_stats stats() const noexcept {
    return {sent_, sent_ - removed_ - size(), removed_, size(), senders_waiting(), receivers_waiting()};
  }

 protected:
  // A fiber's inbox.
  explicit channel(const fiber_base& inbox_of) noexcept
      : room_(unbounded), capacity_(unbounded), inbox_of_(&inbox_of) {}
  // As if it had just been made, but for those who wait to receive.
  void renew() noexcept {
    refuse_senders();
    closed_ = false;
    error_ = nullptr;
    room_ = capacity_ = unbounded;
    clear();
    sent_ = removed_ = 0;
  }

 private:
  friend class channel_send_op<T>;
  friend class channel_receive_op<T>;

  bool begin_send(channel_send_op<T>& what, waiter& told) {
    bound_.check();
    if (receivers_.empty() && size() >= room_) {
      if (closed_) [[unlikely]] {
        what.end_ = channel_send_op<T>::end::refused;
        return false;
      }
      senders_.add(what, told);
      return true;
    }
    put(std::move(what.value_));
    what.end_ = channel_send_op<T>::end::sent;
    return false;
  }
  bool begin_receive(channel_receive_op<T>& what, waiter& told) noexcept {
    bound_.check();
    if (!values_.empty()) {
      values_.move_front([&](T&& first) { what.give(std::move(first)); });
      admit();
      return false;
    }
    if (!senders_.empty()) {
      what.give(std::move(senders_.front().value_));
      wake_sender();
      return false;
    }
    if (closed_) [[unlikely]] {
      what.give_end(error_);
      return false;
    }
    receivers_.add(what, told);
    return true;
  }

  bool can_send() {
    bound_.check();
    if (!receivers_.empty() || size() < room_) return true;
    if (closed_) [[unlikely]]
      priv::throw_closed("sending to a channel");
    return false;
  }
  // There is a receiver, or room.
  void put(T&& value) {
    if (!receivers_.empty()) {
      receivers_.front().give(std::move(value));
      receivers_.wake_first();
    } else {
      values_.push_back(std::move(value));
    }
    ++sent_;
  }
  void put_in_front(T&& value) {
    if (!receivers_.empty()) {
      receivers_.front().give(std::move(value));
      receivers_.wake_first();
    } else {
      values_.push_front(std::move(value));
    }
  }
  // By an op that nobody took it from.
  void put_back(T&& value) noexcept {
    try {
      put_in_front(std::move(value));
    } catch (const std::bad_alloc&) {
      // There is no memory for it, and nobody to tell.
      ++removed_;
    }
  }

  void wake_sender() noexcept {
    senders_.front().end_ = channel_send_op<T>::end::sent;
    senders_.wake_first();
    ++sent_;
  }
  // As many senders as fit by now. The buffer has the memory for them.
  void admit() noexcept {
    while (!senders_.empty() && size() < room_) [[unlikely]] {
      values_.push_back(std::move(senders_.front().value_));
      wake_sender();
    }
  }
  bool finish(std::exception_ptr why) noexcept {
    if (closed_) return false;
    closed_ = true;
    room_ = 0;
    error_ = std::move(why);
    refuse_senders();
    while (!receivers_.empty()) {
      receivers_.front().give_end(error_);
      receivers_.wake_first();
    }
    return true;
  }
  void refuse_senders() noexcept {
    while (!senders_.empty()) {
      senders_.front().end_ = channel_send_op<T>::end::refused;
      senders_.wake_first();
    }
  }
  template <class Op>
  void describe_wait(std::string& text, const wait_list<Op>& all, const Op& one) const {
    priv::describe_channel(text, {&typeid(T), size(), capacity_, all.place_of(one), inbox_of_});
  }

  wait_list<channel_receive_op<T>> receivers_;
  wait_list<channel_send_op<T>> senders_;
  value_ring<T> values_;
  std::size_t room_;  // for values; none when it is closed
  std::size_t capacity_;
  std::uint64_t sent_ = 0;
  std::uint64_t removed_ = 0;
  bool closed_ = false;
  priv::loop_bound bound_;
  std::exception_ptr error_;
  const fiber_base* inbox_of_ = nullptr;
};

}  // namespace coir
