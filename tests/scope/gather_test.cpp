#include "fiber/counted.hpp"
#include "fiber/hand_op.hpp"
#include "surfaces.hpp"

#include "support/catch.hpp"
#include "support/jumping.hpp"

#include <coir/coir.hpp>

#include <chrono>
#include <memory>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <variant>
#include <vector>

using namespace std::chrono_literals;
using Catch::Matchers::Contains;
using support::counted;
using support::hand;
using support::hand_op;
using support::jumping;
using support::now;
using surfaces::on_both;

namespace {

coir::task<int> value_after(coir::duration wait, int value) {
  co_await coir::sleep_for(wait);
  co_return value;
}
coir::task<> nothing_after(coir::duration wait) { co_await coir::sleep_for(wait); }
coir::task<int> fails_after(coir::duration wait, const char* what) {
  co_await coir::sleep_for(wait);
  throw std::runtime_error(what);
}
// Does not let itself be stopped before this time is over.
coir::task<int> insists(coir::duration wait, int value) {
  coir::cancel_scope guard;
  guard.shield();
  static_cast<void>(co_await guard.run(coir::sleep_for(wait)));
  co_return value;
}
coir::task<int> fails_when_stopped(const char* what) {
  bool stopped = false;
  try {
    co_await coir::sleep_for(1h);
  } catch (const coir::cancelled&) {
    stopped = true;
  }
  if (stopped) throw std::runtime_error(what);
  co_return 0;
}
coir::task<int> cancels_itself(coir::duration wait) {
  co_await coir::sleep_for(wait);
  throw coir::cancelled();
}
template <class T>
std::vector<coir::task<T>> list() {
  return {};
}
template <class T, class... Rest>
std::vector<coir::task<T>> list(coir::task<T> first, Rest... rest) {
  std::vector<coir::task<T>> made;
  made.push_back(std::move(first));
  (made.push_back(std::move(rest)), ...);
  return made;
}
std::vector<std::string> texts(const std::vector<std::exception_ptr>& failures) {
  std::vector<std::string> all;
  for (const auto& each : failures) {
    try {
      std::rethrow_exception(each);
    } catch (const std::exception& error) {
      all.emplace_back(error.what());
    }
  }
  return all;
}
// Runs it in a fiber, and says what the fiber's other failures are.
template <class Body>
std::vector<std::string> other_failures_of(Body body) {
  auto child = coir::spawn(std::move(body));
  coir::await(coir::end_op(child));
  return texts(child.other_failures());
}

}  // namespace

// --- all ---

TEST_CASE("all gives the results in the order of the arguments, whoever was first") {
  jumping([] {
    const coir::instant begin = now();
    const auto [a, b, c] = coir::await(coir::all(value_after(3s, 1), value_after(1s, 2), value_after(2s, 3)));
    CHECK(a == 1);
    CHECK(b == 2);
    CHECK(c == 3);
    CHECK(now() - begin == 3s);
    CHECK(coir::await(coir::all(list(value_after(3s, 1), value_after(1s, 2)))) == std::vector{1, 2});
  });
}

TEST_CASE("all takes tasks, functions that make tasks and plain functions, each in a fiber of its own") {
  jumping([] {
    const std::uint64_t me = coir::running_fiber().id();
    const auto makes = [&]() -> coir::task<std::string> { co_return std::to_string(coir::running_fiber().id() != me); };
    const auto [one, two, three] = coir::await(coir::all(value_after(1s, 1), makes, [&] {
      coir::await(coir::sleep_for(1s));
      return coir::running_fiber().id() != me;
    }));
    CHECK(one == 1);
    CHECK(two == "1");
    CHECK(three);
  });
}

TEST_CASE("among results nothing is a monostate, and a reference is a pointer") {
  jumping([] {
    int mine = 1;
    const auto results =
        coir::await(coir::all(nothing_after(1s), [&]() -> int& { return mine; }, [] { return std::make_unique<int>(2); }));
    static_assert(std::is_same_v<std::remove_const_t<decltype(results)>,
                                 std::tuple<std::monostate, int*, std::unique_ptr<int>>>);
    CHECK(std::get<1>(results) == &mine);
    CHECK(*std::get<2>(results) == 2);
    coir::await(coir::all(list(nothing_after(1s), nothing_after(2s))));
    CHECK(coir::await(coir::all()) == std::tuple<>());
    CHECK(coir::await(coir::all(list<int>())).empty());
    coir::await(coir::all(list<void>()));
  });
}

