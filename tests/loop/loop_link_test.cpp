#include <coir/loop/loop_link.hpp>

#include "loop/watch_tools.hpp"
#include "support/catch.hpp"
#include "support/loop_tools.hpp"

#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <memory>
#include <optional>
#include <stdexcept>
#include <thread>
#include <vector>

namespace {

// What visits brought: the loop, and the thread it happened on.
struct visits {
  std::vector<coir::loop*> loops;
  std::vector<std::thread::id> threads;
  static void note(void* self, coir::loop* on) noexcept {
    static_cast<visits*>(self)->loops.push_back(on);
    static_cast<visits*>(self)->threads.push_back(std::this_thread::get_id());
  }
};

}  // namespace

TEST_CASE("a visit on the loop's thread is made at once, running or not") {
  coir::loop loop;
  const coir::loop_link link(loop);
  visits seen;
  link.visit(visits::note, &seen);
  CHECK(seen.loops == std::vector<coir::loop*>{&loop});
  CHECK(!link.is_here());
  loop.post([&] {
    CHECK(link.is_here());
    link.visit(visits::note, &seen);
    CHECK(seen.loops == std::vector<coir::loop*>{&loop, &loop});
  });
  loop.run_once();
  CHECK(seen.loops.size() == 2);
}

TEST_CASE("a visit from another thread is made on the loop's") {
  coir::loop loop;
  loop.run_once();
  const coir::loop_link link(loop);
  visits seen;
  std::thread([&] { link.visit(visits::note, &seen); }).join();
  CHECK(seen.loops.empty());
  support::run_until(loop, [&] { return !seen.loops.empty(); });
  CHECK(seen.loops == std::vector<coir::loop*>{&loop});
  CHECK(seen.threads.front() == std::this_thread::get_id());
}

TEST_CASE("a visit to a loop that is gone is made at once, without it") {
  std::optional<coir::loop> loop(std::in_place);
  const coir::loop_link link(*loop);
  loop.reset();
  visits seen;
  link.visit(visits::note, &seen);
  // Another loop in the same place is not the one that was meant.
  loop.emplace();
  link.visit(visits::note, &seen);
  loop->post([&] {
    CHECK(!link.is_here());
    link.visit(visits::note, &seen);
  });
  loop->run_once();
  CHECK(seen.loops == std::vector<coir::loop*>(3, nullptr));
}

TEST_CASE("who runs or ends a loop for the first time waits for the visits of those who found that nobody had") {
  for (const bool is_run : {true, false}) {
    struct long_visit {
      std::atomic<bool> begun = false;
      std::atomic<bool> over = false;
      static void make(void* self, coir::loop*) noexcept {
        static_cast<long_visit*>(self)->begun = true;
        std::this_thread::sleep_for(std::chrono::milliseconds(5));
        static_cast<long_visit*>(self)->over = true;
      }
    } visit;
    const support::fd_pair ends = support::pipe_pair();
    std::optional<coir::loop> loop(std::in_place);
    const coir::loop_link link(*loop);
    loop->watch(ends[0].get(), coir::watch_options{.read = [last = tests::at_end([&] { CHECK(visit.over); })] {}}).keep();
    std::thread visitor([&] { link.visit(long_visit::make, &visit); });
    while (!visit.begun) std::this_thread::yield();
    if (is_run) {
      loop->run_once();
    } else {
      loop.reset();
    }
    CHECK(visit.over);
    visitor.join();
  }
}

TEST_CASE("visits to a loop that nobody has run are made one at a time, and lead to others") {
  coir::loop loop;
  struct alone {
    coir::loop_link link;
    std::atomic<int> inside = 0;
    std::atomic<int> most = 0;
    int made = 0;  // and the next: not atomic, because they are alone
    int led_to = 0;
    static void make(void* self, coir::loop*) noexcept {
      auto& mine = *static_cast<alone*>(self);
      mine.most = std::max(mine.most.load(), ++mine.inside);
      std::this_thread::yield();
      mine.link.visit(nested, &mine);
      ++mine.made;
      --mine.inside;
    }
    static void nested(void* self, coir::loop* on) noexcept {
      if (on != nullptr) ++static_cast<alone*>(self)->led_to;
    }
  } visit{coir::loop_link(loop)};
  const auto many = [&] {
    for (int i = 0; i < 50; ++i) visit.link.visit(alone::make, &visit);
  };
  std::thread other(many);
  many();
  other.join();
  CHECK(visit.most == 1);
  CHECK(visit.made == 100);
  CHECK(visit.led_to == 100);
}

