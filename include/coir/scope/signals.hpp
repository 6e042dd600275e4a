// coir/scope/signals.hpp: a program that ends when it is told to: asked first, then made to, then aborted.
//
//   int main() { return coir::run(coir::stop_on_signals(5s, serve(address))) ? 0 : 1; }
//   auto done = coir::stop_on_signals(5s, [&] { return coir::await(serve(address)); });     // on a stack
//   co_await coir::stop_on_signals(5s, serve(address), {SIGHUP, SIGTERM});        // others than SIGINT and SIGTERM
//                                                          [tests/scope/signals_test.cpp]
//
// The first signal asks the body to end (coir::shutting_down, until_shutting_down) and gives it so much time; after
// that, or with the second signal, it is cancelled; the third prints where all fibers of the loop wait, and aborts.
//
// The end of a program, in this order, whoever began it:
//   1. what is inside is asked to end, and has the grace to do so: listeners close, connections finish, supervisors
//      stop their children in reverse order;
//   2. what is left is cancelled: every fiber gets `cancelled` where it waits, and unwinds; what is shielded, as
//      cleanup is, goes on to its own limit;
//   3. every region waits for its children, from the inside out; what the kernel still owns of an operation is waited
//      for before the fiber's memory goes. The frames and stacks of fibers are taken down on their own loop;
//   4. coir::run cancels fibers that are not main's (scheduler::spawn), and waits for them in the same way;
//   5. the loop withdraws what is still in flight, closes what was given to it, and frees the ring;
//   6. coir::run returns what main did, or throws.
//
// Shape    a function; for a task, an op or a maker of tasks it gives a task, for a plain function the result:
//          maybe<T>, which is empty when the body was cut short. The signals are heard as long as the body runs.
// Order    signals that come together are one for each number.
// Thread   one loop, which owns the numbers meanwhile (coir/loop/signal.hpp): other threads must have them blocked.
// Cancel   the body as in a cancel_scope. A fiber that never waits keeps its loop from hearing of anything: SIGQUIT
//          and SIGKILL still end such a program.
// Errors   what the body throws; those of loop.signal, before the body begins: std::logic_error names the thread
//          that leaves a signal open.
// Cost     registering: about 20 us. While it listens, fibers that wait for nothing else are no deadlock: a signal
//          may wake them.
// See      coir/scope/shutdown.hpp, cancel_scope.hpp; README.md, "Ending a program"
#pragma once

#include <coir/base/time.hpp>
#include <coir/loop/signal.hpp>
#include <coir/scope/inside.hpp>

#include <chrono>
#include <csignal>
#include <type_traits>
#include <utility>

namespace coir {

namespace priv {

class stop_request {
 public:
  stop_request(duration wait, const signal_set& which) noexcept : grace(wait), numbers(which) {}
  duration grace;
  signal_set numbers;
};

// A region that listens as long as the call lasts.
class signalled_region {
 public:
  using argument = stop_request;
  template <class Body>
  using result = body_result_t<Body>;
  template <class Body>
  using called = std::invoke_result_t<Body&>;

  explicit signalled_region(const stop_request& how);
  signalled_region(const signalled_region&) = delete;
  entered_region& region() noexcept { return region_; }
  template <class Body>
  decltype(auto) call(Body& body) {
    return body();
  }

 private:
  void heard(const signal_event& which);

  entered_region region_;
  fiber_home& home_;
  duration grace_;
  unsigned times_ = 0;
  owned<signal_watch> watch_;
};

}  // namespace priv

template <class Rep, class Period, class Body>
decltype(auto) stop_on_signals(std::chrono::duration<Rep, Period> grace, Body&& body,
                               const signal_set& numbers = {SIGINT, SIGTERM}) {
  return priv::run_in<priv::signalled_region>(priv::stop_request(saturated(grace), numbers),
                                              inside::rest::is_cancelled, priv::as_maybe(),
                                              std::forward<Body>(body));
}

}  // namespace coir
