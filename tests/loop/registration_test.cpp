// What a loop keeps for a user: how long it lives, and what becomes of its handle.
#include "loop/watch_tools.hpp"
#include "support/child_process.hpp"

#include <poll.h>

#include <any>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

using namespace std::chrono_literals;
using Catch::Matchers::Contains;
using coir::timer;
using coir::watch_options;
using coir::watcher;
using tests::at_end;
using tests::put;
using tests::take;

namespace {

using watch_handle = coir::owned<watcher>;
using timer_handle = coir::owned<timer>;

// All that a handle can do is harmless, or says that it is too late.
void expect_inert(watch_handle& handle) {
  CHECK_FALSE(handle);
  CHECK_FALSE(handle->active());
  CHECK_FALSE(handle->listens());
  CHECK(handle->fd() >= 0);
  handle->cancel();
  handle->disable_read();
  handle->disable_write();
  CHECK_FALSE(handle->describe().empty());
  CHECK_THROWS_WITH(handle->enable_read(), Contains("has ended"));
  CHECK_THROWS_AS(handle->enable_write(), std::logic_error);
  CHECK_THROWS_AS(handle->rearm(), std::logic_error);
  CHECK_THROWS_AS(handle->on(), std::logic_error);
  handle->data = 1;
  CHECK(std::any_cast<int>(handle->data) == 1);
}

void expect_inert(timer_handle& handle) {
  CHECK_FALSE(handle);
  CHECK_FALSE(handle->armed());
  CHECK(handle->deadline() == coir::never);
  handle->cancel();
  CHECK_FALSE(handle->describe().empty());
  CHECK_THROWS_AS(handle->restart(1s), std::logic_error);
  CHECK_THROWS_AS(handle->restart_at(coir::never), std::logic_error);
  CHECK_THROWS_AS(handle->on(), std::logic_error);
}

}  // namespace

TEST_CASE("a registration ends with its handle") {
  coir::loop loop;
  const support::fd_pair ends = support::pipe_pair();
  int calls = 0;
  {
    auto in = loop.watch(ends[0].get(), watch_options{.read = [&] { ++calls; }});
    auto soon = loop.after(0ns, [&] { ++calls; });
    CHECK(in);
    CHECK(soon);
    CHECK(loop.census().watchers == 1);
    CHECK(loop.census().timers == 1);
  }
  put(ends[1], "x");
  support::idle_turns(loop);
  CHECK(calls == 0);
  CHECK(loop.census().watchers == 0);
  CHECK(loop.census().timers == 0);
  CHECK_FALSE(loop.can_wake());
}

TEST_CASE("one that is kept lives as long as the loop, and its handle is empty") {
  const support::fd_pair ends = support::pipe_pair();
  auto token = std::make_shared<int>();
  const std::weak_ptr<int> alive = token;
  int calls = 0;
  {
    coir::loop loop;
    auto in = loop.watch(ends[0].get(), watch_options{.read = [&calls, token] { ++calls; }});
    token.reset();
    in.keep();
    CHECK_FALSE(in);
    put(ends[1], "x");
    loop.run_once();
    CHECK(calls == 1);
    CHECK_FALSE(alive.expired());
  }
  CHECK(alive.expired());
}

TEST_CASE("a handle that takes over another ends what it had, and an empty one does nothing") {
  coir::loop loop;
  const support::fd_pair one = support::pipe_pair();
  const support::fd_pair two = support::pipe_pair();
  std::string order;
  auto first = loop.watch(one[0].get(), watch_options{.read = [&] { order += "1 "; }});
  auto second = loop.watch(two[0].get(), watch_options{.read = [&] { order += "2 "; }});
  first = std::move(second);
  CHECK(first);
  CHECK_FALSE(second);  // NOLINT: what is moved from is what is asked about
  second.reset();
  second.keep();
  watch_handle& same = first;
  first = std::move(same);
  put(one[1], "x");
  put(two[1], "x");
  loop.run_once();
  CHECK(order == "2 ");
}

