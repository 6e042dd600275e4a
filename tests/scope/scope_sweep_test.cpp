// A fiber that is in every kind of region, cancelled at every moment of its life in turn; and its scope, instead.
#include "fiber/counted.hpp"

#include "support/catch.hpp"
#include "support/jumping.hpp"

#include <coir/coir.hpp>

#include <chrono>
#include <cstdlib>
#include <stdexcept>
#include <string>

using namespace std::chrono_literals;
using coir::fiber_outcome;
using support::counted;

namespace {

// What must be true however it ends.
struct record {
  int bodies = 0;    // begun, of with_cleanup
  int cleanups = 0;  // that came to their end
  int results = 0;   // of things that ended whole
  int told = 0;      // `cancelled`, by the outermost
};

coir::task<counted> late(coir::duration wait, int value) {
  const counted local(value);
  co_await coir::sleep_for(wait);
  co_return counted(value);
}
coir::task<> tidy(record& seen) {
  const counted local(1);
  co_await coir::sleep_for(1ms);
  ++seen.cleanups;
}
coir::task<> begins(record& seen, coir::duration wait) {
  ++seen.bodies;
  const counted local(1);
  co_await coir::sleep_for(wait);
}
coir::task<> asked(int& how_many) {
  co_await coir::wait_shutting_down();
  ++how_many;
}

coir::task<int> in_coroutine(record& seen) {
  const counted local(1);
  try {
    // Limits: kept, over, nested.
    auto kept = co_await coir::move_on_after(5ms, late(1ms, 1));
    if (kept) ++seen.results;
    auto over = co_await coir::move_on_after(1ms, late(5ms, 1));
    if (over) std::abort();
    co_await coir::fail_after(5ms, coir::move_on_after(4ms, coir::move_on_after(1ms, late(5ms, 2))));
    // A nursery with children in scopes, one of which has left something behind.
    int heard = 0;
    const auto children = [&](coir::nursery& n) -> coir::task<counted> {
      n.spawn(late(2ms, 3));
      n.spawn([] {
        const counted mine(4);
        coir::move_on_after(1ms, [] { coir::await(coir::sleep_for(1h)); });
        coir::spawn(late(1h, 5));
        coir::await(coir::yield());
      });
      n.spawn(asked(heard));
      co_await coir::sleep_for(1ms);
      n.cancel(1ms);
      co_return counted(6);
    };
    static_cast<void>(co_await coir::with_nursery(children));
    ++seen.results;
    // All and first, one in the other.
    auto [one, two] = co_await coir::all(late(2ms, 7), coir::first(late(1ms, 8), late(3ms, 9)));
    if (one.value != 7 || two.value.value != 8) std::abort();
    ++seen.results;
    // Cleanups.
    co_await coir::with_cleanup(begins(seen, 1ms), tidy(seen));
    co_await coir::with_cleanup(coir::with_cleanup(begins(seen, 1ms), tidy(seen)), coir::sleep_for(1ms));
    // A shield, and a failure that is caught.
    coir::cancel_scope guard;
    guard.shield();
    guard.limit(2ms);
    auto shielded = co_await guard.run(late(5ms, 10));
    if (shielded) std::abort();
    std::string failure;
    const auto fails = [&](coir::nursery& n) -> coir::task<> {
      n.spawn(late(1h, 11));
      co_await coir::sleep_for(1ms);
      throw std::runtime_error("expected");
    };
    try {
      co_await coir::with_nursery(fails);
    } catch (const std::runtime_error& error) {
      failure = error.what();
    }
    if (failure != "expected") std::abort();
  } catch (const coir::cancelled&) {
    ++seen.told;
    throw;
  }
  co_return 42;
}

int on_stack(record& seen) {
  const counted local(1);
  try {
    if (coir::move_on_after(5ms, [] { return coir::await(late(1ms, 1)); })) ++seen.results;
    if (coir::move_on_after(1ms, [] { return coir::await(late(5ms, 1)); })) std::abort();
    coir::fail_after(5ms, [] {
      coir::move_on_after(4ms, [] { coir::move_on_after(1ms, [] { coir::await(coir::sleep_for(5ms)); }); });
    });
    int heard = 0;
    static_cast<void>(coir::with_nursery([&](coir::nursery& n) {
      n.spawn(late(2ms, 3));
      n.spawn([] {
        const counted mine(4);
        coir::move_on_after(1ms, [] { coir::await(coir::sleep_for(1h)); });
        coir::spawn(late(1h, 5));
        coir::await(coir::yield());
      });
      n.spawn(asked(heard));
      coir::await(coir::sleep_for(1ms));
      n.cancel(1ms);
      return counted(6);
    }));
    ++seen.results;
    const auto sleeps = [](coir::duration wait, int value) {
      return [wait, value] {
        coir::await(coir::sleep_for(wait));
        return counted(value);
      };
    };
    auto [one, two] = coir::await(coir::all(sleeps(2ms, 7), coir::first(sleeps(1ms, 8), sleeps(3ms, 9))));
    if (one.value != 7 || two.value.value != 8) std::abort();
    ++seen.results;
    const auto begin = [&] {
      ++seen.bodies;
      coir::await(coir::sleep_for(1ms));
    };
    const auto clean = [&] {
      coir::await(coir::sleep_for(1ms));
      ++seen.cleanups;
    };
    coir::with_cleanup(begin, clean);
    coir::with_cleanup([&] { coir::with_cleanup(begin, clean); }, [] { coir::await(coir::sleep_for(1ms)); });
    coir::cancel_scope guard;
    guard.shield();
    guard.limit(2ms);
    if (guard.run([] { return coir::await(late(5ms, 10)); })) std::abort();
    std::string failure;
    try {
      coir::with_nursery([&](coir::nursery& n) {
        n.spawn(late(1h, 11));
        coir::await(coir::sleep_for(1ms));
        throw std::runtime_error("expected");
      });
    } catch (const std::runtime_error& error) {
      failure = error.what();
    }
    if (failure != "expected") std::abort();
  } catch (const coir::cancelled&) {
    ++seen.told;
    throw;
  }
  return 42;
}

using body = coir::fiber<int> (*)(record& seen);
constexpr body bodies[] = {
    [](record& seen) { return coir::spawn(in_coroutine(seen)); },
    [](record& seen) { return coir::spawn([&seen] { return on_stack(seen); }); },
};

// The fiber's life in slices: a quarter of a millisecond each, and in each the looks of a few turns.
constexpr coir::duration slice = 250us;
constexpr int looks_in_slice = 4;

// True: it was still alive at that look, and was cancelled. `stop` is called then.
template <class Stop>
bool stop_at(coir::fiber<int>& who, int look, Stop stop) {
  for (int i = 0; who.state() != coir::fiber_state::dead; ++i) {
    if (i == look) {
      stop();
      return true;
    }
    if ((i + 1) % looks_in_slice == 0) {
      coir::await(coir::sleep_for(slice));
    } else {
      coir::await(coir::yield());
    }
  }
  return false;
}

void check_record(const record& seen, bool to_the_end) {
  CHECK(seen.told == (to_the_end ? 0 : 1));
  // What began is cleaned up; one that had not begun may be, too.
  CHECK(seen.cleanups >= seen.bodies);
  CHECK(seen.cleanups <= seen.bodies + 1);
  if (to_the_end) {
    CHECK(seen.results == 3);
    CHECK(seen.cleanups == 2);
  }
}

}  // namespace

