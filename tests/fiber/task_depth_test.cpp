// Depth and length cost heap, never stack: at every optimisation level and under sanitizers.
#include "in_both.hpp"

#include "support/catch.hpp"

#include <coir/coir.hpp>

#include <stdexcept>

using support::in_both;

namespace {

constexpr long in_a_row = 1'000'000;
constexpr long deep = 100'000;

coir::task<long> one() { co_return 1; }
coir::task<long> yields() {
  co_await coir::yield();
  co_return 1;
}

coir::task<long> sum_to(long n) {
  if (n == 0) {
    // From the bottom up through all of them.
    co_await coir::yield();
    co_return 0;
  }
  const long below = co_await sum_to(n - 1);
  co_return n + below;
}

coir::task<long> fails_at(long n) {
  if (n == 0) throw std::runtime_error("bottom");
  const long below = co_await fails_at(n - 1);
  co_return below;
}

}  // namespace

TEST_CASE("a million tasks that are ready at once can be awaited one after the other") {
  const auto body = []() -> coir::task<> {
    long sum = 0;
    for (long i = 0; i < in_a_row; ++i) sum += co_await one();
    CHECK(sum == in_a_row);
  };
  in_both(body);
}

TEST_CASE("a stack awaits a million tasks one after the other") {
  coir::run([] {
    long sum = 0;
    for (long i = 0; i < in_a_row; ++i) sum += coir::await(one());
    CHECK(sum == in_a_row);
  });
}

TEST_CASE("a coroutine borrows a stack a hundred thousand times") {
  coir::run([]() -> coir::task<> {
    long sum = 0;
    auto function = [&] { ++sum; };
    for (long i = 0; i < deep; ++i) co_await coir::on_stack(function);
    CHECK(sum == deep);
  });
}

TEST_CASE("a hundred thousand tasks that wait can be awaited one after the other") {
  const auto body = []() -> coir::task<> {
    long sum = 0;
    for (long i = 0; i < deep; ++i) sum += co_await yields();
    CHECK(sum == deep);
  };
  in_both(body);
}

TEST_CASE("a task recurses a hundred thousand deep and waits at the bottom") {
  const auto body = []() -> coir::task<> {
    const long sum = co_await sum_to(deep);
    CHECK(sum == deep * (deep + 1) / 2);
  };
  in_both(body);
}

TEST_CASE("an exception goes through a hundred thousand tasks") {
  const auto body = []() -> coir::task<> {
    bool caught = false;
    try {
      co_await fails_at(deep);
    } catch (const std::runtime_error&) {
      caught = true;
    }
    CHECK(caught);
  };
  in_both(body);
}

TEST_CASE("a fiber is cancelled at the bottom of a hundred thousand tasks") {
  coir::run([] {
    auto child = coir::spawn(sum_to(deep));
    coir::await(coir::yield());
    CHECK(child.state() == coir::fiber_state::ready);
    child.cancel();
    auto waiting = coir::spawn([]() -> coir::task<long> {
      const auto bottom = [](auto& self, long n) -> coir::task<long> {
        if (n == 0) co_await coir::sleep_until(coir::never);
        co_return co_await self(self, n - 1);
      };
      co_return co_await bottom(bottom, deep);
    });
    coir::await(coir::yield());
    REQUIRE(waiting.state() == coir::fiber_state::waiting);
    waiting.cancel();
    coir::await(coir::end_op(waiting));
    CHECK(waiting.outcome() == coir::fiber_outcome::cancelled);
    CHECK(coir::await(child.join()) == deep * (deep + 1) / 2);
  });
}
