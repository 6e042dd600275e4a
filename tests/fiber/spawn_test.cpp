#include "counted.hpp"
#include "hand_op.hpp"
#include "until.hpp"

#include "support/catch.hpp"

#include <coir/coir.hpp>

#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

using coir::fiber_outcome;
using coir::fiber_state;
using support::counted;
using support::hand;
using support::hand_op;
using support::until;

namespace {

coir::task<> note(std::vector<int>& order, int what) {
  order.push_back(what);
  co_return;
}
coir::task<int> value_of(int what) { co_return what; }

}  // namespace

TEST_CASE("a fiber is spawned from a task, a function, or a function that makes a task") {
  coir::run([] {
    auto p = std::make_unique<int>(2);
    auto child = coir::spawn(value_of(1));
    auto other = coir::spawn([p = std::move(p)] { return *p; });
    auto made = coir::spawn([x = 3]() -> coir::task<int> {
      co_await coir::yield();
      co_return x;
    });
    CHECK(coir::await(child.join()) == 1);
    CHECK(coir::await(other.join()) == 2);
    CHECK(coir::await(made.join()) == 3);
  });
}

TEST_CASE("spawn runs nothing: bodies first run later, in the order in which they were spawned") {
  coir::run([] {
    std::vector<int> order;
    coir::spawn(note(order, 1));
    coir::spawn([&] { order.push_back(2); });
    coir::spawn([&]() -> coir::task<> {
      order.push_back(3);
      co_return;
    });
    coir::spawn([&] { order.push_back(4); });
    auto last = coir::spawn(note(order, 5));
    CHECK(order.empty());
    coir::await(last.join());
    CHECK(order == std::vector<int>{1, 2, 3, 4, 5});
  });
}

TEST_CASE("a fiber is fresh, then running, waiting, ready, and dead") {
  coir::run([] {
    hand hold;
    coir::fiber<void> self;
    fiber_state seen = fiber_state::dead;
    self = coir::spawn([&] {
      seen = self.state();
      coir::await(hand_op(hold));
    });
    CHECK(self.state() == fiber_state::fresh);
    CHECK(self.outcome() == fiber_outcome::none);
    coir::await(coir::yield());
    CHECK(seen == fiber_state::running);
    CHECK(self.state() == fiber_state::waiting);
    hold.complete();
    CHECK(self.state() == fiber_state::ready);
    coir::await(self.join());
    CHECK(self.state() == fiber_state::dead);
    CHECK(self.outcome() == fiber_outcome::returned);
    self = {};
  });
}

TEST_CASE("a handle tells the id, the name and the line of the spawn") {
  coir::run([] {
    std::string name = "worker";
    const unsigned line = __LINE__ + 1;
    auto first = coir::spawn([] {}, coir::spawn_options().name(name));
    name = "overwritten";
    auto second = coir::spawn(value_of(1));
    CHECK(first.name() == "worker");
    CHECK(second.name().empty());
    CHECK(first.spawned_at().line() == line);
    CHECK(std::string(first.spawned_at().file_name()).find("spawn_test.cpp") != std::string::npos);
    CHECK(second.spawned_at().line() == line + 2);
    CHECK(second.id() > first.id());
    CHECK(first.id() > coir::running_fiber().id());
    CHECK(first.control().parent() == &coir::running_fiber());
  });
}

TEST_CASE("captures of a coroutine lambda live as long as its task") {
  coir::run([] {
    hand hold;
    auto child = coir::spawn([value = counted(7), &hold]() -> coir::task<int> {
      co_await hand_op(hold);
      co_return value.value;
    });
    until([&] { return hold.waiting(); });
    CHECK(counted::alive == 1);
    hold.complete();
    CHECK(coir::await(child.join()) == 7);
    CHECK(counted::alive == 0);
  });
}

