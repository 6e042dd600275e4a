// Coroutines as they are written: statements around co_await, parameters, lambdas, failures, cancellation.
#include "shapes.hpp"

#include <array>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

using namespace shapes;

// --- statements ---

TEST_CASE("conditions of if, while, for and switch, with a declaration and in a body that has a local") {
  balanced([]() -> coir::task<> {
    int steps = 0;
    if (const counted got = co_await late(counted(1)); got.value == 1) ++steps;
    if (auto perhaps = std::optional<counted>(co_await late(counted(2)))) steps += perhaps->value;
    if (co_await late_number(1) == 1) ++steps;
    while (const int left = co_await late_number(7 - steps)) steps += left > 0 ? 1 : 0;
    CHECK(steps == 7);
    for (int i = co_await late_number(0); i < co_await late_number(3); i += co_await late_number(1)) {
      ++steps;
    }
    CHECK(steps == 10);
    do {
      --steps;
    } while (co_await late_number(steps) != 5);
    switch (co_await late_number(steps)) {
      case 5: steps += (co_await late(counted(10))).value; break;
      default: steps = 0;
    }
    CHECK(steps == 15);
  });
}

namespace {

// Conditions with a declaration are the only locals.
coir::task<int> counts_down(int& left) {
  while (auto got = co_await late_number(left)) {
    left = co_await late_number(got - 1);
  }
  co_return left;
}
coir::task<int> chooses(int what) {
  if (const auto got = co_await late_number(what); got == 1) co_return 10;
  co_return 20;
}

}  // namespace

TEST_CASE("`while (auto got = co_await ...)` in a coroutine without any other local") {
  balanced([]() -> coir::task<> {
    int left = 5;
    const int end = co_await counts_down(left);
    CHECK(end == 0);
    const int one = co_await chooses(1);
    const int other = co_await chooses(2);
    CHECK(one + other == 30);
  });
}

TEST_CASE("structured bindings of an awaited pair, tuple and aggregate") {
  balanced([]() -> coir::task<> {
    struct parts {
      counted one;
      counted other;
    };
    const auto pair = []() -> coir::task<std::pair<counted, counted>> {
      co_await coir::yield();
      co_return std::pair<counted, counted>(counted(1), counted(2));
    };
    const auto tuple = []() -> coir::task<std::tuple<counted, int>> {
      co_await coir::yield();
      co_return std::make_tuple(counted(3), 4);
    };
    const auto aggregate = []() -> coir::task<parts> {
      parts made{counted(5), counted(6)};
      co_await coir::yield();
      co_return made;
    };
    const auto [a, b] = co_await pair();
    auto [c, d] = co_await tuple();
    auto [e, f] = co_await aggregate();
    co_await coir::yield();
    CHECK(a.value + b.value + c.value + d + e.value + f.value == 21);
  });
}

TEST_CASE("a loop over an awaited container, that awaits") {
  balanced([]() -> coir::task<> {
    const auto many = [](int count) -> coir::task<std::vector<counted>> {
      std::vector<counted> made;
      for (int i = 0; i < count; ++i) made.push_back(co_await late(counted(i)));
      co_return made;
    };
    int sum = 0;
    for (const counted& each : co_await many(4)) {
      const counted again = co_await late(each);
      sum += again.value;
    }
    CHECK(sum == 6);
    for (const auto& [key, value] : std::map<int, counted>{{1, counted(1)}, {2, counted(2)}}) {
      sum += key * co_await number_of(value);
    }
    CHECK(sum == 11);
  });
}

TEST_CASE("aggregates and arrays are made of locals that were awaited before") {
  balanced([]() -> coir::task<> {
    struct parts {
      counted one;
      counted other;
    };
    counted one = co_await late(counted(1));
    counted other = co_await noisy(2);
    const parts both{std::move(one), std::move(other)};
    const std::array<counted, 2> pair{both.one, both.other};
    const int sum = co_await [](parts given, std::array<counted, 2> more) -> coir::task<int> {
      co_await coir::yield();
      co_return given.one.value + more[1].value;
    }(both, pair);
    CHECK(sum == 3);
  });
}

TEST_CASE("disjoint and nested scopes, with gotos out of them") {
  balanced([]() -> coir::task<> {
    int sum = 0;
    {
      const counted one = co_await late(counted(1));
      {
        const counted two = co_await late(counted(2));
        sum += one.value + two.value;
      }
      co_await coir::yield();
    }
    {
      const counted three = co_await late(counted(3));
      sum += three.value;
    }
    for (int i = 0; i < 10; ++i) {
      const counted each = co_await late(counted(i));
      if (i == 2) continue;
      if (i == 4) break;
      sum += each.value;
    }
    CHECK(sum == 10);
    const counted last(co_await late_number(1));
    if (last.value == 1) co_return;
    CHECK(false);
  });
}

