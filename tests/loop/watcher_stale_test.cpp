// Descriptors that are no good, or not any more: closed behind the loop's back, reused, kept alive elsewhere.
#include "loop/watch_tools.hpp"
#include "support/child_process.hpp"
#include "support/descriptor_limit.hpp"
#include "support/forbid.hpp"

#include <fcntl.h>

#include <climits>
#include <stdexcept>
#include <string>

using namespace std::chrono_literals;
using Catch::Matchers::Contains;
using coir::watch_options;
using coir::watcher;
using tests::line;
using tests::put;
using tests::refusal;
using tests::take;

namespace {

// What the kernel tells while there is nothing to tell. Turns do not say: a ring that was destroyed before
// interrupts a wait.
std::uint64_t events_in(coir::loop& loop, coir::duration time) {
  const std::uint64_t before = loop.stats().watchers.events;
  loop.run_for(time);
  return loop.stats().watchers.events - before;
}

// An entry without an owner, which makes the set anew.
void force_rebuild(coir::loop& loop) {
  const std::uint64_t before = loop.stats().watchers.rebuilds;
  line gone;
  gone.in = loop.watch(gone.fd(), watch_options{.read = [] { FAIL("ended"); }});
  const coir::unique_fd duplicate(::dup(gone.fd()));
  gone.ends[0].reset();
  gone.in.reset();
  put(gone.ends[1], "x");
  while (loop.stats().watchers.rebuilds == before) loop.run_once();
}

int close_behind(line& of) {
  const int number = of.ends[0].release();
  ::close(number);
  return number;
}
// Its number is one that nobody else gets by chance.
support::fd_pair high_pipe() {
  support::fd_pair ends = support::pipe_pair();
  return {coir::unique_fd(::fcntl(ends[0].get(), F_DUPFD_CLOEXEC, 200)), std::move(ends[1])};
}

}  // namespace

TEST_CASE("closed while a duplicate lives, then ended: the kernel's entry is got rid of, and nothing spins") {
  coir::loop loop;
  line one, two;
  const coir::unique_fd duplicate(::dup(one.fd()));
  int calls = 0;
  one.in = loop.watch(one.fd(), watch_options{.read = [] { FAIL("ended"); }});
  two.in = loop.watch(two.fd(), watch_options{.read = [&](watcher& w) {
                        ++calls;
                        take(w.fd());
                      }});
  loop.run_once();
  one.ends[0].reset();
  one.in.reset();
  put(one.ends[1], "x");
  support::idle_turns(loop, 3);
  CHECK(loop.stats().watchers.rebuilds == 1);
  CHECK(loop.stats().watchers.stale >= 1);
  CHECK(events_in(loop, 10ms) == 0);
  put(two.ends[1], "x");
  loop.run_once();
  CHECK(calls == 1);
  CHECK(loop.stats().watchers.rebuilds == 1);
}

TEST_CASE("after such a rebuild all others go on as they were: armed, silent, level and edge") {
  coir::loop loop;
  line gone, level, edge, fired, armed;
  const coir::unique_fd duplicate(::dup(gone.fd()));
  std::string order;
  gone.in = loop.watch(gone.fd(), watch_options{.read = [] { FAIL("ended"); }});
  level.in = loop.watch(level.fd(), watch_options{.read = [&] { order += "l"; }});
  edge.in = loop.watch(edge.fd(), watch_options{.read = [&] { order += "e"; }, .edge_triggered = true});
  fired.in = loop.watch(fired.fd(), watch_options{.read = [&] { order += "f"; }, .oneshot = true});
  armed.in = loop.watch(armed.fd(), watch_options{.read = [&] { order += "a"; }, .oneshot = true});
  put(fired.ends[1], "x");
  loop.run_once();
  CHECK(order == "f");
  gone.ends[0].reset();
  gone.in.reset();
  put(gone.ends[1], "x");
  support::idle_turns(loop, 3);
  REQUIRE(loop.stats().watchers.rebuilds == 1);
  CHECK(order == "f");

  put(level.ends[1], "x");
  put(edge.ends[1], "x");
  put(armed.ends[1], "x");
  loop.run_once();
  CHECK(order == "flea");
  loop.run_once();
  CHECK(order == "fleal");
  fired.in->rearm();
  take(level.fd());
  loop.run_once();
  CHECK(order == "flealf");
}

