#include "told.hpp"

#include "support/catch.hpp"
#include "support/jumping.hpp"

#include <coir/coir.hpp>

#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

using namespace std::chrono_literals;
using Catch::Matchers::Contains;
using coir::fiber_outcome;
using coir::fiber_state;
using coir::resource_pool;
using told::deadlock_of;
using told::has_line;
using told::is;
using told::let_run;
using told::refusal_of;

namespace {

// Neither copied nor moved, and counted.
struct connection {
  explicit connection(int which) : number(which) { ++alive; }
  connection(const connection&) = delete;
  ~connection() { --alive; }
  int number;
  bool busy = false;
  static inline int alive = 0;
};
using handle = std::unique_ptr<connection>;
using pool = resource_pool<handle>;

static_assert(!std::is_copy_constructible_v<pool::lease> && std::is_nothrow_move_constructible_v<pool::lease>);

// wait(pool.acquire()), on a stack and in a coroutine; the factory is a task, a plain function that waits, or one that
// does not.
struct on_stack {
  template <class T>
  T operator()(coir::task<T> what) const {
    return coir::await(std::move(what));
  }
};
struct in_coroutine {
  template <class T>
  static coir::task<T> outer(coir::task<T> what) {
    co_return co_await std::move(what);
  }
  // A fiber whose body is a coroutine, so that nothing stands on a stack.
  template <class T>
  T operator()(coir::task<T> what) const {
    return coir::await(outer(std::move(what)));
  }
};
template <class Test>
void on_both(Test test) {
  for (int which = 0; which < 3; ++which) {
    const auto make_pool = [which](std::size_t limit, int& made) {
      const auto make = [&made] { return std::make_unique<connection>(++made); };
      if (which == 0) return std::make_unique<pool>(limit, make);
      if (which == 1) {
        return std::make_unique<pool>(limit, [make] {
          coir::await(coir::sleep_for(1s));
          return make();
        });
      }
      return std::make_unique<pool>(limit, [&made]() -> coir::task<handle> {
        co_await coir::sleep_for(1s);
        co_return std::make_unique<connection>(++made);
      });
    };
    support::jumping([&] { test(on_stack(), make_pool); });
    support::jumping([&] { test(in_coroutine(), make_pool); });
    CHECK(connection::alive == 0);
  }
}

struct said_at_end {
  said_at_end(const std::string& text, std::string& to) : what(text), into(to) {}
  ~said_at_end() { into += what; }
  const std::string& what;
  std::string& into;
};

}  // namespace

TEST_CASE("a pool's limit holds with 100 contenders, and each resource is used by one fiber at a time") {
  on_both([](auto wait, auto make_pool) {
    int made = 0;
    auto connections = make_pool(8, made);
    int uses = 0;
    coir::with_nursery([&](coir::nursery& n) {
      for (int i = 0; i < 100; ++i) {
        n.spawn([&] {
          auto mine = wait(connections->acquire());
          CHECK_FALSE(mine.get()->busy);
          mine.get()->busy = true;
          coir::await(coir::yield());
          mine.get()->busy = false;
          ++uses;
        });
      }
    });
    CHECK(uses == 100);
    CHECK(made == 8);
    CHECK(connections->size() == 8);
    CHECK(connections->available() == 8);
    CHECK(connections->waiting() == 0);
    CHECK(connections->stats().acquired == 100);
    CHECK(connections->stats().made == 8);
  });
}

TEST_CASE("resources are made when they are wanted, and what came back last is lent first") {
  on_both([](auto wait, auto make_pool) {
    int made = 0;
    auto connections = make_pool(4, made);
    CHECK(connections->limit() == 4);
    CHECK(connections->size() == 0);
    for (int i = 0; i < 3; ++i) {
      auto mine = wait(connections->acquire());
      CHECK((*mine)->number == 1);
      CHECK(connections->size() == 1);
      CHECK(connections->available() == 0);
    }
    CHECK(connections->available() == 1);
    CHECK(made == 1);
  });
}

TEST_CASE("who waits for a resource gets it in the order in which they came") {
  on_both([](auto wait, auto make_pool) {
    int made = 0;
    auto connections = make_pool(1, made);
    std::string order;
    coir::with_nursery([&](coir::nursery& n) {
      for (const char who : {'a', 'b', 'c', 'd'}) {
        n.spawn([&, who] {
          auto mine = wait(connections->acquire());
          coir::await(coir::yield());
          order += who;
        });
      }
      coir::await(coir::sleep_for(1ms));
    });
    CHECK(order == "abcd");
    CHECK(made == 1);
  });
}

TEST_CASE("a fiber that acquires again gets the same resource, and uses no second place") {
  on_both([](auto wait, auto make_pool) {
    int made = 0;
    auto connections = make_pool(2, made);
    auto mine = wait(connections->acquire());
    {
      auto again = wait(connections->acquire());
      CHECK(again->get() == mine->get());
      CHECK(connections->size() == 1);
    }
    CHECK(connections->available() == 0);
    auto other = coir::spawn([&] {
      auto its = wait(connections->acquire());
      return (*its)->number;
    });
    CHECK(coir::await(other.join()) == 2);
    auto third = wait(connections->acquire());
    mine.release();
    CHECK(connections->available() == 1);
    third.release();
    CHECK(connections->available() == 2);
  });
}

