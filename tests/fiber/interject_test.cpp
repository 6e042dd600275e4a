// A function that runs as a part of another fiber.
#include "counted.hpp"
#include "hand_op.hpp"
#include "surfaces.hpp"
#include "until.hpp"

#include "support/both.hpp"
#include "support/catch.hpp"
#include "support/jumping.hpp"

#include <coir/coir.hpp>

#include <sys/socket.h>

#include <memory>
#include <stdexcept>
#include <string>
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

TEST_CASE("what is interjected runs on the fiber where it waits, and leaves it waiting in its op") {
  surfaces::for_each([](auto surface) {
    coir::run([&] {
      hand hold;
      auto child = surface.spawn(hand_op(hold));
      support::until([&] { return hold.waiting(); });
      int calls = 0;
      CHECK(child.interject([&] {
        ++calls;
        CHECK(&coir::running_fiber() == &child.control());
        CHECK(child.state() == fiber_state::waiting);
      }));
      CHECK(calls == 0);
      support::until([&] { return calls == 1; });
      CHECK(hold.waiting());
      CHECK(hold.aborts() == 0);
      hold.complete(7);
      CHECK(coir::await(child.join()) == 7);
      CHECK(calls == 1);
    });
  });
}

TEST_CASE("an op in the kernel goes on while something is interjected") {
  on_both_surfaces([](auto wait) {
    int both[2];
    REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, both) == 0);
    coir::descriptor mine(support::loop_here(), both[0]);
    const coir::unique_fd peer(both[1]);
    auto child = coir::spawn([&] { wait(coir::wait_readable(mine.get())); });
    support::until([&] { return support::waiting(child); });
    bool called = false;
    child.interject([&] { called = true; });
    support::until([&] { return called; });
    CHECK(support::waiting(child));
    REQUIRE(::send(peer.get(), "x", 1, MSG_NOSIGNAL) == 1);
    wait(child.join());
  });
}

TEST_CASE("a ready fiber, and one that runs, call what is interjected at their next suspend point") {
  on_both_surfaces([](auto wait) {
    hand hold;
    std::vector<std::string> seen;
    auto child = coir::spawn([&] {
      wait(hand_op(hold));
      seen.push_back("goes on");
      wait(coir::yield());
      seen.push_back("and on");
    });
    support::until([&] { return hold.waiting(); });
    hold.complete();
    child.interject([&] { seen.push_back("interjected"); });
    wait(child.join());
    CHECK(seen == std::vector<std::string>{"goes on", "interjected", "and on"});
    coir::fiber<void> self;
    self = coir::spawn([&] {
      seen.clear();
      self.interject([&] { seen.push_back("interjected"); });
      seen.push_back("goes on");
      wait(coir::yield());
      seen.push_back("and on");
    });
    wait(self.join());
    CHECK(seen == std::vector<std::string>{"goes on", "interjected", "and on"});
    self = {};
  });
}

TEST_CASE("a fiber whose ops are always ready calls what is interjected all the same") {
  on_both_surfaces([](auto wait) {
    bool called = false;
    auto child = coir::spawn([&] {
      hand hold;
      while (!called) {
        hold.complete();
        wait(hand_op(hold));
      }
    });
    coir::await(coir::yield());
    child.interject([&] { called = true; });
    wait(child.join());
    CHECK(called);
  });
}

TEST_CASE("a fresh fiber calls what is interjected when it begins") {
  on_both_surfaces([](auto wait) {
    std::vector<std::string> seen;
    auto function = coir::spawn([&] { seen.push_back("function"); });
    auto factory = coir::spawn([&]() -> coir::task<> {
      seen.push_back("factory");
      co_return;
    });
    auto task = coir::spawn([](std::vector<std::string>& to) -> coir::task<> {
      to.push_back("task");
      co_return;
    }(seen));
    function.interject([&] { seen.push_back("interjected"); });
    factory.interject([&] { seen.push_back("interjected"); });
    task.interject([&] { seen.push_back("interjected"); });
    wait(task.join());
    CHECK(seen ==
          std::vector<std::string>{"interjected", "function", "interjected", "factory", "interjected", "task"});
  });
}

