// The handle: join, take, cancel.
#include "counted.hpp"
#include "hand_op.hpp"
#include "until.hpp"

#include "support/catch.hpp"

#include <coir/coir.hpp>

#include <stdexcept>
#include <string>
#include <system_error>
#include <vector>

using Catch::Matchers::Contains;
using coir::fiber_outcome;
using coir::fiber_state;
using support::counted;
using support::hand;
using support::hand_op;

namespace {

template <class Use>
std::string misuse(Use&& use) {
  try {
    use();
  } catch (const std::logic_error& error) {
    return error.what();
  }
  return "nothing was thrown";
}

}  // namespace

TEST_CASE("a fiber is joined by as many as ask, taken once, and cancelled") {
  coir::run([]() -> coir::task<> {
    coir::fiber<int> child = coir::spawn([] { return 7; });
    const int& seen = co_await child.join();
    const int& again = co_await child.join();
    CHECK(seen == 7);
    CHECK(&seen == &again);
    const int mine = co_await child.take();
    CHECK(mine == 7);
    child.cancel();
    CHECK(child.outcome() == fiber_outcome::returned);
  });
}

TEST_CASE("many fibers join one: all get its result, in the order in which they came") {
  coir::run([] {
    hand hold;
    auto child = coir::spawn([&] { return coir::await(hand_op(hold)); });
    std::vector<int> order;
    std::vector<coir::fiber<void>> joiners;
    for (int i = 0; i < 10; ++i) {
      joiners.push_back(coir::spawn([&, i] {
        CHECK(coir::await(child.join()) == 7);
        order.push_back(i);
      }));
    }
    support::until([&] { return joiners.back().state() == fiber_state::waiting; });
    hold.complete(7);
    for (auto& each : joiners) coir::await(each.join());
    CHECK(order == std::vector<int>{0, 1, 2, 3, 4, 5, 6, 7, 8, 9});
  });
}

TEST_CASE("a joiner that is cancelled leaves the others and the fiber alone, wherever it stands in line") {
  for (int gone = 0; gone < 5; ++gone) {
    coir::run([&] {
      hand hold;
      auto child = coir::spawn([&] { return coir::await(hand_op(hold)); });
      std::vector<int> order;
      std::vector<coir::fiber<void>> joiners;
      for (int i = 0; i < 5; ++i) {
        joiners.push_back(coir::spawn([&, i] {
          static_cast<void>(coir::await(child.join()));
          order.push_back(i);
        }));
      }
      support::until([&] { return joiners.back().state() == fiber_state::waiting; });
      joiners[static_cast<std::size_t>(gone)].cancel();
      coir::await(coir::end_op(joiners[static_cast<std::size_t>(gone)]));
      CHECK(child.state() == fiber_state::waiting);
      // A newcomer stands at the end.
      joiners.push_back(coir::spawn([&] {
        static_cast<void>(coir::await(child.join()));
        order.push_back(5);
      }));
      coir::await(coir::yield());
      hold.complete();
      for (auto& each : joiners) coir::await(coir::end_op(each));
      std::vector<int> expected;
      for (int i = 0; i < 6; ++i) {
        if (i != gone) expected.push_back(i);
      }
      CHECK(order == expected);
    });
  }
}

TEST_CASE("a result is taken once; whoever comes later is told so") {
  coir::run([] {
    auto child = coir::spawn([] { return counted(7); });
    const counted mine = coir::await(child.take());
    CHECK(mine.value == 7);
    CHECK_THAT(misuse([&] { coir::await(child.take()); }), Contains("taken before"));
    CHECK_THAT(misuse([&] { coir::await(child.join()); }), Contains("taken before"));
  });
  CHECK(counted::alive == 0);
}

