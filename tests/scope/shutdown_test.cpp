#include "surfaces.hpp"

#include "support/catch.hpp"
#include "support/jumping.hpp"

#include <coir/coir.hpp>

#include <algorithm>
#include <chrono>
#include <stdexcept>
#include <vector>

using namespace std::chrono_literals;
using support::now;
using surfaces::on_both;

TEST_CASE("a cancellation with grace asks first, and cancels when the grace is over") {
  on_both([](auto s) {
    coir::cancel_scope scope;
    coir::spawn([&] { scope.cancel(5s); });
    const coir::instant begin = now();
    bool asked = false;
    CHECK_FALSE(s.get(scope.run(s.body([&] {
      CHECK_FALSE(coir::shutting_down());
      s.wait(coir::wait_shutting_down());
      CHECK(coir::shutting_down());
      CHECK(scope.shutting_down());
      CHECK_FALSE(scope.cancelled());
      CHECK(now() == begin);
      // The next one need not wait.
      s.wait(coir::wait_shutting_down());
      asked = true;
      s.wait(coir::sleep_for(1h));
    }))));
    CHECK(asked);
    CHECK(now() - begin == 5s);
    CHECK(scope.expired());
    CHECK(scope.caught());
  });
}

TEST_CASE("who ends when asked is not cancelled") {
  on_both([](auto s) {
    coir::cancel_scope scope;
    coir::spawn([&] { scope.cancel(5s); });
    const coir::instant begin = now();
    CHECK(s.get(scope.run(s.body([&] {
      s.wait(coir::wait_shutting_down());
      s.wait(coir::sleep_for(1s));
      return 7;
    }))) == 7);
    CHECK(now() - begin == 1s);
    CHECK_FALSE(scope.cancelled());
    CHECK(support::loop_here().census().armed == 0);
  });
}

TEST_CASE("a grace of nothing is a cancellation, and one without end only asks") {
  on_both([](auto s) {
    for (const coir::duration grace : {coir::duration(0), coir::duration(-1s)}) {
      coir::cancel_scope scope;
      coir::spawn([&] { scope.cancel(grace); });
      CHECK_FALSE(s.get(scope.run(s.body([&] { s.wait(coir::sleep_for(1h)); }))));
    }
    coir::cancel_scope patient;
    coir::spawn([&] { patient.cancel(coir::duration::max()); });
    CHECK(s.get(patient.run(s.body([&] {
      s.wait(coir::wait_shutting_down());
      s.wait(coir::sleep_for(1000h));
    }))));
  });
}

TEST_CASE("of several graces and a deadline the shortest counts") {
  on_both([](auto s) {
    const auto ends_after = [&](auto prepare) {
      coir::cancel_scope scope;
      const coir::instant begin = now();
      coir::spawn([&] { prepare(scope); });
      CHECK_FALSE(s.get(scope.run(s.body([&] { s.wait(coir::sleep_for(100h)); }))));
      CHECK(scope.expired());
      return now() - begin;
    };
    CHECK(ends_after([](coir::cancel_scope& scope) { scope.cancel(5s), scope.cancel(2s), scope.cancel(1h); }) == 2s);
    CHECK(ends_after([](coir::cancel_scope& scope) { scope.limit(1s), scope.cancel(5s); }) == 1s);
    CHECK(ends_after([](coir::cancel_scope& scope) { scope.limit(1h), scope.cancel(5s); }) == 5s);
  });
}

TEST_CASE("a scope is asked before it is entered: the grace counts from its first wait, and keeps a sooner deadline") {
  on_both([](auto s) {
    const auto ends_after = [&](auto prepare) {
      coir::cancel_scope scope;
      prepare(scope);
      s.wait(coir::sleep_for(1s));
      const coir::instant begin = now();
      CHECK_FALSE(s.get(scope.run(s.body([&] {
        CHECK(coir::shutting_down());
        s.wait(coir::sleep_for(100h));
      }))));
      return now() - begin;
    };
    CHECK(ends_after([](coir::cancel_scope& scope) { scope.cancel(5s); }) == 5s);
    CHECK(ends_after([](coir::cancel_scope& scope) { scope.cancel(5s), scope.cancel(2s); }) == 2s);
    CHECK(ends_after([](coir::cancel_scope& scope) { scope.limit(3s), scope.cancel(5s); }) == 3s);
    CHECK(ends_after([](coir::cancel_scope& scope) { scope.limit(1h), scope.cancel(5s); }) == 5s);
    CHECK(ends_after([](coir::cancel_scope& scope) { scope.deadline(now() + 3s), scope.cancel(1h); }) == 2s);
    CHECK(ends_after([](coir::cancel_scope& scope) { scope.deadline(now() + 1h), scope.cancel(5s); }) == 5s);
  });
}

