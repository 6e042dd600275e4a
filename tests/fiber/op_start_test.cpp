// Rule 5 of op.hpp, and what an op is.
#include "op_rules.hpp"

#include <algorithm>

using namespace op_rules;

TEMPLATE_LIST_TEST_CASE("an op is a class that moves, and its awaiter is one word", "", op_list::all) {
  using op_type = decltype(std::declval<TestType&>().make());
  STATIC_REQUIRE(coir::op<op_type>);
  STATIC_REQUIRE(std::is_move_constructible_v<op_type>);
  STATIC_REQUIRE_FALSE(std::is_aggregate_v<op_type>);
  using awaiter = coir::priv::op_awaiter<op_type>;
  STATIC_REQUIRE(sizeof(awaiter) == sizeof(void*));
  STATIC_REQUIRE(std::is_trivially_destructible_v<awaiter>);
}

namespace {

template <class Op>
coir::task<> yield_then_wait(Op what, bool& began) {
  began = true;
  co_await coir::yield();
  static_cast<void>(co_await what);
}
template <class Op>
auto spawn_late(surfaces::coroutine, Op what, bool& began) {
  return coir::spawn(yield_then_wait(std::move(what), began));
}
template <class Op>
auto spawn_late(surfaces::stack, Op what, bool& began) {
  return coir::spawn([what = std::move(what), &began]() mutable {
    began = true;
    coir::await(coir::yield());
    static_cast<void>(coir::await(what));
  });
}

// Awaits `count` ops one after the other, none of which needs to wait.
template <class Case>
coir::task<> take_many(Case& world, spy_log& log, unsigned count, unsigned& results) {
  for (unsigned i = 0; i < count; ++i) {
    auto what = support::spy(world.make_ready(), log);
    static_cast<void>(co_await what);
    ++results;
  }
}
template <class Case>
auto spawn_many(surfaces::coroutine, Case& world, spy_log& log, unsigned count, unsigned& results) {
  return coir::spawn(take_many(world, log, count, results));
}
template <class Case>
auto spawn_many(surfaces::stack, Case& world, spy_log& log, unsigned count, unsigned& results) {
  return coir::spawn([&world, &log, count, &results] {
    for (unsigned i = 0; i < count; ++i) {
      static_cast<void>(coir::await(support::spy(world.make_ready(), log)));
      ++results;
    }
  });
}

template <class Case>
constexpr unsigned many() {
  if constexpr (requires { Case::ready_at_most; }) {
    return Case::ready_at_most;
  } else {
    return 130;
  }
}
constexpr unsigned share = 64;

}  // namespace

TEMPLATE_LIST_TEST_CASE("an op of a cancelled fiber does not start, also when it need not wait", "",
                        op_list::all) {
  on_both<TestType>([](auto& world, spy_log& log, auto surface) {
    world.prepare(1);
    bool began = false;
    auto who = spawn_late(surface, support::spy(world.make_ready(), log), began);
    until([&] { return began; });
    REQUIRE(who.state() == fiber_state::ready);
    who.cancel();
    until_dead(who);
    CHECK(who.outcome() == fiber_outcome::cancelled);
    CHECK(log.starts == 0);
  });
}

TEMPLATE_LIST_TEST_CASE("a fiber whose ops finish at once lets others run after 64 of them", "",
                        op_list::all) {
  on_both<TestType>([](auto& world, spy_log& log, auto surface) {
    constexpr unsigned count = many<TestType>();
    world.prepare(count);
    unsigned results = 0;
    auto who = spawn_many(surface, world, log, count, results);
    unsigned seen = 0;
    unsigned most = 0;
    until([&] {
      most = std::max(most, results - seen);
      seen = results;
      return dead(who);
    });
    CHECK(results == count);
    CHECK(most <= share);
  });
}

TEMPLATE_LIST_TEST_CASE("a cancellation in the budget's yield keeps the result and surfaces at the next op",
                        "", op_list::all) {
  on_both<TestType>([](auto& world, spy_log& log, auto surface) {
    constexpr unsigned count = many<TestType>();
    world.prepare(count);
    unsigned results = 0;
    auto who = spawn_many(surface, world, log, count, results);
    until([&] { return log.starts != 0; });
    // All have finished at once, and this is the yield after the 64th.
    const bool in_yield = log.at_once == log.starts && !dead(who);
    if (in_yield) CHECK(log.starts == share);
    who.cancel();
    until_dead(who);
    if (in_yield) {
      CHECK(who.outcome() == fiber_outcome::cancelled);
      CHECK(results == log.starts);
      CHECK(log.starts == share);
    }
  });
}
