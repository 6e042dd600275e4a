// What may run while a fiber ends: destructors of captures, parameters and results, and failure handlers.
#include "counted.hpp"
#include "until.hpp"

#include "support/catch.hpp"

#include <coir/coir.hpp>

#include <array>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

using coir::fiber_outcome;
using coir::fiber_state;
using support::counted;
using support::until;

namespace {

// Calls something when it dies.
class at_end {
 public:
  explicit at_end(std::function<void()> what) : what_(std::move(what)) {}
  at_end(at_end&& other) noexcept : what_(std::exchange(other.what_, nullptr)) {}
  ~at_end() {
    if (what_) what_();
  }

 private:
  std::function<void()> what_;
};

coir::task<> with_parameter(at_end) { co_return; }

// A function big enough to overwrite much of the stack it is put on.
struct large {
  std::array<unsigned char, 20'000> fill;
  int* ran;
  void operator()() const {
    bool whole = true;
    for (const unsigned char each : fill) whole = whole && each == 0x5a;
    if (whole) ++*ran;
  }
  explicit large(int& count) noexcept : ran(&count) { fill.fill(0x5a); }
};

}  // namespace

TEST_CASE("a failure handler may spawn: the stack of the fiber that failed is not used before it is left") {
  coir::loop loop;
  coir::scheduler fibers(loop);
  int handled = 0;
  int ran = 0;
  fibers.on_failure([&](const coir::fiber_base&, const std::exception_ptr&) {
    ++handled;
    // On a stack that came back a moment ago, if there is one.
    fibers.spawn(large(ran));
  });
  for (int i = 0; i < 3; ++i) {
    auto failing = fibers.spawn([] { throw std::runtime_error("once"); });
    loop.run();
    CHECK(failing.outcome() == fiber_outcome::failed);
  }
  CHECK(handled == 3);
  CHECK(ran == 3);
}

TEST_CASE("the destructor of a result that nobody wanted may spawn") {
  coir::loop loop;
  coir::scheduler fibers(loop);
  int ran = 0;
  for (int i = 0; i < 3; ++i) {
    fibers.spawn([&] { return at_end([&] { fibers.spawn(large(ran)); }); });
    loop.run();
  }
  CHECK(ran == 3);
}

TEST_CASE("a destructor at the end of a fiber sees that fiber as the running one") {
  coir::run([] {
    std::vector<std::uint64_t> seen;
    const auto look = [&] { seen.push_back(coir::running_fiber().id()); };
    auto function = coir::spawn([last = at_end(look)] {});
    auto factory = coir::spawn([last = at_end(look)]() -> coir::task<> { co_return; });
    auto task = coir::spawn(with_parameter(at_end(look)));
    coir::await(function.join());
    coir::await(factory.join());
    coir::await(task.join());
    CHECK(seen == std::vector<std::uint64_t>{function.id(), factory.id(), task.id()});
  });
}

TEST_CASE("a destructor at the end of a fiber cannot wait: it gets `cancelled`") {
  const auto check = [](auto spawn_with) {
    int refused = 0;
    const auto waits = [&] {
      try {
        coir::await(coir::yield());
      } catch (const coir::cancelled&) {
        ++refused;
      } catch (const std::logic_error&) {
        ++refused;  // there is no stack
      }
      try {
        coir::await(coir::sleep_until(coir::never));
      } catch (const coir::cancelled&) {
        ++refused;
      } catch (const std::logic_error&) {
        ++refused;
      }
    };
    for (const bool traced : {false, true}) {
      coir::run([&] {
        coir::loop& loop = coir::running_fiber().home().on();
        if (traced) loop.trace().record(coir::trace::all);
        coir::await(coir::sleep_for(std::chrono::microseconds(1)));
        auto child = spawn_with(at_end(waits));
        coir::await(child.join());
        // At an end that comes after that of its children.
        auto parent = coir::spawn([last = at_end(waits)] {
          coir::spawn([] { coir::await(coir::sleep_until(coir::never)); });
          coir::await(coir::yield());
        });
        coir::await(parent.join());
        CHECK(parent.outcome() == fiber_outcome::returned);
        loop.trace().record(0);
      });
    }
    CHECK(refused == 8);
  };
  check([](at_end last) { return coir::spawn([last = std::move(last)] {}); });
  check([](at_end last) {
    return coir::spawn([last = std::move(last)]() -> coir::task<> { co_return; });
  });
  check([](at_end last) { return coir::spawn(with_parameter(std::move(last))); });
}

TEST_CASE("the destructor of an exception that nobody keeps may spawn") {
  class holding : public std::runtime_error {
   public:
    explicit holding(std::function<void()> what)
        : std::runtime_error("holding"), last_(std::make_shared<at_end>(std::move(what))) {}

   private:
    std::shared_ptr<at_end> last_;
  };
  coir::loop loop;
  coir::scheduler fibers(loop);
  fibers.on_failure([](const coir::fiber_base&, const std::exception_ptr&) {});
  int ran = 0;
  fibers.spawn([&] { throw holding([&] { fibers.spawn(large(ran)); }); });
  loop.run();
  CHECK(ran == 1);
}

TEST_CASE("a failure handler is no part of the fiber that failed: it cannot spawn its children") {
  bool refused = false;
  coir::run(
      [] {
        coir::spawn([] { throw std::runtime_error("it broke"); }, coir::report_failure);
        coir::spawn([] {});
        coir::await(coir::yield());
        coir::spawn([] {});
        coir::await(coir::yield());
      },
      coir::run_options().on_failure([&](const coir::fiber_base&, std::exception_ptr) {
        try {
          coir::spawn([] {});
        } catch (const std::logic_error&) {
          refused = true;
        }
      }));
  CHECK(refused);
}