// --- parameters and results ---

TEST_CASE("parameters by value, by reference and moved in live in the frame, and are destroyed once") {
  balanced([]() -> coir::task<> {
    const auto takes = [](counted by_value, counted& by_reference, std::unique_ptr<counted> owned,
                          const std::string& text) -> coir::task<int> {
      co_await coir::yield();
      by_reference.value += 1;
      co_return by_value.value + by_reference.value + owned->value + static_cast<int>(text.size());
    };
    counted mine(2);
    const int sum = co_await takes(counted(1), mine, std::make_unique<counted>(3), std::string(4, 'x'));
    CHECK(sum == 11);
    auto made = takes(mine, mine, std::make_unique<counted>(0), "a literal whose string dies too soon");
    static_cast<void>(made);
  });
}

TEST_CASE("a parameter whose copy throws leaves nothing") {
  struct throwing {
    explicit throwing(bool fails) noexcept : copy_fails(fails) {}
    throwing(const throwing& other) : part(other.part), copy_fails(other.copy_fails) {
      if (copy_fails) throw std::runtime_error("no copy");
    }
    counted part;
    bool copy_fails;
  };
  balanced([]() -> coir::task<> {
    const auto takes = [](counted, throwing) -> coir::task<> { co_return; };
    const throwing what(true);
    bool failed = false;
    try {
      co_await takes(counted(1), what);
    } catch (const std::runtime_error&) {
      failed = true;
    }
    CHECK(failed);
  });
}

TEST_CASE("results are returned from locals, parameters, temporaries and other awaits") {
  balanced([]() -> coir::task<> {
    const auto local = []() -> coir::task<counted> {
      counted made(1);
      co_await coir::yield();
      co_return made;
    };
    const auto parameter = [](counted given) -> coir::task<counted> { co_return std::move(given); };
    const auto temporary = []() -> coir::task<pair_of> {
      co_return pair_of(counted(3), co_await late(counted(4)));
    };
    const auto awaited = [](auto& inner) -> coir::task<counted> { co_return co_await inner(); };
    const counted one = co_await local();
    const counted two = co_await parameter(counted(2));
    const pair_of three = co_await temporary();
    const counted four = co_await awaited(local);
    CHECK(one.value + two.value + three.sum() + four.value == 11);
    // Nobody takes these.
    co_await local();
    co_await temporary();
  });
}

// --- lambdas ---

TEST_CASE("lambdas that are coroutines: with parameters, generic, variadic, and in place") {
  balanced([]() -> coir::task<> {
    const int in_place = co_await [](counted value, std::string text) -> coir::task<int> {
      co_await coir::yield();
      co_return value.value + static_cast<int>(text.size());
    }(counted(1), std::string(10, 'x'));
    CHECK(in_place == 11);
    const auto generic = [](auto value) -> coir::task<decltype(value)> {
      co_await coir::yield();
      co_return value;
    };
    const counted same = co_await generic(counted(2));
    CHECK(same.value == 2);
    const auto variadic = [](auto... values) -> coir::task<int> {
      co_await coir::yield();
      co_return (0 + ... + values.value);
    };
    const int sum = co_await variadic(counted(1), counted(2), counted(3));
    CHECK(sum == 6);
  });
}

TEST_CASE("a named lambda with captures is a coroutine as often as it is called, while it lives") {
  balanced([]() -> coir::task<> {
    const counted outside(1);
    const auto captures = [held = counted(2), &outside](counted given) -> coir::task<int> {
      co_await coir::yield();
      co_return held.value + outside.value + given.value;
    };
    const int first = co_await captures(counted(3));
    const int second = co_await captures(counted(4));
    CHECK(first + second == 13);
    const std::function<coir::task<int>(counted)> erased = captures;
    const int third = co_await erased(counted(5));
    CHECK(third == 8);
  });
}

