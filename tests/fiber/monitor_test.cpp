#include "hand_op.hpp"
#include "surfaces.hpp"
#include "until.hpp"

#include "support/both.hpp"
#include "support/catch.hpp"

#include <coir/coir.hpp>

#include <optional>
#include <stdexcept>
#include <vector>

using Catch::Matchers::Contains;
using coir::fiber_outcome;
using support::hand;
using support::hand_op;
using support::on_both_surfaces;

namespace {

struct nobody : coir::waiter {
  nobody() : waiter(kind) {}
  static constexpr coir::waiter_kind kind{[](coir::waiter&) noexcept {}};
};

auto spawn_waiting(hand& hold) {
  return coir::spawn([&hold] { return coir::await(hand_op(hold)); });
}

}  // namespace

TEST_CASE("a death is told once, in the order of deaths, with the fiber that died") {
  on_both_surfaces([](auto wait) {
    hand one, two;
    auto first = spawn_waiting(one);
    auto second = spawn_waiting(two);
    coir::monitor deaths;
    CHECK(deaths.watch(first));
    CHECK(deaths.watch(second));
    CHECK_FALSE(deaths.watch(first));
    coir::await(coir::yield());
    two.complete(2);
    one.complete(1);
    coir::handle_base dead = wait(deaths.next());
    CHECK(dead == second);
    CHECK(dead.outcome() == fiber_outcome::returned);
    dead = wait(deaths.next());
    CHECK(dead == first);
    CHECK_FALSE(static_cast<bool>(deaths.try_next()));
    CHECK(deaths.stats().told == 2);
    CHECK(deaths.stats().watched == 0);
  });
}

TEST_CASE("each of several monitors is told, each once") {
  on_both_surfaces([](auto wait) {
    hand hold;
    auto child = spawn_waiting(hold);
    coir::monitor one, two;
    one.watch(child);
    two.watch(child);
    hold.complete();
    CHECK(wait(one.next()) == child);
    CHECK(wait(two.next()) == child);
    CHECK_FALSE(static_cast<bool>(one.try_next()));
    CHECK_FALSE(static_cast<bool>(two.try_next()));
  });
}

TEST_CASE("watching a dead fiber tells at once, and again after that was taken") {
  on_both_surfaces([](auto wait) {
    auto child = coir::spawn([] {});
    coir::await(child.join());
    coir::monitor deaths;
    CHECK(deaths.watch(child));
    CHECK_FALSE(deaths.watch(child));
    CHECK(wait(deaths.next()) == child);
    CHECK(deaths.watch(child));
    CHECK(deaths.try_next() == child);
  });
}

TEST_CASE("a parent that monitors a failing child is told, and goes on") {
  on_both_surfaces([](auto wait) {
    coir::monitor deaths;
    auto child = coir::spawn([] { throw std::runtime_error("it broke"); });
    deaths.watch(child);
    const coir::handle_base dead = wait(deaths.next());
    CHECK(dead == child);
    CHECK(dead.outcome() == fiber_outcome::failed);
    CHECK_THROWS_WITH(wait(child.join()), "it broke");
    coir::await(coir::yield());
  });
}

TEST_CASE("a fiber that nobody watches any more fails towards its region") {
  on_both_surfaces([](auto wait) {
    auto parent = coir::spawn([] {
      hand hold;
      auto child = coir::spawn([&] {
        coir::await(hand_op(hold));
        throw std::runtime_error("it broke");
      });
      {
        coir::monitor gone, deaths;
        gone.watch(child);
        deaths.watch(child);
        CHECK(deaths.unwatch(child));
        CHECK_FALSE(deaths.unwatch(child));
        coir::await(coir::yield());
      }
      hold.complete();
      coir::await(coir::sleep_until(coir::never));
    });
    CHECK_THROWS_WITH(wait(parent.join()), "it broke");
  });
}

TEST_CASE("a death that was not taken yet is forgotten by unwatch") {
  coir::run([] {
    coir::monitor deaths;
    auto one = coir::spawn([] {});
    auto two = coir::spawn([] {});
    deaths.watch(one);
    deaths.watch(two);
    coir::await(two.join());
    CHECK(deaths.stats().untold == 2);
    CHECK(deaths.unwatch(one));
    CHECK(deaths.try_next() == two);
    CHECK_FALSE(static_cast<bool>(deaths.try_next()));
    CHECK(deaths.stats().untold == 0);
  });
}

