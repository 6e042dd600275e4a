// What a post costs the kernel: one write(2) to the loop's eventfd when the loop sleeps, none when it is
// awake.
#include "loop/counted_loop.hpp"
#include "support/loop_tools.hpp"

#include <thread>

using namespace std::chrono_literals;

using tests::counted_loop;

TEST_CASE("a post to a loop that has not run, or is between two turns, rings nobody") {
  counted_loop counted;
  for (int i = 0; i < 100; ++i) counted.loop->post([] {});
  counted.loop->run_once();
  for (int i = 0; i < 100; ++i) counted.loop->post([] {});
  counted.loop->stop();
  counted.loop->run_once();
  CHECK(counted.loop->stats().posts == 200);
  CHECK(counted.rung() == 0);
}

TEST_CASE("a post to a loop that is awake rings nobody, from whichever thread") {
  counted_loop counted;
  coir::loop& loop = *counted.loop;
  loop.post([&] {
    // The loop is in the middle of a turn, and will see them before it sleeps.
    std::thread([&] {
      for (int i = 0; i < 1000; ++i) loop.post([] {});
    }).join();
    for (int i = 0; i < 1000; ++i) loop.post([] {});
  });
  loop.run();
  CHECK(loop.stats().posts == 2001);
  CHECK(counted.rung() == 0);
}

TEST_CASE("a loop that sleeps is rung once, however many posts come before it has woken") {
  counted_loop counted;
  coir::loop& loop = *counted.loop;
  // Asked for a descriptor that a foreign loop may wait for, the loop counts as asleep from the end of
  // one turn to the beginning of the next, and reads the counter in between.
  static_cast<void>(loop.pollable_fd());
  for (int sleeps = 1; sleeps <= 10; ++sleeps) {
    loop.run_once();
    CHECK(counted.rung() == 0);
    for (int i = 0; i < 100; ++i) loop.post([] {});
    loop.stop();
    CHECK(counted.rung() == 1);
  }
  loop.run_once();
  CHECK(counted.rung() == 0);
}

TEST_CASE("a loop is rung at most once per sleep, with posts coming all the time") {
  counted_loop counted;
  coir::loop& loop = *counted.loop;
  const coir::loop::hold more(loop);
  loop.trace().record(coir::trace::bit(coir::trace::point::poll_enter));
  coir::trace::forget();
  std::thread other([&] {
    for (int i = 1; i < 20'000; ++i) loop.post([] {});
    loop.post([&] { loop.stop(); });
  });
  loop.run();
  other.join();
  loop.trace().record(0);
  REQUIRE(coir::trace::lost() == 0);
  std::uint64_t sleeps = 0;
  for (const auto& each : coir::trace::recorded()) sleeps += each.a;
  CHECK(loop.stats().posts == 20'000);
  CHECK(counted.rung() <= sleeps);
}

TEST_CASE("a turn without work is no system call on io_uring and one on epoll") {
  coir::loop loop;
  loop.run_once();
  const auto before = loop.stats().backend.enters;
  support::idle_turns(loop, 100);
  CHECK(loop.stats().backend.enters - before == (support::on_uring(loop) ? 0 : 100));
}
