// coir/testing/mock_clock.hpp: time by hand, or jumping when everything waits.
//
//   coir::testing::mock_clock clock;                          // jumps: sleep_for(1h) takes no time
//   coir::run(test(), coir::run_options().loop(coir::loop_options().time(&clock)));
//                                                             [tests/testing/mock_clock_test.cpp]
//
// Shape    a clock to give to loop_options. It starts at an odd instant far from the steady clock's, so
//          that a mix of the two fails at once.
// Order    when nothing is ready and the kernel has nothing, time jumps to the next deadline.
// Thread   its loop's. While a loop::hold says that another thread will do something, time stands still.
// Errors   none.
// Cost     a jump is one look at the kernel.
// See      coir/base/time.hpp
#pragma once

#include <coir/base/time.hpp>

namespace coir::testing {

class mock_clock final : public time_source {
 public:
  enum class mode { jumps, by_hand };
  explicit mock_clock(mode how = mode::jumps) noexcept : mode_(how) {}

  instant now() noexcept override { return now_; }
  bool idle_until(instant deadline) noexcept override {
    // Due already: by hand, too, that is no sleep.
    if (deadline <= now_) return true;
    if (mode_ == mode::by_hand || deadline == never) return false;
    now_ = deadline;
    ++jumps_;
    return true;
  }

  void advance(duration by) noexcept { now_ += by; }
  unsigned jumps() const noexcept { return jumps_; }

 private:
  static constexpr instant start{std::chrono::hours(1'000'003) + std::chrono::nanoseconds(7)};

  instant now_ = start;
  unsigned jumps_ = 0;
  mode mode_;
};

}  // namespace coir::testing
