// Who turns the loop: a foreign loop, run, run_for, with and without requests in flight; and what ends it.
#include "loop/foreign_host.hpp"
#include "loop/watch_tools.hpp"

#include <coir/testing/mock_clock.hpp>

#include <poll.h>
#include <pthread.h>
#include <sys/epoll.h>

#include <array>
#include <atomic>
#include <csignal>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

using namespace std::chrono_literals;
using Catch::Matchers::Contains;
using coir::watch_options;
using coir::watcher;
using tests::host;
using tests::line;
using tests::put;
using tests::readable;
using tests::take;

namespace {

// An entry of the watchers' set that nobody can take away: the set is made anew when it tells of itself.
class orphan_entry {
 public:
  explicit orphan_entry(coir::loop& loop) : loop_(loop) {
    gone_.in = loop.watch(gone_.fd(), watch_options{.read = [] { FAIL("ended"); }});
  }
  void come_out(host& foreign) {
    gone_.ends[0].reset();
    gone_.in.reset();
    put(gone_.ends[1], "x");
    const std::uint64_t before = loop_.stats().watchers.rebuilds;
    foreign.expect_quiet();
    CHECK(loop_.stats().watchers.rebuilds == before + 1);
  }

 private:
  coir::loop& loop_;
  line gone_;
  coir::unique_fd duplicate_{::dup(gone_.fd())};
};

// Keeps the backend busy, so that the watchers' set is not slept in by itself.
class something_in_flight {
 public:
  explicit something_in_flight(coir::loop& loop) : loop_(loop) { REQUIRE(loop.start(get_.request)); }
  ~something_in_flight() { support::give_up(loop_, get_); }

 private:
  coir::loop& loop_;
  support::fd_pair ends_ = support::socket_pair();
  std::array<std::byte, 8> buffer_{};
  support::asked get_{coir::request::recv(ends_[0].get(), buffer_)};
};

template <class Body>
void with_and_without_requests(Body&& body, const coir::loop_options& options = {}) {
  for (const bool busy : {false, true}) {
    INFO((busy ? "with a request in flight" : "without requests"));
    coir::loop loop(options);
    const auto more = busy ? std::make_unique<something_in_flight>(loop) : nullptr;
    body(loop);
  }
}

}  // namespace

TEST_CASE("a foreign loop is woken by a watcher's event, once for each, and is quiet otherwise") {
  with_and_without_requests([](coir::loop& loop) {
    host foreign(loop);
    line one;
    int calls = 0;
    one.in = loop.watch(one.fd(), watch_options{.read = [&](watcher& w) {
                          ++calls;
                          take(w.fd());
                        }});
    foreign.expect_quiet();
    for (int i = 1; i <= 50; ++i) {
      put(one.ends[1], "x");
      CHECK(readable(loop.pollable_fd()));
      foreign.run_until([&] { return calls == i; });
      foreign.expect_quiet();
    }
    CHECK(foreign.woken <= 60);
  });
}

TEST_CASE("a watcher made outside of a turn wakes a foreign loop, also the very first, and one that is ready") {
  with_and_without_requests([](coir::loop& loop) {
    host foreign(loop);
    foreign.expect_quiet();
    line one, two;
    int calls = 0;
    const auto count = [&](watcher& w) {
      ++calls;
      take(w.fd());
    };
    one.in = loop.watch(one.fd(), watch_options{.read = count});
    CHECK_FALSE(readable(loop.pollable_fd()));
    put(one.ends[1], "x");
    foreign.run_until([&] { return calls == 1; });
    put(two.ends[1], "x");
    two.in = loop.watch(two.fd(), watch_options{.read = count});
    foreign.run_until([&] { return calls == 2; });
    foreign.expect_quiet();
  });
}

TEST_CASE("outside of a turn: a direction enabled, a oneshot armed again and one ended are seen by a foreign loop") {
  with_and_without_requests([](coir::loop& loop) {
    host foreign(loop);
    line one, two;
    std::string order;
    one.in = loop.watch(one.fd(), watch_options{.read = [&](watcher& w) {
                          order += "1";
                          w.disable_read();
                        }});
    two.in = loop.watch(two.fd(), watch_options{.read = [&] { order += "2"; }, .oneshot = true});
    put(one.ends[1], "x");
    foreign.run_until([&] { return order == "1"; });
    put(two.ends[1], "x");
    foreign.run_until([&] { return order == "12"; });
    foreign.expect_quiet();
    one.in->enable_read();
    foreign.run_until([&] { return order == "121"; });
    two.in->rearm();
    foreign.run_until([&] { return order == "1212"; });
    foreign.expect_quiet();
    one.in->enable_read();
    CHECK(readable(loop.pollable_fd()));
    one.in.reset();
    foreign.expect_quiet();
  });
}

