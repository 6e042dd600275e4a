// Rules 3, 4 and 6 of op.hpp.
#include "op_rules.hpp"

using namespace op_rules;

TEMPLATE_LIST_TEST_CASE("done() only queues: what comes after the op runs later", "", op_list::all) {
  on_both<TestType>([](auto& world, spy_log& log, auto surface) {
    bool right = false;
    auto who = spawn_checked(world, log, surface, right);
    until_waiting(who);
    world.complete();
    until_dead(who);
    CHECK(right);
    CHECK(log.done == 1);
    CHECK(log.user_code == 1);
    CHECK_FALSE(log.user_code_in_done);
  });
}

TEMPLATE_LIST_TEST_CASE("a result that came before the cancellation is delivered, and the next op throws",
                        "", op_list::all) {
  on_both<TestType>([](auto& world, spy_log& log, auto surface) {
    bool right = false;
    auto who = spawn_checked(world, log, surface, right);
    until_waiting(who);
    world.complete();
    // This fiber runs before one that was woken later.
    until([&] { return who.state() != fiber_state::waiting; });
    REQUIRE(who.state() == fiber_state::ready);
    who.cancel();
    until_dead(who);
    CHECK(right);
    CHECK(who.outcome() == fiber_outcome::cancelled);
  });
}

TEMPLATE_LIST_TEST_CASE("what comes after the cancellation is delivered, or is there for the next op", "",
                        op_list::all) {
  on_both<TestType>([](auto& world, spy_log& log, auto surface) {
    bool right = false;
    auto who = spawn_checked(world, log, surface, right);
    until_waiting(who);
    who.cancel();
    world.complete();
    until_dead(who);
    CHECK(who.outcome() == fiber_outcome::cancelled);
    CHECK(right == (log.user_code == 1));
    if (log.user_code == 0) {
      spy_log second;
      auto next = spawn_checked(world, second, surface, right);
      // Time that has passed is nothing to be had twice.
      if constexpr (std::is_base_of_v<op_list::sleeping, TestType>) {
        until_waiting(next);
        world.complete();
      }
      until_dead(next);
      CHECK(right);
    }
  });
}

TEMPLATE_LIST_TEST_CASE("an op that was cancelled had no effect: the next one gets all there is", "",
                        op_list::all) {
  on_both<TestType>([](auto& world, spy_log& log, auto surface) {
    bool right = false;
    auto who = spawn_checked(world, log, surface, right);
    until_waiting(who);
    who.cancel();
    let_stop(world);
    until_dead(who);
    CHECK(who.outcome() == fiber_outcome::cancelled);
    CHECK(log.user_code == 0);

    spy_log second;
    auto next = spawn_checked(world, second, surface, right);
    until_waiting(next);
    world.complete();
    until_dead(next);
    CHECK(right);
    CHECK(next.outcome() == fiber_outcome::returned);
  });
}
