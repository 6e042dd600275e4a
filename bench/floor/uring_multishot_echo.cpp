// Floor: TCP echo on bare liburing with multishot receives into a ring of provided buffers.
//
// A connection is armed once; the kernel picks a buffer for whatever arrives, the very same bytes
// are sent back from it, and then the buffer returns to the kernel. This is what a loop over
// `chunks()` costs when nothing but the kernel is in the way. The options stand for the choices
// that were measured against each other, the defaults for what won;
// `tools/bench variants/uring-multishot` repeats it.

#include "ring.hpp"

#include <sys/mman.h>

#include <string>
#include <vector>

namespace {

struct options {
  int port;
  echo::ring_options ring;
  bool poll_first;
  bool huge_pages;
  unsigned buffers;
  unsigned buffer_bytes;
  unsigned buffer_gap;
};

enum class request : unsigned { accept, receive, send };

constexpr int buffer_group = 0;
constexpr int no_buffer = -1;

class server {
 public:
  explicit server(const options& chosen)
      : options_(chosen),
        connections_(echo::raise_file_limit()),
        chunks_(chosen.buffers),
        lent_(chosen.buffers),
        listener_(echo::listen_on_loopback(chosen.port)) {
    echo::start(ring_, options_.ring);
    provide_buffers();
  }

  [[noreturn]] void run() {
    echo::announce(listener_);
    submit_accept();
    for (;;) {
      echo::enter(ring_);
      io_uring_cqe* completion;
      unsigned head;
      unsigned seen = 0;
      io_uring_for_each_cqe(&ring_, head, completion) {
        ++seen;
        complete(*completion);
      }
      // One store each tells the kernel of all completions seen and all buffers returned.
      io_uring_cq_advance(&ring_, seen);
      publish_returned();
      if (!starved_.empty() && lent_ < options_.buffers) {
        rearm_starved();
      }
    }
  }

 private:
  // A received piece, waiting for its turn to be sent; the index is the buffer's number.
  struct chunk {
    unsigned begin = 0;
    unsigned end = 0;
    int next = no_buffer;
  };

  struct connection {
    int first = no_buffer;  // the chunk being sent, then those behind it in order of arrival
    int last = no_buffer;
    bool receiving = false;  // the multishot receive is armed
    bool starved = false;    // it stands in starved_ and will be armed again from there
    bool ended = false;      // nothing more is read from it
  };

  void provide_buffers() {
    const std::size_t ring_bytes = options_.buffers * sizeof(io_uring_buf);
    buffer_ring_ = static_cast<io_uring_buf_ring*>(map(ring_bytes, false));
    io_uring_buf_reg registration{};
    registration.ring_addr = reinterpret_cast<__u64>(buffer_ring_);
    registration.ring_entries = options_.buffers;
    registration.bgid = buffer_group;
    if (const int error = io_uring_register_buf_ring(&ring_, &registration, 0)) {
      echo::fail("io_uring_register_buf_ring", -error);
    }
    io_uring_buf_ring_init(buffer_ring_);
    buffers_ =
        static_cast<char*>(map(std::size_t(options_.buffers) * stride(), options_.huge_pages));
    for (unsigned number = 0; number < options_.buffers; ++number) {
      give_back(static_cast<int>(number));
    }
    publish_returned();
  }

  static void* map(std::size_t bytes, bool huge_pages) {
    void* const memory =
        mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) {
      echo::fail("mmap of the provided buffers", errno);
    }
    if (huge_pages) {
      madvise(memory, bytes, MADV_HUGEPAGE);  // a wish: ordinary pages serve as well
    }
    return memory;
  }

  std::size_t stride() const { return options_.buffer_bytes + options_.buffer_gap; }

  char* buffer(int number) const { return buffers_ + number * stride(); }

  void give_back(int number) {
    io_uring_buf_ring_add(buffer_ring_, buffer(number), options_.buffer_bytes,
                          static_cast<unsigned short>(number),
                          io_uring_buf_ring_mask(options_.buffers), static_cast<int>(returned_));
    ++returned_;
    --lent_;
  }

  void publish_returned() {
    if (returned_ > 0) {
      io_uring_buf_ring_advance(buffer_ring_, static_cast<int>(returned_));
      returned_ = 0;
    }
  }

  io_uring_sqe* prepare() { return echo::next_entry(ring_); }

  static void tag(io_uring_sqe* entry, request kind, int fd) {
    io_uring_sqe_set_data64(entry, static_cast<unsigned>(fd) << 2 | static_cast<unsigned>(kind));
  }

  void submit_accept() {
    io_uring_sqe* const entry = prepare();
    io_uring_prep_multishot_accept(entry, listener_, nullptr, nullptr, SOCK_CLOEXEC);
    tag(entry, request::accept, listener_);
  }

  void submit_receive(int fd) {
    io_uring_sqe* const entry = prepare();
    io_uring_prep_recv_multishot(entry, fd, nullptr, 0, 0);
    entry->flags |= IOSQE_BUFFER_SELECT;
    entry->buf_group = buffer_group;
    if (options_.poll_first) {
      entry->ioprio |= IORING_RECVSEND_POLL_FIRST;
    }
    tag(entry, request::receive, fd);
    connections_[fd].receiving = true;
  }

