#include <coir/thread/runtime.hpp>

#include "support/both.hpp"
#include "support/catch.hpp"

#include <coir/coir.hpp>
#include <coir/thread/mailbox.hpp>

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <csignal>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <set>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

using namespace std::chrono_literals;
using coir::runtime_options;

namespace {

void for_ever() { coir::await(coir::sleep_until(coir::never)); }

std::string thread_name() {
  std::array<char, 16> name{};
  ::pthread_getname_np(::pthread_self(), name.data(), name.size());
  return name.data();
}

}  // namespace

TEST_CASE("each loop has its own thread, with its name, and no signal is theirs") {
  coir::runtime rt(runtime_options().loops(3).names("worker"));
  REQUIRE(rt.size() == 3);
  std::set<std::thread::id> ids;
  for (std::size_t i = 0; i < 3; ++i) {
    auto name = rt.spawn_on(i, thread_name);
    CHECK(name.get() == "worker-" + std::to_string(i));
    ids.insert(rt.spawn_on(i, [] { return std::this_thread::get_id(); }).get());
    CHECK(rt.spawn_on(i, [&] { return rt.this_loop(); }).get() == i);
    CHECK(rt.spawn_on(i, [] {
              sigset_t mask;
              ::pthread_sigmask(SIG_SETMASK, nullptr, &mask);
              return ::sigismember(&mask, SIGTERM) == 1 && ::sigismember(&mask, SIGUSR1) == 1 &&
                     ::sigismember(&mask, SIGSEGV) == 0 && ::sigismember(&mask, SIGTRAP) == 0;
            }).get());
  }
  CHECK(ids.size() == 3);
  CHECK(ids.count(std::this_thread::get_id()) == 0);
  sigset_t mine;
  ::pthread_sigmask(SIG_SETMASK, nullptr, &mine);
  CHECK(::sigismember(&mine, SIGTERM) == 0);
}

TEST_CASE("without a number there is a loop for each processor, and threads may be pinned to theirs") {
  cpu_set_t allowed;
  REQUIRE(::sched_getaffinity(0, sizeof allowed, &allowed) == 0);
  coir::runtime rt(runtime_options().pin());
  CHECK(rt.size() == static_cast<std::size_t>(CPU_COUNT(&allowed)));
  auto count = rt.spawn_on(0, [] {
    cpu_set_t mine;
    return ::sched_getaffinity(0, sizeof mine, &mine) == 0 ? CPU_COUNT(&mine) : 0;
  });
  CHECK(count.get() == 1);
}

TEST_CASE("loops look for messages before they sleep, unless they share one processor or were told not to") {
  cpu_set_t before;
  REQUIRE(::sched_getaffinity(0, sizeof before, &before) == 0);
  const auto looks = [](coir::runtime& rt) {
    const auto ask = [&](std::size_t i) {
      return rt.spawn_on(i, [] {
                 const coir::loop_stats seen = coir::loop::current()->stats();
                 return seen.spins_helped + seen.spins_in_vain;
               }).get();
    };
    std::uint64_t all = 0;
    for (int round = 0; round < 100; ++round) all = std::max({all, ask(0), ask(1)});
    return all;
  };
  if (CPU_COUNT(&before) > 1) {
    coir::runtime rt(runtime_options().loops(2));
    CHECK(looks(rt) > 0);
    coir::runtime told(runtime_options().loops(2).spin(0s));
    CHECK(looks(told) == 0);
  }
  std::size_t first = 0;
  while (!CPU_ISSET(first, &before)) ++first;
  cpu_set_t only;
  CPU_ZERO(&only);
  CPU_SET(first, &only);
  REQUIRE(::sched_setaffinity(0, sizeof only, &only) == 0);
  {
    coir::runtime rt(runtime_options().loops(2));
    CHECK(looks(rt) == 0);
    coir::runtime told(runtime_options().loops(2).spin(20us));
    CHECK(looks(told) > 0);
  }
  REQUIRE(::sched_setaffinity(0, sizeof before, &before) == 0);
}

TEST_CASE("a function is spawned on each loop, and is given the loop's number if it takes one") {
  coir::runtime rt(runtime_options().loops(4));
  std::atomic<int> runs = 0;
  auto all = rt.spawn_on_all([&] { ++runs; });
  CHECK(all.size() == 4);
  for (auto& each : all) each.get();
  CHECK(runs == 4);
  auto numbers = rt.spawn_on_all([&](std::size_t loop) { return loop * 10 + rt.this_loop(); });
  for (std::size_t i = 0; i < 4; ++i) CHECK(numbers[i].get() == i * 11);
}