TEST_CASE("captures of a function, and a task's parameters, go when the body ends, not with the handle") {
  coir::run([] {
    auto function = coir::spawn([value = counted(1)] { return value.value; });
    auto task = coir::spawn([](counted mine) -> coir::task<int> { co_return mine.value; }(counted(2)));
    CHECK(coir::await(function.join()) == 1);
    CHECK(coir::await(task.join()) == 2);
    CHECK(counted::alive == 0);
    CHECK(coir::await(function.join()) == 1);
  });
}

TEST_CASE("dropping the handle changes nothing") {
  coir::run([] {
    std::vector<int> order;
    {
      auto dropped = coir::spawn([&] {
        coir::await(coir::yield());
        order.push_back(1);
        return counted(1);
      });
    }
    until([&] { return order.size() == 1; });
  });
  CHECK(counted::alive == 0);
}

TEST_CASE("a callable is taken as it is: by copy, by move, by pointer") {
  struct callable {
    counted held;
    int operator()() { return ++held.value; }
  };
  coir::run([] {
    callable mine{counted(1)};
    auto copied = coir::spawn(mine);
    auto moved = coir::spawn(std::move(mine));
    auto pointer = coir::spawn(+[] { return 9; });
    auto erased = coir::spawn(std::function<int()>([] { return 10; }));
    CHECK(coir::await(copied.join()) == 2);
    CHECK(coir::await(moved.join()) == 2);
    CHECK(coir::await(pointer.join()) == 9);
    CHECK(coir::await(erased.join()) == 10);
    CHECK(mine.held.value == -1);
  });
  CHECK(counted::alive == 0);
}

TEST_CASE("a fiber returns values, references, what only moves, and what has no default") {
  class no_default {
   public:
    explicit no_default(int number) noexcept : value(number) {}
    int value;
  };
  coir::run([] {
    int target = 0;
    auto reference = coir::spawn([&]() -> int& { return target; });
    auto from_task = coir::spawn([](int& what) -> coir::task<int&> { co_return what; }(target));
    auto owned = coir::spawn([] { return std::make_unique<int>(3); });
    auto text = coir::spawn([]() -> coir::task<std::string> { co_return std::string(100, 'x'); });
    auto plain = coir::spawn([] { return no_default(4); });
    CHECK(&coir::await(reference.join()) == &target);
    CHECK(&coir::await(from_task.join()) == &target);
    CHECK(&coir::await(from_task.take()) == &target);
    CHECK(*coir::await(owned.join()) == 3);
    const std::unique_ptr<int> mine = coir::await(owned.take());
    CHECK(*mine == 3);
    CHECK(coir::await(text.join()).size() == 100);
    CHECK(coir::await(plain.join()).value == 4);
  });
}

TEST_CASE("a handle and its result outlive scheduler and loop") {
  coir::fiber<counted> kept;
  {
    coir::loop loop;
    coir::scheduler fibers(loop);
    kept = fibers.spawn([] { return counted(5); }, coir::spawn_options().name("kept"));
    loop.run_once();
    CHECK(kept.state() == fiber_state::dead);
  }
  CHECK(counted::alive == 1);
  CHECK(kept.name() == "kept");
  CHECK(kept.outcome() == fiber_outcome::returned);
  kept.cancel();
  CHECK(coir::run([&] { return coir::await(kept.join()).value; }) == 5);
  kept = {};
  CHECK(counted::alive == 0);
}

TEST_CASE("handles may go before or after each other, and before the fiber ends") {
  coir::run([] {
    hand hold;
    std::vector<coir::fiber<counted>> handles;
    handles.push_back(coir::spawn([&] {
      coir::await(hand_op(hold));
      return counted(1);
    }));
    for (int i = 0; i < 10; ++i) handles.push_back(handles.back());
    handles.erase(handles.begin());
    coir::await(coir::yield());
    handles.erase(handles.begin(), handles.begin() + 5);
    hold.complete();
    coir::await(handles.front().join());
    CHECK(counted::alive == 1);
    while (!handles.empty()) {
      CHECK(counted::alive == 1);
      handles.pop_back();
    }
    CHECK(counted::alive == 0);
  });
}
