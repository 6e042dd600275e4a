#include "actors.hpp"

#include <signal.h>
#include <spawn.h>
#include <unistd.h>

#include <memory>
#include <set>

using namespace actors;
using coir::child_event;
using coir::child_options;
using coir::child_state;
using coir::supervisor;
using coir::supervisor_options;

namespace {

const auto often = supervisor_options().intensity(100, 1h);

}  // namespace

// --- policies ---

TEST_CASE("a permanent child is started again after a failure and after a return") {
  on_both([](auto surface) {
    actor a("a", {{1s, fails}, {1s, returns}, {}});
    auto all = surface.spawn(often, [&](supervisor& s) { surface.add(s, a, coir::permanent); });
    coir::await(coir::sleep_for(1min));
    all.cancel();
    coir::await(coir::end_op(all));
    CHECK(journal() == "+a !a +a -a +a ~a");
  });
}

TEST_CASE("a transient child is started again after a failure only") {
  on_both([](auto surface) {
    actor a("a", {{1s, fails}, {1s, returns}});
    surface.supervise(often, [&](supervisor& s) { surface.add(s, a, coir::transient); });
    CHECK(journal() == "+a !a +a -a");
  });
}

TEST_CASE("a transient child that somebody else cancels is started again") {
  on_both([](auto surface) {
    actor a("a", {{1s, end::is_cancelled}, {1s, returns}});
    surface.supervise(often, [&](supervisor& s) { surface.add(s, a, coir::transient); });
    CHECK(a.lives() == 2);
  });
}

TEST_CASE("a temporary child is never started again, and its name is free") {
  on_both([](auto surface) {
    actor a("a", {{1s, fails}});
    actor b("b", {{3s, returns}});
    surface.supervise(often, [&](supervisor& s) {
      surface.add(s, a, coir::temporary);
      surface.add(s, b, coir::temporary);
      s.add("later", [&s, &a, surface] {
        coir::await(coir::sleep_for(2s));
        CHECK(s.children().size() == 2);  // b, and this
        surface.add(s, a, coir::temporary);
      }, coir::temporary);
    });
    CHECK(journal() == "+a +b !a +a -b !a");
  });
}

TEST_CASE("a supervisor ends when no child runs and none is to be started") {
  on_both([](auto surface) {
    const coir::instant begin = now();
    actor a("a", {{2s, returns}});
    actor b("b", {{1s, returns}});
    surface.supervise({}, [&](supervisor& s) {
      surface.add(s, a, coir::transient);
      surface.add(s, b, coir::temporary);
    });
    CHECK(now() - begin == 2s);
    surface.supervise({}, [](supervisor&) {});
    CHECK(now() - begin == 2s);
  });
}

TEST_CASE("a supervisor that stays waits for children to come, until it is stopped") {
  on_both([](auto surface) {
    actor a("a", {{1s, returns}});
    supervisor* those = nullptr;
    auto all = surface.spawn(supervisor_options().stay(), [&](supervisor& s) { those = &s; });
    coir::await(coir::sleep_for(1h));
    surface.add(*those, a, coir::transient);
    coir::await(coir::sleep_for(1h));
    CHECK(journal() == "+a -a");
    CHECK(all.state() == coir::fiber_state::waiting);
    those->stop();
    coir::await(all.join());
  });
}

TEST_CASE("a supervisor that stays and that nobody can reach is a deadlock") {
  coir::testing::mock_clock clock;
  CHECK_THROWS_AS(coir::run([] { coir::await(coir::supervise(supervisor_options().stay(), [](supervisor&) {})); },
                            support::on(clock)),
                  coir::deadlock);
}

TEST_CASE("a restarted child is a new fiber with the same name and the supervisor's as its parent") {
  on_both([](auto surface) {
    std::set<std::uint64_t> ids;
    std::set<std::uint64_t> parents;
    const auto child = [&] {
      const coir::fiber_base& self = coir::running_fiber();
      CHECK(self.name() == "child");
      ids.insert(self.id());
      parents.insert(self.parent()->id());
      if (ids.size() < 3) throw std::runtime_error("again");
    };
    auto all = surface.spawn(often, [&](supervisor& s) { s.add("child", child, coir::transient); });
    coir::await(all.join());
    CHECK(ids.size() == 3);
    CHECK(parents == std::set{all.id()});
  });
}

TEST_CASE("what a factory captured lives longer than the children it makes") {
  support::jumping([] {
    int alive = 0;
    auto witness = std::shared_ptr<int>(&alive, [](int* count) { --*count; });
    ++alive;
    coir::await(coir::supervise(often, [&](supervisor& s) {
      s.add("child", [witness = std::move(witness), lives = 0]() mutable -> coir::task<> {
        co_await coir::sleep_for(1s);
        CHECK(*witness == 1);
        if (++lives < 3) throw std::runtime_error("again");
      }, coir::transient);
    }));
    CHECK(alive == 0);
  });
}