TEST_CASE("a timer made, moved or ended outside of a turn is seen by a foreign loop at once") {
  with_and_without_requests([](coir::loop& loop) {
    host foreign(loop);
    foreign.expect_quiet();
    int calls = 0;
    auto one = loop.after(1ms, [&] { ++calls; });
    foreign.run_until([&] { return calls == 1; });
    one->restart(1ms);
    foreign.run_until([&] { return calls == 2; });
    auto due = loop.after(0ns, [] { FAIL("ended"); });
    CHECK(readable(loop.pollable_fd()));
    due.reset();
    CHECK_FALSE(readable(loop.pollable_fd()));
    auto far = loop.every(1h, [] {});
    CHECK_FALSE(readable(loop.pollable_fd()));
    far->restart_at(coir::instant::min());
    CHECK(readable(loop.pollable_fd()));
    far->restart(1h);
    foreign.expect_quiet();
  });
}

TEST_CASE("a timer on another clock that is due is seen by a foreign loop, made outside of a turn too") {
  coir::testing::mock_clock clock(coir::testing::mock_clock::mode::by_hand);
  coir::loop loop(coir::loop_options().time(&clock));
  host foreign(loop);
  foreign.expect_quiet();
  int calls = 0;
  auto due = loop.after(0ns, [&] { ++calls; });
  CHECK(readable(loop.pollable_fd()));
  foreign.run_until([&] { return calls == 1; });
  foreign.expect_quiet();
}

TEST_CASE("what a stop left undelivered keeps a foreign loop awake until it is delivered") {
  with_and_without_requests([](coir::loop& loop) {
    host foreign(loop);
    line one, two;
    std::string order;
    one.in = loop.watch(one.fd(), watch_options{.read = [&](watcher& w) {
                          order += "1";
                          w.cancel();
                          loop.stop();
                        }});
    two.in = loop.watch(two.fd(), watch_options{.read = [&] { order += "2"; }, .edge_triggered = true});
    put(one.ends[1], "x");
    put(two.ends[1], "x");
    foreign.run_until([&] { return !order.empty(); });
    CHECK(order == "1");
    CHECK(readable(loop.pollable_fd()));
    foreign.run_until([&] { return order == "12"; });
    foreign.expect_quiet();
  });
}

TEST_CASE("after an exception a foreign loop is woken for what is left, and for all that comes later") {
  with_and_without_requests([](coir::loop& loop) {
    host foreign(loop);
    line one, two;
    std::string order;
    one.in = loop.watch(one.fd(), watch_options{.read = [&](watcher& w) {
                          order += "1";
                          take(w.fd());
                          throw std::runtime_error("thrown");
                        }});
    two.in = loop.watch(two.fd(), watch_options{.read = [&] { order += "2"; }, .edge_triggered = true});
    put(one.ends[1], "x");
    put(two.ends[1], "x");
    CHECK_THROWS_AS(foreign.run_until([] { return false; }), std::runtime_error);
    foreign.run_until([&] { return order == "12"; });
    foreign.expect_quiet();

    auto soon = loop.after(0ns, [] { throw std::runtime_error("thrown"); });
    auto later = loop.after(1ms, [&] { order += "t"; });
    CHECK_THROWS_AS(foreign.run_until([] { return false; }), std::runtime_error);
    foreign.run_until([&] { return order == "12t"; });

    // Another thread's post must ring, as after a turn without an exception.
    loop.post([] { throw std::runtime_error("thrown"); });
    CHECK_THROWS_AS(foreign.run_until([] { return false; }), std::runtime_error);
    std::thread other([&] { loop.post([&] { order += "p"; }); });
    foreign.run_until([&] { return order == "12tp"; });
    other.join();
    foreign.expect_quiet();
  });
}