TEST_CASE("a handle is inert after it is cancelled, once or twice, with itself or by number") {
  coir::loop loop;
  const support::fd_pair ends = support::pipe_pair();
  auto in = loop.watch(ends[0].get(), watch_options{.read = [] {}, .write = [] {}});
  in->cancel();
  in->cancel();
  expect_inert(in);
  auto again = loop.watch(ends[0].get(), watch_options{.read = [] {}});
  loop.unwatch(ends[0].get());
  loop.unwatch(ends[0].get());
  expect_inert(again);
  auto soon = loop.after(0ns, [] {});
  soon->cancel();
  soon->cancel();
  expect_inert(soon);
  CHECK_FALSE(loop.can_wake());
}

TEST_CASE("a handle is inert after it is replaced, and what is done with it does not touch the new one") {
  coir::loop loop;
  const support::fd_pair ends = support::pipe_pair();
  int calls = 0;
  auto before = loop.watch(ends[0].get(), watch_options{.read = [] { FAIL("replaced"); }});
  auto in = loop.watch(ends[0].get(), watch_options{.read = [&] { ++calls; }, .replace = true});
  expect_inert(before);
  before.reset();
  CHECK(in);
  put(ends[1], "x");
  loop.run_once();
  CHECK(calls == 1);
}

TEST_CASE("a handle may outlive its loop, and is inert then") {
  const support::fd_pair ends = support::pipe_pair();
  watch_handle in;
  timer_handle soon;
  {
    coir::loop loop;
    in = loop.watch(ends[0].get(), watch_options{.read = [] {}});
    soon = loop.every(1s, [] {});
  }
  expect_inert(in);
  expect_inert(soon);
}

TEST_CASE("data of the user's own is there in the callback, and is destroyed with the callbacks") {
  coir::loop loop;
  const support::fd_pair ends = support::pipe_pair();
  auto token = std::make_shared<std::string>("mine");
  const std::weak_ptr<std::string> alive = token;
  std::string seen;
  auto in = loop.watch(ends[0].get(), watch_options{
      .read = [&](watcher& w) { seen += *std::any_cast<std::shared_ptr<std::string>&>(w.data); },
      .data = std::move(token)});
  put(ends[1], "x");
  loop.run_once();
  CHECK(seen == "mine");
  in->data = std::make_shared<std::string>("other");
  CHECK(alive.expired());
  loop.run_once();
  CHECK(seen == "mineother");
  in->cancel();
  CHECK_FALSE(in->data.has_value());
}

TEST_CASE("what is captured is destroyed when the callback that ends its registration returns, not before") {
  coir::loop loop;
  const support::fd_pair ends = support::pipe_pair();
  auto token = std::make_shared<int>(5);
  const std::weak_ptr<int> alive = token;
  int seen = 0;
  auto in = loop.watch(ends[0].get(), watch_options{.read = [&, token](watcher& w) {
                         w.cancel();
                         CHECK_FALSE(alive.expired());
                         CHECK(loop.census().watchers == 0);
                         seen = *token;
                       },
                       .data = 3});
  auto shot = loop.after(0ns, [&, token](timer& t) {
    t.cancel();
    CHECK_FALSE(alive.expired());
    seen += *token;
  });
  token.reset();
  put(ends[1], "x");
  loop.run_once();
  CHECK(seen == 10);
  CHECK(alive.expired());
  CHECK_FALSE(in->data.has_value());
}

TEST_CASE("what is captured is destroyed when the callback throws on its way out, too") {
  coir::loop loop;
  auto token = std::make_shared<int>();
  const std::weak_ptr<int> alive = token;
  auto soon = loop.after(0ns, [&, token = std::move(token)](timer& t) {
    t.cancel();
    throw std::runtime_error("out");
  });
  CHECK_THROWS_AS(loop.run(), std::runtime_error);
  CHECK(alive.expired());
}