TEST_CASE("a factory that throws is a child that fails") {
  support::jumping([] {
    int made = 0;
    coir::await(coir::supervise(often, [&](supervisor& s) {
      s.add("child", [&]() -> coir::task<> {
        if (++made < 3) throw std::runtime_error("not yet");
        return [](int& count) -> coir::task<> {
          co_await coir::yield();
          ++count;
        }(made);
      }, coir::transient);
    }));
    CHECK(made == 4);
  });
}

TEST_CASE("a child whose stack cannot be had is a child that fails") {
  support::jumping([] {
    try {
      coir::await(coir::supervise(supervisor_options().intensity(2, 1s), [&](supervisor& s) {
        s.add("child", [] {}, child_options().stack_bytes(std::size_t{1} << 60));
      }));
      FAIL("it ran");
    } catch (const coir::restart_limit_exceeded& error) {
      CHECK_THROWS_AS(std::rethrow_if_nested(error), std::system_error);
    }
  });
}

TEST_CASE("a process that a child waits for is started again when a signal kills it") {
  on_both([](auto surface) {
    const auto start = [](const char* program, const char* argument) {
      pid_t pid = -1;
      char* const arguments[] = {const_cast<char*>(program), const_cast<char*>(argument), nullptr};
      REQUIRE(::posix_spawn(&pid, program, nullptr, nullptr, arguments, environ) == 0);
      return pid;
    };
    int starts = 0;
    const auto watch = [&] {
      const pid_t pid = ++starts < 3 ? start("/bin/sleep", "1000") : start("/bin/true", nullptr);
      if (starts < 3) ::kill(pid, SIGKILL);
      const coir::child_status status = coir::await(coir::wait_child(pid));
      if (!status.exited) throw std::runtime_error("killed by " + coir::name_of_signal(status.signal));
    };
    surface.supervise(often, [&](supervisor& s) { s.add("process", watch, coir::transient); });
    CHECK(starts == 3);
  });
}

// --- strategies ---

TEST_CASE("one_for_one starts again who died, and nobody else is touched") {
  on_both([](auto surface) {
    actor a("a"), b("b", {{1s, fails}, {}}), c("c");
    auto all = surface.spawn(often, [&](supervisor& s) {
      for (actor* each : {&a, &b, &c}) surface.add(s, *each);
    });
    coir::await(coir::sleep_for(2s));
    CHECK(journal() == "+a +b +c !b +b");
    all.cancel();
    coir::await(coir::end_op(all));
  });
}

TEST_CASE("one_for_all stops the others in reverse order, then starts all in order") {
  on_both([](auto surface) {
    actor a("a"), b("b", {{1s, fails}, {}}), c("c"), d("d");
    auto all = surface.spawn(supervisor_options(often).strategy(coir::one_for_all), [&](supervisor& s) {
      for (actor* each : {&a, &b, &c, &d}) surface.add(s, *each);
    });
    coir::await(coir::sleep_for(2s));
    CHECK(journal() == "+a +b +c +d !b ~d ~c ~a +a +b +c +d");
    all.cancel();
    coir::await(coir::end_op(all));
  });
}

TEST_CASE("rest_for_one stops those behind it in reverse order, then starts it and them in order") {
  on_both([](auto surface) {
    actor a("a"), b("b", {{1s, fails}, {}}), c("c"), d("d");
    auto all = surface.spawn(supervisor_options(often).strategy(coir::rest_for_one), [&](supervisor& s) {
      for (actor* each : {&a, &b, &c, &d}) surface.add(s, *each);
    });
    coir::await(coir::sleep_for(2s));
    CHECK(journal() == "+a +b +c +d !b ~d ~c +b +c +d");
    all.cancel();
    coir::await(coir::end_op(all));
  });
}

TEST_CASE("members of a group are awaited one after the other, each with its shutdown time") {
  on_both([](auto surface) {
    actor a("a"), b("b", {{1s, fails}, {}}), c("c");
    a.listens(2s);
    c.listens(1h);
    auto all = surface.spawn(supervisor_options(often).strategy(coir::one_for_all), [&](supervisor& s) {
      surface.add(s, a, child_options().shutdown(1min));
      surface.add(s, b);
      surface.add(s, c, child_options().shutdown(5s));
    });
    coir::await(coir::sleep_for(5s));
    CHECK(journal() == "+a +b +c !b");
    coir::await(coir::sleep_for(2s));
    CHECK(journal() == "+a +b +c !b ~c");
    coir::await(coir::sleep_for(2s));
    CHECK(journal() == "+a +b +c !b ~c -a +a +b +c");
    CHECK(a.births().back() - a.births().front() == 8s);
    all.cancel();
    coir::await(coir::end_op(all));
  });
}

