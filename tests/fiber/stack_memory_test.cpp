// Without memory for another stack: what fails, fails alone. Without memory to keep a failure: it fails all the same.
#include "gate.hpp"
#include "stacks.hpp"
#include "until.hpp"

#include "support/catch.hpp"
#include "support/child_process.hpp"
#include "support/counted_heap.hpp"
#include "support/descriptors.hpp"

#include <coir/coir.hpp>

#include <sys/resource.h>

#include <cstddef>
#include <exception>
#include <new>
#include <stdexcept>
#include <string>
#include <system_error>
#include <vector>

using coir::fiber_state;
using support::gate;
using support::in_child;

namespace {

// No Catch in the child: what is wrong ends it with a text.
void check(bool holds, const char* what) {
  if (!holds) throw std::runtime_error(what);
}

// From here on this process may not have so much more memory.
void limit_memory(std::size_t more_bytes) {
  const rlim_t limit = support::memory_of_process().virtual_bytes + more_bytes;
  const rlimit both{limit, limit};
  check(::setrlimit(RLIMIT_AS, &both) == 0, "setrlimit");
}

constexpr std::size_t large = std::size_t{8} << 20;

// Spawns fibers on large stacks until there is no memory; what was said then.
std::string spawn_until_refused(std::vector<coir::fiber<int>>& children, gate& closed) {
  for (;;) {
    try {
      children.push_back(coir::spawn(
          [&closed] {
            coir::await(closed.wait());
            return 1;
          },
          coir::spawn_options().stack_bytes(large)));
    } catch (const std::system_error& error) {
      check(error.code() == std::errc::not_enough_memory, "another code than ENOMEM");
      return error.what();
    }
  }
}

}  // namespace

TEST_CASE("without memory for a stack spawn throws ENOMEM, nothing is left behind, and the others go on") {
  // The address sanitizer needs more address space than any limit allows.
  if (support::sanitized) return;
  const auto ended = in_child([] {
    coir::run([] {
      const coir::fiber_home& home = coir::running_fiber().home();
      gate closed;
      coir::await(coir::yield());
      std::vector<coir::fiber<int>> children;
      children.reserve(1000);
      limit_memory(std::size_t{1} << 30);
      const std::size_t descriptors = support::open_descriptors();
      const std::string said = spawn_until_refused(children, closed);
      check(said.find("fiber stacks") != std::string::npos, "the text does not say what for");
      check(!children.empty(), "not one had memory");
      check(home.alive() == children.size() + 2, "the refused one is still there");

      // Again and again: nothing is lost by it.
      const std::size_t used = support::memory_of_process().virtual_bytes;
      for (int i = 0; i < 1000; ++i) {
        bool refused = false;
        try {
          coir::spawn([] {}, coir::spawn_options().stack_bytes(large));
        } catch (const std::system_error&) {
          refused = true;
        }
        check(refused, "memory came from somewhere");
      }
      check(home.alive() == children.size() + 2, "a refused one is still there");
      check(support::memory_of_process().virtual_bytes <= used + (std::size_t{1} << 20), "memory was lost");
      check(support::open_descriptors() == descriptors, "descriptors were lost");

      // What needs no new stack works on.
      auto coroutine = coir::spawn([]() -> coir::task<int> {
        co_await coir::yield();
        co_return 7;
      });
      check(coir::await(coroutine.join()) == 7, "a coroutine did not run");
      auto small = coir::spawn([] { return 8; });
      check(coir::await(small.join()) == 8, "a small stack from the pool was not to be had");
      closed.open();
      for (auto& each : children) check(coir::await(each.join()) == 1, "a parked fiber did not go on");
      auto large_again = coir::spawn([] { return 9; }, coir::spawn_options().stack_bytes(large));
      check(coir::await(large_again.join()) == 9, "a stack that was given back was not to be had");
    });
  });
  INFO(ended.text);
  CHECK(ended.exit_code == 0);
}

TEST_CASE("without memory for a stack on_stack throws ENOMEM in the coroutine, which goes on") {
  if (support::sanitized) return;
  const auto ended = in_child([] {
    coir::run([]() -> coir::task<> {
      // Nobody has a stack yet; one of 256 KiB does not fit into what is left.
      limit_memory(std::size_t{200} << 10);
      int refused = 0;
      for (int i = 0; i < 100; ++i) {
        try {
          co_await coir::on_stack([] {});
        } catch (const std::system_error& error) {
          if (error.code() == std::errc::not_enough_memory) ++refused;
        }
      }
      check(refused == 100, "it was not refused");
      co_await coir::sleep_for(std::chrono::milliseconds(1));
      auto child = coir::spawn([]() -> coir::task<int> { co_return 3; });
      const int got = co_await child.join();
      check(got == 3, "a coroutine did not run");
    });
  });
  INFO(ended.text);
  CHECK(ended.exit_code == 0);
}

