#include "loop/timers.hpp"
#include "support/loop_tools.hpp"

#include <poll.h>

#include <atomic>
#include <stdexcept>
#include <thread>

using namespace std::chrono_literals;
using tests::ringer;

TEST_CASE("a stop from before run lets one turn through, and counts once") {
  coir::loop loop;
  const coir::loop::hold more(loop);
  int ran = 0;
  loop.post([&] {
    ++ran;
    loop.post([&] { ++ran; });
  });
  loop.stop();
  loop.stop();
  loop.run();
  CHECK(ran == 1);
  CHECK(loop.stats().turns == 1);
  CHECK(loop.was_stopped());
  loop.post([&] { loop.stop(); });
  loop.run();
  CHECK(ran == 2);
}

TEST_CASE("a stop from a post ends the run after this turn, and what is left is done by the next") {
  coir::loop loop;
  std::vector<int> order;
  ringer soon(order, 9);
  loop.arm(soon, loop.time() + 1h);
  loop.post([&] {
    order.push_back(1);
    loop.stop();
    loop.post([&] {
      order.push_back(3);
      loop.arm(soon, loop.time());
    });
  });
  loop.post([&] { order.push_back(2); });
  loop.run();
  CHECK(order == std::vector{1, 2});
  loop.run();
  CHECK(order == std::vector{1, 2, 3, 9});
}

TEST_CASE("a stop from a timer or from a told request does not enter the kernel's wait again") {
  coir::loop loop;
  const coir::loop::hold more(loop);
  std::vector<int> order;
  ringer due(order, 1, [&] { loop.stop(); });
  loop.arm(due, loop.time());
  loop.run();
  CHECK(order == std::vector{1});

  const support::fd_pair ends = support::pipe_pair();
  support::asked readable(coir::request::poll(ends[0].get(), POLLIN));
  readable.seen.then = [&](coir::request&) { loop.stop(); };
  REQUIRE(loop.start(readable.request));
  REQUIRE(::write(ends[1].get(), "x", 1) == 1);
  loop.run();
  CHECK(readable.over());
}

TEST_CASE("a stop ends run_for and the wait of run_once early") {
  coir::loop loop;
  std::thread other([&] { loop.stop(); });
  loop.run_for(1h);
  other.join();
  loop.stop();
  loop.run_once(1h);
  loop.post([&] { loop.stop(); });
  loop.run_for(1h);
}

TEST_CASE("a stop that was used up by a run does not end the next") {
  coir::loop loop;
  loop.stop();
  loop.run();
  bool second = false;
  loop.post([&] { loop.post([&] { second = true; }); });
  loop.run();
  CHECK(second);
}

TEST_CASE("no stop from another thread is lost, in ten thousand") {
  coir::loop loop;
  const coir::loop::hold more(loop);
  std::atomic<int> asked = 0;
  std::atomic<int> ended = 0;
  std::thread other([&] {
    for (int i = 1; i <= 10'000; ++i) {
      // Sometimes at once, sometimes when the loop is falling asleep, sometimes when it sleeps.
      for (int spin = 0; spin < i * 37 % 4000; ++spin) std::atomic_signal_fence(std::memory_order_seq_cst);
      asked = i;
      loop.stop();
      while (ended != i) std::this_thread::yield();
    }
  });
  for (int i = 1; i <= 10'000; ++i) {
    loop.run();
    REQUIRE(asked == i);
    ended = i;
  }
  other.join();
}

TEST_CASE("a stop and a post at the same time: neither is lost") {
  coir::loop loop;
  const coir::loop::hold more(loop);
  std::atomic<int> ran = 0;
  std::atomic<int> ended = 0;
  std::thread stopper([&] {
    for (int i = 1; i <= 2000; ++i) {
      loop.stop();
      while (ended < i) std::this_thread::yield();
    }
  });
  std::thread poster([&] {
    for (int i = 0; i < 2000; ++i) {
      loop.post([&] { ++ran; });
      std::this_thread::yield();
    }
  });
  for (int i = 1; i <= 2000; ++i) {
    loop.run();
    ended = i;
  }
  stopper.join();
  poster.join();
  while (ran != 2000) loop.run_once(-1ns);
  CHECK(loop.stats().posts == 2000);
}
