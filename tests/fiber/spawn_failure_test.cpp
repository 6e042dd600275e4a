// A spawn that cannot be, and a fiber that never runs: nothing is left behind.
#include "counted.hpp"
#include "hand_op.hpp"
#include "until.hpp"

#include "support/catch.hpp"

#include <coir/coir.hpp>

#include <array>
#include <stdexcept>
#include <string>

using Catch::Matchers::Contains;
using coir::fiber_outcome;
using coir::fiber_state;
using support::counted;

namespace {

struct no_copy {
  no_copy() = default;
  no_copy(const no_copy&) { throw std::runtime_error("no copy"); }
  counted part;
};

struct function : no_copy {
  void operator()() const {}
};
struct factory : no_copy {
  coir::task<> operator()() const { co_return; }
};

std::uint64_t spawned() { return coir::running_fiber().home().stats().spawned; }

}  // namespace

TEST_CASE("a callable whose copy throws leaves nothing behind") {
  coir::run([] {
    const std::uint64_t before = coir::running_fiber().home().alive();
    const function plain;
    const factory maker;
    CHECK_THROWS_AS(coir::spawn(plain), std::runtime_error);
    CHECK_THROWS_AS(coir::spawn(maker), std::runtime_error);
    CHECK_THROWS_AS(coir::spawn(plain, coir::spawn_options().name("named")), std::runtime_error);
    CHECK_THROWS_AS(coir::spawn(maker, coir::spawn_options().name("named")), std::runtime_error);
    CHECK(coir::running_fiber().home().alive() == before);
    CHECK(coir::running_fiber().body().empty());
    // The stack and the block are there for the next one.
    auto child = coir::spawn([] { return 1; });
    CHECK(coir::await(child.join()) == 1);
    CHECK(counted::alive == 2);
  });
  CHECK(counted::alive == 0);
}

TEST_CASE("a function that does not fit on its stack is refused, with what to write instead") {
  coir::run([] {
    std::array<char, 20'000> much{};
    much[5] = 'x';
    const auto large = [much, held = counted()] { return much[5]; };
    std::string said;
    try {
      coir::spawn(large, coir::spawn_options().stack_bytes(16 << 10));
    } catch (const std::logic_error& error) {
      said = error.what();
    }
    CHECK_THAT(said, Contains("does not fit") && Contains("stack_bytes"));
    CHECK(counted::alive == 1);
    CHECK(coir::running_fiber().body().empty());
    auto child = coir::spawn(large, coir::spawn_options().stack_bytes(64 << 10));
    CHECK(coir::await(child.join()) == 'x');
  });
  CHECK(counted::alive == 0);
}

TEST_CASE("an over-aligned function lies on its stack as it must") {
  struct alignas(256) aligned {
    std::uintptr_t operator()() const { return reinterpret_cast<std::uintptr_t>(this); }
    char fill[256] = {};
  };
  coir::run([] {
    auto child = coir::spawn(aligned());
    CHECK(coir::await(child.join()) % 256 == 0);
  });
}

TEST_CASE("spawning outside of any fiber is refused, with what to write instead") {
  const auto refused = [] {
    try {
      coir::spawn([] {});
    } catch (const std::logic_error& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  CHECK_THAT(refused(), Contains("outside of any fiber") && Contains("coir::run"));

  std::string in_post;
  coir::loop loop;
  coir::scheduler fibers(loop);
  loop.post([&] { in_post = refused(); });
  auto root = fibers.spawn([] {});
  loop.run();
  CHECK(root.state() == fiber_state::dead);
  CHECK_THAT(in_post, Contains("outside of any fiber"));
}

TEST_CASE("a fiber that is cancelled before it ran never runs, and its body is destroyed") {
  coir::run([] {
    bool ran = false;
    const auto check = [&](auto child) {
      CHECK(counted::alive == 1);
      child.cancel();
      CHECK(child.state() == fiber_state::fresh);
      CHECK(counted::alive == 1);
      coir::await(coir::end_op(child));
      CHECK(child.outcome() == fiber_outcome::cancelled);
      CHECK(counted::alive == 0);
    };
    const auto body = [](bool& began, counted) -> coir::task<> {
      began = true;
      co_return;
    };
    auto function = coir::spawn([&ran, held = counted()] { ran = true; });
    check(function);
    auto factory = coir::spawn([&ran, held = counted()]() -> coir::task<> {
      ran = true;
      co_return;
    });
    check(factory);
    auto task = coir::spawn(body(ran, counted()));
    check(task);
    CHECK_FALSE(ran);
  });
}

TEST_CASE("what is spawned in a cancelled region never runs, and its body is destroyed") {
  bool ran = false;
  bool refused_wait = false;
  coir::run([&] {
    auto owner = coir::spawn([&] {
      try {
        coir::await(coir::yield());
        coir::await(coir::yield());
      } catch (const coir::cancelled&) {
        auto function = coir::spawn([&ran, held = counted()] { ran = true; });
        auto task = coir::spawn([](bool& began, counted) -> coir::task<> {
          began = true;
          co_return;
        }(ran, counted()));
        CHECK(function.state() == fiber_state::fresh);
        // Level-triggered: waiting for them is refused too.
        try {
          coir::await(coir::end_op(function));
        } catch (const coir::cancelled&) {
          refused_wait = true;
        }
        throw;
      }
    });
    coir::await(coir::yield());
    owner.cancel();
    coir::await(coir::end_op(owner));
    CHECK(owner.outcome() == fiber_outcome::cancelled);
  });
  CHECK(refused_wait);
  CHECK_FALSE(ran);
  CHECK(counted::alive == 0);
}

TEST_CASE("a factory that throws fails its fiber, which then never ran") {
  coir::run([] {
    auto child = coir::spawn(
        [held = counted()]() -> coir::task<> { throw std::runtime_error("no task"); },
        coir::report_failure);
    CHECK_THROWS_WITH(coir::await(child.join()), "no task");
    CHECK(child.outcome() == fiber_outcome::failed);
    CHECK(counted::alive == 0);
    CHECK(spawned() == 2);
  });
}