TEST_CASE("a rebuilt set of watchers wakes a foreign loop like the one before it") {
  with_and_without_requests([](coir::loop& loop) {
    host foreign(loop);
    line gone, one;
    int calls = 0;
    const coir::unique_fd duplicate(::dup(gone.fd()));
    gone.in = loop.watch(gone.fd(), watch_options{.read = [] { FAIL("ended"); }});
    one.in = loop.watch(one.fd(), watch_options{.read = [&](watcher& w) {
                          ++calls;
                          take(w.fd());
                        }});
    gone.ends[0].reset();
    gone.in.reset();
    put(gone.ends[1], "x");
    foreign.expect_quiet();
    CHECK(loop.stats().watchers.rebuilds == 1);
    put(one.ends[1], "x");
    foreign.run_until([&] { return calls == 1; });
    foreign.expect_quiet();
  });
}

TEST_CASE("one loop may watch another's descriptor, and drives it") {
  coir::loop outer;
  coir::loop inner;
  line one;
  std::string order;
  one.in = inner.watch(one.fd(), watch_options{.read = [&](watcher& w) {
                         order += take(w.fd());
                         w.cancel();
                       }});
  auto soon = inner.after(1ms, [&] { put(one.ends[1], "x"); });
  inner.run_once();
  auto drive = outer.watch(inner.pollable_fd(), watch_options{.read = [&](watcher& w) {
                             inner.run_once();
                             if (!order.empty()) w.cancel();
                           }});
  outer.run();
  CHECK(order == "x");
}

TEST_CASE("with requests in flight watchers are told the same way, level, edge and oneshot, from sleep too") {
  with_and_without_requests([](coir::loop& loop) {
    line level, edge, once;
    std::string order;
    level.in = loop.watch(level.fd(), watch_options{.read = [&] { order += "l"; }});
    edge.in = loop.watch(edge.fd(), watch_options{.read = [&] { order += "e"; }, .edge_triggered = true});
    once.in = loop.watch(once.fd(), watch_options{.read = [&] { order += "o"; }, .oneshot = true});
    for (line* each : {&level, &edge, &once}) put(each->ends[1], "x");
    support::run_until(loop, [&] { return order.size() >= 3; });
    CHECK(order == "leo");
    support::run_until(loop, [&] { return order.size() >= 5; });
    CHECK(order == "leoll");
    level.in.reset();
    std::thread other([&] { put(edge.ends[1], "x"); });
    support::run_until(loop, [&] { return order.size() >= 6; });
    other.join();
    CHECK(order == "leolle");
  });
}

TEST_CASE("requests that come and go change nothing for watchers") {
  coir::loop loop;
  line one;
  int calls = 0;
  one.in = loop.watch(one.fd(), watch_options{.read = [&](watcher& w) {
                        ++calls;
                        take(w.fd());
                      }});
  for (int i = 1; i <= 20; ++i) {
    const auto more = i % 3 == 0 ? nullptr : std::make_unique<something_in_flight>(loop);
    if (i % 2 == 0) loop.run_once();
    put(one.ends[1], "x");
    support::run_until(loop, [&] { return calls == i; });
    CHECK(loop.run_once() == 0);
  }
  CHECK(calls == 20);
}

TEST_CASE("a stop in a watcher's callback ends run, run_once and run_for behind that callback") {
  with_and_without_requests([](coir::loop& loop) {
    const coir::loop::hold more(loop);
    std::vector<line> lines(4);
    std::string order;
    for (std::size_t i = 0; i < lines.size(); ++i) {
      lines[i].in = loop.watch(lines[i].fd(), watch_options{.read =
                                                                [&, i](watcher& w) {
                                                                  order += std::to_string(i);
                                                                  w.cancel();
                                                                  loop.stop();
                                                                },
                                                            .edge_triggered = i % 2 == 0});
      put(lines[i].ends[1], "x");
    }
    auto due = loop.after(0ns, [&] { order += "t"; });
    loop.run();
    CHECK(order.size() == 1);
    loop.run_for(1h);
    CHECK(order.size() == 2);
    loop.run_once(1h);
    CHECK(order.size() == 3);
    loop.run_for(1h);
    CHECK(order.find('t') == std::string::npos);
    CHECK(order.size() == 4);
    loop.run_once(1h);
    CHECK(order.size() == 5);
    CHECK(order.back() == 't');
  });
}