TEST_CASE("where memory is too short for as many stacks as are made at once, there are fewer") {
  if (support::sanitized) return;
  const auto ended = in_child([] {
    coir::run([]() -> coir::task<> {
      limit_memory(std::size_t{4} << 20);  // fewer than 16, and 64 are made at once
      int ran = 0;
      co_await coir::on_stack([&] {
        ++ran;
        auto child = coir::spawn([&] { ++ran; });
        coir::await(child.join());
      });
      check(ran == 2, "not all had a stack");
    });
  });
  INFO(ended.text);
  CHECK(ended.exit_code == 0);
}

TEST_CASE("a stack larger than the address space is refused like any other") {
  coir::run([] {
    const auto alive = coir::running_fiber().home().alive();
    for (const std::size_t bytes : {std::size_t{1} << 50, ~std::size_t{0}, ~std::size_t{0} - 4095}) {
      bool refused = false;
      try {
        coir::spawn([] {}, coir::spawn_options().stack_bytes(bytes));
      } catch (const std::system_error& error) {
        refused = error.code() == std::errc::not_enough_memory;
      }
      CHECK(refused);
    }
    CHECK(coir::running_fiber().home().alive() == alive);
    auto child = coir::spawn([] { return 1; });
    CHECK(coir::await(child.join()) == 1);
  });
}

// --- a failure that cannot be kept ---

namespace {

// There is no memory from the moment when a child fails until its owner has heard of it.
[[noreturn]] void fail_without_memory(const std::exception_ptr& why) {
  support::heap.exhausted = true;
  std::rethrow_exception(why);
}
std::exception_ptr any_failure() { return std::make_exception_ptr(std::runtime_error("of a child")); }

struct seen_by_owner {
  int runs = 0;
  bool cancelled = false;
};

coir::task<> owns_in_task(seen_by_owner& seen) {
  ++seen.runs;
  coir::spawn([](std::exception_ptr why) -> coir::task<> {
    fail_without_memory(why);
    co_return;
  }(any_failure()));
  try {
    co_await coir::sleep_until(coir::never);
  } catch (const coir::cancelled&) {
    support::heap.exhausted = false;
    seen.cancelled = true;
    throw;
  }
}
void owns_on_stack(seen_by_owner& seen) {
  ++seen.runs;
  coir::spawn([why = any_failure()] { fail_without_memory(why); });
  try {
    coir::await(coir::sleep_until(coir::never));
  } catch (const coir::cancelled&) {
    support::heap.exhausted = false;
    seen.cancelled = true;
    throw;
  }
}
// Its child fails because of the restart, while the body is not over.
void restarts_on_stack(seen_by_owner& seen) {
  if (++seen.runs != 1) return;
  auto child = coir::spawn([why = any_failure()] {
    try {
      coir::await(coir::sleep_until(coir::never));
    } catch (const coir::cancelled&) {
      fail_without_memory(why);
    }
  });
  coir::await(coir::yield());
  coir::running_fiber().restart();
  coir::cancel_scope scope;
  scope.shield();
  scope.run([&] { support::until([&] { return support::dead(child); }); });
  support::heap.exhausted = false;
  try {
    coir::await(coir::yield());
  } catch (const coir::cancelled&) {
    seen.cancelled = true;
    throw;
  }
}

coir::task<int> gives(int what) {
  co_await coir::yield();
  co_return what;
}

// The owner has failed for want of memory, and nothing of that comes up anywhere else.
void check_owner(coir::fiber<void> owner, const seen_by_owner& seen) {
  // Nobody joins it meanwhile: that would take its failure over.
  support::until([&] { return support::dead(owner); });
  CHECK_FALSE(support::heap.exhausted);
  support::heap.exhausted = false;
  CHECK(seen.runs == 1);
  CHECK(seen.cancelled);
  CHECK(owner.outcome() == coir::fiber_outcome::failed);
  bool no_memory = false;
  try {
    coir::await(owner.join());
  } catch (const std::bad_alloc&) {
    no_memory = true;
  } catch (...) {
  }
  CHECK(no_memory);
  auto stranger = coir::spawn([]() -> coir::task<int> { co_return co_await gives(3) + co_await gives(4); });
  CHECK(coir::await(stranger.join()) == 7);
}

}  // namespace

TEST_CASE("a child's failure that there is no memory to keep fails its owner, and comes up nowhere else") {
  if (!support::heap_is_counted) return;
  int told = 0;
  coir::run(
      [] {
        seen_by_owner task;
        check_owner(coir::spawn(owns_in_task(task), coir::report_failure), task);
        seen_by_owner factory;
        check_owner(coir::spawn([&] { return owns_in_task(factory); }, coir::report_failure), factory);
        seen_by_owner function;
        check_owner(coir::spawn([&] { owns_on_stack(function); }, coir::report_failure), function);
        seen_by_owner again;
        check_owner(coir::spawn([&] { restarts_on_stack(again); }, coir::report_failure), again);
      },
      coir::run_options().on_failure([&](const coir::fiber_base&, const std::exception_ptr&) { ++told; }));
  CHECK(told == 4);
}
