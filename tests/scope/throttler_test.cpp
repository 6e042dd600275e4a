#include "busy.hpp"

#include "fiber/until.hpp"
#include "support/both.hpp"
#include "support/catch.hpp"
#include "support/child_process.hpp"
#include "support/counted_heap.hpp"

#include <coir/coir.hpp>
#include <coir/testing/mock_clock.hpp>

#include <chrono>
#include <cstdint>
#include <limits>
#include <memory>
#include <random>
#include <ratio>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

using namespace std::chrono_literals;
using coir::fiber_outcome;
using coir::fiber_state;
using coir::throttler;
using coir::testing::mock_clock;
using support::loop_here;
using support::on;
using support::record;

namespace {

using times = std::vector<coir::duration>;
std::chrono::duration<double> seconds_of(double count) { return std::chrono::duration<double>(count); }

// What making one says.
template <class Make>
std::string refusal(Make make) {
  try {
    make();
  } catch (const std::logic_error& error) {
    return error.what();
  }
  return "it was taken";
}
template <class Duration>
std::string refusal_of(Duration interval) {
  return refusal([&] { const throttler limit(interval); });
}

// Counts who reads it.
class counting_clock final : public coir::time_source {
 public:
  coir::instant now() noexcept override {
    ++readings;
    return jumping_.now();
  }
  bool idle_until(coir::instant deadline) noexcept override { return jumping_.idle_until(deadline); }
  unsigned readings = 0;

 private:
  mock_clock jumping_;
};

coir::fiber<std::uint64_t> waiter_at(throttler& limit) {
  return coir::spawn([&limit] { return coir::await(limit.wait()); });
}

static_assert(!std::is_copy_constructible_v<throttler> && !std::is_move_constructible_v<throttler>);
static_assert(sizeof(coir::slot_op) == 56);

}  // namespace

// --- what it is made of ---

TEST_CASE("a throttler is made of any duration that is more than nothing, or of a rate") {
  CHECK(throttler(20ms).interval() == 20ms);
  CHECK(throttler(1ns).interval() == 1ns);
  CHECK(throttler(std::chrono::duration<int, std::ratio<60>>(2)).interval() == 2min);
  CHECK(throttler(seconds_of(0.25)).interval() == 250ms);
  // Less than a nanosecond is one.
  CHECK(throttler(std::chrono::duration<double, std::pico>(1)).interval() == 1ns);
  CHECK(throttler(std::chrono::hours(24 * 36525)).interval() == std::chrono::hours(24 * 36525));
  CHECK(throttler(coir::per_second(50)).interval() == 20ms);
}

TEST_CASE("a rate is the interval that makes so many in a second, and never more") {
  CHECK(coir::per_second(50) == 20ms);
  CHECK(coir::per_second(1) == 1s);
  CHECK(coir::per_second(0.5) == 2s);
  CHECK(coir::per_second(1000) == 1ms);
  CHECK(coir::per_second(3) == 333'333'334ns);
  CHECK(coir::per_second(1e9) == 1ns);
  CHECK(coir::per_second(1e12) == 1ns);
}

TEST_CASE("an interval that is zero, negative, not a number or without end is refused, and named") {
  CHECK(refusal_of(0s) == "an interval of 0 s: it must be more than nothing, and at most 100 years");
  CHECK(refusal_of(-5ms) == "an interval of -0.005 s: it must be more than nothing, and at most 100 years");
  const double infinity = std::numeric_limits<double>::infinity();
  CHECK(refusal_of(seconds_of(infinity)).find("an interval of inf s") == 0);
  CHECK(refusal_of(seconds_of(-infinity)).find("an interval of -inf s") == 0);
  CHECK(refusal_of(seconds_of(std::numeric_limits<double>::quiet_NaN())).find("nan s") != std::string::npos);
  CHECK(refusal_of(seconds_of(-0.0)).find("an interval of -0 s") == 0);
  CHECK(refusal_of(seconds_of(-1e-12)).find("an interval of -1e-12 s") == 0);
  CHECK(refusal_of(seconds_of(4e9)).find("an interval of 4000000000 s") == 0);
  CHECK(refusal_of(coir::duration::max()).find("at most 100 years") != std::string::npos);
  CHECK(refusal_of(coir::duration::min()).find("more than nothing") != std::string::npos);
  CHECK(refusal_of(std::chrono::hours::max()).find("at most 100 years") != std::string::npos);
}

