// One row per kind of request: how to ask io_uring for it, and how to do it once the descriptor is
// ready. Private to lib/loop; the table is in request.cpp.
#pragma once

#include <coir/loop/request.hpp>

struct io_uring_sqe;

namespace coir {

struct request_row {
  const char* name;
  // What the descriptor must poll ready for before `attempt` makes sense; 0: it never would block, or
  // blocks without the kernel being able to say when it would not (files).
  short readiness;
  // The result belongs to a byte stream: one shorter than asked means there is nothing more for now.
  bool stream;
  // Many results for one request.
  bool multishot;
  // The submission half.
  void (*prepare)(const request& what, io_uring_sqe& entry) noexcept;
  // The readiness half: the system call, once, non-blocking. Minus errno on failure.
  int (*attempt)(request& what) noexcept;
};

const request_row& row_of(request_kind kind) noexcept;

}  // namespace coir
