// Frames and control blocks are recycled. With the address sanitizer every frame comes from the heap.
#include "support/catch.hpp"
#include "support/counted_heap.hpp"

#include <coir/coir.hpp>

#include <optional>
#include <thread>

namespace {

coir::task<int> leaf(int x) {
  co_await coir::yield();
  co_return x;
}
coir::task<int> branch(int x) {
  const int left = co_await leaf(x);
  const int right = co_await leaf(x);
  co_return left + right;
}

// How many allocations `work` makes when it has been done before.
template <class Work>
long allocations_of(Work&& work) {
  work();
  const long before = support::heap.allocations;
  work();
  return support::heap.allocations - before;
}

}  // namespace

TEST_CASE("awaiting tasks again and again allocates nothing") {
  coir::run([] {
    const long made = allocations_of([] {
      for (int i = 0; i < 1000; ++i) static_cast<void>(coir::await(branch(i)));
    });
    CHECK(made == 0);
  });
}

TEST_CASE("spawning and joining again and again allocates nothing") {
  coir::run([] {
    const long of_tasks = allocations_of([] {
      for (int i = 0; i < 1000; ++i) {
        auto child = coir::spawn(leaf(i));
        static_cast<void>(coir::await(child.join()));
      }
    });
    const long of_functions = allocations_of([] {
      for (int i = 0; i < 1000; ++i) {
        auto child = coir::spawn([i] { return i; });
        static_cast<void>(coir::await(child.join()));
      }
    });
    if (!COIR_ADDRESS_SANITIZER) {
      CHECK(of_tasks == 0);
      CHECK(of_functions == 0);
    }
  });
}

TEST_CASE("waiting allocates nothing") {
  coir::run([] {
    const long made = allocations_of([] {
      for (int i = 0; i < 100; ++i) {
        coir::await(coir::yield());
        coir::await(coir::sleep_for(std::chrono::nanoseconds(1)));
      }
    });
    CHECK(made == 0);
  });
}

TEST_CASE("a task may be destroyed by another thread than made it") {
  std::optional<coir::task<int>> unused(branch(1));
  std::thread([&] { unused.reset(); }).join();
  std::thread([&] { unused = branch(2); }).join();
  CHECK(coir::run(std::move(*unused)) == 4);
}

TEST_CASE("what a thread kept for its frames goes back when it ends") {
  // Once before, for what the libraries allocate on first use.
  const auto work = [] { coir::run(branch(1)); };
  std::thread(work).join();
  const long before = support::heap.blocks;
  std::thread(work).join();
  CHECK(support::heap.blocks == before);
}

TEST_CASE("a thread keeps no more than a MiB of frames of one size") {
  if (!support::heap_is_counted) return;
  std::thread([] {
    std::vector<coir::task<int>> many;
    for (int i = 0; i < 60'000; ++i) many.push_back(leaf(i));
    const long with_all = support::heap.blocks;
    many.clear();
    // A frame of leaf() has at least 32 bytes: 60,000 of them are more than 1 MiB.
    const long kept = 60'000 - (with_all - support::heap.blocks);
    CHECK(kept > 0);
    CHECK(kept * 32 <= 1 << 20);
  }).join();
}

TEST_CASE("frames that die on a thread that made none go back when it ends") {
  const auto die_elsewhere = [] {
    std::vector<coir::task<int>> many;
    for (int i = 0; i < 100; ++i) many.push_back(leaf(i));
    std::thread([moved = std::move(many)]() mutable { moved.clear(); }).join();
  };
  die_elsewhere();
  const long before = support::heap.blocks;
  for (int i = 0; i < 10; ++i) die_elsewhere();
  CHECK(support::heap.blocks == before);
}
