// Level and edge, oneshot and both; and what is left over by a stop or an exception.
#include "loop/watch_tools.hpp"

#include <coir/testing/mock_clock.hpp>

#include <stdexcept>
#include <string>
#include <vector>

using namespace std::chrono_literals;
using coir::watch_options;
using coir::watcher;
using tests::line;
using tests::put;
using tests::take;

TEST_CASE("level-triggered: what is left unread is told again") {
  coir::loop loop;
  line one;
  std::string order;
  one.in = loop.watch(one.fd(), watch_options{.read = [&](watcher& w) { order += take(w.fd(), 1) + " "; }});
  put(one.ends[1], "abc");
  support::idle_turns(loop);
  CHECK(order == "a b c ");
}

TEST_CASE("edge-triggered: what is left unread is not told again, and comes with what is new") {
  coir::loop loop;
  line one;
  std::string order;
  one.in = loop.watch(one.fd(), watch_options{.read = [&](watcher& w) { order += take(w.fd(), 2) + " "; },
                                              .edge_triggered = true});
  put(one.ends[1], "abcd");
  support::idle_turns(loop);
  CHECK(order == "ab ");
  put(one.ends[1], "ef");
  support::idle_turns(loop);
  CHECK(order == "ab cd ");
  take(one.fd());
  put(one.ends[1], "gh");
  support::idle_turns(loop);
  CHECK(order == "ab cd gh ");
}

TEST_CASE("edge-triggered: what comes while the callback drains is not lost") {
  coir::loop loop;
  line one;
  std::string text;
  int calls = 0;
  one.in = loop.watch(one.fd(), watch_options{.read = [&](watcher& w) {
                                                ++calls;
                                                for (std::string some; !(some = take(w.fd(), 1)).empty();) {
                                                  text += some;
                                                  if (text.size() == 2) put(one.ends[1], "cd");
                                                }
                                                if (calls == 1) put(one.ends[1], "e");
                                              },
                                              .edge_triggered = true});
  put(one.ends[1], "ab");
  support::idle_turns(loop);
  CHECK(text == "abcde");
  CHECK(calls >= 2);
}

TEST_CASE("edge-triggered: room to write is told once, and again when there was none") {
  coir::loop loop;
  const support::fd_pair ends = support::socket_pair();
  int calls = 0;
  auto out = loop.watch(ends[0].get(), watch_options{.write = [&] { ++calls; }, .edge_triggered = true});
  support::idle_turns(loop);
  CHECK(calls == 1);
  support::fill(ends[0].get());
  support::idle_turns(loop);
  CHECK(calls == 1);
  support::drain(ends[1].get());
  support::idle_turns(loop);
  CHECK(calls > 1);
}

TEST_CASE("oneshot: one delivery, then silence, and it stays registered") {
  coir::loop loop;
  line one;
  int calls = 0;
  one.in = loop.watch(one.fd(), watch_options{.read = [&](watcher& w) {
                                                ++calls;
                                                CHECK_FALSE(w.listens());
                                              },
                                              .oneshot = true});
  CHECK(one.in->listens());
  put(one.ends[1], "x");
  support::idle_turns(loop);
  put(one.ends[1], "y");
  support::idle_turns(loop);
  CHECK(calls == 1);
  CHECK(one.in);
  CHECK_FALSE(one.in->listens());
  CHECK(loop.census().watchers == 1);
  CHECK_FALSE(loop.can_wake());
}

TEST_CASE("oneshot: armed again with an unchanged mask, it hears what was there already") {
  coir::loop loop;
  line one;
  int calls = 0;
  one.in = loop.watch(one.fd(), watch_options{.read = [&] { ++calls; }, .oneshot = true});
  put(one.ends[1], "x");
  support::idle_turns(loop);
  CHECK(calls == 1);
  one.in->rearm();
  CHECK(one.in->listens());
  CHECK(calls == 1);
  support::idle_turns(loop);
  CHECK(calls == 2);
  one.in->enable_read();
  support::idle_turns(loop);
  CHECK(calls == 3);
}

TEST_CASE("oneshot: armed again in its own callback, it is called once a turn") {
  coir::loop loop;
  line one;
  int calls = 0;
  one.in = loop.watch(one.fd(), watch_options{.read = [&](watcher& w) {
                                                if (++calls < 3) w.rearm();
                                              },
                                              .oneshot = true});
  put(one.ends[1], "x");
  loop.run_once();
  CHECK(calls == 1);
  loop.run();
  CHECK(calls == 3);
}