TEST_CASE("a rate that is zero, negative, not a number or without end is refused, and named") {
  const auto refused = [](double count) { return refusal([&] { coir::per_second(count); }); };
  const double infinity = std::numeric_limits<double>::infinity();
  CHECK(refused(0).find("a rate of 0 per second: it must be more than nothing") == 0);
  CHECK(refused(-0.0).find("a rate of -0 per second") == 0);
  CHECK(refused(-3).find("a rate of -3 per second") == 0);
  CHECK(refused(infinity).find("a rate of inf per second") == 0);
  CHECK(refused(-infinity).find("a rate of -inf per second") == 0);
  CHECK(refused(std::numeric_limits<double>::quiet_NaN()).find("nan per second") != std::string::npos);
  CHECK(refused(1e-300).find("a rate of 1e-300 per second") == 0);
  CHECK(refused(std::numeric_limits<double>::denorm_min()).find("per second") != std::string::npos);
}

// --- the grid ---

TEST_CASE("the first slot is free at once, and from there on there is one in every interval") {
  mock_clock clock;
  support::on_both_surfaces(
      [&](auto wait) {
        record at(clock);
        throttler limit(10ms);
        for (int i = 0; i < 5; ++i) {
          CHECK(wait(limit.wait()) == 0);
          at();
        }
        CHECK(at.times == times{0ms, 10ms, 20ms, 30ms, 40ms});
      },
      on(clock));
}

TEST_CASE("slots begin with the first wait, not with the throttler") {
  mock_clock clock;
  support::on_both_surfaces(
      [&](auto wait) {
        throttler limit(10ms);
        clock.advance(25ms);
        record at(clock);
        CHECK(wait(limit.wait()) == 0);
        at();
        CHECK(wait(limit.wait()) == 0);
        at();
        CHECK(at.times == times{0ms, 10ms});
      },
      on(clock));
}

TEST_CASE("slots that nobody took are over: there is no burst after a pause") {
  mock_clock clock;
  support::on_both_surfaces(
      [&](auto wait) {
        throttler limit(10ms);
        record at(clock);
        wait(limit.wait());
        wait(coir::sleep_for(1s));
        CHECK(wait(limit.wait()) == 99);
        at();
        CHECK(wait(limit.wait()) == 0);
        at();
        CHECK(wait(limit.wait()) == 0);
        at();
        CHECK(at.times == times{1000ms, 1010ms, 1020ms});
        CHECK(limit.stats().missed == 99);
      },
      on(clock));
}

TEST_CASE("who comes late gets the present slot at once if it is free, and moves nothing") {
  mock_clock clock;
  support::on_both_surfaces(
      [&](auto wait) {
        throttler limit(10ms);
        record at(clock);
        wait(limit.wait());
        at();
        clock.advance(25ms);
        CHECK(wait(limit.wait()) == 1);
        at();
        CHECK(wait(limit.wait()) == 0);
        at();
        clock.advance(9'999'999ns);
        CHECK(wait(limit.wait()) == 0);
        at();
        clock.advance(10ms);
        CHECK(wait(limit.wait()) == 0);  // on the point, in the slot that begins there
        at();
        CHECK(at.times == times{0ms, 25ms, 30ms, 40ms, 50ms});
      },
      on(clock));
}

TEST_CASE("in any n intervals at most n + 1 slots are taken, each once, whatever the rounds take") {
  for (const unsigned seed : {1U, 2U, 3U}) {
    mock_clock clock;
    coir::run(
        [&] {
          std::mt19937 random(seed);
          std::uniform_int_distribution<int> microseconds(0, 3000);
          throttler limit(1ms);
          record at(clock);
          std::uint64_t missed = 0;
          for (int i = 0; i < 2000; ++i) {
            missed += coir::await(limit.wait());
            at();
            if (random() % 2 == 0) clock.advance(std::chrono::microseconds(microseconds(random)));
          }
          std::int64_t before = -1;
          for (const coir::duration time : at.times) {
            const std::int64_t slot = time / 1ms;
            REQUIRE(slot > before);
            before = slot;
          }
          // Every slot up to the last was either taken or counted as missed.
          CHECK(missed + 2000 == static_cast<std::uint64_t>(before + 1));
        },
        on(clock));
  }
}

