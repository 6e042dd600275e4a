// Waiting on a stack, and a coroutine that borrows one.
#include "counted.hpp"
#include "hand_op.hpp"
#include "in_both.hpp"
#include "until.hpp"

#include "support/catch.hpp"

#include <coir/coir.hpp>

#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

using Catch::Matchers::Contains;
using coir::fiber_outcome;
using coir::fiber_state;
using support::counted;
using support::hand;
using support::hand_op;
using support::in_both;

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

coir::task<int> twice(int x) {
  co_await coir::yield();
  co_return 2 * x;
}

bool on_own_stack(const void* local) {
  const coir::stack* const stack = coir::running_fiber().current_stack();
  return stack != nullptr && local >= stack->low() && local < stack->high();
}

}  // namespace

TEST_CASE("a function on a stack waits for ops and for tasks") {
  coir::run([] {
    hand hold;
    coir::spawn([&] { hold.complete(7); });
    CHECK(coir::await(hand_op(hold)) == 7);
    CHECK(coir::await(twice(21)) == 42);
    auto pause = coir::yield();
    coir::await(pause);
    coir::task<int> named = twice(4);
    CHECK(coir::await(std::move(named)) == 8);
    CHECK_FALSE(static_cast<bool>(named));
  });
}

TEST_CASE("await where there is no stack says what to write instead") {
  coir::run([]() -> coir::task<> {
    const std::string of_op = misuse([] { coir::await(coir::yield()); });
    CHECK_THAT(of_op, Contains("write co_await"));
    CHECK_THAT(of_op, Contains("coir::on_stack"));
    const std::string of_task = misuse([] { coir::await(twice(1)); });
    CHECK_THAT(of_task, Contains("coir::on_stack"));
    // The fiber is as it was.
    const int got = co_await twice(2);
    CHECK(got == 4);
  });
}

TEST_CASE("await and on_stack outside of any fiber are refused, with what to do instead") {
  CHECK_THAT(misuse([] { coir::await(coir::yield()); }), Contains("coir::run"));
  CHECK_THAT(misuse([] { coir::await(twice(1)); }), Contains("coir::run"));
  CHECK_THAT(misuse([] { coir::await(coir::sleep_for(std::chrono::hours(1))); }), Contains("coir::run"));
}

TEST_CASE("a coroutine runs a function on a borrowed stack, as the same fiber") {
  coir::run([]() -> coir::task<> {
    const coir::fiber_base& self = coir::running_fiber();
    CHECK_FALSE(self.has_stack());
    hand hold;
    coir::spawn([&] { hold.complete(7); });
    auto function = [&] {
      const int here = 0;
      CHECK(on_own_stack(&here));
      CHECK(&coir::running_fiber() == &self);
      const int got = coir::await(hand_op(hold));
      CHECK(&coir::running_fiber() == &self);
      CHECK(on_own_stack(&here));
      return got + coir::await(twice(1));
    };
    const int got = co_await coir::on_stack(function);
    CHECK(got == 9);
    CHECK_FALSE(self.has_stack());
    const int after = co_await twice(3);
    CHECK(after == 6);
  });
}

TEST_CASE("on_stack returns values, references, what only moves, and nothing") {
  in_both([]() -> coir::task<> {
    int target = 1;
    int& same = co_await coir::on_stack([&target]() -> int& { return target; });
    CHECK(&same == &target);
    const auto owned = co_await coir::on_stack([] { return std::make_unique<int>(2); });
    CHECK(*owned == 2);
    co_await coir::on_stack([&target] {
      coir::await(coir::yield());
      target = 3;
    });
    CHECK(target == 3);
    const counted object = co_await coir::on_stack([] { return counted(4); });
    CHECK(object.value == 4);
    // Nobody takes this one.
    static_cast<void>(co_await coir::on_stack([] { return counted(5); }));
    CHECK(counted::alive == 1);
  });
  CHECK(counted::alive == 0);
}

