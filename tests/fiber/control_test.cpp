// To an end from outside: interrupt, stop, cancel with a grace.
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
using support::jumping_on_both;
using support::now;
using support::on_both_surfaces;

namespace {

struct too_late {
  int by = 0;
};

// What is thrown at this suspend point, as text.
template <class Wait, class Op>
std::string thrown_by(Wait& wait, Op&& what) {
  try {
    static_cast<void>(wait(std::forward<Op>(what)));
  } catch (const coir::cancelled&) {
    return "cancelled";
  } catch (const std::exception& error) {
    return error.what();
  }
  return "nothing";
}

const auto for_ever = [] { return coir::sleep_until(coir::never); };

}  // namespace

// --- interrupt ---

TEST_CASE("an interrupted fiber gets the exception at its suspend point, and its op is stopped") {
  surfaces::for_each([](auto surface) {
    coir::run([&] {
      hand hold;
      auto child = surface.spawn(hand_op(hold));
      support::until([&] { return hold.waiting(); });
      CHECK(child.interrupt(too_late{7}));
      CHECK(hold.aborts() == 1);
      try {
        coir::await(child.join());
        FAIL("it was not interrupted");
      } catch (const too_late& why) {
        CHECK(why.by == 7);
      }
      CHECK(child.outcome() == fiber_outcome::failed);
    });
  });
}

TEST_CASE("an interruption stops an op in the kernel, and is what the fiber gets") {
  on_both_surfaces([](auto wait) {
    int both[2];
    REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, both) == 0);
    coir::descriptor mine(support::loop_here(), both[0]);
    const coir::unique_fd peer(both[1]);
    std::string got, then;
    auto child = coir::spawn([&] {
      got = thrown_by(wait, coir::wait_readable(mine.get()));
      then = thrown_by(wait, coir::yield());
    });
    support::until([&] { return support::waiting(child); });
    child.interrupt(std::runtime_error("too late"));
    wait(child.join());
    CHECK(got == "too late");
    CHECK(then == "nothing");
  });
}

TEST_CASE("a scope catches its own cancellation of an op in the kernel") {
  on_both_surfaces([](auto wait) {
    int both[2];
    REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, both) == 0);
    coir::descriptor mine(support::loop_here(), both[0]);
    const coir::unique_fd peer(both[1]);
    CHECK_FALSE(coir::move_on_after(1ms, [&] { wait(coir::wait_readable(mine.get())); }));
  });
}

TEST_CASE("an op that cannot be stopped delivers its result; the interruption surfaces at the next suspend point") {
  on_both_surfaces([](auto wait) {
    hand hold(abort_answer::later);
    int got = 0;
    std::string then;
    auto child = coir::spawn([&] {
      got = wait(hand_op(hold));
      then = thrown_by(wait, coir::yield());
    });
    support::until([&] { return hold.waiting(); });
    child.interrupt(std::runtime_error("too late"));
    CHECK(support::waiting(child));
    hold.complete(7);
    wait(child.join());
    CHECK(got == 7);
    CHECK(then == "too late");
  });
}

TEST_CASE("a fiber that was woken and then interrupted keeps what it was woken with") {
  on_both_surfaces([](auto wait) {
    hand hold;
    int got = 0;
    std::string then;
    auto child = coir::spawn([&] {
      got = wait(hand_op(hold));
      then = thrown_by(wait, for_ever());
    });
    support::until([&] { return hold.waiting(); });
    hold.complete(7);
    child.interrupt(std::runtime_error("too late"));
    wait(child.join());
    CHECK(got == 7);
    CHECK(then == "too late");
  });
}

TEST_CASE("what completes after the interruption is left for the next one who waits") {
  on_both_surfaces([](auto wait) {
    hand hold;
    std::string got;
    auto child = coir::spawn([&] { got = thrown_by(wait, hand_op(hold)); });
    support::until([&] { return hold.waiting(); });
    child.interrupt(std::runtime_error("too late"));
    hold.complete(7);
    wait(child.join());
    CHECK(got == "too late");
    CHECK(wait(hand_op(hold)) == 7);
  });
}

