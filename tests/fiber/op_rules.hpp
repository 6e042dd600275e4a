// What the tests of the op rules have in common.
#pragma once

#include "op_list.hpp"
#include "spy_op.hpp"
#include "surfaces.hpp"
#include "until.hpp"

#include "support/catch.hpp"

#include <coir/coir.hpp>
#include <coir/testing/mock_clock.hpp>

namespace op_rules {

using coir::fiber_outcome;
using coir::fiber_state;
using support::spy_log;
using support::until;

template <class Handle>
bool dead(const Handle& who) {
  return who.state() == fiber_state::dead;
}
template <class Handle>
void until_waiting(const Handle& who) {
  until([&] { return who.state() == fiber_state::waiting; });
}
template <class Handle>
void until_dead(const Handle& who) {
  until([&] { return dead(who); });
}

// Runs test(case, log, surface) on both surfaces. The test's own fibers end before the case and the log.
template <class Case, class Test>
void on_both(Test&& test) {
  surfaces::for_both([&](auto surface) {
    INFO("op: " << Case::name);
    coir::testing::mock_clock time(coir::testing::mock_clock::mode::by_hand);
    op_list::clock = &time;
    coir::run(
        [&] {
          Case world;
          spy_log log;
          auto inner = coir::spawn([&] { test(world, log, surface); });
          coir::await(inner.join());
        },
        coir::run_options().loop(coir::loop_options().time(&time)));
  });
}

// A fiber that awaits the op, hands its result to `then`, and comes to a second suspend point.
template <class Op, class Then>
coir::task<> wait_then(Op what, Then then) {
  if constexpr (std::is_void_v<coir::result_of<Op>>) {
    co_await what;
    then();
  } else {
    auto result = co_await what;
    then(std::move(result));
  }
  co_await coir::yield();
}
template <class Op, class Then>
auto spawn_then(surfaces::coroutine, Op what, Then then) {
  return coir::spawn(wait_then(std::move(what), std::move(then)));
}
template <class Op, class Then>
auto spawn_then(surfaces::stack, Op what, Then then) {
  return coir::spawn([what = std::move(what), then = std::move(then)]() mutable {
    if constexpr (std::is_void_v<coir::result_of<Op>>) {
      coir::await(what);
      then();
    } else {
      then(coir::await(what));
    }
    coir::await(coir::yield());
  });
}

// A fresh op of the case, by a fiber of its own; true when it gets what is right.
template <class Case, class Surface>
auto spawn_checked(Case& world, spy_log& log, Surface surface, bool& right) {
  return spawn_then(surface, support::spy(world.make(), log),
                    [&world, &right, &log]<class... Result>(Result&&... result) {
                      ++log.user_code;
                      right = world.right(std::forward<Result>(result)...);
                    });
}

// What only the test can end, ends.
template <class Case>
void let_stop(Case& world) {
  if constexpr (requires { world.stopped(); }) world.stopped();
}

}  // namespace op_rules
