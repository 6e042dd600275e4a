// A fiber whose body begins again.
#include "counted.hpp"
#include "hand_op.hpp"
#include "until.hpp"

#include "support/both.hpp"
#include "support/catch.hpp"
#include "support/jumping.hpp"

#include <coir/coir.hpp>

#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

using namespace std::chrono_literals;
using Catch::Matchers::Contains;
using coir::abort_answer;
using coir::fiber_outcome;
using coir::fiber_state;
using support::counted;
using support::hand;
using support::hand_op;
using support::on_both_surfaces;

namespace {

template <class Use>
std::string misuse(Use&& use) {
  try {
    use();
  } catch (const std::logic_error& error) {
    return error.what();
  }
  return "nothing was thrown";
}

// The two bodies that can be restarted; each calls `run` and then waits as it says.
coir::task<int> wait_as_told(bool waits) {
  if (waits) co_await coir::sleep_until(coir::never);
  co_return 7;
}
template <class Run, class Test>
void for_both_bodies(Run&& run, Test&& test) {
  coir::run([&] {
    INFO("a function that makes a task");
    test(coir::spawn([&] { return wait_as_told(run()); }, coir::spawn_options().name("again")));
  });
  coir::run([&] {
    INFO("a plain function");
    test(coir::spawn(
        [&] {
          if (run()) coir::await(coir::sleep_until(coir::never));
          return 7;
        },
        coir::spawn_options().name("again")));
  });
}

}  // namespace

TEST_CASE("restart of a waiting fiber runs its body again from the start, as the same fiber") {
  int runs = 0;
  for_both_bodies([&] { return ++runs < 3; },
                  [&](coir::fiber<int> child) {
                    const auto id = child.id();
                    std::vector<coir::fiber<int>> joiners;
                    for (int i = 0; i < 3; ++i) joiners.push_back(coir::spawn([&] { return int(coir::await(child.join())); }));
                    for (int i = 1; i < 3; ++i) {
                      support::until([&] { return runs == i && support::waiting(child); });
                      CHECK(child.restart());
                      CHECK(child.restart());
                    }
                    for (auto& each : joiners) CHECK(coir::await(each.join()) == 7);
                    CHECK(child.id() == id);
                    CHECK(child.name() == "again");
                    CHECK(child.control().outcome() == fiber_outcome::returned);
                    CHECK_FALSE(child.restart());
                    CHECK(runs == 3);
                    runs = 0;
                  });
}

TEST_CASE("a restart unwinds the body first, and awaits its children") {
  on_both_surfaces([](auto wait) {
    std::vector<std::string> seen;
    hand hold(abort_answer::later);
    int runs = 0;
    auto child = coir::spawn([&] {
      const counted local(++runs);
      seen.push_back("begins");
      if (runs == 2) return;
      coir::spawn([&] {
        try {
          wait(hand_op(hold));
        } catch (const coir::cancelled&) {
          seen.push_back("its child ends");
          throw;
        }
      });
      try {
        wait(coir::sleep_until(coir::never));
      } catch (const coir::cancelled&) {
        seen.push_back("unwinds");
        throw;
      }
    });
    support::until([&] { return hold.waiting(); });
    child.restart();
    support::until([&] { return child.state() == fiber_state::ending; });
    CHECK(child.restart());  // it is under way
    hold.give_up();
    wait(child.join());
    CHECK(seen == std::vector<std::string>{"begins", "unwinds", "its child ends", "begins"});
    CHECK(counted::alive == 0);
  });
}

TEST_CASE("what a run returned that was to be restarted is dropped, once") {
  on_both_surfaces([](auto wait) {
    int runs = 0;
    coir::fiber<counted> child;
    child = coir::spawn([&] {
      if (++runs == 1) child.restart();
      return counted(runs);
    });
    CHECK(wait(child.join()).value == 2);
    coir::fiber<counted> task;
    task = coir::spawn([&]() -> coir::task<counted> {
      if (++runs == 3) {
        task.restart();
        try {
          co_await coir::yield();
        } catch (const coir::cancelled&) {
        }
      }
      co_return counted(runs);
    });
    CHECK(wait(task.join()).value == 4);
    child = {};
    task = {};
  });
  CHECK(counted::alive == 0);
}

TEST_CASE("a run that ends with a failure ends the fiber, although it was to be restarted") {
  on_both_surfaces([](auto wait) {
    int runs = 0;
    auto child = coir::spawn([&] {
      ++runs;
      try {
        wait(coir::sleep_until(coir::never));
      } catch (const coir::cancelled&) {
        throw std::runtime_error("its cleanup broke");
      }
    });
    support::until([&] { return support::waiting(child); });
    child.restart();
    CHECK_THROWS_WITH(wait(child.join()), "its cleanup broke");
    CHECK(runs == 1);
    auto parent = coir::spawn([&] {
      ++runs;
      coir::spawn([&] {
        try {
          wait(coir::sleep_until(coir::never));
        } catch (const coir::cancelled&) {
          throw std::runtime_error("its child broke");
        }
      });
      wait(coir::sleep_until(coir::never));
    });
    support::until([&] { return support::waiting(parent); });
    coir::await(coir::yield());
    parent.restart();
    CHECK_THROWS_WITH(wait(parent.join()), "its child broke");
    CHECK(runs == 2);
  });
}

