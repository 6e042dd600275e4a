// coir/thread/remote_channel.hpp: a channel to the fibers of one loop from fibers of any loop, who wait while it is full.
//
//   coir::remote_channel<job> jobs(128);                      // of this fiber's loop; 0: rendezvous
//   auto f = rt.spawn_on(2, [to = jobs.sender()]() -> coir::task<> { co_await to.send(job(7)); });
//   while (auto j = co_await jobs.receive()) handle(*j);      // empty: closed, and all was received
//                                                             [tests/thread/remote_channel_test.cpp]
//
// Shape    an object on the loop, neither copied nor moved, and ends for those who send: remote_sender copies, and may
//          outlive the channel and its loop. An end must live as long as a send() of it waits.
// Order    values of one fiber come in its order, those of all fibers of one loop in theirs. Who waits for room gets it in
//          the order in which the channel's loop hears of it; nobody who comes later goes ahead.
// Thread   the channel: the loop of the fiber that makes it, all but close(). send(): any fiber of any loop, this one too.
//          close() of an end: any thread.
// Lifetime whoever waits for room in a channel that goes is refused, as if it had been closed.
// Cancel   receive() aborts now, and takes nothing along. send(): now, and nothing was sent; later, when the channel has
//          just taken the value: then it was sent.
// Errors   send(): std::system_error with std::errc::broken_pipe when it is closed or gone, or is while it waits;
//          std::logic_error when it is awaited again and has sent its value, or does not have it back: as one has that
//          was given up while it waited, where moving the value cannot throw.
// Cost     with room: as a mailbox, and one more atomic subtraction. Full: two messages, there and back; of room that
//          becomes free senders hear in batches, or in the receiving loop's next turn. While a fiber waits for room in a
//          channel of another loop that is no deadlock; in one of its own loop it is, when nobody there can receive.
// See      coir/thread/mailbox.hpp; lib/thread/NOTE.md
#pragma once

#include <coir/thread/mail.hpp>
#include <coir/thread/mailbox.hpp>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>

namespace coir {

struct remote_channel_stats {
  std::uint64_t received = 0;
  std::uint64_t batches = 0;  // posts to the loop
  std::size_t pending = 0;    // come, and not received; more may be on the way
  std::size_t waiting_receivers = 0;
  std::size_t waiting_senders = 0;  // that the loop has heard of
  std::size_t senders = 0;
};

namespace priv {

class channel_queue;
class channel_send;

// A send that waits for room, between two loops. Whoever settles it first decides: the channel, that it takes the value
// or refuses it; the sender, that it withdraws it.
class channel_request {
 public:
  enum class state : std::uint8_t { waits, accepted, refused, withdrawn };

  channel_request(mail& carries, channel_send& of, loop& on);
  channel_request(const channel_request&) = delete;

  bool settle(state as) noexcept {
    state expected = state::waits;
    return state_.compare_exchange_strong(expected, as, std::memory_order_acq_rel, std::memory_order_acquire);
  }
  state now() const noexcept { return state_.load(std::memory_order_acquire); }
  // It was settled by the channel: its sender is told, on its loop.
  void answer() noexcept;
  void release() noexcept {
    if (references_.fetch_sub(1, std::memory_order_acq_rel) == 1) delete &carries_;
  }

 private:
  friend class channel_queue;
  friend class channel_send;
  class reply final : public post_node {
   public:
    explicit reply(channel_request& to) noexcept : to_(to) {}
    void run() override;
    void over() noexcept override { to_.release(); }

   private:
    channel_request& to_;
  };

  atomic<state> state_{state::waits};
  atomic<std::uint32_t> references_{2};  // the sender and the channel; the answer on its way
  mail& carries_;
  channel_send* op_;  // its loop's thread
  const std::shared_ptr<loop_port> home_;
  reply reply_{*this};
  channel_request* next_ = nullptr;
};

template <class T>
class asking_letter final : public letter<T> {
 public:
  asking_letter(T&& what, channel_send& of, loop& on)
      : letter<T>(std::move(what), true), request_(*this, of, on) {}
  void drop() noexcept override {
    if (request_.settle(channel_request::state::refused)) request_.answer();
    request_.release();
  }
  channel_request* request() noexcept override { return &request_; }

 private:
  channel_request request_;
};

// The sender's side.
class channel_send {
 public:
  void describe(std::string& text) const;

 protected:
  explicit channel_send(mail_link& to) noexcept : to_(&to) {}
  channel_send(channel_send&& other) noexcept : to_(other.to_) {}
  ~channel_send() {
    if (asked_ != nullptr) asked_->release();
  }
  static loop& here();
  // Once sent it cannot be sent again.
  void begin();
  void wait(channel_request& asked, waiter& told);
  // It is not with the channel any more.
  bool withdraw() noexcept;
  [[noreturn, gnu::cold]] static void throw_closed();
  [[noreturn, gnu::cold]] static void throw_not_had_back();
  bool was_sent() const noexcept {
    return sent_ || (asked_ != nullptr && asked_->now() == channel_request::state::accepted);
  }

