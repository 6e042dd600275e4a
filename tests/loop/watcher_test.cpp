// Watchers: what epoll means, on every backend.
#include "loop/watch_tools.hpp"

#include <coir/coir.hpp>

#include <climits>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

using namespace std::chrono_literals;
using coir::watch_options;
using coir::watcher;
using Catch::Matchers::Contains;
using tests::put;
using tests::refusal;
using tests::take;

TEST_CASE("a read callback is called as long as there is something to read") {
  coir::loop loop;
  const support::fd_pair ends = support::pipe_pair();
  int calls = 0;
  auto in = loop.watch(ends[0].get(), watch_options{.read = [&](watcher& w) {
                         CHECK(w.fd() == ends[0].get());
                         if (++calls == 3) support::drain(w.fd());
                       }});
  CHECK(loop.run_once() == 0);
  REQUIRE(::write(ends[1].get(), "abc", 3) == 3);
  for (int i = 0; i < 5; ++i) loop.run_once();
  CHECK(calls == 3);
}

TEST_CASE("a loop with nothing but watchers and timers sleeps, and runs until nothing is left") {
  coir::loop loop;
  const support::fd_pair ends = support::pipe_pair();
  std::string order;
  auto in = loop.watch(ends[0].get(), watch_options{.read = [&](watcher& w) {
                         order += "read ";
                         w.cancel();
                       }});
  auto later = loop.after(20ms, [&] {
    order += "timer ";
    REQUIRE(::write(ends[1].get(), "x", 1) == 1);
  });
  loop.run();
  CHECK(order == "timer read ");
  CHECK_FALSE(in);
  CHECK(later);
  CHECK_FALSE(later->armed());
}

TEST_CASE("watchers and requests live side by side, on one descriptor too") {
  coir::loop loop;
  const support::fd_pair ends = support::socket_pair();
  std::array<std::byte, 8> buffer;
  support::asked get(coir::request::recv(ends[0].get(), buffer));
  REQUIRE(loop.start(get.request));
  int writable = 0;
  auto out = loop.watch(ends[0].get(), watch_options{.write = [&](watcher& w) {
                          ++writable;
                          w.disable_write();
                        }});
  support::run_until(loop, [&] { return writable == 1; });
  REQUIRE(::write(ends[1].get(), "ab", 2) == 2);
  support::run_until(loop, [&] { return get.over(); });
  CHECK(get.seen.results == std::vector{2});
  CHECK(writable == 1);
  out->enable_write();
  support::asked more(coir::request::recv(ends[0].get(), buffer));
  REQUIRE(loop.start(more.request));
  support::run_until(loop, [&] { return writable == 2; });
  CHECK(support::give_up(loop, more) == -ECANCELED);
}

TEST_CASE("a write callback is called while there is room, until it is disabled, and again when it is enabled") {
  coir::loop loop;
  const support::fd_pair ends = support::pipe_pair();
  int calls = 0;
  auto out = loop.watch(ends[1].get(), watch_options{.write = [&](watcher& w) {
                          if (++calls % 2 == 0) w.disable_write();
                        }});
  support::idle_turns(loop);
  CHECK(calls == 2);
  CHECK_FALSE(out->writes());
  out->enable_write();
  CHECK(calls == 2);
  support::idle_turns(loop);
  CHECK(calls == 4);
}

TEST_CASE("a direction that is disabled hears nothing, and what came meanwhile when it is enabled") {
  coir::loop loop;
  const support::fd_pair ends = support::socket_pair();
  std::string order;
  auto both = loop.watch(ends[0].get(), watch_options{.read = [&](watcher& w) { order += take(w.fd()); },
                                                      .write = [&] { order += "w"; }});
  both->disable_read();
  both->disable_write();
  CHECK_FALSE(both->reads());
  CHECK_FALSE(both->writes());
  put(ends[1], "r");
  support::idle_turns(loop);
  CHECK(order.empty());
  both->enable_read();
  CHECK(both->reads());
  support::idle_turns(loop);
  CHECK(order == "r");
}