TEST_CASE("a callback that holds its own handle may drop it") {
  coir::loop loop;
  const support::fd_pair ends = support::pipe_pair();
  auto token = std::make_shared<int>();
  const std::weak_ptr<int> alive = token;
  int calls = 0;
  const auto watch = [&] {
    auto own = std::make_shared<watch_handle>();
    *own = loop.watch(ends[0].get(), watch_options{.read = [&, own, token] {
                        ++calls;
                        own->reset();
                      }});
    auto timed = std::make_shared<timer_handle>();
    *timed = loop.every(1ns, [&, timed, token] {
      ++calls;
      timed->reset();
    });
  };
  watch();
  token.reset();
  put(ends[1], "x");
  loop.run();
  CHECK(calls == 2);
  CHECK(alive.expired());
  CHECK(loop.census().watchers == 0);
  CHECK(loop.census().timers == 0);
}

TEST_CASE("a callback that holds its own handle and keeps it ends with the loop") {
  const support::fd_pair ends = support::pipe_pair();
  auto token = std::make_shared<int>();
  const std::weak_ptr<int> alive = token;
  {
    coir::loop loop;
    auto own = std::make_shared<watch_handle>();
    *own = loop.watch(ends[0].get(), watch_options{.read = [own, token] {}});
    auto timed = std::make_shared<timer_handle>();
    *timed = loop.every(1s, [timed, token] {});
    token.reset();
  }
  CHECK(alive.expired());
}

TEST_CASE("a handle that is dropped or kept inside its own callback leaves the callback in one piece") {
  coir::loop loop;
  const support::fd_pair ends = support::pipe_pair();
  std::string seen;
  std::optional<watch_handle> in;
  const std::string text(100, 'a');
  in = loop.watch(ends[0].get(), watch_options{.read = [&, text](watcher& w) {
                    in.reset();
                    CHECK_FALSE(w.active());
                    seen += text;
                  }});
  timer_handle kept;
  kept = loop.after(0ns, [&, text] {
    kept.keep();
    seen += text;
  });
  put(ends[1], "x");
  loop.run();
  CHECK(seen == text + text);
  CHECK(loop.census().timers == 0);
}

TEST_CASE("a capture's destructor may register anew on the same descriptor") {
  coir::loop loop;
  const support::fd_pair ends = support::pipe_pair();
  watch_handle next;
  int calls = 0;
  auto in = loop.watch(ends[0].get(), watch_options{.read = [last = at_end([&] {
    next = loop.watch(ends[0].get(), watch_options{.read = [&] { ++calls; }});
  })](watcher& w) { w.cancel(); }});
  put(ends[1], "x");
  loop.run_once();
  CHECK(next);
  CHECK(calls == 0);
  loop.run_once();
  CHECK(calls == 1);
  CHECK(loop.census().watchers == 1);
}

TEST_CASE("a capture's destructor may cancel others, whose events are there already") {
  coir::loop loop;
  const support::fd_pair one = support::pipe_pair();
  const support::fd_pair two = support::pipe_pair();
  auto second = loop.watch(two[0].get(), watch_options{.read = [] { FAIL("cancelled"); }});
  auto shot = loop.after(0ns, [] { FAIL("cancelled"); });
  auto first = loop.watch(one[0].get(), watch_options{.read = [last = at_end([&] {
    second.reset();
    shot.reset();
  })](watcher& w) { w.cancel(); }});
  put(one[1], "x");
  put(two[1], "x");
  support::idle_turns(loop);
  CHECK_FALSE(first);
}

TEST_CASE("a replaced registration's destructors run when the new one is in place, and may end it") {
  coir::loop loop;
  const support::fd_pair ends = support::pipe_pair();
  bool found = false;
  auto before = loop.watch(ends[0].get(), watch_options{.read = [last = at_end([&] {
    found = loop.census().watchers == 1;
    loop.unwatch(ends[0].get());
  })] {}});
  auto in = loop.watch(ends[0].get(), watch_options{.read = [] { FAIL("ended"); }, .replace = true});
  CHECK(found);
  CHECK_FALSE(in);
  put(ends[1], "x");
  support::idle_turns(loop);
}

