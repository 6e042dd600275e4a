// A failure reaches the region that owns the fiber.
#include "hand_op.hpp"
#include "until.hpp"

#include "support/catch.hpp"
#include "support/child_process.hpp"

#include <coir/coir.hpp>

#include <stdexcept>
#include <string>
#include <vector>

using Catch::Matchers::Contains;
using coir::fiber_outcome;
using coir::fiber_state;
using support::hand;
using support::hand_op;
using support::until;

using coir::priv::text_of;

namespace {

void waits() { coir::await(coir::sleep_until(coir::never)); }

}  // namespace

TEST_CASE("a child's failure cancels its siblings and its owner, and is rethrown at the owner's end") {
  coir::run([] {
    coir::fiber<void> sibling;
    bool owner_cancelled = false;
    auto owner = coir::spawn([&] {
      sibling = coir::spawn(waits);
      coir::spawn([] { throw std::runtime_error("child"); });
      try {
        waits();
      } catch (const coir::cancelled&) {
        owner_cancelled = true;
        throw;
      }
    });
    CHECK_THROWS_WITH(coir::await(owner.join()), "child");
    CHECK(owner_cancelled);
    CHECK(sibling.outcome() == fiber_outcome::cancelled);
    CHECK(owner.outcome() == fiber_outcome::failed);
    CHECK(owner.other_failures().empty());
  });
}

TEST_CASE("a child's failure weighs more than the result of an owner that swallows its cancellation") {
  coir::run([] {
    auto owner = coir::spawn([]() -> int {
      coir::spawn([] { throw std::runtime_error("child"); });
      try {
        waits();
      } catch (const coir::cancelled&) {
      }
      return 7;
    });
    CHECK_THROWS_WITH(coir::await(owner.join()), "child");
  });
}

TEST_CASE("a failure of a child that comes after the body has returned is the owner's") {
  coir::run([] {
    auto owner = coir::spawn([] {
      coir::spawn([] {
        try {
          waits();
        } catch (const coir::cancelled&) {
          throw std::runtime_error("cleanup");
        }
      });
      coir::await(coir::yield());
      return 7;
    });
    CHECK_THROWS_WITH(coir::await(owner.join()), "cleanup");
  });
}

TEST_CASE("the first failure is rethrown, and the others are kept as they came") {
  coir::run([] {
    const auto fails_when_stopped = [](const char* text) {
      return [text] {
        try {
          waits();
        } catch (const coir::cancelled&) {
          throw std::runtime_error(text);
        }
      };
    };
    auto owner = coir::spawn([&] {
      coir::spawn(fails_when_stopped("second"));
      coir::spawn(fails_when_stopped("third"));
      coir::spawn([] { throw std::runtime_error("first"); });
      try {
        waits();
      } catch (const coir::cancelled&) {
        throw std::runtime_error("owner");
      }
    });
    CHECK_THROWS_WITH(coir::await(owner.join()), "first");
    std::vector<std::string> others;
    for (const auto& each : owner.other_failures()) others.push_back(text_of(each));
    // The owner was told first, then the children, the oldest first.
    CHECK(others == std::vector<std::string>{"owner", "second", "third"});
  });
}

TEST_CASE("a failure that nobody takes climbs to the top, from region to region") {
  CHECK_THROWS_WITH(coir::run([] {
                      coir::spawn([] {
                        coir::spawn([] {
                          coir::spawn([] { throw std::runtime_error("deep"); });
                          waits();
                        });
                        waits();
                      });
                      waits();
                    }),
                    "deep");
}

TEST_CASE("a failure is joined: it is the joiner's, counts as handled, and touches nobody else") {
  coir::run([] {
    hand hold;
    auto sibling = coir::spawn([&] { return coir::await(hand_op(hold)); });
    auto child = coir::spawn([]() -> int { throw std::runtime_error("joined"); });
    CHECK_THROWS_WITH(coir::await(child.join()), "joined");
    coir::await(coir::yield());
    CHECK_FALSE(coir::running_fiber().cancelled());
    hold.complete(1);
    CHECK(coir::await(sibling.join()) == 1);
    CHECK(coir::running_fiber().home().stats().failures == 0);
  });
}

