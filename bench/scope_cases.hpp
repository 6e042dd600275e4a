// The cases of regions, and what all subjects have in common:
//
//   limit/ready         around an op that is ready at once. The figure is one such op, with the limit.
//   limit/waits         around an op that waits until another fiber lets it through, in the next turn; the figure has
//                       the other fiber's part in it.
//   limit/task          around a function of the fiber's own (a task, on a stack a plain function) that awaits
//                       an op that is ready at once.
//   limit/*-100k        the same with 100,000 other deadlines outstanding, half of them earlier.
//   cancel/100k         100,000 fibers that wait are cancelled by one call and end; the figure is one fiber.
//   nursery/1000        a fiber spawns 1000 others that do nothing, and goes on when all have ended; one of them.
//
// Subjects named `*-unlimited` do the same without any limit: what a limit adds is the difference to them. No limit
// runs out: it is set, found not to be needed, and forgotten, as almost all limits of a program are.
#pragma once

#include "micro.hpp"

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>

namespace scopes {

constexpr std::chrono::seconds limit{600};
constexpr std::size_t other_deadlines = 100'000;
constexpr std::size_t parked = 100'000;
constexpr std::size_t children = 1000;

// When the others are due: from now, half of them before the limit, in random order.
class other_waits {
 public:
  std::chrono::microseconds next() {
    state_ = state_ * 6364136223846793005U + 1442695040888963407U;
    return std::chrono::seconds(100) + std::chrono::microseconds((state_ >> 33) % 1'000'000'000);
  }

 private:
  std::uint64_t state_ = 1;
};

// A subject that is fast because it did not do its work is none.
inline void check(bool good, const char* what) {
  if (good) return;
  std::fprintf(stderr, "%s\n", what);
  std::exit(1);
}

struct outstanding {
  std::string suffix;
  std::size_t count;
};
inline const outstanding none_or_many[] = {{"", 0}, {"-100k", other_deadlines}};

// Once: what is measured is the end of something.
template <class Do>
double ns_for_each(std::size_t count, Do&& once) {
  const auto begin = std::chrono::steady_clock::now();
  once();
  const std::chrono::duration<double, std::nano> elapsed = std::chrono::steady_clock::now() - begin;
  return elapsed.count() / static_cast<double>(count);
}

}  // namespace scopes
