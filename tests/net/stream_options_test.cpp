// What is set on a socket, as the kernel sees it.
#include <coir/coir.hpp>

#include "net/peers.hpp"

#include "fiber/until.hpp"
#include "support/both.hpp"
#include "support/catch.hpp"
#include "support/loop_tools.hpp"

#include <netinet/tcp.h>
#include <poll.h>

#include <chrono>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

using namespace std::chrono_literals;
using coir::net::tcp_listener;
using coir::net::tcp_listener_options;
using coir::net::tcp_options;
using coir::net::tcp_stream;
using support::loopback;
using support::option;

namespace {

struct linger_state {
  int on;
  int seconds;
  bool operator==(const linger_state&) const = default;
};

linger_state linger_of(int fd) {
  struct ::linger value{};
  socklen_t size = sizeof value;
  REQUIRE(::getsockopt(fd, SOL_SOCKET, SO_LINGER, &value, &size) == 0);
  return {value.l_onoff, value.l_linger};
}

void check_common(int fd) {
  CHECK((::fcntl(fd, F_GETFL) & O_NONBLOCK) != 0);
  CHECK((::fcntl(fd, F_GETFD) & FD_CLOEXEC) != 0);
}

}  // namespace

TEST_CASE("streams send at once, block never, and are not inherited by other programs") {
  support::on_both_surfaces([](auto wait) {
    tcp_listener listener(loopback);
    check_common(listener.fd());
    const tcp_stream out = wait(tcp_stream::connect(listener.local_address()));
    const tcp_stream in = wait(listener.accept());
    for (const int fd : {out.fd(), in.fd()}) {
      check_common(fd);
      CHECK(option(fd, IPPROTO_TCP, TCP_NODELAY) == 1);
      CHECK(option(fd, SOL_SOCKET, SO_KEEPALIVE) == 0);
      CHECK(linger_of(fd) == linger_state{0, 0});
    }
  });
}

TEST_CASE("what is asked for is set: on connect, on accepted streams, and later") {
  support::on_both_surfaces([](auto wait) {
    const auto wanted = tcp_options().no_delay(false).keep_alive(77s, 11s, 5).linger(0s);
    const auto check = [](int fd) {
      CHECK(option(fd, IPPROTO_TCP, TCP_NODELAY) == 0);
      CHECK(option(fd, SOL_SOCKET, SO_KEEPALIVE) == 1);
      CHECK(option(fd, IPPROTO_TCP, TCP_KEEPIDLE) == 77);
      CHECK(option(fd, IPPROTO_TCP, TCP_KEEPINTVL) == 11);
      CHECK(option(fd, IPPROTO_TCP, TCP_KEEPCNT) == 5);
      CHECK(linger_of(fd) == linger_state{1, 0});
    };
    tcp_listener listener(loopback, tcp_listener_options().streams(wanted));
    const tcp_stream out = wait(tcp_stream::connect(listener.local_address(), wanted));
    const tcp_stream in = wait(listener.accept());
    check(out.fd());
    check(in.fd());

    tcp_stream later = wait(tcp_stream::connect(listener.local_address()));
    CHECK(option(later.fd(), IPPROTO_TCP, TCP_NODELAY) == 1);
    later.set(wanted);
    check(later.fd());
    later.set(tcp_options());
    CHECK(option(later.fd(), IPPROTO_TCP, TCP_NODELAY) == 1);
  });
}

TEST_CASE("a listener's address options are what was asked for") {
  coir::run([] {
    // Bound to one IPv6 address, a socket is for IPv6 only in any case.
    const tcp_listener usual(coir::net::address::any_v6(0));
    CHECK(option(usual.fd(), SOL_SOCKET, SO_REUSEADDR) == 1);
    CHECK(option(usual.fd(), SOL_SOCKET, SO_REUSEPORT) == 0);
    CHECK(option(usual.fd(), IPPROTO_IPV6, IPV6_V6ONLY) == 0);
    const tcp_listener other(
        coir::net::address::any_v6(0),
        tcp_listener_options().reuse_address(false).reuse_port(true).only_v6(true));
    CHECK(option(other.fd(), SOL_SOCKET, SO_REUSEADDR) == 0);
    CHECK(option(other.fd(), SOL_SOCKET, SO_REUSEPORT) == 1);
    CHECK(option(other.fd(), IPPROTO_IPV6, IPV6_V6ONLY) == 1);
  });
}

TEST_CASE("an option that the kernel refuses is an error that names it, and no leak") {
  support::leaves_no_descriptor([] {
    coir::run([] {
      const auto impossible = tcp_options().keep_alive(0s, 1s, 1);
      const tcp_listener listener(loopback);
      try {
        static_cast<void>(tcp_stream::connect(listener.local_address(), impossible));
        FAIL("a keep-alive of 0 seconds");
      } catch (const std::system_error& error) {
        CHECK(error.code() == std::errc::invalid_argument);
        CHECK(std::string(error.what()).find("TCP_KEEPIDLE to 0") != std::string::npos);
      }
      CHECK_THROWS_AS(tcp_listener(loopback, tcp_listener_options().streams(impossible)),
                      std::system_error);
    });
  });
}

