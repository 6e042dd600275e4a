// Every op there is, at every depth of tasks and stacks, cancelled before its fiber ran, while it waits, and
// when it is done but nobody has heard of it; and awaited again, when it was given up and when it is over (rule 8).
#include "any_op.hpp"
#include "counted.hpp"
#include "op_list.hpp"
#include "until.hpp"

#include "support/catch.hpp"
#include "support/descriptors.hpp"

#include <coir/coir.hpp>
#include <coir/testing/mock_clock.hpp>

#include <exception>
#include <functional>
#include <memory>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>

using coir::fiber_outcome;
using coir::fiber_state;
using support::any_op;
using support::counted;
using support::until;

namespace {

class world {
 public:
  virtual ~world() = default;
  virtual any_op make() = 0;
  virtual void complete() = 0;
  virtual void stopped() = 0;
};
template <class Case>
class world_of final : public world {
 public:
  any_op make() override { return any_op(case_.make()); }
  void complete() override { case_.complete(); }
  void stopped() override {
    if constexpr (requires { case_.stopped(); }) case_.stopped();
  }

 private:
  Case case_;
};

// What the fiber lived through.
struct history {
  int began = 0;
  int results = 0;
  int cancelled_in_op = 0;
  int cancelled_after = 0;
};

// Waits in the op, and once more after it. Each level has something to destroy.
coir::task<> wait(any_op& what, history& seen) {
  const counted local(1);
  ++seen.began;
  try {
    co_await what;
    ++seen.results;
  } catch (const coir::cancelled&) {
    ++seen.cancelled_in_op;
    throw;
  }
  try {
    co_await coir::yield();
  } catch (const coir::cancelled&) {
    ++seen.cancelled_after;
    throw;
  }
}
void wait_on_stack(any_op& what, history& seen) {
  const counted local(1);
  ++seen.began;
  try {
    coir::await(what);
    ++seen.results;
  } catch (const coir::cancelled&) {
    ++seen.cancelled_in_op;
    throw;
  }
  try {
    coir::await(coir::yield());
  } catch (const coir::cancelled&) {
    ++seen.cancelled_after;
    throw;
  }
}
coir::task<> nest(any_op& what, history& seen, int depth, counted parameter) {
  const counted local(depth);
  if (depth == 0) {
    co_await wait(what, seen);
  } else {
    co_await nest(what, seen, depth - 1, counted(parameter.value + 1));
  }
}
coir::task<> borrow(any_op& what, history& seen, counted parameter) {
  co_await coir::on_stack([&] {
    const counted local(parameter.value);
    wait_on_stack(what, seen);
  });
}
// A task in a function on a borrowed stack.
coir::task<> alternate(any_op& what, history& seen) {
  const counted local(1);
  co_await coir::on_stack([&] {
    const counted inner(2);
    coir::await(nest(what, seen, 2, counted(3)));
  });
}

struct surface {
  const char* name;
  coir::fiber<void> (*spawn)(any_op& what, history& seen);
};
constexpr surface surfaces[] = {
    {"a coroutine", [](any_op& what, history& seen) { return coir::spawn(wait(what, seen)); }},
    {"2 tasks", [](any_op& what, history& seen) { return coir::spawn(nest(what, seen, 0, counted(0))); }},
    {"3 tasks", [](any_op& what, history& seen) { return coir::spawn(nest(what, seen, 1, counted(0))); }},
    {"4 tasks", [](any_op& what, history& seen) { return coir::spawn(nest(what, seen, 2, counted(0))); }},
    {"5 tasks", [](any_op& what, history& seen) { return coir::spawn(nest(what, seen, 3, counted(0))); }},
    {"a stack", [](any_op& what, history& seen) {
       return coir::spawn([&, held = counted(1)] { wait_on_stack(what, seen); });
     }},
    {"a task on a stack", [](any_op& what, history& seen) {
       return coir::spawn([&, held = counted(1)] { coir::await(nest(what, seen, 2, counted(0))); });
     }},
    {"a borrowed stack", [](any_op& what, history& seen) { return coir::spawn(borrow(what, seen, counted(1))); }},
    {"a task on a borrowed stack", [](any_op& what, history& seen) { return coir::spawn(alternate(what, seen)); }},
    {"a coroutine lambda", [](any_op& what, history& seen) {
       return coir::spawn([&what, &seen, held = counted(1)]() -> coir::task<> { co_await wait(what, seen); });
     }},
};

using moment = std::function<void(world&, coir::fiber<void>&, history&)>;

// One cancellation, after which nothing is left and the loop goes on.
template <class Case>
void play(const moment& cancel) {
  for (const surface& each : surfaces) {
    INFO("op: " << Case::name << ", in " << each.name);
    coir::testing::mock_clock time(coir::testing::mock_clock::mode::by_hand);
    op_list::clock = &time;
    op_list::elsewhere();  // once made it stays, with descriptors of its own
    const std::size_t descriptors = support::open_descriptors();
    coir::run(
        [&] {
          const std::uint64_t alive = coir::running_fiber().home().alive();
          auto scene = coir::spawn([&] {
            world_of<Case> around;
            history seen;
            any_op what = around.make();
            coir::fiber<void> who = each.spawn(what, seen);
            cancel(around, who, seen);
            until([&] { return who.state() == fiber_state::dead; });
            CHECK(who.outcome() == fiber_outcome::cancelled);
            CHECK(counted::alive == 0);
          });
          coir::await(scene.join());
          CHECK(coir::running_fiber().home().alive() == alive);
          auto next = coir::spawn([]() -> coir::task<int> {
            co_await coir::yield();
            co_return 1;
          });
          CHECK(coir::await(next.join()) == 1);
        },
        coir::run_options().loop(coir::loop_options().time(&time)));
    CHECK(support::open_descriptors() == descriptors);
    if (requires { Case::is_slow; }) break;
  }
}
template <class... Cases>
void play_all(const moment& cancel, std::tuple<Cases...>*) {
  static_cast<void>(coir::backend_report());
  (play<Cases>(cancel), ...);
}
void for_every_op(const moment& cancel) { play_all(cancel, static_cast<op_list::all*>(nullptr)); }

void until_waiting(const coir::fiber<void>& who) {
  until([&] { return who.state() == fiber_state::waiting; });
}

struct given_up {};

struct waits {
  bool given_up = false;
  bool refused = false;
  int results = 0;
};

// Waits in the op, is given up, waits in it again; and when it has had a result, once more.
coir::task<> wait_again(any_op& what, waits& seen) {
  while (seen.results < 2) {
    try {
      co_await what;
      seen.results += seen.given_up;
      co_await coir::yield();  // where it is given up whose op had to end first
    } catch (const given_up&) {
      seen.given_up = true;
    } catch (const std::exception&) {
      seen.refused = true;  // a call that was abandoned, a result that is taken, a process that is gone
      co_return;
    }
  }
}
void wait_again_on_stack(any_op& what, waits& seen) {
  while (seen.results < 2) {
    try {
      coir::await(what);
      seen.results += seen.given_up;
      coir::await(coir::yield());
    } catch (const given_up&) {
      seen.given_up = true;
    } catch (const std::exception&) {
      seen.refused = true;
      return;
    }
  }
}
template <class Case>
void play_again(bool on_stack) {
  INFO("op: " << Case::name << (on_stack ? ", on a stack" : ", in a coroutine"));
  constexpr bool is_abandoned = std::is_same_v<Case, op_list::offloading_begun<coir::abandon_t>>;
  coir::testing::mock_clock time(coir::testing::mock_clock::mode::by_hand);
  op_list::clock = &time;
  coir::run(
      [&] {
        world_of<Case> around;
        any_op what = around.make();
        waits seen;
        coir::fiber<void> who = on_stack ? coir::spawn([&] { wait_again_on_stack(what, seen); })
                                         : coir::spawn(wait_again(what, seen));
        until_waiting(who);
        who.interrupt(given_up());
        around.stopped();
        until([&] { return seen.given_up && who.state() != fiber_state::ready; });
        CHECK(seen.refused == is_abandoned);
        around.complete();
        until([&] { return seen.results != 0 || seen.refused; });
        CHECK((seen.results == 0) == is_abandoned);
        // What is found again gives another result, or nothing does.
        until([&] { return who.state() != fiber_state::ready; });
        if (who.state() == fiber_state::waiting) {
          who.cancel();
          around.stopped();
          until([&] { return who.state() == fiber_state::dead; });
        }
        CHECK(who.outcome() != fiber_outcome::failed);
      },
      coir::run_options().loop(coir::loop_options().time(&time)));
}
template <class... Cases>
void play_all_again(std::tuple<Cases...>*) {
  (play_again<Cases>(false), ...);
  ((requires { Cases::is_slow; } ? void() : play_again<Cases>(true)), ...);
}

}  // namespace

