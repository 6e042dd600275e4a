#include "epoll_sleep.hpp"

#include <coir/base/error.hpp>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <ctime>

namespace coir {

std::size_t epoll_sleep::wait(int set, std::span<epoll_event> events, instant deadline) {
  const auto size = static_cast<int>(events.size());
  duration left = duration::zero();
  if (deadline == never) {
    left = duration::max();
  } else if (deadline != instant::min()) {
    left = std::max(duration::zero(), deadline - steady_now());
  }
  int count = -1;
  if (nanoseconds_) {
    timespec limit{};
    limit.tv_sec = left / std::chrono::seconds(1);
    limit.tv_nsec = (left % std::chrono::seconds(1)).count();
    count = ::epoll_pwait2(set, events.data(), size, deadline == never ? nullptr : &limit, nullptr);
    // EPERM: a sandbox that does not know the call.
    if (count < 0 && (errno == ENOSYS || errno == EPERM)) nanoseconds_ = false;
  }
  if (!nanoseconds_) {
    // Up, so that nothing fires early; the loop looks at its clock and waits again if need be.
    const auto milliseconds = std::chrono::ceil<std::chrono::milliseconds>(
        std::min<duration>(left, std::chrono::hours(24)));
    count = ::epoll_wait(set, events.data(), size,
                         deadline == never ? -1 : static_cast<int>(milliseconds.count()));
  }
  if (count >= 0) return static_cast<std::size_t>(count);
  // EINTR: a signal was handled; the turn goes on without events.
  if (errno != EINTR) throw_error(errno, "epoll_wait of a loop");
  return 0;
}

}  // namespace coir
