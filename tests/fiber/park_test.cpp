// Who runs when: parked fibers, and fibers in a hurry.
#include "hand_op.hpp"
#include "surfaces.hpp"
#include "until.hpp"

#include "support/both.hpp"
#include "support/catch.hpp"
#include "support/jumping.hpp"

#include <coir/coir.hpp>

#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

using namespace std::chrono_literals;
using Catch::Matchers::Contains;
using coir::abort_answer;
using coir::fiber_outcome;
using coir::fiber_state;
using support::hand;
using support::hand_op;
using support::on_both_surfaces;

namespace {

void let_others_run(int times = 5) {
  for (int i = 0; i < times; ++i) coir::await(coir::yield());
}

}  // namespace

// --- park ---

TEST_CASE("a parked fiber does not run however often it becomes ready, and goes on with what it was woken with") {
  surfaces::for_each([](auto surface) {
    coir::run([&] {
      hand hold;
      auto child = surface.spawn(hand_op(hold));
      support::until([&] { return hold.waiting(); });
      CHECK(child.park());
      CHECK(child.park());
      CHECK(child.parked());
      hold.complete(7);
      let_others_run();
      CHECK(child.state() == fiber_state::ready);
      CHECK(child.unpark());
      CHECK_FALSE(child.unpark());
      CHECK(coir::await(child.join()) == 7);
      CHECK_FALSE(child.park());
    });
  });
}

TEST_CASE("parking a fiber that is queued stops it in the same turn") {
  on_both_surfaces([](auto wait) {
    std::vector<std::string> seen;
    coir::fiber<void> second;
    auto first = coir::spawn([&] {
      wait(coir::yield());
      second.park();
      wait(coir::yield());
      seen.push_back("first");
      second.unpark();
    });
    second = coir::spawn([&] {
      wait(coir::yield());
      seen.push_back("second");
    });
    wait(second.join());
    CHECK(seen == std::vector<std::string>{"first", "second"});
    wait(first.join());
  });
}

TEST_CASE("fibers that were parked go on in the order in which they are unparked") {
  on_both_surfaces([](auto wait) {
    std::vector<int> order;
    std::vector<coir::fiber<void>> children;
    for (int i = 0; i < 4; ++i) children.push_back(coir::spawn([&, i] { order.push_back(i); }));
    for (const auto& each : children) each.park();
    let_others_run();
    CHECK(order.empty());
    for (const std::size_t each : {2u, 0u, 3u, 1u}) children[each].unpark();
    for (auto& each : children) wait(each.join());
    CHECK(order == std::vector{2, 0, 3, 1});
  });
}

TEST_CASE("cancelling a parked fiber waits for unpark") {
  on_both_surfaces([](auto wait) {
    hand hold;
    auto child = coir::spawn([&] { wait(hand_op(hold)); });
    auto fresh = coir::spawn([&] { FAIL("it ran"); });
    fresh.park();
    support::until([&] { return hold.waiting(); });
    child.park();
    child.cancel();
    fresh.cancel();
    CHECK(hold.aborts() == 1);
    let_others_run();
    CHECK(child.state() == fiber_state::ready);
    CHECK(fresh.state() == fiber_state::fresh);
    child.unpark();
    fresh.unpark();
    wait(coir::end_op(child));
    wait(coir::end_op(fresh));
    CHECK(child.outcome() == fiber_outcome::cancelled);
    CHECK(fresh.outcome() == fiber_outcome::cancelled);
  });
}

TEST_CASE("a fiber that parks itself stops at its next suspend point, also where it need not wait") {
  on_both_surfaces([](auto wait) {
    for (const bool ready : {true, false}) {
      hand hold;
      std::vector<std::string> seen;
      coir::fiber<void> self;
      self = coir::spawn([&] {
        self.park();
        seen.push_back("runs on");
        if (ready) {
          hold.complete();
          wait(hand_op(hold));
        } else {
          wait(coir::yield());
        }
        seen.push_back("went on");
      });
      let_others_run();
      CHECK(seen == std::vector<std::string>{"runs on"});
      self.unpark();
      wait(self.join());
      CHECK(seen.size() == 2);
      self = {};
    }
  });
}

