// Teaches: a server that is told to end. On SIGTERM it takes no more connections, and those that are there have
// five seconds to finish; a second signal ends them at once.
//
// Try it:  build/test/examples/graceful_server 7000
//          nc 127.0.0.1 7000                             in another terminal
//          kill -TERM, or Ctrl-C, and go on typing into nc
//
// CLIENTS
//   1 > good morning
//   1 < good morning
//   2 > good evening
//   2 < good evening
//   SIGTERM
//   3 refused
//   1 > I am still here
//   1 < I am still here
//   1 end
//   2 > and so am I
//   2 < and so am I
//   2 end
//
// OUTPUT
//   listening on 127.0.0.1:PORT
//   no more connections
//   all have finished

#include <coir/coir.hpp>

#include "server.hpp"

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdio>
#include <span>
#include <utility>

using namespace std::chrono_literals;

namespace {

coir::task<> serve(coir::net::tcp_stream peer) {
  std::array<std::byte, 4096> buffer;
  while (std::size_t n = co_await peer.read_some(buffer))
    co_await coir::io::write_all(peer, std::span(buffer).first(n));
}

}  // namespace

// README: ending
coir::task<> accept_all(coir::net::address where, coir::nursery& connections) {
  coir::net::tcp_listener listener(where);
  example::say_address(listener);
  for (;;) {
    coir::net::tcp_stream peer = co_await listener.accept();
    connections.spawn(serve(std::move(peer)), coir::report_failure);
  }
}

coir::task<> listen_and_serve(coir::net::address where) {
  co_await coir::with_nursery([&](coir::nursery& connections) -> coir::task<> {
    co_await coir::until_shutting_down(accept_all(where, connections));
    std::puts("no more connections");
  });  // ends when the connections have
  std::puts("all have finished");
}

int run_until_signalled(coir::net::address where) {
  const bool finished = coir::run(coir::stop_on_signals(5s, listen_and_serve(where)));
  return finished ? 0 : 1;
}
// README end

int main(int argc, char** argv) { return example::run_server(argc, argv, run_until_signalled); }