TEST_CASE("an interruption is thrown once; a newer one replaces one that was not thrown yet") {
  on_both_surfaces([](auto wait) {
    std::vector<std::string> got;
    auto child = coir::spawn([&] {
      for (int i = 0; i < 2; ++i) got.push_back(thrown_by(wait, coir::sleep_for(1us)));
    });
    coir::await(coir::yield());
    REQUIRE(support::waiting(child));
    child.interrupt(std::runtime_error("first"));
    child.interrupt(std::runtime_error("second"));
    wait(child.join());
    CHECK(got == std::vector<std::string>{"second", "nothing"});
  });
}

TEST_CASE("an interruption reaches into a shield") {
  on_both_surfaces([](auto wait) {
    std::string got;
    auto child = coir::spawn([&] {
      coir::cancel_scope scope;
      scope.shield();
      scope.run([&] { got = thrown_by(wait, for_ever()); });
    });
    support::until([&] { return support::waiting(child); });
    child.cancel();
    coir::await(coir::yield());
    CHECK(support::waiting(child));
    child.interrupt(std::runtime_error("too late"));
    wait(coir::end_op(child));
    CHECK(got == "too late");
  });
}

TEST_CASE("of an interruption and a cancellation the first is thrown first, whichever came first") {
  for (const bool interrupted_first : {true, false}) {
    on_both_surfaces([&](auto wait) {
      std::vector<std::string> got;
      auto child = coir::spawn([&] {
        for (int i = 0; i < 3; ++i) got.push_back(thrown_by(wait, for_ever()));
      });
      support::until([&] { return support::waiting(child); });
      if (interrupted_first) child.interrupt(std::runtime_error("too late"));
      child.cancel();
      if (!interrupted_first) child.interrupt(std::runtime_error("too late"));
      wait(coir::end_op(child));
      CHECK(got == std::vector<std::string>{"too late", "cancelled", "cancelled"});
    });
  }
}

TEST_CASE("a fiber that is interrupted before its first run never runs, and has failed") {
  on_both_surfaces([](auto wait) {
    bool ran = false;
    auto child = coir::spawn([&] { ran = true; });
    CHECK(child.interrupt(std::runtime_error("too late")));
    CHECK_THROWS_WITH(wait(child.join()), "too late");
    CHECK_FALSE(ran);
  });
}

TEST_CASE("interrupting a fiber that is ending or dead is refused, and does nothing") {
  on_both_surfaces([](auto wait) {
    hand hold(abort_answer::later);
    auto child = coir::spawn([&] {
      coir::spawn([&] { static_cast<void>(coir::await(hand_op(hold))); });
      coir::await(coir::yield());
      return 7;
    });
    support::until([&] { return child.state() == fiber_state::ending; });
    CHECK_FALSE(child.interrupt(too_late()));
    CHECK_FALSE(child.stop(8));
    hold.give_up();
    CHECK(wait(child.join()) == 7);
    CHECK_FALSE(child.interrupt(too_late()));
    CHECK_FALSE(child.stop(8));
    CHECK(wait(child.join()) == 7);
  });
}

TEST_CASE("interrupting one of several joiners leaves the others, and the fiber they join, alone") {
  on_both_surfaces([](auto wait) {
    hand hold;
    auto child = coir::spawn([&] { return coir::await(hand_op(hold)); });
    std::vector<coir::fiber<int>> joiners;
    for (int i = 0; i < 3; ++i) joiners.push_back(coir::spawn([&] { return int(wait(child.join())); }));
    support::until([&] { return support::waiting(joiners.back()); });
    joiners[1].interrupt(std::runtime_error("too late"));
    CHECK_THROWS_WITH(wait(joiners[1].join()), "too late");
    CHECK(support::waiting(child));
    hold.complete(7);
    CHECK(wait(joiners[0].join()) == 7);
    CHECK(wait(joiners[2].join()) == 7);
  });
}

