// Who turns the loop: a foreign loop, run, run_for, with and without requests in flight; and what ends it.
#include "loop/foreign_host.hpp"
#include "loop/watch_tools.hpp"

#include <coir/testing/mock_clock.hpp>

#include <pthread.h>

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
void with_and_without_requests(Body&& body) {
  for (const bool busy : {false, true}) {
    INFO((busy ? "with a request in flight" : "without requests"));
    coir::loop loop;
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
  with_and_without_requests([](coir::loop& loop) {
    line one;
    int calls = 0;
    one.in = loop.watch(one.fd(), watch_options{.read = [&](watcher& w) {
                          ++calls;
                          take(w.fd());
                        }});
    auto tick = loop.every(2ms, [&] { put(one.ends[1], "x"); });
    const coir::instant began = coir::steady_now();
    loop.run_for(20ms);
    CHECK(coir::steady_now() - began >= 20ms);
    CHECK(calls >= 1);
    CHECK(calls <= 10);
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
