#include <coir/testing/simulator.hpp>
#include <coir/testing/wait_all_blocked.hpp>

#include "support/both.hpp"
#include "support/catch.hpp"
#include "support/loop_tools.hpp"

#include <coir/coir.hpp>

#include <thread>

using namespace std::chrono_literals;
using coir::testing::simulator;
using coir::testing::simulator_options;
using coir::testing::wait_all_blocked;

TEST_CASE("it is done when every other fiber waits, and not before") {
  support::on_both_surfaces([](auto wait) {
    int steps = 0;
    auto busy = coir::spawn([&] {
      for (; steps < 1000; ++steps) coir::await(coir::yield());
      coir::await(coir::sleep_for(1h));
    });
    wait(wait_all_blocked());
    CHECK(steps == 1000);
    CHECK(busy.state() == coir::fiber_state::waiting);
    // And again, when nothing has happened since.
    wait(wait_all_blocked());
    busy.cancel();
  });
}

TEST_CASE("all that wait for it are told, and what they do next is waited for again") {
  coir::run([] {
    int steps = 0;
    for (int i = 0; i < 3; ++i) {
      coir::spawn([&] {
        coir::await(wait_all_blocked());
        for (int step = 0; step < 10; ++step) {
          ++steps;
          coir::await(coir::yield());
        }
        coir::await(wait_all_blocked());
        CHECK(steps >= 30);
        ++steps;
      });
    }
    coir::await(wait_all_blocked());
    coir::await(wait_all_blocked());
    coir::await(wait_all_blocked());
    CHECK(steps == 33);
  });
}

TEST_CASE("sleepers wait, and the clock does not move for it") {
  coir::testing::mock_clock clock;
  coir::run(
      [&] {
        const coir::instant before = clock.now();
        auto sleeper = coir::spawn([] { coir::await(coir::sleep_for(1ms)); });
        coir::await(wait_all_blocked());
        CHECK(clock.now() == before);
        CHECK(sleeper.state() == coir::fiber_state::waiting);
        coir::await(sleeper.join());
        CHECK(clock.now() - before == 1ms);
      },
      coir::run_options().loop(coir::loop_options().time(&clock)));
}

TEST_CASE("what is due is over before") {
  coir::testing::mock_clock clock(coir::testing::mock_clock::mode::by_hand);
  coir::run(
      [&] {
        auto sleeper = coir::spawn([] { coir::await(coir::sleep_for(1s)); });
        coir::await(wait_all_blocked());
        clock.advance(1s);
        coir::await(wait_all_blocked());
        CHECK(sleeper.state() == coir::fiber_state::dead);
      },
      coir::run_options().loop(coir::loop_options().time(&clock)));
}

TEST_CASE("what is under way between fibers has arrived") {
  for (std::uint64_t seed = 1; seed <= 50; ++seed) {
    INFO("seed " << seed);
    simulator sim(simulator_options().seed(seed).late(0.8).faults(0.3));
    coir::run(
        [&] {
          auto ends = sim.streams();
          auto& client = ends.first;
          auto& server = ends.second;
          std::size_t got = 0;
          auto reader = coir::spawn([&] {
            std::array<std::byte, 16> some{};
            while (const std::size_t count = coir::await(server.read_some(some))) got += count;
          });
          auto writer = coir::spawn([&] { coir::await(coir::io::write_all(client, support::bytes_of("twelve bytes"))); });
          coir::await(wait_all_blocked());
          CHECK(got == 12);
          CHECK(writer.state() == coir::fiber_state::dead);
          CHECK(reader.state() == coir::fiber_state::waiting);
          reader.cancel();
        },
        sim.for_run());
  }
}

TEST_CASE("on sockets of the kernel, too") {
  coir::run([] {
    auto ends = support::socket_pair();
    coir::loop& loop = *coir::loop::current();
    coir::net::tcp_stream in(loop, ends[0].release());
    std::size_t got = 0;
    auto reader = coir::spawn([&] {
      std::array<std::byte, 16> some{};
      for (;;) got += coir::await(in.read_some(some));
    });
    for (std::size_t i = 1; i < 10; ++i) {
      REQUIRE(::write(ends[1].get(), "x", 1) == 1);
      coir::await(wait_all_blocked());
      CHECK(got == i);
    }
    reader.cancel();
  });
}

TEST_CASE("while somebody holds the loop another thread is waited for") {
  coir::run([] {
    coir::loop& loop = *coir::loop::current();
    bool posted = false;
    std::optional<coir::loop::hold> held(loop);
    std::thread other([&] {
      std::this_thread::sleep_for(1ms);
      loop.post([&] {
        posted = true;
        held.reset();
      });
    });
    coir::await(wait_all_blocked());
    CHECK(posted);
    other.join();
  });
}

TEST_CASE("a fiber that is cancelled in it gives up its place") {
  support::on_both_surfaces([](auto wait) {
    bool came = false;
    auto waits = coir::spawn([&] {
      coir::await(wait_all_blocked());
      came = true;
    });
    wait(coir::yield());
    CHECK(waits.state() == coir::fiber_state::waiting);
    waits.cancel();
    wait(wait_all_blocked());
    CHECK_FALSE(came);
    CHECK(waits.outcome() == coir::fiber_outcome::cancelled);
  });
}
