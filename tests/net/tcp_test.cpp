// What a user writes: listen, accept, connect, read, write.
#include <coir/coir.hpp>

#include "net/peers.hpp"

#include "support/both.hpp"
#include "support/catch.hpp"
#include "support/loop_tools.hpp"

#include <array>
#include <string>

using coir::net::address;
using coir::net::tcp_listener;
using coir::net::tcp_stream;

namespace {

coir::task<> serve(tcp_stream peer) {
  std::array<std::byte, 4096> buffer;
  while (std::size_t n = co_await peer.read_some(buffer))
    co_await coir::io::write_all(peer, std::span(buffer).first(n));
}

coir::task<> serve_chunks(tcp_stream peer) {
  auto chunks = peer.chunks();
  while (auto chunk = co_await chunks.next())
    co_await coir::io::write_all(peer, chunk->bytes());
}

void serve_on_stack(tcp_stream& peer) {
  std::array<std::byte, 4096> buffer;
  while (std::size_t n = coir::await(peer.read_some(buffer)))
    coir::await(coir::io::write_all(peer, std::span(buffer).first(n)));
}

// `serve_one` spawns what serves the connection.
template <class Wait, class Serve>
void echo_once(Wait wait, const address& where, Serve&& serve_one) {
  tcp_listener listener(where);
  auto server = coir::spawn([&] {
    for (;;) serve_one(wait(listener.accept()));
  });

  tcp_stream out = wait(tcp_stream::connect(listener.local_address()));
  CHECK(out.peer_address() == listener.local_address());
  CHECK(out.local_address().host() == where.host());
  wait(coir::io::write_all(out, "hello"));
  std::string answer(5, '-');
  CHECK(wait(coir::io::read_exactly(out, std::as_writable_bytes(std::span(answer)))) == 5);
  CHECK(answer == "hello");
  out.shutdown(coir::net::direction::send);
  CHECK(support::read_text(wait, out).empty());
  server.cancel();
  coir::await(coir::end_op(server));
}

}  // namespace

TEST_CASE("what was sent comes back: coroutine, stack and receive loop, IPv4 and IPv6") {
  support::leaves_no_descriptor([] {
    for (const address& where : {support::loopback, support::loopback_v6}) {
      support::on_both_surfaces([&](auto wait) {
        echo_once(wait, where, [](tcp_stream peer) { coir::spawn(serve(std::move(peer))); });
        echo_once(wait, where, [](tcp_stream peer) { coir::spawn(serve_chunks(std::move(peer))); });
        echo_once(wait, where, [](tcp_stream peer) {
          coir::spawn([peer = std::move(peer)]() mutable { serve_on_stack(peer); });
        });
      });
    }
  });
}

TEST_CASE("a thousand connections talk at the same time") {
  constexpr int connections = 1000;
  support::leaves_no_descriptor([] {
    int right = 0;
    coir::run([&] {
      tcp_listener listener(support::loopback);
      auto server = coir::spawn([&] {
        for (;;) coir::spawn(serve(coir::await(listener.accept())));
      });
      const auto client = [&](int number) -> coir::task<> {
        tcp_stream out = co_await tcp_stream::connect(listener.local_address());
        for (int round = 0; round < 3; ++round) {
          const std::string text = "round " + std::to_string(round) + " of " + std::to_string(number);
          co_await coir::io::write_all(out, text);
          std::string answer(text.size(), '-');
          co_await coir::io::read_exactly(out, std::as_writable_bytes(std::span(answer)));
          if (answer == text) ++right;
        }
      };
      std::vector<coir::fiber<void>> clients;
      for (int i = 0; i < connections; ++i) clients.push_back(coir::spawn(client(i)));
      for (auto& each : clients) coir::await(each.join());
      server.cancel();
    });
    CHECK(right == 3 * connections);
  });
}

TEST_CASE("a listener is made in a fiber, or is given its loop") {
  try {
    tcp_listener listener(support::loopback);
    FAIL("made outside of a loop");
  } catch (const std::logic_error& error) {
    CHECK(std::string(error.what()).find("give it its loop") != std::string::npos);
  }
  CHECK_THROWS_AS(tcp_stream::connect(support::loopback), std::logic_error);
  coir::loop loop;
  const tcp_listener listener(loop, support::loopback);
  CHECK(listener.local_address().port() != 0);
}

TEST_CASE("a stream takes a socket that somebody else connected") {
  support::leaves_no_descriptor([] {
    support::on_both_surfaces([](auto wait) {
      auto ends = support::tcp_pair();
      coir::loop& here = *coir::loop::current();
      const int fd = ends[0].release();
      REQUIRE(::fcntl(fd, F_SETFL, 0) == 0);
      tcp_stream stream(here, fd);
      CHECK(stream.fd() == fd);
      CHECK((::fcntl(fd, F_GETFL) & O_NONBLOCK) != 0);
      support::send_raw(ends[1], "hello");
      CHECK(support::read_text(wait, stream) == "hello");
    });
  });
}

TEST_CASE("a number that is no descriptor is refused as one") {
  coir::run([] {
    coir::loop& here = *coir::loop::current();
    CHECK_THROWS_AS(tcp_stream(here, -1), std::invalid_argument);
    CHECK(support::error_of([&] { tcp_stream(here, 100'000); }) == std::errc::bad_file_descriptor);
  });
}
