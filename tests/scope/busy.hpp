// What tests of time have in common: programs on a clock, work that takes time and waits for nothing, and both
// ways to wait.
#pragma once

#include "fiber/surfaces.hpp"

#include <coir/coir.hpp>
#include <coir/testing/mock_clock.hpp>

#include <vector>

namespace support {

inline coir::run_options on(coir::time_source& clock) {
  return coir::run_options().loop(coir::loop_options().time(&clock));
}
inline coir::loop& loop_here() { return coir::running_fiber().home().on(); }

// When something happened, counted from the beginning.
class record {
 public:
  explicit record(coir::testing::mock_clock& clock) : clock_(clock), start_(clock.now()) {}
  void operator()() { times.push_back(clock_.now() - start_); }
  coir::duration passed() const { return clock_.now() - start_; }
  std::vector<coir::duration> times;

 private:
  coir::testing::mock_clock& clock_;
  coir::instant start_;
};

}  // namespace support
