#include "told.hpp"

#include "support/catch.hpp"
#include "support/jumping.hpp"

#include <coir/coir.hpp>

#include <memory>
#include <string>

using namespace std::chrono_literals;
using Catch::Matchers::Contains;
using coir::fiber_outcome;
using coir::fiber_state;
using coir::latch;
using told::deadlock_of;
using told::is;
using told::let_run;
using told::refusal_of;

TEST_CASE("a latch opens when all have counted it down, and stays open") {
  support::on_both_surfaces([](auto wait) {
    latch loaded(3);
    std::string order;
    coir::with_nursery([&](coir::nursery& n) {
      for (const char who : {'a', 'b'}) {
        n.spawn([&, who] {
          wait(loaded.wait());
          order += who;
        });
      }
      wait(coir::yield());
      loaded.count_down(2);
      CHECK(loaded.left() == 1);
      let_run();
      CHECK(order.empty());
      loaded.count_down();
      CHECK(loaded.is_open());
    });
    CHECK(order == "ab");
    wait(loaded.wait());
    wait(latch(0).wait());
  });
}

TEST_CASE("arrive_and_wait counts down and waits for the others") {
  support::on_both_surfaces([](auto wait) {
    latch all(3);
    auto first = coir::spawn([&] { wait(all.arrive_and_wait()); });
    auto second = coir::spawn([&] { wait(all.arrive_and_wait()); });
    wait(coir::yield());
    CHECK(all.left() == 1);
    wait(all.arrive_and_wait());
    wait(first.join());
    wait(second.join());
    CHECK(all.stats().waited == 2);
  });
}

TEST_CASE("a cancelled arrive_and_wait takes the arrival back, and a cancelled wait takes nothing") {
  support::jumping_on_both([](auto wait) {
    latch all(2);
    auto arrived = coir::spawn([&] { wait(all.arrive_and_wait()); });
    auto waits = coir::spawn([&] { wait(all.wait()); });
    wait(coir::yield());
    CHECK(all.left() == 1);
    waits.cancel();
    CHECK(all.left() == 1);
    arrived.cancel();
    CHECK(all.left() == 2);
    CHECK_FALSE(wait(coir::move_on_after(1s, all.arrive_and_wait())));
    CHECK(all.left() == 2);
    CHECK(all.stats().cancelled == 3);
  });
}

TEST_CASE("a waiter that a latch woke and that is cancelled before it runs has passed, and its arrival counts") {
  support::on_both_surfaces([](auto wait) {
    latch all(2);
    bool passed = false;
    auto first = coir::spawn([&] {
      wait(all.arrive_and_wait());
      passed = true;
      wait(coir::yield());
    });
    wait(coir::yield());
    all.count_down();
    first.cancel();
    wait(coir::end_op(first));
    CHECK(passed);
    CHECK(all.is_open());
    CHECK(is(first, fiber_outcome::cancelled));
  });
}

TEST_CASE("a latch stays open also where a select that waited in it twice arrived with what it stops") {
  support::on_both_surfaces([](auto wait) {
    latch all(3);
    auto twice = coir::spawn([&] { wait(coir::select(all.wait(), all.arrive_and_wait())); });
    auto behind = coir::spawn([&] { wait(all.wait()); });
    let_run();
    CHECK(all.left() == 2);
    all.count_down(2);
    wait(twice.join());
    wait(behind.join());
    CHECK(all.is_open());
    CHECK(all.stats().waiting == 0);
  });
}

TEST_CASE("more arrivals than a latch expects are refused, and change nothing") {
  support::on_both_surfaces([](auto wait) {
    latch all(2);
    CHECK(refusal_of([&] { all.count_down(3); }) == "a latch was counted down by 3 and had 2 left");
    CHECK(refusal_of([&] { wait(all.arrive_and_wait(3)); }) == "a latch was counted down by 3 and had 2 left");
    CHECK(all.left() == 2);
    all.count_down(2);
    CHECK(refusal_of([&] { all.count_down(); }) == "a latch was counted down by 1 and had 0 left");
  });
}

TEST_CASE("who waits for a latch that goes is left to wait") {
  support::on_both_surfaces([](auto wait) {
    auto all = std::make_unique<latch>(2);
    auto left = coir::spawn([&] { wait(all->arrive_and_wait()); });
    wait(coir::yield());
    all.reset();
    let_run();
    CHECK(left.state() == fiber_state::waiting);
  });
}

TEST_CASE("the deadlock report says how many a latch waits for") {
  CHECK_THAT(deadlock_of([] {
               latch all(3);
               coir::await(all.arrive_and_wait());
             }),
             Contains("waiting in latch, 2 have to come at "));
}