TEST_CASE("each direction hears only what is its own") {
  coir::loop loop;
  const support::fd_pair one = support::socket_pair();
  const support::fd_pair two = support::socket_pair();
  auto in = loop.watch(one[0].get(), watch_options{.read = [] { FAIL("nothing to read"); }});
  support::fill(two[0].get());
  auto out = loop.watch(two[0].get(), watch_options{.write = [] { FAIL("no room"); }});
  put(two[1], "x");
  support::idle_turns(loop);
}

TEST_CASE("a callback may take the watcher or nothing, and the watcher knows its descriptor and its loop") {
  coir::loop loop;
  const support::fd_pair ends = support::socket_pair();
  std::string order;
  auto both = loop.watch(ends[0].get(), watch_options{.read = [&] { order += "r"; },
                                                      .write = [&](watcher& w) {
                                                        CHECK(w.fd() == ends[0].get());
                                                        CHECK(&w.on() == &loop);
                                                        CHECK(w.reads());
                                                        CHECK(w.writes());
                                                        CHECK(w.listens());
                                                        order += "w";
                                                      }});
  put(ends[1], "x");
  loop.run_once();
  CHECK(order == "rw");
}

TEST_CASE("enabling a direction without a callback says so, and changes nothing") {
  coir::loop loop;
  const support::fd_pair ends = support::socket_pair();
  auto in = loop.watch(ends[0].get(), watch_options{.read = [] {}});
  CHECK_THROWS_WITH(in->enable_write(), Contains("no callback to write"));
  CHECK_FALSE(in->writes());
  auto out = loop.watch(ends[1].get(), watch_options{.write = [] {}});
  CHECK_THROWS_AS(out->enable_read(), std::logic_error);
}

TEST_CASE("a second registration of a descriptor is refused, and the first goes on") {
  coir::loop loop;
  const support::fd_pair ends = support::pipe_pair();
  int calls = 0;
  auto in = loop.watch(ends[0].get(), watch_options{.read = [&] { ++calls; }});
  const auto second = [&] { static_cast<void>(loop.watch(ends[0].get(), watch_options{.read = [] {}})); };
  CHECK(refusal(second) == EEXIST);
  CHECK_THROWS_WITH(second(), Contains("replace"));
  put(ends[1], "x");
  loop.run_once();
  CHECK(calls == 1);
  CHECK(loop.census().watchers == 1);
}

TEST_CASE("one that replaces hears what it asks for from then on, and replacing calls nobody") {
  coir::loop loop;
  const support::fd_pair ends = support::socket_pair();
  std::string order;
  put(ends[1], "x");
  auto in = loop.watch(ends[0].get(), watch_options{.read = [&] { order += "1"; }});
  auto out = loop.watch(ends[0].get(), watch_options{.write = [&] { order += "2"; }, .replace = true});
  CHECK(order.empty());
  loop.run_once();
  CHECK(order == "2");
  auto both = loop.watch(ends[0].get(), watch_options{
      .read = [&] { order += "3"; }, .write = [&] { order += "4"; }, .replace = true});
  loop.run_once();
  CHECK(order == "234");
  CHECK(loop.census().watchers == 1);
}

TEST_CASE("one that replaces nothing is a registration like others") {
  coir::loop loop;
  const support::fd_pair ends = support::pipe_pair();
  int calls = 0;
  auto out = loop.watch(ends[1].get(), watch_options{.write = [&] { ++calls; }, .replace = true});
  loop.run_once();
  CHECK(calls == 1);
}

TEST_CASE("unwatching what is not watched does nothing") {
  coir::loop loop;
  loop.unwatch(0);
  const support::fd_pair ends = support::pipe_pair();
  int calls = 0;
  auto out = loop.watch(ends[1].get(), watch_options{.write = [&] { ++calls; }});
  for (const int unknown : {-1, INT_MIN, INT_MAX, ends[0].get()}) loop.unwatch(unknown);
  loop.run_once();
  CHECK(calls == 1);
}

TEST_CASE("two loops watch one descriptor, and each hears of it") {
  coir::loop one;
  coir::loop two;
  const support::fd_pair ends = support::pipe_pair();
  std::string order;
  auto first = one.watch(ends[0].get(), watch_options{.read = [&] { order += "1"; }});
  auto second = two.watch(ends[0].get(), watch_options{.read = [&] { order += "2"; }});
  put(ends[1], "x");
  one.run_once();
  two.run_once();
  first.reset();
  two.run_once();
  CHECK(order == "122");
}

