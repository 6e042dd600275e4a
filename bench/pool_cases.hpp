// The cases of pools of threads, and what all subjects have in common:
//
//   pool/round-trip     a fiber has a pool's thread do nothing, and goes on when that is done. Two wake-ups of a thread.
//   pool/fan-out-1us    a fiber spawns 10,000 others, each of which has the pool compute for 1 us; the figure is one job.
//   pool/fan-out-100us  1000 jobs of 100 us.
//
// A pool has two threads. What is computed is a fixed number of steps, calibrated once, so that a thread that is
// interrupted has not done its work meanwhile.
#pragma once

#include "micro.hpp"

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>

namespace pools {

constexpr unsigned threads = 2;

struct fan_out {
  const char* name;
  std::size_t jobs;
  double microseconds;
};
constexpr fan_out fans[] = {{"pool/fan-out-1us", 10'000, 1}, {"pool/fan-out-100us", 1000, 100}};

inline void check(bool good, const char* what) {
  if (good) return;
  std::fprintf(stderr, "%s\n", what);
  std::exit(1);
}

inline std::uint64_t compute(std::uint64_t steps) noexcept {
  std::uint64_t state = steps;
  for (std::uint64_t i = 0; i < steps; ++i) state = state * 6364136223846793005U + 1442695040888963407U;
  return state;
}

// How many steps take so long on this machine.
inline std::uint64_t steps_for(double microseconds) {
  constexpr std::uint64_t many = 1'000'000;
  double best = 1e18;
  volatile std::uint64_t used = 0;
  for (int i = 0; i < 5; ++i) {
    const auto begin = std::chrono::steady_clock::now();
    used = compute(many);
    const std::chrono::duration<double, std::micro> took = std::chrono::steady_clock::now() - begin;
    if (took.count() < best) best = took.count();
  }
  static_cast<void>(used);
  return static_cast<std::uint64_t>(microseconds * static_cast<double>(many) / best);
}

}  // namespace pools
