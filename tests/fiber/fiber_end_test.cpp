// What may run while a fiber ends: destructors of captures, parameters and results, and failure handlers.
#include "counted.hpp"
#include "until.hpp"

#include "support/catch.hpp"

#include <coir/coir.hpp>

#include <array>
#include <chrono>
#include <functional>
#include <memory>
#include <stdexcept>
#include <stop_token>
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

TEST_CASE("a destructor at the end of a fiber cannot wait") {
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

namespace {

// What tries to wait, and how often it was refused with the right words; nothing of it may ever go on.
class trials {
 public:
  int refused = 0;
  int other = 0;  // it waited, or was refused otherwise

  // For a destructor: all the ways that a cancellation does not end.
  void all() {
    one([] { coir::await(coir::sleep_for(std::chrono::microseconds(1))); });
    one([this] {
      coir::cancel_scope scope;
      scope.shield();
      scope.run([this] {
        coir::await(coir::sleep_for(std::chrono::microseconds(1)));
        ++other;
      });
    });
    one([] {
      coir::cancel_scope scope;
      scope.run([] { coir::spawn([] {}); });
    });
    one([this] {
      coir::with_cleanup([] {},
                         [this] {
                           coir::await(coir::sleep_for(std::chrono::microseconds(1)));
                           ++other;
                         });
    });
    one([] { coir::await([]() -> coir::task<> { co_return; }()); });
  }
  static constexpr int ways = 5;

  at_end last() {
    return at_end([this] { all(); });
  }

 private:
  template <class Way>
  void one(Way way) {
    try {
      way();
      ++other;
    } catch (const std::logic_error& error) {
      const bool says_so = std::string(error.what()).find("wait at the end of the body") != std::string::npos;
      ++(says_so ? refused : other);
    } catch (...) {
      ++other;
    }
  }
};

// No stack is two fibers': each fills what it has, lets the others run, and finds what it left.
void check_stacks() {
  constexpr int count = 100;
  std::vector<coir::fiber<bool>> all;
  for (int i = 0; i < count; ++i) {
    all.push_back(coir::spawn([i, mark = std::to_string(i) + " is the number of this one"] {
      std::array<int, 2000> frame;
      bool whole = true;
      for (int round = 0; round < 3; ++round) {
        frame.fill(i + round);
        coir::await(coir::yield());
        for (const int each : frame) whole = whole && each == i + round;
      }
      return whole && mark == std::to_string(i) + " is the number of this one";
    }));
  }
  int whole = 0;
  for (auto& each : all) whole += coir::await(each.join()) ? 1 : 0;
  CHECK(whole == count);
}

// A fiber ends, as `how` has it, with something that tries to wait.
template <class How>
void check_end(How&& how, int times = 1) {
  coir::run([&] {
    trials seen;
    // More than once, so that a stack that was given back twice would be taken twice.
    constexpr int rounds = 3;
    for (int i = 0; i < rounds; ++i) how(seen);
    CHECK(seen.refused == rounds * times * trials::ways);
    CHECK(seen.other == 0);
    check_stacks();
  });
}

coir::task<> sleeps_for_ever(at_end) { co_await coir::sleep_until(coir::never); }

}  // namespace

TEST_CASE("nothing waits in the destructor of a capture, behind a shield neither: a fiber that never ran") {
  check_end(
      [](trials& seen) {
        const auto end = [](const auto& child) {
          child.cancel();
          coir::await(coir::end_op(child));
        };
        end(coir::spawn([last = seen.last()] {}));
        end(coir::spawn([last = seen.last()]() -> coir::task<> { co_return; }));
        end(coir::spawn(sleeps_for_ever(seen.last())));
      },
      3);
}

TEST_CASE("nothing waits in the destructor of a capture, behind a shield neither: a fiber that ends where it is") {
  check_end(
      [](trials& seen) {
        auto function = coir::spawn([last = seen.last()] {});
        auto factory = coir::spawn([last = seen.last()]() -> coir::task<> { co_return; });
        auto task = coir::spawn(with_parameter(seen.last()));
        coir::await(function.join());
        coir::await(factory.join());
        coir::await(task.join());
      },
      3);
}

TEST_CASE("nothing waits in the destructor of a capture, behind a shield neither: a fiber that is cancelled") {
  check_end(
      [](trials& seen) {
        auto function = coir::spawn([last = seen.last()] { coir::await(coir::sleep_until(coir::never)); });
        auto task = coir::spawn(sleeps_for_ever(seen.last()));
        coir::await(coir::yield());
        function.cancel();
        task.cancel();
        coir::await(coir::end_op(function));
        coir::await(coir::end_op(task));
      },
      2);
}

TEST_CASE("nothing waits in the destructor of a capture, behind a shield neither: a fiber with children at its end") {
  const auto has_children = [](trials& seen) {
    auto parent = coir::spawn([last = seen.last()] {
      coir::spawn([] { coir::await(coir::sleep_until(coir::never)); });
      coir::await(coir::yield());
    });
    coir::await(parent.join());
    CHECK(parent.outcome() == fiber_outcome::returned);
  };
  check_end(has_children);
}

TEST_CASE("nothing waits in the destructor of a capture, behind a shield neither: a fiber that is traced") {
  check_end([](trials& seen) {
    coir::loop& loop = coir::running_fiber().home().on();
    loop.trace().record(coir::trace::all);
    // From the next turn on.
    coir::await(coir::sleep_for(std::chrono::microseconds(1)));
    auto child = coir::spawn([last = seen.last()] {});
    coir::await(child.join());
    loop.trace().record(0);
  });
}

TEST_CASE("nothing waits in the destructor of what a restart drops, behind a shield neither") {
  check_end(
      [](trials& seen) {
        // The result of the first run; of the function, its capture too, at the end.
        int runs = 0;
        auto function = coir::spawn([&, last = seen.last()] {
          if (++runs == 2) return at_end(nullptr);
          coir::running_fiber().restart();
          return seen.last();
        });
        coir::await(function.join());
        CHECK(runs == 2);
        runs = 0;
        auto factory = coir::spawn([&]() -> coir::task<at_end> {
          if (++runs == 2) co_return at_end(nullptr);
          coir::running_fiber().restart();
          co_return seen.last();
        });
        coir::await(factory.join());
        CHECK(runs == 2);
      },
      3);
}

TEST_CASE("nothing waits in the destructor of a message that nobody received, while children are left") {
  check_end([](trials& seen) {
    auto parent = coir::spawn([] {
      coir::spawn([] { coir::await(coir::sleep_until(coir::never)); });
      coir::await(coir::yield());
    });
    CHECK(parent.send(seen.last()));
    coir::await(parent.join());
  });
}

TEST_CASE("nothing waits in what a stop token calls when the end of its body cancels a child") {
  check_end([](trials& seen) {
    auto parent = coir::spawn([&] {
      coir::spawn([&] {
        coir::cancel_scope scope;
        const std::stop_callback told(scope.stop_token(), [&] { seen.all(); });
        scope.run([] { coir::await(coir::sleep_until(coir::never)); });
      });
      coir::await(coir::yield());
    });
    coir::await(parent.join());
  });
}

TEST_CASE("a fiber ends when its last child is moved away by what its end tells") {
  for (const bool by_message : {false, true}) {
    coir::run([&] {
      coir::fiber<void> child;
      auto parent = coir::spawn([&] {
        child = coir::spawn([&] {
          coir::cancel_scope scope;
          const std::stop_callback told(scope.stop_token(), [&] {
            if (!by_message) child.detach();
          });
          scope.run([] { coir::await(coir::sleep_until(coir::never)); });
        });
        coir::await(coir::yield());
      });
      if (by_message) CHECK(parent.send(at_end([&] { child.detach(); })));
      coir::await(coir::end_op(parent));
      CHECK(parent.outcome() == fiber_outcome::returned);
      coir::await(coir::end_op(child));
      CHECK(child.outcome() == fiber_outcome::cancelled);
    });
  }
}

TEST_CASE("a cancellation by the destructor of a result that a restart drops wins over the restart") {
  coir::run([] {
    int runs = 0;
    coir::fiber<at_end> child;
    child = coir::spawn([&] {
      ++runs;
      child.restart();
      return at_end([&] { child.cancel(); });
    });
    coir::await(coir::end_op(child));
    CHECK(child.outcome() == fiber_outcome::cancelled);
    CHECK(runs == 1);
    child = {};
  });
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

TEST_CASE("a failure handler may move the last sibling away: the parent ends once") {
  coir::fiber<void> survivor;
  coir::run(
      [&] {
        auto parent = coir::spawn([&] {
          coir::spawn(
              [] {
                try {
                  coir::await(coir::sleep_until(coir::never));
                } catch (const coir::cancelled&) {
                  throw std::runtime_error("instead");
                }
              },
              coir::report_failure);
          survivor = coir::spawn([] {
            coir::cancel_scope longer;
            longer.shield();
            longer.run([] { coir::await(coir::sleep_for(std::chrono::milliseconds(2))); });
          });
          coir::await(coir::yield());
        });
        coir::await(coir::end_op(parent));
        CHECK(parent.outcome() == fiber_outcome::returned);
        for (int i = 0; i < 10; ++i) {
          auto other = coir::spawn([] {});
          coir::await(other.join());
        }
        coir::await(coir::end_op(survivor));
      },
      coir::run_options().on_failure([&](const coir::fiber_base&, auto) { survivor.detach(); }));
}
