// A fiber that moves to another region.
#include "hand_op.hpp"
#include "until.hpp"

#include "support/both.hpp"
#include "support/catch.hpp"

#include <coir/coir.hpp>

#include <cstddef>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

using Catch::Matchers::Contains;
using coir::abort_answer;
using coir::fiber_outcome;
using coir::fiber_state;
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

// A fiber that has a child, which waits at `hold`.
template <class Wait>
coir::fiber<void> spawn_family(Wait wait, hand& hold, coir::fiber<int>& child) {
  auto parent = coir::spawn([&hold, &child, wait] {
    child = coir::spawn([&hold, wait] { return int(wait(hand_op(hold))); });
    wait(coir::sleep_until(coir::never));
  });
  support::until([&] { return hold.waiting() && support::waiting(parent); });
  return parent;
}

}  // namespace

TEST_CASE("a detached fiber outlives its former parent, and is a root") {
  on_both_surfaces([](auto wait) {
    hand hold;
    coir::fiber<int> child;
    auto parent = spawn_family(wait, hold, child);
    CHECK(child.control().parent() == &parent.control());
    CHECK(child.detach());
    CHECK(child.detach());
    CHECK(child.control().parent() == nullptr);
    parent.cancel();
    wait(coir::end_op(parent));
    CHECK(support::waiting(child));
    hold.complete(7);
    CHECK(wait(child.join()) == 7);
    CHECK_FALSE(child.detach());
  });
}

TEST_CASE("a detached fiber ends with the scheduler at the latest") {
  bool unwound = false;
  coir::run([&] {
    auto child = coir::spawn([&] {
      try {
        coir::await(coir::sleep_until(coir::never));
      } catch (const coir::cancelled&) {
        unwound = true;
        throw;
      }
    });
    coir::await(coir::yield());
    child.detach();
  });
  CHECK(unwound);
}

TEST_CASE("the failure of a detached fiber goes to the failure handler") {
  std::vector<std::string> told;
  coir::run(
      [&] {
        auto child = coir::spawn([] { throw std::runtime_error("it broke"); }, coir::spawn_options().name("gone"));
        child.detach();
        coir::await(coir::yield());
        coir::await(coir::yield());
      },
      coir::run_options().on_failure(
          [&](const coir::fiber_base& which, std::exception_ptr) { told.emplace_back(which.name()); }));
  CHECK(told == std::vector<std::string>{"gone"});
}

TEST_CASE("an adopted fiber is the nursery's child: it is waited for, cancelled and fails there") {
  for (const std::string then : {"waited for", "cancelled", "fails"}) {
    on_both_surfaces([&](auto wait) {
      INFO(then);
      hand hold;
      coir::fiber<int> child;
      auto parent = spawn_family(wait, hold, child);
      auto nursing = coir::spawn([&] {
        coir::with_nursery([&](coir::nursery& n) {
          CHECK(n.adopt(child));
          CHECK(child.control().parent() == &coir::running_fiber());
        });
      });
      support::until([&] { return support::waiting(nursing); });
      parent.cancel();
      wait(coir::end_op(parent));
      CHECK(support::waiting(child));
      if (then == "waited for") {
        hold.complete(7);
        wait(nursing.join());
        CHECK(wait(child.join()) == 7);
      } else if (then == "cancelled") {
        nursing.cancel();
        wait(coir::end_op(nursing));
        CHECK(child.outcome() == fiber_outcome::cancelled);
      } else {
        child.interrupt(std::runtime_error("it broke"));
        CHECK_THROWS_WITH(wait(nursing.join()), "it broke");
      }
    });
  }
}

TEST_CASE("all children of a fiber are adopted: fresh, ready and waiting ones, from all its regions") {
  on_both_surfaces([](auto wait) {
    int ended = 0;
    hand hold;
    std::vector<coir::handle_base> children;
    auto parent = coir::spawn([&] {
      children.push_back(coir::spawn([&] { wait(hand_op(hold)), ++ended; }, coir::spawn_options().name("waiting")));
      coir::await(coir::yield());
      coir::with_nursery([&](coir::nursery& inner) {
        children.push_back(inner.spawn([&] { wait(coir::yield()), ++ended; }));
        coir::await(coir::yield());
        children.push_back(inner.spawn([&] { ++ended; }));
        const auto& self = coir::running_fiber();
        CHECK(children[0].state() == fiber_state::waiting);
        CHECK(children[1].state() == fiber_state::ready);
        CHECK(children[2].state() == fiber_state::fresh);
        CHECK(children[2].control().parent() == &self);
        wait(coir::sleep_until(coir::never));
      });
    });
    auto nursing = coir::spawn([&] {
      support::until([&] { return children.size() == 3; });
      coir::with_nursery([&](coir::nursery& n) {
        n.adopt_children(parent);
        for (const auto& each : children) CHECK(each.control().parent() == &coir::running_fiber());
        parent.cancel();
        wait(coir::end_op(parent));
        CHECK(ended == 2);
        hold.complete();
      });
      CHECK(ended == 3);
    });
    wait(nursing.join());
  });
}