TEST_CASE("what is registered by a destructor while the loop ends, ends with it") {
  const support::fd_pair ends = support::pipe_pair();
  watch_handle late;
  timer_handle later;
  {
    coir::loop loop;
    loop.watch(ends[0].get(), watch_options{.read = [last = at_end([&] {
      late = loop.watch(ends[0].get(), watch_options{.read = [] {}});
      later = loop.after(0ns, [] { FAIL("the loop has ended"); });
    })] {}}).keep();
  }
  expect_inert(late);
  expect_inert(later);
}

TEST_CASE("what is registered by whoever is told while the loop ends, ends with it") {
  const support::fd_pair ends = support::pipe_pair();
  watch_handle late;
  timer_handle later;
  bool destroyed = false;
  support::asked told(coir::request::poll(ends[0].get(), POLLIN));
  auto loop = std::make_unique<coir::loop>();
  told.seen.then = [&, on = loop.get()](coir::request&) {
    late = on->watch(ends[0].get(), watch_options{.read = [last = at_end([&] { destroyed = true; })] {}});
    later = on->after(0ns, [] { FAIL("the loop has ended"); });
  };
  REQUIRE(loop->start(told.request));
  loop.reset();
  CHECK(told.over());
  CHECK(destroyed);
  expect_inert(late);
  expect_inert(later);
}

TEST_CASE("a loop destroyed with many registrations calls none, and destroys all that they hold") {
  support::leaves_no_descriptor([] {
    std::vector<support::fd_pair> pipes;
    std::vector<watch_handle> watchers;
    std::vector<timer_handle> timers;
    auto token = std::make_shared<int>();
    const std::weak_ptr<int> alive = token;
    {
      coir::loop loop;
      for (int i = 0; i < 100; ++i) {
        pipes.push_back(support::pipe_pair());
        put(pipes.back()[1], "x");
        watchers.push_back(loop.watch(pipes.back()[0].get(),
                                      watch_options{.read = [token] { FAIL("called"); }, .data = token}));
      }
      for (int i = 0; i < 1000; ++i) {
        timers.push_back(loop.after(0ns, [token] { FAIL("called"); }));
        if (i % 2 == 0) timers.back().keep();
      }
      token.reset();
    }
    CHECK(alive.expired());
    for (watch_handle& each : watchers) CHECK_FALSE(each);
    for (timer_handle& each : timers) CHECK_FALSE(each);
  });
}

TEST_CASE("a loop destroyed inside a callback ends the program and says so") {
  for (const bool timed : {false, true}) {
    const support::ended child = support::in_child([&] {
      auto loop = std::make_unique<coir::loop>();
      const support::fd_pair ends = support::pipe_pair();
      put(ends[1], "x");
      watch_handle in;
      timer_handle soon;
      if (timed) {
        soon = loop->after(0ns, [&] { loop.reset(); });
      } else {
        in = loop->watch(ends[0].get(), watch_options{.read = [&] { loop.reset(); }});
      }
      loop->run();
    });
    CHECK(child.signal == SIGABRT);
    CHECK_THAT(child.text, Contains("destroyed from inside its own run"));
  }
}

TEST_CASE("a registration that is refused destroys what it was given, and leaves nothing") {
  coir::loop loop;
  auto token = std::make_shared<int>();
  const std::weak_ptr<int> alive = token;
  CHECK_THROWS_AS(loop.watch(-1, watch_options{.read = [token] {}}), std::system_error);
  CHECK_THROWS_AS(loop.watch(1'000'000, watch_options{.read = [token] {}, .data = token}), std::system_error);
  CHECK_THROWS_AS(loop.after(-1ns, [token] {}), std::invalid_argument);
  token.reset();
  CHECK(alive.expired());
  CHECK(loop.census().watchers == 0);
  CHECK(loop.why_alive().empty());
  CHECK_FALSE(loop.can_wake());
}

