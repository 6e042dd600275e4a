// coir/net/tcp.hpp: TCP: listen, accept, connect, read, write.
//
//   coir::net::tcp_listener listener(coir::net::address("127.0.0.1", 7000));
//   coir::net::tcp_stream peer = co_await listener.accept();
//   while (std::size_t n = co_await peer.read_some(buffer))          // 0 at the end of the stream
//     co_await coir::io::write_all(peer, std::span(buffer).first(n));
//   coir::net::tcp_stream out = co_await coir::net::tcp_stream::connect(where);
//                                                              [tests/net/tcp_test.cpp]
//
// Shape    objects that own a descriptor, and belong to the loop they were made on; they move, also while fibers wait.
//          A stream is a byte stream: what takes several steps (io/stream.hpp) needs it to stay in its place.
// Lifetime an op with a name that is awaited again needs its stream or listener where it was, and open: between two
//          waits nobody tells it of a close(), nor a read of a first chunks(). Ended while it waited: std::logic_error.
// Order    accept: first come, first served. One reader and one writer per stream at a time: a second
//          reader is refused (std::logic_error), a second writer's bytes come in between.
// Thread   the loop's. They may be destroyed anywhere; a stream not by another thread while a read_some waits.
// Cancel   accept, chunks().next(): now; what arrives meanwhile is kept for the next one. read_some,
//          write_some, connect: later on io_uring, where they may still succeed; now on epoll.
// Errors   std::system_error with the operation and the address or descriptor. A reset is
//          std::errc::connection_reset, for all who read, and so is what else a connection dies of; a write to a closed
//          peer std::errc::broken_pipe; SIGPIPE is never raised. Destroying or closing a stream under a waiting
//          fiber: std::errc::bad_file_descriptor.
//          Too few descriptors (EMFILE) does not end an accept: the listener pauses, and stats() says so.
// Cost     io_uring: no system call of its own but the loop's one per turn. epoll: one each, and one more
//          in a connection's life to register it.
// See      coir/net/address.hpp; README.md, "Follow one read"
#pragma once

#include <coir/base/expected.hpp>
#include <coir/fiber/op.hpp>
#include <coir/fiber/request_op.hpp>
#include <coir/loop/chunk.hpp>
#include <coir/loop/descriptor.hpp>
#include <coir/loop/loop.hpp>
#include <coir/net/address.hpp>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>

namespace coir::net {

namespace priv {
class acceptor;
class receiver;

[[noreturn, gnu::cold]] void throw_negative_linger(std::chrono::seconds limit);

struct acceptor_deleter {
  void operator()(acceptor* which) const noexcept;
};
struct receiver_deleter {
  void operator()(receiver* which) const noexcept;
};

// An op that waits for what a receiver has. It is served when it arrives, not when the fiber runs: by then
// the stream may be gone.
class receive_wait {
 public:
  // Takes what it wants from the receiver, which has something.
  using serve = void (*)(receive_wait& self, receiver& from) noexcept;
  explicit receive_wait(serve take) noexcept : serve_(take) {}

 protected:
  ~receive_wait() = default;
  // The stream did, while this waited: awaited again, it would ask a receiver that is gone.
  bool ended() const noexcept { return ended_; }
  [[noreturn, gnu::cold]] static void throw_ended();
  int error_ = 0;  // an errno

 private:
  friend class receiver;
  bool ended_ = false;
  serve serve_;
  waiter* told_ = nullptr;
};
}  // namespace priv

class tcp_read_op;
class tcp_stream;

namespace priv {
// What a stream knows of the read in flight on it. Either may be gone, or moved, before the other.
class reading {
 public:
  reading() noexcept = default;
  reading(reading&& other) noexcept { *this = std::move(other); }
  reading& operator=(reading&& other) noexcept;
  ~reading() { forget(); }

  bool busy() const noexcept { return op_ != nullptr; }

 private:
  friend class net::tcp_read_op;
  void forget() noexcept;