TEST_CASE("the first failure of all cancels the others and is thrown when they have ended") {
  jumping([] {
    const coir::instant begin = now();
    CHECK_THROWS_WITH(coir::await(coir::all(value_after(1h, 1), fails_after(1s, "first"), insists(5s, 2))), "first");
    CHECK(now() - begin == 5s);
    CHECK_THROWS_WITH(coir::await(coir::all(list(value_after(1h, 1), fails_after(1s, "listed")))), "listed");
    CHECK(now() - begin == 6s);
    CHECK(other_failures_of([] {
            static_cast<void>(coir::await(coir::all(fails_when_stopped("later"), fails_after(1s, "first"))));
          }) == std::vector<std::string>{"later"});
  });
}

TEST_CASE("one of all that is cancelled by itself takes the others with it") {
  jumping([] {
    const coir::instant begin = now();
    try {
      coir::await(coir::all(value_after(1h, 1), cancels_itself(1s)));
      FAIL("it has no result");
    } catch (const std::system_error& error) {
      CHECK(error.code() == std::errc::operation_canceled);
    }
    CHECK_THROWS_AS(coir::await(coir::all(list(value_after(1h, 1), cancels_itself(1s)))), std::system_error);
    CHECK_THROWS_AS(coir::await(coir::all([] { coir::running_fiber().cancel(), coir::await(coir::yield()); })),
                    std::system_error);
    CHECK(now() - begin == 2s);
  });
}

TEST_CASE("all that is cancelled cancels its fibers and waits for them") {
  jumping([] {
    const coir::instant begin = now();
    int ended = 0;
    const auto counts = [&] {
      try {
        coir::await(coir::sleep_for(1h));
      } catch (const coir::cancelled&) {
        ++ended;
        throw;
      }
    };
    CHECK_FALSE(coir::await(coir::move_on_after(1s, coir::all(counts, counts, value_after(1h, 1)))));
    CHECK(ended == 2);
    CHECK(now() - begin == 1s);
    // One that has not begun.
    bool ran = false;
    coir::cancel_scope scope;
    scope.cancel();
    CHECK_FALSE(coir::await(scope.run(coir::all([&] { ran = true; }))));
    CHECK_FALSE(ran);
  });
}

TEST_CASE("results of all that were there all the same are delivered, and the cancellation comes next") {
  jumping([] {
    coir::cancel_scope scope;
    coir::spawn([&] {
      coir::await(coir::sleep_for(500ms));
      scope.cancel();
    });
    bool went_on = false;
    CHECK_FALSE(scope.run([&] {
      const auto [a, b] = coir::await(coir::all(insists(1s, 1), insists(2s, 2)));
      went_on = a == 1 && b == 2;
      coir::await(coir::yield());
      went_on = false;
    }));
    CHECK(went_on);
    const auto all_in_time = coir::await(coir::move_on_after(1s, coir::all(insists(2s, 1), insists(3s, 2))));
    CHECK(all_in_time.has_value());
  });
}

// --- first ---

TEST_CASE("first gives who ended first, and stops the others") {
  jumping([] {
    const coir::instant begin = now();
    const auto won = coir::await(coir::first(value_after(3s, 1), value_after(1s, 2), value_after(2s, 3)));
    CHECK(won.index == 1);
    CHECK(won.value == 2);
    CHECK(won.also.empty());
    CHECK(now() - begin == 1s);
    CHECK(coir::running_fiber().home().alive() == 1);
    const auto listed = coir::await(coir::first(list(value_after(3s, 1), value_after(1s, 2))));
    CHECK(listed.index == 1);
    CHECK(listed.value == 2);
    CHECK(now() - begin == 2s);
  });
}