TEST_CASE("closing with a linger of 0 resets the connection, and drops what was not sent") {
  support::leaves_no_descriptor([] {
    support::on_both_surfaces([](auto wait) {
      tcp_listener listener(loopback, tcp_listener_options().streams(tcp_options().linger(0s)));
      for (const bool by_close : {false, true}) {
        tcp_stream out = wait(tcp_stream::connect(listener.local_address()));
        {
          tcp_stream in = wait(listener.accept());
          if (by_close) wait(in.close());
        }
        CHECK(support::error_of([&] { support::read_text(wait, out); }) ==
              std::errc::connection_reset);
      }
    });
  });
}

TEST_CASE("closing without a linger sends what was written, in the background") {
  support::leaves_no_descriptor([] {
    support::on_both_surfaces([](auto wait) {
      auto ends = support::connected();
      const std::string text(200'000, 'x');
      wait(coir::io::write_all(ends.near, text));
      { const tcp_stream gone = std::move(ends.near); }
      std::string got(text.size() + 1, '-');
      CHECK(wait(coir::io::read_exactly(ends.far, std::as_writable_bytes(std::span(got)))) ==
            text.size());
    });
  });
}

TEST_CASE("streams that are destroyed while they linger hold up nobody, however many") {
  support::on_both_surfaces([](auto wait) {
    tcp_listener listener(loopback, tcp_listener_options().streams(tcp_options().linger(1000s)));
    std::vector<coir::unique_fd> peers;
    const auto accept = [&] {
      peers.push_back(support::raw_client(listener.local_address()));
      return wait(listener.accept());
    };
    std::size_t sent = 0;
    for (int i = 0; i < 12; ++i) {
      const tcp_stream stream = accept();
      sent = support::fill(stream.fd());
    }
    const int last = peers.back().get();
    // And so is a stream that another loop had before.
    {
      tcp_stream stream = accept();
      support::fill(stream.fd());
      const tcp_stream again(coir::running_fiber().home().on(), stream.release());
      CHECK(linger_of(again.fd()) == linger_state{1, 1000});
    }
    // The next one ends for its peer at once.
    { const tcp_stream stream = accept(); }
    char nothing = 0;
    CHECK(::recv(peers.back().get(), &nothing, 1, 0) == 0);
    // What was written comes all the same, and then the end.
    REQUIRE(::fcntl(last, F_SETFL, O_NONBLOCK) == 0);
    std::size_t arrived = 0;
    support::until([&] {
      arrived += support::drain(last);
      return arrived >= sent;
    });
    CHECK(arrived == sent);
    pollfd over{last, POLLIN, 0};
    REQUIRE(::poll(&over, 1, 5000) == 1);
    CHECK(::recv(last, &nothing, 1, 0) == 0);
  });
}

TEST_CASE("a keep-alive that does not fit is refused with what was asked, and not with what is left of it") {
  auto refused = [](tcp_options wanted) {
    const coir::unique_fd socket = support::tcp_socket();
    return support::error_of([&] { wanted.set_on(socket.get()); });
  };
  CHECK(refused(tcp_options().keep_alive(std::chrono::seconds((1LL << 32) + 30), 1s, 1)) ==
        std::errc::invalid_argument);
  CHECK(refused(tcp_options().keep_alive(1s, std::chrono::seconds::max(), 1)) == std::errc::invalid_argument);
}

TEST_CASE("a stream that lingers for its peer does not hold up the loop on io_uring") {
  if (coir::backend_report().kind != coir::backend_kind::uring) return;
  support::leaves_no_descriptor([] {
    support::on_both_surfaces([](auto wait) {
      constexpr auto limit = 1000s;
      tcp_listener listener(loopback, tcp_listener_options().streams(tcp_options().linger(limit)));
      for (const bool by_close : {false, true}) {
        const auto peer = support::raw_client(listener.local_address());
        std::optional<tcp_stream> stream(wait(listener.accept()));
        CHECK(linger_of(stream->fd()) == linger_state{1, 1000});
        // More than the peer takes: closing waits for it.
        const std::string block(1 << 20, 'x');
        bool full = false;
        std::size_t sent = 0;
        auto writer = coir::spawn([&] {
          try {
            for (;;) sent += wait(stream->write_some(std::as_bytes(std::span(block))));
          } catch (const std::system_error&) {
            full = true;
          }
        });
        support::until([&] { return support::waiting(writer); });
        support::let_turns_pass();

        coir::fiber<void> closer;
        if (by_close) closer = coir::spawn([&] { wait(stream->close()); });
        else stream.reset();
        coir::await(writer.join());
        CHECK(full);
        // The loop goes on: a thousand turns, and timers, long before the limit.
        support::let_turns_pass(1000);
        wait(coir::sleep_for(1ms));
        std::size_t arrived = 0;
        REQUIRE(::fcntl(peer.get(), F_SETFL, O_NONBLOCK) == 0);
        support::until([&] {
          arrived += support::drain(peer.get());
          return arrived >= sent;
        });
        if (by_close) coir::await(closer.join());
      }
    });
  });
}

TEST_CASE("a linger of less than no time is refused, and one without end is the longest there is") {
  CHECK_THROWS_AS(coir::net::tcp_options().linger(std::chrono::seconds(-1)), std::invalid_argument);
  const coir::unique_fd socket = support::tcp_socket();
  coir::net::tcp_options().linger(std::chrono::seconds::max()).set_on(socket.get());
  ::linger got{};
  socklen_t size = sizeof got;
  REQUIRE(::getsockopt(socket.get(), SOL_SOCKET, SO_LINGER, &got, &size) == 0);
  CHECK(got.l_onoff == 1);
  CHECK(got.l_linger > 0);
}