TEST_CASE("oneshot: readable and writable at once is one delivery") {
  coir::loop loop;
  const support::fd_pair ends = support::socket_pair();
  std::string order;
  auto both = loop.watch(ends[0].get(), watch_options{
      .read = [&] { order += "r"; }, .write = [&] { order += "w"; }, .oneshot = true});
  put(ends[1], "x");
  support::idle_turns(loop);
  CHECK(order == "rw");
  both->rearm();
  support::idle_turns(loop);
  CHECK(order == "rwrw");
}

TEST_CASE("oneshot: one delivery disarms both directions, also the one that did not come") {
  coir::loop loop;
  const support::fd_pair ends = support::socket_pair();
  std::string order;
  auto both = loop.watch(ends[0].get(), watch_options{
      .read = [&] { order += "r"; }, .write = [&] { order += "w"; }, .oneshot = true});
  loop.run_once();
  put(ends[1], "x");
  support::idle_turns(loop);
  CHECK(order == "w");
  both->disable_write();
  support::idle_turns(loop);
  CHECK(order == "w");
  both->rearm();
  support::idle_turns(loop);
  CHECK(order == "wr");
}

TEST_CASE("oneshot: armed again by its read, the write of the same event still comes, once") {
  coir::loop loop;
  const support::fd_pair ends = support::socket_pair();
  std::string order;
  auto both = loop.watch(ends[0].get(), watch_options{.read = [&](watcher& w) {
                                                        order += "r";
                                                        take(w.fd());
                                                        w.rearm();
                                                      },
                                                      .write = [&] { order += "w"; },
                                                      .oneshot = true});
  put(ends[1], "x");
  loop.run_once();
  CHECK(order == "rw");
  CHECK(both->listens());
  support::idle_turns(loop);
  CHECK(order == "rww");
  CHECK_FALSE(both->listens());
}

TEST_CASE("oneshot: cancelled in its callback, it is gone") {
  coir::loop loop;
  line one;
  int calls = 0;
  one.in = loop.watch(one.fd(), watch_options{.read = [&](watcher& w) {
                                                ++calls;
                                                w.cancel();
                                                CHECK_THROWS_AS(w.rearm(), std::logic_error);
                                              },
                                              .oneshot = true});
  put(one.ends[1], "x");
  support::idle_turns(loop);
  CHECK(calls == 1);
}

TEST_CASE("oneshot: armed again before its event came, it is called once for it") {
  coir::loop loop;
  line one;
  int calls = 0;
  one.in = loop.watch(one.fd(), watch_options{.read = [&] { ++calls; }, .oneshot = true});
  one.in->rearm();
  put(one.ends[1], "x");
  one.in->rearm();
  support::idle_turns(loop);
  CHECK(calls == 1);
}

TEST_CASE("oneshot: armed again by one before it in the batch, it is called once and then silent") {
  for (const bool by_change : {true, false}) {
    coir::loop loop;
    line first;
    const support::fd_pair ends = support::socket_pair();
    int calls = 0;
    coir::owned<watcher> second;
    first.in = loop.watch(first.fd(), watch_options{.read = [&](watcher& w) {
                            take(w.fd());
                            by_change ? second->enable_read() : second->rearm();
                          }});
    second = loop.watch(ends[0].get(), watch_options{.read = [&](watcher& w) {
                                                       ++calls;
                                                       CHECK_FALSE(w.listens());
                                                     },
                                                     .oneshot = true});
    put(first.ends[1], "x");
    put(ends[1], "x");
    support::idle_turns(loop);
    CHECK(calls == 1);
    CHECK_FALSE(second->listens());
    CHECK_FALSE(first.in->describe().empty());
  }
}

TEST_CASE("oneshot: a direction disabled by one before it in the batch takes nothing from the other") {
  coir::loop loop;
  line first;
  const support::fd_pair ends = support::socket_pair();
  support::fill(ends[0].get());
  int written = 0;
  coir::owned<watcher> second;
  first.in = loop.watch(first.fd(), watch_options{.read = [&](watcher& w) {
                          w.cancel();
                          second->disable_read();
                        }});
  second = loop.watch(ends[0].get(), watch_options{.read = [] { FAIL("disabled"); },
                                                   .write = [&] { ++written; },
                                                   .oneshot = true});
  put(first.ends[1], "x");
  put(ends[1], "x");
  loop.run_once();
  CHECK(second->listens());
  CHECK(loop.can_wake());
  support::drain(ends[1].get());
  loop.run();
  CHECK(written == 1);
}

