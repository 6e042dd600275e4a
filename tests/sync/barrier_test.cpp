#include "told.hpp"

#include "support/catch.hpp"
#include "support/jumping.hpp"

#include <coir/coir.hpp>

#include <memory>
#include <string>

using namespace std::chrono_literals;
using Catch::Matchers::Contains;
using coir::barrier;
using coir::fiber_outcome;
using coir::fiber_state;
using told::deadlock_of;
using told::is;
using told::let_run;
using told::refusal_of;

TEST_CASE("the fibers of a barrier go on together, round by round, and one of each round was the last") {
  support::on_both_surfaces([](auto wait) {
    barrier all(4);
    int steps[4] = {};
    int lasts = 0;
    coir::with_nursery([&](coir::nursery& n) {
      for (int who = 0; who < 4; ++who) {
        n.spawn([&, who] {
          for (int round = 1; round <= 5; ++round) {
            for (int i = 0; i < who; ++i) wait(coir::yield());
            ++steps[who];
            lasts += wait(all.arrive_and_wait()) ? 1 : 0;
            for (const int step : steps) CHECK((step == round || step == round + 1));
          }
        });
      }
    });
    CHECK(lasts == 5);
    CHECK(all.stats().rounds == 5);
    CHECK(all.stats().waiting == 0);
  });
}

TEST_CASE("whoever arrives after the last is the first of the next round") {
  support::on_both_surfaces([](auto wait) {
    barrier all(2);
    auto first = coir::spawn([&] { return wait(all.arrive_and_wait()); });
    wait(coir::yield());
    CHECK(wait(all.arrive_and_wait()));
    // The first has not run yet.
    auto second = coir::spawn([&] { return wait(all.arrive_and_wait()); }, coir::spawn_options().first());
    wait(coir::yield());
    CHECK_FALSE(wait(first.join()));
    CHECK(second.state() == fiber_state::waiting);
    CHECK(all.stats().waiting == 1);
    CHECK(wait(all.arrive_and_wait()));
    CHECK_FALSE(wait(second.join()));
  });
}

TEST_CASE("a cancelled waiter of a barrier takes its arrival back") {
  support::jumping_on_both([](auto wait) {
    barrier all(3);
    auto first = coir::spawn([&] { static_cast<void>(wait(all.arrive_and_wait())); });
    auto second = coir::spawn([&] { static_cast<void>(wait(all.arrive_and_wait())); });
    wait(coir::yield());
    first.cancel();
    CHECK(all.stats().waiting == 1);
    CHECK(all.stats().cancelled == 1);
    CHECK_FALSE(wait(coir::move_on_after(1s, all.arrive_and_wait())).has_value());
    CHECK(all.stats().waiting == 1);
    auto third = coir::spawn([&] { static_cast<void>(wait(all.arrive_and_wait())); });
    wait(coir::yield());
    CHECK(wait(all.arrive_and_wait()));
    wait(second.join());
    wait(third.join());
  });
}

TEST_CASE("a waiter whose round is complete and who is cancelled before it runs has met the others") {
  support::on_both_surfaces([](auto wait) {
    barrier all(2);
    bool met = false;
    auto first = coir::spawn([&] {
      met = !wait(all.arrive_and_wait());
      wait(coir::yield());
    });
    wait(coir::yield());
    CHECK(wait(all.arrive_and_wait()));
    first.cancel();
    wait(coir::end_op(first));
    CHECK(met);
    CHECK(is(first, fiber_outcome::cancelled));
    CHECK(all.stats().waiting == 0);
  });
}

TEST_CASE("two ops of one select at a barrier make no round of their own, and one that they complete is whole") {
  support::on_both_surfaces([](auto wait) {
    barrier pair(2);
    auto twice = coir::spawn(
        [&] { static_cast<void>(wait(coir::select(pair.arrive_and_wait(), pair.arrive_and_wait()))); });
    let_run();
    CHECK(pair.stats().rounds == 0);
    twice.cancel();
    wait(coir::end_op(twice));
    CHECK(pair.stats().waiting == 0);

    barrier all(3);
    twice = coir::spawn(
        [&] { static_cast<void>(wait(coir::select(all.arrive_and_wait(), all.arrive_and_wait()))); });
    let_run();
    CHECK(wait(all.arrive_and_wait()));
    wait(twice.join());
    CHECK(all.stats().rounds == 1);
    CHECK(all.stats().waiting == 0);
  });
}

TEST_CASE("an arrival that is awaited again was the last only where it was") {
  coir::run([] {
    barrier all(2);
    auto arriving = all.arrive_and_wait();
    for (int round = 0; round < 4; ++round) {
      const bool first = round % 2 != 0;
      auto other = coir::spawn([&] { return coir::await(all.arrive_and_wait()); });
      if (!first) coir::await(coir::yield());
      CHECK(coir::await(arriving) == !first);
      CHECK(coir::await(other.join()) == first);
    }
  });
}

TEST_CASE("a barrier for one never waits, and one for nobody is refused") {
  support::on_both_surfaces([](auto wait) {
    barrier alone(1);
    CHECK(wait(alone.arrive_and_wait()));
    CHECK(wait(alone.arrive_and_wait()));
    CHECK_THAT(refusal_of([] { const barrier none(0); }), Contains("a barrier for 0 fibers"));
  });
}

TEST_CASE("who waits at a barrier that goes is left to wait") {
  support::on_both_surfaces([](auto wait) {
    auto all = std::make_unique<barrier>(2);
    auto left = coir::spawn([&] { static_cast<void>(wait(all->arrive_and_wait())); });
    wait(coir::yield());
    all.reset();
    let_run();
    CHECK(left.state() == fiber_state::waiting);
  });
}

TEST_CASE("the deadlock report says how many have come to a barrier, and how many it is for") {
  CHECK_THAT(deadlock_of([] {
               barrier all(4);
               coir::spawn([&] { static_cast<void>(coir::await(all.arrive_and_wait())); });
               static_cast<void>(coir::await(all.arrive_and_wait()));
             }),
             Contains("waiting in barrier, 2 of 4 have come at "));
}
