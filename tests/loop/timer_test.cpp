// after(), at(), every() and what their handles do.
#include <coir/base/config.hpp>
#include <coir/testing/mock_clock.hpp>

#include "loop/watch_tools.hpp"
#include "support/child_process.hpp"

#include <fcntl.h>
#include <sched.h>

#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

using namespace std::chrono_literals;
using Catch::Matchers::Contains;
using coir::testing::mock_clock;
using coir::timer;
using coir::watch_options;
using coir::watcher;
using tests::put;
using tests::take;

namespace {

coir::loop_options with(mock_clock& clock) { return coir::loop_options().time(&clock); }

// Says whether they fire in order.
struct counted : coir::timer_node {
  counted() : timer_node(fire) {}
  static void fire(coir::timer_node& which) {
    const coir::instant due = static_cast<counted&>(which).due;
    in_order &= latest <= due;
    latest = due;
    ++fired;
  }
  coir::instant due;
  static inline coir::instant latest;
  static inline bool in_order;
  static inline std::size_t fired;
};

}  // namespace

TEST_CASE("a timer fires once, not before its time") {
  coir::loop loop;
  const coir::instant began = coir::steady_now();
  coir::instant fired;
  int calls = 0;
  auto once = loop.after(5ms, [&](timer& t) {
    fired = coir::steady_now();
    ++calls;
    CHECK_FALSE(t.armed());
    CHECK(t.ticks() == 1);
  });
  CHECK(once->armed());
  CHECK(once->deadline() >= began + 5ms);
  loop.run();
  CHECK(calls == 1);
  CHECK(fired >= began + 5ms);
  CHECK(once->deadline() == coir::never);
}

TEST_CASE("timers fire by deadline, equal deadlines in the order in which they were made") {
  mock_clock clock;
  coir::loop loop(with(clock));
  std::string order;
  const coir::instant now = loop.time();
  std::vector<coir::owned<timer>> all;
  const auto set = [&](coir::duration wait, char name) {
    all.push_back(loop.at(now + wait, [&order, name] { order += name; }));
  };
  set(2ms, 'e');
  set(1ms, 'b');
  set(1ms, 'c');
  set(0ms, 'a');
  set(3ms, 'h');
  set(2ms, 'f');
  set(1ms, 'd');
  set(2ms, 'g');
  all.push_back(loop.every(1ms, now + 2ms, [&](timer& t) {
    order += 'E';
    t.cancel();
  }));
  loop.run();
  CHECK(order == "abcdefgEh");
}

TEST_CASE("nothing fires inline: no wait, a deadline that has passed, and the beginning of time wait for a turn") {
  coir::loop loop;
  std::string order;
  auto zero = loop.after(0ns, [&] { order += "0"; });
  auto past = loop.at(loop.time() - 1h, [&] { order += "p"; });
  auto first = loop.at(coir::instant::min(), [&] { order += "m"; });
  auto tick = loop.every(1h, loop.time() - 1s, [&] { order += "t"; });
  CHECK(order.empty());
  loop.run_once();
  CHECK(order == "mpt0");
}

TEST_CASE("what a timer makes due already waits for the next turn, and descriptors come in between") {
  coir::loop loop;
  const support::fd_pair ends = support::pipe_pair();
  std::string order;
  coir::owned<timer> next;
  std::function<void()> again = [&] {
    order += "t";
    next = loop.after(0ns, [&] { again(); });
  };
  auto in = loop.watch(ends[0].get(), watch_options{.read = [&] { order += "r"; }});
  put(ends[1], "x");
  again();
  for (int i = 0; i < 3; ++i) loop.run_once();
  CHECK(order == "trtrtrt");
}

TEST_CASE("at most 1024 timers fire in a turn, then descriptors get theirs") {
  coir::loop loop;
  const support::fd_pair ends = support::pipe_pair();
  int fired = 0;
  std::vector<int> fired_at;
  auto in = loop.watch(ends[0].get(), watch_options{.read = [&] { fired_at.push_back(fired); }});
  put(ends[1], "x");
  for (int i = 0; i < 3000; ++i) loop.after(0ns, [&] { ++fired; }).keep();
  for (int i = 0; i < 4; ++i) loop.run_once();
  CHECK(fired_at == std::vector{0, 1024, 2048, 3000});
}