TEST_CASE("an interruption deep inside unwinds all frames, the innermost first") {
  std::vector<int> left;
  struct frame {
    std::vector<int>& left;
    int number;
    ~frame() { left.push_back(number); }
  };
  struct calls {
    static coir::task<> deep(std::vector<int>& to, int depth) {
      const frame mine{to, depth};
      if (depth == 0) {
        co_await coir::sleep_until(coir::never);
      } else {
        co_await deep(to, depth - 1);
      }
    }
  };
  coir::run([&] {
    auto in_coroutines = coir::spawn(calls::deep(left, 3));
    auto on_a_stack = coir::spawn([&] {
      const frame mine{left, 4};
      coir::await(calls::deep(left, 3));
    });
    support::until([&] { return support::waiting(on_a_stack); });
    in_coroutines.interrupt(too_late());
    CHECK_THROWS_AS(coir::await(in_coroutines.join()), too_late);
    CHECK(left == std::vector{0, 1, 2, 3});
    on_a_stack.interrupt(too_late());
    CHECK_THROWS_AS(coir::await(on_a_stack.join()), too_late);
    CHECK(left == std::vector{0, 1, 2, 3, 0, 1, 2, 3, 4});
  });
}

TEST_CASE("interrupting the wait for a nursery's children cancels them, and comes out of the nursery") {
  on_both_surfaces([](auto wait) {
    auto child = coir::spawn([&] {
      coir::with_nursery([&](coir::nursery& n) { n.spawn([&] { wait(for_ever()); }); });
    });
    support::until([&] { return support::waiting(child); });
    child.interrupt(std::runtime_error("too late"));
    CHECK_THROWS_WITH(wait(child.join()), "too late");
  });
}

TEST_CASE("an exception_ptr is thrown as what it holds; an empty one is a logic_error") {
  on_both_surfaces([](auto wait) {
    auto child = coir::spawn([&] { wait(for_ever()); });
    coir::await(coir::yield());
    CHECK_THROWS_AS(child.interrupt(std::exception_ptr()), std::logic_error);
    child.interrupt(std::make_exception_ptr(std::runtime_error("too late")));
    CHECK_THROWS_WITH(wait(child.join()), "too late");
  });
}

TEST_CASE("a fiber can interrupt itself, at its next suspend point") {
  on_both_surfaces([](auto wait) {
    coir::fiber<void> self;
    std::string got;
    self = coir::spawn([&] {
      self.interrupt(std::runtime_error("enough"));
      got = thrown_by(wait, coir::yield());
    });
    wait(self.join());
    CHECK(got == "enough");
    self = {};
  });
}

// --- stop ---

TEST_CASE("stop with a value makes that the result, for all who join") {
  surfaces::for_each([](auto surface) {
    coir::run([&] {
      hand hold;
      auto child = surface.spawn(hand_op(hold));
      std::vector<coir::fiber<int>> joiners;
      for (int i = 0; i < 10; ++i) {
        joiners.push_back(coir::spawn([&] { return int(coir::await(child.join())); }));
      }
      support::until([&] { return hold.waiting() && support::waiting(joiners.back()); });
      CHECK(child.stop(7));
      for (auto& each : joiners) CHECK(coir::await(each.join()) == 7);
      CHECK(child.outcome() == fiber_outcome::returned);
      CHECK(coir::await(child.take()) == 7);
    });
  });
}

TEST_CASE("a fiber that is stopped before its first run never runs, and its result is the value") {
  on_both_surfaces([](auto wait) {
    bool ran = false;
    auto child = coir::spawn([&] {
      ran = true;
      return std::string("ran");
    });
    CHECK(child.stop("stopped"));
    CHECK(wait(child.join()) == "stopped");
    CHECK_FALSE(ran);
    auto task = coir::spawn([](bool& began) -> coir::task<int> {
      began = true;
      co_return 1;
    }(ran));
    CHECK(task.stop(2));
    CHECK(wait(task.join()) == 2);
    CHECK_FALSE(ran);
  });
}

