// coir/scope/nursery.hpp: fibers that end before the code that started them goes on.
//
//   co_await coir::with_nursery([&](coir::nursery& n) -> coir::task<> {   // ends after its children
//     n.spawn(crawl("a"));
//     n.spawn(crawl("b"));
//     co_return;
//   });
//   coir::with_nursery([&](coir::nursery& n) { n.spawn([] { ... }); });   // on a stack
//   coir::nursery n;   co_await n.run(accept_all(n));   // the object lives on: n.other_failures()
//                                                          [tests/scope/nursery_test.cpp]
//
// A nursery waits for its children. (A scope, and a fiber's body, cancel them when their code is over.)
//
// Shape    an object that the running fiber enters, once; children are spawned in it from any fiber of the loop.
// Order    children begin in the order in which they were spawned, and are cancelled in it.
// Thread   one loop.
// Cancel   whatever cancels the code around it cancels the children too. cancel() is felt by the body and all
//          children; run() then returns as a scope cut short.
// Errors   the first failure, of the body or of a child, cancels the siblings and is thrown when all have ended;
//          the others are in other_failures(), and in those of the fiber. A child that somebody joins fails
//          towards him alone. Spawning after it was cancelled or closed: `cancelled` to a fiber that is
//          cancelled itself, else std::system_error with std::errc::operation_canceled; before it was entered,
//          or after it was left, std::logic_error. The same for adopting, but that a cancelled nursery adopts;
//          and std::logic_error for a fiber that the nursery is inside of, or of another loop.
// Cost     the fibers', and about 10 ns for entering and leaving.
// See      coir/scope/gather.hpp: all(...) and first(...); coir/scope/cancel_scope.hpp; lib/scope/NOTE.md
#pragma once

#include <coir/fiber/scheduler.hpp>
#include <coir/scope/inside.hpp>

#include <chrono>
#include <exception>
#include <type_traits>
#include <utility>
#include <vector>

namespace coir {

namespace priv {
class nursery_of_call;
}

class nursery {
 public:
  nursery() noexcept = default;
  nursery(const nursery&) = delete;
  nursery& operator=(const nursery&) = delete;

  // A child: a task, a function that makes one, or a plain function on a stack of its own.
  template <class Body>
  auto spawn(Body&& body, const spawn_options& options = {}, place at = here::current()) {
    return home().spawn(region_, std::forward<Body>(body), options, at);
  }

  // Takes over a fiber that lives elsewhere, with all it has spawned: it is a child from now on. One that was
  // cancelled stays so, and in a cancelled nursery it is cancelled. False: it is dead.
  bool adopt(const handle_base& child);
  // ... all children of a fiber, in whatever regions it has spawned them, fresh and ready ones too.
  void adopt_children(const handle_base& of);

  // Runs the body in it, and waits for the children: maybe<T>, which is empty when cancel() cut it short.
  template <class Body>
  auto run(Body&& body, place at = here::current()) {
    return priv::run_in<priv::region_of_another>(region_, inside::rest::is_awaited, priv::as_maybe(),
                                                 std::forward<Body>(body), at);
  }

  void cancel() noexcept { region_.cancel(); }
  // Asks the children to end by themselves (coir::shutting_down), and cancels them when this time is over.
  template <class Rep, class Period>
  void cancel(std::chrono::duration<Rep, Period> grace) {
    region_.cancel_after(saturated(grace));
  }
  // Takes no more children; those that are there go on.
  void close() noexcept { closed_ = true; }

  bool cancelled() const noexcept { return region_.cancelled(); }
  bool closed() const noexcept { return closed_ || region_.region::cancelled(); }
  bool empty() const noexcept { return region_.empty(); }
  // Of the children that live, the oldest; the others follow it (fiber_base::next_sibling).
  const fiber_base* first_child() const noexcept { return region_.first_child(); }
  // Those that came after the one that was thrown.
  const std::vector<std::exception_ptr>& other_failures() const noexcept { return region_.other_failures(); }

 private:
  friend class priv::nursery_of_call;
  // Throws unless it takes children.
  fiber_home& home();
  void check_entered() const;

  entered_region region_;
  bool closed_ = false;
};

namespace priv {

// A nursery that lives as long as the call, and whose body is given it.
class nursery_of_call {
 public:
  struct nothing {};
  using argument = nothing;
  template <class Body>
  using result = body_result_t<Body, nursery&>;
  template <class Body>
  using called = std::invoke_result_t<Body&, nursery&>;

  explicit nursery_of_call(nothing) noexcept {}
  entered_region& region() noexcept { return nursery_.region_; }
  template <class Body>
  decltype(auto) call(Body& body) {
    return body(nursery_);
  }

 private:
  nursery nursery_;
};

// The result; of one that was cancelled by its own cancel(), nothing, or an error where a result is due.
class as_value {
 public:
  template <class T>
  using result = T;
  template <class T>
  T end(maybe<T>&& got) {
    if constexpr (!std::is_void_v<T>) {
      if (!got) refuse();
      return unwrap<T>(std::move(got));
    }
  }

 private:
  [[noreturn, gnu::cold]] static void refuse();
};

}  // namespace priv

// Runs `body(nursery)`, waits for all that was spawned there, and gives the body's result. Cut short by
// nursery::cancel() it simply ends; where a result is due, with std::errc::operation_canceled.
template <class Body>
decltype(auto) with_nursery(Body&& body, place at = here::current()) {
  return priv::run_in<priv::nursery_of_call>({}, inside::rest::is_awaited, priv::as_value(),
                                             std::forward<Body>(body), at);
}

}  // namespace coir
