// Teaches: a server on all processors, with a listener for each loop. The kernel deals the connections out among them
// (SO_REUSEPORT), and no loop knows of another.
//
// Try it:  build/test/examples/echo_on_all_loops 7000
//
// CLIENTS
//   1 > good morning
//   2 > good evening
//   3 > good night
//   3 < good night
//   2 < good evening
//   1 < good morning
//
// OUTPUT
//   listening on 127.0.0.1:PORT
//   stopped

#include <coir/coir.hpp>

#include "server.hpp"

#include <array>
#include <cstddef>
#include <span>
#include <utility>

namespace {

coir::task<> serve(coir::net::tcp_stream peer) {
  std::array<std::byte, 4096> buffer;
  while (std::size_t n = co_await peer.read_some(buffer))
    co_await coir::io::write_all(peer, std::span(buffer).first(n));
}

coir::task<> accept_all(coir::net::tcp_listener listener) {
  for (;;) {
    coir::net::tcp_stream peer = co_await listener.accept();
    coir::spawn(serve(std::move(peer)), coir::report_failure);
  }
}

// This thread's loop chooses the port and serves, and so do all others.
coir::task<> serve_everywhere(coir::runtime& rt, coir::net::address where) {
  const auto shared = coir::net::tcp_listener_options().reuse_port(true);
  coir::net::tcp_listener mine(where, shared);
  const coir::net::address chosen = mine.local_address();
  rt.spawn_on_all([chosen, shared] { return accept_all(coir::net::tcp_listener(chosen, shared)); });
  example::announce(mine);
  co_await accept_all(std::move(mine));
}

}  // namespace

int main(int argc, char** argv) {
  return example::run_server(argc, argv, [](coir::net::address where) {
    coir::runtime rt;
    rt.run(serve_everywhere(rt, where));
    return 0;
  });
}
