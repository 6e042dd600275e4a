#include "until.hpp"

#include "support/both.hpp"
#include "support/catch.hpp"
#include "support/jumping.hpp"

#include <coir/coir.hpp>
#include <coir/testing/mock_clock.hpp>

#include <algorithm>
#include <chrono>
#include <limits>
#include <vector>

using namespace std::chrono_literals;
using coir::fiber_outcome;
using coir::fiber_state;
using coir::testing::mock_clock;

namespace {

coir::run_options on(coir::time_source& clock) {
  return coir::run_options().loop(coir::loop_options().time(&clock));
}
std::chrono::duration<double> seconds_of(double count) { return std::chrono::duration<double>(count); }
coir::loop& loop_here() { return coir::running_fiber().home().on(); }

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

}  // namespace

TEST_CASE("a sleep ends at its time, and never before it") {
  support::on_both_surfaces([](auto wait) {
    for (const auto length : {1ns, 1'000ns, 50'000ns, 1'000'000ns, 1'499'999ns}) {
      const coir::instant before = coir::steady_now();
      wait(coir::sleep_for(length));
      CHECK(coir::steady_now() - before >= length);
      const coir::instant deadline = coir::after(coir::steady_now(), length);
      wait(coir::sleep_until(deadline));
      CHECK(coir::steady_now() >= deadline);
    }
  });
}

TEST_CASE("a fiber that sleeps gets no time that passed before: not even in a long turn") {
  coir::run([] {
    // The turn's time is old by now.
    const coir::instant before = coir::steady_now();
    while (coir::steady_now() - before < 3ms) {
    }
    const coir::instant began = coir::steady_now();
    coir::await(coir::sleep_for(1ms));
    CHECK(coir::steady_now() - began >= 1ms);
  });
}

TEST_CASE("a sleep of nothing, less than nothing, or until before now lets others run and arms no timer") {
  mock_clock clock(mock_clock::mode::by_hand);
  support::on_both_surfaces(
      [&](auto wait) {
        const auto lets_others_run = [&](coir::sleep_op what) {
          bool other_ran = false;
          auto other = coir::spawn([&] { other_ran = true; });
          wait(std::move(what));
          CHECK(other_ran);
          CHECK(loop_here().timers() == 0);
          wait(other.join());
        };
        lets_others_run(coir::sleep_for(0s));
        lets_others_run(coir::sleep_for(-1ns));
        lets_others_run(coir::sleep_for(coir::duration::min()));
        lets_others_run(coir::sleep_for(std::chrono::hours::min()));
        lets_others_run(coir::sleep_for(seconds_of(std::numeric_limits<double>::quiet_NaN())));
        lets_others_run(coir::sleep_until(coir::instant::min()));
        lets_others_run(coir::sleep_until(coir::instant()));
        lets_others_run(coir::sleep_until(clock.now()));
        lets_others_run(coir::sleep_until(clock.now() - 1ns));
      },
      on(clock));
}

TEST_CASE("a sleep for ever arms no timer, and ends by cancellation only") {
  coir::run([] {
    const auto lasts = [](coir::sleep_op what) {
      auto sleeper = coir::spawn([op = std::move(what)]() mutable { coir::await(op); });
      coir::await(coir::yield());
      coir::await(coir::yield());
      CHECK(sleeper.state() == fiber_state::waiting);
      CHECK(loop_here().timers() == 0);
      sleeper.cancel();
      coir::await(coir::end_op(sleeper));
      CHECK(sleeper.outcome() == fiber_outcome::cancelled);
    };
    lasts(coir::sleep_until(coir::never));
    lasts(coir::sleep_for(coir::duration::max()));
    lasts(coir::sleep_for(std::chrono::hours::max()));
    lasts(coir::sleep_for(seconds_of(1e300)));
    lasts(coir::sleep_for(seconds_of(std::numeric_limits<double>::infinity())));
  });
}

TEST_CASE("fibers wake by deadline, and equal deadlines in the order in which the sleeps began") {
  mock_clock clock;
  coir::run(
      [&] {
        std::vector<int> order;
        const coir::instant base = clock.now();
        std::vector<coir::fiber<void>> sleepers;
        // Three deadlines, dealt out in turns.
        for (int i = 0; i < 300; ++i) {
          sleepers.push_back(coir::spawn([&order, base, i] {
            coir::await(coir::sleep_until(base + std::chrono::seconds(3 - i % 3)));
            order.push_back(i);
          }));
        }
        for (auto& each : sleepers) coir::await(each.join());
        std::vector<int> expected(300);
        for (int i = 0; i < 300; ++i) expected[static_cast<std::size_t>(i)] = i;
        std::stable_sort(expected.begin(), expected.end(), [](int a, int b) { return a % 3 > b % 3; });
        CHECK(order == expected);
        CHECK(clock.jumps() == 3);
      },
      on(clock));
}

