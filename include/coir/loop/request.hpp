// coir/loop/request.hpp: one kernel operation: its arguments, its result, and who is told.
//
//   coir::request get = coir::request::recv(fd, buffer);
//   get.told = &someone;
//   if (!loop.start(get)) use(get.result);        // finished at once; else someone.done() comes later
//                                                  [tests/loop/contract_request_test.cpp]
//
// A system call that may wait is a kind of request, one row of the table in lib/loop/request.cpp; one
// that cannot (bind, setsockopt) is called where it is needed.
//
// Shape    a plain struct of 72 bytes that the caller owns. It may be moved until it is started and must
//          stay, with its buffers, until it is over: until start() answered false, withdraw() answered
//          now, or told->done() was called with armed() false. What is no regular file must be
//          non-blocking (O_NONBLOCK): on epoll the call would hold up the loop, on io_uring a thread of the kernel's.
//          A FIFO that is opened for reading waits for its writer on epoll; on io_uring the first read does.
//          Only regular files take offsets: elsewhere epoll refuses them (-ESPIPE), and io_uring does not look.
// Order    requests of one direction on one descriptor are served first come, first served on epoll.
//          On io_uring the kernel decides: keep one in flight per direction where order matters.
//          MSG_WAITALL is not heeded: a result may be less than asked.
// Thread   the loop's.
// Cancel   loop.withdraw(request).
// Errors   result is what the system call returned, or minus its errno. On a descriptor of the loop's what a
//          connection died of (-ECONNRESET, say) is told to all who read, and not only to who asks first. A
//          descriptor that is being closed gives -EBADF at start; one that is closed while the request waits,
//          -ECANCELED.
// Cost     no allocation. io_uring: one submission entry, sent with all others of the turn. epoll: the
//          system call at once, and again when the descriptor became ready.
// See      coir/loop/loop.hpp; lib/loop/NOTE.md
#pragma once

#include <coir/base/list.hpp>
#include <coir/loop/waiter.hpp>

#include <cstddef>
#include <cstdint>
#include <span>

struct iovec;
struct msghdr;
struct sockaddr;

namespace coir {

enum class request_kind : std::uint8_t {
  read,
  write,
  readv,
  writev,
  recv,
  recv_multi,
  send,
  recvmsg,
  sendmsg,
  accept,
  accept_multi,
  connect,
  poll,
  open,
  close,
  fsync,
};
inline constexpr unsigned request_kinds = 16;

const char* name_of(request_kind kind) noexcept;

class request : public list_node {
 public:
  request() noexcept = default;

  // An offset for files; without one, the descriptor's own position is used, as pipes and sockets need.
  static constexpr std::uint64_t no_offset = ~std::uint64_t{0};

  static request read(int fd, std::span<std::byte> into, std::uint64_t offset = no_offset) noexcept;
  static request write(int fd, std::span<const std::byte> from,
                       std::uint64_t offset = no_offset) noexcept;
  static request readv(int fd, const iovec* parts, unsigned count,
                       std::uint64_t offset = no_offset) noexcept;
  static request writev(int fd, const iovec* parts, unsigned count,
                        std::uint64_t offset = no_offset) noexcept;
  // A socket with something in its error queue that nobody takes (IP_RECVERR, SO_TIMESTAMPING, MSG_ZEROCOPY) costs a
  // thread of the kernel's while this waits, on io_uring; not with MSG_DONTWAIT, which changes nothing else.
  static request recv(int fd, std::span<std::byte> into, int flags = 0) noexcept {
    request what(request_kind::recv, fd, into.data(), into.size());
    what.flags = flags;
    return what;
  }
  // Receives into the loop's chunks (loop/chunk.hpp) again and again: each result names its chunk in
  // chunk(). Over at end of stream (0), on error, and with -ENOBUFS when no chunk is free.
  static request recv_multi(int fd) noexcept;
  // SIGPIPE is never raised: sending to a closed peer gives -EPIPE.
  static request send(int fd, std::span<const std::byte> from, int flags = 0) noexcept {
    request what(request_kind::send, fd, from.data(), from.size());
    what.flags = flags;
    return what;
  }
  static request recvmsg(int fd, msghdr* message, int flags = 0) noexcept;
  static request sendmsg(int fd, const msghdr* message, int flags = 0) noexcept;
  // The result is a descriptor with close-on-exec and O_NONBLOCK, and belongs to whoever is told.
  static request accept(int fd) noexcept;
  static request accept_multi(int fd) noexcept;
  static request connect(int fd, const sockaddr* address, unsigned address_bytes) noexcept;
  // One shot: the result is the events (POLLIN, ...) that the descriptor is ready for.
  static request poll(int fd, short events) noexcept;
  // Paths are relative to the working directory. The result is a descriptor with close-on-exec.
  static request open(const char* path, int flags, unsigned mode) noexcept;
  // The one closing path: no new requests on the descriptor, what is in flight is withdrawn and waited
  // for, then it is closed. Never an implicit shutdown(2).
  static request close(int fd) noexcept;
  static request fsync(int fd, bool data_only = false) noexcept;

  // The arguments as the kernel wants them. What each kind keeps where is said in lib/loop/request.cpp.
  void* address = nullptr;
  std::uint64_t offset = no_offset;
  std::uint32_t length = 0;
  int flags = 0;
  int fd = -1;

  // Valid once it is over, or when a multishot request tells of one result.
  int result = 0;
  waiter* told = nullptr;

  request_kind kind = request_kind::poll;

  // A hint for io_uring, of a recv: do not try before the descriptor polls ready.
  bool expect_wait = false;
  // It does not count as something that can wake a fiber (loop::can_wake).
  bool background = false;

  // Started, and not over.
  bool armed() const noexcept { return armed_; }
  // Its descriptor was closed, or its loop ended, while it was in flight, whatever came of it.
  bool closed_under() const noexcept { return held_up_; }
  // Of a recv: the next one will probably find bytes, because this one did as soon as it was submitted, or
  // left some behind (io_uring only; false on epoll).
  bool more_expected() const noexcept { return more_expected_; }
  // Of a recv_multi with a result above 0: the number of the chunk the bytes are in.
  std::uint16_t chunk() const noexcept { return chunk_; }

 private:
  friend class loop;
  friend class backend;

  // More than the kernel moves in one call (MAX_RW_COUNT), and within an io_uring length.
  static constexpr std::size_t length_max = 0x7ffff000;

  request(request_kind which, int on, const void* memory, std::size_t bytes) noexcept
      : address(const_cast<void*>(memory)),
        length(static_cast<std::uint32_t>(bytes < length_max ? bytes : length_max)),
        fd(on),
        kind(which) {}

  bool armed_ = false;
  bool more_expected_ = false;
  bool withdrawn_ = false;  // the kernel was asked to give it up
  bool held_up_ = false;    // a close of its descriptor waits for it, or has
  std::uint16_t chunk_ = 0;
  std::uint32_t slot_ = 0;  // where the io_uring backend finds it
};

}  // namespace coir
