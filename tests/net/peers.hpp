// Connections over the loopback interface, and peers that behave badly.
#pragma once

#include <coir/base/fd.hpp>
#include <coir/coir.hpp>

#include "support/catch.hpp"
#include "support/loop_tools.hpp"

#include <fcntl.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <utility>

namespace support {

inline const coir::net::address loopback("127.0.0.1", 0);
inline const coir::net::address loopback_v6("::1", 0);

// Two ends of one connection.
struct stream_pair {
  coir::net::tcp_stream near;
  coir::net::tcp_stream far;
};

// On a stack, in a fiber.
inline stream_pair connected(const coir::net::tcp_options& options = {},
                             const coir::net::address& where = loopback) {
  coir::net::tcp_listener listener(where);
  coir::net::tcp_stream near =
      coir::await(coir::net::tcp_stream::connect(listener.local_address(), options));
  return {std::move(near), coir::await(listener.accept())};
}

// A client without coir. It is connected when this returns, and waits in the listener's backlog.
inline coir::unique_fd raw_client(const coir::net::address& where) {
  coir::unique_fd made(::socket(where.raw()->sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  REQUIRE(made);
  REQUIRE(::connect(made.get(), where.raw(), where.raw_bytes()) == 0);
  return made;
}
// One end is coir's, the other is not.
struct raw_pair {
  coir::net::tcp_stream stream;
  coir::unique_fd peer;
};
inline raw_pair connected_to_raw() {
  coir::net::tcp_listener listener(loopback);
  coir::unique_fd peer = raw_client(listener.local_address());
  return {coir::await(listener.accept()), std::move(peer)};
}

inline void send_raw(const coir::unique_fd& to, std::string_view text) {
  REQUIRE(::send(to.get(), text.data(), text.size(), MSG_NOSIGNAL) ==
          static_cast<ssize_t>(text.size()));
}
inline void reset(coir::net::tcp_stream& stream) {
  stream.set(coir::net::tcp_options().linger(std::chrono::seconds(0)));
  const coir::net::tcp_stream gone = std::move(stream);
}

inline int option(int fd, int level, int name) {
  int value = -1;
  socklen_t size = sizeof value;
  REQUIRE(::getsockopt(fd, level, name, &value, &size) == 0);
  return value;
}

// At most `size` bytes, as text.
template <class Wait>
std::string read_text(Wait wait, coir::net::tcp_stream& from, std::size_t size = 4096) {
  std::string text(size, '\0');
  text.resize(wait(from.read_some(std::as_writable_bytes(std::span(text)))));
  return text;
}

// What a call of a fiber ended with.
template <class Call>
std::error_code error_of(Call&& call) {
  try {
    call();
  } catch (const std::system_error& error) {
    return error.code();
  }
  return {};
}

// Lets the loop look at the kernel again. (A yield alone does not: 256 of them are one turn.)
inline void let_turns_pass(unsigned turns = 5) {
  const coir::loop& here = *coir::loop::current();
  const auto enough = here.stats().turns + turns;
  while (here.stats().turns < enough) coir::await(coir::yield());
}

}  // namespace support