TEST_CASE("a stopped fiber that comes to its end with a value of its own keeps that") {
  on_both_surfaces([](auto wait) {
    auto child = coir::spawn([&] {
      try {
        wait(for_ever());
      } catch (const coir::cancelled&) {
      }
      return std::make_unique<int>(1);
    });
    auto task = coir::spawn([]() -> coir::task<std::string> {
      try {
        co_await coir::sleep_until(coir::never);
      } catch (const coir::cancelled&) {
      }
      co_return "its own";
    });
    support::until([&] { return support::waiting(child) && support::waiting(task); });
    child.stop(std::make_unique<int>(2));
    task.stop("another's");
    CHECK(*wait(child.take()) == 1);
    CHECK(wait(task.join()) == "its own");
  });
}

TEST_CASE("of two stops the second value counts; each value is destroyed once, whatever comes of it") {
  on_both_surfaces([](auto wait) {
    for (int i = 0; i < 4; ++i) {
      auto child = coir::spawn([&, i] {
        try {
          wait(for_ever());
        } catch (const coir::cancelled&) {
          if (i == 1) return counted(1);
          if (i == 2) throw std::runtime_error("it broke");
          throw;
        }
        return counted(0);
      });
      support::until([&] { return support::waiting(child); });
      child.stop(counted(8));
      if (i != 3) child.stop(counted(9));
      if (i == 2) {
        CHECK_THROWS_WITH(wait(child.join()), "it broke");
      } else {
        CHECK(wait(child.join()).value == (i == 1 ? 1 : i == 3 ? 8 : 9));
      }
    }
    CHECK(counted::alive == 0);
  });
  CHECK(counted::alive == 0);
}

TEST_CASE("stopping a fiber without a result, or with a reference for one, ends it as if it had returned") {
  on_both_surfaces([](auto wait) {
    auto child = coir::spawn([&] { wait(for_ever()); });
    int value = 7;
    auto other = coir::spawn([&]() -> int& {
      wait(for_ever());
      return value;
    });
    coir::await(coir::yield());
    CHECK(child.stop());
    CHECK(other.stop(value));
    wait(child.join());
    CHECK(&coir::await(other.join()) == &value);
    CHECK_FALSE(child.stop());
  });
}

TEST_CASE("stopping a fiber runs its cleanup and ends its children first") {
  on_both_surfaces([](auto wait) {
    std::vector<std::string> seen;
    auto child = coir::spawn([&] {
      coir::spawn([&] {
        try {
          wait(for_ever());
        } catch (const coir::cancelled&) {
          seen.push_back("its child");
          throw;
        }
      });
      try {
        wait(for_ever());
      } catch (const coir::cancelled&) {
        seen.push_back("itself");
        throw;
      }
      return 0;
    });
    support::until([&] { return support::waiting(child); });
    coir::await(coir::yield());
    child.stop(7);
    CHECK(wait(child.join()) == 7);
    CHECK(seen.size() == 2);
  });
}

TEST_CASE("a failure of a child weighs more than the value of a stop") {
  on_both_surfaces([](auto wait) {
    auto child = coir::spawn([&] {
      coir::spawn([&] {
        try {
          wait(for_ever());
        } catch (const coir::cancelled&) {
          throw std::runtime_error("its cleanup broke");
        }
      });
      wait(for_ever());
      return 0;
    });
    support::until([&] { return support::waiting(child); });
    coir::await(coir::yield());
    child.stop(7);
    CHECK_THROWS_WITH(wait(child.join()), "its cleanup broke");
  });
}

TEST_CASE("a nursery whose child was stopped is complete") {
  on_both_surfaces([](auto wait) {
    CHECK(coir::with_nursery([&](coir::nursery& n) {
            auto child = n.spawn([&] { wait(for_ever()); });
            coir::await(coir::yield());
            child.stop();
            return 7;
          }) == 7);
  });
}

