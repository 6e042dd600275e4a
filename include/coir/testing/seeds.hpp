// coir/testing/seeds.hpp: a test for many seeds, which says the seed it failed with.
//
//   coir::testing::for_each_seed(100, [](std::uint64_t seed) {
//     coir::testing::simulator sim(coir::testing::simulator_options().seed(seed).faults(0.1));
//     coir::run(test(), sim.for_run());
//   });                                                        [tests/testing/seeds_test.cpp]
//
// With COIR_SEED=17 in the environment it runs for 17 only.
//
// Shape    a function.
// Order    seeds 1, 2, 3, ...: what failed yesterday fails today.
// Thread   any.
// Errors   seed_failure, with the seed and what the test threw, which is nested in it. What is no
//          std::exception goes on as it is, and the seed to standard error. std::invalid_argument for a
//          COIR_SEED that is no number.
// Cost     the test's.
// See      coir/testing/simulator.hpp, coir/testing/shuffle.hpp
#pragma once

#include <cstdint>
#include <functional>
#include <stdexcept>
#include <string>

namespace coir::testing {

class seed_failure : public std::runtime_error {
 public:
  seed_failure(std::uint64_t seed, const std::string& why);
  std::uint64_t seed() const noexcept { return seed_; }

 private:
  std::uint64_t seed_;
};

void for_each_seed(std::uint64_t count, const std::function<void(std::uint64_t seed)>& test);

}  // namespace coir::testing
