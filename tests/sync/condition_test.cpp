#include "told.hpp"

#include "support/catch.hpp"
#include "support/jumping.hpp"

#include <coir/coir.hpp>

#include <deque>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>

using namespace std::chrono_literals;
using Catch::Matchers::Contains;
using coir::condition;
using coir::fiber_outcome;
using coir::fiber_state;
using coir::mutex;
using told::deadlock_of;
using told::has_line;
using told::is;
using told::let_run;
using told::refusal_of;

TEST_CASE("a wait in a condition unlocks the mutex, and has it again when it returns") {
  support::on_both_surfaces([](auto wait) {
    mutex m;
    condition changed;
    bool ready = false;
    auto other = coir::spawn([&] {
      auto held = wait(m.lock());
      wait(changed.wait(held));
      CHECK(held);
      CHECK(m.owned());
      CHECK(ready);
    });
    wait(coir::yield());
    auto held = wait(m.lock());
    ready = true;
    CHECK(changed.notify_one());
    let_run();
    CHECK(m.owned());
    CHECK(other.state() == fiber_state::waiting);
    held.unlock();
    wait(other.join());
    CHECK_FALSE(m.locked());
  });
}

TEST_CASE("notify_one wakes who waits longest, and notify_all all of them, who come one by one") {
  support::on_both_surfaces([](auto wait) {
    mutex m;
    condition changed;
    std::string order;
    int inside = 0;
    coir::with_nursery([&](coir::nursery& n) {
      for (const char who : {'a', 'b', 'c', 'd'}) {
        n.spawn([&, who] {
          auto held = wait(m.lock());
          wait(changed.wait(held));
          CHECK(++inside == 1);
          wait(coir::yield());
          --inside;
          order += who;
        });
      }
      wait(coir::yield());
      CHECK(changed.stats().waiting == 4);
      CHECK(changed.notify_one());
      let_run();
      CHECK(order == "a");
      CHECK(changed.notify_all() == 3);
      CHECK_FALSE(changed.notify_one());
      CHECK(changed.notify_all() == 0);
    });
    CHECK(order == "abcd");
  });
}

TEST_CASE("a wait with a predicate returns when that is true, and not before") {
  coir::run([] {
    mutex m;
    condition changed;
    std::deque<int> jobs;
    int asked = 0;
    const auto body = [&]() -> coir::task<int> {
      auto held = co_await m.lock();
      co_await changed.wait(held, [&] {
        ++asked;
        return jobs.size() == 2;
      });
      CHECK(m.owned());
      co_return jobs.front();
    };
    auto in_coroutine = coir::spawn(body());
    auto on_stack = coir::spawn([&] {
      auto held = coir::await(m.lock());
      coir::await(changed.wait(held, [&] { return jobs.size() == 2; }));
      return jobs.back();
    });
    let_run();
    for (const int job : {1, 2}) {
      auto held = coir::await(m.lock());
      jobs.push_back(job);
      changed.notify_all();
      held.unlock();
      let_run();
    }
    CHECK(coir::await(in_coroutine.join()) == 1);
    CHECK(coir::await(on_stack.join()) == 2);
    CHECK(asked == 3);
    CHECK_FALSE(m.locked());
  });
}

TEST_CASE("what a predicate throws leaves the wait with the mutex held") {
  coir::run([] {
    mutex m;
    condition changed;
    auto held = coir::await(m.lock());
    const auto fails = []() -> bool { throw std::runtime_error("expected"); };
    CHECK_THROWS_AS(coir::await(changed.wait(held, fails)), std::runtime_error);
    CHECK(m.owned());
  });
}

// --- limits and cancellation ---

TEST_CASE("a wait that is out of time says so, and one that was notified says so, and both hold the mutex") {
  support::jumping_on_both([](auto wait) {
    mutex m;
    condition changed;
    auto held = wait(m.lock());
    CHECK_FALSE(wait(coir::move_on_after(1s, changed.wait(held))));
    CHECK(m.owned());
    CHECK(held);
    auto other = coir::spawn([&] {
      auto mine = wait(m.lock());
      changed.notify_one();
    });
    CHECK(wait(coir::move_on_after(1s, changed.wait(held))));
    CHECK(m.owned());
    wait(other.join());
    CHECK(changed.stats().waited == 2);
    CHECK(changed.stats().notified == 1);
    CHECK(changed.stats().cancelled == 1);
  });
}

TEST_CASE("a wait that is out of time while another has the mutex returns when that lets go, and holds it") {
  support::jumping_on_both([](auto wait) {
    mutex m;
    condition changed;
    auto other = coir::spawn([&] {
      wait(coir::yield());
      auto mine = wait(m.lock());
      wait(coir::sleep_for(10s));
    });
    auto held = wait(m.lock());
    const coir::instant begin = support::now();
    CHECK_FALSE(wait(coir::move_on_after(1s, changed.wait(held))));
    CHECK(support::now() - begin == 10s);
    CHECK(m.owned());
    CHECK(held);
    wait(other.join());
  });
}

