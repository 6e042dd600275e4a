// A fiber's body is a region: it ends after all that was spawned in it.
#include "counted.hpp"
#include "hand_op.hpp"
#include "until.hpp"

#include "support/catch.hpp"

#include <coir/coir.hpp>

#include <memory>
#include <optional>
#include <string>
#include <vector>

using coir::fiber_outcome;
using coir::fiber_state;
using support::counted;
using support::hand;
using support::hand_op;
using support::until;

namespace {

// Waits for ever, and notes its end.
coir::task<> lingers(std::vector<std::string>& trail, std::string name) {
  class at_exit {
   public:
    at_exit(std::vector<std::string>& trail, const std::string& name) : trail_(trail), name_(name) {}
    ~at_exit() { trail_.push_back(name_); }

   private:
    std::vector<std::string>& trail_;
    const std::string& name_;
  };
  const at_exit guard(trail, name);
  co_await coir::sleep_until(coir::never);
}

}  // namespace

TEST_CASE("a fiber that returns cancels its children, waits for them, and then has a result") {
  const auto check = [](auto spawn_parent) {
    coir::run([&] {
      std::vector<std::string> trail;
      auto parent = spawn_parent(trail);
      CHECK(coir::await(parent.join()) == 7);
      trail.push_back("joined");
      CHECK(trail == std::vector<std::string>{"body over", "first", "second", "joined"});
    });
  };
  check([](std::vector<std::string>& trail) {
    return coir::spawn([&trail] {
      coir::spawn(lingers(trail, "first"));
      auto second = coir::spawn([&] { coir::await(lingers(trail, "second")); });
      coir::await(coir::yield());
      trail.push_back("body over");
      return 7;
    });
  });
  check([](std::vector<std::string>& trail) {
    return coir::spawn([&trail]() -> coir::task<int> {
      coir::spawn(lingers(trail, "first"));
      auto second = coir::spawn([&] { coir::await(lingers(trail, "second")); });
      co_await coir::yield();
      trail.push_back("body over");
      co_return 7;
    });
  });
}

TEST_CASE("a child that has not run when its parent returns never runs") {
  coir::run([] {
    bool ran = false;
    auto parent = coir::spawn([&] { coir::spawn([&ran, held = counted()] { ran = true; }); });
    coir::await(parent.join());
    CHECK_FALSE(ran);
    CHECK(counted::alive == 0);
  });
}

TEST_CASE("a fiber waits for a child that takes its time to stop") {
  coir::run([] {
    hand slow(coir::abort_answer::later);
    auto parent = coir::spawn([&] {
      coir::spawn([&] { coir::await(hand_op(slow)); });
      until([&] { return slow.waiting(); });
    });
    until([&] { return parent.state() == fiber_state::ending; });
    CHECK(slow.aborts() == 1);
    for (int i = 0; i < 1000; ++i) coir::await(coir::yield());
    CHECK(parent.state() == fiber_state::ending);
    slow.give_up();
    coir::await(parent.join());
  });
}

TEST_CASE("children of children end first, at every depth") {
  coir::run([] {
    std::vector<std::string> trail;
    auto top = coir::spawn([&] {
      coir::spawn(
          [&] {
            coir::spawn(
                [&] {
                  coir::spawn(lingers(trail, "bottom"));
                  coir::await(lingers(trail, "middle"));
                },
                coir::spawn_options().name("inner"));
            coir::await(lingers(trail, "upper"));
          },
          coir::spawn_options().name("outer"));
      for (int i = 0; i < 5; ++i) coir::await(coir::yield());
      CHECK(coir::describe(coir::running_fiber().home()).find("inner") != std::string::npos);
    });
    coir::await(top.join());
    REQUIRE(trail.size() == 3);
    // All are told at once, from the top down; and none is dead before those below.
    CHECK(trail == std::vector<std::string>{"upper", "middle", "bottom"});
    CHECK(coir::running_fiber().body().empty());
  });
}