TEST_CASE("closed and its number reused while a duplicate lives: the old descriptor is not heard of") {
  coir::loop loop;
  line one;
  const support::fd_pair other = support::pipe_pair();
  const coir::unique_fd duplicate(::dup(one.fd()));
  std::string order;
  one.in = loop.watch(one.fd(), watch_options{.read = [] { FAIL("closed"); }});
  REQUIRE(::dup2(other[0].get(), one.fd()) == one.fd());
  auto in = loop.watch(one.fd(), watch_options{.read = [&](watcher& w) { order += take(w.fd()); }});
  CHECK_FALSE(one.in);
  put(one.ends[1], "old");
  support::idle_turns(loop, 3);
  CHECK(order.empty());
  CHECK(loop.stats().watchers.rebuilds == 1);
  put(other[1], "new");
  support::idle_turns(loop, 3);
  CHECK(order == "new");
  CHECK(events_in(loop, 10ms) == 0);
}

TEST_CASE("a number whose watcher is over can be watched again, whatever the kernel has kept of it") {
  coir::loop loop;
  line one;
  const coir::unique_fd duplicate(::dup(one.fd()));
  int calls = 0;
  one.in = loop.watch(one.fd(), watch_options{.read = [] { FAIL("ended"); }});
  // The same file comes back to the same number, after the loop could not take its entry away.
  const int number = close_behind(one);
  one.in.reset();
  REQUIRE(::dup2(duplicate.get(), number) == number);
  one.ends[0] = coir::unique_fd(number);
  one.in = loop.watch(number, watch_options{.read = [&] { ++calls; }});
  put(one.ends[1], "x");
  loop.run_once();
  CHECK(calls == 1);
  CHECK(loop.stats().watchers.stale == 0);
}

TEST_CASE("closed behind the loop's back: nothing comes of it, and its number can be watched without a word") {
  coir::loop loop;
  line one;
  int calls = 0;
  one.in = loop.watch(one.fd(), watch_options{.read = [] { FAIL("closed"); }});
  const int number = one.fd();
  put(one.ends[1], "x");
  one.ends[0].reset();
  support::idle_turns(loop);
  const support::fd_pair other = support::pipe_pair();
  REQUIRE(other[0].get() == number);
  auto in = loop.watch(number, watch_options{.read = [&] { ++calls; }});
  CHECK_FALSE(one.in);
  put(other[1], "x");
  loop.run_once();
  CHECK(calls == 1);
}

TEST_CASE("closed behind the loop's back and reused by others: a rebuild does not give it their events") {
  coir::loop loop;
  line closed, entry;
  const coir::unique_fd duplicate(::dup(entry.fd()));
  closed.in = loop.watch(closed.fd(), watch_options{.read = [] { FAIL("another's event"); }});
  entry.in = loop.watch(entry.fd(), watch_options{.read = [] { FAIL("ended"); }});
  const support::fd_pair other = support::pipe_pair();
  REQUIRE(::dup2(other[0].get(), closed.fd()) == closed.fd());
  entry.ends[0].reset();
  entry.in.reset();
  put(entry.ends[1], "x");
  support::idle_turns(loop, 3);
  REQUIRE(loop.stats().watchers.rebuilds == 1);
  put(other[1], "x");
  support::idle_turns(loop, 3);
  CHECK_FALSE(closed.in->listens());
  CHECK_FALSE(loop.can_wake());
}

TEST_CASE("closed behind the loop's back and found out by a rebuild: its number can still be watched") {
  coir::loop loop;
  line closed{high_pipe(), {}};
  line entry;
  const coir::unique_fd duplicate(::dup(entry.fd()));
  closed.in = loop.watch(closed.fd(), watch_options{.read = [] { FAIL("closed"); }});
  entry.in = loop.watch(entry.fd(), watch_options{.read = [] { FAIL("ended"); }});
  const int number = close_behind(closed);
  close_behind(entry);
  entry.in.reset();
  put(entry.ends[1], "x");
  support::idle_turns(loop, 3);
  REQUIRE(loop.stats().watchers.rebuilds == 1);
  CHECK_FALSE(closed.in->listens());
  CHECK(refusal([&] { closed.in->enable_read(); }) == EBADF);
  CHECK_FALSE(closed.in->listens());
  const support::fd_pair other = support::pipe_pair();
  REQUIRE(::dup2(other[0].get(), number) == number);
  closed.ends[0] = coir::unique_fd(number);
  int calls = 0;
  auto in = loop.watch(number, watch_options{.read = [&] { ++calls; }});
  CHECK_FALSE(closed.in);
  put(other[1], "x");
  loop.run_once();
  CHECK(calls == 1);
}