TEST_CASE("an exception leaves the function, its stack is unwound, and the stack can be lent again") {
  in_both([]() -> coir::task<> {
    for (int i = 0; i < 3; ++i) {
      std::string said;
      try {
        co_await coir::on_stack([&] {
          const counted local(1);
          coir::await(coir::yield());
          throw std::runtime_error("from the stack");
        });
      } catch (const std::runtime_error& error) {
        said = error.what();
      }
      CHECK(said == "from the stack");
      CHECK(counted::alive == 0);
      const int got = co_await coir::on_stack([] { return coir::await(twice(5)); });
      CHECK(got == 10);
    }
  });
}

TEST_CASE("an exception of a task goes through a function on a stack into the coroutine") {
  in_both([]() -> coir::task<> {
    const auto fails = []() -> coir::task<int> {
      co_await coir::yield();
      throw std::runtime_error("from the task");
    };
    std::string said;
    try {
      co_await coir::on_stack([&] {
        const counted local(1);
        return coir::await(fails());
      });
    } catch (const std::runtime_error& error) {
      said = error.what();
    }
    CHECK(said == "from the task");
    CHECK(counted::alive == 0);
  });
}

TEST_CASE("a fiber that waits on a borrowed stack is cancelled there: the stack is unwound, then the coroutine") {
  coir::run([] {
    std::vector<std::string> order;
    const auto body = [](std::vector<std::string>& steps) -> coir::task<> {
      class note {
       public:
        note(std::vector<std::string>& where, const char* what) noexcept : where_(where), what_(what) {}
        ~note() { where_.emplace_back(what_); }

       private:
        std::vector<std::string>& where_;
        const char* what_;
      };
      const note outer(steps, "coroutine");
      co_await coir::on_stack([&] {
        const note inner(steps, "stack");
        try {
          coir::await(coir::sleep_until(coir::never));
        } catch (const coir::cancelled&) {
          steps.emplace_back("cancelled");
          throw;
        }
      });
      steps.emplace_back("not reached");
    };
    auto child = coir::spawn(body(order));
    support::until([&] { return child.state() == fiber_state::waiting; });
    child.cancel();
    coir::await(coir::end_op(child));
    CHECK(child.outcome() == fiber_outcome::cancelled);
    CHECK(order == std::vector<std::string>{"cancelled", "stack", "coroutine"});
  });
}

TEST_CASE("a cancellation that is swallowed on a borrowed stack comes back in the coroutine") {
  coir::run([] {
    int swallowed = 0;
    const auto body = [](int& count) -> coir::task<> {
      const int got = co_await coir::on_stack([&] {
        try {
          coir::await(coir::sleep_until(coir::never));
        } catch (const coir::cancelled&) {
          ++count;
        }
        return 1;
      });
      count += got;
      co_await coir::yield();
      count = -1;
    };
    auto child = coir::spawn(body(swallowed));
    support::until([&] { return child.state() == fiber_state::waiting; });
    child.cancel();
    coir::await(coir::end_op(child));
    CHECK(child.outcome() == fiber_outcome::cancelled);
    CHECK(swallowed == 2);
  });
}

TEST_CASE("on_stack is no suspend point: a cancelled fiber begins the function, and stops where it waits") {
  coir::run([] {
    bool began = false;
    bool waited = false;
    const auto body = [](bool& first, bool& second) -> coir::task<> {
      try {
        co_await coir::sleep_until(coir::never);
      } catch (const coir::cancelled&) {
      }
      co_await coir::on_stack([&] {
        first = true;
        coir::await(coir::yield());
        second = true;
      });
    };
    auto child = coir::spawn(body(began, waited));
    support::until([&] { return child.state() == fiber_state::waiting; });
    child.cancel();
    coir::await(coir::end_op(child));
    CHECK(began);
    CHECK_FALSE(waited);
  });
}

TEST_CASE("where there is a stack already the function is called on it") {
  coir::run([] {
    const int outer = 0;
    REQUIRE(on_own_stack(&outer));
    const coir::stack* const mine = coir::running_fiber().current_stack();
    coir::await([](const coir::stack* expected) -> coir::task<> {
      co_await coir::on_stack([&] {
        const int here = 0;
        CHECK(on_own_stack(&here));
        CHECK(coir::running_fiber().current_stack() == expected);
        coir::await(coir::yield());
      });
    }(mine));
    CHECK(coir::running_fiber().current_stack() == mine);
  });
}

