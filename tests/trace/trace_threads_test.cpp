#include <coir/trace/trace.hpp>

#include "support/catch.hpp"

#include <algorithm>
#include <atomic>
#include <thread>
#include <vector>

using coir::trace::point;

namespace {

// Everything in this thread's ring is its own, and in order.
bool own_and_ordered(const std::vector<coir::trace::record>& records, std::uint32_t thread) {
  std::uint64_t next = records.empty() ? 0 : records.front().a;
  return std::all_of(records.begin(), records.end(), [&](const coir::trace::record& each) {
    return each.fiber == thread && each.a == next++;
  });
}

}  // namespace

TEST_CASE("each thread writes and reads a ring of its own, while others do the same") {
  constexpr std::uint32_t threads = 4;
  std::atomic<int> wrong = 0;
  std::vector<std::thread> running;
  for (std::uint32_t thread = 0; thread < threads; ++thread) {
    running.emplace_back([&wrong, thread] {
      const coir::trace::control control;
      for (std::uint64_t i = 0; i < 100'000; ++i) {
        coir::trace::emit(control, point::resume, thread, i);
        if (i % 20'000 == 0 && !own_and_ordered(coir::trace::recorded(), thread)) ++wrong;
      }
      if (!own_and_ordered(coir::trace::recorded(), thread)) ++wrong;
      if (coir::trace::recorded().back().a != 99'999) ++wrong;
    });
  }
  for (std::thread& each : running) each.join();
  CHECK(wrong == 0);
}

TEST_CASE("a mask that another thread sets is seen, and taken away again, without a data race") {
  coir::trace::control control;
  std::atomic<bool> seen = false;
  std::thread looker([&] {
    coir::trace::forget();
    while (coir::trace::recorded().empty()) COIR_TRACE(control, point::resume, 1);
    seen = true;
    while (control.mask() != 0) std::this_thread::yield();
    coir::trace::forget();
    for (int i = 0; i < 100; ++i) COIR_TRACE(control, point::resume, 1);
    CHECK(coir::trace::recorded().empty());
  });
  control.record(coir::trace::all);
  while (!seen) std::this_thread::yield();
  control.record(0);
  looker.join();
}

TEST_CASE("a new thread starts with an empty ring") {
  const coir::trace::control control;
  coir::trace::emit(control, point::ready, 1);
  std::size_t found = 1;
  std::thread([&] { found = coir::trace::recorded().size(); }).join();
  CHECK(found == 0);
  coir::trace::forget();
}
