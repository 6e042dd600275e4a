// Posts from several threads at once.
#include "loop/ball.hpp"
#include "support/loop_tools.hpp"

#include <array>
#include <atomic>
#include <thread>

TEST_CASE("of two hundred thousand posts from four threads none is lost, and each thread's keep their order") {
  constexpr int threads = 4;
  constexpr int each = 50'000;
  coir::loop loop;
  const coir::loop::hold more(loop);
  std::array<int, threads> next{};
  int total = 0;
  int out_of_order = 0;
  std::vector<std::thread> posters;
  for (int thread = 0; thread < threads; ++thread) {
    posters.emplace_back([&, thread] {
      const auto own = static_cast<std::size_t>(thread);
      for (int i = 0; i < each; ++i) {
        loop.post([&, own, i] {
          out_of_order += next[own] != i;
          next[own] = i + 1;
          if (++total == threads * each) loop.stop();
        });
      }
    });
  }
  loop.run();
  for (std::thread& poster : posters) poster.join();
  CHECK(total == threads * each);
  CHECK(out_of_order == 0);
  CHECK(loop.stats().posts == threads * each);
}

TEST_CASE("a post made just as the loop falls asleep is not slept over") {
  constexpr int rounds = 50'000;
  coir::loop loop;
  const coir::loop::hold more(loop);
  std::atomic<int> ran = 0;
  std::thread other([&] {
    for (int i = 1; i <= rounds; ++i) {
      loop.post([&ran, i] { ran.store(i, std::memory_order_release); });
      while (ran.load(std::memory_order_acquire) != i) {
      }
      // The loop goes back to sleep now: the next post comes earlier or later on its way there.
      for (int spin = 0; spin < i % 512; ++spin) std::atomic_signal_fence(std::memory_order_seq_cst);
    }
    loop.stop();
  });
  loop.run();
  other.join();
  CHECK(ran == rounds);
}

TEST_CASE("two loops that post to each other across threads never both sleep") {
  constexpr int rounds = 20'000;
  coir::loop here;
  coir::loop there;
  CHECK(support::play_ball(here, there, rounds) == rounds);
}

TEST_CASE("posts reach a loop that also sleeps for descriptors and timers") {
  coir::loop loop;
  const support::fd_pair ends = support::socket_pair();
  std::array<std::byte, 8> buffer;
  support::asked get(coir::request::recv(ends[0].get(), buffer));
  REQUIRE(loop.start(get.request));
  coir::timer_node far([](coir::timer_node&) {});
  loop.arm(far, loop.time() + std::chrono::hours(1));
  std::atomic<int> ran = 0;
  std::thread other([&] {
    for (int i = 1; i <= 1000; ++i) {
      loop.post([&] { ++ran; });
      while (ran != i) std::this_thread::yield();
    }
    loop.stop();
  });
  loop.run();
  other.join();
  CHECK(ran == 1000);
  CHECK_FALSE(get.over());
  loop.disarm(far);
  support::give_up(loop, get);
}
