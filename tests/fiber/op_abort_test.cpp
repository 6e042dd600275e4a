// Rules 1 and 2 of op.hpp.
#include "op_rules.hpp"

using namespace op_rules;

TEMPLATE_LIST_TEST_CASE("abort() is called once, on the op's loop, however often its fiber is cancelled",
                        "", op_list::all) {
  on_both<TestType>([](auto& world, spy_log& log, auto surface) {
    auto who = surface.spawn(support::spy(world.make(), log));
    until_waiting(who);
    CHECK(log.aborts == 0);
    who.cancel();
    who.cancel();
    CHECK(log.aborts == 1);
    let_stop(world);
    until_dead(who);
    who.cancel();
    CHECK(log.aborts == 1);
    CHECK_FALSE(log.aborted_elsewhere);
    CHECK(who.outcome() == fiber_outcome::cancelled);
  });
}

TEMPLATE_LIST_TEST_CASE("abort() is not called once the op is done", "", op_list::all) {
  on_both<TestType>([](auto& world, spy_log& log, auto surface) {
    auto who = surface.spawn(support::spy(world.make(), log));
    until_waiting(who);
    world.complete();
    until([&] { return who.state() != fiber_state::waiting; });
    who.cancel();
    until_dead(who);
    CHECK(log.aborts == 0);
    CHECK(log.takes == 1);
  });
}

TEMPLATE_LIST_TEST_CASE("after `later` a fiber goes on waiting until the op is done; after `now` it is ready",
                        "", op_list::all) {
  on_both<TestType>([](auto& world, spy_log& log, auto surface) {
    auto who = surface.spawn(support::spy(world.make(), log));
    until_waiting(who);
    // A request that the kernel has not heard of yet could still be stopped now.
    until([turns = 0]() mutable { return ++turns == 600; });
    who.cancel();
    if (TestType::answer() == coir::abort_answer::now) {
      CHECK(log.answers_now == 1);
      CHECK(who.state() == fiber_state::ready);
    } else {
      CHECK(log.answers_later == 1);
      CHECK(who.state() == fiber_state::waiting);
    }
    let_stop(world);
    until_dead(who);
    CHECK_FALSE(log.left_early);
    CHECK(log.answers_later == log.done);
  });
}

TEMPLATE_LIST_TEST_CASE("a fiber does not end while somebody owns an op of its children", "",
                        op_list::all) {
  on_both<TestType>([](auto& world, spy_log& log, auto surface) {
    auto owner = coir::spawn([&] {
      auto child = surface.spawn(support::spy(world.make(), log));
      until_waiting(child);
    });
    until([&] { return log.aborts == 1; });
    if (log.answers_later == 1 && log.done == 0) {
      CHECK(owner.state() == fiber_state::ending);
    }
    let_stop(world);
    until_dead(owner);
    CHECK_FALSE(log.left_early);
    CHECK(log.answers_now + log.done == 1);
  });
}