TEST_CASE("a loop with nothing but a descriptor that stays silent sleeps until its limit") {
  coir::loop loop;
  const support::fd_pair ends = support::pipe_pair();
  auto in = loop.watch(ends[0].get(), watch_options{.read = [] {}});
  const coir::instant began = coir::steady_now();
  loop.run_for(20ms);
  CHECK(coir::steady_now() - began >= 20ms);
  CHECK(loop.stats().watchers.events == 0);
}

TEST_CASE("a watcher says what it waits for") {
  coir::loop loop;
  const support::fd_pair ends = support::socket_pair();
  auto both = loop.watch(ends[0].get(), watch_options{.read = [] {}, .write = [] {}, .oneshot = true});
  const std::string name = "watcher of descriptor " + std::to_string(ends[0].get());
  CHECK(both->describe() == name + ", read, write");
  loop.run_once();
  CHECK(both->describe() == name + ", read, write, silent");
  both->disable_read();
  CHECK(both->describe() == name + ", write, silent");
}

TEST_CASE("what happened is counted") {
  coir::loop loop;
  const support::fd_pair ends = support::socket_pair();
  const support::fd_pair pipe = support::pipe_pair();
  auto both = loop.watch(ends[0].get(), watch_options{.read = [] {}, .write = [] {}});
  auto in = loop.watch(pipe[0].get(), watch_options{.read = [] {}});
  put(ends[1], "x");
  put(pipe[1], "x");
  CHECK(loop.run_once() == 2);
  CHECK(loop.run_once() == 2);
  const coir::watch_stats seen = loop.stats().watchers;
  CHECK(seen.waits == 2);
  CHECK(seen.events == 4);
  CHECK(seen.reads == 4);
  CHECK(seen.writes == 2);
  CHECK(seen.errors + seen.stale + seen.unheard + seen.rebuilds == 0);
  CHECK(seen.largest_batch == 2);
}

TEST_CASE("an event whose first callback ends the watcher is one event, and no stale one") {
  coir::loop loop;
  const support::fd_pair ends = support::socket_pair();
  put(ends[1], "x");
  auto in = loop.watch(ends[0].get(), watch_options{.read = [](watcher& w) { w.cancel(); }, .write = [] {}});
  loop.run_once();
  CHECK(loop.stats().watchers.events == 1);
  CHECK(loop.stats().watchers.stale == 0);
}

TEST_CASE("a wake by another thread is not counted among the events") {
  coir::loop loop;
  const support::fd_pair ends = support::pipe_pair();
  auto in = loop.watch(ends[0].get(), watch_options{.read = [] {}});
  int ran = 0;
  for (int i = 0; i < 20; ++i) {
    std::thread other([&] { loop.post([&] { ++ran; }); });
    std::size_t done = 0;
    while (ran == i) done += loop.run_once(-1ns);
    other.join();
    CHECK(done == 1);
  }
  CHECK(loop.stats().watchers.events == 0);
}

TEST_CASE("watchers, timers and fibers work in one program") {
  std::string order;
  const support::fd_pair ends = support::pipe_pair();
  coir::run([&] {
    coir::loop& loop = *coir::loop::current();
    auto in = loop.watch(ends[0].get(), watch_options{.read = [&](watcher& w) {
                           order += take(w.fd());
                           if (order.size() == 3) w.cancel();
                         }});
    auto tick = loop.every(1ms, [&](coir::timer& t) {
      put(ends[1], "t");
      if (order.size() == 2) t.cancel();
    });
    while (in) coir::await(coir::sleep_for(1ms));
  });
  CHECK(order.size() == 3);
}

TEST_CASE("a fiber that waits for ever is no deadlock while a watcher may still wake it") {
  const support::fd_pair ends = support::pipe_pair();
  bool woken = false;
  coir::run([&] {
    coir::loop& loop = *coir::loop::current();
    auto sleeper = coir::spawn([] { coir::await(coir::sleep_until(coir::never)); });
    auto in = loop.watch(ends[0].get(), watch_options{.read = [&](watcher& w) {
                           w.cancel();
                           sleeper.cancel();
                         }});
    std::thread other([&] { put(ends[1], "x"); });
    coir::await(coir::end_op(sleeper));
    other.join();
    woken = true;
  });
  CHECK(woken);
}