TEST_CASE("a child that was forked during a thread's visit ends the loop without waiting for it") {
  std::optional<coir::loop> loop(std::in_place);
  const coir::loop_link link(*loop);
  struct long_visit {
    std::atomic<bool> begun = false;
    std::atomic<bool> may_end = false;
    static void make(void* self, coir::loop*) noexcept {
      auto& mine = *static_cast<long_visit*>(self);
      mine.begun = true;
      while (!mine.may_end) std::this_thread::yield();
    }
  } visit;
  std::thread visitor([&] { link.visit(long_visit::make, &visit); });
  while (!visit.begun) std::this_thread::yield();
  const pid_t child = ::fork();
  if (child == 0) {
    loop.reset();
    ::_exit(0);
  }
  visit.may_end = true;
  visitor.join();
  REQUIRE(child > 0);
  int status = -1;
  REQUIRE(::waitpid(child, &status, 0) == child);
  CHECK(status == 0);
}

TEST_CASE("a visit to a loop that ends before it comes to it is made without it") {
  visits seen;
  {
    coir::loop loop;
    loop.run_once();
    const coir::loop_link link(loop);
    std::thread([&] { link.visit(visits::note, &seen); }).join();
    CHECK(seen.loops.empty());
  }
  CHECK(seen.loops == std::vector<coir::loop*>{nullptr});
}

TEST_CASE("a visit that a loop had taken from its inbox when it ended is made in the middle of that, with it") {
  visits seen;
  std::optional<coir::loop> loop(std::in_place);
  loop->run_once();
  const coir::loop_link link(*loop);
  loop->post([] { throw std::runtime_error("from a post"); });
  std::thread([&] { link.visit(visits::note, &seen); }).join();
  CHECK_THROWS_WITH(loop->run_once(), "from a post");
  CHECK(seen.loops.empty());
  coir::loop* const ended = &*loop;
  loop.reset();
  CHECK(seen.loops == std::vector<coir::loop*>{ended});
}

TEST_CASE("a loop is found as long as it tells of what was in flight") {
  visits seen;
  const support::fd_pair ends = support::pipe_pair();
  support::asked told(coir::request::poll(ends[0].get(), POLLIN));
  auto loop = std::make_unique<coir::loop>();
  loop->run_once();
  const coir::loop_link link(*loop);
  bool found = false;
  told.seen.then = [&, on = loop.get()](coir::request&) {
    found = coir::loop::number_of_living(on) != 0;
    std::thread([&] { link.visit(visits::note, &seen); }).join();
    CHECK(seen.loops.empty());
  };
  REQUIRE(loop->start(told.request));
  loop.reset();
  CHECK(told.over());
  CHECK(found);
  CHECK(seen.loops == std::vector<coir::loop*>{nullptr});
  CHECK(seen.threads == std::vector{std::this_thread::get_id()});
}

TEST_CASE("a visit in a child process does not find its parent's loop") {
  coir::loop loop;
  loop.run_once();
  const coir::loop_link link(loop);
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    visits seen;
    link.visit(visits::note, &seen);
    ::_exit(seen.loops == std::vector<coir::loop*>{nullptr} ? 0 : 1);
  }
  int status = -1;
  REQUIRE(::waitpid(child, &status, 0) == child);
  CHECK(status == 0);
}

TEST_CASE("a loop's number is never 0 and never that of a living one, however many have been made") {
  const auto make = [] { return std::make_unique<coir::loop>(coir::loop_options().backend(coir::backend_kind::epoll)); };
  const auto first = make();
  const auto second = make();
  CHECK(first->number() != second->number());
  bool came_round = false;
  for (int last = second->number(); !came_round;) {
    const auto next = make();
    REQUIRE(next->number() != 0);
    REQUIRE(next->number() != first->number());
    REQUIRE(next->number() != second->number());
    came_round = next->number() < last;
    last = next->number();
  }
  CHECK(coir::loop::number_of_living(first.get()) == first->number());
}
