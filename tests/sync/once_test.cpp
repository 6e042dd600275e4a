#include "told.hpp"

#include "support/catch.hpp"
#include "support/jumping.hpp"

#include <coir/coir.hpp>

#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

using namespace std::chrono_literals;
using Catch::Matchers::Contains;
using coir::fiber_outcome;
using coir::fiber_state;
using coir::once;
using told::deadlock_of;
using told::has_line;
using told::is;
using told::let_run;
using told::refusal_of;

namespace {

// Calls a once, with a body on either surface: a plain function, or one that gives a task.
struct with_function {
  template <class Body>
  static void call(once& of, Body body) {
    of.call(body);
  }
};
struct with_task {
  template <class Body>
  static void call(once& of, Body body) {
    coir::await(outer(of, body));
  }
  template <class Body>
  static coir::task<> outer(once& of, Body body) {
    auto inner = [&body]() -> coir::task<> {
      Body mine = body;
      mine();
      co_return;
    };
    co_await of.call(inner);
  }
};
template <class Test>
void on_both(Test test) {
  support::jumping([&] { test(with_function()); });
  support::jumping([&] { test(with_task()); });
}

}  // namespace

TEST_CASE("the body of a once runs once, and the others wait until it has") {
  on_both([](auto how) {
    once loaded;
    int runs = 0;
    int after = 0;
    coir::with_nursery([&](coir::nursery& n) {
      for (int i = 0; i < 10; ++i) {
        n.spawn([&] {
          how.call(loaded, [&] {
            coir::await(coir::sleep_for(1s));
            ++runs;
          });
          CHECK(runs == 1);
          ++after;
        });
      }
      coir::await(coir::yield());
      CHECK(loaded.stats().waiting == 9);
      CHECK_FALSE(loaded.is_done());
    });
    CHECK(after == 10);
    CHECK(loaded.is_done());
    how.call(loaded, [] { FAIL("it ran twice"); });
    CHECK(loaded.stats().tried == 1);
    CHECK(loaded.stats().waited == 9);
  });
}

TEST_CASE("when the body fails its caller is told, and the next of those who wait tries") {
  on_both([](auto how) {
    once loaded;
    std::string order;
    coir::with_nursery([&](coir::nursery& n) {
      for (const char who : {'a', 'b', 'c'}) {
        n.spawn([&, who] {
          try {
            how.call(loaded, [&] {
              coir::await(coir::sleep_for(1s));
              if (who == 'a') throw std::runtime_error("expected");
            });
            order += who;
          } catch (const std::runtime_error&) {
            order += 'A';
          }
        });
      }
    });
    CHECK(order == "Abc");
    CHECK(loaded.stats().tried == 2);
  });
}

TEST_CASE("when the one who runs the body is cancelled the next of those who wait tries") {
  on_both([](auto how) {
    once loaded;
    int runs = 0;
    const auto calls = [&] {
      how.call(loaded, [&] {
        coir::await(coir::sleep_for(1s));
        ++runs;
      });
    };
    auto first = coir::spawn(calls);
    auto waits = coir::spawn(calls);
    auto second = coir::spawn(calls);
    coir::await(coir::yield());
    first.cancel();
    waits.cancel();
    coir::await(second.join());
    CHECK(runs == 1);
    CHECK(loaded.is_done());
    CHECK(loaded.stats().tried == 2);
    CHECK(is(first, fiber_outcome::cancelled));
    CHECK(is(waits, fiber_outcome::cancelled));
  });
}

TEST_CASE("a waiter of a once that is cancelled is gone, and the turn goes to the one behind it") {
  on_both([](auto how) {
    once loaded;
    auto first = coir::spawn(
        [&] {
          how.call(loaded, [] {
            coir::await(coir::sleep_for(1s));
            throw std::runtime_error("expected");
          });
        },
        coir::report_failure);
    const auto calls = [&] { how.call(loaded, [] {}); };
    auto gone = coir::spawn(calls);
    auto next = coir::spawn(calls);
    coir::await(coir::yield());
    gone.cancel();
    CHECK(loaded.stats().cancelled == 1);
    CHECK_THROWS_AS(coir::await(first.join()), std::runtime_error);
    coir::await(next.join());
    CHECK(loaded.stats().tried == 2);
  });
}

TEST_CASE("a waiter that was handed the turn and is cancelled before it runs hands it on") {
  support::on_both_surfaces([](auto wait) {
    once loaded;
    auto mine = wait(loaded.enter());
    REQUIRE(mine);
    bool had = false;
    auto first = coir::spawn([&] {
      auto turn = wait(loaded.enter());
      had = static_cast<bool>(turn);
      wait(coir::yield());
      turn.done();
    });
    auto second = coir::spawn([&] {
      auto turn = wait(loaded.enter());
      turn.done();
    });
    wait(coir::yield());
    { const auto failed = std::move(mine); }
    first.cancel();
    wait(second.join());
    CHECK(had);
    CHECK(loaded.is_done());
    CHECK_FALSE(wait(loaded.enter()));
  });
}

TEST_CASE("a body that calls the once it runs in is told so") {
  on_both([](auto how) {
    once loaded;
    std::string said;
    how.call(loaded, [&] { said = refusal_of([&] { how.call(loaded, [] {}); }); });
    CHECK_THAT(said, Contains("fiber 1 main does what is to be done once since "));
    CHECK(loaded.is_done());
  });
}

TEST_CASE("who waits for a once that goes is left to wait, and who runs it runs to its end") {
  on_both([](auto how) {
    auto loaded = std::make_unique<once>();
    auto runs = coir::spawn([&] { how.call(*loaded, [] { coir::await(coir::sleep_for(1s)); }); });
    auto left = coir::spawn([&] { how.call(*loaded, [] {}); });
    coir::await(coir::yield());
    loaded.reset();
    coir::await(runs.join());
    CHECK(left.state() == fiber_state::waiting);
  });
}

TEST_CASE("who was handed the turn of a once that goes before he runs is left to wait, and not told that it is done") {
  on_both([](auto how) {
    auto loaded = std::make_unique<once>();
    bool went_on = false;
    auto mine = coir::await(loaded->enter());
    auto next = coir::spawn([&] {
      how.call(*loaded, [] {});
      went_on = true;
    });
    let_run();
    { const auto failed = std::move(mine); }
    loaded.reset();
    let_run();
    CHECK(next.state() == fiber_state::waiting);
    next.cancel();
    let_run();
    CHECK(next.outcome() == fiber_outcome::cancelled);
    CHECK_FALSE(went_on);
  });
}

TEST_CASE("the deadlock report names the fiber that does what is to be done once") {
  const std::string said = deadlock_of([] {
    once loaded;
    coir::event never;
    coir::spawn([&] { loaded.call([&] { coir::await(never.wait()); }); }, coir::spawn_options().name("loader"));
    coir::await(coir::yield());
    loaded.call([] {});
  });
  CHECK_THAT(said, has_line("*fiber 1 main: waiting in once done by fiber 2 loader since "
                            "*once_test.cpp:[0-9][0-9][0-9] at *once_test.cpp:*"));
}