TEST_CASE("all who join a failure get it, and it counts as handled once") {
  coir::run([] {
    auto child = coir::spawn([] {
      coir::await(coir::yield());
      throw std::runtime_error("joined");
    });
    int got = 0;
    const auto joiner = [&] {
      CHECK_THROWS_WITH(coir::await(child.join()), "joined");
      ++got;
    };
    auto one = coir::spawn(joiner);
    auto two = coir::spawn(joiner);
    coir::await(one.join());
    coir::await(two.join());
    CHECK(got == 2);
    CHECK_FALSE(coir::running_fiber().cancelled());
  });
}

TEST_CASE("a joiner that was cancelled before the failure does not take it away from the owner") {
  coir::run([] {
    auto owner = coir::spawn([] {
      hand hold;
      auto child = coir::spawn([&] {
        coir::await(hand_op(hold));
        throw std::runtime_error("not joined");
      });
      auto joiner = coir::spawn([&] { coir::await(child.join()); });
      until([&] { return joiner.state() == fiber_state::waiting && hold.waiting(); });
      joiner.cancel();
      hold.complete();
      waits();
    });
    CHECK_THROWS_WITH(coir::await(owner.join()), "not joined");
  });
}

TEST_CASE("report_failure: the handler is told who failed and why, and nobody else is touched") {
  std::vector<std::string> told;
  coir::run(
      [&] {
        hand hold;
        auto sibling = coir::spawn([&] { return coir::await(hand_op(hold)); });
        coir::spawn([] { throw std::runtime_error("one"); }, coir::report_failure);
        coir::spawn([]() -> coir::task<> {
          throw 42;
          co_return;
        }(), coir::spawn_options().name("second").report_failure());
        coir::await(coir::yield());
        coir::await(coir::yield());
        CHECK_FALSE(coir::running_fiber().cancelled());
        hold.complete(1);
        CHECK(coir::await(sibling.join()) == 1);
        CHECK(coir::running_fiber().home().stats().failures == 2);
      },
      coir::run_options().on_failure([&](const coir::fiber_base& who, const std::exception_ptr& why) {
        told.push_back(std::string(who.name()) + ":" + text_of(why));
      }));
  CHECK(told == std::vector<std::string>{":one", "second:an exception that is not a std::exception"});
}

TEST_CASE("report_failure: a failure among its children is the fiber's own") {
  std::vector<std::string> told;
  coir::run(
      [&] {
        auto reporting = coir::spawn(
            [] {
              coir::spawn([] { throw std::runtime_error("grandchild"); });
              waits();
            },
            coir::spawn_options().name("reporting").report_failure());
        until([&] { return reporting.state() == fiber_state::dead; });
        CHECK(reporting.outcome() == fiber_outcome::failed);
      },
      coir::run_options().on_failure([&](const coir::fiber_base& who, const std::exception_ptr& why) {
        told.push_back(std::string(who.name()) + ":" + text_of(why));
      }));
  CHECK(told == std::vector<std::string>{"reporting:grandchild"});
}

TEST_CASE("a root's failure goes to the handler") {
  std::vector<std::string> told;
  coir::loop loop;
  coir::scheduler fibers(loop);
  fibers.on_failure([&](const coir::fiber_base& who, const std::exception_ptr& why) {
    told.push_back(std::string(who.name()) + ":" + text_of(why));
  });
  auto other = fibers.spawn([] { coir::await(coir::yield()); });
  fibers.spawn([] { throw std::runtime_error("root"); }, coir::spawn_options().name("r"));
  loop.run();
  CHECK(told == std::vector<std::string>{"r:root"});
  CHECK(other.outcome() == fiber_outcome::returned);
  CHECK(fibers.stats().failures == 1);
}

TEST_CASE("without a handler a failure is one line on standard error: who, where from, and why") {
  const auto ended = support::in_child([] {
    coir::run([] {
      coir::spawn([] { throw std::runtime_error("said"); }, coir::spawn_options().name("speaker").report_failure());
      coir::await(coir::yield());
    });
  });
  CHECK(ended.exit_code == 0);
  CHECK_THAT(ended.text, Contains("fiber 2 speaker") && Contains("region_failure_test.cpp:") &&
                             Contains("failed: said"));
  CHECK(std::count(ended.text.begin(), ended.text.end(), '\n') == 1);
}