TEST_CASE("without a cancellation it comes to its end") {
  for (const body make : bodies) {
    support::jumping([&] {
      record seen;
      auto who = make(seen);
      CHECK(coir::await(who.take()) == 42);
      check_record(seen, true);
      CHECK(counted::alive == 0);
      CHECK(coir::running_fiber().home().alive() == 1);
      CHECK(support::loop_here().census().armed == 0);
    });
  }
}

TEST_CASE("a fiber is cancelled at every moment of its life, before it and after it, and nothing is left of it") {
  for (const body make : bodies) {
    int cancelled = 0;
    int looks = 0;
    for (bool reached = true; reached; ++looks) {
      INFO("look " << looks);
      support::jumping([&] {
        record seen;
        auto who = make(seen);
        reached = stop_at(who, looks, [&] { who.cancel(); });
        coir::await(coir::end_op(who));
        const bool whole = who.outcome() == fiber_outcome::returned;
        CHECK((whole || who.outcome() == fiber_outcome::cancelled));
        // Before it began nobody was there to be told.
        if (looks > 0) check_record(seen, whole);
        if (whole) CHECK(coir::await(who.take()) == 42);
        cancelled += whole ? 0 : 1;
        who.cancel();
        CHECK(coir::running_fiber().home().alive() == 1);
        CHECK(support::loop_here().census().armed == 0);
        CHECK(coir::running_fiber().home().stats().swallowed == 0);
      });
      REQUIRE(counted::alive == 0);
    }
    CHECK(looks > 100);
    CHECK(cancelled > looks - 10);
  }
}

TEST_CASE("a scope is cancelled at every moment of its body's life: a result, or none, and the fiber goes on") {
  for (const body make : bodies) {
    int cut_short = 0;
    int looks = 0;
    for (bool reached = true; reached; ++looks) {
      INFO("look " << looks);
      support::jumping([&] {
        record seen;
        coir::cancel_scope scope;
        const bool coroutine = make == bodies[0];
        auto who = coir::spawn([&] {
          if (coroutine) {
            const auto got = coir::await(scope.run(in_coroutine(seen)));
            CHECK(got.has_value() == !scope.caught());
            if (got) CHECK(*got == 42);
          } else {
            const auto got = scope.run([&] { return on_stack(seen); });
            CHECK(got.has_value() == !scope.caught());
            if (got) CHECK(*got == 42);
          }
          coir::await(coir::yield());
          return 1;
        });
        reached = stop_at(who, looks, [&] { scope.cancel(); });
        CHECK(coir::await(who.take()) == 1);
        check_record(seen, !scope.caught());
        cut_short += scope.caught() ? 1 : 0;
        CHECK(coir::running_fiber().home().alive() == 1);
        CHECK(support::loop_here().census().armed == 0);
        CHECK(coir::running_fiber().home().stats().swallowed == 0);
      });
      REQUIRE(counted::alive == 0);
    }
    CHECK(looks > 100);
    CHECK(cut_short > looks - 10);
  }
}
