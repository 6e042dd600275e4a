// One row per kind of request: how to ask io_uring for it, and how to do it once the descriptor is
// ready. Private to lib/loop; the table is in request.cpp.
#pragma once

#include <coir/loop/request.hpp>

#include <poll.h>
#include <sys/types.h>

#include <cerrno>
#include <cstdint>

struct io_uring_sqe;

namespace coir {

// Whether the system call may block although the descriptor does not.
enum class blocking : std::uint8_t {
  no,
  at_an_offset,  // files have offsets, and block
  yes,
};

struct request_row {
  const char* name;
  // What the descriptor must poll ready for before `attempt` makes sense; 0: it never would block, or
  // blocks without the kernel being able to say when it would not (files).
  short readiness;
  // The result belongs to a byte stream: one shorter than asked means there is nothing more for now.
  bool stream;
  // Many results for one request.
  bool multishot : 1;
  // Worth an attempt also while the descriptor is not ready: it begins something, or only asks.
  bool always_tried : 1;
  blocking may_block : 2;
  // It waits for one direction, is tried once that is ready, and has one result: most are so. Bit fields,
  // because this is one test then.
  bool plain() const noexcept { return !multishot && !always_tried && may_block == blocking::no; }
  // The submission half.
  void (*prepare)(const request& what, io_uring_sqe& entry) noexcept;
  // The readiness half: the system call, once, non-blocking, as it answers, errno included. Most rows end
  // in the call itself: a return to a caller behind a system call is mispredicted, and costs as much as
  // thirty instructions.
  ssize_t (*attempt)(request& what) noexcept;
};

[[gnu::visibility("hidden")]] extern const request_row request_rows[request_kinds];

inline const request_row& row_of(request_kind kind) noexcept {
  return request_rows[static_cast<unsigned>(kind)];
}

bool is_socket(int fd) noexcept;
// What io_uring is to poll for, for whoever wants these. A poll of a socket for urgent data alone is woken up for nothing
// else, and not for urgent data either (Linux 6.18).
inline unsigned polled_for(int fd, short events) noexcept {
  return static_cast<unsigned>((events & POLLPRI) != 0 && is_socket(fd) ? events | POLLIN : events);
}

// Does it. Minus errno on failure, read right behind the call: no fiber switch can come between.
inline int attempt(const request_row& row, request& what) noexcept {
  const ssize_t answer = row.attempt(what);
  return answer < 0 ? -errno : static_cast<int>(answer);
}

}  // namespace coir
