// Teaches: the server of echo_server.cpp with plain functions, each on a small stack of its own.
// `coir::await(op)` is what `co_await op` is in a coroutine, and may be called from any depth.
//
// Try it:  build/test/examples/echo_server_on_stacks 7000
//          nc 127.0.0.1 7000
//
// CLIENTS
//   1 > good morning
//   2 > good evening
//   2 < good evening
//   1 < good morning
//   2 end
//
// OUTPUT
//   listening on 127.0.0.1:PORT
//   stopped

#include <coir/coir.hpp>

#include "server.hpp"

#include <array>
#include <cstddef>
#include <span>

// README: server on stacks
int listen_and_serve(coir::net::address where) {
  coir::net::tcp_listener listener(where);
  example::announce(listener);
  for (;;) {
    coir::spawn([peer = coir::await(listener.accept())]() mutable {
      std::array<std::byte, 4096> buffer;
      while (std::size_t n = coir::await(peer.read_some(buffer)))
        coir::await(coir::io::write_all(peer, std::span(buffer).first(n)));
    }, coir::report_failure);
  }
}
// README end

int main(int argc, char** argv) {
  return example::run_server(argc, argv, [](coir::net::address where) {
    return coir::run([where] { return listen_and_serve(where); });
  });
}