TEST_CASE("without a descriptor for a new set the old one stays, and is replaced when there is one") {
  coir::loop loop;
  line one, two;
  const coir::unique_fd duplicate(::dup(one.fd()));
  int calls = 0;
  one.in = loop.watch(one.fd(), watch_options{.read = [] { FAIL("ended"); }});
  two.in = loop.watch(two.fd(), watch_options{.read = [&] { ++calls; }});
  close_behind(one);
  one.in.reset();
  {
    const coir::unique_fd taken(::open("/dev/null", O_RDONLY | O_CLOEXEC));
    support::descriptor_limit none(0);
    put(one.ends[1], "x");
    put(two.ends[1], "x");
    support::idle_turns(loop, 3);
    CHECK(loop.stats().watchers.rebuilds == 0);
    CHECK(calls == 3);
  }
  support::idle_turns(loop, 3);
  CHECK(loop.stats().watchers.rebuilds == 1);
  CHECK(calls == 6);
}

TEST_CASE("what is no descriptor is refused, and costs no memory") {
  coir::loop loop;
  const auto watch = [&](int fd) {
    return refusal([&] { static_cast<void>(loop.watch(fd, watch_options{.read = [] {}})); });
  };
  line one{high_pipe(), {}};
  const int number = close_behind(one);
  for (const int bad : {-1, INT_MIN, number, INT_MAX}) CHECK(watch(bad) == EBADF);
  CHECK(loop.census().watchers == 0);
  CHECK_FALSE(loop.can_wake());
  CHECK_THROWS_WITH(loop.watch(INT_MAX, watch_options{.read = [] {}}), Contains(std::to_string(INT_MAX)));
}

TEST_CASE("replacing by something that is refused leaves the first in place") {
  coir::loop loop;
  line one;
  one.in = loop.watch(one.fd(), watch_options{.read = [] {}});
  const int number = close_behind(one);
  const auto replace = [&] {
    return refusal(
        [&] { static_cast<void>(loop.watch(number, watch_options{.read = [] {}, .replace = true})); });
  };
  CHECK(replace() == EBADF);
  CHECK(one.in);
  const coir::unique_fd file(::open("/proc/self/exe", O_RDONLY | O_CLOEXEC));
  REQUIRE(::dup2(file.get(), number) == number);
  CHECK(replace() == EPERM);
  CHECK(one.in);
  ::close(number);
}

TEST_CASE("one that replaces a registration whose descriptor was closed and reused gets the new one's events") {
  coir::loop loop;
  line one;
  const support::fd_pair other = support::pipe_pair();
  int calls = 0;
  one.in = loop.watch(one.fd(), watch_options{.read = [] { FAIL("replaced"); }});
  REQUIRE(::dup2(other[0].get(), one.fd()) == one.fd());
  auto in = loop.watch(one.fd(), watch_options{.read = [&] { ++calls; }, .replace = true});
  put(other[1], "x");
  loop.run_once();
  CHECK(calls == 1);
}

TEST_CASE("a regular file is refused and says why, and so is an epoll set in a circle") {
  coir::loop loop;
  const coir::unique_fd file(::open("/proc/self/exe", O_RDONLY | O_CLOEXEC));
  const auto watch = [&](int fd) { static_cast<void>(loop.watch(fd, watch_options{.read = [] {}})); };
  CHECK(refusal([&] { watch(file.get()); }) == EPERM);
  CHECK_THROWS_WITH(watch(file.get()), Contains("regular file"));
  CHECK(loop.census().watchers == 0);
  CHECK(refusal([&] { watch(loop.pollable_fd()); }) == ELOOP);
  CHECK(loop.census().watchers == 0);
}

