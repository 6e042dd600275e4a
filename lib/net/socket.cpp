#include "socket.hpp"

#include <coir/base/error.hpp>
#include <coir/fiber/fiber_home.hpp>

#include <fmt/format.h>
#include <sys/socket.h>

#include <cerrno>

namespace coir::net::priv {

loop& running_loop(const char* what) {
  loop* const here = loop_here();
  if (here == nullptr) {
    throw_misuse(fmt::format(
        "{} was made outside of a running loop: make it in a fiber, or give it its loop", what));
  }
  return *here;
}

void throw_two_readers() {
  throw_misuse("two fibers read from one stream at the same time: their bytes would be mixed");
}

int open_stream_socket(const address& for_address) {
  const int fd = ::socket(for_address.raw()->sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) throw_error(errno, fmt::format("a socket for {}", for_address.to_string()));
  return fd;
}

void set_option(int fd, int level, int option, int value, const char* name) {
  if (::setsockopt(fd, level, option, &value, sizeof value) < 0) {
    throw_error(errno, fmt::format("setting {} to {} on descriptor {}", name, value, fd));
  }
}

namespace {

address name_of(int fd, int (*get)(int, sockaddr*, socklen_t*), const char* which) {
  sockaddr_storage storage{};
  socklen_t bytes = sizeof storage;
  auto* const raw = reinterpret_cast<sockaddr*>(&storage);
  if (get(fd, raw, &bytes) < 0) {
    throw_error(errno, fmt::format("the {} address of descriptor {}", which, fd));
  }
  return address::from(*raw, bytes);
}

}  // namespace

address local_address(int fd) { return name_of(fd, ::getsockname, "local"); }
address peer_address(int fd) { return name_of(fd, ::getpeername, "peer's"); }

}  // namespace coir::net::priv