TEST_CASE("the value of first is what the results have in common, or a variant") {
  jumping([] {
    auto mixed = coir::await(coir::first(value_after(2s, 1), [] { return std::string("text"); }, value_after(3s, 2)));
    static_assert(std::is_same_v<decltype(mixed.value), std::variant<int, std::string, int>>);
    CHECK(mixed.index == 1);
    CHECK(mixed.value.index() == 1);
    CHECK(std::get<1>(mixed.value) == "text");
    auto nothing = coir::await(coir::first(nothing_after(2s), nothing_after(1s)));
    static_assert(std::is_same_v<decltype(nothing.value), std::monostate>);
    CHECK(nothing.index == 1);
    int mine = 0;
    CHECK(coir::await(coir::first([&]() -> int& { return mine; })).value == &mine);
    auto moves = coir::await(coir::first([] { return std::make_unique<int>(4); }));
    CHECK(*moves.value == 4);
    CHECK(coir::await(coir::first(list(nothing_after(2s), nothing_after(1s)))).index == 1);
  });
}

TEST_CASE("first waits for those it stops, and loses no result that comes all the same") {
  jumping([] {
    const coir::instant begin = now();
    const auto won = coir::await(coir::first(insists(5s, 1), value_after(1s, 2), value_after(1h, 3), insists(3s, 4)));
    CHECK(now() - begin == 5s);
    CHECK(won.index == 1);
    REQUIRE(won.also.size() == 2);
    CHECK(won.also[0].index == 0);
    CHECK(won.also[0].value == 1);
    CHECK(won.also[1].index == 3);
    CHECK(won.also[1].value == 4);
    const auto listed = coir::await(coir::first(list(insists(5s, 1), value_after(1s, 2))));
    REQUIRE(listed.also.size() == 1);
    CHECK(listed.also[0].value == 1);
    const auto mixed = coir::await(coir::first(insists(2s, 1), nothing_after(1s)));
    REQUIRE(mixed.also.size() == 1);
    CHECK(std::get<0>(mixed.also[0].value) == 1);
    // In one turn.
    hand one;
    hand two;
    coir::spawn([&] {
      coir::await(coir::sleep_for(1s));
      two.complete(2);
      one.complete(1);
    });
    const auto both = coir::await(
        coir::first([&] { return coir::await(hand_op(one)); }, [&] { return coir::await(hand_op(two)); }));
    CHECK(both.index == 1);
    REQUIRE(both.also.size() == 1);
    CHECK(both.also[0].value == 1);
  });
}

TEST_CASE("those that have not begun when the first has ended never do") {
  jumping([] {
    bool ran = false;
    CHECK(coir::await(coir::first([] {}, [&] { ran = true; })).index == 0);
    CHECK_FALSE(ran);
  });
}

TEST_CASE("a fiber has ended when its children have") {
  jumping([] {
    const auto won = coir::await(coir::first(
        [] {
          coir::spawn(insists(5s, 0));
          coir::await(coir::yield());
          return 1;
        },
        value_after(1s, 2)));
    CHECK(won.index == 1);
    REQUIRE(won.also.size() == 1);
    CHECK(won.also[0].value == 1);
  });
}

TEST_CASE("a winner that failed is what first throws, and the failures of the others are kept") {
  jumping([] {
    const coir::instant begin = now();
    CHECK_THROWS_WITH(coir::await(coir::first(value_after(1h, 1), fails_after(1s, "won"), insists(2s, 3))), "won");
    CHECK(now() - begin == 2s);
    CHECK_THROWS_WITH(coir::await(coir::first(list(value_after(1h, 1), fails_after(1s, "won")))), "won");
    CHECK(other_failures_of([] {
            CHECK(coir::await(coir::first(fails_when_stopped("lost"), value_after(1s, 2))).index == 1);
            CHECK(coir::await(coir::first(list(fails_when_stopped("listed"), value_after(1s, 2)))).index == 1);
          }) == std::vector<std::string>{"lost", "listed"});
    CHECK(other_failures_of([] {
            CHECK_THROWS_WITH(coir::await(coir::first(fails_when_stopped("lost"), fails_after(1s, "won"))), "won");
          }) == std::vector<std::string>{"lost"});
  });
}

