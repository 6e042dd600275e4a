#include "told.hpp"

#include "support/catch.hpp"
#include "support/jumping.hpp"

#include <coir/coir.hpp>

#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <type_traits>

using namespace std::chrono_literals;
using Catch::Matchers::Contains;
using coir::fiber_outcome;
using coir::fiber_state;
using coir::semaphore;
using told::deadlock_of;
using told::has_line;
using told::is;
using told::let_run;
using told::refusal_of;

static_assert(!std::is_copy_constructible_v<semaphore::permit> &&
              std::is_nothrow_move_constructible_v<semaphore::permit>);

TEST_CASE("so many as a semaphore has permits are in at a time, and all come in") {
  support::on_both_surfaces([](auto wait) {
    semaphore gate(10);
    int inside = 0;
    int most = 0;
    int all = 0;
    coir::with_nursery([&](coir::nursery& n) {
      for (int i = 0; i < 100; ++i) {
        n.spawn([&] {
          auto permit = wait(gate.acquire());
          most = std::max(most, ++inside);
          wait(coir::yield());
          --inside;
          ++all;
        });
      }
    });
    CHECK(most == 10);
    CHECK(all == 100);
    CHECK(gate.available() == 10);
    CHECK(gate.stats().acquired == 100);
    CHECK(gate.stats().waited == 90);
  });
}

TEST_CASE("a big request at the front is not starved by small ones behind it") {
  support::on_both_surfaces([](auto wait) {
    semaphore gate(3);
    std::string order;
    auto one = wait(gate.acquire());
    const auto wants = [&](std::size_t count, char who) {
      return coir::spawn([&, count, who] {
        auto permit = wait(gate.acquire(count));
        order += who;
        wait(coir::yield());
      });
    };
    auto big = wants(3, 'B');
    auto small = wants(1, 's');
    auto other = wants(1, 't');
    let_run();
    CHECK(order.empty());
    CHECK(gate.available() == 2);
    CHECK_FALSE(gate.try_acquire().has_value());
    one.release();
    wait(other.join());
    wait(small.join());
    CHECK(order == "Bst");
  });
}

TEST_CASE("when a big request at the front is cancelled those behind it that fit go at once") {
  support::on_both_surfaces([](auto wait) {
    semaphore gate(3);
    auto one = wait(gate.acquire());
    auto big = coir::spawn([&] { static_cast<void>(wait(gate.acquire(3))); });
    int in = 0;
    const auto small = [&] {
      auto permit = wait(gate.acquire());
      ++in;
      wait(coir::sleep_for(1h));
    };
    coir::spawn(small);
    coir::spawn(small);
    coir::spawn(small);
    let_run();
    CHECK(in == 0);
    big.cancel();
    let_run();
    CHECK(in == 2);
    CHECK(gate.available() == 0);
    one.release();
    let_run();
    CHECK(in == 3);
  });
}

TEST_CASE("try_acquire takes what is there, and nothing when it is not enough") {
  support::on_both_surfaces([](auto wait) {
    semaphore gate(2);
    auto one = gate.try_acquire(2);
    REQUIRE(one.has_value());
    CHECK(one->count() == 2);
    CHECK_FALSE(gate.try_acquire().has_value());
    one.reset();
    CHECK_FALSE(gate.try_acquire(3).has_value());
    CHECK(gate.available() == 2);
    wait(coir::yield());
  });
}

TEST_CASE("release adds permits, and lets in those for whom there is enough, in order") {
  support::on_both_surfaces([](auto wait) {
    semaphore gate(0);
    std::string order;
    coir::with_nursery([&](coir::nursery& n) {
      for (const char who : {'a', 'b', 'c'}) {
        n.spawn([&, who] {
          auto permit = wait(gate.acquire(2));
          order += who;
          permit.keep();
        });
      }
      wait(coir::yield());
      gate.release();
      let_run();
      CHECK(order.empty());
      gate.release(3);
      let_run();
      CHECK(order == "ab");
      gate.release(2);
    });
    CHECK(order == "abc");
    CHECK(gate.available() == 0);
  });
}

