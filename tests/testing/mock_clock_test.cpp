#include <coir/testing/mock_clock.hpp>

#include "support/both.hpp"
#include "support/catch.hpp"

#include <coir/coir.hpp>

using namespace std::chrono_literals;
using coir::testing::mock_clock;

TEST_CASE("an hour of sleep takes no time on a clock that jumps") {
  mock_clock clock;
  const auto options = coir::run_options().loop(coir::loop_options().time(&clock));
  const coir::instant began = coir::steady_now();
  support::on_both_surfaces(
      [&](auto wait) {
        const coir::instant before = clock.now();
        wait(coir::sleep_for(1h));
        CHECK(clock.now() - before == 1h);
      },
      options);
  CHECK(coir::steady_now() - began < 10s);
}

TEST_CASE("time jumps from deadline to deadline, and fibers wake in that order") {
  mock_clock clock;
  std::vector<int> order;
  coir::run(
      [&] {
        const auto sleeper = [&](int seconds) {
          return [&order, seconds] {
            coir::await(coir::sleep_for(std::chrono::seconds(seconds)));
            order.push_back(seconds);
          };
        };
        coir::spawn(sleeper(3));
        coir::spawn(sleeper(1));
        coir::spawn(sleeper(2));
        coir::await(coir::sleep_for(4s));
      },
      coir::run_options().loop(coir::loop_options().time(&clock)));
  CHECK(order == std::vector<int>{1, 2, 3});
  CHECK(clock.jumps() == 4);
}

TEST_CASE("a clock moved by hand fires what has become due, and nothing else") {
  mock_clock clock(mock_clock::mode::by_hand);
  coir::loop loop(coir::loop_options().time(&clock));
  coir::scheduler fibers(loop);
  auto sleeper = fibers.spawn([] { coir::await(coir::sleep_for(10s)); });
  loop.run_once();
  clock.advance(10s - 1ns);
  loop.run_once();
  CHECK(sleeper.state() == coir::fiber_state::waiting);
  clock.advance(1ns);
  loop.run_once();
  CHECK(sleeper.state() == coir::fiber_state::dead);
}

TEST_CASE("what is due already on a clock moved by hand fires, also when nothing else is to be done") {
  mock_clock clock(mock_clock::mode::by_hand);
  coir::run(
      [&] {
        auto sleeper = coir::spawn([] { coir::await(coir::sleep_for(10s)); });
        coir::await(coir::yield());
        clock.advance(10s);
        // From here on nobody is ready, and nobody moves the clock any more.
        coir::await(sleeper.join());
        CHECK(clock.jumps() == 0);
      },
      coir::run_options().loop(coir::loop_options().time(&clock)));
}

TEST_CASE("what is due is done whatever a clock says to sleeping") {
  class stubborn final : public coir::time_source {
   public:
    coir::instant now() noexcept override { return now_; }
    bool idle_until(coir::instant deadline) noexcept override {
      asked_to_wait_for_the_past_ = asked_to_wait_for_the_past_ || deadline <= now_;
      if (asked_to_wait_for_the_past_) return false;
      now_ = deadline;
      return true;
    }
    bool asked_to_wait_for_the_past() const { return asked_to_wait_for_the_past_; }

   private:
    coir::instant now_{1h};
    bool asked_to_wait_for_the_past_ = false;
  };
  stubborn clock;
  support::on_both_surfaces(
      [&](auto wait) {
        const coir::instant before = clock.now();
        CHECK_FALSE(wait(coir::move_on_after(0s, coir::sleep_until(coir::never))));
        CHECK(clock.now() == before);
        wait(coir::sleep_for(1h));
        CHECK(clock.now() == before + 1h);
      },
      coir::run_options().loop(coir::loop_options().time(&clock)));
  CHECK_FALSE(clock.asked_to_wait_for_the_past());
}
