// The cases of values that go from one thread to another, and what all subjects have in common:
//
//   threads/ping-pong       a fiber of one loop sends to a fiber of another and waits for its answer; one round trip.
//   threads/stream/N        a fiber of one loop sends to a fiber of another, through what holds N; one message.
//   threads/stream/mailbox  the same without a limit; those who know none have room for a million.
//
// Two threads, each with a processor of its own.
#pragma once

#include "micro.hpp"

#include <cstddef>
#include <cstdio>
#include <cstdlib>

namespace crossing {

constexpr std::size_t stream_capacities[] = {1, 1024};
constexpr std::size_t no_limit = 1 << 20;

// A subject that is fast because it did not do its work is none.
inline void check(bool good, const char* what) {
  if (good) return;
  std::fprintf(stderr, "%s\n", what);
  std::exit(1);
}

}  // namespace crossing