  mail_link* to_;
  bool sent_ = false;

 private:
  friend class channel_request;
  void answered() noexcept;
  channel_request* asked_ = nullptr;
  waiter* told_ = nullptr;
  std::optional<loop::hold> hold_;  // another loop will answer
};

// The receivers' side.
class channel_queue : public mail_queue {
 protected:
  channel_queue(loop& on, std::size_t capacity);
  ~channel_queue() override;
  std::size_t asking() const noexcept { return asking_; }

 private:
  void asked(mail& what) noexcept override;
  void add_room(std::ptrdiff_t places) noexcept override;
  mail* next_in_line() noexcept override;
  void link_closed() noexcept override;
  void accept_granted() noexcept;
  channel_request& pop_request() noexcept;
  void forget() noexcept;
  void sweep() noexcept;

  queue<channel_request, &channel_request::next_> requests_;
  std::size_t asking_ = 0;  // in there
  std::size_t sweep_at_ = 16;
  std::ptrdiff_t granted_ = 0;  // free places that belong to requests which are on their way
};

}  // namespace priv

// Sends a value, when there is room for it.
template <class T>
class [[nodiscard("co_await it, or coir::await(it)")]] remote_send_op : public priv::channel_send {
 public:
  static constexpr const char* name = "remote send";
  remote_send_op(priv::mail_link& to, T&& value) : channel_send(to), value_(std::move(value)) {}
  remote_send_op(remote_send_op&&) = default;

  bool start(waiter& told) {
    begin();
    if (!value_.has_value()) [[unlikely]]
      throw_not_had_back();
    using state = priv::channel_request::state;
    std::unique_ptr<priv::letter<T>> ready;
    priv::asking_letter<T>* asking = nullptr;
    std::ptrdiff_t room = to_->room().load(std::memory_order_relaxed);
    do {
      if (to_->closed()) {
        if (asking != nullptr) forget(*asking);
        return false;
      }
      if (asking != nullptr) continue;
      if (room > 0) {
        if (ready == nullptr) ready = std::make_unique<priv::letter<T>>(std::move(*value_));
      } else {
        // Where there is no memory for one that can ask the value stays here.
        if (ready != nullptr) value_.emplace(std::move(ready->value));
        ready.reset();
        asking = new priv::asking_letter<T>(std::move(*value_), *this, here());
      }
      value_.reset();
    } while (!to_->room().compare_exchange_weak(room, room - 1, std::memory_order_acq_rel, std::memory_order_relaxed));
    if (room > 0) {
      // A letter that could ask need not.
      if (asking != nullptr) asking->request()->settle(state::accepted);
      priv::letter<T>& letter = asking != nullptr ? *asking : *ready;
      sent_ = to_->push(letter);
      if (sent_) static_cast<void>(ready.release());
      if (asking != nullptr) {
        asking->request()->release();
        if (!sent_) asking->drop();
      }
      return false;
    }
    wait(*asking->request(), told);
    letter_ = asking;
    if (to_->push(*asking)) return true;
    withdraw();
    asking->drop();
    return false;
  }
  abort_answer abort() noexcept {
    if (!withdraw()) return abort_answer::later;
    // Its end is this thread's affair, though the letter may still lie in the channel.
    if constexpr (std::is_nothrow_move_constructible_v<T>) value_.emplace(std::move(letter_->value));
    return abort_answer::now;
  }
  void take() const {
    if (!was_sent()) [[unlikely]]
      throw_closed();
  }

 private:
  static void forget(priv::asking_letter<T>& never_sent) noexcept {
    never_sent.request()->settle(priv::channel_request::state::withdrawn);
    never_sent.request()->release();
    never_sent.drop();
  }

  std::optional<T> value_;
  priv::letter<T>* letter_ = nullptr;  // while it waits
};

template <class T>
class remote_channel;

template <class T>
class remote_sender : public priv::mail_end {
 public:
  remote_sender() noexcept = default;
  remote_send_op<T> send(T value) const { return remote_send_op<T>(link(), std::move(value)); }

 private:
  friend class remote_channel<T>;
  explicit remote_sender(priv::mail_link& to) noexcept : mail_end(to) {}
};

template <class T>
class remote_channel : private priv::channel_queue {
 public:
  // On the loop of the running fiber.
  explicit remote_channel(std::size_t capacity) : remote_channel(here(), capacity) {}
  remote_channel(loop& on, std::size_t capacity) : channel_queue(on, capacity) {}

  remote_sender<T> sender() {
    remote_sender<T> made(link());
    update_hold();
    return made;
  }
  mail_op<T> receive() noexcept { return mail_op<T>(*this); }
  std::optional<T> try_receive() { return priv::read_letter<T>(try_take()); }
  // What was taken before is received; who waits for room is refused. Any thread, as long as it is there.
  void close() noexcept { link().close(); }
  bool closed() const noexcept { return link().closed(); }
  remote_channel_stats stats() const noexcept {
    return {received(), knocks(), pending(), waiting(), asking(), link().senders()};
  }
};

}  // namespace coir