TEST_CASE("a fiber adopts its own children into a nursery that it has entered") {
  on_both_surfaces([](auto wait) {
    hand hold;
    auto child = coir::spawn([&] { return int(wait(hand_op(hold))); });
    coir::await(coir::yield());
    auto opener = coir::spawn([&] {
      coir::await(coir::yield());
      hold.complete(7);
    });
    coir::with_nursery([&](coir::nursery& n) {
      n.adopt(child);
      CHECK(n.first_child() == &child.control());
    });
    CHECK(child.outcome() == fiber_outcome::returned);
    wait(opener.join());
  });
}

TEST_CASE("what a fiber has spawned moves with it") {
  on_both_surfaces([](auto wait) {
    bool grandchild_ended = false;
    hand hold;
    coir::fiber<void> child;
    auto parent = coir::spawn([&] {
      child = coir::spawn([&] {
        coir::spawn([&] {
          try {
            wait(hand_op(hold));
          } catch (const coir::cancelled&) {
            grandchild_ended = true;
            throw;
          }
        });
        wait(coir::sleep_until(coir::never));
      });
      wait(coir::sleep_until(coir::never));
    });
    support::until([&] { return hold.waiting(); });
    child.detach();
    parent.cancel();
    wait(coir::end_op(parent));
    CHECK_FALSE(grandchild_ended);
    child.cancel();
    wait(coir::end_op(child));
    CHECK(grandchild_ended);
  });
}

TEST_CASE("a fiber that was cancelled stays so, wherever it is moved") {
  on_both_surfaces([](auto wait) {
    hand hold(abort_answer::later);
    coir::fiber<int> child;
    auto parent = spawn_family(wait, hold, child);
    parent.cancel();
    support::until([&] { return parent.state() == fiber_state::ending; });
    child.detach();
    // It was the last that its parent had waited for.
    wait(coir::end_op(parent));
    CHECK(support::waiting(child));
    hold.give_up();
    wait(coir::end_op(child));
    CHECK(child.outcome() == fiber_outcome::cancelled);
  });
}

TEST_CASE("a nursery that waited for a fiber only ends when that is moved away") {
  on_both_surfaces([](auto wait) {
    hand hold;
    coir::fiber<int> child;
    auto nursing = coir::spawn([&] {
      coir::with_nursery([&](coir::nursery& n) { child = n.spawn([&] { return int(wait(hand_op(hold))); }); });
    });
    support::until([&] { return hold.waiting() && support::waiting(nursing); });
    child.detach();
    wait(nursing.join());
    hold.complete(7);
    CHECK(wait(child.join()) == 7);
  });
}

TEST_CASE("a nursery that was told of its end takes one more child, and waits for it") {
  on_both_surfaces([](auto wait) {
    hand hold;
    coir::nursery n;
    coir::fiber<int> child;
    auto other = coir::spawn([&] { return int(wait(hand_op(hold))); });
    auto nursing = coir::spawn([&] {
      CHECK(n.run([&] { 
      child = n.spawn([&] {
        wait(coir::sleep_until(coir::never));
        return 0;
      });
    }));
      CHECK(support::dead(other));
    });
    support::until([&] { return hold.waiting() && support::waiting(nursing); });
    child.detach();
    CHECK(n.adopt(other));
    coir::await(coir::yield());
    hold.complete(7);
    wait(nursing.join());
    child.cancel();
  });
}

TEST_CASE("moving into a region that is cancelled cancels, and into one that is asked to end asks") {
  on_both_surfaces([](auto wait) {
    std::string seen;
    const auto spawn_watching = [&] {
      auto child = coir::spawn([&] {
        try {
          wait(coir::wait_shutting_down());
          seen = "asked";
        } catch (const coir::cancelled&) {
          seen = "cancelled";
        }
      });
      support::until([&] { return support::waiting(child); });
      return child;
    };
    auto one = spawn_watching();
    auto two = spawn_watching();
    coir::with_nursery([&](coir::nursery& n) {
      n.cancel(std::chrono::hours(1));
      n.adopt(one);
      wait(one.join());
      CHECK(seen == "asked");
      n.cancel();
      n.adopt(two);
    });
    CHECK(seen == "cancelled");
  });
}