TEST_CASE("joining a fiber that failed throws what it threw, again and again") {
  coir::run([] {
    auto child = coir::spawn([]() -> int { throw std::runtime_error("it broke"); });
    CHECK_THROWS_WITH(coir::await(child.join()), "it broke");
    CHECK_THROWS_WITH(coir::await(child.join()), "it broke");
    CHECK_THROWS_WITH(coir::await(child.take()), "it broke");
    CHECK(child.outcome() == fiber_outcome::failed);
  });
}

TEST_CASE("joining a fiber that was cancelled is a system_error that names it") {
  coir::run([] {
    hand hold;
    auto child = coir::spawn([&] { coir::await(hand_op(hold)); },
                             coir::spawn_options().name("sleeper"));
    coir::await(coir::yield());
    child.cancel();
    bool thrown = false;
    try {
      coir::await(child.join());
    } catch (const std::system_error& error) {
      thrown = true;
      CHECK(error.code() == std::errc::operation_canceled);
      CHECK_THAT(error.what(), Contains("sleeper"));
    }
    CHECK(thrown);
    coir::await(coir::end_op(child));
    const auto result = coir::await(coir::as_result(child.join()));
    REQUIRE_FALSE(result.has_value());
    CHECK(result.error() == std::errc::operation_canceled);
  });
}

TEST_CASE("a fiber cannot join itself") {
  coir::run([] {
    coir::fiber<void> self;
    self = coir::spawn([&] {
      CHECK_THAT(misuse([&] { coir::await(self.join()); }), Contains("itself"));
    });
    coir::await(self.join());
    self = {};
  });
}

TEST_CASE("an empty handle is a logic_error, whatever is asked of it") {
  coir::run([] {
    coir::fiber<int> empty;
    CHECK_FALSE(static_cast<bool>(empty));
    CHECK_THAT(misuse([&] { static_cast<void>(empty.join()); }), Contains("empty fiber handle"));
    CHECK_THAT(misuse([&] { static_cast<void>(empty.take()); }), Contains("empty fiber handle"));
    CHECK_THAT(misuse([&] { static_cast<void>(empty.id()); }), Contains("empty fiber handle"));
    CHECK_THAT(misuse([&] { static_cast<void>(empty.state()); }), Contains("empty fiber handle"));
    CHECK_THAT(misuse([&] { empty.cancel(); }), Contains("empty fiber handle"));
    auto child = coir::spawn([] { return 1; });
    coir::fiber<int> moved = std::move(child);
    CHECK_FALSE(static_cast<bool>(child));
    CHECK(coir::await(moved.join()) == 1);
  });
}

TEST_CASE("handles of one fiber are equal, and no others") {
  coir::run([] {
    auto one = coir::spawn([] { return 1; });
    auto two = coir::spawn([] { return 2; });
    const coir::fiber<int> copy = one;
    CHECK(copy == one);
    CHECK_FALSE(one == two);
    CHECK(coir::fiber<int>() == coir::fiber<int>());
    CHECK(coir::await(copy.join()) == 1);
    coir::await(two.join());
  });
}

TEST_CASE("the outcome is told when the fiber is dead, and not while its children end") {
  coir::run([] {
    hand hold(coir::abort_answer::later);
    auto parent = coir::spawn([&] {
      coir::spawn([&] { coir::await(hand_op(hold)); });
      coir::await(coir::yield());
      return 1;
    });
    support::until([&] { return parent.state() == fiber_state::ending; });
    CHECK(parent.outcome() == fiber_outcome::none);
    hold.give_up();
    CHECK(coir::await(parent.join()) == 1);
    CHECK(parent.outcome() == fiber_outcome::returned);
  });
}

TEST_CASE("joining a dead fiber waits for nothing") {
  coir::run([] {
    auto child = coir::spawn([] { return 1; });
    coir::await(child.join());
    bool other_ran = false;
    auto other = coir::spawn([&] { other_ran = true; });
    CHECK(coir::await(child.join()) == 1);
    CHECK_FALSE(other_ran);
    coir::await(other.join());
  });
}