TEST_CASE("who is cancelled by itself is out of the race") {
  jumping([] {
    CHECK(coir::await(coir::first(cancels_itself(1s), value_after(2s, 2))).index == 1);
    try {
      coir::await(coir::first(cancels_itself(1s), cancels_itself(2s)));
      FAIL("nobody won");
    } catch (const std::system_error& error) {
      CHECK(error.code() == std::errc::operation_canceled);
      CHECK_THAT(error.what(), Contains("all of its fibers were cancelled"));
    }
  });
}

TEST_CASE("who is moved away is not waited for, and that nobody else is left is said as it is") {
  jumping([] {
    const coir::instant begin = now();
    const auto leaves = [](coir::duration then) -> coir::task<int> {
      coir::fiber_base& self = coir::running_fiber();
      self.move_to(self.home().root());
      co_await coir::sleep_for(then);
      co_return 1;
    };
    const auto message = Contains("moved away");
    CHECK_THROWS_WITH(coir::await(coir::first(leaves(1h))), message);
    CHECK_THROWS_WITH(coir::await(coir::first(list(leaves(1h)))), message);
    CHECK_THROWS_WITH(coir::await(coir::all(leaves(1h))), message);
    CHECK(now() == begin);
    CHECK_THROWS_WITH(coir::await(coir::first(leaves(1h), cancels_itself(1s))), message);
    CHECK_THROWS_AS(coir::await(coir::first(cancels_itself(1s), leaves(1h))), std::logic_error);
    CHECK(now() - begin == 2s);
    // In time it is the first all the same.
    CHECK(coir::await(coir::first(value_after(2s, 2), leaves(1s))).index == 1);
    CHECK(coir::await(coir::first(value_after(2s, 2), leaves(1h))).index == 0);
  });
}

TEST_CASE("first of nothing is misuse") {
  jumping([] { CHECK_THROWS_AS(coir::await(coir::first(list<int>())), std::logic_error); });
}

TEST_CASE("first that is cancelled cancels its fibers, unless one has won meanwhile") {
  jumping([] {
    const coir::instant begin = now();
    CHECK_FALSE(coir::await(coir::move_on_after(1s, coir::first(value_after(1h, 1), value_after(2h, 2)))));
    CHECK(now() - begin == 1s);
    CHECK(coir::running_fiber().home().alive() == 1);
    const auto late = coir::await(coir::move_on_after(1s, coir::first(value_after(1h, 1), insists(3s, 2))));
    REQUIRE(late.has_value());
    CHECK(late->index == 1);
    CHECK(late->value == 2);
    CHECK(now() - begin == 4s);
    // The cancellation comes while the losers end.
    coir::cancel_scope scope;
    coir::spawn([&] {
      coir::await(coir::sleep_for(2s));
      scope.cancel();
    });
    const auto won = coir::await(scope.run(coir::first(value_after(1s, 1), insists(3s, 2))));
    REQUIRE(won.has_value());
    CHECK(won->index == 0);
    CHECK(won->also.size() == 1);
  });
}

// --- both ---

TEST_CASE("all and first in coroutines without a stack, and in each other") {
  jumping([] {
    auto child = coir::spawn([]() -> coir::task<int> {
      auto [a, b] = co_await coir::all(value_after(2s, 1), value_after(1s, 2));
      auto won = co_await coir::first(value_after(2s, 10), value_after(1s, 20));
      auto nested = co_await coir::all(coir::first(value_after(2s, 100), value_after(1s, 200)),
                                       coir::all(list(value_after(1s, 1000), value_after(2s, 2000))));
      std::vector<coir::task<int>> many;
      for (int i = 0; i < 3; ++i) many.push_back(value_after(i * 1s, i));
      auto summed = co_await coir::all(std::move(many));
      co_return a + b + won.value + std::get<0>(nested).value + std::get<1>(nested)[1] + summed[2];
    });
    CHECK(coir::await(child.join()) == 1 + 2 + 20 + 200 + 2000 + 2);
  });
}

