// How every echo server of bench/floor begins: one listening socket on 127.0.0.1, as many file
// descriptors as it takes, and exit code 0 on SIGTERM.
//
// The servers in bench/peer do the same with their own library's means; the runner tells them
// apart by their numbers only.
#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace echo {

// More than any case opens at once, so that a burst of connects never waits for a retransmission.
inline constexpr int listen_backlog = 4096;

// Ends the process: a benchmark server that cannot go on has nothing to save.
[[noreturn]] inline void fail(const char* what, int error) {
  std::fprintf(stderr, "%s: %s\n", what, std::strerror(error));
  std::exit(1);
}

// Raises the limit of open files as far as it goes and returns it: no descriptor is greater, so
// that tables may be indexed by descriptor.
inline std::size_t raise_file_limit() {
  constexpr rlim_t enough = 131072;  // some machines allow a thousand million
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) {
    fail("getrlimit(RLIMIT_NOFILE)", errno);
  }
  limit.rlim_cur = std::min(limit.rlim_max, enough);
  if (setrlimit(RLIMIT_NOFILE, &limit) != 0) {
    fail("setrlimit(RLIMIT_NOFILE)", errno);
  }
  return limit.rlim_cur;
}

inline int listen_on_loopback(int port, int extra_socket_flags = 0) {
  const int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | extra_socket_flags, 0);
  if (listener < 0) {
    fail("socket", errno);
  }
  const int on = 1;
  setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  // Accepted sockets inherit TCP_NODELAY on Linux: one call instead of one per connection.
  if (setsockopt(listener, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) != 0) {
    fail("setsockopt(TCP_NODELAY)", errno);
  }
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<in_port_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (bind(listener, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    std::fprintf(stderr, "bind 127.0.0.1:%d: %s\n", port, std::strerror(errno));
    std::exit(1);
  }
  if (listen(listener, listen_backlog) != 0) {
    fail("listen", errno);
  }
  return listener;
}

// Tells the runner that connections are welcome, and where.
inline void announce(int listener) {
  // The handler may run at any instruction, hence _exit: no destructor, no buffer, no lock.
  std::signal(SIGTERM, [](int) { _exit(0); });
  sockaddr_in address{};
  socklen_t length = sizeof address;
  if (getsockname(listener, reinterpret_cast<sockaddr*>(&address), &length) != 0) {
    fail("getsockname", errno);
  }
  std::printf("listening %d\n", ntohs(address.sin_port));
  std::fflush(stdout);
}

}  // namespace echo
