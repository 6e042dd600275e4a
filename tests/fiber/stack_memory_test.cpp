// Without memory for another stack: what fails, fails alone.
#include "gate.hpp"
#include "stacks.hpp"
#include "until.hpp"

#include "support/catch.hpp"
#include "support/child_process.hpp"
#include "support/descriptors.hpp"

#include <coir/coir.hpp>

#include <sys/resource.h>

#include <cstddef>
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
