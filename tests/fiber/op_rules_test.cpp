// The rules of op.hpp, each for every op there is, on both surfaces.
#include "op_scene.hpp"

#include <algorithm>

using namespace op_scene;
using coir::abort_answer;
using coir::fiber_outcome;
using coir::fiber_state;
using support::until;

// --- rule 1 ---

TEST_CASE("abort() is called once, on the op's loop, however often its fiber is cancelled") {
  for_every_op([](scene& on, spy_log& log) {
    auto who = on.spawn(log);
    until_waiting(who);
    CHECK(log.aborts == 0);
    who.cancel();
    who.cancel();
    CHECK(log.aborts == 1);
    on.stopped();
    until_dead(who);
    who.cancel();
    CHECK(log.aborts == 1);
    CHECK_FALSE(log.aborted_elsewhere);
    CHECK(who.outcome() == fiber_outcome::cancelled);
  });
}

TEST_CASE("abort() is not called once the op is done") {
  for_every_op([](scene& on, spy_log& log) {
    auto who = on.spawn(log);
    until_waiting(who);
    on.complete();
    until([&] { return who.state() != fiber_state::waiting; });
    who.cancel();
    until_dead(who);
    CHECK(log.aborts == 0);
    CHECK(log.takes == 1);
  });
}

// --- rule 2 ---

TEST_CASE("after `later` a fiber goes on waiting until the op is done; after `now` it is ready") {
  for_every_op([](scene& on, spy_log& log) {
    auto who = on.spawn(log);
    until_waiting(who);
    who.cancel();
    if (on.answer() == abort_answer::now) {
      CHECK(log.answers_now == 1);
      CHECK(who.state() == fiber_state::ready);
    } else {
      CHECK(log.answers_later == 1);
      CHECK(who.state() == fiber_state::waiting);
    }
    on.stopped();
    until_dead(who);
    CHECK_FALSE(log.left_early);
    CHECK(log.done == log.answers_later);
  });
}

TEST_CASE("a fiber does not end while somebody owns an op of one of its children") {
  for_every_op([](scene& on, spy_log& log) {
    auto owner = coir::spawn([&] { until_waiting(on.spawn(log)); });
    until([&] { return log.aborts == 1; });
    if (log.answers_later == 1 && log.done == 0) CHECK(owner.state() == fiber_state::ending);
    on.stopped();
    until_dead(owner);
    CHECK_FALSE(log.left_early);
    CHECK(log.answers_now + log.done == 1);
  });
}

// --- rule 3 ---

TEST_CASE("a result that came before the cancellation is delivered, and the next op throws") {
  for_every_op([](scene& on, spy_log& log) {
    auto who = on.spawn(log);
    until_waiting(who);
    on.complete();
    // This fiber runs before one that was woken after it.
    until([&] { return who.state() != fiber_state::waiting; });
    REQUIRE(who.state() == fiber_state::ready);
    who.cancel();
    until_dead(who);
    CHECK(log.user_code == 1);
    CHECK(on.right());
    CHECK(who.outcome() == fiber_outcome::cancelled);
  });
}

TEST_CASE("what comes after the cancellation is delivered, or is there for the next op") {
  for_every_op([](scene& on, spy_log& log) {
    auto who = on.spawn(log);
    until_waiting(who);
    who.cancel();
    on.complete();
    until_dead(who);
    CHECK(who.outcome() == fiber_outcome::cancelled);
    if (log.user_code == 0) {
      auto next = on.spawn(log);
      if (on.passes()) {
        until_waiting(next);
        on.complete();
      }
      until_dead(next);
    }
    CHECK(log.user_code == 1);
    CHECK(on.right());
  });
}

TEST_CASE("so it is with an op that is cancelled in the turn in which it began") {
  for_every_op([](scene& on, spy_log& log) {
    auto who = on.spawn(log);
    until([&] { return who.state() != fiber_state::fresh; });
    who.cancel();
    on.complete();
    until_dead(who);
    CHECK(who.outcome() == fiber_outcome::cancelled);
    if (log.user_code == 0) {
      auto next = on.spawn(log);
      if (on.passes()) {
        until_waiting(next);
        on.complete();
      }
      until_dead(next);
    }
    CHECK(log.user_code == 1);
    CHECK(on.right());
    CHECK_FALSE(log.left_early);
  });
}

// --- rule 4 ---

