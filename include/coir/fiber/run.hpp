// coir/fiber/run.hpp: a program of fibers, from its first to its last.
//
//   int main() { return coir::run(listen_and_serve(address)); }      // a task
//   int main() { return coir::run([] { ...; return 0; }); }          // a plain function, on a stack
//                                                             [tests/fiber/run_test.cpp]
//
// Shape    makes a loop and a scheduler, spawns the body as the fiber "main", runs until that has ended,
//          and with it all it spawned, and gives its result.
// Thread   the caller's. Runs on several threads are independent.
// Cancel   loop::stop() cancels main, which ends as it likes.
// Errors   what main throws. `deadlock` when fibers are left and nothing can wake one, or all that could run are
//          parked, which then are not any more. Cancelled:
//          std::system_error with std::errc::operation_canceled. std::logic_error from inside a fiber. What a
//          callback of the loop throws (a watcher, a timer, a post) cancels main, and leaves run() when all have
//          ended; of what is thrown meanwhile the first is told on standard error, and how many more there were.
//          Fibers that wait on, though cancelled, for what nobody can bring, behind a shield say: of main and its
//          children they end the program with their names on standard error; others are named there, and waited for.
// Cost     a loop: about 100 microseconds on io_uring, 10 on epoll.
// See      coir/fiber/scheduler.hpp; coir/loop/loop.hpp
#pragma once

#include <coir/base/place.hpp>
#include <coir/fiber/fiber.hpp>
#include <coir/fiber/scheduler.hpp>
#include <coir/loop/loop.hpp>

#include <stdexcept>
#include <string>
#include <utility>

namespace coir {

// Fibers waited for each other, or for what nobody can bring. Thrown after all of them were cancelled and
// have ended. what() lists who waited where for what.
class deadlock : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

class run_options {
 public:
  run_options() noexcept {}

  run_options& loop(const loop_options& options) noexcept { return loop_ = options, *this; }
  // The order of fibers that are ready, for tests; must outlive the run.
  run_options& arrange(ready_order* order) noexcept { return order_ = order, *this; }
  run_options& on_failure(failure_handler handler) {
    return on_failure_ = std::move(handler), *this;
  }
  // While it runs, a SIGSEGV on a fiber's guard page is reported on standard error with the fiber's name,
  // its stack and the place it was spawned at; then the handler that was there before gets the signal. Off
  // under sanitizers, which have handlers of their own.
  run_options& report_stack_overflow(bool wanted = true) noexcept {
    return report_overflow_ = wanted, *this;
  }

 private:
  friend class runner;
  loop_options loop_;
  failure_handler on_failure_;
  ready_order* order_ = nullptr;
  bool report_overflow_ = false;
};

// What coir::run does around the body.
class runner {
 public:
  explicit runner(const run_options& options);
  runner(const runner&) = delete;
  ~runner();

  scheduler& fibers() noexcept { return fibers_; }
  // Until the fiber has ended. Throws deadlock.
  void run_until_dead(const handle_base& whom);

 private:
  class watch;
  // In a child that a fiber has forked: the fiber of the process before, which is none here.
  class outer_fiber {
   public:
    outer_fiber();
    outer_fiber(const outer_fiber&) = delete;
    ~outer_fiber();

   private:
    fiber_base* which_;
  };

  outer_fiber around_;
  loop loop_;
  scheduler fibers_;
  bool reports_overflow_;
};

// All fibers that are not dead, one per line: id, name, state, in which op, where, since when; below it
// the chain of tasks that await each other.
std::string describe(const fiber_home& fibers);

template <class Body>
auto run(Body&& body, const run_options& options = {}, place at = here::current()) {
  runner program(options);
  auto main = program.fibers().spawn(std::forward<Body>(body), spawn_options().name("main"), at);
  program.run_until_dead(main);
  return main.take().take();
}

}  // namespace coir
