#include <coir/base/time.hpp>

#include <ctime>

namespace coir {

namespace {

instant read_clock(clockid_t clock) noexcept {
  timespec now{};
  ::clock_gettime(clock, &now);
  return instant(std::chrono::seconds(now.tv_sec) + std::chrono::nanoseconds(now.tv_nsec));
}

}  // namespace

instant steady_now() noexcept { return read_clock(CLOCK_MONOTONIC); }
instant coarse_now() noexcept { return read_clock(CLOCK_MONOTONIC_COARSE); }

}  // namespace coir
