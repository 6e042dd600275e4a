// Wakers that other threads wake.
#include "support/loop_tools.hpp"

#include <coir/loop/loop.hpp>

#include <sys/eventfd.h>

#include <atomic>
#include <cstdint>
#include <optional>
#include <stdexcept>
#include <thread>
#include <vector>

using namespace std::chrono_literals;

TEST_CASE("a loop that sleeps is woken by another thread") {
  coir::loop loop;
  std::uint64_t heard = 0;
  auto k = loop.waker([&](std::uint64_t count) { heard += count; });
  std::thread other([&] {
    k.wake();
    k.wake(3);
  });
  support::run_until(loop, [&] { return heard == 4; });
  other.join();
}

TEST_CASE("of what four threads wake, nothing is lost") {
  constexpr int threads = 4;
  constexpr std::uint64_t each = 20'000;
  coir::loop loop;
  std::uint64_t heard = 0;
  std::uint64_t calls = 0;
  auto k = loop.waker([&](std::uint64_t count) {
    heard += count;
    ++calls;
  });
  std::vector<std::thread> producers;
  for (int thread = 0; thread < threads; ++thread) {
    producers.emplace_back([&k] {
      const coir::waker_end mine = k.share();
      for (std::uint64_t i = 0; i < each; ++i) i % 2 == 0 ? k.wake() : mine.wake(3);
    });
  }
  support::run_until(loop, [&] { return heard == threads * each * 2; });
  for (std::thread& producer : producers) producer.join();
  support::idle_turns(loop);
  CHECK(heard == threads * each * 2);
  CHECK(calls <= threads * each);
}

TEST_CASE("a wake made just as the loop falls asleep is not slept over") {
  constexpr std::uint64_t rounds = 10'000;
  coir::loop loop;
  std::atomic<std::uint64_t> heard = 0;
  auto k = loop.waker([&](std::uint64_t count) { heard.fetch_add(count, std::memory_order_release); });
  std::thread other([&] {
    for (std::uint64_t i = 1; i <= rounds; ++i) {
      k.wake();
      while (heard.load(std::memory_order_acquire) != i) std::this_thread::yield();
      for (std::uint64_t spin = 0; spin < i % 512; ++spin) std::atomic_signal_fence(std::memory_order_seq_cst);
    }
  });
  support::run_until(loop, [&] { return heard.load(std::memory_order_relaxed) == rounds; });
  other.join();
}

TEST_CASE("a thread that wakes while the loop ends the waker is refused, and writes to no stranger's descriptor") {
  coir::loop loop;
  for (int round = 0; round < 200; ++round) {
    std::optional<coir::waker> k(loop.waker([] {}));
    std::atomic<bool> begun = false;
    bool refused = false;
    std::thread other([&] {
      try {
        for (;;) {
          k->wake();
          begun.store(true, std::memory_order_relaxed);
        }
      } catch (const std::logic_error&) {
        refused = !*k;
      }
    });
    while (!begun.load(std::memory_order_relaxed)) loop.run_once();
    k->reset();
    // Would have the waker's number if that were free.
    const coir::unique_fd stranger(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
    other.join();
    k.reset();
    CHECK(refused);
    std::uint64_t count = 0;
    CHECK(::read(stranger.get(), &count, sizeof count) < 0);
  }
}

TEST_CASE("ends outlive their loop on other threads, and say so") {
  for (int round = 0; round < 50; ++round) {
    std::optional<coir::loop> loop(std::in_place);
    std::atomic<bool> begun = false;
    std::thread other([end = loop->waker([] {}).keep(), &begun] {
      while (end) {
        try {
          end.wake();
        } catch (const std::logic_error&) {
        }
        begun.store(true, std::memory_order_relaxed);
      }
    });
    while (!begun.load(std::memory_order_relaxed)) loop->run_once();
    loop.reset();
    other.join();
  }
}

TEST_CASE("a waker is made on its loop's thread only") {
  coir::loop loop;
  loop.run_once();
  std::string refused;
  std::thread other([&] {
    try {
      auto k = loop.waker([] {});
    } catch (const std::logic_error& error) {
      refused = error.what();
    }
  });
  other.join();
  CHECK_THAT(refused, Catch::Matchers::Contains("another thread"));
  CHECK(loop.census().wakers == 0);
}
