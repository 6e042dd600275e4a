// A process that may open no more descriptors, or only a few.
#pragma once

#include "support/catch.hpp"

#include <sys/resource.h>
#include <unistd.h>

namespace support {

// While it lives, at most `spare` descriptors more than now can be opened.
class descriptor_limit {
 public:
  explicit descriptor_limit(unsigned spare) {
    REQUIRE(::getrlimit(RLIMIT_NOFILE, &before_) == 0);
    // The lowest free number; there may be free ones between those above it.
    const int lowest = ::dup(0);
    REQUIRE(lowest >= 0);
    ::close(lowest);
    rlimit lower = before_;
    lower.rlim_cur = static_cast<rlim_t>(lowest) + spare;
    REQUIRE(::setrlimit(RLIMIT_NOFILE, &lower) == 0);
  }
  descriptor_limit(const descriptor_limit&) = delete;
  ~descriptor_limit() { lift(); }
  void lift() { ::setrlimit(RLIMIT_NOFILE, &before_); }

 private:
  rlimit before_{};
};

}  // namespace support
