// coir/thread/runtime.hpp: n loops on n threads, started and stopped together.
//
//   coir::runtime rt(coir::runtime_options().loops(4));
//   auto f = rt.spawn_on(2, [] { return work(); });        // the function goes there, its frame is born there
//   auto all = rt.spawn_on_all([](std::size_t loop) { return serve(loop); });
//   int result = rt.run([&] { return coir::await(f.join()); });    // this thread is one of the loops meanwhile
//   rt.stop(5s);   rt.wait();                                   // asks, cancels, joins the threads
//                                                          [tests/thread/runtime_test.cpp]
//
// Shape    an object that owns its threads. Loops share nothing; remote, mailbox and remote_channel join them.
// Order    fibers that one thread spawns on one loop begin in that order.
// Thread   all but the destructor: any thread, fibers of any loop too, at once. wait() and the destructor block: on a thread
//          that no loop of the runtime runs on. The destructor: when nobody uses it any more.
// Cancel   stop(grace) asks all fibers to end, and cancels them when the grace is over. A loop goes on turning until the
//          fibers of all loops have ended, so that they can talk to each other to the last. The destructor is stop() and
//          the end of the threads.
// Errors   the first exception that leaves a loop (a post, a timer) or is a remote fiber's that nobody joins (remote.hpp)
//          stops the runtime, and is thrown by wait() and run(); one that nobody has heard of is told on standard error
//          by the destructor. std::out_of_range: there is no such loop. std::system_error: a thread or a loop could not be
//          made; nothing is left of the others then. std::logic_error in a forked child, which has none of the threads.
//          A runtime that is destroyed by one of its own fibers ends the program.
// Cost     a thread and a loop for each. Spawning: two allocations and a post.
// See      coir/thread/remote.hpp, mailbox.hpp, remote_channel.hpp; examples/chat.cpp; lib/thread/NOTE.md
#pragma once

#include <coir/base/place.hpp>
#include <coir/base/time.hpp>
#include <coir/fiber/run.hpp>
#include <coir/fiber/scheduler.hpp>
#include <coir/loop/loop.hpp>
#include <coir/thread/remote.hpp>

#include <chrono>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace coir {

class runtime_options {
 public:
  runtime_options() {}

  // 0, the default: as many as there are processors for this process.
  runtime_options& loops(std::size_t count) noexcept { return loops_ = count, *this; }
  // Threads are called NAME-0, NAME-1, ...; the kernel keeps 15 characters.
  runtime_options& names(std::string name) { return name_ = std::move(name), *this; }
  // Each thread on a processor of its own, as far as they go.
  runtime_options& pin(bool wanted = true) noexcept { return pin_ = wanted, *this; }
  // For each loop. How long they look for messages before they sleep is said with spin().
  runtime_options& loop(const loop_options& options) noexcept { return loop_ = options, *this; }
  // See loop_options::spin. The default: 20 us, and nothing where there is one processor.
  template <class Rep, class Period>
  runtime_options& spin(std::chrono::duration<Rep, Period> at_most) noexcept {
    return spin_ = saturated(at_most), *this;
  }
  // Of fibers that were spawned with report_failure. Called by each loop in its thread; must not throw.
  runtime_options& on_failure(failure_handler handler) { return on_failure_ = std::move(handler), *this; }

 private:
  friend class runtime;
  friend class runtime_core;
  std::size_t loops_ = 0;
  std::string name_ = "coir";
  bool pin_ = false;
  loop_options loop_;
  std::optional<duration> spin_;
  failure_handler on_failure_;
};

class runtime_core;

class runtime {
 public:
  explicit runtime(const runtime_options& options = {});
  runtime(const runtime&) = delete;
  runtime& operator=(const runtime&) = delete;
  ~runtime();

  // Without the threads that are in run(). Their loops have numbers from here on.
  std::size_t size() const noexcept;
  // Which loop of this runtime the calling thread, or fiber, is on. std::logic_error: none.
  std::size_t this_loop() const;
  // Remote fibers that were spawned on this loop and have not ended.
  std::size_t load(std::size_t index) const;

