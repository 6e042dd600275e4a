#include <coir/testing/sequencer.hpp>
#include <coir/testing/suspension.hpp>

#include "support/catch.hpp"

#include <coir/coir.hpp>

#include <memory>

using namespace std::chrono_literals;
using coir::testing::expect_no_suspension;
using coir::testing::expect_suspends;
using coir::testing::sequencer;
using coir::testing::suspension_failure;

namespace {

coir::task<int> at_once(int value) { co_return value; }
coir::task<int> after_yield(int value) {
  co_await coir::yield();
  co_return value;
}
coir::task<> nothing() { co_return; }

coir::task<> on_a_coroutine() {
  CHECK(co_await expect_no_suspension(at_once(1)) == 1);
  CHECK(co_await expect_suspends(after_yield(2)) == 2);
  co_await expect_no_suspension(nothing());
  co_await expect_suspends(coir::yield());
  co_await expect_suspends(coir::sleep_for(0s));
  int failures = 0;
  try {
    co_await expect_suspends(at_once(3));
  } catch (const suspension_failure&) {
    ++failures;
  }
  try {
    co_await expect_no_suspension(after_yield(4));
  } catch (const suspension_failure&) {
    ++failures;
  }
  CHECK(failures == 2);
}

}  // namespace

TEST_CASE("code that suspends is told from code that does not, alone or among others") {
  for (const int others : {0, 1, 300}) {
    INFO(others << " other fibers");
    coir::run([&] {
      for (int i = 0; i < others; ++i) {
        coir::spawn([] {
          for (int step = 0; step < 100; ++step) coir::await(coir::yield());
        });
      }
      coir::await(on_a_coroutine());
      CHECK(expect_suspends([] { return coir::await(after_yield(5)); }) == 5);
      CHECK(expect_no_suspension([] { return coir::await(at_once(6)); }) == 6);
      expect_suspends([] { coir::await(coir::yield()); });
      expect_no_suspension([] {});
      CHECK_THROWS_AS(expect_suspends([] {}), suspension_failure);
      CHECK_THROWS_AS(expect_no_suspension([] { coir::await(coir::yield()); }), suspension_failure);
    });
  }
}

TEST_CASE("on the thread's own stack, too") {
  coir::run(on_a_coroutine());
}

TEST_CASE("the failure says where, and which of the two it was") {
  coir::run([] {
    CHECK_THROWS_WITH(expect_suspends([] {}), Catch::Contains("suspension_test.cpp:") &&
                                                  Catch::Contains("did not suspend"));
    CHECK_THROWS_WITH(expect_no_suspension([] { coir::await(coir::yield()); }),
                      Catch::Contains("suspended, and was not to"));
  });
}

TEST_CASE("an op inside gives its result, of whatever type") {
  coir::run([] {
    sequencer turns;
    { auto turn = coir::await(expect_no_suspension(turns.turn(0))); }
    auto made = coir::spawn([] { return std::make_unique<int>(7); });
    auto got = coir::await(expect_suspends(made.take()));
    CHECK(*got == 7);
    auto other = coir::spawn([] { return 8; });
    CHECK(coir::await(expect_suspends(other.join())) == 8);
    CHECK(coir::await(expect_no_suspension(other.join())) == 8);
    int here = 0;
    CHECK(&expect_no_suspension([&]() -> int& { return here; }) == &here);
  });
}

TEST_CASE("what the code throws goes through, and so does a cancellation") {
  coir::run([] {
    CHECK_THROWS_AS(expect_suspends([] { throw std::out_of_range("x"); }), std::out_of_range);
    auto waits = coir::spawn([] { coir::await(expect_suspends(coir::sleep_for(1h))); });
    coir::await(coir::yield());
    waits.cancel();
    coir::await(coir::as_result(waits.join()));
    CHECK(waits.outcome() == coir::fiber_outcome::cancelled);
  });
}

TEST_CASE("outside of a fiber nothing can be said") {
  CHECK_THROWS_AS(expect_suspends([] {}), std::logic_error);
}