TEST_CASE("run_for serves watchers and timers until its limit") {
  coir::testing::mock_clock clock;
  with_and_without_requests(
      [&](coir::loop& loop) {
        line one;
        int calls = 0;
        one.in = loop.watch(one.fd(), watch_options{.read = [&](watcher& w) {
                              ++calls;
                              take(w.fd());
                            }});
        int ticks = 0;
        auto tick = loop.every(2ms, [&] {
          ++ticks;
          put(one.ends[1], "x");
        });
        const coir::instant began = clock.now();
        loop.run_for(20ms);
        CHECK(clock.now() - began == 20ms);
        CHECK(ticks == 10);
        CHECK(calls == 9);  // the last one is for the next run
      },
      coir::loop_options().time(&clock));
}

TEST_CASE("run_for waits until its limit when nothing happens") {
  with_and_without_requests([](coir::loop& loop) {
    line one;
    one.in = loop.watch(one.fd(), watch_options{.read = [] { FAIL("nothing was written"); }});
    const coir::instant began = coir::steady_now();
    loop.run_for(5ms);
    CHECK(coir::steady_now() - began >= 5ms);
  });
}

TEST_CASE("a loop run from inside a watcher's or a timer's callback says so, and goes on") {
  coir::loop loop;
  line one;
  int refused = 0;
  const auto refuse = [&] {
    CHECK_THROWS_WITH(loop.run(), Contains("inside itself"));
    CHECK_THROWS_AS(loop.run_once(), std::logic_error);
    CHECK_THROWS_AS(loop.run_for(1ms), std::logic_error);
    ++refused;
  };
  one.in = loop.watch(one.fd(), watch_options{.read = [&](watcher& w) {
                        refuse();
                        w.cancel();
                      }});
  auto soon = loop.after(0ns, refuse);
  put(one.ends[1], "x");
  loop.run();
  CHECK(refused == 2);
}

TEST_CASE("signals that interrupt the wait are not seen by anybody") {
  struct sigaction wanted {};
  struct sigaction before {};
  wanted.sa_handler = [](int) {};
  REQUIRE(::sigaction(SIGUSR1, &wanted, &before) == 0);
  with_and_without_requests([](coir::loop& loop) {
    line one;
    int calls = 0;
    one.in = loop.watch(one.fd(), watch_options{.read = [&](watcher& w) {
                          ++calls;
                          take(w.fd());
                          if (calls == 50) w.cancel();
                        }});
    auto tick = loop.every(100us, [&](coir::timer& t) {
      put(one.ends[1], "x");
      if (calls >= 49) t.cancel();
    });
    std::atomic<bool> over = false;
    std::thread other([&, whom = ::pthread_self()] {
      while (!over) {
        ::pthread_kill(whom, SIGUSR1);
        std::this_thread::yield();
      }
    });
    support::run_until(loop, [&] { return !one.in; });
    over = true;
    other.join();
    CHECK(calls == 50);
  });
  REQUIRE(::sigaction(SIGUSR1, &before, nullptr) == 0);
}

TEST_CASE("a loop that watches another one may itself be driven by a foreign loop") {
  coir::loop outer;
  coir::loop inner;
  line one;
  int calls = 0;
  one.in = inner.watch(one.fd(), watch_options{.read = [&](watcher& w) {
                         take(w.fd());
                         ++calls;
                       }});
  auto drives = outer.watch(inner.pollable_fd(), watch_options{.read = [&] { inner.run_once(); }});
  host foreign(outer);
  put(one.ends[1], "x");
  foreign.run_until([&] { return calls == 1; });
}