TEST_CASE("another thread that uses a loop's registrations is refused, and nothing has changed") {
  coir::loop loop;
  const support::fd_pair ends = support::pipe_pair();
  int calls = 0;
  auto in = loop.watch(ends[0].get(), watch_options{.read = [&] { ++calls; }, .write = [] {}});
  auto later = loop.after(1h, [] {});
  auto once = loop.watch(ends[1].get(), watch_options{.read = [] {}, .oneshot = true});
  loop.run_once();
  std::thread([&] {
    CHECK_THROWS_WITH(loop.watch(0, watch_options{.read = [] {}}), Contains("another thread"));
    CHECK_THROWS_AS(loop.after(1s, [] {}), std::logic_error);
    CHECK_THROWS_AS(loop.at(loop.time(), [] {}), std::logic_error);
    CHECK_THROWS_AS(loop.every(1s, [] {}), std::logic_error);
    CHECK_THROWS_AS(once->enable_read(), std::logic_error);
    CHECK_THROWS_AS(once->rearm(), std::logic_error);
    CHECK_THROWS_AS(later->restart(1s), std::logic_error);
    CHECK_THROWS_AS(later->restart_at(coir::instant()), std::logic_error);
  }).join();
  CHECK(loop.census().watchers == 2);
  CHECK(loop.census().timers == 1);
  CHECK(later->deadline() > loop.time() + 50min);
  put(ends[1], "x");
  loop.run_once();
  CHECK(calls == 1);
}

TEST_CASE("a loop and its handles may be given up by another thread, when the one that ran it is gone") {
  const support::fd_pair ends = support::pipe_pair();
  auto loop = std::make_unique<coir::loop>();
  auto in = loop->watch(ends[0].get(), watch_options{.read = [](watcher& w) { take(w.fd()); }, .write = [] {}});
  auto more = loop->watch(ends[1].get(), watch_options{.read = [] {}, .write = [] {}});
  auto later = loop->after(1h, [] {});
  std::thread([&] { loop->run_once(); }).join();
  in->disable_write();
  in.reset();
  later->cancel();
  loop->unwatch(-1);
  loop.reset();
  CHECK_FALSE(more);
}

TEST_CASE("in a forked child every use is refused, what ends is harmless, and the parent notices nothing") {
  coir::loop loop;
  const support::fd_pair ends = support::pipe_pair();
  int calls = 0;
  std::optional<watch_handle> in(loop.watch(ends[0].get(), watch_options{.read = [&] { ++calls; }}));
  std::optional<watch_handle> once(
      loop.watch(ends[1].get(), watch_options{.write = [] {}, .oneshot = true}));
  std::optional<timer_handle> later(loop.after(1h, [&] { ++calls; }));
  loop.run_once();
  const support::ended child = support::in_child([&] {
    REQUIRE_THROWS_WITH(loop.watch(ends[0].get(), watch_options{.read = [] {}}), Contains("child process"));
    REQUIRE_THROWS_AS(loop.after(1s, [] {}), std::logic_error);
    REQUIRE_THROWS_AS(loop.every(1s, [] {}), std::logic_error);
    REQUIRE_THROWS_AS((*in)->enable_read(), std::logic_error);
    REQUIRE_THROWS_AS((*once)->rearm(), std::logic_error);
    REQUIRE_THROWS_AS((*later)->restart(1s), std::logic_error);
    REQUIRE_THROWS_AS(loop.run_once(), std::logic_error);
    (*in)->disable_read();
    loop.unwatch(ends[1].get());
    (*in)->cancel();
    once.reset();
    later.reset();
  });
  CHECK(child.exit_code == 0);
  CHECK(child.text.empty());
  CHECK(*in);
  (*once)->rearm();
  put(ends[1], "x");
  loop.run_once();
  CHECK(calls == 1);
}