TEST_CASE("a timer may cancel one that is due in the same turn, and one that has fired in it") {
  coir::loop loop;
  std::string order;
  auto one = loop.after(0ns, [&] { order += "1"; });
  coir::owned<timer> three;
  auto two = loop.after(0ns, [&] {
    order += "2";
    one.reset();
    three.reset();
  });
  three = loop.after(0ns, [] { FAIL("cancelled"); });
  loop.run();
  CHECK(order == "12");
  CHECK(loop.timers() == 0);
}

TEST_CASE("a timer may move one that is due in the same turn") {
  mock_clock clock;
  coir::loop loop(with(clock));
  const coir::instant began = loop.time();
  std::vector<coir::instant> when;
  coir::owned<timer> two;
  auto one = loop.after(0ns, [&] { two->restart(1s); });
  two = loop.after(0ns, [&] { when.push_back(loop.time()); });
  loop.run();
  CHECK(when == std::vector{began + 1s});
}

TEST_CASE("a timer restarted fires at the new time only, earlier or later, once each") {
  mock_clock clock;
  coir::loop loop(with(clock));
  const coir::instant began = loop.time();
  std::vector<coir::duration> when;
  auto one = loop.after(10s, [&] { when.push_back(loop.time() - began); });
  one->restart(20s);
  CHECK(one->deadline() == began + 20s);
  one->restart_at(began + 5s);
  loop.run();
  CHECK(when == std::vector<coir::duration>{5s});
  CHECK_FALSE(one->armed());
  one->restart(1s);
  CHECK(one->armed());
  loop.run();
  CHECK(when == std::vector<coir::duration>{5s, 6s});
}

TEST_CASE("a watchdog that is fed does not bite") {
  mock_clock clock;
  coir::loop loop(with(clock));
  const coir::instant began = loop.time();
  coir::duration bitten{};
  auto dog = loop.after(3s, [&] { bitten = loop.time() - began; });
  auto food = loop.every(1s, [&](timer& t) {
    dog->restart(3s);
    if (loop.time() - began == 10s) t.cancel();
  });
  loop.run();
  CHECK(bitten == 13s);
}

TEST_CASE("a one-shot timer may restart itself in its callback, and is not over then") {
  mock_clock clock;
  coir::loop loop(with(clock));
  const coir::instant began = loop.time();
  int calls = 0;
  loop.after(1s, [&](timer& t) {
    if (++calls < 4) t.restart(1s);
  }).keep();
  loop.run();
  CHECK(calls == 4);
  CHECK(loop.time() == began + 4s);
  CHECK(loop.census().timers == 0);
}

TEST_CASE("restarted for at once in its own callback, it fires in the next turn") {
  coir::loop loop;
  int calls = 0;
  auto again = loop.after(0ns, [&](timer& t) {
    ++calls;
    t.restart(0ns);
  });
  for (int i = 1; i <= 3; ++i) {
    loop.run_once();
    CHECK(calls == i);
  }
}

TEST_CASE("a repeating timer keeps to its grid, however late it was called") {
  mock_clock clock(mock_clock::mode::by_hand);
  coir::loop loop(with(clock));
  const coir::instant began = loop.time();
  std::vector<std::uint64_t> ticks;
  auto tick = loop.every(10s, [&](timer& t) { ticks.push_back(t.ticks()); });
  const auto move_to = [&](coir::duration since) {
    clock.advance(began + since - loop.time());
    loop.run_once();
  };
  move_to(10s - 1ns);
  CHECK(ticks.empty());
  move_to(13s);
  CHECK(tick->deadline() == began + 20s);
  move_to(20s);
  move_to(59s);
  CHECK(tick->deadline() == began + 60s);
  move_to(60s);
  move_to(60s);
  move_to(1000s);
  CHECK(ticks == std::vector<std::uint64_t>{1, 1, 3, 1, 94});
  CHECK(tick->deadline() == began + 1010s);
}