TEST_CASE("in a turn that took too long one slot is taken, and the next waiters get the next ones") {
  mock_clock clock(mock_clock::mode::by_hand);
  coir::run(
      [&] {
        throttler limit(10ms);
        const coir::instant start = clock.now();
        coir::await(limit.wait());
        auto one = waiter_at(limit);
        auto two = waiter_at(limit);
        auto three = waiter_at(limit);
        support::until([&] { return limit.stats().waiting == 3; });
        const auto ended_at = [&](coir::duration passed) {
          clock.advance(start + passed - clock.now());
          support::until([turns = 0]() mutable { return ++turns == 600; });
          return support::dead(one) + support::dead(two) + support::dead(three);
        };
        CHECK(ended_at(9'999'999ns) == 0);
        CHECK(ended_at(57ms) == 1);
        CHECK(coir::await(one.join()) == 4);
        CHECK(ended_at(59'999'999ns) == 1);
        CHECK(ended_at(60ms) == 2);
        CHECK(ended_at(70ms) == 3);
        CHECK(coir::await(two.join()) == 0);
        CHECK(coir::await(three.join()) == 0);
      },
      on(clock));
}

// --- a wait is a suspend point ---

TEST_CASE("a wait for a slot that is free lets others run, and timers that are due fire before it") {
  mock_clock clock(mock_clock::mode::by_hand);
  support::on_both_surfaces(
      [&](auto wait) {
        throttler limit(10ms);
        for (int i = 0; i < 3; ++i) {
          bool other_ran = false;
          bool fired = false;
          auto other = coir::spawn([&] { other_ran = true; });
          auto timer = loop_here().after(25ms, [&] { fired = true; });
          clock.advance(26ms);  // the slot began before the timer was due
          wait(limit.wait());
          CHECK(other_ran);
          CHECK(fired);
          wait(other.join());
        }
        CHECK(limit.stats().taken == 3);
      },
      on(clock));
}

TEST_CASE("what was due before the wait for a free slot comes before it: a limit that is over leaves the slot free") {
  mock_clock clock(mock_clock::mode::by_hand);
  surfaces::for_both([&](auto surface) {
    coir::run(
        [&] {
          throttler limit(10ms);
          coir::await(limit.wait());
          auto late = surface.spawn(limit.wait());
          // The slot begins after 10 ms, the limit is over after 12, and the wait begins after 15.
          auto over = loop_here().after(12ms, [&] { late.cancel(); });
          clock.advance(15ms);
          coir::await(coir::end_op(late));
          CHECK(late.outcome() == fiber_outcome::cancelled);
          CHECK(limit.stats().taken == 1);
          CHECK(limit.stats().cancelled == 1);
        },
        on(clock));
  });
}

TEST_CASE("several fibers get a slot each, in the order in which they came") {
  mock_clock clock;
  surfaces::for_each([&](auto surface) {
    coir::run(
        [&] {
          throttler limit(10ms);
          record at(clock);
          std::vector<int> order;
          std::vector<coir::fiber<void>> fibers;
          for (int i = 0; i < 20; ++i) {
            fibers.push_back(coir::spawn([&, i] {
              auto mine = surface.spawn(limit.wait());
              coir::await(mine.join());
              order.push_back(i);
              at();
            }));
          }
          for (auto& each : fibers) coir::await(each.join());
          for (int i = 0; i < 20; ++i) {
            CHECK(order[static_cast<std::size_t>(i)] == i);
            CHECK(at.times[static_cast<std::size_t>(i)] == i * 10ms);
          }
        },
        on(clock));
  });
}

// --- cancelled ---

TEST_CASE("a cancelled waiter gives up its place, and those behind it move up") {
  mock_clock clock;
  for (const std::size_t victim : {0U, 1U, 3U}) {
    surfaces::for_both([&](auto surface) {
      coir::run(
          [&] {
            throttler limit(10ms);
            record at(clock);
            coir::await(limit.wait());
            std::vector<coir::fiber<std::uint64_t>> waiters;
            for (int i = 0; i < 4; ++i) waiters.push_back(surface.spawn(limit.wait()));
            coir::await(coir::yield());
            REQUIRE(limit.stats().waiting == 4);
            waiters[victim].cancel();
            CHECK(limit.stats().waiting == 3);
            CHECK(limit.stats().cancelled == 1);
            for (std::size_t i = 0; i < 4; ++i) {
              coir::await(coir::end_op(waiters[i]));
              CHECK((waiters[i].outcome() == fiber_outcome::cancelled) == (i == victim));
              if (i != victim) at();
            }
            CHECK(at.times == times{10ms, 20ms, 30ms});
            CHECK(loop_here().timers() == 0);
          },
          on(clock));
    });
  }
}