  tcp_read_op* op_ = nullptr;
  bool expect_wait_ = false;  // the last read says that the next will find nothing yet
};
}  // namespace priv

// What is set on a stream's socket: when it is made by accept or connect, or later.
class tcp_options {
 public:
  tcp_options() noexcept {}
  // Small writes are sent at once. On by default: what is written together is better written together.
  tcp_options& no_delay(bool wanted) noexcept { return no_delay_ = wanted, *this; }
  // The kernel asks a silent peer whether it is there: after `idle`, then every `interval`, and gives the
  // connection up after `probes` without an answer.
  tcp_options& keep_alive(std::chrono::seconds idle, std::chrono::seconds interval,
                          int probes) noexcept {
    keep_alive_ = true;
    keep_idle_ = idle;
    keep_interval_ = interval;
    keep_probes_ = probes;
    return *this;
  }
  // How long close() may wait for what was written to be sent; 0: closing resets the connection. The kernel goes on
  // sending in the background when the time is over, and without it, and for a stream that is destroyed, which takes
  // it off the socket for all who share that. The loop is not held up on io_uring; on epoll it is, until a
  // thread pool is installed. A stream that outlives its loop lingers where it is destroyed.
  // std::invalid_argument for less than 0.
  tcp_options& linger(std::chrono::seconds limit) {
    if (limit.count() < 0) priv::throw_negative_linger(limit);
    return linger_ = limit, *this;
  }

  // Throws std::system_error.
  void apply(const descriptor& to) const;
  // On a socket whose closing is somebody else's.
  void set_on(int fd) const;
  // Closing may wait (linger).
  bool lingers() const noexcept { return linger_ && linger_->count() > 0; }

 private:
  bool no_delay_ = true;
  bool keep_alive_ = false;
  int keep_probes_ = 0;
  std::chrono::seconds keep_idle_{0};
  std::chrono::seconds keep_interval_{0};
  std::optional<std::chrono::seconds> linger_;
};

class tcp_listener_options {
 public:
  tcp_listener_options() noexcept {}
  // Connections that the kernel keeps ready for accept; it may cap this (net.core.somaxconn).
  tcp_listener_options& backlog(int connections) noexcept {
    return backlog_ = connections, *this;
  }
  // A port whose last listener has just ended can be used again at once. On by default.
  tcp_listener_options& reuse_address(bool wanted) noexcept {
    return reuse_address_ = wanted, *this;
  }
  // Several listeners on one port; the kernel deals the connections out among them.
  tcp_listener_options& reuse_port(bool wanted) noexcept { return reuse_port_ = wanted, *this; }
  // An IPv6 listener takes no IPv4 connections.
  tcp_listener_options& only_v6(bool wanted) noexcept { return only_v6_ = wanted, *this; }
  // For accepted streams.
  tcp_listener_options& streams(const tcp_options& options) noexcept {
    return streams_ = options, *this;
  }

 private:
  friend class tcp_listener;
  int backlog_ = 4096;
  bool reuse_address_ = true;
  bool reuse_port_ = false;
  bool only_v6_ = false;
  tcp_options streams_;
};

// --- streams ---

// Some bytes from a stream: what arrived for chunks() first.
class [[nodiscard("co_await it, or coir::await(it)")]] tcp_read_op : public priv::receive_wait {
 public:
  static constexpr const char* name = "read";
  tcp_read_op(loop& on, int fd, priv::receiver* receiver, priv::reading& stream,
              std::span<std::byte> into) noexcept
      : receive_wait(copy_bytes),
        direct_(on, request::recv(fd, into)),
        receiver_(receiver),
        stream_(&stream),
        into_(into) {}

