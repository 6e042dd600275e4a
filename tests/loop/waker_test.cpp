// Wakers on one thread, and across fork(2). Threads are in waker_threads_test.cpp.
#include "support/child_process.hpp"
#include "support/counted_heap.hpp"
#include "support/descriptor_limit.hpp"
#include "support/loop_tools.hpp"

#include <coir/loop/loop.hpp>

#include <poll.h>

#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <type_traits>
#include <vector>

using namespace std::chrono_literals;
using Catch::Matchers::Contains;
using counts = std::vector<std::uint64_t>;

namespace {

constexpr std::uint64_t most = std::numeric_limits<std::uint64_t>::max() - 1;

void say(const char* text) {
  std::fprintf(stderr, "%s\n", text);
}

template <class Use>
std::string refusal_of(Use&& use) {
  try {
    use();
  } catch (const std::logic_error& error) {
    return error.what();
  }
  return "not refused";
}

}  // namespace

TEST_CASE("wakes are never inline, and those until the loop looks are one call with the sum") {
  coir::loop loop;
  counts heard;
  auto k = loop.waker([&](std::uint64_t count) { heard.push_back(count); });
  CHECK(loop.run_once() == 0);
  k.wake();
  k.wake(3);
  CHECK(heard.empty());
  loop.run_once();
  CHECK(heard == counts{4});
  support::idle_turns(loop);
  CHECK(heard == counts{4});
}

TEST_CASE("a waker that was just made can be woken, before the loop has ever run") {
  coir::loop loop;
  counts heard;
  auto k = loop.waker([&](std::uint64_t count) {
    heard.push_back(count);
    loop.stop();
  });
  k.wake();
  loop.run();
  CHECK(heard == counts{1});
}

TEST_CASE("a function that does not care for the count is called too") {
  coir::loop loop;
  int calls = 0;
  auto k = loop.waker([&] { ++calls; });
  k.wake(5);
  loop.run_once();
  CHECK(calls == 1);
}

TEST_CASE("a wake from inside the callback comes in a later turn, and others get theirs in between") {
  coir::loop loop;
  const support::fd_pair ends = support::pipe_pair();
  std::string order;
  coir::waker k = loop.waker([&](std::uint64_t count) {
    order += std::to_string(count) + " ";
    k.wake();
    k.wake();
  });
  auto in = loop.watch(ends[0].get(), coir::watch_options{.read = [&] { order += "read "; }});
  k.wake(7);
  REQUIRE(::write(ends[1].get(), "x", 1) == 1);
  loop.run_once();
  CHECK(order == "7 read ");
  loop.run_once();
  CHECK(order.size() == std::string("7 read 2 read ").size());
  CHECK_THAT(order, Contains("2"));
}

TEST_CASE("a loop sleeps while nobody wakes it, and a waker keeps it running until it is ended") {
  coir::loop loop;
  std::string order;
  coir::waker k = loop.waker([&] {
    order += "woken ";
    k.reset();
  });
  auto later = loop.after(10ms, [&] {
    order += "timer ";
    k.wake();
  });
  loop.run();
  CHECK(order == "timer woken ");
  CHECK_FALSE(k);
}

TEST_CASE("a count of zero, and one that no counter holds, is refused") {
  coir::loop loop;
  counts heard;
  auto k = loop.waker([&](std::uint64_t count) { heard.push_back(count); });
  CHECK_THROWS_AS(k.wake(0), std::invalid_argument);
  CHECK_THROWS_AS(k.wake(most + 1), std::invalid_argument);
  CHECK_THROWS_AS(k.share().wake(0), std::invalid_argument);
  support::idle_turns(loop);
  CHECK(heard.empty());
}

