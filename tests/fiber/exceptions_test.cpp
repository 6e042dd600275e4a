// Exceptions in flight belong to the fiber: whoever waits inside of a handler finds its own again.
#include "until.hpp"

#include "support/catch.hpp"

#include <coir/coir.hpp>

#include <exception>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

struct numbered {
  int number;
};

int current_number() {
  const std::exception_ptr current = std::current_exception();
  if (current == nullptr) return -1;
  try {
    std::rethrow_exception(current);
  } catch (const numbered& mine) {
    return mine.number;
  } catch (...) {
    return -2;
  }
}

// Waits in a handler, and in a handler inside of it, and counts what it does not find as it left it.
int waits_in_handlers(int me, int rounds) {
  int wrong = 0;
  if (current_number() != -1) ++wrong;
  try {
    throw numbered{me};
  } catch (const numbered& outer) {
    for (int i = 0; i < rounds; ++i) {
      coir::await(coir::yield());
      if (current_number() != me || outer.number != me) ++wrong;
      try {
        throw numbered{1000 + me};
      } catch (const numbered& inner) {
        coir::await(coir::yield());
        if (current_number() != 1000 + me || inner.number != 1000 + me) ++wrong;
        try {
          coir::await(coir::yield());
          throw;
        } catch (const numbered& again) {
          if (again.number != 1000 + me) ++wrong;
        }
      }
      if (current_number() != me) ++wrong;
    }
    try {
      throw;
    } catch (const numbered& again) {
      if (again.number != me) ++wrong;
    }
  }
  coir::await(coir::yield());
  if (current_number() != -1 || std::uncaught_exceptions() != 0) ++wrong;
  return wrong;
}

// A handler cannot contain co_await; a function that a coroutine runs on a stack can wait in one.
coir::task<int> borrows(int me, int rounds) {
  auto function = [=] { return waits_in_handlers(me, rounds); };
  const int wrong = co_await coir::on_stack(function);
  co_return wrong;
}

// Throws and catches between the others, on the thread's own stack.
coir::task<int> throws_and_catches(int me, int rounds) {
  int wrong = 0;
  const auto fails = [](int number) -> coir::task<> {
    co_await coir::yield();
    throw numbered{number};
  };
  for (int i = 0; i < rounds; ++i) {
    int caught = 0;
    try {
      co_await fails(me);
    } catch (const numbered& mine) {
      caught = mine.number;
    }
    if (caught != me || current_number() != -1 || std::uncaught_exceptions() != 0) ++wrong;
    co_await coir::yield();
  }
  co_return wrong;
}

// Waits in a destructor while an exception is on its way.
int waits_while_unwinding(int me, int rounds) {
  int wrong = 0;
  class waits_at_end {
   public:
    explicit waits_at_end(int& count) noexcept : wrong_(count) {}
    ~waits_at_end() {
      if (std::uncaught_exceptions() != 1) ++wrong_;
      coir::await(coir::yield());
      if (std::uncaught_exceptions() != 1) ++wrong_;
    }

   private:
    int& wrong_;
  };
  for (int i = 0; i < rounds; ++i) {
    if (std::uncaught_exceptions() != 0) ++wrong;
    try {
      const waits_at_end guard(wrong);
      throw numbered{me};
    } catch (const numbered& mine) {
      if (mine.number != me) ++wrong;
    }
  }
  return wrong;
}

}  // namespace

TEST_CASE("fibers that wait inside of handlers find their own exception again") {
  coir::run([] {
    std::vector<coir::fiber<int>> children;
    for (int i = 0; i < 8; ++i) {
      children.push_back(coir::spawn([i] { return waits_in_handlers(i, 20); }));
      children.push_back(coir::spawn(borrows(100 + i, 20)));
      children.push_back(coir::spawn(throws_and_catches(200 + i, 40)));
      children.push_back(coir::spawn([i] { return waits_while_unwinding(300 + i, 40); }));
    }
    for (auto& each : children) CHECK(coir::await(each.join()) == 0);
  });
}

TEST_CASE("a new fiber has no exception in flight, also when the one that ran before had one") {
  coir::run([] {
    try {
      throw numbered{1};
    } catch (const numbered&) {
      auto function = coir::spawn([] { return current_number(); });
      auto borrower = coir::spawn([]() -> coir::task<int> {
        co_return co_await coir::on_stack([] { return current_number(); });
      });
      CHECK(coir::await(function.join()) == -1);
      CHECK(coir::await(borrower.join()) == -1);
      CHECK(current_number() == 1);
      // A task that is awaited here is called from the handler.
      CHECK(coir::await([]() -> coir::task<int> {
              const int before = current_number();
              co_await coir::yield();
              co_return before + current_number();
            }()) == 2);
    }
    CHECK(current_number() == -1);
  });
}

TEST_CASE("an exception that leaves a task awaited in a handler replaces nothing") {
  coir::run([] {
    const auto fails = []() -> coir::task<> {
      co_await coir::yield();
      throw numbered{2};
    };
    try {
      throw numbered{1};
    } catch (const numbered&) {
      try {
        coir::await(fails());
        CHECK(false);
      } catch (const numbered& inner) {
        CHECK(inner.number == 2);
        coir::await(coir::yield());
        CHECK(current_number() == 2);
      }
      CHECK(current_number() == 1);
      coir::await(coir::yield());
      CHECK(current_number() == 1);
    }
  });
}

TEST_CASE("a fiber that is cancelled inside of a handler gets `cancelled`, and unwinds both") {
  coir::run([] {
    bool inner = false;
    bool outer = false;
    auto child = coir::spawn([&] {
      try {
        try {
          throw numbered{1};
        } catch (const numbered&) {
          coir::await(coir::sleep_until(coir::never));
        }
      } catch (const coir::cancelled&) {
        inner = true;
        outer = current_number() == -2;
        throw;
      }
    });
    support::until([&] { return child.state() == coir::fiber_state::waiting; });
    child.cancel();
    coir::await(coir::end_op(child));
    CHECK(child.outcome() == coir::fiber_outcome::cancelled);
    CHECK(inner);
    CHECK(outer);
    CHECK(std::uncaught_exceptions() == 0);
    CHECK(std::current_exception() == nullptr);
  });
}

TEST_CASE("a loop that is run inside of a handler leaves that exception as it was") {
  coir::loop loop;
  coir::scheduler fibers(loop);
  int number = 0;
  try {
    throw numbered{5};
  } catch (const numbered&) {
    auto child = fibers.spawn([&] { number = waits_in_handlers(1, 5); });
    auto other = fibers.spawn(borrows(2, 5));
    while (other.state() != coir::fiber_state::dead || child.state() != coir::fiber_state::dead) {
      loop.run_once();
    }
    CHECK(current_number() == 5);
  }
  CHECK(number == 0);
  CHECK(std::current_exception() == nullptr);
}
