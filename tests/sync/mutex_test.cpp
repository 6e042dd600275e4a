#include "told.hpp"

#include "support/catch.hpp"
#include "support/jumping.hpp"

#include <coir/coir.hpp>
#include <coir/testing/suspension.hpp>

#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

using namespace std::chrono_literals;
using Catch::Matchers::Contains;
using coir::fiber_outcome;
using coir::fiber_state;
using coir::mutex;
using told::deadlock_of;
using told::has_line;
using told::is;
using told::let_run;
using told::refusal_of;

static_assert(!std::is_copy_constructible_v<mutex> && !std::is_move_constructible_v<mutex>);
static_assert(!std::is_copy_constructible_v<mutex::held> && std::is_nothrow_move_constructible_v<mutex::held> &&
              std::is_nothrow_move_assignable_v<mutex::held> && sizeof(mutex::held) == sizeof(void*));

// --- who has it ---

TEST_CASE("a mutex is handed over in the order in which fibers asked, and nobody is in it together") {
  support::on_both_surfaces([](auto wait) {
    mutex m;
    std::string order;
    int inside = 0;
    coir::with_nursery([&](coir::nursery& n) {
      for (const char who : {'a', 'b', 'c', 'd'}) {
        n.spawn([&, who] {
          for (int round = 0; round < 3; ++round) {
            auto held = wait(m.lock());
            CHECK(++inside == 1);
            wait(coir::yield());
            order += who;
            --inside;
          }
        });
      }
    });
    CHECK(order == "abcdabcdabcd");
    CHECK_FALSE(m.locked());
  });
}

TEST_CASE("a mutex that is free is locked without a suspension") {
  coir::run([] {
    mutex m;
    coir::testing::expect_no_suspension([&] {
      auto held = coir::await(m.lock());
      CHECK(m.locked());
    });
    CHECK_FALSE(m.locked());
  });
}

TEST_CASE("whoever unlocks and locks again comes behind those who wait: nobody barges in") {
  support::on_both_surfaces([](auto wait) {
    mutex m;
    std::string order;
    auto held = wait(m.lock());
    auto other = coir::spawn([&] {
      auto mine = wait(m.lock());
      order += 'o';
    });
    wait(coir::yield());
    held.unlock();
    CHECK(m.locked());
    CHECK_FALSE(m.owned());
    CHECK_FALSE(m.try_lock().has_value());
    held = wait(m.lock());
    order += 'm';
    wait(other.join());
    CHECK(order == "om");
  });
}

TEST_CASE("try_lock gives the lock when it is free, and nothing when another fiber has it") {
  support::on_both_surfaces([](auto wait) {
    mutex m;
    {
      auto held = m.try_lock();
      REQUIRE(held.has_value());
      CHECK(m.owned());
      auto other = coir::spawn([&] { return m.try_lock().has_value(); });
      CHECK_FALSE(wait(other.join()));
    }
    auto other = coir::spawn([&] { return m.try_lock().has_value(); });
    CHECK(wait(other.join()));
    CHECK_FALSE(m.locked());
  });
}

TEST_CASE("a mutex is owned by the fiber that has the lock, and by no other") {
  support::on_both_surfaces([](auto wait) {
    mutex m;
    CHECK_FALSE(m.owned());
    auto held = wait(m.lock());
    CHECK(m.owned());
    auto other = coir::spawn([&] { return m.owned(); });
    CHECK_FALSE(wait(other.join()));
    held.unlock();
    CHECK_FALSE(m.owned());
  });
}

TEST_CASE("a guard that moves takes the lock with it") {
  support::on_both_surfaces([](auto wait) {
    mutex one;
    mutex other;
    auto held = wait(one.lock());
    auto second = std::move(held);
    CHECK_FALSE(held);
    CHECK(second);
    CHECK(one.locked());
    auto third = wait(other.lock());
    third = std::move(second);
    CHECK(one.locked());
    CHECK_FALSE(other.locked());
    third.unlock();
    CHECK_FALSE(third);
    CHECK_FALSE(one.locked());
  });
}

TEST_CASE("a guard that another fiber was given unlocks where it is destroyed") {
  support::on_both_surfaces([](auto wait) {
    mutex m;
    auto held = std::make_unique<mutex::held>(wait(m.lock()));
    auto other = coir::spawn([&] { held.reset(); });
    wait(other.join());
    CHECK_FALSE(m.locked());
  });
}

// --- misuse ---

