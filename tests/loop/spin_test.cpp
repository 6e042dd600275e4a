// A loop that looks for posts for a while before it sleeps. The limits are either an hour, which the test would see as
// one that hangs if the loop did nothing but look, or nothing.
#include "loop/ball.hpp"
#include "loop/counted_loop.hpp"
#include "loop/foreign_host.hpp"
#include "loop/timers.hpp"
#include "support/loop_tools.hpp"

#include <coir/testing/mock_clock.hpp>

#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <bit>
#include <cstdlib>
#include <fstream>
#include <string>
#include <thread>

using namespace std::chrono_literals;
using tests::counted_loop;

namespace {

coir::loop_options spinning(coir::duration at_most = 1h) { return coir::loop_options().spin(at_most); }

coir::duration processor_time() {
  timespec used{};
  REQUIRE(::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &used) == 0);
  return std::chrono::seconds(used.tv_sec) + std::chrono::nanoseconds(used.tv_nsec);
}

// The kernel's view of a thread of this process.
bool sleeps(pid_t thread) {
  std::ifstream status("/proc/self/task/" + std::to_string(thread) + "/stat");
  std::string line;
  std::getline(status, line);
  const std::size_t behind_name = line.rfind(')');
  return behind_name != std::string::npos && line.compare(behind_name, 3, ") S") == 0;
}

// One look in vain after another, of no length, until the loop has given up looking.
void tire(coir::loop& loop) {
  for (std::uint64_t before = ~std::uint64_t{0}; loop.stats().spins_in_vain != before;) {
    before = loop.stats().spins_in_vain;
    loop.run_once(1ns);
  }
}

// Posts, one after the other has run, from a thread of its own.
class poster {
 public:
  explicit poster(coir::loop& to) : to_(to) {}
  void one() {
    const int before = ran_.load(std::memory_order_relaxed);
    to_.post([this] { ran_.fetch_add(1, std::memory_order_release); });
    while (ran_.load(std::memory_order_acquire) == before) std::this_thread::yield();
  }

 private:
  coir::loop& to_;
  std::atomic<int> ran_ = 0;
};

// From any thread, where a failed check could not be told.
void write_one(const coir::unique_fd& to) {
  if (::write(to.get(), "x", 1) != 1) std::abort();
}

}  // namespace

TEST_CASE("a loop that looks for posts is rung by none") {
  counted_loop counted(spinning());
  coir::loop& loop = *counted.loop;
  const coir::loop::hold more(loop);
  std::thread other([&] {
    poster posts(loop);
    for (int i = 0; i < 20; ++i) posts.one();
    loop.stop();
  });
  loop.run();
  other.join();
  CHECK(loop.stats().posts == 20);
  CHECK(loop.stats().spins_helped > 0);
  CHECK(loop.stats().spins_in_vain == 0);
  CHECK(counted.rung() == 0);
}

TEST_CASE("a stop alone ends the looking, and rings nobody either") {
  counted_loop counted(spinning());
  coir::loop& loop = *counted.loop;
  const coir::loop::hold more(loop);
  std::thread other([&] { loop.stop(); });
  loop.run();
  other.join();
  CHECK(counted.rung() == 0);
}

TEST_CASE("a loop does not look for posts unless it was told to") {
  coir::loop loop;
  const coir::loop::hold more(loop);
  std::thread other([&] {
    poster posts(loop);
    for (int i = 0; i < 20; ++i) posts.one();
    loop.stop();
  });
  loop.run();
  other.join();
  loop.run_for(1ms);
  CHECK(loop.stats().spins_helped == 0);
  CHECK(loop.stats().spins_in_vain == 0);
}

TEST_CASE("each look in vain halves the next, so that a loop to which nobody posts ends up asleep") {
  // How often an hour, in nanoseconds, can be halved.
  constexpr auto halvings = static_cast<std::uint64_t>(
      std::bit_width(static_cast<std::uint64_t>(coir::duration(1h).count())));
  coir::loop loop(spinning());
  tire(loop);
  CHECK(loop.stats().spins_in_vain == halvings);
  CHECK(loop.stats().spins_helped == 0);
  const coir::duration before = processor_time();
  loop.run_for(100ms);
  CHECK(processor_time() - before < 50ms);
  CHECK(loop.stats().spins_in_vain == halvings);
}

TEST_CASE("what a loop looks in vain is bounded by twice the limit, however often it is woken by other things") {
  constexpr coir::duration limit = 10ms;
  coir::loop loop(spinning(limit));
  int ticks = 0;
  const auto tick = loop.every(2ms, [&](coir::timer&) { ++ticks; });
  const coir::duration before = processor_time();
  loop.run_for(200ms);
  CHECK(ticks > 0);
  CHECK(loop.stats().spins_in_vain <= static_cast<std::uint64_t>(std::bit_width(
                                          static_cast<std::uint64_t>(limit.count()))));
  // Twice the limit, and what a hundred turns cost under a sanitizer.
  CHECK(processor_time() - before < 2 * limit + 100ms);
}

