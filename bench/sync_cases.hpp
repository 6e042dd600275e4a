// The cases of values and locks between fibers of one loop, and what all subjects have in common:
//
//   channel/ping-pong     two fibers, two channels without a buffer; the figure is one round trip.
//   channel/stream/N      one fiber sends, another receives, through a channel that holds N; one message.
//   mutex/hand-over       two fibers lock a mutex in turn, and let the other one run while they have it; one lock.
//   select/N              a fiber waits for whichever of N channels without a buffer has something, and another sends
//                         to them in turn; one message.
//   skynet/time           a fiber makes ten, each of which makes ten, down to a million, which send their number to
//                         whoever made them, through a channel that holds ten, and these the sum; one of the million.
//                         Each begins ahead of those that are there, where the subject does not do that by itself.
//   skynet/memory         the most memory that took, for each of the million.
//   ring/1000             1000 fibers in a ring of channels without a buffer pass a token on; one step.
#pragma once

#include "micro.hpp"

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace exchange {

constexpr std::size_t stream_capacities[] = {0, 1, 1024};
constexpr std::size_t ring = 1000;
constexpr std::uint64_t sky = 1'000'000;
constexpr std::uint64_t sky_fan = 10;
constexpr std::uint64_t sky_sum = sky * (sky - 1) / 2;

// A subject that is fast because it did not do its work is none.
inline void check(bool good, const char* what) {
  if (good) return;
  std::fprintf(stderr, "%s\n", what);
  std::exit(1);
}

// The most memory that this process had in RAM since reset_peak().
inline void reset_peak() {
  std::FILE* const file = std::fopen("/proc/self/clear_refs", "w");
  check(file != nullptr && std::fputs("5", file) >= 0 && std::fclose(file) == 0, "cannot reset the peak");
}
inline double peak_bytes() {
  std::FILE* const file = std::fopen("/proc/self/status", "r");
  check(file != nullptr, "cannot read /proc/self/status");
  char line[256];
  double kilobytes = -1;
  while (std::fgets(line, sizeof line, file) != nullptr) {
    if (std::strncmp(line, "VmHWM:", 6) == 0) kilobytes = std::strtod(line + 6, nullptr);
  }
  std::fclose(file);
  check(kilobytes >= 0, "no VmHWM in /proc/self/status");
  return kilobytes * 1024;
}

// `run` gives the sum. Once: the second time finds the memory of the first.
template <class Run>
double sky_ns(const Run& run) {
  const auto begin = std::chrono::steady_clock::now();
  check(run() == sky_sum, "skynet got a wrong sum");
  const std::chrono::duration<double, std::nano> elapsed = std::chrono::steady_clock::now() - begin;
  return elapsed.count() / static_cast<double>(sky);
}
template <class Run>
double sky_bytes(const Run& run) {
  reset_peak();
  const double before = peak_bytes();
  check(run() == sky_sum, "skynet got a wrong sum");
  return (peak_bytes() - before) / static_cast<double>(sky);
}

}  // namespace exchange
