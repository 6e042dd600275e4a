// coir/thread/mailbox.hpp: messages from any thread to the fibers of one loop.
//
//   coir::mailbox<std::string> box;                       // of this fiber's loop
//   std::thread other([to = box.sender()] { to.send("hello"); });
//   while (auto m = co_await box.receive()) handle(*m);    // empty: closed, and all was received
//                                                         [tests/thread/mailbox_test.cpp]
//
// Shape    an object on the loop, neither copied nor moved, and ends for those who send: mailbox_sender copies, and may
//          outlive the mailbox and the loop.
// Order    the messages of one thread come in its order. Fibers that wait are served in the order in which they came.
// Thread   the mailbox: its loop's, all but close(). It is bound to the loop of the fiber that makes it (or the loop it
//          is given), and goes there, or after that loop. Senders: any thread, any loop, this one too; send(), try_send()
//          and close() on one end from several threads at once as well.
// Lifetime a message to a mailbox that is gone, or whose loop has ended, is refused as to one that is closed; and it is
//          closed for those who receive from it on another loop then. What has been sent and not received goes with
//          the mailbox. Fibers that wait when it goes wait until they are cancelled.
// Cancel   receive() aborts now, and takes no message along.
// Errors   send(): std::system_error, std::errc::broken_pipe when it is closed or gone, std::errc::no_buffer_space when
//          a bounded one is full; try_send() says so instead. The message then is still the caller's. `full` is
//          exact: at a moment of the call so many had been sent, or were being, and not received. std::logic_error for
//          one with room for none.
// Cost     sending: an allocation from the thread's own block (letter_memory.hpp) and a compare-and-swap; two more for
//          the first after the receiver has looked, and one write(2) when its loop sleeps. While fibers wait in receive()
//          and a sender lives that is no deadlock: somebody may send. When the last sender is gone it is.
// See      coir/thread/remote_channel.hpp, whose senders wait while it is full; lib/thread/NOTE.md
#pragma once

#include <coir/base/error.hpp>
#include <coir/thread/mail.hpp>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

namespace coir {

// How many messages may wait; in the call that makes the mailbox.
inline constexpr std::size_t unbounded_mail = static_cast<std::size_t>(-1) / 2;

enum class delivery : std::uint8_t { sent, full, closed };

struct mailbox_stats {
  std::uint64_t received = 0;
  std::uint64_t batches = 0;  // posts to the loop
  std::size_t pending = 0;    // come, and not received; more may be on the way
  std::size_t waiting = 0;    // fibers
  std::size_t senders = 0;
};

namespace priv {

[[noreturn, gnu::cold]] void throw_not_delivered(delivery why);
[[noreturn, gnu::cold]] void refuse_no_room();

// What senders of all types do: an end counts as long as it lives.
class mail_end {
 public:
  mail_end() noexcept = default;
  explicit mail_end(mail_link& to) noexcept : to_(&to) { to.add_sender(); }
  mail_end(const mail_end& other) noexcept : to_(other.to_) {
    if (to_ != nullptr) to_->add_sender();
  }
  mail_end(mail_end&& other) noexcept : to_(std::exchange(other.to_, nullptr)) {}
  mail_end& operator=(mail_end other) noexcept {
    std::swap(to_, other.to_);
    return *this;
  }
  ~mail_end() {
    if (to_ != nullptr) to_->remove_sender();
  }

  // It was not moved from.
  explicit operator bool() const noexcept { return to_ != nullptr; }
  // Nothing is taken any more: closed, or gone.
  bool closed() const { return link().closed(); }
  void close() const { link().close(); }

 protected:
  mail_link& link() const {
    if (to_ == nullptr) refuse_empty();
    return *to_;
  }

 private:
  [[noreturn, gnu::cold]] static void refuse_empty();
  mail_link* to_ = nullptr;
};

}  // namespace priv

template <class M>
class mailbox;

template <class M>
class mailbox_sender : public priv::mail_end {
 public:
  mailbox_sender() noexcept = default;

  void send(M message) const {
    if (const delivery answer = try_send(message); answer != delivery::sent) [[unlikely]]
      priv::throw_not_delivered(answer);
  }
  // Moved from only when it was sent.
  delivery try_send(M& message) const {
    priv::mail_link& to = link();
    if (to.closed()) return delivery::closed;
    if (bounded_ && !to.take_room()) return delivery::full;
    struct taken {
      priv::mail_link* from;
      ~taken() {
        if (from != nullptr) from->room().fetch_add(1, std::memory_order_relaxed);
      }
    };
    taken room{bounded_ ? &to : nullptr};
    auto sent = std::make_unique<priv::letter<M>>(std::move(message));  // may throw
    room.from = nullptr;
    if (to.push(*sent)) {
      static_cast<void>(sent.release());
      return delivery::sent;
    }
    message = std::move(sent->value);
    return delivery::closed;
  }
  delivery try_send(M&& message) const { return try_send(message); }

 private:
  friend class mailbox<M>;
  mailbox_sender(priv::mail_link& to, bool bounded) noexcept : mail_end(to), bounded_(bounded) {}
  bool bounded_ = false;
};

template <class M>
class mailbox : private priv::mail_queue {
 public:
  // On the loop of the running fiber.
  explicit mailbox(std::size_t capacity = unbounded_mail) : mailbox(here(), capacity) {}
  explicit mailbox(loop& on, std::size_t capacity = unbounded_mail)
      : mail_queue(on), bounded_(capacity < unbounded_mail) {
    if (capacity == 0) priv::refuse_no_room();
    if (!bounded_) return;
    link().room().store(static_cast<std::ptrdiff_t>(capacity), std::memory_order_relaxed);
    pass_on_room_in(1);  // try_send() says `full` only when it is
  }

  mailbox_sender<M> sender() {
    mailbox_sender<M> made(link(), bounded_);
    update_hold();
    return made;
  }
  mail_op<M> receive() noexcept { return mail_op<M>(*this); }
  std::optional<M> try_receive() { return priv::read_letter<M>(try_take()); }
  // All that has come so far, without waiting.
  std::vector<M> receive_all_pending() {
    std::vector<M> all;
    while (auto next = try_receive()) all.push_back(std::move(*next));
    return all;
  }
  // What was sent before is received, and then receive() gives nothing at once. Any thread, as long as it is there.
  void close() noexcept { link().close(); }
  bool closed() const noexcept { return link().closed(); }
  mailbox_stats stats() const noexcept {
    return {received(), knocks(), pending(), waiting(), link().senders()};
  }

 private:
  void add_room(std::ptrdiff_t places) noexcept override {
    link().room().fetch_add(places, std::memory_order_relaxed);
  }
  bool bounded_;
};

}  // namespace coir
