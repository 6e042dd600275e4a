// Teaches: the receive loop. What arrives comes in chunks of memory that the library owns, so that a
// connection that is silent holds no buffer; on io_uring the kernel fills them without being asked
// each time.
//
// Try it:  build/test/examples/echo_server_chunks 7000
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

#include <utility>

// README: receive loop
coir::task<> serve(coir::net::tcp_stream peer) {
  auto chunks = peer.chunks();
  while (auto chunk = co_await chunks.next())  // empty at the end of the stream
    co_await coir::io::write_all(peer, chunk->bytes());
}  // a chunk goes back to its pool when it dies
// README end

coir::task<int> listen_and_serve(coir::net::address where) {
  coir::net::tcp_listener listener(where);
  example::announce(listener);
  for (;;) {
    coir::net::tcp_stream peer = co_await listener.accept();
    coir::spawn(serve(std::move(peer)), coir::report_failure);
  }
}

int main(int argc, char** argv) {
  return example::run_server(argc, argv, [](coir::net::address where) {
    return coir::run(listen_and_serve(where));
  });
}