TEST_CASE("a permit that moves takes along what it stands for, and one that is kept gives nothing back") {
  support::on_both_surfaces([](auto wait) {
    semaphore gate(5);
    auto one = wait(gate.acquire(2));
    auto other = std::move(one);
    CHECK_FALSE(one);
    CHECK(one.count() == 0);
    CHECK(other.count() == 2);
    auto third = wait(gate.acquire(1));
    third = std::move(other);
    CHECK(gate.available() == 3);
    third.keep();
    CHECK_FALSE(third);
    CHECK(gate.available() == 3);
    gate.release(2);
    CHECK(gate.available() == 5);
  });
}

TEST_CASE("a waiter that was handed its permits and is cancelled before it runs has them, and gives them back") {
  support::on_both_surfaces([](auto wait) {
    semaphore gate(1);
    auto one = wait(gate.acquire());
    bool had = false;
    auto first = coir::spawn([&] {
      auto permit = wait(gate.acquire());
      had = true;
      wait(coir::yield());
    });
    auto second = coir::spawn([&] { static_cast<void>(wait(gate.acquire())); });
    wait(coir::yield());
    one.release();
    first.cancel();
    wait(second.join());
    CHECK(had);
    CHECK(is(first, fiber_outcome::cancelled));
    CHECK(gate.available() == 1);
  });
}

TEST_CASE("a limit in time around an acquire takes no permit when it is over") {
  support::jumping_on_both([](auto wait) {
    semaphore gate(1);
    const std::optional<semaphore::permit> got = wait(coir::move_on_after(1s, gate.acquire(2)));
    CHECK_FALSE(got.has_value());
    CHECK(gate.available() == 1);
    CHECK(gate.stats().cancelled == 1);
  });
}

TEST_CASE("none, or more than can be counted, is refused by a semaphore") {
  support::on_both_surfaces([](auto wait) {
    semaphore gate(1);
    CHECK_THAT(refusal_of([&] { static_cast<void>(wait(gate.acquire(0))); }), Contains("0 permits"));
    CHECK_THAT(refusal_of([&] { static_cast<void>(gate.try_acquire(0)); }), Contains("0 permits"));
    CHECK_THAT(refusal_of([&] { gate.release(0); }), Contains("0 permits"));
    CHECK_THAT(refusal_of([&] { gate.release(std::numeric_limits<std::size_t>::max()); }),
               Contains("were released to a semaphore that has 1: more than can be counted"));
    CHECK(gate.available() == 1);
  });
}

TEST_CASE("permits that outlive their semaphore stand for nothing, and who still waits is left to wait") {
  support::on_both_surfaces([](auto wait) {
    auto gate = std::make_unique<semaphore>(1);
    auto permit = wait(gate->acquire());
    auto left = coir::spawn([&] { static_cast<void>(wait(gate->acquire())); });
    wait(coir::yield());
    gate.reset();
    CHECK_FALSE(permit);
    permit.release();
    let_run();
    CHECK(left.state() == fiber_state::waiting);
  });
}

TEST_CASE("the deadlock report says what is wanted of a semaphore, what there is, and who has the rest") {
  const std::string said = deadlock_of([] {
    semaphore gate(7);
    auto mine = coir::await(gate.acquire(2));
    for (int i = 0; i < 4; ++i) {
      coir::spawn(
          [&] {
            auto permit = coir::await(gate.acquire());
            coir::await(coir::yield());
            static_cast<void>(coir::await(gate.acquire(2)));
          },
          coir::spawn_options().name("greedy"));
    }
    coir::await(coir::yield());
    static_cast<void>(coir::await(gate.acquire(2)));
  });
  CHECK_THAT(said, has_line("*fiber 1 main: waiting in semaphore for 2, 1 available held by fiber 1 main since *, "
                            "fiber 2 greedy since *, fiber 3 greedy since *, fiber 4 greedy since * "
                            "and 1 more at *"));
  CHECK_THAT(said, Contains("and 1 more, behind 4 at "));
}