TEST_CASE("a child sees its parent's captures and parameters to the end") {
  coir::run([] {
    int seen = 0;
    auto parent = coir::spawn([value = std::make_unique<int>(7), &seen] {
      coir::spawn([&value, &seen] {
        try {
          coir::await(coir::sleep_until(coir::never));
        } catch (const coir::cancelled&) {
          seen = *value;
          throw;
        }
      });
      coir::await(coir::yield());
    });
    coir::await(parent.join());
    CHECK(seen == 7);
  });
}

TEST_CASE("a fiber knows its parent, and a region its children in the order of their birth") {
  coir::run([] {
    coir::fiber_base& self = coir::running_fiber();
    auto one = coir::spawn(coir::task<>([]() -> coir::task<> { co_return; }()));
    auto two = coir::spawn([] {});
    auto three = coir::spawn([] {});
    CHECK(self.parent() == nullptr);
    CHECK(one.control().parent() == &self);
    CHECK(self.body().first_child() == &one.control());
    CHECK(one.control().next_sibling() == &two.control());
    CHECK(two.control().next_sibling() == &three.control());
    CHECK(three.control().next_sibling() == nullptr);
    two.cancel();
    coir::await(coir::end_op(two));
    CHECK(self.body().empty());
  });
}

TEST_CASE("a child that ends in the middle leaves the others in order") {
  coir::run([] {
    std::vector<std::unique_ptr<hand>> holds;
    std::vector<coir::fiber<void>> children;
    for (int i = 0; i < 5; ++i) {
      holds.push_back(std::make_unique<hand>());
      children.push_back(coir::spawn([&hold = *holds.back()] { coir::await(hand_op(hold)); }));
    }
    coir::await(coir::yield());
    const auto listed = [] {
      std::vector<std::uint64_t> ids;
      for (auto* at = coir::running_fiber().body().first_child(); at != nullptr;
           at = at->next_sibling()) {
        ids.push_back(at->id());
      }
      return ids;
    };
    std::vector<std::uint64_t> expected;
    for (auto& each : children) expected.push_back(each.id());
    CHECK(listed() == expected);
    for (const std::size_t gone : {2U, 0U, 4U, 1U, 3U}) {
      holds[gone]->complete();
      coir::await(children[gone].join());
      std::erase(expected, children[gone].id());
      CHECK(listed() == expected);
    }
  });
}

namespace {

// Something whose destructor starts a fiber, as a logger that flushes might.
class spawns_at_end {
 public:
  explicit spawns_at_end(int& ran) noexcept : ran_(&ran) {}
  spawns_at_end(spawns_at_end&& other) noexcept : ran_(std::exchange(other.ran_, nullptr)) {}
  ~spawns_at_end() {
    if (ran_ == nullptr) return;
    coir::spawn([ran = ran_, held = counted()] { ++*ran; });
  }

 private:
  int* ran_;
};

}  // namespace

TEST_CASE("what a destructor at the end of a fiber spawns is a child that is cancelled and awaited") {
  int ran = 0;
  coir::run([&] {
    auto function = coir::spawn([last = spawns_at_end(ran)] {});
    coir::await(function.join());
    CHECK(counted::alive == 0);
    auto factory = coir::spawn([last = spawns_at_end(ran)]() -> coir::task<> { co_return; });
    coir::await(factory.join());
    CHECK(counted::alive == 0);
    const auto body = [](spawns_at_end) -> coir::task<> { co_return; };
    auto task = coir::spawn(body(spawns_at_end(ran)));
    coir::await(task.join());
    CHECK(counted::alive == 0);
    // With children, so that the end comes later.
    auto parent = coir::spawn([last = spawns_at_end(ran)] {
      coir::spawn([] { coir::await(coir::sleep_until(coir::never)); });
      coir::await(coir::yield());
    });
    coir::await(parent.join());
    CHECK(counted::alive == 0);
    // Cancelled before it began.
    auto never_ran = coir::spawn([last = spawns_at_end(ran)] {});
    never_ran.cancel();
    coir::await(coir::end_op(never_ran));
    CHECK(counted::alive == 0);
  });
  CHECK(ran == 0);
  CHECK(counted::alive == 0);
}