  bool start(waiter& told) {
    if (receiver_ != nullptr || into_.empty() || stream_ == nullptr || stream_->busy()) [[unlikely]]
      return start_otherwise(told);
    direct_.expect_wait(stream_->expect_wait_);
    stream_->op_ = this;
    in_stream_ = true;
    try {
      if (direct_.start(told)) return true;
    } catch (...) {
      leave_stream();
      throw;
    }
    // Now, because the fiber may run others before it takes the result, and the stream be gone by then.
    leave_stream();
    return false;
  }
  abort_answer abort() noexcept;
  std::size_t take() {
    if (receiver_ != nullptr || into_.empty()) [[unlikely]]
      return take_otherwise();
    leave_stream();
    return direct_.take();
  }
  result<std::size_t> take_result();
  void describe(std::string& text) const;
  bool closed_under() const noexcept { return direct_.closed_under() || ended(); }

 private:
  friend class priv::reading;
  static void copy_bytes(receive_wait& self, priv::receiver& from) noexcept;
  bool start_otherwise(waiter& told);
  std::size_t take_otherwise();
  // The read is over, and the stream free for the next.
  void leave_stream() noexcept {
    if (!in_stream_) return;
    in_stream_ = false;
    stream_->op_ = nullptr;
    stream_->expect_wait_ = !direct_.more_expected();
  }

  request_op<byte_count> direct_;
  priv::receiver* receiver_;  // null: chunks() was never called
  priv::reading* stream_;     // null: it ended while this waited
  bool in_stream_ = false;    // the stream knows of this, and says when it moves or ends
  std::span<std::byte> into_;
  std::size_t count_ = 0;
};

// Some bytes to a stream.
class [[nodiscard("co_await it, or coir::await(it)")]] tcp_write_op : public request_op<byte_count> {
 public:
  static constexpr const char* name = "write";
  tcp_write_op(loop& on, int fd, std::span<const std::byte> from) noexcept
      : request_op(on, request::send(fd, from)) {}
};

class [[nodiscard("co_await it, or coir::await(it)")]] chunk_op : public priv::receive_wait {
 public:
  static constexpr const char* name = "chunk";
  explicit chunk_op(priv::receiver& from) noexcept;

  bool start(waiter& told);
  abort_answer abort() noexcept;
  std::optional<chunk> take() {
    if (error_ != 0) [[unlikely]]
      throw_failure();
    return taken();
  }
  result<std::optional<chunk>> take_result();
  void describe(std::string& text) const;

 private:
  std::optional<chunk> taken() noexcept {
    if (!arrived_) return std::nullopt;
    return std::move(arrived_);
  }
  [[noreturn, gnu::cold]] void throw_failure() const;
  static void accept_chunk(receive_wait& self, priv::receiver& from) noexcept;

  priv::receiver* from_;
  int fd_;
  chunk arrived_;  // none at the end: the end of the stream, or an error
};

// The receive loop of a stream: bytes in memory that the loop owns, as they arrive. At most 16 chunks wait
// for a slow reader; then the kernel's window closes.
class chunk_reader {
 public:
  explicit chunk_reader(priv::receiver& from) noexcept : from_(&from) {}
  // Empty at the end of the stream. A chunk goes back to its pool when it dies.
  chunk_op next() noexcept { return chunk_op(*from_); }

 private:
  priv::receiver* from_;
};

class [[nodiscard("co_await it, or coir::await(it)")]] connect_op {
 public:
  static constexpr const char* name = "connect";
  connect_op(loop& on, const address& where, const tcp_options& options);

  // Awaited again, it connects another socket.
  bool start(waiter& told);
  abort_answer abort() noexcept;
  tcp_stream take();
  result<tcp_stream> take_result();
  void describe(std::string& text) const;

 private:
  descriptor made() const;

  loop* on_;
  address where_;
  tcp_options options_;
  descriptor socket_;
  request what_;
  bool began_ = false;
  bool aborted_ = false;
};

// The end of a stream that waits for it. One that was never started closes all the same.
class [[nodiscard("co_await it, or coir::await(it)")]] tcp_close_op {
 public:
  static constexpr const char* name = "close";
  explicit tcp_close_op(descriptor socket) noexcept : socket_(std::move(socket)) {}