TEST_CASE("an interruption, a stop and a cancellation win over a restart, before it and after") {
  on_both_surfaces([](auto wait) {
    for (const bool restart_first : {true, false}) {
      int runs = 0;
      const auto waiting_one = [&] {
        auto child = coir::spawn([&] {
          ++runs;
          wait(coir::sleep_until(coir::never));
          return 0;
        });
        support::until([&] { return support::waiting(child); });
        return child;
      };
      const auto with_restart = [&](auto& child, auto&& control) {
        if (restart_first) CHECK(child.restart());
        control();
        if (!restart_first) child.restart();
      };
      auto one = waiting_one();
      with_restart(one, [&] { one.interrupt(std::runtime_error("too late")); });
      CHECK_THROWS_WITH(wait(one.join()), "too late");
      auto two = waiting_one();
      with_restart(two, [&] { two.stop(7); });
      CHECK(wait(two.join()) == 7);
      auto three = waiting_one();
      with_restart(three, [&] { three.cancel(); });
      wait(coir::end_op(three));
      CHECK(three.outcome() == fiber_outcome::cancelled);
      auto four = waiting_one();
      with_restart(four, [&] { four.cancel(1ms); });
      wait(coir::end_op(four));
      CHECK(four.outcome() == fiber_outcome::cancelled);
      CHECK(runs == 4);
    }
  });
}

TEST_CASE("restarting a fiber that is cancelled, stopped or asked to end is refused") {
  coir::run([] {
    auto child = coir::spawn([] { coir::await(coir::sleep_until(coir::never)); });
    support::until([&] { return support::waiting(child); });
    child.cancel(1ms);
    CHECK_FALSE(child.restart());
    child.cancel();
    CHECK_FALSE(child.restart());
    coir::await(coir::end_op(child));
    CHECK_FALSE(child.restart());
  });
}

TEST_CASE("a fiber whose region is cancelled while it is restarted ends") {
  on_both_surfaces([](auto wait) {
    int runs = 0;
    hand hold(abort_answer::later);
    auto parent = coir::spawn([&] {
      auto child = coir::spawn([&] {
        ++runs;
        wait(hand_op(hold));
      });
      support::until([&] { return hold.waiting(); });
      child.restart();
      wait(coir::sleep_until(coir::never));
    });
    support::until([&] { return support::waiting(parent); });
    parent.cancel();
    hold.give_up();
    wait(coir::end_op(parent));
    CHECK(runs == 1);
  });
}

TEST_CASE("a fiber whose region is cancelled by what its last run leaves behind ends") {
  on_both_surfaces([](auto wait) {
    struct at_end {
      explicit at_end(coir::nursery& whom) : nursery(&whom) {}
      at_end(at_end&& other) noexcept : nursery(std::exchange(other.nursery, nullptr)) {}
      ~at_end() {
        if (nursery != nullptr) nursery->cancel();
      }
      coir::nursery* nursery;
    };
    int runs = 0;
    coir::with_nursery([&](coir::nursery& children) {
      const auto body = [&runs](at_end) -> coir::task<> {
        ++runs;
        co_await coir::sleep_until(coir::never);
      };
      auto child = children.spawn([&] { return body(at_end(children)); });
      support::until([&] { return support::waiting(child); });
      CHECK(child.restart());
      wait(coir::end_op(child));
      CHECK(child.outcome() == fiber_outcome::cancelled);
      CHECK(children.cancelled());
    });
    CHECK(runs == 1);
  });
}

TEST_CASE("between two runs a fiber can be told what one that has not begun can be told") {
  on_both_surfaces([](auto wait) {
    for (const std::string what : {"interrupt", "stop", "interject", "cancel"}) {
      INFO(what);
      int runs = 0;
      bool called = false;
      hand hold(abort_answer::later);
      auto child = coir::spawn([&] {
        if (++runs == 2) return 7;
        coir::spawn([&] { wait(hand_op(hold)); });
        wait(coir::sleep_until(coir::never));
        return 0;
      });
      support::until([&] { return hold.waiting(); });
      child.restart();
      support::until([&] { return child.state() == fiber_state::ending; });
      if (what == "interrupt") CHECK(child.interrupt(std::runtime_error("too late")));
      if (what == "stop") CHECK(child.stop(8));
      if (what == "interject") CHECK(child.interject([&] { called = true; }));
      if (what == "cancel") child.cancel();
      hold.give_up();
      wait(coir::end_op(child));
      CHECK(runs == (what == "interject" ? 2 : 1));
      CHECK(called == (what == "interject"));
      if (what == "interrupt") CHECK_THROWS_WITH(wait(child.join()), "too late");
      if (what == "stop") CHECK(wait(child.join()) == 8);
      if (what == "interject") CHECK(wait(child.join()) == 7);
      if (what == "cancel") CHECK(child.outcome() == fiber_outcome::cancelled);
    }
  });
}

