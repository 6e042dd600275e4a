// Teaches: calls that block. A service on all processors looks up host names with getaddrinfo(3), which may block for
// seconds; threads of one pool do that for all loops, which go on serving everybody else.
//
// Try it:  build/test/examples/look_up 7000
//          nc 127.0.0.1 7000                             and type names: localhost, 127.1, nowhere.invalid
//          Ctrl-C ends it.
//
// CLIENTS
//   1 > 127.1
//   2 > 10.258
//   2 < 10.258 is 10.0.1.2
//   1 < 127.1 is 127.0.0.1
//   1 > 1.2.3.4.5
//   1 < 1.2.3.4.5 is nowhere
//   2 end
//   3 > 127.2
//   4 > 127.3
//   4 < 127.3 is 127.0.0.3
//   3 < 127.2 is 127.0.0.2
//
// OUTPUT
//   listening on 127.0.0.1:PORT
//   stopped

#include <coir/coir.hpp>

#include "server.hpp"

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>

// README: offload
std::string look_up(const std::string& name) {  // blocks
  addrinfo hints{};
  hints.ai_family = AF_INET;
  addrinfo* found = nullptr;
  if (::getaddrinfo(name.c_str(), nullptr, &hints, &found) != 0) return name + " is nowhere\n";
  const std::unique_ptr<addrinfo, void (*)(addrinfo*)> freed_later(found, ::freeaddrinfo);
  char text[INET_ADDRSTRLEN];
  ::inet_ntop(AF_INET, &reinterpret_cast<sockaddr_in*>(found->ai_addr)->sin_addr, text, sizeof text);
  return name + " is " + text + "\n";
}

coir::task<> serve(coir::net::tcp_stream peer, coir::pool& threads) {
  coir::io::buffered_reader lines(peer);
  while (std::optional<std::string_view> line = co_await lines.read_line()) {
    const std::string name(*line);
    // The fiber waits; a thread of the pool calls.
    const std::string answer = co_await coir::offload(threads, [&] { return look_up(name); });
    co_await coir::io::write_all(peer, std::as_bytes(std::span(answer)));
  }
}
// README end

coir::task<> accept_all(coir::net::tcp_listener listener, coir::pool& threads) {
  for (;;) {
    coir::net::tcp_stream peer = co_await listener.accept();
    coir::spawn(serve(std::move(peer), threads), coir::report_failure);
  }
}

// This thread's loop chooses the port and serves, and so do all others, with a listener each.
coir::task<> serve_everywhere(coir::runtime& rt, coir::pool& threads, coir::net::address where) {
  const auto shared = coir::net::tcp_listener_options().reuse_port(true);
  coir::net::tcp_listener mine(where, shared);
  const coir::net::address chosen = mine.local_address();
  rt.spawn_on_all([chosen, shared, &threads] { return accept_all(coir::net::tcp_listener(chosen, shared), threads); });
  example::announce(mine);
  co_await accept_all(std::move(mine), threads);
}

int main(int argc, char** argv) {
  return example::run_server(argc, argv, [](coir::net::address where) {
    coir::pool threads(coir::pool_options().threads(8));
    coir::runtime rt;
    rt.run(serve_everywhere(rt, threads, where));
    return 0;
  });
}