TEST_CASE("a fiber that parks itself and does not wait any more ends") {
  on_both_surfaces([](auto wait) {
    coir::fiber<int> self;
    self = coir::spawn([&] {
      self.park();
      return 7;
    });
    CHECK(wait(self.join()) == 7);
    CHECK_FALSE(self.parked());
    self = {};
  });
}

TEST_CASE("a parked fiber whose children have ended is dead when it is unparked") {
  on_both_surfaces([](auto wait) {
    hand hold(abort_answer::later);
    auto child = coir::spawn([&] {
      coir::spawn([&] { static_cast<void>(coir::await(hand_op(hold))); });
      coir::await(coir::yield());
      return 7;
    });
    support::until([&] { return child.state() == fiber_state::ending; });
    child.park();
    hold.give_up();
    let_others_run();
    CHECK(child.state() == fiber_state::ending);
    child.unpark();
    CHECK(wait(child.join()) == 7);
  });
}

TEST_CASE("a loop in which all that is left is parked is a deadlock, whose report says so; all are unwound") {
  int unwound = 0;
  const auto run = [&] {
    coir::run([&] {
      const auto body = [&] {
        try {
          coir::await(coir::sleep_until(coir::never));
        } catch (const coir::cancelled&) {
          ++unwound;
          throw;
        }
      };
      auto waiting = coir::spawn(body, coir::spawn_options().name("waiting one"));
      hand hold;
      auto ready = coir::spawn([&] { coir::await(hand_op(hold)), body(); });
      support::until([&] { return hold.waiting(); });
      waiting.park();
      ready.park();
      hold.complete();
      coir::await(ready.join());
    });
  };
  try {
    run();
    FAIL("no deadlock");
  } catch (const coir::deadlock& report) {
    CHECK_THAT(report.what(), Contains("waiting one: waiting") && Contains(": ready, parked"));
    CHECK_THAT(report.what(), Contains("s, parked, spawned at"));
  }
  CHECK(unwound == 2);
}

TEST_CASE("a scheduler ends although fibers are parked, and nobody can be parked any more") {
  int unwound = 0;
  coir::run([&] {
    auto child = coir::spawn([&] {
      try {
        coir::await(coir::sleep_until(coir::never));
      } catch (const coir::cancelled&) {
        CHECK_FALSE(coir::running_fiber().park());
        coir::await(coir::yield());
      }
      ++unwound;
    });
    support::until([&] { return support::waiting(child); });
    child.detach();
    child.park();
  });
  CHECK(unwound == 0);
}

TEST_CASE("a timer of a parked fiber fires, and the fiber stays where it is") {
  support::jumping_on_both([](auto wait) {
    auto child = coir::spawn([&] {
      wait(coir::sleep_for(1s));
      return support::now();
    });
    coir::await(coir::yield());
    child.park();
    const coir::instant begin = support::now();
    wait(coir::sleep_for(1h));
    CHECK(child.state() == fiber_state::ready);
    child.unpark();
    CHECK(wait(child.join()) - begin == 1h);
  });
}

TEST_CASE("what is interjected into a parked fiber that waits is called") {
  on_both_surfaces([](auto wait) {
    hand hold;
    auto child = coir::spawn([&] { wait(hand_op(hold)); });
    support::until([&] { return hold.waiting(); });
    child.park();
    bool called = false;
    child.interject([&] { called = true; });
    support::until([&] { return called; });
    CHECK(child.parked());
    hold.complete();
    child.unpark();
    wait(child.join());
  });
}

TEST_CASE("a parked fiber that is restarted begins again when it is unparked") {
  on_both_surfaces([](auto wait) {
    int runs = 0;
    auto child = coir::spawn([&] {
      if (++runs == 1) wait(coir::sleep_until(coir::never));
    });
    support::until([&] { return support::waiting(child); });
    child.park();
    child.restart();
    let_others_run();
    CHECK(runs == 1);
    child.unpark();
    wait(child.join());
    CHECK(runs == 2);
  });
}