TEST_CASE("one without any callback is refused, and what stood there before goes on") {
  coir::loop loop;
  line one;
  int calls = 0;
  one.in = loop.watch(one.fd(), watch_options{.read = [&] { ++calls; }});
  CHECK_THROWS_WITH(loop.watch(one.fd(), watch_options{.replace = true}), Contains("without a callback"));
  CHECK_THROWS_AS(loop.watch(one.ends[1].get(), watch_options{.read = nullptr, .data = 1}), std::logic_error);
  put(one.ends[1], "x");
  loop.run_once();
  CHECK(calls == 1);
}

TEST_CASE("without a descriptor for the watchers' set a watch is refused, and works when there is one") {
  coir::loop loop;
  line one;
  int calls = 0;
  const auto watch = [&] { one.in = loop.watch(one.fd(), watch_options{.read = [&] { ++calls; }}); };
  {
    const support::descriptor_limit none(0);
    CHECK(refusal(watch) == EMFILE);
    CHECK(loop.census().watchers == 0);
    loop.run_once();
  }
  watch();
  put(one.ends[1], "x");
  loop.run_once();
  CHECK(calls == 1);
}

TEST_CASE("where the user has too many watches, another is refused and says so, and the others go on") {
  // Not by lowering the limit, which is the machine's: other tests would hear of it.
  const auto child = support::in_child([] {
    coir::loop loop;
    line one, two;
    int calls = 0;
    one.in = loop.watch(one.fd(), watch_options{.read = [&] { ++calls; }});
    support::forbid({SYS_epoll_ctl}, ENOSPC);
    try {
      two.in = loop.watch(two.fd(), watch_options{.read = [&] { ++calls; }});
    } catch (const std::system_error& error) {
      std::fprintf(stderr, "errno %d, %s, ", error.code().value(), error.what());
    }
    put(one.ends[1], "x");
    loop.run_once();
    std::fprintf(stderr, "%zu watched, %d called", loop.census().watchers, calls);
  });
  CHECK_THAT(child.text, Contains("errno " + std::to_string(ENOSPC) + ",") && Contains("max_user_watches") &&
                             Contains("1 watched, 1 called"));
  CHECK(child.exit_code == 0);
}

TEST_CASE("a hang-up that nobody listens to is counted once, and nothing spins") {
  coir::loop loop;
  line one;
  int calls = 0;
  one.in = loop.watch(one.fd(), watch_options{.read = [&](watcher& w) {
                        ++calls;
                        w.disable_read();
                      }});
  one.in->disable_read();
  CHECK(one.in->listens());
  one.ends[1].reset();
  loop.run();
  CHECK(loop.stats().watchers.unheard == 1);
  CHECK_FALSE(one.in->listens());
  CHECK(one.in);
  CHECK(events_in(loop, 10ms) == 0);
  CHECK(calls == 0);

  // Put back: it is told, disables itself, and falls silent again.
  one.in->enable_read();
  CHECK(one.in->listens());
  loop.run();
  CHECK(calls == 1);
  CHECK(loop.stats().watchers.unheard == 2);
  one.in->rearm();
  CHECK(one.in->listens());
  loop.run();
  CHECK(loop.stats().watchers.unheard == 3);
  CHECK(calls == 1);
}

TEST_CASE("one that went silent can be replaced and ended like others, and refuses a second") {
  coir::loop loop;
  line one;
  int calls = 0;
  one.in = loop.watch(one.fd(), watch_options{.read = [] { FAIL("disabled"); }});
  one.in->disable_read();
  one.ends[1].reset();
  loop.run();
  REQUIRE_FALSE(one.in->listens());
  CHECK(refusal([&] { static_cast<void>(loop.watch(one.fd(), watch_options{.read = [] {}})); }) == EEXIST);
  auto in = loop.watch(one.fd(), watch_options{.read = [&](watcher& w) {
                                                 ++calls;
                                                 w.cancel();
                                               },
                                               .replace = true});
  CHECK_FALSE(one.in);
  loop.run();
  CHECK(calls == 1);
}

