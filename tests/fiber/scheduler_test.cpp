// Who runs when: the run queue, its share of a turn, and the share of a fiber.
#include "counted.hpp"
#include "hand_op.hpp"
#include "until.hpp"

#include "support/catch.hpp"
#include "support/child_process.hpp"
#include "support/jumping.hpp"
#include "support/loop_tools.hpp"

#include <coir/coir.hpp>

#include <poll.h>

#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdlib>
#include <exception>
#include <stdexcept>
#include <string>
#include <vector>

using namespace std::chrono_literals;
using coir::fiber_outcome;
using coir::fiber_state;
using support::counted;
using support::hand;
using support::hand_op;

namespace {

coir::task<> yields_until(const bool& stop, std::uint64_t& count) {
  while (!stop) {
    ++count;
    co_await coir::yield();
  }
}
// Ops that are done at once, one after the other.
coir::task<> asks_until(const bool& stop, std::uint64_t& count) {
  hand ready;
  while (!stop) {
    ++count;
    ready.complete();
    co_await hand_op(ready);
  }
}

}  // namespace

TEST_CASE("yield lets every fiber that is ready run once, in turn") {
  coir::run([] {
    std::string order;
    std::vector<coir::fiber<void>> children;
    for (const char name : {'a', 'b', 'c'}) {
      children.push_back(coir::spawn([&order, name] {
        for (int i = 0; i < 3; ++i) {
          order += name;
          coir::await(coir::yield());
        }
      }));
      children.push_back(coir::spawn([](std::string& to, char upper) -> coir::task<> {
        for (int i = 0; i < 3; ++i) {
          to += upper;
          co_await coir::yield();
        }
      }(order, static_cast<char>(name - 'a' + 'A'))));
    }
    for (auto& each : children) coir::await(each.join());
    CHECK(order == "aAbBcCaAbBcCaAbBcC");
  });
}

