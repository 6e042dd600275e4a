// coir/scope/shutdown.hpp: a program, or a part of it, that is asked to end before it is made to.
//
//   while (!coir::shutting_down()) handle(co_await next_request());
//   co_await coir::until_shutting_down(accept_all(listener));    // cancelled as soon as it is asked to end
//   co_await coir::wait_shutting_down();     // cancel(grace) of anything around this fiber, or a signal
//                                                           [tests/scope/shutdown_test.cpp]
//
// cancel(grace), of a scope, a nursery or a fiber, has two phases. First everything inside is asked: it sees
// shutting_down(), and who waits for it goes on. When the grace is over, what is left is cancelled.
//
// Shape    a question, an op and a region, about the running fiber's innermost region.
// Order    fibers that wait for it become ready in the order in which they were spawned.
// Thread   one loop.
// Cancel   wait_shutting_down() aborts at once. A shield keeps out the asking too, unless that came before it.
// Errors   none.
// Cost     a flag; waiting allocates nothing. until_shutting_down: as a cancel_scope.
// See      coir/scope/cancel_scope.hpp; coir/scope/signals.hpp, for a whole program
#pragma once

#include <coir/fiber/fiber_base.hpp>
#include <coir/fiber/op.hpp>
#include <coir/scope/inside.hpp>

#include <type_traits>
#include <utility>

namespace coir {

inline bool shutting_down() { return running_fiber().shutting_down(); }

class [[nodiscard("co_await it, or coir::await(it)")]] shutdown_op {
 public:
  static constexpr const char* name = "shutdown";
  shutdown_op() noexcept {}

  bool start(waiter& told) {
    if (coir::shutting_down()) return false;
    told_ = &told;
    return true;
  }
  abort_answer abort() noexcept { return abort_answer::now; }
  // Called when a region around the fiber is asked to end.
  void shutting_down() noexcept { told_->done(); }
  void take() noexcept {}

 private:
  waiter* told_ = nullptr;
};

// Until the running fiber is asked to end.
inline shutdown_op wait_shutting_down() noexcept { return {}; }

namespace priv {

// A region to which being asked is being cancelled.
class unasked_region {
 public:
  struct nothing {};
  using argument = nothing;
  template <class Body>
  using result = body_result_t<Body>;
  template <class Body>
  using called = std::invoke_result_t<Body&>;

  explicit unasked_region(nothing) noexcept { region_.on_told(told); }
  entered_region& region() noexcept { return region_; }
  template <class Body>
  decltype(auto) call(Body& body) {
    return body();
  }

 private:
  static void told(entered_region& mine) noexcept {
    if (!mine.cancelled()) mine.cancel();
  }
  entered_region region_;
};

}  // namespace priv

// The body's result; empty when it was asked to end before: it is then cancelled at once, and what is around it goes
// on in the time that is left.
template <class Body>
decltype(auto) until_shutting_down(Body&& body) {
  return priv::run_in<priv::unasked_region>({}, inside::rest::is_cancelled, priv::as_maybe(),
                                            std::forward<Body>(body));
}

}  // namespace coir
