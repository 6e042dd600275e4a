// Calls whose fiber is cancelled, at every moment, under both policies.
#include "turnstile.hpp"

#include "support/both.hpp"
#include "support/catch.hpp"

#include <coir/coir.hpp>
#include <coir/testing/dice.hpp>
#include <coir/testing/seeds.hpp>

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <stop_token>
#include <string>
#include <thread>
#include <utility>
#include <vector>

using coir::await;
using coir::fiber_outcome;
using coir::fiber_state;
using coir::offload;
using coir::pool;
using coir::pool_options;
using support::again;
using support::on_both_surfaces;
using support::opened_at_end;
using support::turnstile;
using namespace std::chrono_literals;

namespace {

template <class Condition>
void until(Condition&& holds) {
  const coir::instant limit = coir::after(coir::steady_now(), 20s);
  while (!holds()) {
    if (coir::steady_now() > limit) FAIL("what was waited for does not happen");
    await(coir::yield());
  }
}
void until_dead(const coir::handle_base& who) {
  until([&] { return who.state() == fiber_state::dead; });
}
void until_waiting(const coir::handle_base& who) {
  until([&] { return who.state() == fiber_state::waiting; });
}

// When the next job runs, those before it are done with all that belongs to them. For a pool of one thread.
void until_idle(pool& threads) {
  std::atomic<bool> next_began = false;
  threads.post([&] { next_began = true; });
  while (!next_began) std::this_thread::yield();
}

// One thread, which is held up, so that no call begins.
struct busy_pool {
  busy_pool() {
    threads.post([this] { gate.pass(); });
    gate.until_inside(1);
  }
  ~busy_pool() { gate.open(); }
  turnstile gate;
  pool threads{pool_options().threads(1)};
};

}  // namespace

TEST_CASE("a call that has not begun is taken out of the queue: its fiber goes on at once, and it never runs") {
  on_both_surfaces([](auto wait) {
    busy_pool on;
    std::atomic<int> ran = 0;
    const auto call = [&] { ++ran; };
    auto awaited = coir::spawn([&] { wait(offload(on.threads, call)); });
    auto abandonable = coir::spawn([&] { wait(offload(on.threads, call, coir::abandon)); });
    auto tried = coir::spawn([&] { static_cast<void>(wait(coir::try_offload(on.threads, call))); });
    until_waiting(tried);
    CHECK(on.threads.stats().queued == 3);
    for (auto* each : {&awaited, &abandonable, &tried}) {
      each->cancel();
      CHECK(each->state() == fiber_state::ready);
    }
    CHECK(on.threads.stats().queued == 0);
    CHECK(on.threads.stats().withdrawn == 3);
    for (auto* each : {&awaited, &abandonable, &tried}) {
      until_dead(*each);
      CHECK(each->outcome() == fiber_outcome::cancelled);
    }
    on.gate.open();
    await(offload(on.threads, [] {}));
    CHECK(ran == 0);
  });
}

TEST_CASE("a call that runs is waited for, its result delivered, and the fiber cancelled at its next suspend point") {
  on_both_surfaces([](auto wait) {
    turnstile gate;
    pool threads;
    const opened_at_end open(gate);
    int got = 0;
    auto who = coir::spawn([&] {
      got = wait(offload(threads, [&] {
        gate.pass();
        return 7;
      }));
      wait(coir::yield());
      got = 0;
    });
    until_waiting(who);
    gate.until_inside(1);
    who.cancel();
    for (int i = 0; i < 100; ++i) await(coir::yield());
    CHECK(who.state() == fiber_state::waiting);
    gate.open();
    until_dead(who);
    CHECK(got == 7);
    CHECK(who.outcome() == fiber_outcome::cancelled);
  });
}

TEST_CASE("a call that takes a stop token is asked to stop, and may do so by throwing `cancelled`") {
  on_both_surfaces([](auto wait) {
    turnstile gate;
    pool threads;
    const opened_at_end open(gate);
    int got = 0;
    auto partial = coir::spawn([&] {
      got = wait(offload(threads, [&](std::stop_token asked) { return gate.pass(asked) ? 1 : 2; }));
    });
    auto stopped = coir::spawn([&] {
      wait(offload(threads, [&](std::stop_token asked) {
        if (!gate.pass(asked)) throw coir::cancelled();
      }));
      got = 3;
    });
    until_waiting(stopped);
    gate.until_inside(2);
    partial.cancel();
    until_dead(partial);
    CHECK(got == 2);
    stopped.cancel();
    until_dead(stopped);
    CHECK(got == 2);
    CHECK(stopped.outcome() == fiber_outcome::cancelled);
  });
}