TEST_CASE("a count that does not fit is its producer's error, what was before is delivered, and then there is room") {
  coir::loop loop;
  counts heard;
  auto k = loop.waker([&](std::uint64_t count) { heard.push_back(count); });
  k.wake(most - 1);
  try {
    k.wake(2);
    FAIL("not refused");
  } catch (const std::system_error& error) {
    CHECK(error.code() == std::errc::resource_unavailable_try_again);
    CHECK_THAT(error.what(), Contains("waking a loop 2 times more") && Contains(std::to_string(most)));
  }
  k.wake();
  CHECK_THROWS_AS(k.wake(), std::system_error);
  loop.run_once();
  CHECK(heard == counts{most});
  k.wake(2);
  loop.run_once();
  CHECK(heard == counts{most, 2});
}

TEST_CASE("a wake of a waker that has ended is refused, whether it was reset, kept, moved, or its loop is gone") {
  const std::string ended =
      "a waker was woken that is none any more: its handle was reset or kept, or its loop is gone";
  std::optional<coir::loop> loop(std::in_place);
  int calls = 0;
  CHECK(refusal_of([] { coir::waker().wake(); }) == ended);
  CHECK(refusal_of([] { coir::waker_end().wake(); }) == ended);
  auto reset = loop->waker([&] { ++calls; });
  const coir::waker_end end = reset.share();
  reset.wake();
  reset.reset();
  reset.reset();
  CHECK(refusal_of([&] { reset.wake(); }) == ended);
  CHECK(refusal_of([&] { end.wake(); }) == ended);
  auto kept = loop->waker([&] { ++calls; });
  const coir::waker_end to_kept = kept.keep();
  CHECK(refusal_of([&] { kept.wake(); }) == ended);
  auto left = loop->waker([&] { ++calls; });
  support::idle_turns(*loop);
  CHECK(calls == 0);
  CHECK(to_kept);
  CHECK(left);
  loop.reset();
  CHECK_FALSE(left);
  CHECK_FALSE(to_kept);
  CHECK(refusal_of([&] { left.wake(); }) == ended);
  CHECK(refusal_of([&] { to_kept.wake(); }) == ended);
  CHECK(calls == 0);
}

TEST_CASE("the descriptor of a waker that has ended stays open until the last who could write to it is gone") {
  coir::loop loop;
  {
    const auto first = loop.after(1h, [] {});
    auto warm = loop.waker([] {});
  }
  const std::size_t before = support::open_descriptors();
  std::optional<coir::waker> k(loop.waker([] {}));
  CHECK(support::open_descriptors() == before + 1);
  k->reset();
  CHECK(support::open_descriptors() == before + 1);
  std::optional<coir::waker_end> end(k->share());
  std::optional<coir::waker_end> copy(end);
  k.reset();
  CHECK(support::open_descriptors() == before + 1);
  end.reset();
  CHECK(support::open_descriptors() == before + 1);
  copy.reset();
  CHECK(support::open_descriptors() == before);
}

TEST_CASE("a kept waker lives as long as the loop, and is woken through its ends") {
  support::leaves_no_descriptor([] {
    std::optional<coir::loop> loop(std::in_place);
    counts heard;
    const coir::waker_end end = loop->waker([&](std::uint64_t count) { heard.push_back(count); }).keep();
    const coir::waker_end copy = end;
    end.wake();
    copy.wake(2);
    loop->run_once();
    CHECK(heard == counts{3});
    CHECK(loop->census().wakers == 1);
    loop.reset();
    CHECK_FALSE(copy);
  });
}

TEST_CASE("a handle moves, and one that gets another's waker ends its own") {
  static_assert(!std::is_copy_constructible_v<coir::waker>);
  coir::loop loop;
  std::string order;
  auto first = loop.waker([&] { order += "first "; });
  auto second = loop.waker([&] { order += "second "; });
  coir::waker_end to_first = first.share();
  coir::waker moved = std::move(first);
  moved.wake();
  loop.run_once();
  moved = std::move(second);
  CHECK_FALSE(to_first);
  CHECK(loop.census().wakers == 1);
  moved.wake();
  loop.run_once();
  CHECK(order == "first second ");
}

