// coir/testing/dice.hpp: chance that can be repeated: the same seed gives the same draws, on every machine.
//
//   coir::testing::dice dice(seed);
//   const auto pause = std::chrono::milliseconds(dice.below(10));
//   if (dice.chance(0.25)) child.cancel();                         [tests/testing/dice_test.cpp]
//
// Shape    eight bytes: splitmix64. A copy goes on by itself. The distributions of <random> are none of a
//          seed's: every library has its own.
// Thread   one at a time.
// Errors   none. below(0) is 0; a chance below 0 never comes, one above 1 always.
// Cost     a nanosecond a draw. A chance of 0 draws nothing, so a fault that is off changes no sequence.
// See      coir/testing/simulator.hpp, coir/testing/seeds.hpp
#pragma once

#include <cstdint>

namespace coir::testing {

class dice {
 public:
  explicit dice(std::uint64_t seed) noexcept : state_(seed) {}

  std::uint64_t next() noexcept {
    state_ += 0x9e37'79b9'7f4a'7c15;
    std::uint64_t mixed = state_;
    mixed = (mixed ^ (mixed >> 30)) * 0xbf58'476d'1ce4'e5b9;
    mixed = (mixed ^ (mixed >> 27)) * 0x94d0'49bb'1331'11eb;
    return mixed ^ (mixed >> 31);
  }
  // 0 to limit - 1. Uneven by one part in 2^64 / limit, which no test sees.
  std::uint64_t below(std::uint64_t limit) noexcept { return limit == 0 ? 0 : next() % limit; }
  bool chance(double probability) noexcept {
    if (probability <= 0) return false;
    return static_cast<double>(next() >> 11) * 0x1p-53 < probability;
  }

 private:
  std::uint64_t state_;
};

}  // namespace coir::testing