TEST_CASE("a loop that has slept by itself before is quiet in a foreign loop, also when its sets are made anew") {
  coir::loop loop;
  line one;
  int calls = 0;
  one.in = loop.watch(one.fd(), watch_options{.read = [&](watcher& w) {
                        ++calls;
                        take(w.fd());
                      }});
  orphan_entry entry(loop);
  const something_in_flight more(loop);
  loop.run_once(1ms);
  host foreign(loop);
  foreign.expect_quiet();
  entry.come_out(foreign);

  // What gets the number of a set that is gone is the user's.
  std::vector<support::fd_pair> later;
  for (int i = 0; i < 4; ++i) {
    later.push_back(support::pipe_pair());
    put(later.back()[1], "x");
  }
  foreign.expect_quiet();
  // The backend's own set, where it has one, is made anew too.
  support::fd_pair closed = support::pipe_pair();
  const coir::unique_fd duplicate(::dup(closed[0].get()));
  support::asked wait(coir::request::poll(closed[0].get(), POLLIN));
  REQUIRE(loop.start(wait.request));
  loop.run_once();
  closed[0].reset();
  support::give_up(loop, wait);
  put(closed[1], "x");
  foreign.expect_quiet();
  for (const support::fd_pair& each : later) {
    support::asked read(coir::request::poll(each[0].get(), POLLIN));
    loop.start(read.request);
    while (!read.over()) loop.run_once();
    take(each[0].get());
    support::asked next(coir::request::poll(each[0].get(), POLLIN));
    REQUIRE(loop.start(next.request));
    loop.run_once();
    put(each[1], "x");
    foreign.run_until([&] { return next.over(); });
    CHECK(next.seen.last() == POLLIN);
  }
  foreign.expect_quiet();
  put(one.ends[1], "x");
  foreign.run_until([&] { return calls == 1; });
  foreign.expect_quiet();
}

TEST_CASE("a loop that watches another one gets a foreign loop also with a request in flight, slept with before") {
  coir::loop outer;
  coir::loop inner;
  line one;
  int calls = 0;
  one.in = inner.watch(one.fd(), watch_options{.read = [&](watcher& w) {
                         take(w.fd());
                         ++calls;
                       }});
  auto drives = outer.watch(inner.pollable_fd(), watch_options{.read = [&] { inner.run_once(); }});
  const something_in_flight more(outer);
  outer.run_once(1ms);
  const coir::unique_fd set(::epoll_create1(EPOLL_CLOEXEC));
  epoll_event event{};
  event.events = EPOLLIN;
  REQUIRE(::epoll_ctl(set.get(), EPOLL_CTL_ADD, outer.pollable_fd(), &event) == 0);
  for (int i = 1; i <= 3; ++i) {
    put(one.ends[1], "x");
    while (calls != i) {
      REQUIRE(::epoll_wait(set.get(), &event, 1, -1) == 1);
      outer.run_once();
    }
  }
}

TEST_CASE("a loop that a foreign one drives may sleep by itself, whatever wakes it, and whatever it watches") {
  coir::loop outer;
  coir::loop inner;
  line one;
  int calls = 0;
  one.in = inner.watch(one.fd(), watch_options{.read = [&](watcher& w) {
                         take(w.fd());
                         ++calls;
                       }});
  auto drives = outer.watch(inner.pollable_fd(), watch_options{.read = [&] {
                              const int before = calls;
                              inner.run_once();
                              if (calls != before) outer.stop();
                            }});
  const coir::unique_fd set(::epoll_create1(EPOLL_CLOEXEC));
  epoll_event event{};
  event.events = EPOLLIN;
  REQUIRE(::epoll_ctl(set.get(), EPOLL_CTL_ADD, outer.pollable_fd(), &event) == 0);
  const support::fd_pair ends = support::socket_pair();
  std::array<std::byte, 8> buffer{};
  support::asked get(coir::request::recv(ends[0].get(), buffer));
  REQUIRE(outer.start(get.request));

  // By what it watches.
  for (int i = 1; i <= 3; ++i) {
    auto soon = outer.after(1ms, [&] { put(one.ends[1], "x"); });
    i == 1 ? outer.run() : i == 2 ? outer.run_for(1h) : support::run_until(outer, [&] { return calls == i; });
    CHECK(calls == i);
  }
  // By nothing.
  const coir::instant began = coir::steady_now();
  outer.run_for(5ms);
  CHECK(coir::steady_now() - began >= 5ms);
  CHECK(outer.stats().turns < 100);
  // By another thread, and by a request's end.
  int posts = 0;
  std::thread other([&] {
    for (int i = 0; i < 20; ++i) outer.post([&] { ++posts; });
  });
  support::run_until(outer, [&] { return posts == 20; });
  other.join();
  std::thread peer([&] { CHECK(::write(ends[1].get(), "x", 1) == 1); });
  support::run_until(outer, [&] { return get.over(); });
  peer.join();
  // And by the foreign loop's set.
  put(one.ends[1], "x");
  while (calls != 4) {
    REQUIRE(::epoll_wait(set.get(), &event, 1, -1) == 1);
    outer.run_once();
  }
}