TEST_CASE("edge-triggered and oneshot: one delivery, and armed again it hears what waits") {
  coir::loop loop;
  line one;
  std::string text;
  one.in = loop.watch(one.fd(), watch_options{.read = [&](watcher& w) { text += take(w.fd(), 1); },
                                              .edge_triggered = true,
                                              .oneshot = true});
  put(one.ends[1], "abc");
  support::idle_turns(loop);
  put(one.ends[1], "d");
  support::idle_turns(loop);
  CHECK(text == "a");
  one.in->rearm();
  support::idle_turns(loop);
  CHECK(text == "ab");
}

TEST_CASE("rearming one that is not oneshot changes nothing") {
  coir::loop loop;
  line one, two;
  int level = 0, edge = 0;
  one.in = loop.watch(one.fd(), watch_options{.read = [&] { ++level; }});
  two.in = loop.watch(two.fd(), watch_options{.read = [&] { ++edge; }, .edge_triggered = true});
  put(one.ends[1], "x");
  put(two.ends[1], "x");
  loop.run_once();
  one.in->rearm();
  two.in->rearm();
  support::idle_turns(loop, 3);
  CHECK(level == 4);
  CHECK(edge == 1);
}

TEST_CASE("what a stop leaves undelivered comes in the next run, of every kind, and once") {
  struct how {
    bool edge;
    bool once;
    int calls;
  };
  // The kernel repeats what is level-triggered.
  for (const how each : {how{false, false, 3}, how{true, false, 1}, how{false, true, 1}, how{true, true, 1}}) {
    coir::loop loop;
    std::vector<line> lines(3);
    std::vector<int> calls(3);
    for (std::size_t i = 0; i < 3; ++i) {
      lines[i].in = loop.watch(lines[i].fd(), watch_options{.read =
                                                                [&, i](watcher&) {
                                                                  ++calls[i];
                                                                  if (i == 0) loop.stop();
                                                                },
                                                            .edge_triggered = each.edge || i == 0,
                                                            .oneshot = each.once});
      put(lines[i].ends[1], "x");
    }
    loop.run();
    CHECK(calls == std::vector{1, 0, 0});
    loop.run_once();
    CHECK(calls == std::vector{1, 1, 1});
    loop.run_once();
    loop.run_once();
    CHECK(calls == std::vector{1, each.calls, each.calls});
  }
}

TEST_CASE("level-triggered: what a stop left and was read meanwhile is not told") {
  coir::loop loop;
  line one, two;
  one.in = loop.watch(one.fd(), watch_options{.read = [&](watcher& w) {
                        take(w.fd());
                        loop.stop();
                      }});
  two.in = loop.watch(two.fd(), watch_options{.read = [] { FAIL("nothing to read"); }});
  put(one.ends[1], "x");
  put(two.ends[1], "x");
  loop.run();
  take(two.fd());
  support::idle_turns(loop);
}

TEST_CASE("what was left undelivered reaches nobody when its watcher has ended or was replaced meanwhile") {
  coir::loop loop;
  line one, two, three, four;
  std::string order;
  const auto never = [] { FAIL("ended"); };
  one.in = loop.watch(one.fd(), watch_options{.read = [&](watcher& w) {
                        w.cancel();
                        loop.stop();
                      }});
  two.in = loop.watch(two.fd(), watch_options{.read = never, .edge_triggered = true});
  three.in = loop.watch(three.fd(), watch_options{.read = never, .oneshot = true});
  four.in = loop.watch(four.fd(), watch_options{.read = never, .edge_triggered = true});
  for (line* each : {&one, &two, &three, &four}) put(each->ends[1], "x");
  loop.run();
  two.in.reset();
  three.in = loop.watch(three.fd(), watch_options{.read = [&] { order += "new"; }, .replace = true});
  four.in->disable_read();
  loop.run_once();
  CHECK(order == "new");
  support::idle_turns(loop, 1);
  CHECK(loop.stats().watchers.rebuilds == 0);
}

TEST_CASE("oneshot: armed again after a stop left its event undelivered, it is called once") {
  coir::loop loop;
  line one, two;
  int calls = 0;
  one.in = loop.watch(one.fd(), watch_options{.read = [&](watcher& w) {
                        w.cancel();
                        loop.stop();
                      }});
  two.in = loop.watch(two.fd(), watch_options{.read = [&] { ++calls; }, .oneshot = true});
  put(one.ends[1], "x");
  put(two.ends[1], "x");
  loop.run();
  CHECK(calls == 0);
  two.in->rearm();
  support::idle_turns(loop);
  CHECK(calls == 1);
  CHECK_FALSE(two.in->listens());
}