TEST_CASE("ten thousand at once") {
  jumping([] {
    std::vector<coir::task<int>> many;
    for (int i = 0; i < 10'000; ++i) many.push_back(value_after(std::chrono::milliseconds(10'000 - i), i));
    const auto results = coir::await(coir::all(std::move(many)));
    CHECK(results.size() == 10'000);
    CHECK(results[4711] == 4711);
    many.clear();
    for (int i = 0; i < 10'000; ++i) many.push_back(value_after(std::chrono::milliseconds(10'000 - i), i));
    CHECK(coir::await(coir::first(std::move(many))).index == 9'999);
  });
}

TEST_CASE("results whose moves throw are failures, and nothing of them is left") {
  struct stubborn {
    explicit stubborn(int when) : left(when) {}
    stubborn(stubborn&& other) : left(other.left - 1), held(std::move(other.held)) {
      if (left == 0) throw std::runtime_error("does not move");
    }
    int left;
    counted held;
  };
  jumping([&] {
    int thrown = 0;
    for (int when = 1; when <= 12; ++when) {
      const auto makes = [when] { return stubborn(when); };
      try {
        static_cast<void>(coir::await(coir::all(makes, makes)));
      } catch (const std::runtime_error&) {
        ++thrown;
      }
      try {
        static_cast<void>(coir::await(coir::first(makes, makes)));
      } catch (const std::runtime_error&) {
        ++thrown;
      }
      CHECK(counted::alive == 0);
    }
    CHECK(thrown > 5);
    CHECK(thrown < 24);
  });
}

TEST_CASE("bodies are destroyed whether they ran or not") {
  jumping([] {
    {
      const auto body = [held = counted()] { coir::await(coir::sleep_for(1s)); };
      auto never_awaited = coir::all(body, body);
    }
    CHECK(counted::alive == 0);
    const auto task = [](counted) -> coir::task<> { co_await coir::sleep_for(1s); };
    static_cast<void>(coir::await(coir::all(task(counted()), task(counted()))));
    CHECK(counted::alive == 0);
    coir::cancel_scope scope;
    scope.cancel();
    CHECK_FALSE(coir::await(scope.run(coir::all(task(counted()), task(counted())))));
    CHECK(counted::alive == 0);
    // The second cannot be spawned.
    struct stubborn {
      explicit stubborn(int when) : left(when) {}
      stubborn(const stubborn& other) : left(other.left - 1), held(other.held) {
        if (left == 0) throw std::runtime_error("does not move");
      }
      void operator()() const { coir::await(coir::sleep_for(1s)); }
      int left;
      counted held;
    };
    int thrown = 0;
    for (int when = 1; when <= 8; ++when) {
      stubborn for_all(when);
      stubborn for_first(when);
      try {
        static_cast<void>(coir::await(coir::all(task(counted()), for_all)));
      } catch (const std::runtime_error&) {
        ++thrown;
      }
      try {
        static_cast<void>(coir::await(coir::first(task(counted()), for_first)));
      } catch (const std::runtime_error&) {
        ++thrown;
      }
      CHECK(counted::alive == 2);
    }
    CHECK(thrown >= 4);
    CHECK(counted::alive == 0);
  });
}

TEST_CASE("a fiber of all or first was spawned where that is awaited, for whoever reads a report") {
  jumping([] {
    const auto line = [] { return coir::running_fiber().spawned_at(); };
    const auto [on_stack] = coir::await(coir::all(line));
    CHECK(on_stack.line() == __LINE__ - 1);
    CHECK(std::string(on_stack.file_name()).find("gather_test.cpp") != std::string::npos);
    auto in_coroutine = coir::spawn([&]() -> coir::task<bool> {
      const auto won = co_await coir::first(line);
      co_return won.value.line() == __LINE__ - 1;
    });
    CHECK(coir::await(in_coroutine.join()));
    auto by_itself = coir::spawn(coir::all(line));
    CHECK(std::get<0>(coir::await(by_itself.join())).line() == __LINE__ - 1);
  });
}