TEST_CASE("an op that was cancelled had no effect: the next one gets all there is") {
  for_every_op([](scene& on, spy_log& log) {
    auto who = on.spawn(log);
    until_waiting(who);
    who.cancel();
    on.stopped();
    until_dead(who);
    CHECK(who.outcome() == fiber_outcome::cancelled);
    CHECK(log.user_code == 0);

    auto next = on.spawn(log);
    until_waiting(next);
    on.complete();
    until_dead(next);
    CHECK(next.outcome() == fiber_outcome::returned);
    CHECK(log.user_code == 1);
    CHECK(on.right());
  });
}

// --- rule 5 ---

TEST_CASE("an op of a cancelled fiber does not start, also when it need not wait") {
  for_every_op([](scene& on, spy_log& log) {
    on.prepare(1);
    auto who = on.spawn_late(log);
    until([&] { return log.user_code == 1; });
    REQUIRE(who.state() == fiber_state::ready);
    who.cancel();
    until_dead(who);
    CHECK(who.outcome() == fiber_outcome::cancelled);
    CHECK(log.starts == 0);
  });
}

namespace {
// Ops in a row that may finish at once.
constexpr unsigned share = 64;
constexpr unsigned many = 2 * share + 2;
}  // namespace

TEST_CASE("a fiber whose ops finish at once lets others run after 64 of them") {
  for_every_op([](scene& on, spy_log& log) {
    const unsigned count = std::min(many, on.ready_at_most());
    on.prepare(count);
    auto who = on.spawn_many(log, count);
    unsigned seen = 0;
    unsigned most = 0;
    until([&] {
      most = std::max(most, log.user_code - seen);
      seen = log.user_code;
      return dead(who);
    });
    CHECK(log.user_code == count);
    CHECK(most <= share);
  });
}

TEST_CASE("a cancellation in the yield of the budget keeps the result and surfaces at the next op") {
  for_every_op([](scene& on, spy_log& log) {
    const unsigned count = std::min(many, on.ready_at_most());
    on.prepare(count);
    auto who = on.spawn_many(log, count);
    until([&] { return log.starts != 0; });
    // When all have finished at once this is the yield after the 64th, whose result is not taken yet.
    const bool in_yield = log.at_once == log.starts && who.state() == fiber_state::ready;
    if (in_yield) CHECK(log.user_code == share - 1);
    who.cancel();
    until_dead(who);
    if (in_yield) {
      CHECK(log.user_code == share);
      CHECK(log.starts == share);
      CHECK(who.outcome() == fiber_outcome::cancelled);
    }
  });
}

// --- rule 6 ---

TEST_CASE("done() only queues: what comes after the op runs later") {
  for_every_op([](scene& on, spy_log& log) {
    auto who = on.spawn(log);
    until_waiting(who);
    on.complete();
    until_dead(who);
    CHECK(log.done == 1);
    CHECK(log.user_code == 1);
    CHECK_FALSE(log.user_code_in_done);
    CHECK(on.right());
  });
}

// --- rule 7 ---

TEST_CASE("an op that loses a select is aborted once, and awaited before the select is over") {
  for_every_op([](scene& on, spy_log& log) {
    support::hand other;
    std::size_t won = 2;
    auto who = on.spawn_select(log, other, won);
    until_waiting(who);
    CHECK(log.aborts == 0);
    other.complete();
    CHECK(log.aborts == 1);
    if (on.answer() == abort_answer::later && log.done == 0) CHECK(who.state() == fiber_state::waiting);
    on.stopped();
    until_dead(who);
    CHECK(won == 1);
    CHECK(log.aborts == 1);
    CHECK(log.done == log.answers_later);
    CHECK_FALSE(log.aborted_elsewhere);
    CHECK_FALSE(log.left_early);
    CHECK(log.user_code == 0);
  });
}

TEST_CASE("an op that wins a select gives its result, and the other is aborted") {
  for_every_op([](scene& on, spy_log& log) {
    support::hand other;
    std::size_t won = 2;
    auto who = on.spawn_select(log, other, won);
    until_waiting(who);
    on.complete();
    until_dead(who);
    CHECK(won == 0);
    CHECK(other.aborts() == 1);
    CHECK(log.aborts == 0);
    CHECK(log.user_code == 1);
    CHECK(on.right());
  });
}

TEST_CASE("what comes when an op has lost a select is there for the next op") {
  for_every_op([](scene& on, spy_log& log) {
    support::hand other;
    std::size_t won = 2;
    auto who = on.spawn_select(log, other, won);
    until_waiting(who);
    other.complete();
    on.stopped();
    until_dead(who);
    if (on.passes()) return;
    on.complete();
    spy_log later;
    auto next = on.spawn(later);
    until_dead(next);
    CHECK(later.user_code == 1);
    CHECK(on.right());
  });
}