TEST_CASE("handlers of std::exception do not swallow a cancellation") {
  on_both_surfaces([](auto wait) {
    bool swallowed = false;
    auto child = coir::spawn([&] {
      try {
        wait(for_ever());
      } catch (const std::exception&) {
        swallowed = true;
      }
    });
    support::until([&] { return support::waiting(child); });
    child.cancel();
    CHECK_THROWS_AS(wait(child.join()), std::system_error);
    CHECK(child.outcome() == fiber_outcome::cancelled);
    CHECK_FALSE(swallowed);
  });
}

// --- cancel(grace) ---

TEST_CASE("cancel with a grace asks a fiber and its children, and cancels what is left when it is over") {
  jumping_on_both([](auto wait) {
    bool child_saw = false, cleanup_saw = false;
    std::vector<coir::duration> ended;
    const coir::instant begin = now();
    auto fiber = coir::spawn([&] {
      coir::spawn([&] {
        wait(coir::wait_shutting_down());
        child_saw = coir::shutting_down();
        ended.push_back(now() - begin);
      });
      CHECK_FALSE(coir::shutting_down());
      try {
        wait(for_ever());
      } catch (const coir::cancelled&) {
        cleanup_saw = coir::shutting_down();
        ended.push_back(now() - begin);
        throw;
      }
    });
    wait(coir::sleep_for(1s));
    fiber.cancel(5s);
    wait(coir::end_op(fiber));
    CHECK(fiber.outcome() == fiber_outcome::cancelled);
    CHECK(child_saw);
    CHECK(cleanup_saw);
    CHECK(ended == std::vector<coir::duration>{1s, 6s});
  });
}

TEST_CASE("a plain cancel asks nobody before") {
  on_both_surfaces([](auto wait) {
    bool asked = true;
    auto child = coir::spawn([&] {
      try {
        wait(for_ever());
      } catch (const coir::cancelled&) {
        asked = coir::shutting_down();
        throw;
      }
    });
    support::until([&] { return support::waiting(child); });
    child.cancel();
    wait(coir::end_op(child));
    CHECK_FALSE(asked);
  });
}

TEST_CASE("a grace that is not positive cancels at once") {
  jumping_on_both([](auto wait) {
    for (const coir::duration grace : {coir::duration(0s), coir::duration(-1s)}) {
      const coir::instant begin = now();
      auto child = coir::spawn([&] { wait(for_ever()); });
      coir::await(coir::yield());
      child.cancel(grace);
      wait(coir::end_op(child));
      CHECK(child.outcome() == fiber_outcome::cancelled);
      CHECK(now() == begin);
    }
  });
}

TEST_CASE("of several graces the one that is over first counts") {
  jumping_on_both([](auto wait) {
    const coir::instant begin = now();
    auto child = coir::spawn([&] { wait(for_ever()); });
    coir::await(coir::yield());
    child.cancel(10s);
    child.cancel(2s);
    child.cancel(20s);
    child.cancel(coir::duration::max());
    wait(coir::end_op(child));
    CHECK(now() - begin == 2s);
  });
}

TEST_CASE("a fiber that ends within its grace has its own result, and its timer is gone") {
  jumping_on_both([](auto wait) {
    const coir::instant begin = now();
    auto child = coir::spawn([&] {
      wait(coir::wait_shutting_down());
      return 7;
    });
    coir::await(coir::yield());
    child.cancel(1h);
    CHECK(wait(child.join()) == 7);
    CHECK(now() == begin);
    wait(coir::sleep_for(2h));
    CHECK(child.outcome() == fiber_outcome::returned);
  });
}

TEST_CASE("a fiber that is asked to end before its first run begins, and can see it") {
  jumping_on_both([](auto wait) {
    auto child = coir::spawn([] { return coir::shutting_down(); });
    child.cancel(1s);
    CHECK(wait(child.join()));
    child.cancel(1s);
    child.cancel(0s);
  });
}

TEST_CASE("a grace without an end only asks") {
  jumping_on_both([](auto wait) {
    auto child = coir::spawn([&] {
      wait(coir::wait_shutting_down());
      wait(coir::sleep_for(100h));
      return 7;
    });
    coir::await(coir::yield());
    child.cancel(coir::duration::max());
    CHECK(wait(child.join()) == 7);
  });
}