TEST_CASE("a repeating timer on time is called exactly on its grid, with one tick each") {
  mock_clock clock;
  coir::loop loop(with(clock));
  const coir::instant began = loop.time();
  std::vector<coir::duration> when;
  auto tick = loop.every(7ms, [&](timer& t) {
    when.push_back(loop.time() - began);
    CHECK(t.ticks() == 1);
    if (when.size() == 1000) t.cancel();
  });
  loop.run();
  REQUIRE(when.size() == 1000);
  for (int i = 0; i < 1000; ++i) CHECK(when[static_cast<std::size_t>(i)] == (i + 1) * 7ms);
}

TEST_CASE("a grid that begins at an instant of its own keeps to that") {
  mock_clock clock;
  coir::loop loop(with(clock));
  const coir::instant began = loop.time();
  std::vector<coir::duration> when;
  std::vector<std::uint64_t> ticks;
  const auto note = [&](timer& t) {
    when.push_back(loop.time() - began);
    ticks.push_back(t.ticks());
    if (when.size() == 3) t.cancel();
  };
  auto tick = loop.every(10s, began + 3s, note);
  loop.run();
  CHECK(when == std::vector<coir::duration>{3s, 13s, 23s});
  CHECK(ticks == std::vector<std::uint64_t>{1, 1, 1});

  // In the past: one call for all that was missed.
  when.clear();
  ticks.clear();
  tick = loop.every(10s, began - 12s, note);
  loop.run();
  CHECK(when == std::vector<coir::duration>{23s, 28s, 38s});
  CHECK(ticks == std::vector<std::uint64_t>{4, 1, 1});
}

TEST_CASE("a repeating timer restarted begins a new grid, in its callback too") {
  mock_clock clock;
  coir::loop loop(with(clock));
  const coir::instant began = loop.time();
  std::vector<coir::duration> when;
  auto tick = loop.every(10s, [&](timer& t) {
    when.push_back(loop.time() - began);
    CHECK(t.ticks() == 1);
    if (when.size() == 2) t.restart(3s);
    if (when.size() == 4) t.cancel();
  });
  tick->restart(1s);
  loop.run();
  CHECK(when == std::vector<coir::duration>{1s, 11s, 14s, 24s});
}

TEST_CASE("a one-shot that throws is over, one that repeats goes on, and the others due come next") {
  mock_clock clock;
  coir::loop loop(with(clock));
  const coir::instant began = loop.time();
  std::string order;
  auto once = loop.after(1s, [&] {
    order += "o";
    throw std::runtime_error("thrown");
  });
  auto tick = loop.every(1s, [&](timer& t) {
    order += "t";
    CHECK(t.armed());
    if (order.size() < 4) throw std::runtime_error("thrown");
    t.cancel();
  });
  auto last = loop.after(1s, [&] { order += "l"; });
  CHECK_THROWS_AS(loop.run(), std::runtime_error);
  CHECK(order == "o");
  CHECK_FALSE(once->armed());
  CHECK_THROWS_AS(loop.run(), std::runtime_error);
  CHECK(tick->deadline() == began + 2s);
  loop.run();
  CHECK(order == "otlt");
}

TEST_CASE("one that throws and is kept is gone when it was to fire once, and stays when it repeats") {
  coir::loop loop;
  auto token = std::make_shared<int>();
  const std::weak_ptr<int> alive = token;
  const auto fail = [token = std::move(token)] { throw std::runtime_error("thrown"); };
  loop.after(0ns, fail).keep();
  loop.every(1h, loop.time(), fail).keep();
  CHECK_THROWS_AS(loop.run_once(), std::runtime_error);
  CHECK(loop.census().timers == 1);
  CHECK_THROWS_AS(loop.run_once(), std::runtime_error);
  CHECK(loop.census().timers == 1);
  CHECK(loop.timers() == 1);
  CHECK_FALSE(alive.expired());
}

