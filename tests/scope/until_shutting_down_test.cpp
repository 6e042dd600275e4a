#include "support/catch.hpp"
#include "support/jumping.hpp"

#include <coir/coir.hpp>

#include <stdexcept>

using namespace std::chrono_literals;
using support::jumping;
using support::now;

TEST_CASE("until_shutting_down cancels its body as soon as something around is asked to end, and only that") {
  jumping([] {
    coir::cancel_scope scope;
    const coir::instant begin = now();
    coir::spawn([&] {
      coir::await(coir::sleep_for(1s));
      scope.cancel(1min);
    });
    CHECK(scope.run([&] {
      CHECK_FALSE(coir::until_shutting_down([] { coir::await(coir::sleep_for(1h)); }));
      CHECK(now() - begin == 1s);
      CHECK(coir::shutting_down());
      coir::await(coir::sleep_for(30s));
    }));
    CHECK(now() - begin == 31s);
  });
}

TEST_CASE("until_shutting_down works around tasks, and reaches the fibers of its body") {
  jumping([] {
    coir::cancel_scope scope;
    int cancelled = 0;
    const auto waits = [](int& count) -> coir::task<> {
      try {
        co_await coir::sleep_for(1h);
      } catch (const coir::cancelled&) {
        ++count;
        throw;
      }
    };
    const auto body = [&]() -> coir::task<> {
      coir::spawn(waits(cancelled));
      co_await waits(cancelled);
    };
    const auto whole = [&]() -> coir::task<bool> {
      const bool done = co_await coir::until_shutting_down(body);
      co_await coir::sleep_for(1s);
      co_return done;
    };
    coir::spawn([&] {
      coir::await(coir::sleep_for(1s));
      scope.cancel(1min);
    });
    CHECK(coir::await(scope.run(whole)) == false);
    CHECK(cancelled == 2);
  });
}

TEST_CASE("until_shutting_down gives its body's result, and what it throws") {
  jumping([] {
    CHECK(coir::until_shutting_down([] { return 7; }) == 7);
    CHECK_THROWS_AS(coir::until_shutting_down([] { throw std::runtime_error("failed"); }), std::runtime_error);
  });
}

TEST_CASE("until_shutting_down in a region that is asked already cancels at the first suspend point") {
  jumping([] {
    coir::cancel_scope scope;
    scope.cancel(1min);
    CHECK(scope.run([] {
      CHECK_FALSE(coir::until_shutting_down([] { coir::await(coir::yield()); }));
      CHECK(coir::until_shutting_down([] {}));
    }));
  });
}

TEST_CASE("until_shutting_down passes on a cancellation from around it") {
  jumping([] {
    coir::cancel_scope scope;
    bool went_on = false;
    coir::spawn([&] {
      coir::await(coir::sleep_for(1s));
      scope.cancel();
    });
    CHECK_FALSE(scope.run([&] {
      coir::until_shutting_down([] { coir::await(coir::sleep_for(1h)); });
      went_on = true;
    }));
    CHECK_FALSE(went_on);
  });
}
