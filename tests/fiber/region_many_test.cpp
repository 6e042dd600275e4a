// Many children, and long chains of them: no recursion, nothing quadratic.
#include "counted.hpp"
#include "until.hpp"

#include "support/catch.hpp"

#include <coir/coir.hpp>

using coir::fiber_outcome;
using coir::fiber_state;
using support::counted;
using support::until;

namespace {

constexpr int many = 100'000;

coir::task<> waits(counted) { co_await coir::sleep_until(coir::never); }

// Each fiber spawns the next.
coir::task<> chain(int left, int& alive) {
  if (left == 0) co_return;
  ++alive;
  auto next = coir::spawn(chain(left - 1, alive));
  co_await coir::sleep_until(coir::never);
}

coir::task<int> chain_of_joins(int left) {
  if (left == 0) co_return 0;
  auto next = coir::spawn(chain_of_joins(left - 1));
  const int below = co_await next.join();
  co_return below + 1;
}

}  // namespace

TEST_CASE("a hundred thousand children are cancelled and awaited") {
  coir::run([] {
    auto parent = coir::spawn([] {
      for (int i = 0; i < many; ++i) coir::spawn(waits(counted()));
      coir::await(coir::yield());
    });
    coir::await(parent.join());
    CHECK(counted::alive == 0);
    CHECK(coir::running_fiber().home().alive() == 1);
  });
}

TEST_CASE("a hundred thousand children end in any order") {
  coir::run([] {
    std::vector<coir::fiber<void>> children;
    for (int i = 0; i < many; ++i) children.push_back(coir::spawn(waits(counted())));
    coir::await(coir::yield());
    // 7919 and 100,000 have no common factor: every child once, all over the list.
    for (int i = 0; i < many; ++i) {
      children[static_cast<std::size_t>(i) * 7919 % many].cancel();
      if (i % 1000 == 0) coir::await(coir::yield());
    }
    until([] { return coir::running_fiber().body().empty(); });
    CHECK(counted::alive == 0);
  });
}

TEST_CASE("a chain of a hundred thousand fibers, each in the one before, is cancelled and ends") {
  coir::run([] {
    int alive = 0;
    auto top = coir::spawn(chain(many, alive));
    until([&] { return alive == many; });
    top.cancel();
    coir::await(coir::end_op(top));
    CHECK(top.outcome() == fiber_outcome::cancelled);
    CHECK(coir::running_fiber().home().alive() == 1);
  });
}

TEST_CASE("a failure climbs through a chain of a hundred thousand fibers") {
  class fails {
   public:
    static coir::task<> at(int left) {
      if (left == 0) throw std::runtime_error("bottom");
      auto next = coir::spawn(at(left - 1));
      co_await coir::sleep_until(coir::never);
    }
  };
  coir::run([] {
    auto top = coir::spawn(fails::at(many));
    CHECK_THROWS_WITH(coir::await(top.join()), "bottom");
  });
}

TEST_CASE("a hundred thousand fibers join each other in a chain") {
  coir::run([] {
    auto top = coir::spawn(chain_of_joins(many));
    CHECK(coir::await(top.join()) == many);
  });
}

TEST_CASE("a scheduler that is destroyed with a hundred thousand fibers ends them all") {
  {
    coir::loop loop;
    coir::scheduler fibers(loop);
    for (int i = 0; i < many; ++i) fibers.spawn(waits(counted()));
    for (int i = 0; i < many / 256 / 2; ++i) loop.run_once();
    CHECK(counted::alive == many);
  }
  CHECK(counted::alive == 0);
}