TEST_CASE("a waker may end itself in its callback, whose captures live until it returns") {
  coir::loop loop;
  auto alive = std::make_shared<int>(5);
  const std::weak_ptr<int> seen = alive;
  std::optional<coir::waker> k;
  int value = 0;
  k.emplace(loop.waker([&k, &value, alive] {
    k.reset();
    value = *alive;
  }));
  alive.reset();
  k->wake();
  loop.run_once();
  CHECK(value == 5);
  CHECK(seen.expired());
  CHECK(loop.census().wakers == 0);
  CHECK_FALSE(loop.can_wake());
}

TEST_CASE("a waker that another one ends in the same turn is not called any more") {
  coir::loop loop;
  int calls = 0;
  coir::waker one, other;
  one = loop.waker([&] {
    ++calls;
    other.reset();
  });
  other = loop.waker([&] {
    ++calls;
    one.reset();
  });
  one.wake();
  other.wake();
  support::idle_turns(loop);
  CHECK(calls == 1);
}

TEST_CASE("what a waker's function throws leaves run, and later wakes are heard") {
  coir::loop loop;
  counts heard;
  auto k = loop.waker([&](std::uint64_t count) {
    heard.push_back(count);
    if (count == 2) throw std::runtime_error("two");
  });
  k.wake(2);
  CHECK_THROWS_WITH(loop.run_once(), "two");
  support::idle_turns(loop);
  CHECK(heard == counts{2});
  k.wake();
  loop.run_once();
  CHECK(heard == counts{2, 1});
}

TEST_CASE("a wake that a stop or an exception left undelivered is delivered by the next run") {
  for (const bool throws : {false, true}) {
    INFO("throws: " << throws);
    coir::loop loop;
    counts heard;
    const auto then = [&](std::uint64_t count) {
      heard.push_back(count);
      if (heard.size() > 1) return;
      if (throws) throw std::runtime_error("first");
      loop.stop();
    };
    auto one = loop.waker(then);
    auto other = loop.waker(then);
    one.wake(3);
    other.wake(3);
    if (throws) {
      CHECK_THROWS_WITH(loop.run_once(), "first");
    } else {
      loop.run_once();
    }
    CHECK(heard == counts{3});
    other.wake();
    one.wake();
    support::idle_turns(loop);
    // The one that had been told hears the new wake, the other both at once.
    CHECK(heard.size() == 3);
    CHECK(heard[1] + heard[2] == 5);
  }
}

TEST_CASE("a waker that cannot be made leaves nothing behind, and can be made afterwards") {
  coir::loop loop;
  CHECK_THROWS_AS(static_cast<void>(loop.waker(nullptr)), std::logic_error);
  {
    const support::descriptor_limit limit(0);
    try {
      auto k = loop.waker([] {});
      FAIL("made");
    } catch (const std::system_error& error) {
      CHECK(error.code() == std::errc::too_many_files_open);
      CHECK_THAT(error.what(), Contains("waker"));
    }
  }
  CHECK(loop.census().wakers == 0);
  CHECK_FALSE(loop.can_wake());
  int calls = 0;
  auto k = loop.waker([&] { ++calls; });
  k.wake();
  loop.run_once();
  CHECK(calls == 1);
}

TEST_CASE("a waker where there is no descriptor left for the loop's watchers is refused whole") {
  coir::loop loop;
  {
    // One for the eventfd, none for the set of watchers.
    const support::descriptor_limit limit(1);
    CHECK_THROWS_AS(static_cast<void>(loop.waker([] {})), std::system_error);
  }
  CHECK(loop.census().wakers == 0);
  int calls = 0;
  auto k = loop.waker([&] { ++calls; });
  k.wake();
  loop.run_once();
  CHECK(calls == 1);
}