TEST_CASE("a child that dies while a group is stopped is started with it and does not count") {
  on_both([](auto surface) {
    // The second death would be one too many.
    actor a("a", {{2s, fails}, {}}), b("b", {{1s, fails}, {}}), c("c");
    c.listens(3s);
    auto all = surface.spawn(supervisor_options().intensity(1, 1h).strategy(coir::one_for_all),
                             [&](supervisor& s) {
                               surface.add(s, a);
                               surface.add(s, b);
                               surface.add(s, c, child_options().shutdown(1min));
                             });
    coir::await(coir::sleep_for(1min));
    CHECK(journal() == "+a +b +c !b !a -c +a +b +c");
    all.cancel();
    coir::await(coir::end_op(all));
  });
}

TEST_CASE("children of a group that die in the same turn are one restart") {
  on_both([](auto surface) {
    actor a("a", {{1s, fails}, {}}), b("b", {{1s, fails}, {}}), c("c", {{1s, fails}, {}});
    supervisor* those = nullptr;
    auto all = surface.spawn(supervisor_options().intensity(1, 1h).strategy(coir::one_for_all),
                             [&](supervisor& s) {
                               those = &s;
                               for (actor* each : {&a, &b, &c}) surface.add(s, *each);
                             });
    coir::await(coir::sleep_for(1min));
    CHECK(journal() == "+a +b +c !a !b !c +a +b +c");
    CHECK(those->stats().restarts == 1);
    all.cancel();
    coir::await(coir::end_op(all));
  });
}

TEST_CASE("with rest_for_one a death further up takes over the group of one further down") {
  on_both([](auto surface) {
    actor a("a", {{2s, fails}, {}}), b("b", {{1s, fails}, {}}), c("c");
    auto all = surface.spawn(
        supervisor_options(often).strategy(coir::rest_for_one).backoff(10s, 10s).seed(7), [&](supervisor& s) {
          for (actor* each : {&a, &b, &c}) surface.add(s, *each);
        });
    coir::await(coir::sleep_for(1min));
    // b and c wait for b's back-off when a dies; then all wait for a's.
    const std::string seen = journal();
    CHECK((seen == "+a +b +c !b ~c !a +a +b +c" || seen == "+a +b +c !b ~c +b +c !a ~c ~b +a +b +c"));
    all.cancel();
    coir::await(coir::end_op(all));
  });
}

TEST_CASE("a group starts members again that had ended or been stopped, but no temporary ones") {
  on_both([](auto surface) {
    actor done("done", {{1s, returns}, {}}), stopped("stopped"), once("once"), bad("bad", {{5s, fails}, {}});
    supervisor* those = nullptr;
    auto all = surface.spawn(supervisor_options(often).strategy(coir::one_for_all), [&](supervisor& s) {
      those = &s;
      surface.add(s, done, coir::transient);
      surface.add(s, stopped);
      surface.add(s, once, coir::temporary);
      surface.add(s, bad);
    });
    coir::await(coir::sleep_for(2s));
    CHECK(those->stop("stopped"));
    coir::await(coir::sleep_for(1min));
    CHECK(journal() == "+done +stopped +once +bad -done ~stopped !bad ~once +done +stopped +bad");
    CHECK(those->children().size() == 3);
    all.cancel();
    coir::await(coir::end_op(all));
  });
}

// --- nesting ---

TEST_CASE("a supervisor is a child of another, which restarts it when it gives up") {
  on_both([](auto surface) {
    actor a("a", {{1s, fails}, {1s, fails}, {1s, fails}, {}});
    auto all = surface.spawn(often, [&](supervisor& s) {
      s.add("inner", [&a, surface] {
        return coir::supervise(supervisor_options().intensity(1, 1min),
                               [&a, surface](supervisor& inner) { surface.add(inner, a); });
      });
    });
    coir::await(coir::sleep_for(1min));
    // Once within the inner one, then it gives up; the outer one starts another, and so on.
    CHECK(journal() == "+a !a +a !a +a !a +a");
    all.cancel();
    coir::await(coir::end_op(all));
    CHECK(journal() == "+a !a +a !a +a !a +a ~a");
  });
}

// --- misuse ---

TEST_CASE("misuse of a supervisor is refused with a clear error") {
  support::jumping([] {
    supervisor s;
    s.add("a", [] {});
    CHECK_THROWS_AS(s.add("a", [] {}), std::logic_error);
    CHECK(s.remove("a"));
    CHECK_FALSE(s.remove("a"));
    CHECK_FALSE(s.stop("a"));
    CHECK_FALSE(s.restart("a"));
    s.add("a", [] {}, coir::transient);
    coir::await(s.run());
    CHECK_THROWS_AS(s.add("b", [] {}), std::logic_error);
    CHECK_THROWS_AS(coir::await(s.run()), std::logic_error);
  });
}
