#include <coir/loop/timer_heap.hpp>

#include "loop/timers.hpp"
#include "support/loop_tools.hpp"

#include <poll.h>

#include <stdexcept>

using namespace std::chrono_literals;
using tests::ringer;

TEST_CASE("timers fire by deadline, whatever the order in which they were armed") {
  coir::loop loop;
  std::vector<int> order;
  ringer one(order, 1), two(order, 2), three(order, 3), four(order, 4);
  const coir::instant now = loop.time();
  loop.arm(three, now + 3ms);
  loop.arm(one, now + 1ms);
  loop.arm(four, now + 4ms);
  loop.arm(two, now + 2ms);
  loop.run();
  CHECK(order == std::vector{1, 2, 3, 4});
}

TEST_CASE("equal deadlines fire in the order in which they were armed") {
  coir::loop loop;
  std::vector<int> order;
  std::vector<std::unique_ptr<ringer>> ringers;
  std::vector<int> expected;
  const coir::instant deadline = loop.time() + 1ms;
  for (int i = 0; i < 1000; ++i) {
    ringers.push_back(std::make_unique<ringer>(order, i));
    loop.arm(*ringers.back(), deadline);
    expected.push_back(i);
  }
  loop.run();
  CHECK(order == expected);
}

TEST_CASE("moving a timer to the deadline it has puts it behind its equals") {
  coir::loop loop;
  std::vector<int> order;
  ringer one(order, 1), two(order, 2);
  const coir::instant deadline = loop.time() + 1ms;
  loop.arm(one, deadline);
  loop.arm(two, deadline);
  loop.arm(one, deadline);
  loop.run();
  CHECK(order == std::vector{2, 1});
}

TEST_CASE("a deadline that is now or long past fires in the next turn, not inline") {
  coir::loop loop;
  for (const coir::instant deadline : {loop.time(), loop.time() - 1h, coir::instant(), coir::instant(-1ns),
                                       coir::instant::min() + 1ns, coir::instant::min()}) {
    std::vector<int> order;
    ringer due(order, 1);
    loop.arm(due, deadline);
    CHECK(order.empty());
    CHECK(due.armed());
    loop.run_once(-1ns);
    CHECK(order == std::vector{1});
    CHECK_FALSE(due.armed());
  }
}

TEST_CASE("a timer armed while timers fire waits for a later turn, also when it is due") {
  coir::loop loop;
  std::vector<int> order;
  ringer late(order, 2);
  ringer first(order, 1, [&] { loop.arm(late, coir::instant::min()); });
  ringer again(order, 3);
  again.then = [&] {
    if (order.size() < 10) loop.arm(again, loop.time());
  };
  loop.arm(first, loop.time());
  loop.run_once();
  CHECK(order == std::vector{1});
  loop.run_once();
  CHECK(order == std::vector{1, 2});
  order.clear();
  loop.arm(again, loop.time());
  for (std::size_t turns = 1; turns <= 3; ++turns) {
    loop.run_once();
    CHECK(order.size() == turns);
  }
  loop.disarm(again);
}

TEST_CASE("a timer may disarm, delay or hasten its neighbours that are due in the same turn") {
  coir::loop loop;
  std::vector<int> order;
  ringer dropped(order, 2), delayed(order, 3), kept(order, 4), far(order, 5);
  ringer first(order, 1, [&] {
    CHECK(loop.timers() == 4);
    CHECK(loop.disarm(dropped));
    CHECK_FALSE(loop.disarm(dropped));
    CHECK_FALSE(dropped.armed());
    loop.arm(delayed, loop.time() + 1ms);
    loop.arm(far, loop.time());
    CHECK(loop.timers() == 3);
  });
  const coir::instant now = loop.time();
  for (ringer* each : {&first, &dropped, &delayed, &kept}) loop.arm(*each, now);
  loop.arm(far, now + 1h);
  loop.run_once();
  CHECK(order == std::vector{1, 4});
  loop.run();
  CHECK(order == std::vector{1, 4, 5, 3});
  CHECK(loop.timers() == 0);
}

TEST_CASE("a timer may disarm itself, in vain, and be destroyed while it fires") {
  coir::loop loop;
  std::vector<int> order;
  std::unique_ptr<ringer> owned;
  owned = std::make_unique<ringer>(order, 1, [&] {
    CHECK_FALSE(loop.disarm(*owned));
    owned.reset();
  });
  loop.arm(*owned, loop.time());
  loop.run();
  CHECK(order == std::vector{1});
  CHECK(owned == nullptr);
}

TEST_CASE("a timer that was moved earlier fires earlier, and one that was moved later, later") {
  coir::loop loop;
  std::vector<int> order;
  ringer one(order, 1), two(order, 2), three(order, 3);
  const coir::instant now = loop.time();
  loop.arm(one, now + 2ms);
  loop.arm(two, now + 1h);
  loop.arm(three, now);
  loop.arm(two, now + 1ms);
  loop.arm(three, now + 3ms);
  CHECK(loop.timers() == 3);
  loop.run();
  CHECK(order == std::vector{2, 1, 3});
  CHECK(loop.time() >= now + 3ms);
}