TEST_CASE("the least loaded loop is the one with the fewest remote fibers") {
  coir::runtime rt(runtime_options().loops(4));
  std::vector<coir::remote<void>> busy;
  for (int i = 0; i < 8; ++i) busy.push_back(rt.spawn_least_loaded(for_ever));
  for (std::size_t i = 0; i < 4; ++i) CHECK(rt.load(i) == 2);
  for (auto& each : busy) {
    if (each.loop_index() == 2) each.cancel();
  }
  for (auto& each : busy) {
    if (each.loop_index() == 2) CHECK_THROWS_AS(each.get(), std::system_error);
  }
  CHECK(rt.spawn_least_loaded(for_ever).loop_index() == 2);
  CHECK_THROWS_AS(rt.spawn_on(4, [] {}), std::out_of_range);
}

TEST_CASE("fibers of several loops spawn on each other and join") {
  coir::runtime rt(runtime_options().loops(2));
  struct tower {
    static int height(coir::runtime& rt, int left) {
      if (left == 0) return 0;
      auto next = rt.spawn_on(static_cast<std::size_t>(left) % 2, [&rt, left] { return height(rt, left - 1); });
      return 1 + coir::await(next.join());
    }
  };
  CHECK(rt.spawn_on(0, [&] { return tower::height(rt, 50); }).get() == 50);
}

TEST_CASE("the calling thread is one of the loops while its body runs") {
  coir::runtime rt(runtime_options().loops(2));
  for (int round = 0; round < 3; ++round) {
    const int sum = rt.run([&] {
      CHECK(rt.this_loop() == 2);
      // Back to here, from another loop.
      auto there = rt.spawn_on(0, [&] {
        auto back = rt.spawn_on(2, [&] { return static_cast<int>(rt.this_loop()); });
        return coir::await(back.join());
      });
      return coir::await(there.join()) + 1;
    });
    CHECK(sum == 3);
    CHECK_THROWS_AS(rt.spawn_on(2, [] {}), std::out_of_range);
    CHECK_THROWS_AS(rt.this_loop(), std::logic_error);
  }
  // And one without any threads of its own but one, many times.
  for (int round = 0; round < 100; ++round) CHECK(rt.run([] { return 1; }) == 1);
}

TEST_CASE("what was said of the loops of a runtime holds for the one of run(), unless something else was") {
  using namespace std::chrono_literals;
  int reports = 0;
  coir::runtime rt(runtime_options().loops(1).spin(1us).on_failure(
      [&](const coir::fiber_base&, std::exception_ptr) { ++reports; }));
  const auto body = [] {
    static_cast<void>(coir::spawn([] { throw std::runtime_error("told"); }, coir::report_failure));
    coir::await(coir::sleep_for(1ms));
    return coir::loop::current()->stats().spins_in_vain;
  };
  CHECK(rt.run(body) != 0);
  CHECK(reports == 1);
  CHECK(rt.run(body, coir::run_options().on_failure([](const coir::fiber_base&, std::exception_ptr) {})) == 0);
  CHECK(reports == 1);
}

TEST_CASE("several threads run bodies in one runtime at once") {
  coir::runtime rt(runtime_options().loops(1));
  std::atomic<int> meetings = 0;
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int round = 0; round < 50; ++round) {
        rt.run([&] {
          auto f = rt.spawn_on(0, [&] { ++meetings; });
          coir::await(f.join());
        });
      }
    });
  }
  for (auto& each : threads) each.join();
  CHECK(meetings == 200);
}

TEST_CASE("what a body in run() leaves on its loop is cancelled and awaited, and its deadlock is found") {
  coir::runtime rt(runtime_options().loops(1));
  coir::remote<void> left;
  rt.run([&] { left = rt.spawn_on(rt.this_loop(), for_ever); });
  CHECK_THROWS_AS(left.get(), std::system_error);
  CHECK_THROWS_AS(rt.run(for_ever), coir::deadlock);
  CHECK_FALSE(rt.stopping());
}

TEST_CASE("a coir::run of one's own spawns on the loops of a runtime and talks to them") {
  coir::runtime rt(runtime_options().loops(2));
  support::on_both_surfaces([&](auto wait) {
    coir::mailbox<int> box;
    auto all = rt.spawn_on_all([to = box.sender()](std::size_t loop) { to.send(static_cast<int>(loop)); });
    const int sum = *wait(box.receive()) + *wait(box.receive());
    CHECK(sum == 1);
    for (auto& each : all) wait(each.join());
  });
}

TEST_CASE("a message comes at once while the loop still looks for one before it sleeps") {
  if (std::thread::hardware_concurrency() < 2) return;
  coir::runtime rt(runtime_options().loops(2).spin(1s));
  const auto helped = [&](std::size_t loop) {
    return rt.spawn_on(loop, [] { return coir::running_fiber().home().on().stats().spins_helped; }).get();
  };
  CHECK(helped(0) + helped(0) + helped(1) + helped(1) > 0);
  // Timers are exact meanwhile.
  const auto late = rt.spawn_on(1, [] {
    const auto begin = coir::steady_now();
    coir::await(coir::sleep_for(2ms));
    return coir::steady_now() - begin;
  });
  CHECK(late.get() >= 2ms);
  CHECK(late.get() < 500ms);
}
