// coir/sync/inbox.hpp: what is sent to a fiber: every fiber has an inbox for each type of message, made on first use.
//
//   auto worker = coir::spawn([]() -> coir::task<> {
//     for (;;) handle(co_await coir::receive<job>());       // of its own inbox
//   });
//   worker.send(job(1));                                    // never waits; also before the worker has begun
//   worker.inbox<job>().set_capacity(10);
//   co_await worker.inbox<job>().send(job(2));              // waits while it is full
//                                                           [tests/sync/inbox_test.cpp]
//
//   receive<M>()              waits for the next message
//   receive_all_pending<M>()  all that are there, without waiting
//   receive_loop<M>(body)     calls body(M) for each; it returns nothing, or coir::flow, which is how the loop is left,
//                             or a task of these. A body that returns a task makes the loop a task, to be awaited; any
//                             other is called on the stack of the fiber that stands here (as coir/scope/periodic.hpp)
//   own_inbox<M>()            the channel itself; that of another fiber is handle.inbox<M>()
//
// Shape    an inbox is a channel without limit, until it is given one. What a message is, its type says: different types
//          are different inboxes. An exception that is sent is a value; handle.interrupt() throws one.
// Order    first sent, first received, whoever sends.
// Thread   one loop: the receiver's. Other threads send to a mailbox (coir/thread/mailbox.hpp).
// Lifetime with the fiber. When its body has ended, what is left is destroyed, and those who wait to send get `closed`.
//          restart() empties it, and it is without limit again: what is sent after that is for the next run. The
//          channel can be looked at as long as there is a handle.
// Cancel   as a channel's.
// Errors   receive: closed, or the error that the inbox was closed with. send() of a handle says false where nobody will
//          receive, and throws std::system_error (ENOBUFS) where the inbox has a capacity and is full.
// Cost     a channel and, the first time, two allocations; then a search among the inboxes of the fiber.
// See      coir/sync/channel.hpp; coir/fiber/fiber.hpp
#pragma once

#include <coir/base/place.hpp>
#include <coir/fiber/attached.hpp>
#include <coir/fiber/await.hpp>
#include <coir/fiber/fiber.hpp>
#include <coir/fiber/task.hpp>
#include <coir/scope/inside.hpp>
#include <coir/scope/periodic.hpp>
#include <coir/sync/channel.hpp>

#include <memory>
#include <optional>
#include <type_traits>
#include <typeinfo>
#include <utility>
#include <vector>

namespace coir {

namespace priv {

template <class M>
class fiber_inbox final : public attached, public channel<M> {
 public:
  explicit fiber_inbox(const fiber_base& of) noexcept : attached(&key), channel<M>(of) {
    static_assert(std::is_same_v<M, std::decay_t<M>>, "a message is a value");
    static_assert(!std::is_same_v<M, const char*> && !std::is_same_v<M, char*>,
                  "a text is sent by the name of its type: worker.send<std::string>(\"...\")");
  }
  static fiber_inbox& of(fiber_base& whose) {
    if (attached* const made = whose.find_attached(&key); made != nullptr) return static_cast<fiber_inbox&>(*made);
    auto& made = static_cast<fiber_inbox&>(whose.attach(std::make_unique<fiber_inbox>(whose)));
    if (!whose.has_body()) made.close();
    return made;
  }

  void fiber_over() noexcept override {
    this->close();
    this->clear();
  }
  void fiber_restarted() noexcept override { this->renew(); }

 private:
  static constexpr char key = 0;
};

[[noreturn, gnu::cold]] void throw_inbox_full(const fiber_base& whose, const std::type_info& type, std::size_t capacity);

}  // namespace priv

template <class M>
channel<M>& handle_base::inbox() const {
  return priv::fiber_inbox<M>::of(block());
}

template <class M>
bool handle_base::send(M&& message) const {
  if (!block().has_body()) return false;
  channel<std::decay_t<M>>& to = inbox<std::decay_t<M>>();
  if (to.is_closed()) return false;
  if (!to.try_send(std::forward<M>(message))) [[unlikely]]
    priv::throw_inbox_full(block(), typeid(std::decay_t<M>), to.capacity());
  return true;
}

// Of the fiber that runs.
template <class M>
channel<M>& own_inbox() {
  return priv::fiber_inbox<M>::of(running_fiber());
}

template <class M>
class [[nodiscard("co_await it, or coir::await(it)")]] inbox_receive_op : public channel_receive_op<M> {
 public:
  static constexpr const char* name = "receive";
  explicit inbox_receive_op(channel<M>& from) noexcept : channel_receive_op<M>(from) {}
  M take() {
    std::optional<M> message = channel_receive_op<M>::take();
    if (!message) [[unlikely]]
      priv::throw_closed("receiving from an inbox");
    return *std::move(message);
  }
};

template <class M>
inbox_receive_op<M> receive() {
  return inbox_receive_op<M>(own_inbox<M>());
}

template <class M>
std::vector<M> receive_all_pending() {
  return own_inbox<M>().receive_all();
}

namespace priv {

template <class M, class Body>
struct message_body {
  static_assert(std::is_invocable_v<Body&, M>, "the body of a receive_loop is called with a message");
  using made = std::invoke_result_t<Body&, M>;
  using said = typename result_of_made<made>::type;
  static_assert(std::is_void_v<said> || std::is_same_v<said, flow>,
                "the body of a receive_loop returns nothing or coir::flow, or a task of one of these");
  static constexpr bool is_task = priv::is_task<made>::value;
  static constexpr bool may_leave = !std::is_void_v<said>;
};

template <class M, class Body>
void receive_on_stack(Body& body, place at) {
  channel<M>& from = own_inbox<M>();
  while (std::optional<M> message = await(from.receive(), at)) {
    if constexpr (message_body<M, Body>::may_leave) {
      if (body(*std::move(message)) == flow::leave) return;
    } else {
      body(*std::move(message));
    }
  }
}

// Body is a reference where the body has a name.
template <class M, class Body>
task<> receive_in_task(Body body) {
  channel<M>& from = own_inbox<M>();
  while (std::optional<M> message = co_await from.receive()) {
    if constexpr (message_body<M, std::remove_reference_t<Body>>::may_leave) {
      const flow said = co_await body(*std::move(message));
      if (said == flow::leave) co_return;
    } else {
      co_await body(*std::move(message));
    }
  }
}

}  // namespace priv

// Until the body leaves, or somebody closes the inbox.
template <class M, class Body>
auto receive_loop(Body&& body, place at = here::current()) {
  if constexpr (priv::message_body<M, std::remove_reference_t<Body>>::is_task) {
    static_assert(priv::safe_in_await<Body>,
                  "gcc before 13 destroys the captures of a temporary in a co_await expression twice. "
                  "Name the body first: auto body = [...] (M message) {...}; co_await coir::receive_loop<M>(body);");
    return priv::receive_in_task<M, Body>(std::forward<Body>(body));
  } else {
    priv::receive_on_stack<M>(body, at);
  }
}

}  // namespace coir
