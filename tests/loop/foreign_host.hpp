// Somebody else's event loop, with a loop of ours in it.
#pragma once

#include "support/loop_tools.hpp"

#include <poll.h>

#include <cerrno>

namespace tests {

inline bool readable(int fd) {
  pollfd one{fd, POLLIN, 0};
  return ::poll(&one, 1, 0) == 1;
}

// A foreign loop as plain as can be. How often it was woken is what spinning would show.
class host {
 public:
  explicit host(coir::loop& loop) : loop_(loop), fd_(loop.pollable_fd()) {}

  template <class Condition>
  void run_until(Condition&& reached) {
    while (!reached()) {
      pollfd one{fd_, POLLIN, 0};
      const int ready = ::poll(&one, 1, -1);
      if (ready == 1) ++woken;
      REQUIRE((ready == 1 || errno == EINTR));
      loop_.run_once();
    }
  }
  // No more turns than it takes to get quiet, and then nothing to do.
  void expect_quiet() {
    int turns = 0;
    for (; readable(fd_) && turns < 5; ++turns) loop_.run_once();
    CHECK(turns < 5);
    CHECK_FALSE(readable(fd_));
  }

  int woken = 0;

 private:
  coir::loop& loop_;
  int fd_;
};

}  // namespace tests