TEST_CASE("a call that is abandoned goes on alone, and what it returns or throws ends with it") {
  on_both_surfaces([](auto wait) {
    const auto alive = std::make_shared<int>();
    {
      turnstile gate;
      pool threads;
      const opened_at_end open(gate);
      std::atomic<int> over = 0;
      std::atomic<bool> asked_to_stop = false;
      auto returning = coir::spawn([&] {
        auto call = [&, alive] {
          gate.pass();
          ++over;
          return alive;
        };
        static_cast<void>(wait(offload(threads, call, coir::abandon)));
        ++over;
      });
      auto throwing = coir::spawn([&] {
        auto call = [&, alive](std::stop_token asked) {
          gate.pass();
          asked_to_stop = asked.stop_requested();
          ++over;
          throw std::runtime_error("nobody hears this");
        };
        wait(offload(threads, call, coir::abandon));
        ++over;
      });
      until_waiting(throwing);
      gate.until_inside(2);
      for (auto* each : {&returning, &throwing}) {
        each->cancel();
        CHECK(each->state() == fiber_state::ready);
        until_dead(*each);
        CHECK(each->outcome() == fiber_outcome::cancelled);
      }
      CHECK(over == 0);
      // The loop waits for neither.
      CHECK(coir::running_fiber().home().on().census().holds == 0);
      gate.open();
      until([&] { return over == 2; });
      CHECK(asked_to_stop);
    }
    // The pool's end has waited for them.
    CHECK(alive.use_count() == 1);
  });
}

TEST_CASE("a call that stops when it is asked has been abandoned before, and what is asked may look around") {
  on_both_surfaces([](auto wait) {
    std::atomic<bool> next_began = false;
    std::atomic<bool> runs = false;
    std::stop_token token;
    pool threads(pool_options().threads(1));
    auto who = coir::spawn([&] {
      auto call = [&](std::stop_token asked) {
        token = asked;
        runs = true;
        // Without a callback of its own, which might come behind the one below.
        while (!asked.stop_requested()) std::this_thread::yield();
      };
      wait(offload(threads, call, coir::abandon));
    });
    until([&] { return runs.load(); });
    // Begins when that call has come to its end, with all that belongs to it.
    threads.post([&] { next_began = true; });
    std::string seen;
    {
      const std::stop_callback held(token, [&] {
        while (!next_began) std::this_thread::yield();
        seen = coir::describe(coir::running_fiber().home());
      });
      who.cancel();
      CHECK(who.state() == fiber_state::ready);
    }
    CHECK(next_began);
    CHECK(seen.find(", abandoned") != std::string::npos);
    until_dead(who);
    CHECK(who.outcome() == fiber_outcome::cancelled);
  });
}

TEST_CASE("a call that is awaited twice is made twice, but for one that was abandoned") {
  on_both_surfaces([](auto wait) {
    turnstile gate;
    pool threads(pool_options().threads(1));
    const opened_at_end open(gate);
    const auto play = [&](auto... policy) {
      gate.open();
      std::atomic<int> calls = 0;
      std::vector<int> got;
      bool was_refused = false;
      auto who = coir::spawn([&] {
        auto call = [&](std::stop_token asked) {
          const int count = ++calls;
          gate.pass(asked);
          return count;
        };
        auto op = offload(threads, call, policy...);
        got.push_back(wait(again(op)));
        gate.close();
        try {
          got.push_back(wait(again(op)));
          wait(coir::yield());
        } catch (const std::runtime_error&) {
        }
        gate.open();
        try {
          got.push_back(wait(again(op)));
        } catch (const std::logic_error&) {
          was_refused = true;
        }
      });
      until([&] { return calls == 2; });
      gate.until_inside(1);
      // The call ends because it is asked.
      who.interrupt(std::runtime_error("enough"));
      until_dead(who);
      CHECK(who.outcome() == fiber_outcome::returned);
      until_idle(threads);
      if constexpr (sizeof...(policy) == 0) {
        CHECK(got == std::vector{1, 2, 3});
      } else {
        CHECK(got == std::vector{1});
        CHECK(was_refused);
      }
    };
    play();
    play(coir::abandon);
  });
}

TEST_CASE("what is done when its fiber is cancelled is delivered, under both policies") {
  on_both_surfaces([](auto wait) {
    pool threads(pool_options().threads(1));
    const auto play = [&](auto... policy) {
      turnstile gate;
      const opened_at_end open(gate);
      int got = 0;
      auto who = coir::spawn([&] {
        auto call = [&gate] {
          gate.pass();
          return 7;
        };
        got = wait(offload(threads, call, policy...));
        wait(coir::yield());
        got = 0;
      });
      until_waiting(who);
      gate.open();
      // The loop has not heard of it.
      until_idle(threads);
      who.cancel();
      until_dead(who);
      CHECK(who.outcome() == fiber_outcome::cancelled);
      return got;
    };
    CHECK(play() == 7);
    CHECK(play(coir::wait_for_it) == 7);
    CHECK(play(coir::abandon) == 7);
  });
}