TEST_CASE("a one-shot that is kept goes when it has fired, one with a handle stays and is inert to the loop") {
  coir::loop loop;
  int calls = 0;
  loop.after(0ns, [&] { ++calls; }).keep();
  auto held = loop.after(0ns, [&] { ++calls; });
  loop.run();
  CHECK(calls == 2);
  CHECK(loop.census().timers == 1);
  CHECK_FALSE(loop.can_wake());
  CHECK(loop.why_alive().empty());
  CHECK(held);
  held.keep();
  CHECK(loop.census().timers == 0);
}

TEST_CASE("a timer kept in its own callback fires again when it was restarted before") {
  coir::loop loop;
  int calls = 0;
  coir::owned<timer> own;
  own = loop.after(0ns, [&](timer& t) {
    if (++calls == 1) {
      t.restart(0ns);
      own.keep();
    }
  });
  loop.run();
  CHECK(calls == 2);
  CHECK(loop.census().timers == 0);
}

TEST_CASE("a wait below zero is refused, and so is an interval of nothing or less") {
  coir::loop loop;
  const auto later = loop.after(1h, [] {});
  CHECK_THROWS_AS(loop.after(-1ns, [] {}), std::invalid_argument);
  CHECK_THROWS_AS(loop.after(std::chrono::hours::min(), [] {}), std::invalid_argument);
  CHECK_THROWS_WITH(loop.every(0s, [] {}), Contains("every 0 ns"));
  CHECK_THROWS_AS(loop.every(-1h, loop.time(), [] {}), std::invalid_argument);
  CHECK_THROWS_AS(later->restart(-1ns), std::invalid_argument);
  CHECK_THROWS_AS(loop.after(1s, nullptr), std::logic_error);
  CHECK_THROWS_AS(loop.every(1s, nullptr), std::logic_error);
  CHECK(later->armed());
  CHECK(later->deadline() > loop.time());
  CHECK(loop.census().timers == 1);
}

