// coir/io/readiness.hpp: a fiber waits until a descriptor that coir did not make is ready.
//
//   while (PQconnectPoll(connection) == PGRES_POLLING_READING)
//     co_await coir::wait_readable(PQsocket(connection));
//                                                       [tests/io/readiness_test.cpp: wait_readable]
//
// For libraries that bring their own sockets. coir's own streams wait by themselves.
//
// Shape    one poll request for each wait; nothing is registered between two waits.
// Order    any number of fibers may wait for one descriptor; all of them go on when it is ready, so the
//          descriptor must be non-blocking: another one may have taken what was there.
// Thread   one loop.
// Cancel   nothing has happened to the descriptor. io_uring: later, the kernel answers. epoll: now.
// Errors   EBADF for what is no descriptor. A hang-up or an error of the descriptor counts as ready, and the
//          next read or write says which. What cannot be waited for (a regular file) is always ready.
// Cost     one request; on epoll one poll(2), and an epoll_ctl(2) around each wait of a descriptor that is
//          not coir's.
// See      coir/loop/watcher.hpp for callbacks
#pragma once

#include <coir/fiber/request_op.hpp>
#include <coir/fiber/scheduler.hpp>

#include <poll.h>

namespace coir {

class [[nodiscard("co_await it, or coir::await(it)")]] readable_op : public request_op<nothing> {
 public:
  static constexpr const char* name = "wait_readable";
  explicit readable_op(int fd) : request_op(running_fiber().home().on(), request::poll(fd, POLLIN)) {}
};

class [[nodiscard("co_await it, or coir::await(it)")]] writable_op : public request_op<nothing> {
 public:
  static constexpr const char* name = "wait_writable";
  explicit writable_op(int fd) : request_op(running_fiber().home().on(), request::poll(fd, POLLOUT)) {}
};

inline readable_op wait_readable(int fd) { return readable_op(fd); }
inline writable_op wait_writable(int fd) { return writable_op(fd); }

}  // namespace coir