TEST_CASE("a scope that asks itself before its first wait keeps what was sooner") {
  on_both([](auto s) {
    for (const coir::duration grace : {coir::duration(2s), coir::duration(10s)}) {
      coir::cancel_scope scope;
      scope.limit(5s);
      const coir::instant begin = now();
      CHECK_FALSE(s.get(scope.run(s.body([&] {
        scope.cancel(grace);
        s.wait(coir::sleep_for(1h));
      }))));
      CHECK(now() - begin == std::min<coir::duration>(grace, 5s));
    }
  });
}

TEST_CASE("the asking reaches children, those spawned later, and inner scopes, in the order of their birth") {
  on_both([](auto s) {
    coir::cancel_scope scope;
    std::vector<int> order;
    const auto asked = [&](int number) {
      return s.child([&order, s, number] {
        s.wait(coir::wait_shutting_down());
        order.push_back(number);
      });
    };
    coir::spawn([&] {
      coir::await(coir::sleep_for(1s));
      scope.cancel(1h);
    });
    CHECK(s.get(scope.run(s.body([&] {
      coir::spawn(asked(1));
      coir::spawn(asked(2));
      coir::cancel_scope inner;
      CHECK(s.get(inner.run(s.body([&] {
        s.wait(coir::wait_shutting_down());
        order.push_back(0);
        CHECK(inner.shutting_down());
      }))));
      coir::spawn(asked(3));
      s.wait(coir::sleep_for(1s));
    }))));
    CHECK(order == std::vector{0, 1, 2, 3});
  });
}

TEST_CASE("a shield keeps out the asking, until it is lifted") {
  on_both([](auto s) {
    coir::cancel_scope scope;
    coir::cancel_scope guard;
    guard.shield();
    const coir::instant begin = now();
    coir::spawn([&] {
      scope.cancel(1h);
      coir::await(coir::sleep_for(1s));
      guard.shield(false);
    });
    CHECK(s.get(scope.run(s.body([&] {
      CHECK(s.get(guard.run(s.body([&] {
        s.wait(coir::yield());
        CHECK_FALSE(coir::shutting_down());
        s.wait(coir::wait_shutting_down());
      }))));
    }))));
    CHECK(now() - begin == 1s);
  });
}

TEST_CASE("a shield that goes up after the asking keeps out what comes of it") {
  on_both([](auto s) {
    coir::cancel_scope scope;
    coir::cancel_scope guard;
    coir::spawn([&] {
      scope.cancel(1s);
      guard.shield();
    });
    const coir::instant begin = now();
    CHECK(s.get(scope.run(s.body([&] {
      CHECK(s.get(guard.run(s.body([&] {
        s.wait(coir::wait_shutting_down());
        CHECK(coir::shutting_down());
        s.wait(coir::sleep_for(5s));
      }))));
    }))));
    CHECK(now() - begin == 5s);
  });
}

TEST_CASE("who waits to be asked is cancelled like others") {
  on_both([](auto s) {
    coir::cancel_scope scope;
    coir::spawn([&] { scope.cancel(); });
    CHECK_FALSE(s.get(scope.run(s.body([&] { s.wait(coir::wait_shutting_down()); }))));
    // Asked and cancelled in one turn: asked is what it was first.
    coir::cancel_scope both;
    bool asked = false;
    coir::spawn([&] {
      both.cancel(1h);
      both.cancel();
    });
    CHECK_FALSE(s.get(both.run(s.body([&] {
      s.wait(coir::wait_shutting_down());
      asked = true;
      s.wait(coir::yield());
    }))));
    CHECK(asked);
  });
}

TEST_CASE("a loop ends by itself when it is asked") {
  on_both([](auto s) {
    coir::cancel_scope scope;
    coir::spawn([&] {
      coir::await(coir::sleep_for(10s));
      scope.cancel(1h);
    });
    int handled = 0;
    CHECK(s.get(scope.run(s.body([&] {
      while (!coir::shutting_down()) {
        s.wait(coir::sleep_for(3s));
        ++handled;
      }
    }))));
    CHECK(handled == 4);
  });
}

TEST_CASE("outside of a fiber nobody can be asked") {
  CHECK_THROWS_AS(coir::shutting_down(), std::logic_error);
}