TEST_CASE("member functions, virtual functions and recursion") {
  balanced([]() -> coir::task<> {
    class base {
     public:
      virtual ~base() = default;
      virtual coir::task<int> value(counted given) = 0;
    };
    class derived final : public base {
     public:
      coir::task<int> value(counted given) override {
        co_await coir::yield();
        co_return given.value + held_.value;
      }

     private:
      counted held_{1};
    };
    const std::unique_ptr<base> object = std::make_unique<derived>();
    const int got = co_await object->value(counted(2));
    CHECK(got == 3);
    const auto recurses = [](auto& self, counted left) -> coir::task<int> {
      if (left.value == 0) co_return 0;
      co_return 1 + co_await self(self, counted(left.value - 1));
    };
    const int depth = co_await recurses(recurses, counted(20));
    CHECK(depth == 20);
  });
}

// --- failures ---

TEST_CASE("an exception in the middle of an expression destroys what was made, once") {
  balanced([]() -> coir::task<> {
    int caught = 0;
    try {
      static_cast<void>(sum(counted(1), co_await throws_late(counted(2))));
    } catch (const std::runtime_error&) {
      ++caught;
    }
    try {
      static_cast<void>(sum(co_await late(counted(1)), co_await throws_late(co_await noisy(2))));
    } catch (const std::runtime_error&) {
      ++caught;
    }
    try {
      co_await late(co_await throws_late(counted(1)));
    } catch (const std::runtime_error&) {
      ++caught;
    }
    CHECK(caught == 3);
  });
}

TEST_CASE("an exception in an initialiser leaves what was initialised before, and only that") {
  balanced([]() -> coir::task<> {
    bool caught = false;
    try {
      const counted before = co_await late(counted(1));
      const counted never_made = co_await throws_late(counted(2));
      const counted not_reached = co_await late(counted(before.value + never_made.value));
      CHECK(not_reached.value == 0);
    } catch (const std::runtime_error&) {
      caught = true;
      CHECK(counted::alive == 0);
    }
    CHECK(caught);
    caught = false;
    try {
      const pair_of half_made(counted(1), co_await throws_late(counted(2)));
      CHECK(half_made.sum() == 0);
    } catch (const std::runtime_error&) {
      caught = true;
    }
    CHECK(caught);
    // An exception may be awaited around, and the coroutine go on.
    const counted after = co_await late(counted(4));
    CHECK(after.value == 4);
  });
}

TEST_CASE("exceptions go through frames, and are caught where they should be") {
  balanced([]() -> coir::task<> {
    const auto through = [](counted held) -> coir::task<counted> {
      counted local = co_await throws_late(held);
      co_return local;
    };
    std::string said;
    try {
      co_await through(counted(1));
    } catch (const std::runtime_error& error) {
      said = error.what();
    }
    CHECK(said == "late");
    const auto rethrows = [](counted held) -> coir::task<> {
      std::exception_ptr kept;
      try {
        co_await throws_late(held);
      } catch (...) {
        kept = std::current_exception();
      }
      co_await late(held);
      std::rethrow_exception(kept);
    };
    said.clear();
    try {
      co_await rethrows(counted(2));
    } catch (const std::runtime_error& error) {
      said = error.what();
    }
    CHECK(said == "late");
  });
}

// --- frames that are destroyed while they wait ---

TEST_CASE("a fiber cancelled in the middle of an expression destroys what the expression made, once") {
  coir::run([] {
    const auto bodies = std::make_tuple(
        []() -> coir::task<> {
          const counted local(1);
          co_await for_ever(counted(2));
        },
        []() -> coir::task<> {
          static_cast<void>(sum(counted(1), (co_await for_ever(counted(2)), counted(3))));
        },
        []() -> coir::task<> {
          const pair_of never_made(co_await late(counted(1)), (co_await for_ever(counted(2)), counted(3)));
          static_cast<void>(never_made);
        },
        []() -> coir::task<> {
          auto function = [held = counted(1)] {
            const counted local(2);
            coir::await(for_ever(held));
          };
          co_await coir::on_stack(function);
        },
        []() -> coir::task<> {
          auto child = coir::spawn(for_ever(counted(1)));
          co_await child.join();
        },
        []() -> coir::task<> {
          for (const counted& each : {counted(1), counted(2)}) co_await for_ever(each);
        });
    std::apply(
        [](auto... body) {
          const auto cancel = [](auto what) {
            auto child = coir::spawn(what());
            for (int i = 0; i < 5; ++i) coir::await(coir::yield());
            CHECK(child.state() == coir::fiber_state::waiting);
            CHECK(counted::alive != 0);
            child.cancel();
            coir::await(coir::end_op(child));
            CHECK(child.outcome() == coir::fiber_outcome::cancelled);
            CHECK(counted::alive == 0);
          };
          (cancel(body), ...);
        },
        bodies);
  });
}