TEST_CASE("fail_after around a wait throws with the mutex held") {
  support::jumping_on_both([](auto wait) {
    mutex m;
    condition changed;
    auto held = wait(m.lock());
    CHECK_THROWS_AS(wait(coir::fail_after(1s, changed.wait(held))), coir::timed_out);
    CHECK(m.owned());
  });
}

TEST_CASE("a cancelled waiter holds the mutex again when `cancelled` leaves the wait") {
  support::on_both_surfaces([](auto wait) {
    for (const bool is_free : {true, false}) {
      mutex m;
      condition changed;
      bool owned = false;
      auto waiter = coir::spawn([&] {
        auto held = wait(m.lock());
        try {
          wait(changed.wait(held));
        } catch (const coir::cancelled&) {
          owned = m.owned() && held;
          throw;
        }
      });
      wait(coir::yield());
      std::optional<mutex::held> mine;
      if (!is_free) mine.emplace(wait(m.lock()));
      waiter.cancel();
      let_run();
      CHECK(waiter.state() == (is_free ? fiber_state::dead : fiber_state::waiting));
      mine.reset();
      wait(coir::end_op(waiter));
      CHECK(owned);
      CHECK(is(waiter, fiber_outcome::cancelled));
      CHECK_FALSE(m.locked());
      CHECK(coir::running_fiber().home().stats().swallowed == 0);
    }
  });
}

TEST_CASE("a waiter that is interrupted while another has the mutex gets what it was interrupted with, and the mutex") {
  support::on_both_surfaces([](auto wait) {
    mutex m;
    condition changed;
    bool owned = false;
    auto waiter = coir::spawn([&] {
      auto held = wait(m.lock());
      try {
        wait(changed.wait(held));
      } catch (const std::runtime_error&) {
        owned = m.owned();
      }
    });
    wait(coir::yield());
    auto mine = wait(m.lock());
    waiter.interrupt(std::runtime_error("expected"));
    let_run();
    mine.unlock();
    wait(waiter.join());
    CHECK(owned);
  });
}

TEST_CASE("a wait that is out of time does not absorb the next notification") {
  support::jumping_on_both([](auto wait) {
    mutex m;
    condition changed;
    bool told = false;
    auto first = coir::spawn([&] {
      auto held = wait(m.lock());
      CHECK_FALSE(wait(coir::move_on_after(1s, changed.wait(held))));
    });
    auto second = coir::spawn([&] {
      auto held = wait(m.lock());
      wait(changed.wait(held));
      told = true;
    });
    wait(coir::yield());
    auto held = wait(m.lock());
    wait(coir::sleep_for(2s));
    // The first is out of time, and waits for the mutex.
    CHECK(first.state() == fiber_state::waiting);
    CHECK(changed.notify_one());
    CHECK_FALSE(changed.notify_one());
    held.unlock();
    wait(second.join());
    CHECK(told);
    wait(first.join());
  });
}

TEST_CASE("a waiter that was notified and is cancelled before it has the mutex keeps its notification") {
  support::on_both_surfaces([](auto wait) {
    mutex m;
    condition changed;
    bool returned = false;
    auto waiter = coir::spawn([&] {
      auto held = wait(m.lock());
      wait(changed.wait(held));
      returned = m.owned();
      wait(coir::yield());
      FAIL("it went on");
    });
    wait(coir::yield());
    auto held = wait(m.lock());
    CHECK(changed.notify_one());
    waiter.cancel();
    held.unlock();
    wait(coir::end_op(waiter));
    CHECK(returned);
    CHECK(is(waiter, fiber_outcome::cancelled));
    CHECK_FALSE(m.locked());
  });
}

TEST_CASE("a waiter that was notified and is out of time before it has the mutex was notified") {
  support::jumping_on_both([](auto wait) {
    mutex m;
    condition changed;
    auto waiter = coir::spawn([&] {
      auto held = wait(m.lock());
      CHECK(wait(coir::move_on_after(1s, changed.wait(held))));
      CHECK(m.owned());
    });
    wait(coir::yield());
    auto held = wait(m.lock());
    CHECK(changed.notify_one());
    wait(coir::sleep_for(2s));
    held.unlock();
    wait(waiter.join());
  });
}

// --- misuse, ends, looks from outside ---

TEST_CASE("a wait with a guard that has no lock, or another fiber's, throws") {
  support::on_both_surfaces([](auto wait) {
    mutex m;
    condition changed;
    mutex::held none;
    CHECK_THAT(refusal_of([&] { wait(changed.wait(none)); }), Contains("needs a guard that has its lock"));
    auto held = wait(m.lock());
    auto other = coir::spawn([&] { return refusal_of([&] { wait(changed.wait(held)); }); });
    CHECK_THAT(wait(other.join()), Contains("a wait in a condition with a lock of another fiber: fiber 1 main has held it"));
    CHECK(m.owned());
  });
}