TEST_CASE("a closed nursery, and one that no fiber is in, adopt nobody") {
  coir::run([] {
    auto child = coir::spawn([] { coir::await(coir::sleep_until(coir::never)); });
    coir::nursery n;
    CHECK_THAT(misuse([&] { n.adopt(child); }), Contains("no fiber is in"));
    CHECK(n.run([&] {
      n.close();
      CHECK_THROWS_AS(n.adopt(child), std::system_error);
      CHECK_THROWS_AS(n.adopt_children(child), std::system_error);
    }));
    CHECK_THAT(misuse([&] { n.adopt_children(child); }), Contains("no fiber is in"));
    child.cancel();
    coir::await(coir::end_op(child));
  });
}

TEST_CASE("a fiber is not moved into itself, nor into what it has spawned, nor its children into each other") {
  coir::run([] {
    coir::nursery inner;
    auto child = coir::spawn([&] {
      auto grandchild = coir::spawn([&] { inner.run([] { coir::await(coir::sleep_until(coir::never)); }); });
      coir::await(coir::sleep_until(coir::never));
    });
    support::until([&] { return support::waiting(child); });
    coir::await(coir::yield());
    CHECK_THAT(misuse([&] { inner.adopt(child); }), Contains("into itself"));
    CHECK_THAT(misuse([&] { inner.adopt_children(child); }), Contains("into itself"));
    CHECK(support::waiting(child));
    child.cancel();
    coir::await(coir::end_op(child));
  });
}

TEST_CASE("a fiber stays in its loop") {
  coir::loop other_loop;
  coir::scheduler other(other_loop);
  coir::fiber<void> stranger = other.spawn([] {});
  coir::run([&] {
    coir::with_nursery([&](coir::nursery& n) {
      CHECK_THAT(misuse([&] { n.adopt(stranger); }), Contains("another loop"));
    });
    coir::monitor deaths;
    deaths.watch(coir::spawn([] {}));
    CHECK_THAT(misuse([&] { deaths.watch(stranger); }), Contains("two loops"));
    coir::await(coir::yield());
  });
  other_loop.run();
  CHECK(support::dead(stranger));
}

TEST_CASE("a fiber that is not begun is moved, and begins where it is now") {
  on_both_surfaces([](auto wait) {
    const coir::fiber_base* seen = nullptr;
    auto child = coir::spawn([&] { seen = coir::running_fiber().parent(); });
    child.detach();
    wait(child.join());
    CHECK(seen == nullptr);
    CHECK(child.outcome() == fiber_outcome::returned);
  });
}

TEST_CASE("ten thousand fibers are adopted and waited for") {
  coir::run([] {
    int ended = 0;
    auto parent = coir::spawn([&] {
      for (int i = 0; i < 10'000; ++i) {
        coir::spawn([](int& count) -> coir::task<> {
          co_await coir::yield();
          co_await coir::yield();
          ++count;
        }(ended));
      }
      coir::await(coir::sleep_until(coir::never));
    });
    coir::await(coir::yield());
    coir::with_nursery([&](coir::nursery& n) {
      n.adopt_children(parent);
      parent.cancel();
    });
    CHECK(ended == 10'000);
  });
}

TEST_CASE("a fiber whose captures spawn one when they are destroyed, and move it away, ends once") {
  on_both_surfaces([](auto wait) {
    for (const bool again : {false, true}) {
      INFO("restarted: " << again);
      int moved = 0;
      const auto spawns = [&](std::nullptr_t) {
        coir::spawn([] {}).detach();
        ++moved;
      };
      int runs = 0;
      // Of a callable, and of the frame that a restart destroys.
      auto of_callable = std::shared_ptr<int>(nullptr, spawns);
      auto child = coir::spawn([&runs, again, kept = std::move(of_callable), spawns]() -> coir::task<> {
        const bool first = ++runs == 1;
        return [](bool waits, std::shared_ptr<int> of_frame) -> coir::task<> {
          static_cast<void>(of_frame);
          if (waits) co_await coir::sleep_until(coir::never);
        }(again && first, std::shared_ptr<int>(nullptr, spawns));
      });
      auto function = coir::spawn([kept = std::shared_ptr<int>(nullptr, spawns)] {});
      if (again) {
        support::until([&] { return support::waiting(child); });
        CHECK(child.restart());
      }
      wait(child.join());
      wait(function.join());
      wait(coir::yield());
      wait(coir::yield());
      CHECK(runs == (again ? 2 : 1));
      CHECK(moved == (again ? 4 : 3));
    }
  });
}