TEST_CASE("a fiber that is alone yields to the loop and goes on") {
  support::jumping([] {
    const std::uint64_t turns = coir::running_fiber().home().on().stats().turns;
    for (int i = 0; i < 10'000; ++i) coir::await(coir::yield());
    // 256 of them are a turn's share.
    const std::uint64_t taken = coir::running_fiber().home().on().stats().turns - turns;
    CHECK(taken >= 10'000 / 256);
    CHECK(taken <= 10'000 / 256 + 2);
  });
}

TEST_CASE("yield in a cancelled fiber throws; one cancelled in its yield goes on to the next") {
  coir::run([] {
    int steps = 0;
    auto child = coir::spawn([&] {
      coir::await(coir::yield());
      ++steps;
      coir::await(coir::yield());
      ++steps;
    });
    coir::await(coir::yield());
    CHECK(child.state() == fiber_state::ready);
    child.cancel();
    coir::await(coir::end_op(child));
    CHECK(child.outcome() == fiber_outcome::cancelled);
    CHECK(steps == 1);
  });
}

TEST_CASE("a turn runs at most 256 fibers, and the next turn goes on where it stopped") {
  for (const bool on_stacks : {false, true}) {
    coir::testing::mock_clock clock;  // stands still: the turn's time is not up before
    coir::loop loop(coir::loop_options().time(&clock));
    coir::scheduler fibers(loop);
    std::vector<int> order;
    for (int i = 0; i < 1000; ++i) {
      if (on_stacks) {
        fibers.spawn([&order, i] { order.push_back(i); });
      } else {
        fibers.spawn([](std::vector<int>& to, int me) -> coir::task<> {
          to.push_back(me);
          co_return;
        }(order, i));
      }
    }
    loop.run_once();
    CHECK(order.size() == 256);
    loop.run_once();
    CHECK(order.size() == 512);
    loop.run_once();
    loop.run_once();
    REQUIRE(order.size() == 1000);
    bool in_order = true;
    for (int i = 0; i < 1000; ++i) in_order &= order[static_cast<std::size_t>(i)] == i;
    CHECK(in_order);
  }
}

TEST_CASE("a turn whose time is up ends when 8, 32 or 128 fibers have run") {
  struct timing {
    coir::duration work;
    int per_turn;
  };
  for (const timing each : {timing{10ms, 8}, timing{1250us, 8}, timing{1249us, 32}, timing{312us, 128},
                            timing{78us, 256}, timing{1us, 256}}) {
    for (const bool on_stacks : {false, true}) {
      coir::testing::mock_clock clock(coir::testing::mock_clock::mode::by_hand);
      int steps = 0;
      const auto step = [&] {
        ++steps;
        clock.advance(each.work);
      };
      coir::loop loop(coir::loop_options().time(&clock));
      coir::scheduler fibers(loop);
      for (int i = 0; i < 3; ++i) {
        if (on_stacks) {
          fibers.spawn([&] {
            for (;;) {
              step();
              coir::await(coir::yield());
            }
          });
        } else {
          fibers.spawn([](auto& work) -> coir::task<> {
            for (;;) {
              work();
              co_await coir::yield();
            }
          }(step));
        }
      }
      for (int turns = 1; turns != 4; ++turns) {
        loop.run_once();
        CHECK(steps == turns * each.per_turn);
      }
    }
  }
}

TEST_CASE("a fiber that works for 5 ms between two yields does not hold timers up for long") {
  coir::testing::mock_clock clock(coir::testing::mock_clock::mode::by_hand);
  coir::loop loop(coir::loop_options().time(&clock));
  coir::scheduler fibers(loop);
  fibers.spawn([&] {
    for (;;) {
      clock.advance(5ms);
      coir::await(coir::yield());
    }
  });
  const coir::instant deadline = loop.time() + 1s;
  bool fired = false;
  auto timer = loop.at(deadline, [&] { fired = true; });
  while (!fired) loop.run_once();
  CHECK(loop.time() - deadline <= 40ms);
}

TEST_CASE("fibers that never wait do not keep timers and descriptors from anybody") {
  const auto spawn_busy = [](int which, const bool& stop, std::uint64_t& count) -> coir::fiber<void> {
    switch (which) {
      case 0: return coir::spawn(yields_until(stop, count));
      case 1: return coir::spawn(asks_until(stop, count));
      case 2:
        return coir::spawn([&] {
          while (!stop) {
            ++count;
            coir::await(coir::yield());
          }
        });
      case 3:
        return coir::spawn([&] {
          hand ready;
          while (!stop) {
            ++count;
            ready.complete();
            coir::await(hand_op(ready));
          }
        });
      default:
        return coir::spawn([&] {
          while (!stop) {
            ++count;
            coir::await(coir::sleep_for(0s));
          }
        });
    }
  };
  for (int which = 0; which < 6; ++which) {
    INFO("kind " << which);
    coir::run([&] {
      coir::loop& loop = coir::running_fiber().home().on();
      bool stop = false;
      std::uint64_t count = 0;
      std::vector<coir::fiber<void>> busy;
      // The last round: all kinds together, many of each.
      for (int i = 0; i < (which == 5 ? 50 : 2); ++i) {
        busy.push_back(spawn_busy(which == 5 ? i % 5 : which, stop, count));
      }
      support::fd_pair ends = support::socket_pair();
      const coir::descriptor mine(loop, ends[0].release());
      auto reader = coir::spawn([&] {
        std::array<std::byte, 8> buffer;
        coir::request_op<coir::byte_count> read(loop, coir::request::recv(mine.get(), buffer));
        return coir::await(read);
      });
      for (int i = 0; i < 20; ++i) coir::await(coir::sleep_for(10us));
      CHECK(::send(ends[1].get(), "x", 1, MSG_NOSIGNAL) == 1);
      CHECK(coir::await(reader.join()) == 1);
      CHECK(count > 0);
      stop = true;
      for (auto& each : busy) coir::await(each.join());
    });
  }
}

TEST_CASE("a fiber whose ops finish at once goes on for 64 of them, and not when it is resumed in between") {
  coir::run([] {
    std::vector<std::uint64_t> counts;
    bool stop = false;
    std::uint64_t count = 0;
    auto busy = coir::spawn(asks_until(stop, count));
    for (int i = 0; i < 5; ++i) {
      coir::await(coir::yield());
      counts.push_back(count);
    }
    CHECK(counts == std::vector<std::uint64_t>{64, 128, 192, 256, 320});
    stop = true;
    coir::await(busy.join());
  });
}

TEST_CASE("a scheduler that ends cancels its fibers, and waits for them") {
  hand hold(coir::abort_answer::later);
  int told = 0;
  coir::loop loop;
  {
    coir::scheduler fibers(loop);
    for (int i = 0; i < 10; ++i) {
      fibers.spawn([&, held = counted(i)] {
        try {
          coir::await(coir::sleep_for(1h));
        } catch (const coir::cancelled&) {
          ++told;
          throw;
        }
      });
    }
    // One that has to be waited for.
    fibers.spawn([&, held = counted(10)] { coir::await(hand_op(hold)); });
    auto ends_it = fibers.spawn([&] {
      try {
        coir::await(coir::sleep_until(coir::never));
      } catch (const coir::cancelled&) {
        hold.give_up();
        throw;
      }
    });
    loop.run_once();
    CHECK(fibers.home().alive() == 12);
  }
  CHECK(told == 10);
  CHECK(counted::alive == 0);
  // The loop is free for another.
  coir::scheduler again(loop);
  auto child = again.spawn([] { return 1; });
  loop.run_once();
  CHECK(child.state() == fiber_state::dead);
}

TEST_CASE("a loop has one scheduler") {
  coir::loop loop;
  const coir::scheduler fibers(loop);
  CHECK_THROWS_AS(coir::scheduler(loop), std::logic_error);
}

TEST_CASE("a fiber cannot run a loop that has fibers; it can run one that has none") {
  coir::loop loop;
  coir::scheduler fibers(loop);
  bool ran = false;
  fibers.spawn([&] { ran = true; });
  coir::run([&] {
    coir::loop bare;
    bool posted = false;
    bare.post([&] { posted = true; });
    bare.run_once();
    CHECK(posted);
    CHECK_THROWS_AS(loop.run_once(), std::logic_error);
    CHECK_FALSE(ran);
    // Nor its own, which is in a turn.
    CHECK_THROWS_AS(coir::running_fiber().home().on().run_once(), std::logic_error);
  });
  loop.run_once();
  CHECK(ran);
}

TEST_CASE("a scheduler of another loop that a fiber spawns into and ends itself ends the program") {
  const auto ended = support::in_child([] {
    std::set_terminate(std::abort);
    coir::run([] {
      coir::loop other;
      coir::scheduler fibers(other);
      fibers.spawn([] {});
    });
  });
  CHECK(ended.signal == SIGABRT);
}

TEST_CASE("the scheduler counts what was spawned, has ended, and failed") {
  coir::loop loop;
  coir::scheduler fibers(loop);
  int told = 0;
  fibers.on_failure([&](const coir::fiber_base& which, std::exception_ptr) {
    CHECK(which.name() == "failing");
    ++told;
  });
  fibers.spawn([] {});
  fibers.spawn([] { throw std::runtime_error("it broke"); }, coir::spawn_options().name("failing"));
  auto waiting = fibers.spawn([] { coir::await(coir::sleep_for(1h)); });
  CHECK(fibers.stats().spawned == 3);
  CHECK(fibers.stats().ended == 0);
  loop.run_once();
  CHECK(fibers.stats().ended == 2);
  CHECK(fibers.stats().failures == 1);
  CHECK(told == 1);
  waiting.cancel();
  loop.run_once();
  CHECK(fibers.stats().ended == 3);
}

TEST_CASE("the scheduler counts fibers that were cancelled and returned all the same, with both bodies") {
  coir::loop loop;
  coir::scheduler fibers(loop);
  const auto function = [] {
    try {
      coir::await(coir::sleep_until(coir::never));
    } catch (const coir::cancelled&) {
    }
  };
  const auto coroutine = []() -> coir::task<> {
    try {
      co_await coir::sleep_until(coir::never);
    } catch (const coir::cancelled&) {
    }
  };
  auto first = fibers.spawn(function);
  loop.run_once();
  first.cancel();
  loop.run_once();
  CHECK(fibers.stats().swallowed == 1);
  auto second = fibers.spawn(coroutine);
  loop.run_once();
  second.cancel();
  loop.run_once();
  CHECK(fibers.stats().swallowed == 2);
}

TEST_CASE("two loops with fibers run in turns on one thread, and their fibers wake each other") {
  coir::loop loops[2];
  coir::scheduler one(loops[0]);
  coir::scheduler two(loops[1]);
  hand ping;
  hand pong;
  int rounds = 0;
  auto first = one.spawn([&] {
    for (int i = 0; i < 100; ++i) {
      ping.complete(i);
      CHECK(coir::await(hand_op(pong)) == i);
    }
  });
  auto second = two.spawn([](hand& in, hand& out, int& count) -> coir::task<> {
    for (int i = 0; i < 100; ++i) {
      const int got = co_await hand_op(in);
      ++count;
      out.complete(got);
    }
  }(ping, pong, rounds));
  for (int i = 0; i < 1000 && first.state() != fiber_state::dead; ++i) {
    for (coir::loop& each : loops) each.run_once();
  }
  CHECK(rounds == 100);
  CHECK(first.outcome() == fiber_outcome::returned);
  CHECK(second.outcome() == fiber_outcome::returned);
}

TEST_CASE("what is spawned or cancelled outside of a turn makes the loop's descriptor readable") {
  coir::loop loop;
  coir::scheduler fibers(loop);
  pollfd readable{loop.pollable_fd(), POLLIN, 0};
  const auto settle = [&] {
    while (::poll(&readable, 1, 0) == 1) loop.run_once();
  };
  settle();
  auto sleeps = fibers.spawn([] { coir::await(coir::sleep_for(1h)); });
  CHECK(::poll(&readable, 1, 10'000) == 1);
  settle();
  CHECK(sleeps.state() == fiber_state::waiting);
  sleeps.cancel();
  CHECK(::poll(&readable, 1, 10'000) == 1);
  settle();
  CHECK(sleeps.state() == fiber_state::dead);
}

TEST_CASE("whatever wakes a fiber outside of a turn makes the loop's descriptor readable") {
  for (const bool asked_before : {false, true}) {
    INFO((asked_before ? "the descriptor" : "the scheduler") << " first");
    coir::loop loop;
    if (asked_before) loop.pollable_fd();
    coir::scheduler fibers(loop);
    pollfd readable{loop.pollable_fd(), POLLIN, 0};
    const auto settle = [&] {
      while (::poll(&readable, 1, 0) == 1) loop.run_once();
    };
    coir::event rung;
    coir::channel<int> numbers(4);
    hand held;
    coir::cancel_scope limited;
    limited.deadline(loop.time() + 1h);
    const auto rings = [&]() -> coir::task<> { co_await rung.wait(); };
    auto on_event = fibers.spawn(rings);
    auto on_channel = fibers.spawn([&] { CHECK(coir::await(numbers.receive()) == 3); });
    auto on_hand = fibers.spawn([&] { coir::await(hand_op(held)); });
    auto on_time = fibers.spawn([&] { limited.run([&] { coir::await(coir::sleep_until(coir::never)); }); });
    settle();
    REQUIRE(support::waiting(on_time));

    rung.set();
    CHECK(::poll(&readable, 1, 10'000) == 1);
    settle();
    CHECK(on_event.state() == fiber_state::dead);
    CHECK(numbers.try_send(3));
    CHECK(::poll(&readable, 1, 10'000) == 1);
    settle();
    CHECK(on_channel.state() == fiber_state::dead);
    // Also when what is unusual about a fiber has come and gone.
    on_hand.park();
    on_hand.unpark();
    settle();
    held.complete();
    CHECK(::poll(&readable, 1, 10'000) == 1);
    settle();
    CHECK(on_hand.state() == fiber_state::dead);
    int ran = 0;
    coir::nursery children;
    auto owner = fibers.spawn([&] { children.run([&] { coir::await(coir::sleep_until(coir::never)); }); });
    settle();
    REQUIRE(support::waiting(owner));
    children.spawn([&] { ++ran; });
    CHECK(::poll(&readable, 1, 10'000) == 1);
    settle();
    CHECK(ran == 1);
    owner.cancel();
    limited.deadline(loop.time() + 1ms);
    while (on_time.state() != fiber_state::dead) {
      REQUIRE(::poll(&readable, 1, 10'000) == 1);
      settle();
    }
  }
}

TEST_CASE("whatever is asked of a fiber outside of a turn makes the loop's descriptor readable") {
  coir::loop loop;
  coir::scheduler fibers(loop);
  pollfd readable{loop.pollable_fd(), POLLIN, 0};
  const auto settle = [&] {
    while (::poll(&readable, 1, 0) == 1) loop.run_once();
  };
  const auto sleep = [] { coir::await(coir::sleep_for(1h)); };
  const auto shows = [&](auto ask) {
    settle();
    ask();
    const bool shown = ::poll(&readable, 1, 10'000) == 1;
    settle();
    return shown;
  };

  auto interrupted = fibers.spawn(sleep, coir::report_failure);
  CHECK(shows([&] { interrupted.interrupt(std::make_exception_ptr(coir::cancelled())); }));
  CHECK(interrupted.state() == fiber_state::dead);

  int begun = 0;
  auto restarted = fibers.spawn([&] {
    ++begun;
    sleep();
  });
  CHECK(shows([&] { restarted.restart(); }));
  CHECK(begun == 2);

  int visits = 0;
  CHECK(shows([&] { restarted.interject([&] { ++visits; }); }));
  CHECK(visits == 1);

  coir::event rung;
  auto parked = fibers.spawn([&] { coir::await(rung.wait()); });
  settle();
  parked.park();
  rung.set();
  settle();
  REQUIRE(parked.state() != fiber_state::dead);
  CHECK(shows([&] { parked.unpark(); }));
  CHECK(parked.state() == fiber_state::dead);

  coir::cancel_scope scope;
  auto in_scope = fibers.spawn([&] { scope.run(sleep); });
  CHECK(shows([&] { scope.cancel(); }));
  CHECK(in_scope.state() == fiber_state::dead);

  coir::cancel_scope shielded;
  auto behind_shield = fibers.spawn([&] { shielded.run(sleep); });
  shielded.shield();
  settle();
  behind_shield.cancel();
  settle();
  REQUIRE(support::waiting(behind_shield));
  CHECK(shows([&] { shielded.shield(false); }));
  CHECK(behind_shield.state() == fiber_state::dead);

  coir::nursery children;
  auto owner = fibers.spawn([&] { children.run(sleep); });
  CHECK(shows([&] { children.cancel(); }));
  CHECK(owner.state() == fiber_state::dead);

  // The last child leaves whom only it kept.
  coir::nursery old_home, new_home;
  coir::fiber<void> child;
  auto left = fibers.spawn([&] { old_home.run([&] { child = old_home.spawn(sleep); }); });
  auto right = fibers.spawn([&] { new_home.run(sleep); });
  CHECK(shows([&] { new_home.adopt(child); }));
  CHECK(left.state() == fiber_state::dead);
  CHECK(shows([&] { right.cancel(); }));
  CHECK(child.state() == fiber_state::dead);

  coir::supervisor supervisor(coir::supervisor_options().stay());
  auto supervises = fibers.spawn(supervisor.run());
  int started = 0;
  CHECK(shows([&] {
    // Asked to end, it is woken by that alone: no timer cancels it.
    supervisor.add("patient", [&] {
      ++started;
      coir::await(coir::wait_shutting_down());
    }, coir::child_options().shutdown(coir::duration::max()));
  }));
  CHECK(started == 1);
  CHECK(shows([&] { supervisor.stop("patient"); }));
  CHECK(supervisor.children().front().state == coir::child_state::stopped);
  CHECK(shows([&] { supervisor.stop(); }));
  CHECK(supervises.state() == fiber_state::dead);
  restarted.cancel();
  settle();
}

TEST_CASE("fibers that only sleep wake a plain poll when their time has come, and leave it in peace before") {
  coir::loop loop;
  coir::scheduler fibers(loop);
  pollfd readable{loop.pollable_fd(), POLLIN, 0};
  constexpr int sleeps = 5;
  int slept = 0;
  const coir::instant began = coir::steady_now();
  const auto on_stack = fibers.spawn([&] {
    for (int i = 0; i < sleeps; ++i, ++slept) coir::await(coir::sleep_for(3ms));
  });
  const auto body = [&]() -> coir::task<> {
    for (int i = 0; i < sleeps; ++i, ++slept) co_await coir::sleep_for(2ms);
  };
  const auto coroutine = fibers.spawn(body);
  int woken = 0;
  while (on_stack.state() != fiber_state::dead || coroutine.state() != fiber_state::dead) {
    REQUIRE(::poll(&readable, 1, 20'000) == 1);
    ++woken;
    loop.run_once();
  }
  CHECK(slept == 2 * sleeps);
  CHECK(coir::steady_now() - began >= sleeps * 3ms);
  CHECK(woken <= 3 * slept + 3);
  for (; ::poll(&readable, 1, 0) == 1 && woken < 100; ++woken) loop.run_once();
  CHECK(woken <= 3 * slept + 3);
}