  // Only the first chunk of a connection is in flight: two sends at once may change places.
  void submit_send(int fd) {
    const chunk& piece = chunks_[connections_[fd].first];
    io_uring_sqe* const entry = prepare();
    io_uring_prep_send(entry, fd, buffer(connections_[fd].first) + piece.begin,
                       piece.end - piece.begin, MSG_NOSIGNAL | MSG_WAITALL);
    tag(entry, request::send, fd);
  }

  void complete(const io_uring_cqe& completion) {
    const int fd = static_cast<int>(completion.user_data >> 2);
    switch (static_cast<request>(completion.user_data & 3)) {
      case request::accept:
        accepted(completion);
        return;
      case request::receive:
        received(fd, completion);
        return;
      case request::send:
        sent(fd, completion.res);
        return;
    }
  }

  void accepted(const io_uring_cqe& completion) {
    if (completion.res >= 0) {
      connections_[completion.res] = {};
      submit_receive(completion.res);
    } else if (completion.res != -ECONNABORTED && completion.res != -EINTR) {
      echo::fail("accept", -completion.res);
    }
    if ((completion.flags & IORING_CQE_F_MORE) == 0) {
      submit_accept();
    }
  }

  void received(int fd, const io_uring_cqe& completion) {
    connection& peer = connections_[fd];
    peer.receiving = (completion.flags & IORING_CQE_F_MORE) != 0;
    if (completion.flags & IORING_CQE_F_BUFFER) {
      ++lent_;
      const int number = static_cast<int>(completion.flags >> IORING_CQE_BUFFER_SHIFT);
      if (completion.res > 0 && !peer.ended) {
        append(fd, peer, number, static_cast<unsigned>(completion.res));
      } else {
        give_back(number);
      }
    }
    if (completion.res == -ENOBUFS) {
      peer.starved = true;
      starved_.push_back(fd);
    } else if (completion.res <= 0) {
      peer.ended = true;
    } else if (!peer.receiving && !peer.ended) {
      submit_receive(fd);
    }
    close_if_done(fd, peer);
  }

  void append(int fd, connection& peer, int number, unsigned length) {
    chunks_[number] = {0, length, no_buffer};
    if (peer.first == no_buffer) {
      peer.first = peer.last = number;
      submit_send(fd);
    } else {
      chunks_[peer.last].next = number;
      peer.last = number;
    }
  }

  void sent(int fd, int result) {
    connection& peer = connections_[fd];
    if (result < 0) {
      drop_chunks(peer);
      if (!peer.ended) {
        peer.ended = true;
        shutdown(fd, SHUT_RDWR);  // makes the armed receive complete
      }
      close_if_done(fd, peer);
      return;
    }
    chunk& piece = chunks_[peer.first];
    piece.begin += static_cast<unsigned>(result);
    if (piece.begin == piece.end) {
      const int finished = peer.first;
      peer.first = piece.next;
      give_back(finished);
    }
    if (peer.first != no_buffer) {
      submit_send(fd);
    } else {
      close_if_done(fd, peer);
    }
  }

  void drop_chunks(connection& peer) {
    while (peer.first != no_buffer) {
      const int number = peer.first;
      peer.first = chunks_[number].next;
      give_back(number);
    }
  }

  void close_if_done(int fd, const connection& peer) {
    if (peer.ended && !peer.receiving && !peer.starved && peer.first == no_buffer) {
      close(fd);
    }
  }

  // Receives that found no buffer wait here; arming them without one would only fail again.
  void rearm_starved() {
    for (const int fd : starved_) {
      connections_[fd].starved = false;
      if (connections_[fd].ended) {
        close_if_done(fd, connections_[fd]);
      } else {
        submit_receive(fd);
      }
    }
    starved_.clear();
  }

  const options options_;
  std::vector<connection> connections_;  // by file descriptor
  std::vector<chunk> chunks_;            // by buffer number
  std::vector<int> starved_;
  unsigned lent_;  // buffers that are ours at the moment: received and not yet given back
  const int listener_;
  io_uring ring_{};
  io_uring_buf_ring* buffer_ring_ = nullptr;
  char* buffers_ = nullptr;
  unsigned returned_ = 0;  // buffers written into the ring but not yet shown to the kernel
};

}  // namespace

int main(int argc, char** argv) {
  command_line arguments(argc, argv);
  options chosen{};
  chosen.port = arguments.number("--port", 0, 0, 65535);
  chosen.ring = echo::ring_options_of(arguments);
  chosen.poll_first = arguments.flag("--poll-first");
  chosen.huge_pages = arguments.flag("--huge-pages");
  chosen.buffers = arguments.number("--buffers", 128u, 1u, 32768u);
  chosen.buffer_bytes = arguments.number("--buffer-bytes", 4096u, 1u, 1u << 20);
  chosen.buffer_gap = arguments.number("--buffer-gap", 64u, 0u, 1u << 20);
  arguments.finish();
  if ((chosen.buffers & (chosen.buffers - 1)) != 0) {
    arguments.refuse("--buffers wants a power of two, not " + std::to_string(chosen.buffers));
  }
  server(chosen).run();
}
