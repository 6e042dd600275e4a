// What a hostile reader found when the parts of coir/scope and the control of fibers had come together.

#include "support/catch.hpp"
#include "support/jumping.hpp"

#include <coir/coir.hpp>

#include <chrono>
#include <stdexcept>
#include <utility>

using namespace std::chrono_literals;
using support::jumping;
using support::now;

namespace {

coir::task<int> slow(int value) {
  co_await coir::sleep_for(std::chrono::seconds(value));
  co_return value;
}

}  // namespace

TEST_CASE("fibers that are taken away from first() do not write into it when they end") {
  jumping([] {
    coir::with_nursery([](coir::nursery& n) {
      auto parent = coir::spawn([]() -> coir::task<> { co_await coir::first(slow(30), slow(40)); });
      coir::await(coir::sleep_for(1s));
      n.adopt_children(parent);
      CHECK_THROWS(coir::await(parent.join()));
    });
  });
}

TEST_CASE("a deadline that is moved does not take the grace of a cancellation back") {
  jumping([] {
    for (const bool sooner_before : {true, false}) {
      coir::cancel_scope scope;
      const coir::instant begin = now();
      if (sooner_before) scope.deadline(begin + 1s);
      auto other = coir::spawn([&] {
        scope.cancel(3s);
        coir::await(coir::sleep_for(500ms));
        scope.deadline(begin + 1h);
      });
      CHECK_FALSE(scope.run([] { coir::await(coir::sleep_for(10h)); }));
      CHECK(now() - begin == 3s);
      coir::await(other.join());
    }
  });
}

TEST_CASE("a grace that was given before the scope was entered counts from there, whatever becomes of its deadline") {
  jumping([] {
    coir::cancel_scope scope;
    scope.cancel(3s);
    coir::await(coir::sleep_for(1s));
    const coir::instant begin = now();
    CHECK_FALSE(scope.run([&] {
      scope.deadline(begin + 1h);
      coir::await(coir::sleep_for(10h));
    }));
    CHECK(now() - begin == 3s);
  });
}

TEST_CASE("a function that interjects itself again and again lets others run") {
  jumping([] {
    auto whom = coir::spawn([] { coir::await(coir::sleep_for(1h)); });
    coir::await(coir::yield());
    int visits = 0;
    struct visitor {
      coir::fiber<void>& whom;
      int& visits;
      void operator()() const {
        if (++visits < 100'000) whom.interject(*this);
      }
    };
    whom.interject(visitor{whom, visits});
    coir::await(coir::yield());
    coir::await(coir::yield());
    CHECK(visits < 100);
    whom.cancel();
  });
}

TEST_CASE("as_result hears that its fiber is to end") {
  jumping([] {
    coir::cancel_scope scope;
    auto other = coir::spawn([&] { scope.cancel(1h); });
    const coir::instant begin = now();
    CHECK(scope.run([] { coir::await(coir::as_result(coir::wait_shutting_down())); }));
    CHECK(now() == begin);
  });
}

TEST_CASE("a supervisor that does not run yet takes orders about its children") {
  jumping([] {
    int stopped_ran = 0;
    int restarted_ran = 0;
    auto set_up = [&](coir::supervisor& s) {
      s.add("stopped", [&] { ++stopped_ran; }, coir::transient);
      s.stop("stopped");
      s.add("restarted", [&] { ++restarted_ran; }, coir::transient);
      s.stop("restarted");
      s.restart("restarted");
      s.add("removed", [&] { ++stopped_ran; }, coir::transient);
      s.restart("removed");
      s.remove("removed");
    };
    coir::await(coir::supervise(coir::supervisor_options(), set_up));
    CHECK(stopped_ran == 0);
    CHECK(restarted_ran == 1);
  });
}

TEST_CASE("a deadlock behind a shield unwinds whoever it waits for") {
  CHECK_THROWS_AS(jumping([] {
                    auto stuck = coir::spawn([] { coir::await(coir::sleep_until(coir::never)); });
                    stuck.detach();
                    coir::cancel_scope calm;
                    calm.shield();
                    calm.run([&] { coir::await(coir::end_op(stuck)); });
                  }),
                  coir::deadlock);
}

TEST_CASE("a monitor may go while a fiber that waits at it has been told") {
  jumping([] {
    auto short_lived = coir::spawn([] { coir::await(coir::sleep_for(1s)); });
    auto* monitor = new coir::monitor;
    monitor->watch(short_lived);
    auto waiting = coir::spawn([monitor] { coir::await(monitor->next()); });
    auto other = coir::spawn([monitor] { coir::await(monitor->next()); });
    coir::await(coir::end_op(short_lived));
    delete monitor;
    coir::await(waiting.join());
    other.cancel();
  });
}