TEST_CASE("a sleep that is cancelled gives its timer back, at once") {
  support::on_both_surfaces([](auto wait) {
    std::vector<coir::fiber<void>> sleepers;
    for (int i = 0; i < 100; ++i) {
      sleepers.push_back(coir::spawn([] { coir::await(coir::sleep_for(1h)); }));
    }
    wait(coir::yield());
    CHECK(loop_here().timers() == 100);
    for (std::size_t i = 0; i < 100; i += 2) sleepers[i].cancel();
    CHECK(loop_here().timers() == 50);
    for (auto& each : sleepers) each.cancel();
    CHECK(loop_here().timers() == 0);
    for (auto& each : sleepers) wait(coir::end_op(each));
  });
}

TEST_CASE("durations of any kind are taken as they are") {
  mock_clock clock;
  coir::run(
      [&] {
        const auto slept = [&](auto length) {
          const coir::instant before = clock.now();
          coir::await(coir::sleep_for(length));
          return clock.now() - before;
        };
        CHECK(slept(1h) == 1h);
        CHECK(slept(std::chrono::duration<double>(0.25)) == 250ms);
        CHECK(slept(std::chrono::duration<int, std::ratio<60>>(2)) == 2min);
        CHECK(slept(std::chrono::duration<float, std::micro>(2.5f)) == 2500ns);
        // Less than a nanosecond is one.
        CHECK(slept(std::chrono::duration<double, std::pico>(1)) == 1ns);
        CHECK(slept(std::chrono::hours(24 * 365)) == std::chrono::hours(24 * 365));
      },
      on(clock));
}

TEST_CASE("sleep_for reads the clock once, a sleep that is over not at all, and yield never") {
  counting_clock clock;
  coir::run(
      [&] {
        coir::await(coir::yield());
        const auto readings_of = [&](auto spawn) {
          // All in one turn, whatever that itself reads.
          const auto with = [&](int count) {
            coir::await(coir::sleep_for(1ns));
            std::vector<coir::fiber<void>> children;
            for (int i = 0; i < count; ++i) children.push_back(spawn());
            const unsigned before = clock.readings;
            coir::await(coir::yield());
            const unsigned read = clock.readings - before;
            for (auto& each : children) each.cancel();
            for (auto& each : children) coir::await(coir::end_op(each));
            return read;
          };
          with(1);
          // Fewer than a turn looks at the clock for.
          return with(6) - with(1);
        };
        CHECK(readings_of([] { return coir::spawn([] { coir::await(coir::sleep_for(1h)); }); }) == 5);
        CHECK(readings_of([] { return coir::spawn([] { coir::await(coir::sleep_for(0s)); }); }) == 0);
        CHECK(readings_of([] {
                return coir::spawn([] { coir::await(coir::sleep_until(coir::instant::min())); });
              }) == 0);
        CHECK(readings_of([] {
                return coir::spawn([] { coir::await(coir::sleep_until(coir::never)); });
              }) == 0);
        CHECK(readings_of([] { return coir::spawn([] { coir::await(coir::yield()); }); }) == 0);
      },
      on(clock));
}

TEST_CASE("what a sleep still waits for is described") {
  mock_clock clock(mock_clock::mode::by_hand);
  coir::run(
      [&] {
        auto sleeper = coir::spawn([] { coir::await(coir::sleep_for(90s)); });
        auto for_ever = coir::spawn([] { coir::await(coir::sleep_until(coir::never)); });
        coir::await(coir::yield());
        clock.advance(30s);
        std::string text;
        sleeper.control().describe_wait(text);
        CHECK(text == " for 60.000000 s more");
        text.clear();
        for_ever.control().describe_wait(text);
        CHECK(text == " for ever");
      },
      on(clock));
}

TEST_CASE("a sleep that is awaited again has the deadline that it had") {
  support::jumping_on_both([](auto wait) {
    const coir::instant begin = support::now();
    auto sleep = coir::sleep_for(10s);
    CHECK(wait(coir::select(sleep, coir::sleep_for(4s))).index() == 1);
    wait(support::again(sleep));
    CHECK(support::now() - begin == 10s);
    wait(support::again(sleep));
    CHECK(support::now() - begin == 10s);
  });
}