TEST_CASE("locking twice from one fiber throws and says since when it has the lock, also with try_lock") {
  support::on_both_surfaces([](auto wait) {
    mutex m;
    auto held = wait(m.lock());
    const std::string twice = refusal_of([&] { static_cast<void>(wait(m.lock())); });
    CHECK_THAT(twice, Contains("a mutex was locked twice by fiber 1 main, which has held it since "));
    CHECK_THAT(twice, Contains("mutex_test.cpp:"));
    CHECK(refusal_of([&] { static_cast<void>(m.try_lock()); }).substr(0, 30) == twice.substr(0, 30));
    CHECK(m.owned());
    CHECK(m.stats().waiting == 0);
  });
}

TEST_CASE("unlock by a fiber that is not the owner throws, and changes nothing") {
  support::on_both_surfaces([](auto wait) {
    mutex m;
    auto held = wait(m.lock());
    auto other = coir::spawn([&] { return refusal_of([&] { held.unlock(); }); }, coir::spawn_options().name("thief"));
    const std::string said = wait(other.take());
    CHECK_THAT(said, Contains("a mutex was unlocked by fiber 2 thief; fiber 1 main has held it since "));
    CHECK(m.owned());
    CHECK(held);
  });
}

TEST_CASE("unlocking twice, or what was moved from, throws") {
  support::on_both_surfaces([](auto wait) {
    mutex m;
    auto held = wait(m.lock());
    auto second = std::move(held);
    CHECK_THAT(refusal_of([&] { held.unlock(); }), Contains("a guard that has no lock was unlocked"));
    second.unlock();
    CHECK_THAT(refusal_of([&] { second.unlock(); }), Contains("a guard that has no lock was unlocked"));
  });
}

// --- cancellation, limits, ends ---

TEST_CASE("a waiter that is cancelled gives up its place, and the next one behind it gets the lock") {
  support::on_both_surfaces([](auto wait) {
    mutex m;
    auto held = wait(m.lock());
    auto first = coir::spawn([&] { static_cast<void>(wait(m.lock())); });
    bool got = false;
    auto second = coir::spawn([&] {
      auto mine = wait(m.lock());
      got = true;
    });
    wait(coir::yield());
    CHECK(m.stats().waiting == 2);
    first.cancel();
    CHECK(m.stats().waiting == 1);
    held.unlock();
    wait(second.join());
    CHECK(got);
    CHECK_FALSE(m.locked());
    CHECK(is(first, fiber_outcome::cancelled));
  });
}

TEST_CASE("a waiter that was handed the lock and is cancelled before it runs has it, and hands it on") {
  support::on_both_surfaces([](auto wait) {
    mutex m;
    auto held = wait(m.lock());
    bool had = false;
    auto first = coir::spawn([&] {
      auto mine = wait(m.lock());
      had = m.owned();
      wait(coir::yield());
      FAIL("it went on");
    });
    auto second = coir::spawn([&] { static_cast<void>(wait(m.lock())); });
    wait(coir::yield());
    held.unlock();
    first.cancel();
    wait(second.join());
    CHECK(had);
    CHECK(is(first, fiber_outcome::cancelled));
    CHECK_FALSE(m.locked());
  });
}

TEST_CASE("the lock of a fiber that died is had by the next, however it died") {
  support::on_both_surfaces([](auto wait) {
    mutex m;
    auto cancelled = coir::spawn([&] {
      auto held = wait(m.lock());
      wait(coir::sleep_for(1h));
    });
    auto failing = coir::spawn(
        [&] {
          auto held = wait(m.lock());
          wait(coir::yield());
          throw std::runtime_error("expected");
        },
        coir::report_failure);
    bool got = false;
    auto last = coir::spawn([&] {
      auto held = wait(m.lock());
      got = true;
    });
    wait(coir::yield());
    cancelled.cancel();
    wait(last.join());
    CHECK(got);
    CHECK(is(failing, fiber_outcome::failed));
  }, coir::run_options().on_failure([](const coir::fiber_base&, const std::exception_ptr&) {}));
}

TEST_CASE("a limit in time around a lock gives up the place when it is over") {
  support::jumping_on_both([](auto wait) {
    mutex m;
    auto held = wait(m.lock());
    auto other = coir::spawn([&] {
      const std::optional<mutex::held> got = wait(coir::move_on_after(1s, m.lock()));
      CHECK_FALSE(got.has_value());
      const std::optional<mutex::held> later = wait(coir::move_on_after(10s, m.lock()));
      CHECK(later.has_value());
    });
    wait(coir::sleep_for(2s));
    held.unlock();
    wait(other.join());
    CHECK_FALSE(m.locked());
  });
}

