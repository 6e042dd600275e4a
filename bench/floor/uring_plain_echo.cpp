// Floor: TCP echo on bare liburing, one receive and then one send for each message.
//
// This is what a `read_some` followed by a `write_all` costs when nothing but the kernel is in the
// way: each connection has exactly one request in flight, one buffer, and no allocation after its
// first byte. The options stand for the choices that were measured against each other, the
// defaults for what won; `tools/bench variants/uring-plain` repeats it.

#include "ring.hpp"

#include <sys/mman.h>

#include <string>
#include <vector>

namespace {

struct options {
  int port;
  echo::ring_options ring;
  std::string first_try;
  bool link;
  bool fixed_files;
  std::size_t buffer_bytes;
  std::size_t buffer_gap;
};

// What a completion belongs to, in the low bits of its user_data; the rest is the descriptor.
enum class request : unsigned { accept, receive, send, close };

class server {
 public:
  explicit server(const options& chosen)
      : options_(chosen),
        connections_(echo::raise_file_limit()),
        listener_(echo::listen_on_loopback(chosen.port)) {
    echo::start(ring_, options_.ring);
    if (options_.fixed_files) {
      register_files();
    }
    map_buffers();
  }

  [[noreturn]] void run() {
    echo::announce(listener_);
    submit_accept();
    for (;;) {
      // One system call a turn: it takes all that was prepared and waits for the next.
      echo::enter(ring_);
      ++turn_;
      io_uring_cqe* completion;
      unsigned head;
      unsigned seen = 0;
      io_uring_for_each_cqe(&ring_, head, completion) {
        ++seen;
        complete(*completion);
      }
      io_uring_cq_advance(&ring_, seen);
    }
  }

 private:
  struct connection {
    unsigned received = 0;
    unsigned sent = 0;
    unsigned asked = 0;        // the turn in which the last receive was submitted
    bool was_waiting = false;  // its bytes were there already
  };

  void register_files() {
    const auto slots = static_cast<unsigned>(connections_.size());
    if (const int error = io_uring_register_files_sparse(&ring_, slots)) {
      echo::fail("io_uring_register_files_sparse", -error);
    }
  }

  // One mapping for all buffers. Address space for every possible descriptor costs nothing; the
  // gap keeps small messages of different connections in different cache sets.
  void map_buffers() {
    const std::size_t bytes = connections_.size() * (options_.buffer_bytes + options_.buffer_gap);
    void* const memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) {
      echo::fail("mmap of the receive buffers", errno);
    }
    buffers_ = static_cast<char*>(memory);
  }

  char* buffer_of(int fd) const {
    return buffers_ + fd * (options_.buffer_bytes + options_.buffer_gap);
  }

  io_uring_sqe* prepare() { return echo::next_entry(ring_); }

  void tag(io_uring_sqe* entry, request kind, int fd) const {
    io_uring_sqe_set_data64(entry, static_cast<unsigned>(fd) << 2 | static_cast<unsigned>(kind));
    if (options_.fixed_files && (kind == request::receive || kind == request::send)) {
      entry->flags |= IOSQE_FIXED_FILE;
    }
  }

  void submit_accept() {
    io_uring_sqe* const entry = prepare();
    if (options_.fixed_files) {
      io_uring_prep_multishot_accept_direct(entry, listener_, nullptr, nullptr, 0);
    } else {
      io_uring_prep_multishot_accept(entry, listener_, nullptr, nullptr, SOCK_CLOEXEC);
    }
    tag(entry, request::accept, listener_);
  }

  // Whether to try first: a receive that tries before anything has come was tried in vain, and one
  // that polls first although bytes are waiting comes back by a detour. That the last receive of
  // this connection was answered in the very turn that submitted it says well enough which it will
  // be. (Always trying is also unfair between many busy connections: those whose receives succeed
  // at once overtake those for which the kernel has to be asked, which it finishes twenty a turn.)
  void submit_receive(int fd) {
    io_uring_sqe* const entry = prepare();
    io_uring_prep_recv(entry, fd, buffer_of(fd), options_.buffer_bytes, 0);
    connection& peer = connections_[fd];
    peer.asked = turn_;
    if (poll_first_always_ || (poll_first_adaptively_ && !peer.was_waiting)) {
      entry->ioprio |= IORING_RECVSEND_POLL_FIRST;
    }
    tag(entry, request::receive, fd);
  }

