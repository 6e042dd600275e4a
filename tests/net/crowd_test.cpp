// One of a thousand misbehaves.
#include <coir/coir.hpp>

#include "net/peers.hpp"

#include "fiber/until.hpp"
#include "support/both.hpp"
#include "support/catch.hpp"
#include "support/loop_tools.hpp"

#include <string>
#include <vector>

using coir::net::tcp_listener;
using coir::net::tcp_stream;
using support::loopback;

namespace {

constexpr std::size_t crowd = 1000;

coir::task<> echo(tcp_stream peer) {
  std::array<std::byte, 512> buffer;
  while (const std::size_t n = co_await peer.read_some(buffer)) {
    co_await coir::io::write_all(peer, std::span(buffer).first(n));
  }
}

coir::task<> echo_chunks(tcp_stream peer) {
  auto chunks = peer.chunks();
  while (const auto chunk = co_await chunks.next()) {
    co_await coir::io::write_all(peer, chunk->bytes());
  }
}

coir::task<> listen(tcp_listener& listener, bool chunks) {
  for (;;) {
    tcp_stream peer = co_await listener.accept();
    coir::spawn(chunks ? echo_chunks(std::move(peer)) : echo(std::move(peer)), coir::report_failure);
  }
}

void talk(std::vector<tcp_stream>& clients) {
  std::string got(4, '-');
  for (tcp_stream& client : clients) {
    if (client) coir::await(coir::io::write_all(client, "ping"));
  }
  for (tcp_stream& client : clients) {
    if (!client) continue;
    coir::await(coir::io::read_exactly(client, std::as_writable_bytes(std::span(got))));
    REQUIRE(got == "ping");
  }
}

}  // namespace

TEST_CASE("when one of a thousand resets, the other 999 go on") {
  for (const bool chunks : {false, true}) {
    unsigned failures = 0;
    support::leaves_no_descriptor([&] {
      coir::run(
          [&] {
            tcp_listener listener(loopback);
            auto server = coir::spawn(listen(listener, chunks));
            std::vector<tcp_stream> clients;
            for (std::size_t i = 0; i < crowd; ++i) {
              clients.push_back(coir::await(tcp_stream::connect(listener.local_address())));
            }
            talk(clients);
            // With bytes on their way, and without.
            coir::await(coir::io::write_all(clients[500], "never answered"));
            support::reset(clients[500]);
            support::until([&] { return failures == 1; });
            talk(clients);
            support::reset(clients[7]);
            support::until([&] { return failures == 2; });
            talk(clients);
            clients.clear();
            server.cancel();
          },
          coir::run_options().on_failure([&](const coir::fiber_base&, std::exception_ptr why) {
            try {
              std::rethrow_exception(why);
            } catch (const std::system_error& error) {
              // Who writes hears of it by another name.
              if (error.code() == std::errc::connection_reset ||
                  error.code() == std::errc::broken_pipe) {
                ++failures;
              }
            }
          }));
    });
    CHECK(failures == 2);
  }
}

TEST_CASE("when half of a thousand reset at once, the other half go on") {
  support::leaves_no_descriptor([] {
    unsigned failures = 0;
    coir::run(
        [&] {
          tcp_listener listener(loopback);
          auto server = coir::spawn(listen(listener, true));
          std::vector<tcp_stream> clients;
          for (std::size_t i = 0; i < crowd; ++i) {
            clients.push_back(coir::await(tcp_stream::connect(listener.local_address())));
          }
          talk(clients);
          for (std::size_t i = 0; i < crowd; i += 2) {
            coir::await(coir::io::write_all(clients[i], "never answered"));
          }
          for (std::size_t i = 0; i < crowd; i += 2) support::reset(clients[i]);
          talk(clients);
          support::until([&] { return failures == crowd / 2; });
          clients.clear();
          support::until([&] {
            const auto& pool = coir::loop::current()->chunks();
            return pool.free() == pool.count();
          });
          server.cancel();
        },
        coir::run_options().on_failure(
            [&](const coir::fiber_base&, std::exception_ptr) { ++failures; }));
  });
}
