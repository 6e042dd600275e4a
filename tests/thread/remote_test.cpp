#include <coir/thread/remote.hpp>

#include "support/both.hpp"
#include "support/catch.hpp"

#include <coir/coir.hpp>
#include <coir/thread/mailbox.hpp>
#include <coir/thread/runtime.hpp>

#include <unistd.h>

#include <atomic>
#include <exception>
#include <fstream>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

using namespace std::chrono_literals;
using Catch::Matchers::Contains;
using coir::fiber_outcome;
using coir::remote_state;

namespace {

coir::runtime_options two() { return coir::runtime_options().loops(2); }

// Without a std::string: those of exceptions are counted where the thread sanitizer does not see it.
class crash : public std::exception {
 public:
  explicit crash(const char* text) noexcept : text_(text) {}
  const char* what() const noexcept override { return text_; }

 private:
  const char* text_;
};

// A thread of this process waits in the kernel.
bool is_asleep(pid_t thread) {
  std::ifstream stat("/proc/self/task/" + std::to_string(thread) + "/stat");
  std::string name, state;
  std::getline(stat, name, ')') >> state;
  return state == "S";
}

coir::task<int> sleepy(int result) {
  co_await coir::sleep_for(1ms);
  co_return result;
}
void for_ever() { coir::await(coir::sleep_until(coir::never)); }

bool was_cancelled(const std::system_error& error) { return error.code() == std::errc::operation_canceled; }

}  // namespace

TEST_CASE("a function, and a task, run on the other loop, and are joined from this one") {
  coir::runtime rt(two());
  support::on_both_surfaces([&](auto wait) {
    const auto own = std::this_thread::get_id();
    auto plain = rt.spawn_on(1, [&] {
      coir::await(coir::sleep_for(1ms));
      return std::this_thread::get_id() != own && rt.this_loop() == 1 ? 7 : 0;
    });
    auto task = rt.spawn_on(0, [] { return sleepy(8); });
    CHECK(wait(plain.join()) == 7);
    CHECK(wait(plain.join()) == 7);
    CHECK(wait(task.take()) == 8);
    CHECK_THROWS_AS(wait(task.take()), std::logic_error);
    CHECK(plain.state() == remote_state::dead);
    CHECK(plain.outcome() == fiber_outcome::returned);
    CHECK(plain.id() != 0);
    CHECK(plain.loop_index() == 1);
  });
}

TEST_CASE("what the function holds is born, and dies, on the other loop") {
  coir::runtime rt(two());
  struct notes {
    std::thread::id died;
  };
  notes seen;
  struct guard {
    notes* to;
    explicit guard(notes& of) : to(&of) {}
    guard(guard&& other) noexcept : to(std::exchange(other.to, nullptr)) {}
    ~guard() {
      if (to != nullptr) to->died = std::this_thread::get_id();
    }
  };
  auto f = rt.spawn_on(1, [held = guard(seen), text = std::make_unique<std::string>("moved")]() mutable {
    CHECK(*text == "moved");
    return std::this_thread::get_id();
  });
  const auto there = f.get();
  CHECK(there != std::this_thread::get_id());
  rt.stop();
  rt.wait();
  CHECK(seen.died == there);
}

TEST_CASE("a plain thread waits for the result, or so long, and the fiber lives on") {
  coir::runtime rt(two());
  std::atomic<bool> go = false;
  auto f = rt.spawn_on(0, [&] {
    while (!go) coir::await(coir::yield());
    return std::string("done");
  });
  CHECK_FALSE(f.wait_for(1ms));
  CHECK(f.state() != remote_state::dead);
  std::thread later([&, waits = ::gettid()] {
    while (!is_asleep(waits)) std::this_thread::yield();
    go = true;
  });
  // Further away than the clock goes.
  CHECK(f.wait_for(coir::duration::max() - 1ns));
  later.join();
  CHECK(f.get() == "done");
  CHECK(f.wait_for(1ms));
}

TEST_CASE("a join that takes too long is given up, and the fiber lives on") {
  coir::runtime rt(two());
  support::on_both_surfaces([&](auto wait) {
    std::atomic<bool> go = false;
    auto f = rt.spawn_on(1, [&] {
      while (!go) coir::await(coir::yield());
      return 1;
    });
    bool joined = false;
    const auto got = coir::move_on_after(2ms, [&] {
      wait(f.join());
      joined = true;
    });
    static_cast<void>(got);
    CHECK_FALSE(joined);
    CHECK(f.state() != remote_state::dead);
    go = true;
    CHECK(wait(f.join()) == 1);
  });
}

TEST_CASE("a failure is thrown by every join, also by late ones and those of other loops and threads") {
  std::optional<coir::remote<void>> kept;
  {
    coir::runtime rt(two());
    auto f = rt.spawn_on(1, [] { throw crash("it broke"); });
    support::on_both_surfaces([&](auto wait) {
      CHECK_THROWS_WITH(wait(f.join()), "it broke");
      CHECK_THROWS_WITH(wait(f.join()), "it broke");
    });
    auto elsewhere = rt.spawn_on(0, [f] {
      try {
        coir::await(f.join());
      } catch (const crash& why) {
        return std::string(why.what());
      }
      return std::string();
    });
    CHECK(elsewhere.get() == "it broke");
    CHECK_THROWS_AS(f.get(), crash);
    CHECK(f.outcome() == fiber_outcome::failed);
    kept = f;
    // It was heard.
    CHECK_FALSE(rt.stopping());
  }
  CHECK_THROWS_AS(kept->get(), crash);
  coir::run([&] { CHECK_THROWS_AS(coir::await(kept->join()), crash); });
}