TEST_CASE("edge-triggered and oneshot: a hang-up that nobody listens to is silence too") {
  for (const bool once : {true, false}) {
    coir::loop loop;
    line one;
    one.in = loop.watch(one.fd(), watch_options{.read = [] { FAIL("disabled"); },
                                                .edge_triggered = !once,
                                                .oneshot = once});
    one.in->disable_read();
    one.ends[1].reset();
    loop.run();
    CHECK(loop.stats().watchers.unheard == 1);
    CHECK_FALSE(loop.can_wake());
  }
}

TEST_CASE("unwatching a number that was closed ends nothing of the loop's own that has it now") {
  coir::loop loop;
  line one;
  one.in = loop.watch(one.fd(), watch_options{.read = [] {}});
  const int number = close_behind(one);
  int calls = 0;
  auto own = loop.waker([&] { ++calls; });
  loop.unwatch(number);
  CHECK(refusal([&] { one.in = loop.watch(number, watch_options{.read = [] {}, .replace = true}); }) == EEXIST);
  own.wake();
  support::run_until(loop, [&] { return calls == 1; });
  CHECK(own);
}

TEST_CASE("a oneshot watcher that has fired and was closed gets nothing of the number's next user from a new set") {
  coir::loop loop;
  line one;
  int calls = 0;
  one.in = loop.watch(one.fd(), watch_options{.read = [&] { ++calls; }, .oneshot = true});
  put(one.ends[1], "x");
  loop.run_once();
  REQUIRE(calls == 1);
  // An entry without an owner, which makes the set anew.
  line other;
  other.in = loop.watch(other.fd(), watch_options{.read = [] {}});
  const coir::unique_fd kept(::dup(other.fd()));
  close_behind(other);
  other.in.reset();
  put(other.ends[1], "x");
  const int number = close_behind(one);
  const support::fd_pair next = support::pipe_pair();
  const coir::unique_fd reused(::dup2(next[0].get(), number));
  put(next[1], "y");
  while (loop.stats().watchers.rebuilds == 0) loop.run_once();
  CHECK(refusal([&] { one.in->rearm(); }) == EBADF);
  loop.run_once();
  CHECK(calls == 1);
}

TEST_CASE("a silent watcher of a number that was closed does not keep the loop from using it itself") {
  coir::loop loop;
  line one;
  one.in = loop.watch(one.fd(), watch_options{.read = [] {}});
  one.in->disable_read();
  one.ends[1].reset();  // a hang-up that nobody hears
  loop.run_once();
  REQUIRE(loop.stats().watchers.unheard == 1);
  close_behind(one);
  int calls = 0;
  auto own = loop.waker([&] { ++calls; });
  CHECK_FALSE(one.in);
  own.wake();
  support::run_until(loop, [&] { return calls == 1; });
}

TEST_CASE("a watcher whose number was closed and reused refuses to be enabled or armed, and hears nothing") {
  const auto fire = [](coir::loop& loop, line& one) {
    put(one.ends[1], "x");
    loop.run_once();
  };
  const auto hang_up = [](coir::loop& loop, line& one) {
    one.in->disable_read();
    one.ends[1].reset();
    loop.run_once();
    REQUIRE(loop.stats().watchers.unheard == 1);
  };
  for (const bool rebuilt : {false, true}) {
    for (const bool once : {false, true}) {
      coir::loop loop;
      line one;
      int calls = 0;
      one.in = loop.watch(one.fd(), watch_options{.read = [&] { ++calls; }, .oneshot = once});
      once ? fire(loop, one) : hang_up(loop, one);
      REQUIRE_FALSE(one.in->listens());
      if (rebuilt) force_rebuild(loop);
      const int before = calls;
      const support::fd_pair other = support::pipe_pair();
      REQUIRE(::dup2(other[0].get(), one.fd()) == one.fd());
      put(other[1], "x");
      CHECK(refusal([&] { one.in->enable_read(); }) == EBADF);
      CHECK(refusal([&] { one.in->rearm(); }) == EBADF);
      support::idle_turns(loop);
      CHECK(calls == before);
      CHECK_FALSE(loop.can_wake());

      // The number is its user's to watch, without a word.
      std::string text;
      auto in = loop.watch(one.fd(), watch_options{.read = [&](watcher& w) { text += take(w.fd()); }});
      CHECK_FALSE(one.in);
      loop.run_once();
      CHECK(text == "x");
    }
  }
}

