// Waiting for an epoll set until an instant, as exactly as the kernel lets us. Private to lib/loop.
#pragma once

#include <coir/base/time.hpp>

#include <sys/epoll.h>

#include <cstddef>
#include <span>

namespace coir {

class epoll_sleep {
 public:
  // How many events came; none when a signal was handled or the time was up. instant::min() only looks.
  std::size_t wait(int set, std::span<epoll_event> events, instant deadline);
  bool in_nanoseconds() const noexcept { return nanoseconds_; }

 private:
  bool nanoseconds_ = true;  // epoll_pwait2 is there (Linux 5.11)
};

}  // namespace coir