TEST_CASE("a destructor may lock, in a shielded scope, while its fiber is unwound") {
  coir::run([] {
    mutex m;
    int tidied = 0;
    struct tidy {
      mutex& m;
      int& tidied;
      ~tidy() {
        coir::cancel_scope guard;
        guard.shield();
        guard.run([this] {
          auto held = coir::await(m.lock());
          ++tidied;
        });
      }
    };
    auto held = coir::await(m.lock());
    auto other = coir::spawn([&] {
      const tidy at_the_end{m, tidied};
      coir::await(coir::sleep_for(1h));
    });
    coir::await(coir::yield());
    other.cancel();
    let_run();
    CHECK(tidied == 0);
    held.unlock();
    coir::await(coir::end_op(other));
    CHECK(tidied == 1);
    CHECK_FALSE(m.locked());
  });
}

TEST_CASE("guards that outlive the mutex have nothing to unlock, and who still waits is left to wait") {
  support::on_both_surfaces([](auto wait) {
    auto m = std::make_unique<mutex>();
    auto held = wait(m->lock());
    auto left = coir::spawn([&] { static_cast<void>(wait(m->lock())); });
    wait(coir::yield());
    m.reset();
    CHECK_FALSE(held);
    wait(coir::yield());
    CHECK(left.state() == fiber_state::waiting);
    left.cancel();
    wait(coir::end_op(left));
    CHECK(is(left, fiber_outcome::cancelled));
  });
}

TEST_CASE("who was handed the lock of a mutex that went before it ran has a guard without a lock") {
  support::on_both_surfaces([](auto wait) {
    auto m = std::make_unique<mutex>();
    auto held = wait(m->lock());
    auto other = coir::spawn([&] { return static_cast<bool>(wait(m->lock())); });
    wait(coir::yield());
    held.unlock();
    m.reset();
    CHECK_FALSE(wait(other.join()));
  });
}

// --- seen from outside ---

TEST_CASE("the deadlock report names the fiber that has the mutex, and where it locked it") {
  const auto held_for_ever = [](auto wait) {
    return [wait] {
      mutex one;
      mutex other;
      auto mine = wait(one.lock());
      auto child = coir::spawn(
          [&] {
            auto its = wait(other.lock());
            static_cast<void>(wait(one.lock()));
          },
          coir::spawn_options().name("worker"));
      wait(coir::yield());
      auto second = coir::spawn([&] { static_cast<void>(wait(one.lock())); });
      wait(coir::yield());
      static_cast<void>(wait(other.lock()));
    };
  };
  for (const std::string& said :
       {deadlock_of(held_for_ever(support::on_stack())), deadlock_of(held_for_ever(support::in_coroutine()))}) {
    CHECK_THAT(said, has_line("*fiber 1 main: waiting in mutex held by fiber 2 worker since "
                              "*mutex_test.cpp:[0-9][0-9][0-9] at *"));
    CHECK_THAT(said, has_line("*fiber 2 worker: waiting in mutex held by fiber 1 main since "
                              "*mutex_test.cpp:[0-9][0-9][0-9] at *"));
    CHECK_THAT(said, has_line("*fiber 3: waiting in mutex held by fiber 1 main since "
                              "*mutex_test.cpp:[0-9][0-9][0-9], behind 1 at *"));
  }
}

TEST_CASE("a deadlock of many tells who has the lock where the first wait, and of those far behind that they are") {
  const std::string said = deadlock_of([] {
    mutex m;
    coir::event never;
    coir::with_nursery([&](coir::nursery& n) {
      for (int i = 0; i < 5'000; ++i) {
        n.spawn([](mutex& of, coir::event& end) -> coir::task<> {
          auto held = co_await of.lock();
          co_await end.wait();
        }(m, never));
      }
    });
  });
  CHECK_THAT(said, Contains("fiber 3: waiting in mutex held by fiber 2 since "));
  const std::size_t last_told = said.find("fiber 102: waiting in mutex held by fiber 2 since ");
  REQUIRE(last_told != std::string::npos);
  CHECK_THAT(said.substr(last_told, said.find('\n', last_told) - last_told), Contains(", behind 99 at "));
  CHECK_THAT(said, Contains("fiber 103: waiting in mutex, behind 100 or more at "));
  CHECK_THAT(said, Contains("fiber 5001: waiting in mutex, behind 100 or more at "));
}

TEST_CASE("a mutex counts how often it was taken, waited for, and given up") {
  support::on_both_surfaces([](auto wait) {
    mutex m;
    auto held = wait(m.lock());
    auto first = coir::spawn([&] { static_cast<void>(wait(m.lock())); });
    auto second = coir::spawn([&] { static_cast<void>(wait(m.lock())); });
    wait(coir::yield());
    CHECK(m.stats().waiting == 2);
    first.cancel();
    held.unlock();
    wait(second.join());
    CHECK(m.stats().taken == 2);
    CHECK(m.stats().waited == 2);
    CHECK(m.stats().cancelled == 1);
    CHECK(m.stats().waiting == 0);
  });
}
