// coir's echo servers: the three ways to write one, as in examples/, with the options that every
// server here has.
//
//   coir_echo --body coroutine|stack|chunks --port N      (COIR_BACKEND=uring|epoll)

#include "command_line.hpp"

#include <coir/coir.hpp>

#include <sys/resource.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <string>

namespace {

using coir::net::tcp_listener;
using coir::net::tcp_stream;

coir::task<> serve(tcp_stream peer) {
  std::array<std::byte, 4096> buffer;
  while (std::size_t n = co_await peer.read_some(buffer)) {
    co_await coir::io::write_all(peer, std::span(buffer).first(n));
  }
}

coir::task<> serve_chunks(tcp_stream peer) {
  auto chunks = peer.chunks();
  while (auto chunk = co_await chunks.next()) {
    co_await coir::io::write_all(peer, chunk->bytes());
  }
}

void serve_on_stack(tcp_stream& peer) {
  std::array<std::byte, 4096> buffer;
  while (std::size_t n = coir::await(peer.read_some(buffer))) {
    coir::await(coir::io::write_all(peer, std::span(buffer).first(n)));
  }
}

void announce(const tcp_listener& listener) {
  std::printf("listening %d\n", listener.local_address().port());
  std::fflush(stdout);
}

coir::task<int> listen(coir::net::address where, bool in_chunks) {
  tcp_listener listener(where);
  announce(listener);
  for (;;) {
    tcp_stream peer = co_await listener.accept();
    if (in_chunks) {
      coir::spawn(serve_chunks(std::move(peer)), coir::report_failure);
    } else {
      coir::spawn(serve(std::move(peer)), coir::report_failure);
    }
  }
}

int listen_on_stack(coir::net::address where) {
  tcp_listener listener(where);
  announce(listener);
  for (;;) {
    coir::spawn([peer = coir::await(listener.accept())]() mutable { serve_on_stack(peer); },
                coir::report_failure);
  }
}

void raise_file_limit() {
  rlimit limit{};
  ::getrlimit(RLIMIT_NOFILE, &limit);
  limit.rlim_cur = limit.rlim_max;
  ::setrlimit(RLIMIT_NOFILE, &limit);
}

}  // namespace

int main(int argc, char** argv) {
  command_line line(argc, argv);
  const std::string body = line.choice("--body", {"coroutine", "stack", "chunks"});
  const coir::net::address where("127.0.0.1", line.number<std::uint16_t>("--port", 0, 0, 65535));
  line.finish();
  raise_file_limit();
  std::signal(SIGTERM, [](int) { ::_exit(0); });
  // The load generator resets its connections at the end: not worth a line for each.
  const auto options = coir::run_options().on_failure([](const coir::fiber_base&, auto) {});
  try {
    if (body == "stack") return coir::run([&] { return listen_on_stack(where); }, options);
    return coir::run(listen(where, body == "chunks"), options);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s: %s\n", argv[0], error.what());
    return 1;
  }
}