TEST_CASE("nothing fires early, not by a nanosecond") {
  coir::loop loop;
  std::vector<int> order;
  for (int i = 0; i < 200; ++i) {
    const coir::instant deadline = loop.time() + std::chrono::nanoseconds(i * 7001);
    coir::instant at;
    ringer timed(order, i, [&] { at = coir::steady_now(); });
    loop.arm(timed, deadline);
    loop.run();
    REQUIRE(at >= deadline);
    REQUIRE(loop.turn_time() >= deadline);
  }
}

TEST_CASE("a timer that throws leaves run, and the others that were due fire next") {
  coir::loop loop;
  std::vector<int> order;
  ringer one(order, 1), three(order, 3), four(order, 4);
  ringer two(order, 2, [] { throw std::runtime_error("from a timer"); });
  const coir::instant now = loop.time();
  for (ringer* each : {&one, &two, &three}) loop.arm(*each, now);
  loop.arm(four, now + 1h);
  CHECK_THROWS_WITH(loop.run(), "from a timer");
  CHECK(order == std::vector{1, 2});
  CHECK_FALSE(two.armed());
  CHECK(three.armed());
  loop.run_once(-1ns);
  CHECK(order == std::vector{1, 2, 3});
  CHECK(loop.disarm(four));
  loop.run();
  CHECK(order == std::vector{1, 2, 3});
}

TEST_CASE("what a throwing timer left behind can be disarmed, and holds nothing up") {
  coir::loop loop;
  std::vector<int> order;
  ringer one(order, 1, [] { throw std::runtime_error("from a timer"); });
  ringer two(order, 2);
  loop.arm(one, loop.time());
  loop.arm(two, loop.time());
  CHECK_THROWS_WITH(loop.run_once(), "from a timer");
  CHECK(loop.timers() == 1);
  CHECK(loop.disarm(two));
  CHECK(loop.timers() == 0);
  CHECK_FALSE(loop.can_wake());
  loop.run();
  CHECK(order == std::vector{1});
}

TEST_CASE("a deadline in the far future neither overflows nor fires nor keeps the loop from its work") {
  coir::loop loop;
  std::vector<int> order;
  ringer far(order, 1), farther(order, 2), farthest(order, 3);
  loop.arm(far, loop.time() + 1'000'000'000s);
  loop.arm(farther, coir::never - 1ns);
  loop.arm(farthest, coir::never);
  loop.post([&] { order.push_back(4); });
  loop.run_once(1ms);
  loop.run_once(1ms);
  CHECK(order == std::vector{4});
  CHECK(loop.timers() == 3);
  for (ringer* each : {&far, &farther, &farthest}) loop.disarm(*each);
  CHECK_FALSE(loop.can_wake());
}

TEST_CASE("a thousand and twenty-four timers fire in a turn; then descriptors get theirs") {
  coir::loop loop;
  std::vector<int> order;
  std::vector<std::unique_ptr<ringer>> ringers;
  const coir::instant deadline = loop.time();
  for (int i = 0; i < 3000; ++i) {
    ringers.push_back(std::make_unique<ringer>(order, i));
    loop.arm(*ringers.back(), deadline);
  }
  const support::fd_pair ends = support::pipe_pair();
  support::asked readable(coir::request::poll(ends[0].get(), POLLIN));
  readable.seen.then = [&](coir::request&) { order.push_back(-1); };
  REQUIRE(loop.start(readable.request));
  loop.run_once();
  CHECK(order.size() == 1024);
  REQUIRE(::write(ends[1].get(), "x", 1) == 1);
  loop.run_once();
  REQUIRE(order.size() == 2049);
  CHECK(order[1024] == -1);
  loop.run();
  CHECK(order.size() == 3001);
  CHECK(order.back() == 2999);
}

TEST_CASE("a loop that dies lets go of its timers, which may then be destroyed or armed elsewhere") {
  std::vector<int> order;
  ringer armed(order, 1), due(order, 2);
  {
    coir::loop loop;
    ringer failing(order, 0, [] { throw std::runtime_error("from a timer"); });
    loop.arm(failing, loop.time());
    loop.arm(due, loop.time());
    loop.arm(armed, loop.time() + 1h);
    CHECK_THROWS(loop.run_once());
  }
  CHECK_FALSE(armed.armed());
  CHECK_FALSE(due.armed());
  coir::loop other;
  other.arm(armed, other.time());
  other.arm(due, other.time());
  CHECK(other.disarm(due));
  other.arm(due, other.time());
  other.run();
  CHECK(order == std::vector{0, 1, 2});
}

TEST_CASE("loop time that was shifted into the past delays deadlines by as much") {
  coir::loop loop;
  loop.shift_time(1h);
  const coir::instant began = loop.time();
  CHECK(began <= coir::steady_now() - 1h);
  std::vector<int> order;
  ringer soon(order, 1), now(order, 0);
  loop.arm(soon, began + 2ms);
  loop.arm(now, began);
  loop.run();
  CHECK(order == std::vector{0, 1});
  CHECK(loop.time() >= began + 2ms);
}