TEST_CASE("a fiber that is cancelled before it ran never begins, whatever it would have waited for") {
  for_every_op([](world&, coir::fiber<void>& who, history& seen) {
    who.cancel();
    until([&] { return who.state() == fiber_state::dead; });
    CHECK(seen.began == 0);
  });
}

TEST_CASE("a fiber that is cancelled while it waits gets `cancelled` there, at whatever depth it waits") {
  for_every_op([](world& around, coir::fiber<void>& who, history& seen) {
    until_waiting(who);
    who.cancel();
    around.stopped();
    until([&] { return who.state() == fiber_state::dead; });
    CHECK(seen.results == 0);
    CHECK(seen.cancelled_in_op == 1);
    CHECK(seen.cancelled_after == 0);
  });
}

TEST_CASE("a fiber that is cancelled when its op is done has the result, and gets `cancelled` at the next") {
  for_every_op([](world& around, coir::fiber<void>& who, history& seen) {
    until_waiting(who);
    around.complete();
    until([&] { return who.state() != fiber_state::waiting; });
    CHECK(who.state() == fiber_state::ready);
    CHECK(seen.results == 0);
    who.cancel();
    until([&] { return who.state() == fiber_state::dead; });
    CHECK(seen.results == 1);
    CHECK(seen.cancelled_in_op == 0);
    CHECK(seen.cancelled_after == 1);
  });
}

TEST_CASE("cancelled and completed in the same turn: one of both, and never neither") {
  for_every_op([](world& around, coir::fiber<void>& who, history& seen) {
    until_waiting(who);
    around.complete();
    who.cancel();
    until([&] { return who.state() == fiber_state::dead; });
    CHECK(seen.results + seen.cancelled_in_op == 1);
    CHECK(seen.cancelled_after == seen.results);
  });
}

TEST_CASE("an op that was given up can be awaited again, but for a call that was abandoned") {
  play_all_again(static_cast<op_list::all*>(nullptr));
}