TEST_CASE("one that was armed when its number was closed and reused is refused as closed, too") {
  coir::loop loop;
  line one;
  one.in = loop.watch(one.fd(), watch_options{.read = [] { FAIL("closed"); }, .write = [] { FAIL("closed"); }});
  one.in->disable_read();
  const support::fd_pair other = support::pipe_pair();
  REQUIRE(::dup2(other[0].get(), one.fd()) == one.fd());
  put(other[1], "x");
  CHECK(refusal([&] { one.in->enable_read(); }) == EBADF);
  CHECK_FALSE(one.in->reads());
  CHECK_THROWS_WITH(one.in->enable_read(), Contains("closed"));
  support::idle_turns(loop);
}

TEST_CASE("one that went silent or has fired is what it was in a set that was made anew, hang-up or not") {
  coir::loop loop;
  line silent, fired;
  std::string order;
  silent.in = loop.watch(silent.fd(), watch_options{.read = [&] { order += "s"; }});
  fired.in = loop.watch(fired.fd(), watch_options{.read = [&] { order += "f"; }, .oneshot = true});
  silent.in->disable_read();
  silent.ends[1].reset();
  put(fired.ends[1], "x");
  loop.run_once();
  fired.ends[1].reset();
  REQUIRE(order == "f");
  REQUIRE(loop.stats().watchers.unheard == 1);
  force_rebuild(loop);
  support::idle_turns(loop);
  CHECK(events_in(loop, 10ms) == 0);
  CHECK(order == "f");
  CHECK(loop.stats().watchers.unheard == 1);
  CHECK_FALSE(loop.can_wake());
  silent.in->enable_read();
  loop.run_once();
  CHECK(order == "fs");
  silent.in.reset();
  fired.in->rearm();
  loop.run();
  CHECK(order == "fsf");
}

TEST_CASE("a hang-up that nobody listens to is not forgotten by a stop before it") {
  coir::loop loop;
  line one, two;
  one.in = loop.watch(one.fd(), watch_options{.read = [&](watcher& w) {
                        w.cancel();
                        loop.stop();
                      }});
  two.in = loop.watch(two.fd(), watch_options{.read = [] { FAIL("disabled"); }});
  two.in->disable_read();
  put(one.ends[1], "x");
  two.ends[1].reset();
  loop.run();
  CHECK(loop.stats().watchers.unheard == 0);
  loop.run();
  CHECK(loop.stats().watchers.unheard == 1);
}

TEST_CASE("a hang-up that came while a oneshot one slept is told in the turn after it is armed, not in the same") {
  coir::loop loop;
  line once, other;
  std::string order;
  once.in = loop.watch(once.fd(), watch_options{.read = [&] { order += "o"; }, .oneshot = true});
  other.in = loop.watch(other.fd(), watch_options{.read = [&](watcher& w) {
                          order += "x";
                          take(w.fd());
                          once.in->rearm();
                        }});
  put(once.ends[1], "x");
  loop.run_once();
  REQUIRE(order == "o");
  force_rebuild(loop);
  put(other.ends[1], "x");
  once.ends[1].reset();
  loop.run_once();
  CHECK(order == "ox");
  loop.run_once();
  CHECK(order == "oxo");
  support::idle_turns(loop);
  CHECK(order == "oxo");
}

TEST_CASE("one that went silent and is armed again by one before it in the batch is told in the next turn") {
  coir::loop loop;
  line one, two;
  int turns = 0;
  one.in = loop.watch(one.fd(), watch_options{.read = [&] {
                        if (++turns == 1) two.in->disable_read();
                        if (turns == 2) two.in->rearm();
                      }});
  two.in = loop.watch(two.fd(), watch_options{.read = [] { FAIL("disabled"); }});
  put(one.ends[1], "x");
  two.ends[1].reset();
  loop.run_once();
  CHECK(loop.stats().watchers.unheard == 1);
  loop.run_once();
  CHECK(two.in->listens());
  CHECK(loop.stats().watchers.unheard == 1);
  loop.run_once();
  CHECK_FALSE(two.in->listens());
  CHECK(loop.stats().watchers.unheard == 2);
}
