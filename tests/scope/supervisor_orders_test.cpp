// What can be done to a supervisor while it runs, and what it tells.
#include "actors.hpp"

using namespace actors;
using coir::child_event;
using coir::child_options;
using coir::child_state;
using coir::supervisor;
using coir::supervisor_options;

namespace {

const auto often = supervisor_options().intensity(100, 1h);

std::string states(const supervisor& s) {
  std::string text;
  for (const coir::child_info& each : s.children()) {
    text += (text.empty() ? "" : " ") + each.name + ":" + name_of(each.state);
  }
  return text;
}

std::string text_of(const child_event& e) {
  if (!e.ended()) return "+" + std::string(e.name);
  switch (e.outcome) {
    case coir::fiber_outcome::returned: return "-" + std::string(e.name);
    case coir::fiber_outcome::failed: return "!" + std::string(e.name);
    default: return "~" + std::string(e.name);
  }
}

// Writes down what it is told.
auto listener(std::string& to) {
  return [&to](const child_event& e) { to += (to.empty() ? "" : " ") + text_of(e); };
}

// A supervisor with these children, given to the test as long as it runs.
template <class Surface, class Test>
void with(Surface surface, const supervisor_options& options, std::initializer_list<actor*> children, Test&& test) {
  supervisor* those = nullptr;
  auto all = surface.spawn(options, [&](supervisor& s) {
    those = &s;
    for (actor* each : children) surface.add(s, *each);
  });
  coir::await(coir::sleep_for(500ms));
  test(*those);
  all.cancel();
  coir::await(coir::end_op(all));
}

}  // namespace

// --- orders ---

TEST_CASE("a child can be added while its supervisor runs, and is supervised") {
  on_both([](auto surface) {
    actor a("a"), b("b", {{1s, fails}, {}});
    with(surface, often, {&a}, [&](supervisor& s) {
      surface.add(s, b);
      coir::await(coir::sleep_for(1min));
      CHECK(journal() == "+a +b !b +b");
      CHECK(states(s) == "a:running b:running");
    });
    CHECK(journal() == "+a +b !b +b ~b ~a");
  });
}

TEST_CASE("a stopped child stays stopped, and can be started again by hand") {
  on_both([](auto surface) {
    actor a("a"), b("b");
    b.listens(2s);
    supervisor* those = nullptr;
    auto all = surface.spawn(often, [&](supervisor& s) {
      those = &s;
      surface.add(s, a);
      surface.add(s, b, child_options().shutdown(5s));
    });
    coir::await(coir::sleep_for(1s));
    CHECK(those->stop("b"));
    CHECK(states(*those) == "a:running b:stopping");
    coir::await(coir::sleep_for(1min));
    CHECK(states(*those) == "a:running b:stopped");
    CHECK(those->stop("b"));
    CHECK(those->restart("b"));
    coir::await(coir::sleep_for(1s));
    CHECK(states(*those) == "a:running b:running");
    CHECK(journal() == "+a +b -b +b");
    all.cancel();
    coir::await(coir::end_op(all));
  });
}

TEST_CASE("a child that runs is restarted by hand: stopped first, then started, and that counts for nothing") {
  on_both([](auto surface) {
    actor a("a"), b("b");
    with(surface, supervisor_options().intensity(0, 1h), {&a, &b}, [&](supervisor& s) {
      for (int i = 0; i < 3; ++i) {
        CHECK(s.restart("a"));
        coir::await(coir::sleep_for(1s));
      }
      CHECK(journal() == "+a +b ~a +a ~a +a ~a +a");
      CHECK(s.children()[0].restarts == 3);
      CHECK(s.stats().restarts == 0);
    });
  });
}

TEST_CASE("of several orders to a child that is still ending the last one counts") {
  on_both([](auto surface) {
    actor a("a"), b("b"), c("c");
    for (actor* each : {&a, &b}) each->listens(2s);
    supervisor* those = nullptr;
    auto all = surface.spawn(often, [&](supervisor& s) {
      those = &s;
      for (actor* each : {&a, &b, &c}) surface.add(s, *each, child_options().shutdown(5s));
    });
    coir::await(coir::sleep_for(1s));
    those->stop("a");
    those->restart("b");
    coir::await(coir::sleep_for(1s));
    those->restart("a");
    those->stop("b");
    coir::await(coir::sleep_for(3s));
    CHECK(states(*those) == "a:running b:stopped c:running");
    all.cancel();
    coir::await(coir::end_op(all));
  });
}