  bool start(waiter& told);
  abort_answer abort() noexcept;
  void take() const;
  result<void> take_result() const;
  void describe(std::string& text) const;

 private:
  descriptor socket_;
  request what_;
};

enum class direction : std::uint8_t { receive, send, both };

class tcp_stream {
 public:
  // Takes a connected socket; makes it non-blocking.
  tcp_stream(loop& on, int fd);
  tcp_stream(tcp_stream&& other) noexcept;
  tcp_stream& operator=(tcp_stream&& other) noexcept;
  ~tcp_stream();

  // On the running fiber's loop. The socket is made at once, so that a lack of descriptors is heard here.
  static connect_op connect(const address& where, const tcp_options& options = {});

  // At least one byte, or 0 at the end of the stream; 0 also for an empty `into`.
  tcp_read_op read_some(std::span<std::byte> into) noexcept {
    return {*loop_, socket_.get(), receiver_.get(), reading_, into};
  }
  // At least one byte of `from`; 0 only when it is empty.
  tcp_write_op write_some(std::span<const std::byte> from) noexcept {
    return {*loop_, socket_.get(), from};
  }
  // From here on all that arrives comes in chunks; read_some takes from them. Not while somebody reads.
  chunk_reader chunks();

  // Tells the peer that nothing more will be sent (send), or drops what comes (receive).
  void shutdown(direction which);
  // Waits for the close itself: what is in flight is withdrawn first. The stream is empty from the call on;
  // closing an empty one does nothing.
  tcp_close_op close();
  // Gives up the socket, which somebody else will close: a stream on another loop. The stream is empty from the call
  // on. std::logic_error while somebody reads, and after chunks(). Nothing else may wait for it either.
  int release();

  address local_address() const;
  address peer_address() const;
  void set(const tcp_options& options) { options.apply(socket_); }
  int fd() const noexcept { return socket_.get(); }
  explicit operator bool() const noexcept { return static_cast<bool>(socket_); }

 private:
  friend class accept_op;
  friend class connect_op;
  tcp_stream(loop& on, descriptor socket) noexcept;

  loop* loop_;
  std::unique_ptr<priv::receiver, priv::receiver_deleter> receiver_;
  descriptor socket_;
  priv::reading reading_;
};

// --- listeners ---

// A connection that nobody takes is closed with its op.
class [[nodiscard("co_await it, or coir::await(it)")]] accept_op {
 public:
  static constexpr const char* name = "accept";
  explicit accept_op(priv::acceptor& from) noexcept;

  bool start(waiter& told);
  abort_answer abort() noexcept;
  tcp_stream take();
  result<tcp_stream> take_result();
  void describe(std::string& text) const;

 private:
  friend class priv::acceptor;
  priv::acceptor* from_;
  waiter* told_ = nullptr;
  accept_op* next_ = nullptr;
  descriptor accepted_;
  int fd_;
  int error_ = 0;
};

struct tcp_listener_stats {
  std::uint64_t accepted = 0;
  std::uint64_t aborted = 0;  // by the peer, before they were accepted
  std::uint64_t starved = 0;  // pauses because there were no descriptors or no memory
};

class tcp_listener {
 public:
  // On the running fiber's loop.
  explicit tcp_listener(const address& where, const tcp_listener_options& options = {});
  tcp_listener(loop& on, const address& where, const tcp_listener_options& options = {});
  // Takes a listening socket (of a parent process, of a simulator); makes it non-blocking.
  tcp_listener(loop& on, int fd);
  tcp_listener(tcp_listener&& other) noexcept;
  tcp_listener& operator=(tcp_listener&& other) noexcept;
  ~tcp_listener();

  accept_op accept() noexcept { return accept_op(*acceptor_); }
  // Where it listens; with the port that the kernel chose when 0 was asked for.
  address local_address() const;
  tcp_listener_stats stats() const noexcept;
  int fd() const noexcept;

 private:
  std::unique_ptr<priv::acceptor, priv::acceptor_deleter> acceptor_;
};

}  // namespace coir::net
