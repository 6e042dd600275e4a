// coir/base/time.hpp: instants, durations, and where the time comes from.
//
//   coir::instant deadline = coir::after(loop.time(), 250ms);
//
// Shape    std::chrono on the steady clock, in nanoseconds. `never` is the end of time.
// Thread   any; a time_source belongs to its loop.
// Errors   none: sums that would overflow saturate at `never`.
// Cost     steady_now() is one clock_gettime in user space, 20 to 40 ns; coarse_now() about 8 ns, and up
//          to one kernel tick (4 ms) behind.
#pragma once

#include <chrono>

namespace coir {

using duration = std::chrono::nanoseconds;
using instant = std::chrono::time_point<std::chrono::steady_clock, duration>;

inline constexpr instant never = instant::max();

instant steady_now() noexcept;
instant coarse_now() noexcept;

// `start` plus `wait`, saturating; a negative wait gives an instant before `start`.
constexpr instant after(instant start, duration wait) noexcept {
  if (wait > duration::zero() && start > never - wait) return never;
  if (wait < duration::zero() && start < instant::min() - wait) return instant::min();
  return start + wait;
}

// Converts any std::chrono duration without overflow: what does not fit saturates, and a fraction of a
// nanosecond counts as one. A duration that is not a number is none at all.
template <class Rep, class Period>
constexpr duration saturated(std::chrono::duration<Rep, Period> wait) noexcept {
  using seconds = std::chrono::duration<double>;
  constexpr seconds limit(9.2e9);
  const seconds about = std::chrono::duration_cast<seconds>(wait);
  if (about >= limit) return duration::max();
  if (about <= -limit) return duration::min();
  if (about != about) return duration::zero();
  return std::chrono::ceil<duration>(wait);
}

// A clock that replaces the steady one in a loop: tests use testing::mock_clock.
class time_source {
 public:
  virtual instant now() noexcept = 0;

  // The loop has nothing to do before `deadline`, which is not reached, and the kernel has nothing for it. Returns
  // true when time has moved, so that the loop need not sleep; else it sleeps until another thread or the kernel has
  // something for it. `never` means there is no deadline.
  virtual bool idle_until(instant deadline) noexcept = 0;

 protected:
  ~time_source() = default;
};

}  // namespace coir
