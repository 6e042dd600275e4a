#include <coir/loop/request.hpp>

#include "request_row.hpp"

#include <fcntl.h>
#include <liburing.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

namespace coir {

namespace {

// What a row answers that failed without a system call saying so.
ssize_t refuse(int error) noexcept {
  errno = error;
  return -1;
}

off_t offset_of(const request& what) noexcept { return static_cast<off_t>(what.offset); }
bool positioned(const request& what) noexcept { return what.offset != request::no_offset; }
const iovec* parts_of(const request& what) noexcept {
  return static_cast<const iovec*>(what.address);
}
auto* address_of(const request& what) noexcept {
  return static_cast<const sockaddr*>(what.address);
}

constexpr int accept_flags = SOCK_NONBLOCK | SOCK_CLOEXEC;

// How long to wait is not the caller's to say here: io_uring would wait until all has come, or gone (MSG_WAITALL), which
// no try without blocking does.
int without_waits(int flags) noexcept { return flags & ~MSG_WAITALL; }

}  // namespace

// Where the arguments are kept: address and length are the buffer, the iovecs and their count, the
// msghdr, the socket address and its size, or the path; offset is the file offset; flags are those of
// the message, the polled events, the flags of open(2) (with the mode in length), or, of fsync, 1 for
// data only.
// Sends do not wait in the kernel (MSG_DONTWAIT), but answer EAGAIN, and the backend polls: to a peer that has ended
// its own direction the kernel takes the socket for writable all the time (POLLRDHUP), tries 128 times, and then has
// one of its threads wait in the call. So it does with a receive where something is in the error queue, of which most
// who receive messages (recvmsg) know; a plain receive may be told (MSG_DONTWAIT), because asking twice is dearer.
constinit const request_row request_rows[request_kinds] = {
    {"read", POLLIN, true, false, false, blocking::at_an_offset,
     [](const request& r, io_uring_sqe& e) noexcept {
       io_uring_prep_read(&e, r.fd, r.address, r.length, r.offset);
     },
     [](request& r) noexcept -> ssize_t {
       return positioned(r) ? ::pread(r.fd, r.address, r.length, offset_of(r))
                            : ::read(r.fd, r.address, r.length);
     }},
    {"write", POLLOUT, true, false, false, blocking::at_an_offset,
     [](const request& r, io_uring_sqe& e) noexcept {
       io_uring_prep_write(&e, r.fd, r.address, r.length, r.offset);
     },
     [](request& r) noexcept -> ssize_t {
       return positioned(r) ? ::pwrite(r.fd, r.address, r.length, offset_of(r))
                            : ::write(r.fd, r.address, r.length);
     }},
    {"readv", POLLIN, false, false, false, blocking::at_an_offset,
     [](const request& r, io_uring_sqe& e) noexcept {
       io_uring_prep_readv(&e, r.fd, parts_of(r), r.length, r.offset);
     },
     [](request& r) noexcept -> ssize_t {
       const int count = static_cast<int>(r.length);
       return positioned(r) ? ::preadv(r.fd, parts_of(r), count, offset_of(r))
                            : ::readv(r.fd, parts_of(r), count);
     }},
    {"writev", POLLOUT, false, false, false, blocking::at_an_offset,
     [](const request& r, io_uring_sqe& e) noexcept {
       io_uring_prep_writev(&e, r.fd, parts_of(r), r.length, r.offset);
     },
     [](request& r) noexcept -> ssize_t {
       const int count = static_cast<int>(r.length);
       return positioned(r) ? ::pwritev(r.fd, parts_of(r), count, offset_of(r))
                            : ::writev(r.fd, parts_of(r), count);
     }},
    {"recv", POLLIN, true, false, false, blocking::no,
     [](const request& r, io_uring_sqe& e) noexcept {
       io_uring_prep_recv(&e, r.fd, r.address, r.length, without_waits(r.flags));
       // What may not wait, and is to poll first, would never be tried.
       if (r.expect_wait && (r.flags & MSG_DONTWAIT) == 0) e.ioprio |= IORING_RECVSEND_POLL_FIRST;
     },
     [](request& r) noexcept -> ssize_t {
       return ::recv(r.fd, r.address, r.length, r.flags | MSG_DONTWAIT);
     }},
    // The chunk to receive into is the backend's to choose: it fills in address and length for
    // `attempt`, and the buffer group for the kernel.
    {"recv_multi", POLLIN, true, true, false, blocking::no,
     [](const request& r, io_uring_sqe& e) noexcept {
       io_uring_prep_recv_multishot(&e, r.fd, nullptr, 0, 0);
       e.flags |= IOSQE_BUFFER_SELECT;
       e.buf_group = 0;
     },
     [](request& r) noexcept -> ssize_t {
       return ::recv(r.fd, r.address, r.length, MSG_DONTWAIT);
     }},
    {"send", POLLOUT, true, false, false, blocking::no,
     [](const request& r, io_uring_sqe& e) noexcept {
       io_uring_prep_send(&e, r.fd, r.address, r.length, without_waits(r.flags) | MSG_NOSIGNAL | MSG_DONTWAIT);
     },
     [](request& r) noexcept -> ssize_t {
       return ::send(r.fd, r.address, r.length, r.flags | MSG_DONTWAIT | MSG_NOSIGNAL);
     }},
    {"recvmsg", POLLIN, false, false, false, blocking::no,
     [](const request& r, io_uring_sqe& e) noexcept {
       io_uring_prep_recvmsg(&e, r.fd, static_cast<msghdr*>(r.address),
                             static_cast<unsigned>(without_waits(r.flags)) | MSG_DONTWAIT);
     },
     [](request& r) noexcept -> ssize_t {
       return ::recvmsg(r.fd, static_cast<msghdr*>(r.address), r.flags | MSG_DONTWAIT);
     }},
    {"sendmsg", POLLOUT, false, false, false, blocking::no,
     [](const request& r, io_uring_sqe& e) noexcept {
       io_uring_prep_sendmsg(&e, r.fd, static_cast<const msghdr*>(r.address),
                             static_cast<unsigned>(without_waits(r.flags)) | MSG_NOSIGNAL | MSG_DONTWAIT);
     },
     [](request& r) noexcept -> ssize_t {
       return ::sendmsg(r.fd, static_cast<const msghdr*>(r.address),
                               r.flags | MSG_DONTWAIT | MSG_NOSIGNAL);
     }},
    {"accept", POLLIN, false, false, false, blocking::no,
     [](const request& r, io_uring_sqe& e) noexcept {
       io_uring_prep_accept(&e, r.fd, nullptr, nullptr, accept_flags);
     },
     [](request& r) noexcept -> ssize_t { return ::accept4(r.fd, nullptr, nullptr, accept_flags); }},
    {"accept_multi", POLLIN, false, true, false, blocking::no,
     [](const request& r, io_uring_sqe& e) noexcept {
       io_uring_prep_multishot_accept(&e, r.fd, nullptr, nullptr, accept_flags);
     },
     [](request& r) noexcept -> ssize_t { return ::accept4(r.fd, nullptr, nullptr, accept_flags); }},
    // connect(2) begins; when the descriptor polls writable, SO_ERROR has the answer. The second call
    // of `attempt` is told from the first by `length`, which is 0 once the connect was begun.
    {"connect", POLLOUT, false, false, true, blocking::no,
     [](const request& r, io_uring_sqe& e) noexcept {
       io_uring_prep_connect(&e, r.fd, address_of(r), r.length);
     },
     [](request& r) noexcept -> ssize_t {
       if (r.length != 0) {
         const int begun = ::connect(r.fd, address_of(r), r.length);
         // Not begun: the queue of a Unix listener is full, and nothing would say when it has room.
         if (begun < 0 && errno == EAGAIN) return refuse(ECONNREFUSED);
         // EINTR: the connect goes on in the background, as with EINPROGRESS.
         if (begun == 0 || (errno != EINPROGRESS && errno != EINTR)) return begun;
         r.length = 0;
         return refuse(EAGAIN);
       }
       int error = 0;
       socklen_t size = sizeof error;
       if (::getsockopt(r.fd, SOL_SOCKET, SO_ERROR, &error, &size) < 0) return -1;
       if (error != 0) return refuse(error);
       // An edge from before the connect proves nothing: only a connected socket has a peer.
       sockaddr_storage peer;
       size = sizeof peer;
       const int connected = ::getpeername(r.fd, reinterpret_cast<sockaddr*>(&peer), &size);
       return connected < 0 && errno == ENOTCONN ? refuse(EAGAIN) : connected;
     }},
    {"poll", 0, false, false, true, blocking::no,
     [](const request& r, io_uring_sqe& e) noexcept {
       io_uring_prep_poll_add(&e, r.fd, polled_for(r.fd, static_cast<short>(r.flags)));
     },
     [](request& r) noexcept -> ssize_t {
       pollfd one{r.fd, static_cast<short>(r.flags), 0};
       const int ready = ::poll(&one, 1, 0);
       if (ready < 0) return ready;
       if (ready == 0) return refuse(EAGAIN);
       return (one.revents & POLLNVAL) != 0 ? refuse(EBADF) : one.revents;
     }},
    {"open", 0, false, false, false, blocking::yes,
     [](const request& r, io_uring_sqe& e) noexcept {
       io_uring_prep_openat(&e, AT_FDCWD, static_cast<const char*>(r.address),
                            r.flags | O_CLOEXEC, r.length);
     },
     [](request& r) noexcept -> ssize_t {
       return ::open(static_cast<const char*>(r.address), r.flags | O_CLOEXEC, r.length);
     }},
    // Only for descriptors that linger; others are closed on the spot (backend.cpp). Asynchronous,
    // because the kernel would wait in the submitting call otherwise.
    {"close", 0, false, false, false, blocking::yes,
     [](const request& r, io_uring_sqe& e) noexcept {
       io_uring_prep_close(&e, r.fd);
       e.flags |= IOSQE_ASYNC;
     },
     // EINTR: on Linux the number is free all the same.
     [](request& r) noexcept -> ssize_t { return ::close(r.fd) < 0 && errno != EINTR ? -1 : 0; }},
    {"fsync", 0, false, false, false, blocking::yes,
     [](const request& r, io_uring_sqe& e) noexcept {
       io_uring_prep_fsync(&e, r.fd, r.flags != 0 ? IORING_FSYNC_DATASYNC : 0);
     },
     [](request& r) noexcept -> ssize_t { return r.flags != 0 ? ::fdatasync(r.fd) : ::fsync(r.fd); }},
};

bool is_socket(int fd) noexcept {
  struct stat what {};
  return ::fstat(fd, &what) == 0 && S_ISSOCK(what.st_mode);
}

const char* name_of(request_kind kind) noexcept { return row_of(kind).name; }

request request::read(int fd, std::span<std::byte> into, std::uint64_t offset) noexcept {
  request what(request_kind::read, fd, into.data(), into.size());
  what.offset = offset;
  return what;
}

request request::write(int fd, std::span<const std::byte> from, std::uint64_t offset) noexcept {
  request what(request_kind::write, fd, from.data(), from.size());
  what.offset = offset;
  return what;
}

request request::readv(int fd, const iovec* parts, unsigned count, std::uint64_t offset) noexcept {
  request what(request_kind::readv, fd, parts, count);
  what.offset = offset;
  return what;
}

request request::writev(int fd, const iovec* parts, unsigned count,
                        std::uint64_t offset) noexcept {
  request what(request_kind::writev, fd, parts, count);
  what.offset = offset;
  return what;
}

request request::recv_multi(int fd) noexcept {
  return {request_kind::recv_multi, fd, nullptr, 0};
}

request request::recvmsg(int fd, msghdr* message, int flags) noexcept {
  request what(request_kind::recvmsg, fd, message, 1);
  what.flags = flags;
  return what;
}

request request::sendmsg(int fd, const msghdr* message, int flags) noexcept {
  request what(request_kind::sendmsg, fd, message, 1);
  what.flags = flags;
  return what;
}

request request::accept(int fd) noexcept { return {request_kind::accept, fd, nullptr, 0}; }

request request::accept_multi(int fd) noexcept {
  return {request_kind::accept_multi, fd, nullptr, 0};
}

request request::connect(int fd, const sockaddr* address, unsigned address_bytes) noexcept {
  return {request_kind::connect, fd, address, address_bytes};
}

request request::poll(int fd, short events) noexcept {
  request what(request_kind::poll, fd, nullptr, 0);
  what.flags = events;
  return what;
}

request request::open(const char* path, int flags, unsigned mode) noexcept {
  request what(request_kind::open, -1, path, mode);
  what.flags = flags;
  return what;
}

request request::close(int fd) noexcept { return {request_kind::close, fd, nullptr, 0}; }

request request::fsync(int fd, bool data_only) noexcept {
  request what(request_kind::fsync, fd, nullptr, 0);
  what.flags = data_only ? 1 : 0;
  return what;
}

}  // namespace coir