TEST_CASE("what an interjected function throws interrupts the fiber") {
  surfaces::for_each([](auto surface) {
    coir::run([&] {
      hand hold;
      auto child = surface.spawn(hand_op(hold));
      support::until([&] { return hold.waiting(); });
      child.interject([] { throw std::runtime_error("enough"); });
      CHECK_THROWS_WITH(coir::await(child.join()), "enough");
      CHECK(hold.aborts() == 1);
      auto fresh = surface.spawn(hand_op(hold));
      fresh.interject([] { throw std::runtime_error("enough"); });
      CHECK_THROWS_WITH(coir::await(fresh.join()), "enough");
      CHECK_FALSE(hold.waiting());
    });
  });
  on_both_surfaces([](auto wait) {
    auto running = coir::spawn([&] {
      auto& self = coir::running_fiber();
      self.interject([] { throw std::runtime_error("enough"); });
      wait(coir::yield());
    });
    CHECK_THROWS_WITH(wait(running.join()), "enough");
  });
}

TEST_CASE("an interjected function may stop its fiber") {
  on_both_surfaces([](auto wait) {
    auto child = coir::spawn([&] {
      wait(coir::sleep_until(coir::never));
      return 0;
    });
    support::until([&] { return support::waiting(child); });
    child.interject([child] { child.stop(7); });
    CHECK(wait(child.join()) == 7);
  });
}

TEST_CASE("what an interjected function spawns is a child of the fiber") {
  on_both_surfaces([](auto wait) {
    hand hold;
    auto child = coir::spawn([&] { wait(hand_op(hold)); });
    support::until([&] { return hold.waiting(); });
    coir::fiber<void> grandchild;
    child.interject([&] { grandchild = coir::spawn([&] { wait(coir::sleep_until(coir::never)); }); });
    support::until([&] { return static_cast<bool>(grandchild) && support::waiting(grandchild); });
    CHECK(grandchild.control().parent() == &child.control());
    hold.complete();
    wait(child.join());
    CHECK(grandchild.outcome() == fiber_outcome::cancelled);
  });
}

TEST_CASE("a fiber that waits for its nursery's children can be given another") {
  on_both_surfaces([](auto wait) {
    hand hold;
    bool ran = false;
    auto child = coir::spawn([&] {
      coir::with_nursery([&](coir::nursery& n) { n.spawn([&] { wait(hand_op(hold)); }); });
    });
    support::until([&] { return hold.waiting() && support::waiting(child); });
    child.interject([&] { coir::spawn([&] { ran = true; }); });
    hold.complete();
    wait(child.join());
    CHECK(ran);
  });
}

TEST_CASE("an interjected function that waits gets a logic_error, on either body") {
  coir::run([] {
    hand hold;
    auto on_stack = surfaces::stack::spawn(hand_op(hold));
    support::until([&] { return hold.waiting(); });
    std::string got;
    const auto waits = [&] {
      for (int i = 0; i < 2; ++i) {
        try {
          if (i == 0) {
            coir::await(coir::yield());
          } else {
            coir::await(surfaces::in_coroutine(coir::sleep_for(1s)));
          }
          got += "nothing;";
        } catch (const std::logic_error& error) {
          got += std::string(error.what()).find("interjected function waits") != std::string::npos ? "right;" : "wrong;";
        }
      }
    };
    on_stack.interject(waits);
    support::until([&] { return !got.empty(); });
    CHECK(got == "right;right;");
    CHECK(hold.waiting());
    hold.complete();
    static_cast<void>(coir::await(on_stack.join()));
    got.clear();
    auto in_coroutine = surfaces::coroutine::spawn(hand_op(hold));
    support::until([&] { return hold.waiting(); });
    in_coroutine.interject(waits);
    support::until([&] { return !got.empty(); });
    CHECK(got == "right;right;");
    hold.complete();
    static_cast<void>(coir::await(in_coroutine.join()));
    // And where it runs itself.
    got.clear();
    coir::running_fiber().interject(waits);
    coir::await(coir::yield());
    CHECK(got == "right;right;");
  });
}