TEST_CASE("a waker is counted and named while it lives, and its part is not") {
  coir::loop loop;
  auto k = loop.waker([] {});
  CHECK(loop.census().wakers == 1);
  CHECK(loop.census().watchers == 0);
  REQUIRE(loop.why_alive().size() == 1);
  CHECK_THAT(loop.why_alive().front(), Contains("waker"));
  k.reset();
  CHECK(loop.census().wakers == 0);
  CHECK(loop.why_alive().empty());
  CHECK_FALSE(loop.can_wake());
}

TEST_CASE("a foreign loop sees a wake, also of a waker made after it asked for the descriptor") {
  coir::loop loop;
  pollfd shown{loop.pollable_fd(), POLLIN, 0};
  int calls = 0;
  auto k = loop.waker([&] { ++calls; });
  for (int i = 0; i < 3; ++i) {
    while (::poll(&shown, 1, 0) != 0) loop.run_once();
    k.wake();
    REQUIRE(::poll(&shown, 1, -1) == 1);
    while (calls == i) loop.run_once();
  }
}

TEST_CASE("ten thousand wakers, made, woken and ended, leave no memory and no descriptor") {
  support::leaves_no_descriptor([] {
    coir::loop loop;
    int calls = 0;
    const auto cycle = [&](int i) {
      auto k = loop.waker([&] { ++calls; });
      k.wake();
      if (i % 100 == 0) loop.run_once();
    };
    cycle(0);
    const long before = support::heap.blocks;
    for (int i = 0; i < 10'000; ++i) cycle(i);
    CHECK(support::heap.blocks == before);
    CHECK(calls == 101);
    CHECK(loop.census().wakers == 0);
  });
}

TEST_CASE("a turn with a waker's call allocates nothing") {
  coir::loop loop;
  auto k = loop.waker([](std::uint64_t) {});
  k.wake();
  loop.run_once();
  const long before = support::heap.allocations;
  for (int i = 0; i < 10; ++i) {
    k.wake();
    loop.run_once();
  }
  CHECK(support::heap.allocations == before);
}

TEST_CASE("a child that inherited a waker wakes its parent's loop") {
  coir::loop loop;
  counts heard;
  auto k = loop.waker([&](std::uint64_t count) { heard.push_back(count); });
  const coir::waker_end end = k.share();
  loop.run_once();
  const auto child = support::in_child([&] {
    if (!k || !end) say("not active");
    k.wake(2);
    end.wake(3);
    const auto grandchild = support::in_child([&] { end.wake(10); });
    if (grandchild.exit_code != 0) say("the grandchild failed");
  });
  CHECK(child.exit_code == 0);
  CHECK(child.text.empty());
  CHECK(heard.empty());
  loop.run_once();
  CHECK(heard == counts{15});
}

TEST_CASE("a child that ends the waker it inherited, or the loop, takes nothing from its parent") {
  for (const bool whole_loop : {false, true}) {
    INFO("whole loop: " << whole_loop);
    std::optional<coir::loop> loop(std::in_place);
    counts heard;
    auto k = loop->waker([&](std::uint64_t count) { heard.push_back(count); });
    k.wake(4);
    const auto child = support::in_child([&] {
      if (whole_loop) {
        loop.reset();
      } else {
        k.reset();
      }
      try {
        k.wake();
        say("not refused");
      } catch (const std::logic_error&) {
      }
      k = coir::waker();
      // A number that is free again is of no more use to the parent's set.
      const support::fd_pair ends = support::pipe_pair();
      coir::loop own;
      int calls = 0;
      auto mine = own.waker([&] { ++calls; });
      mine.wake();
      own.run_once();
      if (calls != 1) say("no loop of its own");
    });
    CHECK(child.exit_code == 0);
    CHECK(child.text.empty());
    CHECK(k);
    k.wake();
    loop->run_once();
    CHECK(heard == counts{5});
  }
}

TEST_CASE("a child cannot make a waker on its parent's loop") {
  coir::loop loop;
  const auto child = support::in_child([&] { auto k = loop.waker([] {}); });
  CHECK(child.exit_code == 1);
  CHECK_THAT(child.text, Contains("child process"));
}