namespace {

// A stack in a coroutine in a stack, and so on.
int on_stacks(int depth);
coir::task<int> in_coroutines(int depth) {
  co_await coir::yield();
  auto inner = [depth] { return on_stacks(depth); };
  const int got = co_await coir::on_stack(inner);
  co_await coir::yield();
  co_return got + 1;
}
int on_stacks(int depth) {
  if (depth == 0) return 0;
  coir::await(coir::yield());
  const int got = coir::await(in_coroutines(depth - 1));
  coir::await(coir::yield());
  return got + 1;
}

}  // namespace

TEST_CASE("coroutines and functions await each other, in turns, and stay one fiber") {
  coir::run([]() -> coir::task<> {
    const std::uint64_t id = coir::running_fiber().id();
    // Others do the same meanwhile.
    std::vector<coir::fiber<int>> others;
    for (int i = 0; i < 10; ++i) others.push_back(coir::spawn(in_coroutines(i)));
    for (int i = 0; i < 10; ++i) others.push_back(coir::spawn([i] { return on_stacks(i); }));
    const int got = co_await in_coroutines(8);
    CHECK(got == 17);
    CHECK(coir::running_fiber().id() == id);
    for (int i = 0; i < 10; ++i) {
      const int of_coroutine = co_await others[static_cast<std::size_t>(i)].join();
      CHECK(of_coroutine == 2 * i + 1);
      const int of_function = co_await others[static_cast<std::size_t>(10 + i)].join();
      CHECK(of_function == 2 * i);
    }
  });
}

TEST_CASE("what is spawned on a borrowed stack is a child of the fiber, and outlives the call") {
  coir::run([]() -> coir::task<> {
    hand hold;
    coir::fiber<int> child;
    co_await coir::on_stack([&] {
      child = coir::spawn([&] { return coir::await(hand_op(hold)); });
      coir::await(coir::yield());
    });
    CHECK(child.control().parent() == &coir::running_fiber());
    CHECK(child.state() == fiber_state::waiting);
    hold.complete(3);
    const int got = co_await child.join();
    CHECK(got == 3);
  });
}

TEST_CASE("a waiting fiber knows the line of its await, on whatever it waits") {
  coir::run([] {
    const auto wait = [](hand& hold) -> coir::task<unsigned> {
      const unsigned line = __LINE__ + 1;
      co_await hand_op(hold);
      co_return line;
    };
    // On a borrowed stack, in a task there, and after that task.
    hand holds[6];
    unsigned lines[6] = {};
    auto borrower = coir::spawn([](hand* hold, unsigned* line, auto task) -> coir::task<> {
      line[0] = __LINE__ + 1;
      co_await hand_op(hold[0]);
      co_await coir::on_stack([&] {
        line[1] = __LINE__ + 1;
        coir::await(hand_op(hold[1]));
        line[2] = coir::await(task(hold[2]));
        line[3] = __LINE__ + 1;
        coir::await(hand_op(hold[3]));
      });
      line[4] = __LINE__ + 1;
      co_await hand_op(hold[4]);
    }(holds, lines, wait));
    for (int i = 0; i < 5; ++i) {
      support::until([&] { return holds[i].waiting(); });
      const unsigned seen = borrower.control().waits_at().line();
      CHECK_THAT(borrower.control().waits_at().file_name(), Contains("await_test.cpp"));
      holds[i].complete();
      coir::await(coir::yield());
      coir::await(coir::yield());
      INFO(i);
      CHECK(seen == lines[i]);
    }
    coir::await(borrower.join());

    // In a function that a task calls on the stack it runs on.
    hand inner;
    unsigned inner_line = 0;
    auto nested = coir::spawn([&] {
      coir::await([](hand& hold, unsigned& line) -> coir::task<> {
        co_await coir::on_stack([&] {
          line = __LINE__ + 1;
          coir::await(hand_op(hold));
        });
      }(inner, inner_line));
    });
    support::until([&] { return inner.waiting(); });
    CHECK(nested.control().waits_at().line() == inner_line);
    inner.complete();
    coir::await(nested.join());
  });
}