TEST_CASE("waiters of a condition or a mutex that has gone wait until they are cancelled") {
  support::on_both_surfaces([](auto wait) {
    // Which goes first: the condition, the mutex, the mutex after a notification.
    for (int which = 0; which < 3; ++which) {
      auto m = std::make_unique<mutex>();
      auto changed = std::make_unique<condition>();
      auto waiter = coir::spawn([&] {
        auto held = wait(m->lock());
        wait(changed->wait(held));
      });
      wait(coir::yield());
      auto mine = wait(m->lock());
      if (which == 2) changed->notify_one();
      if (which == 0) changed.reset();
      m.reset();
      CHECK_FALSE(mine);
      if (changed != nullptr) CHECK_FALSE(changed->notify_one());
      changed.reset();
      let_run();
      CHECK(waiter.state() == fiber_state::waiting);
      waiter.cancel();
      wait(coir::end_op(waiter));
      CHECK(is(waiter, fiber_outcome::cancelled));
    }
  });
}

TEST_CASE("a waiter that is on its way back to a mutex that goes comes out without a lock") {
  support::on_both_surfaces([](auto wait) {
    for (const bool notified : {false, true}) {
      auto m = std::make_unique<mutex>();
      condition changed;
      bool without = false;
      auto waiter = coir::spawn([&] {
        auto held = wait(m->lock());
        try {
          wait(changed.wait(held));
        } catch (const coir::cancelled&) {
          without = !held;
          throw;
        }
        without = !held;
        wait(coir::yield());
      });
      wait(coir::yield());
      auto mine = wait(m->lock());
      if (notified) changed.notify_one();
      waiter.cancel();
      let_run();
      CHECK(waiter.state() == fiber_state::waiting);
      m.reset();
      wait(coir::end_op(waiter));
      CHECK(without);
      CHECK(is(waiter, fiber_outcome::cancelled));
    }
  });
}

TEST_CASE("a notification that comes to a select which another op has won is in its result") {
  support::jumping_on_both([](auto wait) {
    mutex m;
    condition changed;
    coir::event other;
    auto both = coir::spawn([&] {
      auto held = wait(m.lock());
      auto got = wait(coir::select(changed.wait(held), other.wait()));
      CHECK(got.index() == 1);
      CHECK(got.template also<0>() != nullptr);
      CHECK(m.owned());
      other.reset();
      got = wait(coir::select(changed.wait(held), other.wait()));
      CHECK(got.index() == 1);
      CHECK(got.template also<0>() == nullptr);
      CHECK(m.owned());
    });
    let_run();
    auto held = wait(m.lock());
    CHECK(changed.notify_one());
    other.set();
    held.unlock();
    let_run();
    other.set();
    wait(both.join());
    CHECK(changed.stats().notified == 1);
    CHECK(changed.stats().cancelled == 1);
  });
}

TEST_CASE("a wait in a condition that is awaited again is notified, and stopped, as if it were the first") {
  support::jumping_on_both([](auto wait) {
    mutex m;
    condition changed;
    auto held = wait(m.lock());
    auto waiting = changed.wait(held);
    // In this order: after a stop, a notification, a stop, and two notifications.
    for (const bool notified : {false, true, false, true, true}) {
      const coir::instant before = support::now();
      auto other = coir::spawn([&] {
        wait(coir::sleep_for(notified ? 1s : 10s));
        changed.notify_one();
      });
      CHECK(wait(coir::select(waiting, coir::sleep_for(5s))).index() == (notified ? 0 : 1));
      CHECK(support::now() - before == (notified ? 1s : 5s));
      CHECK(held);
      CHECK(changed.stats().waiting == 0);
      other.cancel();
      wait(coir::end_op(other));
    }
  });
}

TEST_CASE("the deadlock report says who waits to be notified, and who for the mutex, and of whom") {
  const std::string said = deadlock_of([] {
    mutex m;
    condition changed;
    coir::event never;
    const auto waits = [&] {
      auto held = coir::await(m.lock());
      coir::await(changed.wait(held));
    };
    auto first = coir::spawn(waits);
    auto second = coir::spawn(waits);
    auto third = coir::spawn(waits);
    coir::await(coir::yield());
    auto held = coir::await(m.lock());
    changed.notify_one();
    coir::await(never.wait());
  });
  CHECK_THAT(said, has_line("*fiber 2: waiting in condition, notified, for a mutex held by fiber 1 main since *"));
  CHECK_THAT(said, has_line("*fiber 3: waiting in condition at *"));
  CHECK_THAT(said, has_line("*fiber 4: waiting in condition, behind 1 at *"));
}

TEST_CASE("the deadlock report says since which wait for a predicate a mutex has been held") {
  const std::string said = deadlock_of([] {
    mutex m;
    condition changed;
    coir::event never;
    bool ready = false;
    auto waits = coir::spawn([&] {
      auto held = coir::await(m.lock());
      coir::await(changed.wait(held, [&] { return ready; }));
      coir::await(never.wait());
    });
    coir::await(coir::yield());
    ready = true;
    changed.notify_one();
    coir::await(coir::yield());
    static_cast<void>(coir::await(m.lock()));
  });
  CHECK_THAT(said, has_line("*fiber 1 main: waiting in mutex held by fiber 2 since *condition_test.cpp:*"));
}