TEST_CASE("cancel is a message, and one that was cancelled says so to whoever joins") {
  coir::runtime rt(two());
  support::on_both_surfaces([&](auto wait) {
    auto f = rt.spawn_on(1, for_ever, coir::remote_options().name("sleeper"));
    CHECK(f.name() == "sleeper");
    f.cancel();
    f.cancel();
    try {
      wait(f.join());
      FAIL("it returned");
    } catch (const std::system_error& error) {
      CHECK(was_cancelled(error));
      CHECK_THAT(error.what(), Contains("sleeper of loop 1"));
    }
    f.cancel();
    CHECK(f.outcome() == fiber_outcome::cancelled);
  });
}

TEST_CASE("a remote fiber is interrupted, and asked to end before it is made to") {
  coir::runtime rt(two());
  std::atomic<bool> begun = false;
  auto f = rt.spawn_on(1, [&] {
    begun = true;
    try {
      for_ever();
    } catch (const crash& why) {
      return std::string(why.what());
    }
    return std::string();
  });
  while (!begun) std::this_thread::yield();
  f.interrupt(crash("too late"));
  CHECK(f.get() == "too late");
  auto asked = rt.spawn_on(0, [] {
    coir::await(coir::wait_shutting_down());
    return 5;
  });
  asked.cancel(1h);
  CHECK(asked.get() == 5);
}

TEST_CASE("one fiber's end is told to as many loops and threads as wait") {
  coir::runtime rt(coir::runtime_options().loops(3));
  auto f = rt.spawn_on(0, [] { return sleepy(3); });
  std::vector<coir::remote<int>> all;
  for (std::size_t i = 0; i < 30; ++i) all.push_back(rt.spawn_on(i % 3, [f] { return coir::await(f.join()); }));
  std::vector<std::thread> threads;
  std::atomic<int> sum = 0;
  for (int i = 0; i < 4; ++i) threads.emplace_back([f, &sum] { sum += f.get(); });
  for (auto& each : all) CHECK(each.get() == 3);
  for (auto& each : threads) each.join();
  CHECK(sum == 12);
}

TEST_CASE("waiting for a remote fiber is no deadlock") {
  coir::runtime rt(two());
  std::atomic<bool> go = false;
  CHECK(coir::run([&] {
          auto f = rt.spawn_on(0, [&] {
            while (!go) coir::await(coir::yield());
            return 1;
          });
          std::thread late([&] { go = true; });
          const int got = coir::await(f.join());
          late.join();
          return got;
        }) == 1);
}

TEST_CASE("joining immediately after spawning never hangs") {
  coir::runtime rt(two());
  coir::run([&] {
    for (int i = 0; i < 10'000; ++i) {
      auto f = rt.spawn_on(static_cast<std::size_t>(i) % 2, [i] { return i; });
      if (coir::await(f.join()) != i) FAIL("a wrong result");
    }
  });
  for (int i = 0; i < 10'000; ++i) {
    auto f = rt.spawn_on(static_cast<std::size_t>(i) % 2, [i] { return i; });
    if (f.get() != i) FAIL("a wrong result");
  }
}

TEST_CASE("a join may be given up in the moment in which the fiber ends") {
  coir::runtime rt(two());
  coir::run([&] {
    int joined = 0;
    for (int i = 0; i < 3'000; ++i) {
      auto f = rt.spawn_on(1, [i] {
        for (int turn = 0; turn < i % 5; ++turn) coir::await(coir::yield());
      });
      auto waits = coir::spawn([&] {
        coir::await(f.join());
        ++joined;
      });
      for (int turn = 0; turn < i % 11; ++turn) coir::await(coir::yield());
      waits.cancel();
      try {
        coir::await(waits.join());
      } catch (const std::system_error& error) {
        CHECK(was_cancelled(error));
      }
    }
    CHECK(joined <= 3'000);
  });
}

TEST_CASE("blocking the thread of a loop, an empty handle and a join of oneself are mistakes that are named") {
  coir::runtime rt(two());
  const coir::remote<int> none;
  CHECK_FALSE(none);
  CHECK_THROWS_AS(none.get(), std::logic_error);
  auto f = rt.spawn_on(0, [] { return 1; });
  coir::run([&] { CHECK_THROWS_AS(f.get(), std::logic_error); });
  CHECK(f.get() == 1);
  coir::mailbox_sender<coir::remote<void>> tell;
  auto box = rt.spawn_on(0, [&] {
    coir::mailbox<coir::remote<void>> own;
    tell = own.sender();
    auto self = rt.spawn_on(0, [&own] {
      const auto mine = coir::await(own.receive());
      CHECK_THROWS_AS(coir::await(mine->join()), std::logic_error);
    });
    tell.send(self);
    coir::await(self.join());
  });
  box.get();
}

TEST_CASE("an op that was moved from is a mistake that is named") {
  coir::runtime rt(two());
  auto f = rt.spawn_on(0, [] {});
  coir::run([&] {
    auto op = f.join();
    auto moved = std::move(op);
    CHECK_THROWS_AS(coir::await(op), std::logic_error);
    coir::await(moved);
  });
}

TEST_CASE("where a fiber waits for a remote one is said in the report") {
  coir::runtime rt(two());
  coir::run([&] {
    auto f = rt.spawn_on(1, for_ever, coir::remote_options().name("far"));
    auto waits = coir::spawn([&] { coir::await(f.join()); });
    coir::await(coir::yield());
    CHECK_THAT(coir::describe(waits.control().home()), Contains("waiting in remote join of fiber") && Contains("far on loop 1"));
    f.cancel();
    CHECK_THROWS_AS(coir::await(waits.join()), std::system_error);
  });
}
