// Teaches: doing something again and again. `every` keeps to a grid that begins when it does: work that
// is too slow for it misses points and is told how many, and it is never called in a burst. A body that
// returns a task makes a loop to co_await; any other runs on the stack of the fiber that stands there.
//
// Try it:  build/test/examples/ticker
//
// OUTPUT
//   tick 1
//   tick 2
//   tick 3
//   slow work missed points, but is never called twice for one
//   sent 5 at 200 a second, which took no less than 20 ms
//   the reminder was cancelled: nobody was reminded

#include <coir/coir.hpp>

#include <chrono>
#include <cstdint>
#include <cstdio>

using namespace std::chrono_literals;
using coir::flow;

coir::task<int> ticker() {
  auto reminder = coir::after(1h, [] { std::puts("somebody was reminded"); });

  int ticks = 0;
  co_await coir::every(10ms, [&]() -> coir::task<flow> {
    std::printf("tick %d\n", ++ticks);
    co_return ticks < 3 ? flow::go_on : flow::leave;
  });

  // The work takes two and a half intervals: of three points two go by, at least.
  bool called_before = false;
  co_await coir::every(10ms, [&](std::uint64_t missed) -> coir::task<flow> {
    if (called_before) {
      if (missed >= 2) std::puts("slow work missed points, but is never called twice for one");
      co_return flow::leave;
    }
    called_before = true;
    co_await coir::sleep_for(25ms);
    co_return flow::go_on;
  });

  const auto began = std::chrono::steady_clock::now();
  int sent = 0;
  co_await coir::throttled_loop(coir::per_second(200), [&]() -> coir::task<> {
    ++sent;
    co_return;
  }, 5);
  if (std::chrono::steady_clock::now() - began >= 20ms) {
    std::printf("sent %d at 200 a second, which took no less than 20 ms\n", sent);
  }

  reminder.cancel();
  co_await coir::end_op(reminder);
  std::puts("the reminder was cancelled: nobody was reminded");
  co_return 0;
}

int main() { return coir::run(ticker()); }
