// The loop's waits on a clock that is not the steady one (coir/testing/mock_clock.hpp).
#include <coir/testing/mock_clock.hpp>

#include "loop/timers.hpp"
#include "support/loop_tools.hpp"

#include <algorithm>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

using namespace std::chrono_literals;
using coir::testing::mock_clock;
using tests::ringer;

namespace {

coir::loop_options with(mock_clock& clock) {
  return coir::loop_options().time(&clock);
}

}  // namespace

TEST_CASE("run_for takes no time on a clock that jumps, and ends exactly at its limit") {
  mock_clock clock;
  coir::loop loop(with(clock));
  const coir::instant began = loop.time();
  loop.run_for(1h);
  CHECK(loop.time() == began + 1h);
  CHECK(clock.jumps() == 1);
}

TEST_CASE("run_for fires what is due on the way, each at its own instant, and nothing behind its limit") {
  mock_clock clock;
  coir::loop loop(with(clock));
  const coir::instant began = loop.time();
  std::vector<int> order;
  std::vector<coir::instant> when;
  const auto note = [&] { when.push_back(loop.time()); };
  ringer one(order, 1, note), two(order, 2, note), three(order, 3, note), at_end(order, 4, note),
      behind(order, 5);
  loop.arm(three, began + 50min);
  loop.arm(two, began + 10min + 1ns);
  loop.arm(one, began + 10min);
  loop.arm(at_end, began + 1h);
  loop.arm(behind, began + 1h + 1ns);
  loop.run_for(1h);
  CHECK(order == std::vector{1, 2, 3, 4});
  CHECK(when == std::vector{began + 10min, began + 10min + 1ns, began + 50min, began + 1h});
  CHECK(loop.time() == began + 1h);
  CHECK(behind.armed());
  loop.disarm(behind);
}

TEST_CASE("one turn jumps to the next deadline or to its limit, whichever comes first") {
  mock_clock clock;
  coir::loop loop(with(clock));
  const coir::instant began = loop.time();
  std::vector<int> order;
  ringer soon(order, 1);
  loop.arm(soon, began + 10s);
  CHECK(loop.run_once(3s) == 0);
  CHECK(loop.time() == began + 3s);
  CHECK(loop.run_once(1h) == 1);
  CHECK(loop.time() == began + 10s);
  CHECK(loop.turn_time() == began + 10s);
  CHECK(loop.run_once() == 0);
  CHECK(loop.time() == began + 10s);
}

TEST_CASE("what the kernel has comes before a jump") {
  mock_clock clock;
  coir::loop loop(with(clock));
  const coir::instant began = loop.time();
  const support::fd_pair ends = support::socket_pair();
  std::array<std::byte, 8> buffer;
  support::asked get(coir::request::recv(ends[0].get(), buffer));
  REQUIRE(loop.start(get.request));
  std::vector<int> order;
  ringer later(order, 1);
  loop.arm(later, began + 1h);
  loop.run_once(0ns);
  REQUIRE(::write(ends[1].get(), "x", 1) == 1);
  loop.run_once(2h);
  CHECK(get.over());
  CHECK(loop.time() == began);
  CHECK(order.empty());
  loop.run_once(2h);
  CHECK(loop.time() == began + 1h);
  CHECK(order == std::vector{1});
}

TEST_CASE("time stands still while another thread is expected to do something") {
  mock_clock clock;
  coir::loop loop(with(clock));
  const coir::instant began = loop.time();
  std::vector<int> order;
  ringer later(order, 1);
  loop.arm(later, began + 1h);
  auto hold = std::make_unique<coir::loop::hold>(loop);
  coir::instant posted_at;
  std::thread other([&] {
    loop.post([&] {
      posted_at = loop.time();
      hold.reset();
    });
  });
  loop.run();
  other.join();
  CHECK(posted_at == began);
  CHECK(order == std::vector{1});
  CHECK(loop.time() == began + 1h);
}

TEST_CASE("a clock moved by hand is waited for by nobody: one turn returns at once") {
  mock_clock clock(mock_clock::mode::by_hand);
  coir::loop loop(with(clock));
  const coir::instant began = loop.time();
  std::vector<int> order;
  ringer soon(order, 1);
  loop.arm(soon, began + 1s);
  CHECK(loop.run_once(1h) == 0);
  CHECK(loop.time() == began);
  clock.advance(1s - 1ns);
  CHECK(loop.run_once(1h) == 0);
  clock.advance(1ns);
  CHECK(loop.run_once(1h) == 1);
  CHECK(order == std::vector{1});
}

TEST_CASE("run_for on a clock moved by hand ends when the hand has moved it far enough") {
  mock_clock clock(mock_clock::mode::by_hand);
  coir::loop loop(with(clock));
  std::vector<int> order;
  ringer soon(order, 1);
  loop.arm(soon, loop.time() + 2s);
  int turns = 0;
  std::function<void()> move = [&] {
    clock.advance(1s);
    if (++turns < 3) loop.post(move);
  };
  loop.post(move);
  loop.run_for(3s);
  CHECK(turns == 3);
  CHECK(order == std::vector{1});
}

TEST_CASE("a shift of the loop's time and a replaced clock add up") {
  mock_clock clock;
  coir::loop loop(with(clock));
  const coir::instant began = loop.time();
  std::vector<int> order;
  ringer soon(order, 1);
  loop.arm(soon, began + 10s);
  loop.shift_time(5s);
  CHECK(loop.time() == began - 5s);
  loop.run();
  CHECK(order == std::vector{1});
  CHECK(loop.time() == began + 10s);
}

TEST_CASE("ten thousand timers on a clock that jumps fire one instant after the other") {
  mock_clock clock;
  coir::loop loop(with(clock));
  const coir::instant began = loop.time();
  std::vector<int> order;
  std::vector<std::unique_ptr<ringer>> all;
  for (int i = 0; i < 10'000; ++i) {
    all.push_back(std::make_unique<ringer>(order, i));
    loop.arm(*all.back(), began + (i / 2 + 1) * 1ms);
  }
  loop.run();
  CHECK(order.size() == 10'000);
  CHECK(std::is_sorted(order.begin(), order.end()));
  CHECK(clock.jumps() == 5'000);
  CHECK(loop.time() == began + 5s);
}
