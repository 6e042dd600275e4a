// A runtime when there is no memory left: it must be possible to end it.
#include <coir/thread/runtime.hpp>

#include "support/catch.hpp"
#include "support/counted_heap.hpp"

#include <coir/coir.hpp>

#include <atomic>
#include <cstddef>
#include <thread>

TEST_CASE("a runtime is stopped, its loops woken and its fibers cancelled without memory") {
  for (int round = 0; round < 20; ++round) {
    coir::runtime rt(coir::runtime_options().loops(2));
    std::atomic<int> begun = 0;
    for (std::size_t i = 0; i < 2; ++i) {
      static_cast<void>(rt.spawn_on(i, [&] {
        coir::event nothing;
        ++begun;
        coir::await(nothing.wait());
      }));
    }
    while (begun != 2) std::this_thread::yield();
    support::heap.exhausted = true;
    rt.stop();
    try {
      rt.wait();
    } catch (...) {
      support::heap.exhausted = false;
      throw;
    }
    support::heap.exhausted = false;
    CHECK(rt.stopping());
  }
}
