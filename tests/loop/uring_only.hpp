// For tests of what only io_uring has.
#pragma once

#include "support/loop_tools.hpp"

namespace tests {

// True on epoll, and says so.
inline bool without_uring() {
  if (coir::backend_report().kind == coir::backend_kind::uring) return false;
  WARN("skipped: this is about io_uring, and the tests run on epoll");
  return true;
}

}  // namespace tests