  void submit_send(int fd) {
    if (options_.link && io_uring_sq_space_left(&ring_) < 2) {
      io_uring_submit(&ring_);  // a chain must reach the kernel in one submission
    }
    const connection& peer = connections_[fd];
    io_uring_sqe* const entry = prepare();
    io_uring_prep_send(entry, fd, buffer_of(fd) + peer.sent, peer.received - peer.sent,
                       MSG_NOSIGNAL | MSG_WAITALL);
    tag(entry, request::send, fd);
    if (options_.link) {
      // A send that went out whole says nothing. One that did not takes the receive down with it,
      // and the kernel then tells of the send only.
      entry->flags |= IOSQE_IO_LINK | IOSQE_CQE_SKIP_SUCCESS;
      submit_receive(fd);
    }
  }

  void complete(const io_uring_cqe& completion) {
    const auto kind = static_cast<request>(completion.user_data & 3);
    const int fd = static_cast<int>(completion.user_data >> 2);
    switch (kind) {
      case request::accept:
        accepted(completion);
        return;
      case request::receive:
        received(fd, completion.res);
        return;
      case request::send:
        if (options_.link) {
          close_connection(fd);  // only a failed send speaks, see submit_send
        } else {
          sent(fd, completion.res);
        }
        return;
      case request::close:
        return;
    }
  }

  void accepted(const io_uring_cqe& completion) {
    if (completion.res >= 0) {
      submit_receive(completion.res);
    } else if (completion.res != -ECONNABORTED && completion.res != -EINTR) {
      echo::fail("accept", -completion.res);
    }
    if ((completion.flags & IORING_CQE_F_MORE) == 0) {
      submit_accept();
    }
  }

  void received(int fd, int result) {
    if (result <= 0) {
      close_connection(fd);
      return;
    }
    connection& peer = connections_[fd];
    peer.received = static_cast<unsigned>(result);
    peer.sent = 0;
    peer.was_waiting = peer.asked + 1 == turn_;
    submit_send(fd);
  }

  void sent(int fd, int result) {
    if (result < 0) {
      close_connection(fd);
      return;
    }
    connection& peer = connections_[fd];
    peer.sent += static_cast<unsigned>(result);
    if (peer.sent < peer.received) {
      submit_send(fd);
    } else {
      submit_receive(fd);
    }
  }

  // Nothing is in flight for this descriptor here, so that its number may be used again at once.
  void close_connection(int fd) {
    if (options_.fixed_files) {
      io_uring_sqe* const entry = prepare();
      io_uring_prep_close_direct(entry, static_cast<unsigned>(fd));
      tag(entry, request::close, fd);
    } else {
      close(fd);
    }
  }

  const options options_;
  const bool poll_first_always_ = options_.first_try == "never";
  const bool poll_first_adaptively_ = options_.first_try == "adaptive";
  std::vector<connection> connections_;  // by file descriptor
  const int listener_;
  io_uring ring_{};
  char* buffers_ = nullptr;
  unsigned turn_ = 0;  // how often the kernel was entered to wait
};

}  // namespace

int main(int argc, char** argv) {
  command_line arguments(argc, argv);
  options chosen{};
  chosen.port = arguments.number("--port", 0, 0, 65535);
  chosen.ring = echo::ring_options_of(arguments);
  chosen.first_try = arguments.choice("--first-try", {"adaptive", "always", "never"});
  chosen.link = arguments.flag("--link");
  chosen.fixed_files = arguments.flag("--fixed-files");
  chosen.buffer_bytes = arguments.number<std::size_t>("--buffer-bytes", 4096, 1, 1u << 30);
  chosen.buffer_gap = arguments.number<std::size_t>("--buffer-gap", 64, 0, 1u << 20);
  arguments.finish();
  server(chosen).run();
}