TEST_CASE("a post that comes soon after a loop fell asleep makes it look again as long as it may") {
  counted_loop counted(spinning());
  coir::loop& loop = *counted.loop;
  tire(loop);
  const auto in_vain = loop.stats().spins_in_vain;
  const coir::loop::hold more(loop);
  const auto self = static_cast<pid_t>(::syscall(SYS_gettid));
  std::thread other([&] {
    poster posts(loop);
    do {
      while (!sleeps(self)) std::this_thread::yield();
      posts.one();
    } while (counted.rung() == 0);
    for (int i = 0; i < 20; ++i) posts.one();
    loop.stop();
  });
  loop.run();
  other.join();
  CHECK(counted.rung() == 1);
  CHECK(loop.stats().spins_helped > 0);
  CHECK(loop.stats().spins_in_vain == in_vain);
}

TEST_CASE("a timer is not late and not early because its loop looks for posts") {
  coir::loop loop(spinning());
  for (const coir::duration wait : {coir::duration(1us), coir::duration(200us), coir::duration(5ms)}) {
    const coir::instant due = coir::after(loop.time(), wait);
    coir::instant fired{};
    const auto once = loop.at(due, [&](coir::timer&) { fired = loop.time(); });
    // It ends with the last timer: a loop that looked on would not.
    loop.run();
    CHECK(fired >= due);
  }
}

TEST_CASE("run_for and run_once end when they should, although their loop looks for posts") {
  coir::loop loop(spinning());
  const coir::instant before = loop.time();
  loop.run_for(3ms);
  CHECK(loop.time() - before >= 3ms);
  CHECK(loop.run_once(3ms) == 0);
  CHECK(loop.time() - before >= 6ms);
  const auto looks = loop.stats().spins_in_vain;
  // Neither has anything to wait for.
  CHECK(loop.run_once() == 0);
  loop.run();
  CHECK(loop.stats().spins_in_vain == looks);
}

TEST_CASE("a loop that looks for posts hears of its descriptors meanwhile") {
  coir::loop loop(spinning());
  const support::fd_pair asked_for = support::socket_pair();
  const support::fd_pair watched = support::socket_pair();
  std::array<std::byte, 8> buffer;
  support::asked get(coir::request::recv(asked_for[0].get(), buffer));
  int heard = 0;
  std::atomic<bool> reached = false;
  get.seen.then = [&](coir::request&) { reached = true; };
  REQUIRE(loop.start(get.request));
  std::thread other([&] {
    write_one(asked_for[1]);
    while (!reached) std::this_thread::yield();
    write_one(watched[1]);
  });
  // With a request alone, then with both kinds, then with a watcher alone.
  support::run_until(loop, [&] { return get.over(); });
  CHECK(get.seen.results == std::vector{1});
  support::asked other_get(coir::request::recv(asked_for[0].get(), buffer));
  REQUIRE(loop.start(other_get.request));
  const auto watching = loop.watch(watched[0].get(), coir::watch_options{.read = [&](coir::watcher& w) {
    char one = 0;
    if (::read(w.fd(), &one, 1) == 1) ++heard;
  }});
  support::run_until(loop, [&] { return heard == 1; });
  other.join();
  CHECK_FALSE(other_get.over());
  support::give_up(loop, other_get);
  std::thread once_more([&] { write_one(watched[1]); });
  support::run_until(loop, [&] { return heard == 2; });
  once_more.join();
  CHECK(loop.stats().spins_helped == 0);
}

TEST_CASE("a loop that a foreign one drives does not look for posts, and shows each") {
  counted_loop counted(spinning());
  coir::loop& loop = *counted.loop;
  tests::host outer(loop);
  outer.expect_quiet();
  for (int i = 0; i < 10; ++i) {
    std::thread([&] { loop.post([] {}); }).join();
    CHECK(counted.rung() == 1);
    outer.run_until([&, before = loop.stats().posts] { return loop.stats().posts > before; });
    outer.expect_quiet();
  }
  // Where it sleeps by itself after all, it sleeps.
  CHECK(loop.run_once(1ms) == 0);
  CHECK(loop.stats().spins_helped == 0);
  CHECK(loop.stats().spins_in_vain == 0);
}

TEST_CASE("a loop on another clock than the steady one does not look for posts") {
  coir::testing::mock_clock clock;
  coir::loop loop(spinning().time(&clock));
  int fired = 0;
  const auto once = loop.after(1h, [&](coir::timer&) { ++fired; });
  loop.run();
  CHECK(fired == 1);
  CHECK(loop.stats().spins_helped == 0);
  CHECK(loop.stats().spins_in_vain == 0);
}

TEST_CASE("two loops that post to each other and look for it both go on, and end") {
  constexpr int rounds = 2'000;
  coir::loop here(spinning(50us));
  coir::loop there(spinning(50us));
  CHECK(support::play_ball(here, there, rounds) == rounds);
  for (const coir::loop* each : {&here, &there}) {
    const coir::loop_stats seen = each->stats();
    CHECK(seen.spins_helped + seen.spins_in_vain > 0);
  }
}