TEST_CASE("interjecting into a fiber that is ending or dead is refused") {
  on_both_surfaces([](auto wait) {
    hand hold(abort_answer::later);
    auto child = coir::spawn([&] {
      coir::spawn([&] { static_cast<void>(coir::await(hand_op(hold))); });
      coir::await(coir::yield());
    });
    support::until([&] { return child.state() == fiber_state::ending; });
    CHECK_FALSE(child.interject([] { FAIL("it was called"); }));
    hold.give_up();
    wait(child.join());
    CHECK_FALSE(child.interject([] { FAIL("it was called"); }));
  });
}

TEST_CASE("a fiber that dies before calls nothing, and what was interjected is destroyed") {
  on_both_surfaces([](auto wait) {
    hand hold;
    auto child = coir::spawn([&] { wait(hand_op(hold)); });
    support::until([&] { return hold.waiting(); });
    hold.complete();
    child.interject([mine = std::make_unique<counted>()] { FAIL("it was called"); });
    CHECK(counted::alive == 1);
    wait(child.join());
    CHECK(counted::alive == 0);
  });
}

TEST_CASE("functions are called in the order in which they were interjected; what they interject comes later") {
  on_both_surfaces([](auto wait) {
    hand hold;
    auto child = coir::spawn([&] { wait(hand_op(hold)); });
    support::until([&] { return hold.waiting(); });
    std::vector<int> order;
    child.interject([&] {
      order.push_back(1);
      child.interject([&] { order.push_back(3); });
    });
    child.interject([&] { order.push_back(2); });
    support::until([&] { return order.size() == 3; });
    CHECK(order == std::vector{1, 2, 3});
    hold.complete();
    wait(child.join());
  });
}

TEST_CASE("a fiber that is woken before it is visited calls what was interjected where it stands") {
  on_both_surfaces([](auto wait) {
    hand hold;
    std::vector<std::string> seen;
    auto child = coir::spawn([&] {
      wait(hand_op(hold));
      seen.push_back("goes on");
      wait(coir::yield());
    });
    support::until([&] { return hold.waiting(); });
    child.interject([&] { seen.push_back("interjected"); });
    hold.complete();
    wait(child.join());
    CHECK(seen == std::vector<std::string>{"interjected", "goes on"});
  });
}

TEST_CASE("a callback of the loop can interject") {
  support::jumping([] {
    hand hold;
    auto child = coir::spawn([&] { coir::await(hand_op(hold)); });
    bool called = false;
    const auto timer = support::loop_here().after(1s, [&] {
      child.interject([&] {
        called = true;
        hold.complete();
      });
    });
    coir::await(child.join());
    CHECK(called);
  });
}

TEST_CASE("an empty function is a logic_error") {
  coir::run([] {
    auto child = coir::spawn([] {});
    CHECK_THROWS_AS(child.interject(std::function<void()>()), std::logic_error);
    coir::await(child.join());
  });
}

TEST_CASE("what is interjected into a fiber that has not begun may spawn its children, and end it") {
  for (const bool by_throwing : {true, false}) {
    coir::run([&] {
      auto whom = coir::spawn([] { FAIL("it runs"); });
      coir::fiber<void> child;
      whom.interject([&] {
        child = coir::spawn([] { coir::await(coir::sleep_until(coir::never)); });
        if (by_throwing) throw std::runtime_error("given");
      });
      if (!by_throwing) whom.interrupt(std::make_exception_ptr(std::runtime_error("given")));
      CHECK_THROWS_WITH(coir::await(whom.join()), "given");
      CHECK(child.outcome() == fiber_outcome::cancelled);
    });
  }
}

TEST_CASE("a limit in time that is interjected counts from now, because its fiber is parked") {
  support::jumping([] {
    coir::cancel_scope scope;
    hand hold;
    auto child = coir::spawn([&] { return scope.run([&] { coir::await(hand_op(hold)); }); });
    support::until([&] { return hold.waiting(); });
    const coir::instant began = support::loop_here().time();
    child.interject([&] { scope.limit(2s); });
    CHECK_FALSE(coir::await(child.take()));
    CHECK(support::loop_here().time() - began >= 2s);
    CHECK(scope.expired());
  });
}