TEST_CASE("the result of a call whose fiber was interrupted never resumes a later wait") {
  on_both_surfaces([](auto wait) {
    turnstile gate;
    pool threads;
    const opened_at_end open(gate);
    const auto play = [&](auto... policy) {
      gate.close();
      std::vector<int> seen;
      bool release = false;
      auto who = coir::spawn([&] {
        try {
          auto call = [&gate] {
            gate.pass();
            return 1;
          };
          seen.push_back(wait(offload(threads, call, policy...)));
        } catch (const std::runtime_error&) {
          seen.push_back(2);
        }
        try {
          // Nobody ends this but the second interruption, whatever the first call brings.
          wait(coir::sleep_for(100h));
          seen.push_back(3);
        } catch (const std::runtime_error&) {
          seen.push_back(4);
        }
        seen.push_back(wait(offload(threads, [] { return 5; })));
        release = true;
      });
      until_waiting(who);
      gate.until_inside(1);
      who.interrupt(std::runtime_error("first"));
      if constexpr (sizeof...(policy) == 0) {
        // It is asked, and is over when the call is: with the result, and the interruption comes at the next.
        CHECK(who.state() == fiber_state::waiting);
        gate.open();
        until([&] { return !seen.empty(); });
        until([&] { return release; });
        CHECK(seen == std::vector{1, 4, 5});
      } else {
        until([&] { return seen == std::vector{2}; });
        until_waiting(who);
        gate.open();
        until([&] { return threads.stats().idle == threads.stats().threads; });
        for (int i = 0; i < 100; ++i) await(coir::yield());
        CHECK(seen == std::vector{2});
        CHECK(who.state() == fiber_state::waiting);
        who.interrupt(std::runtime_error("second"));
        until([&] { return release; });
        CHECK(seen == std::vector{2, 4, 5});
      }
      await(who.join());
    };
    play();
    play(coir::abandon);
  });
}

TEST_CASE("a region that ends waits for the calls of its fibers, or leaves those that may be abandoned behind") {
  on_both_surfaces([](auto wait) {
    turnstile gate;
    pool threads;
    const opened_at_end open(gate);
    std::atomic<int> over = 0;
    const auto call = [&] {
      gate.pass();
      ++over;
    };
    auto owner = coir::spawn([&] {
      auto awaited = coir::spawn([&] { wait(offload(threads, call)); });
      auto left = coir::spawn([&] { wait(offload(threads, call, coir::abandon)); });
      until_waiting(left);
      gate.until_inside(2);
    });
    until([&] { return owner.state() == fiber_state::ending; });
    for (int i = 0; i < 100; ++i) await(coir::yield());
    CHECK(owner.state() == fiber_state::ending);
    gate.open();
    until_dead(owner);
    until([&] { return over == 2; });
  });
}

namespace {

// What became of one call.
struct course {
  std::atomic<int> ran = 0;
  int results = 0;
  int cancelled = 0;
};

}  // namespace

TEST_CASE("cancelled at any moment, a call has run and is delivered, or neither; abandoned, it may run unheard") {
  on_both_surfaces([](auto wait) {
    coir::testing::for_each_seed(50, [&](std::uint64_t seed) {
      coir::testing::dice dice(seed);
      pool threads(pool_options().threads(2));
      std::array<course, 8> all;
      std::vector<coir::fiber<void>> fibers;
      for (std::size_t i = 0; i < all.size(); ++i) {
        fibers.push_back(coir::spawn([&, i] {
          course& mine = all[i];
          // Its own end is the last that an abandoned one touches: the pool goes before the courses.
          auto call = [&mine] { return ++mine.ran; };
          try {
            mine.results += i % 2 == 0 ? wait(offload(threads, call))
                                       : wait(offload(threads, call, coir::abandon));
          } catch (const coir::cancelled&) {
            ++mine.cancelled;
            throw;
          }
          wait(coir::yield());
        }));
      }
      for (auto& each : fibers) {
        for (std::uint64_t left = dice.below(4); left != 0; --left) await(coir::yield());
        // Some microseconds, in which threads begin, call and come back. A yield may take as many milliseconds.
        for (volatile std::uint64_t left = dice.below(20'000); left != 0;) left = left - 1;
        if (dice.chance(0.7)) each.cancel();
      }
      for (auto& each : fibers) until_dead(each);
      for (std::size_t i = 0; i < all.size(); ++i) {
        const course& mine = all[i];
        // One that was cancelled before it ran has neither.
        CHECK(mine.results + mine.cancelled <= 1);
        if (mine.results == 1) CHECK(mine.ran == 1);
        if (i % 2 == 0) CHECK(mine.ran == mine.results);
        if (fibers[i].outcome() == fiber_outcome::returned) CHECK(mine.results == 1);
      }
    });
  });
}