TEST_CASE("a next() that is cancelled loses no death") {
  surfaces::for_each([](auto surface) {
    coir::run([&] {
      hand hold;
      coir::monitor deaths;
      auto child = spawn_waiting(hold);
      deaths.watch(child);
      // Cancelled while it waits.
      auto waits = surface.spawn(deaths.next());
      support::until([&] { return support::waiting(waits); });
      waits.cancel();
      coir::await(coir::end_op(waits));
      CHECK(waits.outcome() == fiber_outcome::cancelled);
      // Cancelled when it has been woken: what it was woken with is its result.
      auto woken = surface.spawn(deaths.next());
      auto behind = surface.spawn(deaths.next());
      support::until([&] { return support::waiting(woken) && support::waiting(behind); });
      hold.complete();
      support::until([&] { return woken.state() != coir::fiber_state::waiting; });
      woken.cancel();
      CHECK(coir::await(woken.join()) == child);
      CHECK(support::waiting(behind));
      behind.cancel();
    });
  });
}

TEST_CASE("a death that was given to an op and not taken goes to the next in line") {
  coir::run([] {
    nobody told;
    hand hold;
    coir::monitor deaths;
    auto child = spawn_waiting(hold);
    auto other = coir::spawn([] {});
    deaths.watch(child);
    std::optional<coir::death_op> dropped(deaths.next());
    REQUIRE(dropped->start(told));
    hold.complete();
    coir::await(child.join());
    CHECK(dropped->abort() == coir::abort_answer::later);
    coir::await(other.join());
    deaths.watch(other);
    SECTION("nobody waits: it is the first again") {
      dropped.reset();
      CHECK(deaths.try_next() == child);
      CHECK(deaths.try_next() == other);
    }
    SECTION("somebody waits: that one is woken") {
      CHECK(deaths.try_next() == other);
      auto waits = coir::spawn([&] { return coir::await(deaths.next()); });
      support::until([&] { return support::waiting(waits); });
      dropped.reset();
      CHECK(coir::await(waits.join()) == child);
    }
  });
}

TEST_CASE("fibers that wait at a monitor get the deaths in the order in which they came") {
  coir::run([] {
    coir::monitor deaths;
    std::vector<coir::fiber<coir::handle_base>> waits;
    for (int i = 0; i < 3; ++i) waits.push_back(coir::spawn([&] { return coir::await(deaths.next()); }));
    support::until([&] { return support::waiting(waits.back()); });
    std::vector<coir::fiber<void>> dying;
    for (int i = 0; i < 3; ++i) {
      dying.push_back(coir::spawn([] {}));
      deaths.watch(dying.back());
    }
    for (std::size_t i = 0; i < 3; ++i) CHECK(coir::await(waits[i].join()) == dying[i]);
  });
}

TEST_CASE("destroying a monitor leaves nothing behind, whoever lives") {
  coir::run([] {
    hand hold;
    auto child = spawn_waiting(hold);
    auto dead = coir::spawn([] {});
    coir::await(dead.join());
    for (int i = 0; i < 1000; ++i) {
      coir::monitor deaths;
      deaths.watch(child);
      deaths.watch(dead);
    }
    hold.complete(3);
    CHECK(coir::await(child.join()) == 3);
  });
}

TEST_CASE("a monitor keeps what it watches readable, without a handle") {
  coir::run([] {
    coir::monitor deaths;
    for (int i = 0; i < 10; ++i) deaths.watch(coir::spawn([] {}, coir::spawn_options().name("brief")));
    for (int i = 0; i < 10; ++i) CHECK(coir::await(deaths.next()).name() == "brief");
  });
}

TEST_CASE("monitoring a fiber that is restarted tells of its end, and not of its runs") {
  coir::run([] {
    coir::monitor deaths;
    int runs = 0;
    auto child = coir::spawn([&] {
      if (++runs < 3) coir::await(coir::sleep_until(coir::never));
    });
    deaths.watch(child);
    for (int i = 1; i < 3; ++i) {
      support::until([&] { return support::waiting(child) && runs == i; });
      CHECK(child.restart());
    }
    CHECK(coir::await(deaths.next()) == child);
    CHECK(runs == 3);
    CHECK_FALSE(static_cast<bool>(deaths.try_next()));
  });
}

TEST_CASE("waiting for a death that cannot come is a deadlock, and says what is waited for") {
  try {
    coir::run([] {
      coir::monitor deaths;
      static_cast<void>(coir::await(deaths.next()));
    });
    FAIL("no deadlock");
  } catch (const coir::deadlock& report) {
    CHECK_THAT(report.what(), Contains("a death among 0 fibers"));
  }
}

TEST_CASE("an empty handle is a logic_error") {
  coir::run([] {
    coir::monitor deaths;
    CHECK_THROWS_AS(deaths.watch(coir::handle_base()), std::logic_error);
    CHECK_FALSE(deaths.unwatch(coir::handle_base()));
  });
}
