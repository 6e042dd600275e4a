#include "support/catch.hpp"
#include "support/jumping.hpp"

#include <coir/coir.hpp>

#include <chrono>
#include <stdexcept>
#include <thread>
#include <vector>

using namespace std::chrono_literals;
using support::jumping;
using support::now;

namespace {

coir::task<> sleep_task(coir::duration wait) { co_await coir::sleep_for(wait); }

}  // namespace

TEST_CASE("a scope catches its own cancellation, and knows it") {
  jumping([] {
    coir::cancel_scope scope;
    coir::spawn([&] { scope.cancel(); });
    CHECK_FALSE(coir::await(scope.run(sleep_task(1h))));
    CHECK(scope.cancelled());
    CHECK(scope.caught());
    CHECK_FALSE(scope.expired());
    coir::await(coir::yield());  // nothing of it is left
  });
}

TEST_CASE("a scope lets the cancellation of another pass") {
  jumping([] {
    coir::cancel_scope outer;
    coir::cancel_scope inner;
    bool went_on = false;
    CHECK_FALSE(outer.run([&] {
      coir::spawn([&] { outer.cancel(); });
      inner.run([] { coir::await(coir::sleep_for(1h)); });
      went_on = true;
    }));
    CHECK_FALSE(went_on);
    CHECK_FALSE(inner.caught());
    CHECK(outer.caught());
  });
}

TEST_CASE("a scope that was cancelled before it is entered stops its body at the first suspend point") {
  jumping([] {
    coir::cancel_scope scope;
    scope.cancel();
    bool began = false;
    CHECK_FALSE(scope.run([&] {
      began = true;
      coir::await(coir::yield());
      began = false;
    }));
    CHECK(began);
  });
}

TEST_CASE("a shield keeps a cancellation out, until its own deadline") {
  jumping([] {
    coir::cancel_scope outer;
    bool shielded_done = false;
    bool after_shield = false;
    const coir::instant begin = now();
    CHECK_FALSE(outer.run([&] {
      coir::spawn([&] { outer.cancel(); });
      coir::cancel_scope guard;
      guard.shield();
      guard.limit(3s);
      CHECK_FALSE(guard.run([&] {
        coir::await(coir::sleep_for(1s));
        shielded_done = true;
        coir::await(coir::sleep_for(1h));
      }));
      CHECK(guard.expired());
      coir::await(coir::yield());
      after_shield = true;
    }));
    CHECK(shielded_done);
    CHECK_FALSE(after_shield);
    CHECK(now() - begin == 3s);
  });
}

TEST_CASE("a shield that is lifted lets the cancellation in at once") {
  jumping([] {
    coir::cancel_scope outer;
    coir::cancel_scope guard;
    guard.shield();
    coir::spawn([&] {
      outer.cancel();
      coir::await(coir::sleep_for(1s));
      guard.shield(false);
    });
    const coir::instant begin = now();
    CHECK_FALSE(outer.run([&] { guard.run([] { coir::await(coir::sleep_for(1h)); }); }));
    CHECK(now() - begin == 1s);
  });
}

TEST_CASE("a deadline that is moved a hundred thousand times is one timer") {
  jumping([] {
    coir::cancel_scope scope;
    const coir::instant begin = now();
    scope.run([&] {
      coir::await(coir::yield());
      for (int i = 0; i < 100'000; ++i) scope.deadline(begin + 1h + std::chrono::nanoseconds(i));
      coir::await(coir::yield());
      CHECK(support::loop_here().census().armed == 1);
      scope.deadline(begin + 1s);
      coir::await(coir::sleep_for(1h));
    });
    CHECK(now() - begin == 1s);
    CHECK(scope.expired());
    CHECK(support::loop_here().census().armed == 0);
  });
}

TEST_CASE("a cancellation with grace asks first, and cancels when the grace is over") {
  jumping([] {
    coir::cancel_scope scope;
    coir::spawn([&] { scope.cancel(5s); });
    const coir::instant begin = now();
    bool asked = false;
    CHECK_FALSE(scope.run([&] {
      CHECK_FALSE(coir::shutting_down());
      coir::await(coir::wait_shutting_down());
      CHECK(coir::shutting_down());
      CHECK(now() == begin);
      asked = true;
      coir::await(coir::sleep_for(1h));
    }));
    CHECK(asked);
    CHECK(now() - begin == 5s);
  });
}

TEST_CASE("a cancellation reaches fibers that wait, that are ready, that are on another stack, that have not begun") {
  jumping([] {
    coir::cancel_scope scope;
    int unwound = 0;
    struct count {
      int& of;
      ~count() { ++of; }
    };
    bool fresh_ran = false;
    CHECK_FALSE(scope.run([&] {
      coir::spawn([&] {
        count one{unwound};
        coir::await(coir::sleep_for(1h));
      });
      coir::spawn([](int& of) -> coir::task<> {
        count one{of};
        for (;;) co_await coir::yield();
      }(unwound));
      coir::spawn([](int& of) -> coir::task<> {
        count one{of};
        co_await coir::on_stack([] { coir::await(coir::sleep_for(1h)); });
      }(unwound));
      coir::await(coir::yield());
      coir::await(coir::yield());
      coir::spawn([&] { fresh_ran = true; });
      scope.cancel();
      coir::await(coir::yield());
    }));
    CHECK(unwound == 3);
    CHECK_FALSE(fresh_ran);
  });
}

TEST_CASE("a scope and a stop token stop each other") {
  coir::run([] {
    std::stop_source source;
    coir::cancel_scope scope;
    scope.link(source.get_token());
    std::stop_token mine = scope.stop_token();
    std::thread other([&] {
      std::this_thread::sleep_for(10ms);
      source.request_stop();
    });
    CHECK_FALSE(scope.run([] { coir::await(coir::sleep_until(coir::never)); }));
    CHECK(mine.stop_requested());
    other.join();
  });
}

TEST_CASE("a cancellation that is swallowed comes back and is counted") {
  jumping([] {
    coir::cancel_scope scope;
    int caught = 0;
    CHECK_FALSE(scope.run([&] {
      scope.cancel();
      for (int i = 0; i < 3; ++i) {
        try {
          coir::await(coir::yield());
        } catch (const coir::cancelled&) {
          ++caught;
        }
      }
      coir::await(coir::yield());
    }));
    CHECK(caught == 3);
    CHECK(coir::running_fiber().home().stats().swallowed == 3);
  });
}
