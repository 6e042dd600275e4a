#include "counted.hpp"
#include "hand_op.hpp"
#include "in_both.hpp"
#include "until.hpp"

#include "support/catch.hpp"

#include <coir/coir.hpp>

#include <deque>
#include <stdexcept>
#include <string>

using support::counted;
using support::hand;
using support::hand_op;

namespace {

const coir::fiber_local<std::string> request_id;
const coir::fiber_local<counted> object;

std::string id_here() { return request_id.get() == nullptr ? "none" : *request_id.get(); }
coir::task<std::string> id_in_task() {
  co_await coir::yield();
  co_return id_here();
}

}  // namespace

TEST_CASE("a value is the fiber's own: nobody has it before it is set, and no sibling has it after") {
  coir::run([] {
    CHECK(request_id.get() == nullptr);
    auto one = coir::spawn([] {
      request_id.set("one");
      coir::await(coir::yield());
      return id_here();
    });
    auto other = coir::spawn([]() -> coir::task<std::string> {
      co_await coir::yield();
      const std::string before = id_here();
      request_id.set("other");
      co_await coir::yield();
      co_return before + " " + id_here();
    });
    CHECK(coir::await(one.join()) == "one");
    CHECK(coir::await(other.join()) == "none other");
    CHECK(request_id.get() == nullptr);
  });
}

TEST_CASE("children inherit what was set before their spawn, and nothing that either sets later") {
  coir::run([] {
    request_id.set("before");
    hand hold;
    auto child = coir::spawn([&] {
      const std::string at_birth = id_here();
      coir::await(hand_op(hold));
      const std::string after_parents = id_here();
      request_id.set("child's");
      auto grandchild = coir::spawn(id_in_task());
      return at_birth + " " + after_parents + " " + coir::await(grandchild.join());
    });
    request_id.set("after");
    coir::await(coir::yield());
    hold.complete();
    CHECK(coir::await(child.join()) == "before before child's");
    CHECK(id_here() == "after");
  });
}

TEST_CASE("tasks and functions on stacks inside of a fiber see its values, and set them") {
  support::in_both([]() -> coir::task<> {
    request_id.set("outer");
    const std::string in_task = co_await id_in_task();
    CHECK(in_task == "outer");
    co_await coir::on_stack([] {
      CHECK(id_here() == "outer");
      request_id.set("inner");
      coir::await(coir::yield());
    });
    CHECK(id_here() == "inner");
    // Set for a while, and put back.
    const std::string before = id_here();
    request_id.set("for a while");
    const std::string meanwhile = co_await id_in_task();
    CHECK(meanwhile == "for a while");
    request_id.set(before);
    CHECK(id_here() == "inner");
  });
}

TEST_CASE("a value lives as long as a fiber that has it, also when another is set in its place") {
  coir::run([] {
    hand hold;
    auto parent = coir::spawn([&] {
      object.set(7);
      auto child = coir::spawn([&] {
        coir::await(hand_op(hold));
        return object.get()->value;
      });
      object.set(8);
      CHECK(counted::alive == 2);
      return coir::await(child.take());
    });
    support::until([&] { return hold.waiting(); });
    CHECK(counted::alive == 2);
    hold.complete();
    CHECK(coir::await(parent.join()) == 7);
    parent = {};
    CHECK(counted::alive == 0);
  });
  CHECK(counted::alive == 0);
}

TEST_CASE("the value that is shared is one object: what is done to it all see") {
  coir::run([] {
    object.set(1);
    auto child = coir::spawn([] {
      object.get()->value = 2;
      return object.get();
    });
    counted* const of_child = coir::await(child.join());
    CHECK(of_child == object.get());
    CHECK(object.get()->value == 2);
  });
}

TEST_CASE("many keys do not meet") {
  std::deque<coir::fiber_local<int>> keys(100);
  coir::run([&] {
    for (int i = 0; i < 100; ++i) keys[static_cast<std::size_t>(i)].set(i);
    for (int i = 0; i < 100; i += 2) keys[static_cast<std::size_t>(i)].set(-i);
    auto child = coir::spawn([&] {
      int wrong = 0;
      for (int i = 0; i < 100; ++i) {
        const int* const value = keys[static_cast<std::size_t>(i)].get();
        if (value == nullptr || *value != (i % 2 == 0 ? -i : i)) ++wrong;
      }
      return wrong;
    });
    CHECK(coir::await(child.join()) == 0);
  });
}

TEST_CASE("a fiber without a parent inherits nothing; one with a name does") {
  coir::loop loop;
  coir::scheduler fibers(loop);
  std::string root = "not run";
  std::string child = "not run";
  fibers.spawn([&] {
    request_id.set("mine");
    coir::spawn([&] { child = id_here(); }, coir::spawn_options().name("child"));
    coir::await(coir::yield());
  });
  fibers.spawn([&] { root = id_here(); });
  while (loop.run_once() != 0) {
  }
  CHECK(child == "mine");
  CHECK(root == "none");
}

TEST_CASE("outside of any fiber there are no values, which is said") {
  CHECK_THROWS_AS(request_id.get(), std::logic_error);
  CHECK_THROWS_AS(request_id.set("x"), std::logic_error);
}