TEST_CASE("waits and intervals without measure are never, and a fraction of a nanosecond is one") {
  mock_clock clock;
  coir::loop loop(with(clock));
  const coir::instant began = loop.time();
  const auto far = loop.after(std::chrono::hours::max(), [] {});
  CHECK(far->deadline() == coir::never);
  const auto endless = loop.after(std::chrono::duration<double>(INFINITY), [] {});
  CHECK(endless->deadline() == coir::never);
  const auto rare = loop.every(std::chrono::hours::max(), began, [] {});
  const auto billion = loop.after(1'000'000'000s, [] {});
  CHECK(billion->deadline() == began + 1'000'000'000s);
  const auto fraction = loop.every(std::chrono::duration<double>(0.3e-9), [] {});
  CHECK(fraction->deadline() == began + 1ns);
  loop.run_once();
  CHECK(rare->deadline() == coir::never);
}

TEST_CASE("a grid that begins before time began is one call for all of it") {
  coir::loop loop;
  std::uint64_t ticks = 0;
  auto tick = loop.every(1s, coir::instant::min(), [&](timer& t) { ticks += t.ticks(); });
  CHECK_FALSE(tick->describe().empty());
  loop.run_once();
  CHECK(ticks > 1'000'000'000);
  CHECK(tick->deadline() > loop.time());
  CHECK(tick->deadline() <= loop.time() + 1s);
}

TEST_CASE("a timer says when it is due") {
  mock_clock clock;
  coir::loop loop(with(clock));
  const auto once = loop.after(1500ms, [] {});
  CHECK(once->describe() == "timer due in 1.500 s");
  const auto tick = loop.every(2s, [](timer& t) { t.cancel(); });
  CHECK(tick->describe() == "timer due in 2.000 s, every 2.000 s");
  loop.run();
  CHECK(once->describe() == "timer that has fired");
}

TEST_CASE("a jump of the wall clock moves no timer: they know the steady clock only") {
  coir::loop loop;
  const coir::instant before = coir::steady_now();
  const auto later = loop.after(1h, [] {});
  CHECK(later->deadline() >= before + 1h);
  CHECK(later->deadline() <= coir::steady_now() + 1h);
}

TEST_CASE("an earlier timer that another thread asks for by a post shortens the sleep") {
  coir::loop loop;
  coir::owned<timer> soon;
  auto late = loop.after(1h, [] { FAIL("an hour has passed"); });
  std::thread other([&] {
    loop.post([&] {
      soon = loop.after(1ms, [&] { late.reset(); });
    });
  });
  loop.run();
  other.join();
  CHECK_FALSE(late);
}

TEST_CASE("a stop in a timer leaves those due behind it to the next run, in order") {
  coir::loop loop;
  std::string order;
  std::vector<coir::owned<timer>> all;
  for (const char name : {'1', '2', '3'}) {
    all.push_back(loop.after(0ns, [&, name] {
      order += name;
      loop.stop();
    }));
  }
  for (const char* const expected : {"1", "12", "123"}) {
    loop.run();
    CHECK(order == expected);
  }
}

TEST_CASE("a loop has a million timers, of which one half is cancelled and the other fires in order") {
  // With a sanitizer, which takes ten seconds for that, fewer.
  constexpr std::size_t count = COIR_ADDRESS_SANITIZER || COIR_THREAD_SANITIZER ? 50'000 : 1'000'000;
  counted::latest = coir::instant();
  counted::in_order = true;
  counted::fired = 0;
  mock_clock clock(mock_clock::mode::by_hand);
  coir::loop loop(with(clock));
  std::vector<counted> all(count);
  for (std::size_t i = 0; i < count; ++i) {
    all[i].due = loop.time() + std::chrono::microseconds(i * 7919 % count);
    loop.arm(all[i], all[i].due);
  }
  CHECK(loop.census().armed == count);
  for (std::size_t i = 0; i < count; i += 2) loop.disarm(all[i]);
  CHECK(loop.census().armed == count / 2);
  clock.advance(1s);
  while (counted::fired != count / 2 && loop.run_once() != 0) {
  }
  CHECK(counted::fired == count / 2);
  CHECK(counted::in_order);
  CHECK(loop.census().armed == 0);
}

TEST_CASE("timers are on time in a container whose steady clock is not the host's") {
  constexpr int cannot = 77;
  for (const char* const offset : {"monotonic -5 0", "monotonic 1000 0"}) {
    INFO(offset);
    const auto ended = support::in_child([&] {
      if (::unshare(CLONE_NEWTIME) < 0 && ::unshare(CLONE_NEWUSER | CLONE_NEWTIME) < 0) ::_exit(cannot);
      const coir::unique_fd offsets(::open("/proc/self/timens_offsets", O_WRONLY));
      if (::write(offsets.get(), offset, std::strlen(offset)) < 0) ::_exit(cannot);
      const auto check = [] {
        coir::loop loop;
        const coir::instant began = loop.time();
        coir::owned<coir::timer> tick = loop.after(20ms, [] {});
        loop.run();
        const coir::duration took = loop.time() - began;
        if (took < 20ms || took > 5s) throw std::runtime_error("a timer of 20 ms was early, or very late");
        if (loop.stats().turns > 20) throw std::runtime_error("the loop did not sleep");
      };
      // The next process is the first with that clock; and one whose own children will have another, the host's.
      const auto inside = support::in_child([&] {
        check();
        if (::unshare(CLONE_NEWTIME) < 0) return;
        const coir::unique_fd of_children(::open("/proc/self/timens_offsets", O_WRONLY));
        if (::write(of_children.get(), "monotonic 0 0", 13) == 13) check();
      });
      std::fputs(inside.text.c_str(), stderr);
      ::_exit(inside.exit_code);
    });
    if (ended.exit_code == cannot) {
      WARN("skipped: this process may not have a clock of its own");
      return;
    }
    INFO(ended.text);
    CHECK(ended.exit_code == 0);
  }
}
