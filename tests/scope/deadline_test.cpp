// Deadlines that move, limits that begin to count, and memory for their timers.
#include "surfaces.hpp"

#include "support/catch.hpp"
#include "support/jumping.hpp"

#include <coir/coir.hpp>

#include <chrono>

using namespace std::chrono_literals;
using support::now;
using surfaces::on_both;

namespace {

std::size_t timers() { return support::loop_here().census().armed; }

}  // namespace

TEST_CASE("a limit counts from when the fiber first parks under it") {
  on_both([](auto s) {
    coir::cancel_scope scope;
    scope.limit(1s);
    CHECK(scope.deadline() == coir::never);
    CHECK_FALSE(s.get(scope.run(s.body([&] {
      CHECK(scope.deadline() == coir::never);
      CHECK(timers() == 0);
      s.wait(coir::yield());
      CHECK(scope.deadline() == now() + 1s);
      CHECK(timers() == 1);
      s.wait(coir::sleep_for(1h));
    }))));
    CHECK(scope.expired());
    CHECK(timers() == 0);
  });
}

TEST_CASE("a deadline that is moved a hundred thousand times is one timer") {
  on_both([](auto s) {
    coir::cancel_scope scope;
    const coir::instant begin = now();
    CHECK_FALSE(s.get(scope.run(s.body([&] {
      s.wait(coir::yield());
      for (int i = 0; i < 100'000; ++i) scope.deadline(begin + 1h + std::chrono::nanoseconds(i));
      s.wait(coir::yield());
      CHECK(timers() == 1);
      for (int i = 0; i < 100'000; ++i) scope.limit(1h);
      CHECK(timers() == 1);
      scope.deadline(begin + 1s);
      s.wait(coir::sleep_for(1h));
    }))));
    CHECK(now() - begin == 1s);
    CHECK(scope.expired());
    CHECK(timers() == 0);
  });
}

TEST_CASE("a deadline is moved by another fiber while the body waits: nearer, further, to never, to the past") {
  on_both([](auto s) {
    struct move {
      coir::duration first;   // of the scope; max: none
      coir::duration second;  // set after a second, from the beginning; max: never
      coir::duration ends;    // max: it comes to its end, after an hour
    };
    constexpr auto none = coir::duration::max();
    for (const move each : {move{10s, 5s, 5s}, {10s, 20s, 20s}, {10s, none, none}, {10s, 500ms, 1s}, {10s, 1s, 1s},
                            {none, 5s, 5s}, {none, 0s, 1s}, {none, none, none}}) {
      coir::cancel_scope scope;
      const coir::instant begin = now();
      const auto at = [&](coir::duration after) { return after == none ? coir::never : begin + after; };
      if (each.first != none) scope.limit(each.first);
      coir::spawn([&] {
        coir::await(coir::sleep_for(1s));
        scope.deadline(at(each.second));
        CHECK(scope.deadline() == at(each.second));
        CHECK(timers() == (each.second == none ? 1 : 2));
      });
      const bool whole = s.get(scope.run(s.body([&] { s.wait(coir::sleep_for(1h)); })));
      CHECK(whole == (each.ends == none));
      CHECK(scope.expired() == !whole);
      CHECK(now() - begin == (whole ? coir::duration(1h) : each.ends));
      CHECK(timers() == 0);
    }
  });
}

TEST_CASE("a limit that another fiber sets counts from then") {
  on_both([](auto s) {
    coir::cancel_scope scope;
    const coir::instant begin = now();
    coir::spawn([&] {
      coir::await(coir::sleep_for(1s));
      scope.limit(2s);
      CHECK(scope.deadline() == begin + 3s);
    });
    CHECK_FALSE(s.get(scope.run(s.body([&] { s.wait(coir::sleep_for(1h)); }))));
    CHECK(now() - begin == 3s);
  });
}

TEST_CASE("a body moves its own deadline before it parks, and after") {
  on_both([](auto s) {
    coir::cancel_scope scope;
    scope.limit(1s);
    const coir::instant begin = now();
    CHECK_FALSE(s.get(scope.run(s.body([&] {
      scope.deadline(begin + 10s);
      CHECK(timers() == 0);
      s.wait(coir::sleep_for(5s));
      scope.deadline(coir::never);
      CHECK(timers() == 0);
      s.wait(coir::sleep_for(10s));
      scope.limit(1s);
      s.wait(coir::sleep_for(500ms));
      scope.limit(1s);
      s.wait(coir::sleep_for(900ms));
      scope.deadline(begin);
      s.wait(coir::sleep_for(1h));
    }))));
    CHECK(now() - begin == 16400ms);
    CHECK(scope.expired());
  });
}

TEST_CASE("a deadline that has passed has passed") {
  on_both([](auto s) {
    coir::cancel_scope scope;
    scope.limit(1s);
    int caught = 0;
    CHECK_FALSE(s.get(scope.run(s.body([&] {
      try {
        s.wait(coir::sleep_for(1h));
      } catch (const coir::cancelled&) {
        ++caught;
        scope.deadline(now() + 1h);
        scope.limit(1h);
        CHECK(timers() == 0);
      }
      s.wait(coir::yield());
      ++caught;
    }))));
    CHECK(caught == 1);
  });
}

TEST_CASE("a scope is expired by its deadline, and by nothing that came before it") {
  on_both([](auto s) {
    coir::cancel_scope scope;
    scope.limit(1s);
    coir::spawn([&] { scope.cancel(); });
    CHECK_FALSE(s.get(scope.run(s.body([&] {
      try {
        s.wait(coir::sleep_for(1h));
      } catch (const coir::cancelled&) {
        // Long enough for the deadline to pass.
        coir::cancel_scope guard;
        guard.shield();
        s.get(guard.run(s.body([&] { s.wait(coir::sleep_for(5s)); })));
        throw;
      }
    }))));
    CHECK(scope.caught());
    CHECK_FALSE(scope.expired());
  });
}

TEST_CASE("of equal deadlines the outer one wins, whichever was armed first") {
  on_both([](auto s) {
    for (const bool outer_first : {true, false}) {
      bool inner_went_on = false;
      const coir::instant end = now() + 1s;
      coir::cancel_scope outer;
      coir::cancel_scope inner;
      if (outer_first) outer.deadline(end);
      CHECK_FALSE(s.get(outer.run(s.body([&] {
        inner.deadline(end);
        s.get(inner.run(s.body([&] {
          if (!outer_first) {
            // The inner one's is armed by now.
            s.wait(coir::yield());
            outer.deadline(end);
          }
          s.wait(coir::sleep_for(1h));
        })));
        inner_went_on = true;
      }))));
      CHECK_FALSE(inner_went_on);
      CHECK(outer.caught());
    }
  });
}

TEST_CASE("an op that completes at the very instant of the deadline is delivered when it was there first") {
  on_both([](auto s) {
    bool went_on = false;
    bool first_done = false;
    // The op is started before the limit counts.
    CHECK_FALSE(s.get(coir::move_on_after(1s, s.body([&] {
      s.wait(coir::sleep_for(1s));
      first_done = true;
      s.wait(coir::yield());
      went_on = true;
    }))));
    CHECK(first_done);
    CHECK_FALSE(went_on);
    first_done = false;
    CHECK_FALSE(s.get(coir::move_on_after(1s, s.body([&] {
      s.wait(coir::yield());
      s.wait(coir::sleep_for(1s));
      first_done = true;
    }))));
    CHECK_FALSE(first_done);
  });
}

TEST_CASE("nothing fires early, and nothing fires inline") {
  on_both([](auto s) {
    for (const auto limit : {1ns, 999ns, 1'000'000'001ns}) {
      const coir::instant begin = now();
      CHECK_FALSE(s.get(coir::move_on_after(limit, s.body([&] { s.wait(coir::sleep_for(1h)); }))));
      CHECK(now() - begin == limit);
    }
    coir::cancel_scope scope;
    CHECK_FALSE(s.get(scope.run(s.body([&] {
      s.wait(coir::yield());
      scope.deadline(now() - 1h);
      CHECK_FALSE(scope.cancelled());
      s.wait(coir::sleep_for(1h));
    }))));
  });
}

TEST_CASE("a hundred limits in a row all fire, and leave no timer") {
  on_both([](auto s) {
    const coir::instant begin = now();
    for (int i = 0; i < 100; ++i) {
      const auto too_slow = [&] { return coir::fail_after(1ms, s.body([&] { s.wait(coir::sleep_for(1h)); })); };
      CHECK_THROWS_AS(surfaces::get(s, too_slow), coir::timed_out);
    }
    CHECK(now() - begin == 100ms);
    CHECK(timers() == 0);
  });
}

TEST_CASE("two limits on one fiber are both kept, whichever is the shorter") {
  on_both([](auto s) {
    const coir::instant begin = now();
    bool inner_went_on = false;
    CHECK_FALSE(s.get(coir::move_on_after(1s, s.body([&] {
      s.get(coir::move_on_after(3s, s.body([&] { s.wait(coir::sleep_for(1h)); })));
      inner_went_on = true;
    }))));
    CHECK_FALSE(inner_went_on);
    CHECK(now() - begin == 1s);
    CHECK_FALSE(s.get(coir::move_on_after(5s, s.body([&] {
      CHECK_FALSE(s.get(coir::move_on_after(1s, s.body([&] { s.wait(coir::sleep_for(1h)); }))));
      inner_went_on = true;
      s.wait(coir::sleep_for(1h));
    }))));
    CHECK(inner_went_on);
    CHECK(now() - begin == 6s);
  });
}

TEST_CASE("loops in one thread have deadlines of their own") {
  coir::testing::mock_clock slow_clock;
  coir::testing::mock_clock fast_clock(coir::testing::mock_clock::mode::by_hand);
  coir::loop slow(coir::loop_options().time(&slow_clock));
  coir::loop fast(coir::loop_options().time(&fast_clock));
  coir::scheduler slow_fibers(slow);
  coir::scheduler fast_fibers(fast);
  coir::cancel_scope in_slow;
  coir::cancel_scope in_fast;
  in_slow.limit(1h);
  in_fast.limit(1s);
  const auto sleeps = [](coir::cancel_scope& scope) {
    return [&scope] { scope.run([] { coir::await(coir::sleep_until(coir::never)); }); };
  };
  auto one = slow_fibers.spawn(sleeps(in_slow));
  auto two = fast_fibers.spawn(sleeps(in_fast));
  fast.run_once();
  slow.run_once(coir::duration(-1));
  while (one.state() != coir::fiber_state::dead) slow.run_once(coir::duration(-1));
  CHECK(in_slow.expired());
  fast.run_once();
  CHECK_FALSE(in_fast.cancelled());
  fast_clock.advance(1s);
  while (two.state() != coir::fiber_state::dead) fast.run_once();
  CHECK(in_fast.expired());
}