TEST_CASE("when all waiters are cancelled their slots are free for the next that comes") {
  mock_clock clock;
  surfaces::for_both([&](auto surface) {
    coir::run(
        [&] {
          throttler limit(10ms);
          record at(clock);
          coir::await(limit.wait());
          auto one = surface.spawn(limit.wait());
          auto two = surface.spawn(limit.wait());
          coir::await(coir::yield());
          one.cancel();
          two.cancel();
          CHECK(loop_here().timers() == 0);
          CHECK(coir::await(limit.wait()) == 0);
          at();
          CHECK(at.times == times{10ms});
          CHECK(limit.stats().taken == 2);
        },
        on(clock));
  });
}

TEST_CASE("a waiter that is cancelled when its slot is due, but not taken, leaves it to the next") {
  mock_clock clock(mock_clock::mode::by_hand);
  coir::run(
      [&] {
        throttler limit(10ms);
        coir::await(limit.wait());
        auto one = waiter_at(limit);
        auto two = waiter_at(limit);
        support::until([&] { return limit.stats().waiting == 2; });
        // Due in the same turn, and before: both are collected, then this one cancels the other.
        auto killer = loop_here().after(9ms, [&] { one.cancel(); });
        clock.advance(10ms);
        support::until([&] { return support::dead(two); });
        CHECK(one.outcome() == fiber_outcome::cancelled);
        CHECK(coir::await(two.join()) == 0);
        CHECK(limit.stats().taken == 2);
      },
      on(clock));
}

TEST_CASE("a waiter that is cancelled when it has its slot keeps it: the cancellation surfaces later") {
  mock_clock clock(mock_clock::mode::by_hand);
  coir::run(
      [&] {
        throttler limit(10ms);
        coir::await(limit.wait());
        bool got = false;
        auto waiter = coir::spawn([&] {
          coir::await(limit.wait());
          got = true;
          coir::await(coir::yield());
        });
        support::until([&] { return limit.stats().waiting == 1; });
        auto killer = loop_here().after(10ms, [&] { waiter.cancel(); });
        clock.advance(10ms);
        support::until([&] { return support::dead(waiter); });
        CHECK(got);
        CHECK(waiter.outcome() == fiber_outcome::cancelled);
        CHECK(limit.stats().taken == 2);
        CHECK(limit.stats().cancelled == 0);
      },
      on(clock));
}

TEST_CASE("those who wait in a throttler that goes wait until they are cancelled") {
  mock_clock clock;
  surfaces::for_each([&](auto surface) {
    coir::run(
        [&] {
          std::vector<coir::fiber<std::uint64_t>> waiters;
          auto parent = coir::spawn([&] {
            throttler limit(10ms);
            coir::await(limit.wait());
            for (int i = 0; i < 3; ++i) waiters.push_back(surface.spawn(limit.wait()));
            coir::await(coir::yield());
            REQUIRE(limit.stats().waiting == 3);
          });
          coir::await(parent.join());
          for (auto& each : waiters) CHECK(each.outcome() == fiber_outcome::cancelled);

          auto limit = std::make_unique<throttler>(10ms);
          coir::await(limit->wait());
          auto one = surface.spawn(limit->wait());
          auto two = surface.spawn(limit->wait());
          coir::await(coir::yield());
          limit.reset();
          CHECK(loop_here().timers() == 0);
          coir::await(coir::sleep_for(1h));
          CHECK(one.state() == fiber_state::waiting);
          std::string text;
          two.control().describe_wait(text);
          CHECK(text.empty());
          two.cancel();
          one.cancel();
          coir::await(coir::end_op(one));
          coir::await(coir::end_op(two));
          CHECK(two.outcome() == fiber_outcome::cancelled);
        },
        on(clock));
  });
}

TEST_CASE("waiters that come and go in any order leave every slot to somebody") {
  for (const unsigned seed : {1U, 2U, 3U, 4U}) {
    mock_clock clock;
    coir::run(
        [&] {
          std::mt19937 random(seed);
          throttler limit(1ms);
          record at(clock);
          std::vector<coir::fiber<void>> waiters;
          const auto pick = [&](std::size_t count) { return random() % count; };
          for (int i = 0; i < 500; ++i) {
            waiters.push_back(coir::spawn([&] {
              coir::await(limit.wait());
              at();
            }));
            if (pick(3) == 0) waiters[pick(waiters.size())].cancel();
            if (pick(4) == 0) coir::await(coir::sleep_for(std::chrono::microseconds(pick(3000))));
          }
          for (auto& each : waiters) coir::await(coir::end_op(each));
          // Somebody always waits, but for the pauses: no slot is taken twice, and none that was wanted passes.
          for (std::size_t i = 1; i < at.times.size(); ++i) REQUIRE(at.times[i] / 1ms > at.times[i - 1] / 1ms);
          const coir::throttler_stats stats = limit.stats();
          CHECK(stats.taken == at.times.size());
          CHECK(stats.waiting == 0);
          CHECK(stats.taken + stats.missed == static_cast<std::uint64_t>(at.times.back() / 1ms) + 1);
        },
        on(clock));
  }
}