TEST_CASE("edge-triggered and oneshot: what an exception leaves undelivered comes in the next run, once") {
  for (const bool once : {true, false}) {
    coir::loop loop;
    line one, two;
    int calls = 0;
    one.in = loop.watch(one.fd(), watch_options{.read = [&](watcher& w) {
                          w.cancel();
                          throw std::runtime_error("thrown");
                        }});
    two.in = loop.watch(two.fd(),
                        watch_options{.read = [&] { ++calls; }, .edge_triggered = !once, .oneshot = once});
    put(one.ends[1], "x");
    put(two.ends[1], "x");
    CHECK_THROWS_AS(loop.run(), std::runtime_error);
    CHECK(calls == 0);
    support::idle_turns(loop);
    CHECK(calls == 1);
  }
}

TEST_CASE("edge-triggered and oneshot: one that throws is not called again for the same event") {
  for (const bool once : {true, false}) {
    coir::loop loop;
    line one;
    int calls = 0;
    one.in = loop.watch(one.fd(), watch_options{.read =
                                                    [&](watcher&) {
                                                      ++calls;
                                                      throw std::runtime_error("thrown");
                                                    },
                                                .edge_triggered = !once,
                                                .oneshot = once});
    put(one.ends[1], "x");
    CHECK_THROWS_AS(loop.run(), std::runtime_error);
    support::idle_turns(loop);
    CHECK(calls == 1);
  }
}

TEST_CASE("edge-triggered and oneshot: the write behind a read that threw comes in the next run, without the read") {
  for (const bool once : {true, false}) {
    coir::loop loop;
    const support::fd_pair ends = support::socket_pair();
    std::string order;
    auto both = loop.watch(ends[0].get(), watch_options{.read =
                                                            [&](watcher&) {
                                                              order += "r";
                                                              throw std::runtime_error("thrown");
                                                            },
                                                        .write = [&] { order += "w"; },
                                                        .edge_triggered = !once,
                                                        .oneshot = once});
    put(ends[1], "x");
    CHECK_THROWS_AS(loop.run(), std::runtime_error);
    CHECK(order == "r");
    support::idle_turns(loop);
    CHECK(order == "rw");
  }
}

TEST_CASE("the write behind a read that stopped the loop comes in the next run") {
  for (const bool once : {false, true}) {
    INFO((once ? "oneshot" : "edge-triggered"));
    coir::loop loop;
    const support::fd_pair ends = support::socket_pair();
    std::string order;
    put(ends[1], "x");
    auto both = loop.watch(ends[0].get(), watch_options{.read =
                                                            [&](watcher&) {
                                                              order += "r";
                                                              loop.stop();
                                                            },
                                                        .write =
                                                            [&](watcher& w) {
                                                              order += "w";
                                                              w.cancel();
                                                            },
                                                        .edge_triggered = !once,
                                                        .oneshot = once});
    loop.run();
    CHECK(order == "r");
    CHECK(loop.can_wake());
    loop.run();
    CHECK(order == "rw");
    CHECK_FALSE(loop.can_wake());
  }
}

TEST_CASE("level-triggered: a read that threw is called again, before the write") {
  coir::loop loop;
  const support::fd_pair ends = support::socket_pair();
  std::string order;
  auto both = loop.watch(ends[0].get(), watch_options{.read =
                                                          [&](watcher& w) {
                                                            order += "r";
                                                            if (order.size() == 1) throw std::runtime_error("thrown");
                                                            take(w.fd());
                                                          },
                                                      .write =
                                                          [&](watcher& w) {
                                                            order += "w";
                                                            w.disable_write();
                                                          }});
  put(ends[1], "x");
  CHECK_THROWS_AS(loop.run(), std::runtime_error);
  support::idle_turns(loop);
  CHECK(order == "rrw");
}

TEST_CASE("a clock that jumps does not jump over what was left undelivered") {
  coir::testing::mock_clock clock;
  coir::loop loop(coir::loop_options().time(&clock));
  line one, two;
  const coir::instant began = loop.time();
  std::vector<coir::instant> when;
  one.in = loop.watch(one.fd(), watch_options{.read = [&](watcher& w) {
                        w.cancel();
                        loop.stop();
                      }});
  two.in = loop.watch(two.fd(), watch_options{.read = [&](watcher& w) {
                                                when.push_back(loop.time());
                                                w.cancel();
                                              },
                                              .edge_triggered = true});
  auto later = loop.after(1h, [&] { when.push_back(loop.time()); });
  put(one.ends[1], "x");
  put(two.ends[1], "x");
  loop.run();
  CHECK(when.empty());
  loop.run();
  CHECK(when == std::vector{began, began + 1h});
}
