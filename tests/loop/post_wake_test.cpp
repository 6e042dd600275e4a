// What a post costs the kernel: one write(2) to the loop's eventfd when the loop sleeps, none when it is
// awake. The eventfd's counter says how many there were: a loop that waits by itself never reads it.
#include "support/loop_tools.hpp"

#include <filesystem>
#include <fstream>
#include <set>
#include <string>
#include <thread>

using namespace std::chrono_literals;

namespace {

std::set<int> eventfds() {
  std::set<int> found;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    std::error_code gone;
    if (std::filesystem::read_symlink(entry.path(), gone) == "anon_inode:[eventfd]") {
      found.insert(std::stoi(entry.path().filename()));
    }
  }
  return found;
}

// A loop, and the counter of the one eventfd that it makes.
struct counted_loop {
  counted_loop() {
    // One more look than the loop needs, to find which eventfd is new.
    const std::set<int> before = eventfds();
    loop = std::make_unique<coir::loop>();
    for (const int fd : eventfds()) {
      if (!before.contains(fd)) wake = fd;
    }
    REQUIRE(wake >= 0);
  }
  std::uint64_t rung() const {
    std::ifstream info("/proc/self/fdinfo/" + std::to_string(wake));
    for (std::string word; info >> word;) {
      if (word == "eventfd-count:") {
        std::uint64_t count = 0;
        info >> std::hex >> count;
        return count;
      }
    }
    FAIL("the kernel does not show the counter");
    return 0;
  }
  std::unique_ptr<coir::loop> loop;
  int wake = -1;
};

}  // namespace

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