  // A function, or one that makes a task, which is moved to the loop. On a runtime that is stopped the fiber is cancelled.
  template <class F>
  auto spawn_on(std::size_t index, F&& function, const remote_options& options = {}, place at = here::current()) {
    return send(home(index), std::forward<F>(function), options, at);
  }
  // On the loop that has the fewest remote fibers; the next one in turn, among equals.
  template <class F>
  auto spawn_least_loaded(F&& function, const remote_options& options = {}, place at = here::current()) {
    return send(least_loaded(), std::forward<F>(function), options, at);
  }
  // A copy on each loop; one that takes a number is given the loop's.
  template <class F>
  auto spawn_on_all(const F& function, const remote_options& options = {}, place at = here::current()) {
    if constexpr (std::invocable<F&, std::size_t>) {
      using made = decltype(spawn_on(0, numbered<F>{function, 0}, options, at));
      std::vector<made> all;
      for (std::size_t i = 0; i < size(); ++i) all.push_back(spawn_on(i, numbered<F>{function, i}, options, at));
      return all;
    } else {
      std::vector<decltype(spawn_on(0, F(function), options, at))> all;
      for (std::size_t i = 0; i < size(); ++i) all.push_back(spawn_on(i, F(function), options, at));
      return all;
    }
  }

  // coir::run on this thread, which is one more loop of the runtime until the body has ended: it has a number of its own
  // (this_loop()), is stopped with the others, and they do not end before it. What was said of the runtime's loops holds
  // for it too.
  template <class Body>
  auto run(Body&& body, place at = here::current()) {
    return run(std::forward<Body>(body), like_mine(), at);
  }
  // Unless it is said otherwise, with all that differs.
  template <class Body>
  auto run(Body&& body, const run_options& options, place at = here::current()) {
    runner program(options);
    const seat mine(*this, program);
    auto main = program.fibers().spawn(std::forward<Body>(body), spawn_options().name("main"), at);
    program.run_until_dead(main);
    if (main.outcome() == fiber_outcome::cancelled) rethrow_failure();
    return main.take().take();
  }

  // Asks all that runs to end, and cancels it when this time is over. Of several, what ends first counts.
  void stop() noexcept { stop_in(duration::zero()); }
  template <class Rep, class Period>
  void stop(std::chrono::duration<Rep, Period> grace) noexcept {
    stop_in(saturated(grace));
  }
  bool stopping() const noexcept;
  // Until all loops have ended. Throws what ended them, if it was a failure.
  void wait();

 private:
  // A thread in run(), as one of the loops.
  class seat {
   public:
    seat(runtime& of, runner& program);
    seat(const seat&) = delete;
    ~seat();

   private:
    runtime& of_;
    std::shared_ptr<remote_home> home_;
  };
  template <class F>
  struct numbered {
    F function;
    std::size_t index;
    decltype(auto) operator()() { return function(index); }
  };

  run_options like_mine() const;
  std::shared_ptr<remote_home> home(std::size_t index) const;
  std::shared_ptr<remote_home> least_loaded() const;
  void stop_in(duration grace) noexcept;
  void rethrow_failure() const;

  template <class F>
  auto send(std::shared_ptr<remote_home> to, F&& function, const remote_options& options, place at) {
    using body = std::decay_t<F>;
    static_assert(std::is_invocable_v<body&>,
                  "a fiber of another loop is spawned by a function: wrap the task, [] { return work(); }, so that it is "
                  "made where it lives and dies");
    using value = typename priv::remote_result<body>::type;
    auto* const block = new priv::remote_block<value>(to, options);
    remote<value> made(*block);
    begin(*block);
    try {
      auto birth = std::make_unique<priv::remote_birth<value, body>>(*block, std::forward<F>(function), at);
      if (to->port->push(*birth)) {
        static_cast<void>(birth.release());
      } else {
        birth.release()->lost();
      }
    } catch (...) {
      block->end_on_home(fiber_outcome::cancelled, nullptr, nullptr);
      throw;
    }
    return made;
  }
  void begin(remote_core& made);

  std::shared_ptr<runtime_core> core_;
};

}  // namespace coir
