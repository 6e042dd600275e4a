// For tests of a bare loop: requests without fibers, and the sockets they work on.
#pragma once

#include "support/catch.hpp"
#include "support/descriptors.hpp"

#include <coir/base/fd.hpp>
#include <coir/loop/loop.hpp>

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <iterator>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace support {

// Whoever a request tells: keeps every result, in order.
class observer : public coir::waiter {
 public:
  explicit observer(coir::request& of) : waiter(kind), of_(&of) { of.told = this; }
  observer(const observer&) = delete;

  std::size_t count() const { return results.size(); }
  // -1 is no result of a system call that failed: those are minus an errno, -EPERM among them.
  int last() const { return results.back(); }

  std::vector<int> results;
  std::function<void(coir::request&)> then;  // called with each result

 private:
  static void tell(waiter& self) noexcept {
    auto& mine = static_cast<observer&>(self);
    mine.results.push_back(mine.of_->result);
    if (mine.then) mine.then(*mine.of_);
  }
  static constexpr coir::waiter_kind kind{tell};

  coir::request* of_;
};

// A request with its observer, in one place that does not move.
struct asked {
  explicit asked(coir::request what) : request(std::move(what)), seen(request) {}
  bool over() const { return !request.armed(); }
  coir::request request;
  observer seen;
};

// Sleeps without a limit between the looks: an event that is lost hangs the test, and its time limit
// ends it.
template <class Condition>
void run_until(coir::loop& loop, Condition&& reached) {
  while (!reached()) loop.run_once(std::chrono::nanoseconds(-1));
}

// Gives the loop the turns in which something that must not happen would.
inline void idle_turns(coir::loop& loop, int turns = 5) {
  for (int i = 0; i < turns; ++i) loop.run_once();
}

// What it takes while it has nothing to do: it would be many turns if something were asked again and again.
inline std::uint64_t turns_of_quiet(coir::loop& loop) {
  const std::uint64_t before = loop.stats().turns;
  const coir::instant until = loop.time() + std::chrono::milliseconds(20);
  while (loop.time() < until) loop.run_once(until - loop.time());
  return loop.stats().turns - before;
}

// Of this process, those that the kernel starts for io_uring among them.
inline std::size_t threads() {
  const std::filesystem::directory_iterator all("/proc/self/task");
  return static_cast<std::size_t>(std::distance(begin(all), end(all)));
}

// The connection ends with a RST and not with a FIN.
inline void reset(coir::unique_fd& socket) {
  const linger at_once{1, 0};
  REQUIRE(::setsockopt(socket.get(), SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once) == 0);
  socket.reset();
}

// The result of a request, whether it comes at once or later.
inline int finish(coir::loop& loop, asked& what) {
  if (!loop.start(what.request)) {
    CHECK(what.seen.count() == 0);
    return what.request.result;
  }
  run_until(loop, [&] { return what.over(); });
  CHECK(what.seen.count() == 1);
  return what.seen.last();
}
inline int finish(coir::loop& loop, coir::request request) {
  asked what(std::move(request));
  return finish(loop, what);
}

// Withdraws, and waits until it is over. The result, or -ECANCELED when nobody is told.
inline int give_up(coir::loop& loop, asked& what) {
  const std::size_t before = what.seen.count();
  if (loop.withdraw(what.request) == coir::abort_answer::now) {
    CHECK(what.over());
    CHECK(what.seen.count() == before);
    return -ECANCELED;
  }
  run_until(loop, [&] { return what.over(); });
  REQUIRE(what.seen.count() > before);
  return what.seen.last();
}

inline std::span<const std::byte> bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}
inline std::string text_of(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

using fd_pair = std::array<coir::unique_fd, 2>;

inline fd_pair socket_pair(int type = SOCK_STREAM) {
  int ends[2];
  REQUIRE(::socketpair(AF_UNIX, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends) == 0);
  return {coir::unique_fd(ends[0]), coir::unique_fd(ends[1])};
}

// The end to read first.
inline fd_pair pipe_pair() {
  int ends[2];
  REQUIRE(::pipe2(ends, O_NONBLOCK | O_CLOEXEC) == 0);
  return {coir::unique_fd(ends[0]), coir::unique_fd(ends[1])};
}

inline coir::unique_fd tcp_socket(int type = SOCK_STREAM) {
  coir::unique_fd made(::socket(AF_INET, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  REQUIRE(made);
  return made;
}

inline sockaddr_in own_address(int fd) {
  sockaddr_in where{};
  socklen_t size = sizeof where;
  REQUIRE(::getsockname(fd, reinterpret_cast<sockaddr*>(&where), &size) == 0);
  return where;
}
inline const sockaddr* generic(const sockaddr_in& where) {
  return reinterpret_cast<const sockaddr*>(&where);
}
inline coir::request connect_to(int fd, const sockaddr_in& where) {
  return coir::request::connect(fd, generic(where), sizeof where);
}

// Bound to the loopback address and a port of the kernel's choice.
inline coir::unique_fd bound_socket(int type = SOCK_STREAM) {
  coir::unique_fd made = tcp_socket(type);
  sockaddr_in where{};
  where.sin_family = AF_INET;
  where.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  REQUIRE(::bind(made.get(), generic(where), sizeof where) == 0);
  return made;
}
inline coir::unique_fd tcp_listener(int backlog = 1024) {
  coir::unique_fd made = bound_socket();
  REQUIRE(::listen(made.get(), backlog) == 0);
  return made;
}

// A client that is connected when this returns; it waits in the listener's queue.
inline coir::unique_fd tcp_client(const sockaddr_in& where) {
  coir::unique_fd made(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  REQUIRE(made);
  REQUIRE(::connect(made.get(), generic(where), sizeof where) == 0);
  REQUIRE(::fcntl(made.get(), F_SETFL, O_NONBLOCK) == 0);
  return made;
}
inline fd_pair tcp_pair() {
  const coir::unique_fd listener = tcp_listener();
  coir::unique_fd client = tcp_client(own_address(listener.get()));
  coir::unique_fd server(::accept4(listener.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
  REQUIRE(server);
  return {std::move(client), std::move(server)};
}

// Writes until the kernel takes no more; how much it took.
inline std::size_t fill(int fd) {
  const std::vector<std::byte> block(65536);
  std::size_t total = 0;
  for (;;) {
    const auto wrote = ::write(fd, block.data(), block.size());
    if (wrote < 0) {
      REQUIRE(errno == EAGAIN);
      return total;
    }
    total += static_cast<std::size_t>(wrote);
  }
}
// Reads until nothing is left.
inline std::size_t drain(int fd) {
  std::vector<std::byte> block(65536);
  std::size_t total = 0;
  for (;;) {
    const auto got = ::read(fd, block.data(), block.size());
    if (got <= 0) return total;
    total += static_cast<std::size_t>(got);
  }
}

inline bool on_uring(const coir::loop& loop) { return loop.kind() == coir::backend_kind::uring; }
inline bool on_epoll(const coir::loop& loop) { return loop.kind() == coir::backend_kind::epoll; }
inline bool on_simulator(const coir::loop& loop) { return loop.kind() == coir::backend_kind::given; }

// What the body opens it also closes.
template <class Body>
void leaves_no_descriptor(Body&& body) {
  // What is opened once per process is opened before the count.
  static_cast<void>(coir::backend_report());
  const std::size_t before = open_descriptors();
  body();
  CHECK(open_descriptors() == before);
}

}  // namespace support