TEST_CASE("a removed child is stopped and forgotten, and its name is free at once") {
  on_both([](auto surface) {
    actor a("a"), b("b"), other("b");
    b.listens(2s);
    supervisor* those = nullptr;
    auto all = surface.spawn(often, [&](supervisor& s) {
      those = &s;
      surface.add(s, a);
      surface.add(s, b, child_options().shutdown(5s));
    });
    coir::await(coir::sleep_for(1s));
    CHECK(those->remove("b"));
    CHECK(states(*those) == "a:running");
    surface.add(*those, other);
    coir::await(coir::sleep_for(1min));
    CHECK(journal() == "+a +b +b -b");
    CHECK(states(*those) == "a:running b:running");
    CHECK(those->remove("b"));
    CHECK(those->remove("a"));
    coir::await(all.join());
    CHECK(journal() == "+a +b +b -b ~b ~a");
  });
}

TEST_CASE("a removed child that takes its time is waited for at the end") {
  on_both([](auto surface) {
    actor a("a"), b("b");
    b.listens(3s);
    supervisor* those = nullptr;
    auto all = surface.spawn(often, [&](supervisor& s) {
      those = &s;
      surface.add(s, a);
      surface.add(s, b, child_options().shutdown(5s));
    });
    coir::await(coir::sleep_for(1s));
    CHECK(those->remove("b"));
    all.cancel();
    coir::await(coir::end_op(all));
    CHECK(journal() == "+a +b -b ~a");
  });
}

TEST_CASE("children() and stats() say how things are") {
  on_both([](auto surface) {
    actor a("a", {{1s, fails}, {}}), b("b", {{1s, returns}}), c("c");
    supervisor* those = nullptr;
    auto all = surface.spawn(often, [&](supervisor& s) {
      those = &s;
      surface.add(s, a);
      surface.add(s, b, coir::transient);
      surface.add(s, c);
      CHECK(states(s) == "a:waiting b:waiting c:waiting");
    });
    coir::await(coir::sleep_for(2s));
    CHECK(states(*those) == "a:running b:ended c:running");
    const auto seen = those->children();
    CHECK(seen[0].restarts == 1);
    CHECK(seen[0].policy == coir::permanent);
    CHECK(seen[0].fiber != 0);
    CHECK(seen[0].last_failure != nullptr);
    CHECK(seen[1].policy == coir::transient);
    CHECK(seen[1].fiber == 0);
    CHECK(seen[1].last_failure == nullptr);
    CHECK(seen[1].next_start == coir::never);
    const coir::supervisor_stats stats = those->stats();
    CHECK(stats.children == 3);
    CHECK(stats.running == 2);
    CHECK(stats.starts == 4);
    CHECK(stats.restarts == 1);
    CHECK(stats.ends == 2);
    CHECK(stats.failures == 1);
    CHECK(stats.hangs == 0);
    all.cancel();
    coir::await(coir::end_op(all));
  });
}

TEST_CASE("a child may stop, restart and remove itself, and end its supervisor") {
  support::jumping([] {
    int lives = 0;
    int others = 0;
    coir::await(coir::supervise(often, [&](supervisor& s) {
      s.add("other", [&] {
        ++others;
        CHECK(s.remove("other"));
        coir::await(coir::sleep_for(1h));
      });
      s.add("child", [&] {
        switch (++lives) {
          case 1: CHECK(s.restart("child")); break;
          case 2:
            CHECK(s.stop("child"));
            CHECK(s.restart("child"));
            break;
          default: s.stop();
        }
        coir::await(coir::sleep_for(1h));
      });
    }));
    CHECK(lives == 3);
    CHECK(others == 1);
  });
}