TEST_CASE("a task that was never awaited, and a fiber that never ran, destroy their parameters once") {
  coir::run([] {
    {
      const auto unused = late(counted(1));
      CHECK(counted::alive == 1);
    }
    CHECK(counted::alive == 0);
    auto child = coir::spawn(late(counted(1)));
    auto other = coir::spawn([held = counted(2)]() -> coir::task<> {
      co_await late(held);
    });
    child.cancel();
    other.cancel();
    coir::await(coir::end_op(child));
    coir::await(coir::end_op(other));
    CHECK(counted::alive == 0);
  });
}

// --- what coir hands out ---

TEST_CASE("nothing of coir's that stands in an awaited expression is an aggregate") {
  // gcc 12 destroys the members of an aggregate temporary twice.
  STATIC_REQUIRE_FALSE(std::is_aggregate_v<coir::spawn_options>);
  STATIC_REQUIRE_FALSE(std::is_aggregate_v<coir::run_options>);
  STATIC_REQUIRE_FALSE(std::is_aggregate_v<coir::loop_options>);
  STATIC_REQUIRE_FALSE(std::is_aggregate_v<coir::net::tcp_options>);
  STATIC_REQUIRE_FALSE(std::is_aggregate_v<coir::net::tcp_listener_options>);
  STATIC_REQUIRE_FALSE(std::is_aggregate_v<coir::net::address>);
  STATIC_REQUIRE_FALSE(std::is_aggregate_v<coir::report_failure_t> && !std::is_empty_v<coir::report_failure_t>);
  STATIC_REQUIRE_FALSE(std::is_aggregate_v<coir::task<counted>>);
  STATIC_REQUIRE_FALSE(std::is_aggregate_v<coir::fiber<counted>>);
  STATIC_REQUIRE_FALSE(std::is_aggregate_v<coir::sleep_op>);
  STATIC_REQUIRE_FALSE(std::is_aggregate_v<coir::yield_op>);
  STATIC_REQUIRE_FALSE(std::is_aggregate_v<coir::join_op<counted>>);
  STATIC_REQUIRE_FALSE(std::is_aggregate_v<coir::take_op<counted>>);
  STATIC_REQUIRE_FALSE(std::is_aggregate_v<coir::end_op>);
  STATIC_REQUIRE_FALSE(std::is_aggregate_v<coir::request_op<coir::byte_count>>);
  STATIC_REQUIRE_FALSE(std::is_aggregate_v<coir::result_op<coir::sleep_op>>);
  STATIC_REQUIRE_FALSE(std::is_aggregate_v<coir::stack_call<void (*)()>>);
  STATIC_REQUIRE_FALSE(std::is_aggregate_v<coir::net::connect_op>);
  STATIC_REQUIRE_FALSE(std::is_aggregate_v<coir::net::accept_op>);
  STATIC_REQUIRE_FALSE(std::is_aggregate_v<coir::net::tcp_read_op>);
  STATIC_REQUIRE_FALSE(std::is_aggregate_v<coir::net::tcp_write_op>);
  STATIC_REQUIRE_FALSE(std::is_aggregate_v<coir::net::chunk_op>);
  STATIC_REQUIRE_FALSE(std::is_aggregate_v<coir::net::tcp_close_op>);
}

TEST_CASE("awaiters are at most two words, and have nothing to destroy") {
  using coir::priv::op_awaiter;
  using coir::priv::stack_call_awaiter;
  using coir::priv::task_awaiter;
  STATIC_REQUIRE(sizeof(op_awaiter<coir::sleep_op>) == sizeof(void*));
  STATIC_REQUIRE(sizeof(task_awaiter<counted>) == sizeof(void*));
  STATIC_REQUIRE(sizeof(stack_call_awaiter<void (*)()>) == 2 * sizeof(void*));
  STATIC_REQUIRE(std::is_trivially_destructible_v<op_awaiter<noisy_op>>);
  STATIC_REQUIRE(std::is_trivially_destructible_v<task_awaiter<counted>>);
  STATIC_REQUIRE(std::is_trivially_destructible_v<stack_call_awaiter<void (*)()>>);
  STATIC_REQUIRE_FALSE(std::is_aggregate_v<op_awaiter<noisy_op>>);
  STATIC_REQUIRE_FALSE(std::is_aggregate_v<task_awaiter<counted>>);
  STATIC_REQUIRE_FALSE(std::is_aggregate_v<stack_call_awaiter<void (*)()>>);
}
