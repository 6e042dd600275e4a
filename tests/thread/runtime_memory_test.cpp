// A runtime when there is no memory left: it must be possible to end it, and to hear why it did.
#include <coir/thread/runtime.hpp>

#include "support/catch.hpp"
#include "support/child_process.hpp"
#include "support/counted_heap.hpp"

#include <coir/coir.hpp>

#include <atomic>
#include <chrono>
#include <cstddef>
#include <thread>

using namespace std::chrono_literals;

TEST_CASE("a runtime is stopped, its loops woken and its fibers cancelled without memory, also with a grace") {
  const bool with_grace = GENERATE(false, true);
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
    rt.stop(with_grace ? 1ms : 0ms);
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

// Where the heap is not counted there is memory.
#if !COIR_ADDRESS_SANITIZER && !COIR_THREAD_SANITIZER
TEST_CASE("a remote fiber for which there is no memory, and none to say so, is a line on standard error") {
  const auto ended = support::in_child([] {
    coir::runtime rt(coir::runtime_options().loops(1));
    std::atomic<int> step = 0;
    static_cast<void>(rt.spawn_on(0, [&] {
      step = 1;
      while (step != 2) std::this_thread::yield();
    }));
    while (step != 1) std::this_thread::yield();
    static_cast<void>(rt.spawn_on(0, [] {}, coir::remote_options().name("a name that is longer than what fits").report_failure()));
    support::heap.exhausted = true;
    step = 2;
    while (rt.load(0) != 0) std::this_thread::yield();  // it has been told
    support::heap.exhausted = false;
  });
  CHECK(ended.exit_code == 0);
  CHECK(ended.text == "coir: a runtime or one of its fibers failed, and there is no memory to say how\n");
}
#endif