TEST_CASE("a supervisor's orders may come from a callback of the loop") {
  on_both([](auto surface) {
    actor a("a"), b("b");
    with(surface, often, {&a}, [&](supervisor& s) {
      auto soon = loop_here().after(1s, [&] {
        surface.add(s, b);
        s.restart("a");
      });
      coir::await(coir::sleep_for(2s));
      CHECK(journal() == "+a ~a +b +a");
    });
  });
}

// --- what is told ---

TEST_CASE("each start and each end is told, with its outcome, in the order in which they happened") {
  on_both([](auto surface) {
    actor a("a", {{3s, fails}, {}}), b("b", {{1s, returns}, {}}), c("c", {{2s, end::is_cancelled}, {}});
    std::string told;
    std::string failure;
    auto all = surface.spawn(often, [&](supervisor& s) {
      s.on_event([&](const child_event& e) {
        listener(told)(e);
        if (e.failure == nullptr) return;
        try {
          std::rethrow_exception(e.failure);
        } catch (const std::exception& error) {
          failure = error.what();
        }
      });
      for (actor* each : {&a, &b, &c}) surface.add(s, *each);
    });
    coir::await(coir::sleep_for(1min));
    CHECK(told == "+a +b +c -b +b ~c +c !a +a");
    CHECK(failure == "a failed");
    all.cancel();
    coir::await(coir::end_op(all));
    // Those that end with the supervisor are not told of.
    CHECK(told == "+a +b +c -b +b ~c +c !a +a");
  });
}

TEST_CASE("the ends of a group are told before it starts again") {
  on_both([](auto surface) {
    actor a("a"), b("b", {{1s, fails}, {}}), c("c");
    std::string told;
    auto all = surface.spawn(supervisor_options(often).strategy(coir::one_for_all), [&](supervisor& s) {
      s.on_event(listener(told));
      for (actor* each : {&a, &b, &c}) surface.add(s, *each);
    });
    coir::await(coir::sleep_for(1min));
    CHECK(told == "+a +b +c !b ~c ~a +a +b +c");
    all.cancel();
    coir::await(coir::end_op(all));
  });
}

TEST_CASE("no end is lost when several children die in the same turn") {
  on_both([](auto surface) {
    actor a("a", {{1s, fails}}), b("b", {{1s, returns}}), c("c", {{1s, fails}});
    std::string told;
    surface.supervise(often, [&](supervisor& s) {
      s.on_event(listener(told));
      for (actor* each : {&a, &b, &c}) surface.add(s, *each, coir::temporary);
    });
    CHECK(told == "+a +b +c !a -b !c");
  });
}

TEST_CASE("no end is lost while a callback waits for something, be it for another fiber") {
  on_both([](auto surface) {
    actor a("a", {{1s, fails}, {}}), b("b", {{2s, fails}, {}}), c("c", {{3s, fails}, {}});
    std::string told;
    auto all = surface.spawn(often, [&](supervisor& s) {
      s.on_event([&](const child_event& e) -> coir::task<> {
        listener(told)(e);
        if (!e.ended()) co_return;
        auto other = coir::spawn([] { coir::await(coir::sleep_for(1min)); });
        co_await other.join();
      });
      for (actor* each : {&a, &b, &c}) surface.add(s, *each);
    });
    coir::await(coir::sleep_for(1h));
    CHECK(told == "+a +b +c !a +a !b +b !c +c");
    CHECK(a.births()[1] - a.births()[0] == 1min + 1s);
    all.cancel();
    coir::await(coir::end_op(all));
  });
}

TEST_CASE("a callback may restart a child by hand that its policy would leave") {
  on_both([](auto surface) {
    actor a("a", {{1s, returns}});
    surface.supervise(supervisor_options().intensity(0, 1h), [&](supervisor& s) {
      s.on_event([&](const child_event& e) {
        if (e.ended() && a.lives() < 3) CHECK(s.restart(e.name));
      });
      surface.add(s, a, coir::temporary);
    });
    CHECK(journal() == "+a -a +a -a +a -a");
  });
}