// --- what it costs, and what it says ---

TEST_CASE("the clock is read once by who has nobody in front, and not by the others") {
  counting_clock clock;
  coir::run(
      [&] {
        const auto readings = [&](std::size_t throttlers, std::size_t waiters) {
          std::vector<std::unique_ptr<throttler>> limits;
          for (std::size_t i = 0; i < throttlers; ++i) limits.push_back(std::make_unique<throttler>(1ms));
          for (auto& each : limits) coir::await(each->wait());
          std::vector<coir::fiber<std::uint64_t>> fibers;
          for (std::size_t i = 0; i < waiters; ++i) fibers.push_back(waiter_at(*limits[i % throttlers]));
          const unsigned before = clock.readings;
          coir::await(coir::yield());
          const unsigned read = clock.readings - before;
          for (auto& each : fibers) each.cancel();
          for (auto& each : fibers) coir::await(coir::end_op(each));
          return read;
        };
        const unsigned own = readings(1, 1);
        // Fewer than a turn looks at the clock for.
        CHECK(readings(6, 6) == own + 5);
        CHECK(readings(1, 6) == own);
      },
      on(clock));
}

TEST_CASE("waiting for slots allocates nothing") {
  mock_clock clock;
  coir::run(
      [&] {
        throttler limit(1ms);
        for (int i = 0; i < 10; ++i) coir::await(limit.wait());
        const long before = support::heap.allocations;
        for (int i = 0; i < 1000; ++i) coir::await(limit.wait());
        CHECK(support::heap.allocations == before);
      },
      on(clock));
}

TEST_CASE("what a waiter still waits for is described") {
  mock_clock clock(mock_clock::mode::by_hand);
  coir::run(
      [&] {
        throttler limit(10s);
        coir::await(limit.wait());
        auto one = waiter_at(limit);
        auto two = waiter_at(limit);
        auto three = waiter_at(limit);
        support::until([&] { return limit.stats().waiting == 3; });
        clock.advance(4s);
        const auto described = [](const coir::handle_base& whom) {
          std::string text = whom.control().waits_for();
          whom.control().describe_wait(text);
          return text;
        };
        CHECK(described(one) == "slot for 6.000000 s more");
        CHECK(described(two) == "slot for 16.000000 s more, behind 1");
        CHECK(described(three) == "slot for 26.000000 s more, behind 2");
      },
      on(clock));
}

TEST_CASE("the statistics say what was taken, missed and given up, and who waits") {
  mock_clock clock(mock_clock::mode::by_hand);
  coir::run(
      [&] {
        throttler limit(10ms);
        CHECK(limit.stats().taken == 0);
        coir::await(limit.wait());
        clock.advance(35ms);
        coir::await(limit.wait());
        auto one = waiter_at(limit);
        auto two = waiter_at(limit);
        support::until([&] { return limit.stats().waiting == 2; });
        one.cancel();
        const coir::throttler_stats stats = limit.stats();
        CHECK(stats.taken == 2);
        CHECK(stats.missed == 2);
        CHECK(stats.cancelled == 1);
        CHECK(stats.waiting == 1);
      },
      on(clock));
}

TEST_CASE("on the real clock no slot is taken before its time") {
  coir::run([] {
    throttler limit(500us);
    // The grid begins after this.
    const coir::instant before = coir::steady_now();
    coir::await(limit.wait());
    std::uint64_t slots = 0;
    for (int i = 0; i < 40; ++i) {
      const std::uint64_t missed = coir::await(limit.wait());
      slots += 1 + missed;
      CHECK(coir::steady_now() >= before + slots * 500us);
    }
  });
}

#if !defined(NDEBUG)
TEST_CASE("a throttler that is used on two loops is an assertion that names both") {
  const auto ended = support::in_child([] {
    throttler limit(1ms);
    coir::loop first;
    coir::scheduler on_first(first);
    on_first.spawn([&] { coir::await(limit.wait()); });
    first.run_once();
    coir::run([&] { coir::await(limit.wait()); });
  });
  CHECK(ended.signal == SIGABRT);
  CHECK_THAT(ended.text, Catch::Matchers::Matches("coir: what belongs to loop [0-9]+ was used on loop [0-9]+:.*\n"));
}
#endif
