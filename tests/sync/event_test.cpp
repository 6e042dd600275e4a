#include "told.hpp"

#include "support/catch.hpp"
#include "support/jumping.hpp"

#include <coir/coir.hpp>
#include <coir/testing/suspension.hpp>

#include <memory>
#include <string>

using namespace std::chrono_literals;
using Catch::Matchers::Contains;
using coir::event;
using coir::fiber_outcome;
using coir::fiber_state;
using told::deadlock_of;
using told::is;
using told::let_run;

TEST_CASE("an event that is set before somebody waits lets all through without a suspension") {
  coir::run([] {
    event started;
    started.set();
    coir::testing::expect_no_suspension([&] {
      coir::await(started.wait());
      coir::await(started.wait());
    });
    CHECK(started.is_set());
    CHECK(started.stats().waited == 0);
  });
}

TEST_CASE("set wakes all who wait, in order, and counts once however often it is called") {
  support::on_both_surfaces([](auto wait) {
    event started;
    std::string order;
    coir::with_nursery([&](coir::nursery& n) {
      for (const char who : {'a', 'b', 'c'}) {
        n.spawn([&, who] {
          wait(started.wait());
          order += who;
        });
      }
      wait(coir::yield());
      CHECK(started.stats().waiting == 3);
      started.set();
      started.set();
      CHECK(started.stats().waiting == 0);
    });
    CHECK(order == "abc");
    CHECK(started.stats().sets == 1);
    CHECK(started.stats().waited == 3);
  });
}

TEST_CASE("a reset after a set takes nothing from those who waited, and holds back those who come") {
  support::on_both_surfaces([](auto wait) {
    event started;
    bool through = false;
    auto early = coir::spawn([&] {
      wait(started.wait());
      through = true;
    });
    wait(coir::yield());
    started.set();
    started.reset();
    auto late = coir::spawn([&] { wait(started.wait()); });
    wait(early.join());
    CHECK(through);
    let_run();
    CHECK(late.state() == fiber_state::waiting);
    CHECK_FALSE(started.is_set());
  });
}

TEST_CASE("a waiter of an event that is cancelled, or fails, is gone, and the others are woken") {
  support::jumping_on_both([](auto wait) {
    event started;
    auto cancelled = coir::spawn([&] { wait(started.wait()); });
    auto limited = coir::spawn([&] { return wait(coir::move_on_after(1s, started.wait())); });
    auto other = coir::spawn([&] { wait(started.wait()); });
    wait(coir::yield());
    cancelled.cancel();
    CHECK_FALSE(wait(limited.join()));
    CHECK(started.stats().waiting == 1);
    CHECK(started.stats().cancelled == 2);
    started.set();
    wait(other.join());
  });
}

TEST_CASE("a waiter that an event woke and that is cancelled before it runs has passed") {
  support::on_both_surfaces([](auto wait) {
    event started;
    bool passed = false;
    auto waiter = coir::spawn([&] {
      wait(started.wait());
      passed = true;
      wait(coir::yield());
      FAIL("it went on");
    });
    wait(coir::yield());
    started.set();
    waiter.cancel();
    wait(coir::end_op(waiter));
    CHECK(passed);
    CHECK(is(waiter, fiber_outcome::cancelled));
  });
}

TEST_CASE("who waits for an event that goes is left to wait") {
  support::on_both_surfaces([](auto wait) {
    auto started = std::make_unique<event>();
    auto left = coir::spawn([&] { wait(started->wait()); });
    wait(coir::yield());
    started.reset();
    let_run();
    CHECK(left.state() == fiber_state::waiting);
  });
}

TEST_CASE("the deadlock report says how often an event was set") {
  CHECK_THAT(deadlock_of([] {
               event started;
               started.set();
               started.reset();
               coir::await(started.wait());
             }),
             Contains("waiting in event, set 1 times so far at "));
}