TEST_CASE("a callback may stop, remove and add children, also the one it is told of") {
  on_both([](auto surface) {
    actor a("a", {{1s, fails}}), b("b", {{2s, fails}}), c("c"), d("d", {{4s, returns}});
    supervisor* those = nullptr;
    auto all = surface.spawn(often, [&](supervisor& s) {
      those = &s;
      s.on_event([&](const child_event& e) {
        if (!e.ended()) return;
        if (e.name == "a") {
          CHECK(s.remove("a"));
          CHECK(s.remove("c"));
        } else if (e.name == "b") {
          CHECK(s.stop("b"));
          surface.add(s, d, coir::transient);
        }
      });
      for (actor* each : {&a, &b, &c}) surface.add(s, *each);
    });
    coir::await(coir::sleep_for(3s));
    CHECK(states(*those) == "b:stopped d:running");
    coir::await(all.join());
    CHECK(journal() == "+a +b +c !a ~c !b +d -d");
  });
}

TEST_CASE("a callback that waits is cancelled with its supervisor") {
  on_both([](auto surface) {
    actor a("a", {{1s, fails}}), b("b");
    bool cancelled = false;
    auto all = surface.spawn(often, [&](supervisor& s) {
      s.on_event([&](const child_event& e) -> coir::task<> {
        if (!e.ended()) co_return;
        try {
          co_await coir::sleep_for(1h);
        } catch (const coir::cancelled&) {
          cancelled = true;
          throw;
        }
      });
      for (actor* each : {&a, &b}) surface.add(s, *each);
    });
    coir::await(coir::sleep_for(1min));
    const coir::instant begin = now();
    all.cancel();
    coir::await(coir::end_op(all));
    CHECK(now() == begin);
    CHECK(cancelled);
    CHECK(journal() == "+a +b !a ~b");
  });
}

TEST_CASE("what a callback throws ends the supervisor, when its children have ended") {
  on_both([](auto surface) {
    actor a("a", {{1s, fails}}), b("b");
    CHECK_THROWS_WITH(surface.supervise(often,
                                        [&](supervisor& s) {
                                          s.on_event([](const child_event& e) {
                                            if (e.ended()) throw std::runtime_error("thrown");
                                          });
                                          for (actor* each : {&a, &b}) surface.add(s, *each);
                                        }),
                      "thrown");
    CHECK(journal() == "+a +b !a ~b");
  });
}

TEST_CASE("a callback cannot be replaced by itself") {
  support::jumping([] {
    CHECK_THROWS_AS(coir::await(coir::supervise([](supervisor& s) {
                      s.on_event([&s](const child_event&) { s.on_event([](const child_event&) {}); });
                      s.add("a", [] {});
                    })),
                    std::logic_error);
  });
}

TEST_CASE("a temporary child is gone after its end, also when a callback stops it") {
  on_both([](auto surface) {
    actor a("a", {{1s, returns}}), b("b", {{2s, fails}, {1s, returns}});
    supervisor* those = nullptr;
    auto all = surface.spawn(supervisor_options().strategy(coir::one_for_all), [&](supervisor& s) {
      those = &s;
      s.on_event([&](const child_event& e) {
        if (e.ended() && e.name == "a") CHECK(s.stop("a"));
      });
      surface.add(s, a, coir::temporary);
      surface.add(s, b, coir::transient);
    });
    coir::await(coir::sleep_for(1s + 1ns));
    CHECK(states(*those) == "b:running");
    coir::await(all.join());
    CHECK(journal() == "+a +b -a !b +b -b");
  });
}

TEST_CASE("an order that comes when a supervisor has stopped its children changes nothing") {
  on_both([](auto surface) {
    actor a("a"), b("b");
    b.listens(1s);
    coir::spawn([&] {
      supervisor those;
      surface.add(those, b, child_options().shutdown(1h));
      surface.add(those, a);
      those.stop("a");
      auto runs = those.run();
      auto all = coir::spawn(std::move(runs));
      coir::await(coir::sleep_for(1s));
      those.stop();
      coir::await(coir::sleep_for(500ms));
      CHECK(states(those) == "b:stopping a:stopped");
      CHECK(those.restart("a"));
      coir::await(all.join());
      CHECK(those.restart("b"));
      CHECK(states(those) == "b:stopped a:stopped");
      CHECK(journal() == "+b -b");
    });
    coir::await(coir::sleep_for(1h));
  });
}