TEST_CASE("a forked child may destroy the loop with all that is registered, and make one of its own") {
  const support::fd_pair ends = support::pipe_pair();
  auto loop = std::make_unique<coir::loop>();
  int calls = 0;
  auto in = loop->watch(ends[0].get(), watch_options{.read = [&] { ++calls; }});
  loop->every(1h, [] {}).keep();
  loop->run_once();
  const support::ended child = support::in_child([&] {
    loop.reset();
    coir::loop own;
    int heard = 0;
    auto mine = own.watch(ends[1].get(), watch_options{.write = [&](watcher& w) {
                            ++heard;
                            w.cancel();
                          }});
    own.run();
    REQUIRE(heard == 1);
  });
  CHECK(child.exit_code == 0);
  CHECK(child.text.empty());
  put(ends[1], "x");
  loop->run_once();
  CHECK(calls == 1);
}

TEST_CASE("census counts what there is, and why_alive names it") {
  coir::loop loop;
  CHECK(loop.why_alive().empty());
  const support::fd_pair ends = support::pipe_pair();
  auto in = loop.watch(ends[0].get(), watch_options{.read = [] {}});
  auto out = loop.watch(ends[1].get(), watch_options{.read = [] {}, .write = [] {}});
  auto shot = loop.after(2s, [] {});
  auto tick = loop.every(3s, [] {});
  auto fired = loop.after(0ns, [] {});
  const coir::loop::hold more(loop);
  std::array<std::byte, 8> buffer;
  const support::fd_pair sockets = support::socket_pair();
  support::asked get(coir::request::recv(sockets[0].get(), buffer));
  REQUIRE(loop.start(get.request));
  out->disable_write();
  loop.run_once();

  const coir::loop_census all = loop.census();
  CHECK(all.watchers == 2);
  CHECK(all.timers == 3);
  CHECK(all.requests == 1);
  CHECK(all.holds == 1);
  CHECK(all.signals + all.children + all.wakers + all.paths == 0);

  std::string text;
  for (const std::string& line : loop.why_alive()) text += line + "\n";
  INFO(text);
  const std::string number = std::to_string(ends[0].get());
  CHECK_THAT(text, Contains("watcher of descriptor " + number + ", read\n"));
  CHECK_THAT(text, Contains("watcher of descriptor " + std::to_string(ends[1].get()) + ", read\n"));
  CHECK_THAT(text, Contains("timer due in") && Contains(", every 3.000 s\n"));
  CHECK_THAT(text, !Contains("fired"));
  CHECK_THAT(text, Contains("1 requests in flight\n") && Contains("1 holds\n"));
  CHECK(loop.why_alive().size() == 6);
  support::give_up(loop, get);
}

TEST_CASE("a timer that has fired hides nothing of what keeps the loop alive") {
  coir::loop loop;
  auto fired = loop.after(0ns, [] {});
  support::run_until(loop, [&] { return !fired->armed(); });
  CHECK(loop.why_alive().empty());
  coir::timer_node sleeper([](coir::timer_node&) {});
  loop.arm(sleeper, loop.time() + 1h);
  CHECK(loop.why_alive() == std::vector<std::string>{"1 sleepers and deadlines"});
  loop.disarm(sleeper);
}

TEST_CASE("a watcher that listens no more is not named among what keeps the loop alive") {
  coir::loop loop;
  const support::fd_pair ends = support::pipe_pair();
  put(ends[1], "x");
  auto once = loop.watch(ends[0].get(), watch_options{.read = [] {}, .oneshot = true});
  CHECK(loop.why_alive().size() == 1);
  loop.run();
  CHECK_FALSE(loop.can_wake());
  CHECK(loop.why_alive().empty());
  CHECK(loop.census().watchers == 1);
  once->rearm();
  CHECK(loop.why_alive().size() == 1);
}