TEST_CASE("among ten thousand fibers every other one is parked and unparked, and all come to their end") {
  coir::run([] {
    int ended = 0;
    std::vector<coir::fiber<void>> children;
    for (int i = 0; i < 10'000; ++i) {
      if (i % 3 == 0) {
        children.push_back(coir::spawn([&] {
          coir::await(coir::yield());
          ++ended;
        }));
      } else {
        children.push_back(coir::spawn([](int& count) -> coir::task<> {
          co_await coir::yield();
          ++count;
        }(ended)));
      }
    }
    for (std::size_t i = 0; i < children.size(); i += 2) children[i].park();
    let_others_run(100);
    CHECK(ended == 5'000);
    for (const auto& each : children) each.unpark();
    for (auto& each : children) coir::await(each.join());
    CHECK(ended == 10'000);
  });
}

// --- who is next ---

TEST_CASE("run_next puts a ready fiber at the head of the run queue") {
  on_both_surfaces([](auto wait) {
    std::vector<int> order;
    std::vector<coir::fiber<void>> children;
    for (int i = 0; i < 5; ++i) {
      children.push_back(coir::spawn([&, i] {
        order.push_back(i);
        wait(coir::yield());
      }));
    }
    CHECK(children[3].run_next());
    CHECK(children[0].run_next());
    CHECK(children[4].run_next());
    for (auto& each : children) wait(each.join());
    CHECK(order == std::vector{4, 0, 3, 1, 2});
    CHECK_FALSE(children[0].run_next());
  });
}

TEST_CASE("run_next of a waiting fiber lets its next wake-up go ahead, and no later one") {
  on_both_surfaces([](auto wait) {
    hand hold;
    std::vector<std::string> order;
    auto child = coir::spawn([&] {
      wait(hand_op(hold));
      order.push_back("child");
      wait(coir::yield());
      order.push_back("child again");
    });
    support::until([&] { return hold.waiting(); });
    CHECK(child.run_next());
    auto other = coir::spawn([&] { order.push_back("other"); });
    hold.complete();
    wait(child.join());
    CHECK(order == std::vector<std::string>{"child", "other", "child again"});
    wait(other.join());
  });
}

TEST_CASE("a fiber spawned first begins ahead of those that are ready") {
  on_both_surfaces([](auto wait) {
    std::vector<int> order;
    auto one = coir::spawn([&] { order.push_back(1); });
    auto two = coir::spawn([&] { order.push_back(2); }, coir::spawn_options().first());
    wait(one.join());
    wait(two.join());
    CHECK(order == std::vector{2, 1});
  });
}

TEST_CASE("the failure of a child reaches its parent where it waits, ahead of queued work") {
  on_both_surfaces([](auto wait) {
    for (const bool nursed : {false, true}) {
      std::vector<std::string> order;
      hand hold;
      auto parent = coir::spawn([&] {
        const auto body = [&] {
          coir::spawn([&] {
            wait(hand_op(hold));
            throw std::runtime_error("it broke");
          });
          try {
            wait(coir::sleep_until(coir::never));
          } catch (const coir::cancelled&) {
            order.push_back("parent");
            throw;
          }
        };
        if (nursed) {
          coir::with_nursery([&](coir::nursery&) { body(); });
        } else {
          body();
        }
      });
      support::until([&] { return hold.waiting(); });
      hold.complete();
      std::vector<coir::fiber<void>> others;
      for (int i = 0; i < 3; ++i) others.push_back(coir::spawn([&] { order.push_back("other"); }));
      CHECK_THROWS_WITH(wait(parent.join()), "it broke");
      for (auto& each : others) wait(each.join());
      CHECK(order == std::vector<std::string>{"parent", "other", "other", "other"});
    }
  });
}

TEST_CASE("run_next of a parked fiber lets it go ahead when it is unparked") {
  on_both_surfaces([](auto wait) {
    std::vector<int> order;
    auto one = coir::spawn([&] { order.push_back(1); });
    one.park();
    coir::await(coir::yield());
    CHECK(one.run_next());
    auto two = coir::spawn([&] { order.push_back(2); });
    one.unpark();
    wait(two.join());
    wait(one.join());
    CHECK(order == std::vector{1, 2});
  });
}

TEST_CASE("a fiber that runs and asks for the next turn goes on before the others") {
  on_both_surfaces([](auto wait) {
    std::vector<std::string> order;
    auto self = coir::spawn([&] {
      coir::running_fiber().run_next();
      wait(coir::yield());
      order.push_back("self");
    });
    auto other = coir::spawn([&] { order.push_back("other"); });
    wait(self.join());
    wait(other.join());
    CHECK(order == std::vector<std::string>{"self", "other"});
  });
}