TEST_CASE("restarting a fiber that has not begun lets it begin, once") {
  on_both_surfaces([](auto wait) {
    int runs = 0;
    auto child = coir::spawn([&] { ++runs; });
    CHECK(child.restart());
    wait(child.join());
    CHECK(runs == 1);
  });
}

TEST_CASE("a fiber spawned from a task, and the main fiber, are not restarted, and are told what to do") {
  coir::run([] {
    auto child = coir::spawn(wait_as_told(false));
    CHECK_THAT(misuse([&] { child.restart(); }), Contains("spawn a function that makes the task"));
    CHECK(coir::await(child.join()) == 7);
    CHECK_THAT(misuse([&] { child.restart(); }), Contains("a task runs once"));
    CHECK_THAT(misuse([&] { coir::running_fiber().restart(); }), Contains("main fiber"));
  });
}

TEST_CASE("a fiber that is restarted where it cannot stop yet begins again when it can") {
  on_both_surfaces([](auto wait) {
    int runs = 0;
    hand hold(abort_answer::later);
    auto child = coir::spawn([&] {
      if (++runs == 2) return 7;
      const int got = wait(hand_op(hold));
      CHECK(got == 3);
      coir::await(coir::yield());
      return got;
    });
    support::until([&] { return hold.waiting(); });
    child.restart();
    coir::await(coir::yield());
    CHECK(runs == 1);
    hold.complete(3);
    CHECK(wait(child.join()) == 7);
  });
}

TEST_CASE("regions that a run had entered do not reach into the next") {
  support::jumping_on_both([](auto wait) {
    int runs = 0;
    auto child = coir::spawn([&] {
      ++runs;
      return coir::move_on_after(1s, [&] { wait(coir::sleep_for(runs == 1 ? 1h : 1ms)); });
    });
    support::until([&] { return support::waiting(child); });
    child.restart();
    wait(coir::sleep_for(2s));
    CHECK(runs == 2);
    CHECK(wait(child.join()));
  });
}

TEST_CASE("exceptions that a run had in its hands are gone with it") {
  coir::run([] {
    int runs = 0;
    auto child = coir::spawn([&] {
      if (++runs == 1) {
        try {
          throw std::runtime_error("first run");
        } catch (const std::exception&) {
          coir::await(coir::sleep_until(coir::never));
        }
      }
      CHECK(std::current_exception() == nullptr);
      CHECK(std::uncaught_exceptions() == 0);
    });
    support::until([&] { return support::waiting(child); });
    child.restart();
    coir::await(child.join());
    CHECK(runs == 2);
  });
}

TEST_CASE("a fiber is restarted as long as its body is not over, and not any more when that is") {
  on_both_surfaces([](auto wait) {
    struct on_end {
      coir::fiber<int>& child;
      std::vector<bool>& answers;
      on_end(coir::fiber<int>& which, std::vector<bool>& into) : child(which), answers(into) {}
      on_end(const on_end&) = delete;
      ~on_end() { answers.push_back(child.restart()); }
    };
    for (const bool fails : {false, true}) {
      INFO("the first run fails: " << fails);
      int runs = 0;
      std::vector<bool> answers;
      coir::fiber<int> child;
      // By a local, while the body returns or unwinds; what it captured goes when that is over.
      auto captured = std::make_shared<on_end>(child, answers);
      child = coir::spawn([&, fails, kept = std::move(captured)] {
        if (++runs == 1) {
          const on_end local(child, answers);
          if (fails) throw std::runtime_error("failed");
          return 1;
        }
        return 2;
      });
      wait(coir::end_op(child));
      CHECK(runs == (fails ? 1 : 2));
      CHECK(answers == std::vector<bool>{true, false});
      if (fails) {
        CHECK_THROWS_WITH(wait(child.join()), "failed");
      } else {
        CHECK(wait(child.join()) == 2);
      }
    }
    // Its body is over, its child is not.
    hand hold(abort_answer::later);
    auto parent = coir::spawn([&] {
      coir::spawn([&] { wait(hand_op(hold)); });
      support::until([&] { return hold.waiting(); });
    });
    support::until([&] { return parent.state() == fiber_state::ending; });
    CHECK_FALSE(parent.restart());
    hold.give_up();
    wait(parent.join());
  });
}
