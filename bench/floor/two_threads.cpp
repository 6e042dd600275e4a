// Floor of pool/round-trip: two threads that wake each other, with a futex(2) each way and nothing else; and of
// pool/fan-out-*: the work itself, divided among the pool's threads.

#include "../pool_cases.hpp"

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace {

class baton {
 public:
  void give() {
    word_.store(1, std::memory_order_release);
    ::syscall(SYS_futex, reinterpret_cast<std::uint32_t*>(&word_), FUTEX_WAKE_PRIVATE, 1, nullptr, nullptr, 0);
  }
  void take() {
    while (word_.load(std::memory_order_acquire) == 0) {
      ::syscall(SYS_futex, reinterpret_cast<std::uint32_t*>(&word_), FUTEX_WAIT_PRIVATE, 0, nullptr, nullptr, 0);
    }
    word_.store(0, std::memory_order_relaxed);
  }

 private:
  std::atomic<std::uint32_t> word_{0};
};

double round_trip() {
  baton there;
  baton back;
  std::atomic<bool> over = false;
  std::thread other([&] {
    for (;;) {
      there.take();
      if (over) return;
      back.give();
    }
  });
  const double figure = micro::ns_per_iteration([&](std::size_t iterations) {
    for (std::size_t i = 0; i < iterations; ++i) {
      there.give();
      back.take();
    }
    return iterations;
  });
  over = true;
  there.give();
  other.join();
  return figure;
}

double fan_out(const pools::fan_out& how) {
  const std::uint64_t steps = pools::steps_for(how.microseconds);
  return micro::ns_per_iteration([&](std::size_t) {
    std::vector<std::thread> all;
    std::atomic<std::size_t> done = 0;
    for (unsigned i = 0; i < pools::threads; ++i) {
      all.emplace_back([&] {
        for (std::size_t j = 0; j < how.jobs / pools::threads; ++j) done += pools::compute(steps) != 0;
      });
    }
    for (std::thread& each : all) each.join();
    pools::check(done == how.jobs, "a job was not done");
    return how.jobs;
  });
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<micro::bench_case> cases{{"pool/round-trip", "floor-two-futexes", "ns", round_trip}};
  for (const pools::fan_out& each : pools::fans) {
    cases.push_back({each.name, "floor-work", "ns", [&each] { return fan_out(each); }});
  }
  return micro::run(argc, argv, cases);
}