TEST_CASE("a discarded resource is gone, and the next who waits is woken and makes another") {
  on_both([](auto wait, auto make_pool) {
    int made = 0;
    auto connections = make_pool(1, made);
    auto mine = wait(connections->acquire());
    auto other = coir::spawn([&] {
      auto its = wait(connections->acquire());
      return (*its)->number;
    });
    coir::await(coir::yield());
    CHECK(connections->waiting() == 1);
    mine.discard();
    CHECK(connection::alive == 0);
    CHECK_FALSE(mine);
    CHECK(coir::await(other.join()) == 2);
    CHECK(connections->size() == 1);
    CHECK(connections->stats().discarded == 1);
  });
}

TEST_CASE("a resource that was acquired twice and discarded goes with the last lease on it") {
  on_both([](auto wait, auto make_pool) {
    int made = 0;
    auto connections = make_pool(1, made);
    auto mine = wait(connections->acquire());
    auto again = wait(connections->acquire());
    again.discard();
    CHECK((*mine)->number == 1);
    CHECK(connections->size() == 1);
    mine.release();
    CHECK(connections->size() == 0);
    CHECK(connection::alive == 0);
  });
}

TEST_CASE("fill makes as many as there may be, also after some were discarded") {
  on_both([](auto wait, auto make_pool) {
    int made = 0;
    auto connections = make_pool(5, made);
    wait(connections->fill());
    CHECK(connections->size() == 5);
    CHECK(connections->available() == 5);
    CHECK(made == 5);
    auto mine = wait(connections->acquire());
    CHECK(connections->available() == 4);
    mine.discard();
    CHECK(connections->size() == 4);
    CHECK(connections->available() == 4);
    wait(connections->fill());
    CHECK(connections->size() == 5);
    CHECK(made == 6);
  });
}

TEST_CASE("what a factory throws reaches the one it makes for, and the next who waits tries") {
  support::jumping([] {
    for (const bool task : {false, true}) {
      int tries = 0;
      const auto fails = [&tries] {
        coir::await(coir::sleep_for(1s));
        if (++tries < 3) throw std::runtime_error("expected");
        return tries;
      };
      const auto fails_in_task = [&tries]() -> coir::task<int> {
        co_await coir::sleep_for(1s);
        if (++tries < 3) throw std::runtime_error("expected");
        co_return tries;
      };
      resource_pool<int> numbers = task ? resource_pool<int>(1, fails_in_task) : resource_pool<int>(1, fails);
      std::string order;
      coir::with_nursery([&](coir::nursery& n) {
        for (int i = 0; i < 4; ++i) {
          n.spawn([&] {
            try {
              auto mine = coir::await(numbers.acquire());
              order += static_cast<char>('0' + *mine);
            } catch (const std::runtime_error&) {
              order += 'x';
            }
          });
        }
      });
      CHECK(order == "xx33");
      CHECK(numbers.stats().failed == 2);
      CHECK(numbers.size() == 1);
      CHECK(numbers.available() == 1);
    }
  });
}

TEST_CASE("a factory that is cancelled loses no place, and the next who waits tries") {
  on_both([](auto wait, auto make_pool) {
    int made = 0;
    auto connections = make_pool(1, made);
    auto first = coir::spawn([&] { static_cast<void>(wait(connections->acquire())); });
    auto waits = coir::spawn([&] { static_cast<void>(wait(connections->acquire())); });
    auto last = coir::spawn([&] { static_cast<void>(wait(connections->acquire())); });
    coir::await(coir::yield());
    first.cancel();
    waits.cancel();
    coir::await(last.join());
    CHECK(connections->size() == 1);
    CHECK(connections->available() == 1);
  });
}

TEST_CASE("a limit in time around an acquire uses no place when it is over") {
  on_both([](auto wait, auto make_pool) {
    int made = 0;
    auto connections = make_pool(1, made);
    auto mine = wait(connections->acquire());
    auto other = coir::spawn([&] { return wait(coir::move_on_after(2s, connections->acquire())).has_value(); });
    CHECK_FALSE(coir::await(other.join()));
    CHECK(connections->stats().cancelled == 1);
    mine.release();
    CHECK(connections->available() == 1);
  });
}

TEST_CASE("a waiter that was handed a resource and is cancelled before it runs gives it back") {
  on_both([](auto wait, auto make_pool) {
    int made = 0;
    auto connections = make_pool(1, made);
    auto mine = wait(connections->acquire());
    auto first = coir::spawn([&] {
      auto its = wait(connections->acquire());
      coir::await(coir::yield());
    });
    auto second = coir::spawn([&] { static_cast<void>(wait(connections->acquire())); });
    coir::await(coir::yield());
    mine.release();
    first.cancel();
    coir::await(second.join());
    CHECK(connections->available() == 1);
    CHECK(made == 1);
  });
}

