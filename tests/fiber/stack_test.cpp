#include "gate.hpp"
#include "stacks.hpp"
#include "until.hpp"

#include "support/catch.hpp"

#include <coir/coir.hpp>

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <set>
#include <string>
#include <vector>

using coir::fiber_state;
using support::dive;
using support::gate;
using support::sanitized;
using support::until;

namespace {

const std::size_t page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));

const coir::stack& stack_of(const coir::handle_base& who) { return *who.control().current_stack(); }

}  // namespace

TEST_CASE("a stack has the size that its spawn asks for, and 256 KiB by default") {
  coir::run([] {
    gate closed;
    const auto spawn = [&](const coir::spawn_options& options) {
      return coir::spawn([&] { coir::await(closed.wait()); }, options);
    };
    for (const std::size_t asked : {std::size_t{16} << 10, std::size_t{64} << 10, std::size_t{100'000},
                                    std::size_t{1} << 20, std::size_t{8} << 20, std::size_t{100} << 20}) {
      auto child = spawn(coir::spawn_options().stack_bytes(asked));
      // Tops are coloured within a quarter of a page, and sizes are whole pages.
      CHECK(stack_of(child).bytes() + page / 4 >= asked);
      CHECK(stack_of(child).bytes() < asked + page);
    }
    auto by_default = spawn({});
    CHECK(stack_of(by_default).bytes() + page / 4 >= std::size_t{256} << 10);
    CHECK(stack_of(by_default).bytes() <= std::size_t{256} << 10);
    // No stack is too small for what is called on it.
    auto smallest = spawn(coir::spawn_options().stack_bytes(1));
    CHECK(stack_of(smallest).bytes() + page / 4 >= std::size_t{16} << 10);
    coir::await(coir::yield());
    closed.open();
  });
}

TEST_CASE("all of a stack can be used, whatever its size") {
  coir::run([] {
    for (const std::size_t size : {std::size_t{32} << 10, std::size_t{256} << 10, std::size_t{4} << 20}) {
      auto child = coir::spawn(
          [&] {
            const coir::stack& mine = *coir::running_fiber().current_stack();
            // A quarter is left for the sanitizers' larger frames, and for who called us.
            const std::uintptr_t deepest = dive(sanitized ? mine.bytes() / 4 : mine.bytes() / 4 * 3);
            const auto low = reinterpret_cast<std::uintptr_t>(mine.low());
            CHECK(deepest > low);
            if (!sanitized) CHECK(deepest - low <= mine.bytes() / 4);
            coir::await(coir::yield());
          },
          coir::spawn_options().stack_bytes(size));
      coir::await(child.join());
    }
  });
}

TEST_CASE("stacks lie apart, and below each is a page that cannot be touched") {
  coir::run([] {
    gate closed;
    std::vector<coir::fiber<void>> children;
    for (int i = 0; i < 200; ++i) {
      children.push_back(coir::spawn([&] { coir::await(closed.wait()); }));
    }
    coir::await(coir::yield());
    std::set<const std::byte*> lows;
    const std::byte* last_high = nullptr;
    for (const auto& each : children) lows.insert(stack_of(each).low());
    REQUIRE(lows.size() == children.size());
    int ends[2];
    REQUIRE(::pipe(ends) == 0);
    for (const std::byte* low : lows) {
      CHECK((last_high == nullptr || low - page >= last_high));
      last_high = low;
      // The kernel reads for us: it answers with an error where we would fault.
      REQUIRE(::write(ends[1], low - 1, 1) == -1);
      REQUIRE(errno == EFAULT);
      REQUIRE(::write(ends[1], low - page, 1) == -1);
      REQUIRE(errno == EFAULT);
    }
    ::close(ends[0]);
    ::close(ends[1]);
    closed.open();
  });
}

TEST_CASE("the high-water mark is the most that was in use, in whole pages") {
  coir::run([] {
    gate first;
    gate second;
    auto child = coir::spawn([&] {
      coir::await(first.wait());
      dive(100'000);
      coir::await(second.wait());
    });
    until([&] { return child.state() == fiber_state::waiting; });
    const std::size_t before = stack_of(child).high_water_bytes();
    CHECK(before > 0);
    CHECK(before < stack_of(child).bytes());
    first.open();
    until([&] { return child.state() == fiber_state::waiting && stack_of(child).high_water_bytes() != before; });
    const std::size_t after = stack_of(child).high_water_bytes();
    CHECK(after >= 100'000);
    if (!sanitized) {
      CHECK(before <= 4 * page);
      CHECK(after <= 100'000 + 8 * page);
    }
    second.open();
  });
}

TEST_CASE("a parked fiber on a stack touches one page of it") {
  if (sanitized) return;
  coir::run([] {
    gate closed;
    std::vector<coir::fiber<void>> children;
    for (int i = 0; i < 64; ++i) {
      children.push_back(coir::spawn([&] { coir::await(closed.wait()); }));
    }
    coir::await(coir::yield());
    std::size_t one = 0;
    for (const auto& each : children) {
      if (stack_of(each).high_water_bytes() <= page) ++one;
    }
#if defined(__OPTIMIZE__)
    CHECK(one == children.size());
#else
    // Frames are as large as the compiler makes them.
    CHECK(one > 0);
#endif
    closed.open();
  });
}

TEST_CASE("twenty thousand fibers are parked on stacks at once, and all go on") {
  const std::size_t count = sanitized ? 2'000 : 20'000;
  coir::run([count] {
    gate closed;
    std::vector<coir::fiber<std::size_t>> children;
    children.reserve(count);
    for (std::size_t i = 0; i < count; ++i) {
      children.push_back(coir::spawn([&closed, i] {
        const std::size_t mine = i;
        coir::await(closed.wait());
        coir::await(coir::yield());
        return mine;
      }));
    }
    until([&] { return children.back().state() == fiber_state::waiting; });
    std::set<const std::byte*> lows;
    for (const auto& each : children) lows.insert(stack_of(each).low());
    CHECK(lows.size() == count);
    closed.open();
    std::size_t wrong = 0;
    for (std::size_t i = 0; i < count; ++i) {
      if (coir::await(children[i].join()) != i) ++wrong;
    }
    CHECK(wrong == 0);
  });
}

TEST_CASE("stacks are used again: rounds of fibers do not take new ones") {
  coir::run([] {
    std::set<const std::byte*> first;
    // More than the pool keeps with their pages.
    const int count = sanitized ? 300 : 5'000;
    for (int round = 0; round < 3; ++round) {
      gate closed;
      std::vector<coir::fiber<void>> children;
      std::set<const std::byte*> lows;
      for (int i = 0; i < count; ++i) {
        children.push_back(coir::spawn([&] { coir::await(closed.wait()); }));
        lows.insert(stack_of(children.back()).low());
      }
      if (round == 0) {
        first = lows;
        // The stack of the gate's keeper is one of the others' when the next round begins.
      } else {
        std::size_t fresh = 0;
        for (const std::byte* low : lows) fresh += 1 - first.count(low);
        CHECK(fresh <= 1);
      }
      closed.open();
      for (auto& each : children) coir::await(each.join());
    }
  });
}

TEST_CASE("the last stack given back is the first to be used again") {
  coir::run([] {
    const std::byte* low = nullptr;
    for (int i = 0; i < 100; ++i) {
      auto child = coir::spawn([] { coir::await(coir::yield()); });
      if (low != nullptr) CHECK(stack_of(child).low() == low);
      low = stack_of(child).low();
      coir::await(child.join());
    }
  });
}

TEST_CASE("stacks that are not needed any more give their pages back to the kernel") {
  if (sanitized) return;
  coir::run([] {
    // The pool keeps 4096 stacks with their pages.
    constexpr std::size_t count = 6'096;
    constexpr std::size_t depth = 12'000;
    gate closed;
    std::vector<coir::fiber<void>> children;
    for (std::size_t i = 0; i < count; ++i) {
      children.push_back(coir::spawn([&] {
        dive(depth);
        coir::await(closed.wait());
      }));
    }
    until([&] { return children.back().state() == fiber_state::waiting; });
    const std::size_t with_all = support::memory_of_process().resident_bytes;
    closed.open();
    for (auto& each : children) coir::await(each.join());
    const std::size_t after = support::memory_of_process().resident_bytes;
    CHECK(after + 2'000 * depth * 3 / 4 < with_all);
    // And they work when they are used again.
    std::vector<coir::fiber<void>> again;
    for (std::size_t i = 0; i < count; ++i) again.push_back(coir::spawn([] { dive(1'000); }));
    for (auto& each : again) coir::await(each.join());
  });
}

TEST_CASE("fibers on stacks hand over to each other, with coroutines between them, in the order of the queue") {
  coir::run([] {
    constexpr std::size_t fibers = 30;
    constexpr std::size_t rounds = 20;
    std::vector<int> order;
    std::vector<coir::handle_base> all;
    for (int i = 0; i < static_cast<int>(fibers); ++i) {
      // In all neighbourhoods: stack to stack, stack to coroutine, coroutine to stack.
      if (i % 5 < 3) {
        all.emplace_back(coir::spawn([&order, i] {
          for (std::size_t round = 0; round < rounds; ++round) {
            order.push_back(i);
            coir::await(coir::yield());
          }
        }));
      } else {
        all.emplace_back(coir::spawn([](std::vector<int>& to, int me) -> coir::task<> {
          for (std::size_t round = 0; round < rounds; ++round) {
            to.push_back(me);
            if (round % 2 == 0) {
              co_await coir::yield();
            } else {
              co_await coir::on_stack([] { coir::await(coir::yield()); });
            }
          }
        }(order, i)));
      }
    }
    for (const auto& each : all) coir::await(coir::end_op(each));
    REQUIRE(order.size() == fibers * rounds);
    int wrong = 0;
    for (std::size_t i = 0; i < order.size(); ++i) wrong += order[i] == static_cast<int>(i % fibers) ? 0 : 1;
    CHECK(wrong == 0);
  });
}

TEST_CASE("fibers on stacks that end hand over to the next, which may be new, a coroutine, or nobody") {
  coir::run([] {
    for (int fibers = 1; fibers < 20; ++fibers) {
      std::vector<int> order;
      std::vector<coir::handle_base> all;
      for (int i = 0; i < fibers; ++i) {
        if (i % 4 == 3) {
          all.emplace_back(coir::spawn([](std::vector<int>& to, int me) -> coir::task<> {
            to.push_back(me);
            co_return;
          }(order, i)));
        } else {
          all.emplace_back(coir::spawn([&order, i] {
            if (i % 3 == 0) coir::await(coir::yield());
            order.push_back(i);
          }));
        }
      }
      for (const auto& each : all) coir::await(coir::end_op(each));
      CHECK(order.size() == static_cast<std::size_t>(fibers));
    }
  });
}

TEST_CASE("values in registers and on the stack are the same after a switch, floating point among them") {
  coir::run([] {
    std::vector<coir::fiber<double>> children;
    for (int i = 0; i < 20; ++i) {
      children.push_back(coir::spawn([i] {
        double sum = i;
        double factor = 1.0 + i / 16.0;
        std::uint64_t hash = static_cast<std::uint64_t>(i) + 1;
        for (int round = 0; round < 100; ++round) {
          sum += factor;
          hash = hash * 6364136223846793005u + 1442695040888963407u;
          coir::await(coir::yield());
          factor = factor * 0.5 + 0.5;
        }
        return hash == 0 ? -1.0 : sum;
      }));
    }
    for (int i = 0; i < 20; ++i) {
      double sum = i;
      double factor = 1.0 + i / 16.0;
      for (int round = 0; round < 100; ++round) {
        sum += factor;
        factor = factor * 0.5 + 0.5;
      }
      CHECK(coir::await(children[static_cast<std::size_t>(i)].join()) == sum);
    }
  });
}
