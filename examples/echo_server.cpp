// Teaches: a server of coroutines. One fiber listens, and one child of it serves each connection.
//
// Try it:  build/test/examples/echo_server 7000
//          nc 127.0.0.1 7000                             in another terminal, or in several
//          Ctrl-C ends the listening fiber, and its children with it.
//
// CLIENTS
//   1 > good morning
//   2 > good evening
//   2 < good evening
//   1 < good morning
//   1 > and good night
//   1 < and good night
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
#include <utility>

// README: server
coir::task<> serve(coir::net::tcp_stream peer) {
  std::array<std::byte, 4096> buffer;
  while (std::size_t n = co_await peer.read_some(buffer))  // 0 at the end of the stream
    co_await coir::io::write_all(peer, std::span(buffer).first(n));
}

coir::task<int> listen_and_serve(coir::net::address where) {
  coir::net::tcp_listener listener(where);
  example::announce(listener);
  for (;;) {
    coir::net::tcp_stream peer = co_await listener.accept();
    coir::spawn(serve(std::move(peer)), coir::report_failure);  // a child; its reset is not ours
  }
}
// README end

int main(int argc, char** argv) {
  return example::run_server(argc, argv, [](coir::net::address where) {
    return coir::run(listen_and_serve(where));
  });
}