TEST_CASE("leases that outlive their pool keep the resource, and who still waits is left to wait") {
  on_both([](auto wait, auto make_pool) {
    int made = 0;
    auto connections = make_pool(1, made);
    auto mine = wait(connections->acquire());
    auto left = coir::spawn([&] { static_cast<void>(wait(connections->acquire())); });
    coir::await(coir::yield());
    connections.reset();
    CHECK((*mine)->number == 1);
    CHECK(connection::alive == 1);
    mine.release();
    CHECK(connection::alive == 0);
    let_run();
    CHECK(left.state() == fiber_state::waiting);
  });
}

TEST_CASE("who was handed a place in a pool that went before it ran waits until it is cancelled") {
  on_both([](auto wait, auto make_pool) {
    int made = 0;
    auto connections = make_pool(1, made);
    auto mine = wait(connections->acquire());
    bool went_on = false;
    auto next = coir::spawn([&] {
      static_cast<void>(wait(connections->acquire()));
      went_on = true;
    });
    coir::await(coir::yield());
    mine.discard();
    connections.reset();
    let_run();
    CHECK(next.state() == fiber_state::waiting);
    next.cancel();
    coir::await(coir::end_op(next));
    CHECK_FALSE(went_on);
    CHECK(is(next, fiber_outcome::cancelled));
  });
}

TEST_CASE("a factory that is at work when its pool goes keeps what it captured") {
  const std::string word = "a word that is too long to lie in the string itself";
  for (const bool in_task : {true, false}) {
    support::jumping([&] {
      std::string seen;
      const auto looks = [&](auto factory) {
        auto body = coir::spawn([&factory] {
          resource_pool<int> numbers(2, std::move(factory));
          coir::spawn([&] { static_cast<void>(coir::await(numbers.acquire())); });
          coir::spawn([&] { coir::await(numbers.fill()); });
          coir::await(coir::yield());
        });
        coir::await(coir::end_op(body));
        CHECK(is(body, fiber_outcome::returned));
      };
      if (in_task) {
        looks([kept = word, &seen]() -> coir::task<int> {
          const said_at_end look(kept, seen);
          co_await coir::sleep_for(1h);
          co_return 1;
        });
      } else {
        looks([kept = word, &seen] {
          const said_at_end look(kept, seen);
          coir::await(coir::sleep_for(1h));
          return 1;
        });
      }
      CHECK(seen == word + word);
    });
  }
}

TEST_CASE("a resource need not move, and both surfaces get at it") {
  coir::run([]() -> coir::task<> {
    int made = 0;
    resource_pool<connection> connections(2, [&] { return connection(++made); });
    auto mine = co_await connections.acquire();
    CHECK(mine->number == 1);
    CHECK((*mine).number == 1);
    auto child = coir::spawn([&] {
      auto its = coir::await(connections.acquire());
      return its->number;
    });
    const int seen = co_await child.join();
    CHECK(seen == 2);
  });
}

TEST_CASE("a factory that is a plain function may wait where the fiber is a coroutine") {
  coir::run([]() -> coir::task<> {
    resource_pool<int> numbers(1, [] {
      coir::await(coir::yield());
      return 7;
    });
    auto mine = co_await numbers.acquire();
    CHECK(*mine == 7);
  });
}

TEST_CASE("a limit of nothing, and a lease that has nothing, are refused") {
  coir::run([] {
    CHECK_THAT(refusal_of([] { resource_pool<int> none(0, [] { return 1; }); }), Contains("a limit of 0"));
    resource_pool<int> numbers(1, [] { return 1; });
    auto mine = coir::await(numbers.acquire());
    auto other = std::move(mine);
    CHECK_FALSE(mine);
    CHECK_THAT(refusal_of([&] { static_cast<void>(*mine); }), Contains("a lease that has no resource"));
    other.release();
    CHECK_THAT(refusal_of([&] { other.discard(); }), Contains("a lease that has no resource"));
  });
}

TEST_CASE("the deadlock report names who has the resources of a pool") {
  const std::string said = deadlock_of([] {
    resource_pool<int> numbers(1, [] { return 1; });
    coir::event never;
    coir::spawn(
        [&] {
          auto mine = coir::await(numbers.acquire());
          coir::await(never.wait());
        },
        coir::spawn_options().name("hog"));
    coir::await(coir::yield());
    static_cast<void>(coir::await(numbers.acquire()));
  });
  CHECK_THAT(said, has_line("*fiber 1 main: waiting in resource_pool, 1 of 1 are out held by fiber 2 hog since "
                            "*resource_pool_test.cpp:*"));
}

TEST_CASE("the deadlock report says how many resources are in the making") {
  CHECK_THAT(deadlock_of([] {
               coir::event never;
               resource_pool<int> numbers(1, [&] {
                 coir::await(never.wait());
                 return 1;
               });
               coir::spawn([&] { static_cast<void>(coir::await(numbers.acquire())); });
               coir::await(coir::yield());
               static_cast<void>(coir::await(numbers.acquire()));
             }),
             Contains("waiting in resource_pool, 0 of 1 are out and 1 in the making at "));
}
