#include <coir/coir.hpp>

#include "net/peers.hpp"

#include "fiber/until.hpp"
#include "support/both.hpp"
#include "support/catch.hpp"
#include "support/loop_tools.hpp"

#include <netinet/tcp.h>

#include <optional>
#include <string>
#include <vector>

using coir::net::address;
using coir::net::tcp_listener;
using coir::net::tcp_listener_options;
using coir::net::tcp_stream;
using support::loopback;

namespace {

class counting_waiter : public coir::waiter {
 public:
  counting_waiter() noexcept : waiter(kind) {}
  int count = 0;

 private:
  static void told(waiter& self) noexcept { ++static_cast<counting_waiter&>(self).count; }
  static constexpr coir::waiter_kind kind{told};
};

}  // namespace

TEST_CASE("port 0 becomes a port that can be connected to") {
  support::on_both_surfaces([](auto wait) {
    tcp_listener listener(loopback);
    CHECK(listener.local_address().port() != 0);
    CHECK(listener.local_address().host() == "127.0.0.1");
    const auto client = support::raw_client(listener.local_address());
    CHECK(wait(listener.accept()).local_address() == listener.local_address());
  });
}

TEST_CASE("a descriptor that listens already is taken as it is, and made non-blocking") {
  support::leaves_no_descriptor([] {
    support::on_both_surfaces([](auto wait) {
      coir::unique_fd made = support::tcp_listener();
      REQUIRE(::fcntl(made.get(), F_SETFL, 0) == 0);
      tcp_listener listener(*coir::loop::current(), made.release());
      CHECK((::fcntl(listener.fd(), F_GETFL) & O_NONBLOCK) != 0);
      const auto client = support::raw_client(listener.local_address());
      CHECK(wait(listener.accept()).local_address() == listener.local_address());
    });
  });
}

TEST_CASE("a port in use is an error that names the address") {
  coir::run([] {
    const tcp_listener first(loopback);
    try {
      const tcp_listener second(first.local_address());
      FAIL("two listeners on one port");
    } catch (const std::system_error& error) {
      CHECK(error.code() == std::errc::address_in_use);
      CHECK(std::string(error.what()).find(first.local_address().to_string()) != std::string::npos);
    }
  });
}

TEST_CASE("an address of another machine is an error that names it") {
  coir::run([] {
    try {
      const tcp_listener listener(address("198.51.100.1", 7));
      FAIL("listening on somebody else's address");
    } catch (const std::system_error& error) {
      CHECK(error.code() == std::errc::address_not_available);
      CHECK(std::string(error.what()).find("198.51.100.1:7") != std::string::npos);
    }
  });
}

TEST_CASE("a port is free again as soon as its listener has ended, with connections still open") {
  support::leaves_no_descriptor([] {
    support::on_both_surfaces([](auto wait) {
      for (const bool lingers : {false, true}) {
        // What is said of the streams does not hold up the end of the listener.
        auto options = tcp_listener_options();
        if (lingers) options.streams(coir::net::tcp_options().linger(std::chrono::seconds(1)));
        std::optional<tcp_listener> listener(std::in_place, loopback, options);
        const address where = listener->local_address();
        const auto client = support::raw_client(where);
        const tcp_stream open = wait(listener->accept());
        listener.reset();
        support::until([&] {
          try {
            listener.emplace(where, options);
          } catch (const std::system_error& error) {
            // The kernel may still have the accept of the old one.
            REQUIRE(error.code() == std::errc::address_in_use);
          }
          return listener.has_value();
        });
      }
    });
  });
}

TEST_CASE("two listeners share a port when both say so") {
  support::on_both_surfaces([](auto wait) {
    const auto shared = tcp_listener_options().reuse_port(true);
    tcp_listener first(loopback, shared);
    tcp_listener second(first.local_address(), shared);
    CHECK(first.local_address() == second.local_address());
    CHECK_THROWS_AS(tcp_listener(first.local_address()), std::system_error);

    int got = 0;
    const auto take = [&](tcp_listener& from) {
      return [&from, &got, wait] {
        for (;;) {
          const tcp_stream peer = wait(from.accept());
          ++got;
        }
      };
    };
    auto one = coir::spawn(take(first));
    auto other = coir::spawn(take(second));
    std::vector<coir::unique_fd> clients;
    for (int i = 0; i < 64; ++i) clients.push_back(support::raw_client(first.local_address()));
    support::until([&] { return got == 64; });
    // With 64 addresses the kernel deals to both.
    CHECK(first.stats().accepted > 0);
    CHECK(second.stats().accepted > 0);
    CHECK(first.stats().accepted + second.stats().accepted == 64);
    one.cancel();
    other.cancel();
  });
}

TEST_CASE("the backlog is what was asked for") {
  coir::run([] {
    for (const int backlog : {1, 7, 100}) {
      const tcp_listener listener(loopback, tcp_listener_options().backlog(backlog));
      tcp_info info{};
      socklen_t size = sizeof info;
      REQUIRE(::getsockopt(listener.fd(), IPPROTO_TCP, TCP_INFO, &info, &size) == 0);
      CHECK(info.tcpi_sacked == static_cast<unsigned>(backlog));  // of a listener: the backlog
    }
  });
}

TEST_CASE("an IPv6 listener takes IPv4 connections, unless it is told not to") {
  support::on_both_surfaces([](auto wait) {
    tcp_listener dual(address::any_v6(0));
    const auto port = dual.local_address().port();
    const auto old = support::raw_client(address("127.0.0.1", port));
    CHECK(wait(dual.accept()).peer_address().host() == "::ffff:127.0.0.1");
    const auto fresh = support::raw_client(address("::1", port));
    CHECK(wait(dual.accept()).peer_address().host() == "::1");

    // Both on one port, the IPv4 one first: a port that is free for IPv6 may well be in use for IPv4.
    tcp_listener beside(address::any_v4(0));
    const auto shared = beside.local_address().port();
    tcp_listener only(address::any_v6(shared), tcp_listener_options().only_v6(true));
    const auto to_old = support::raw_client(address("127.0.0.1", shared));
    CHECK(wait(beside.accept()).peer_address().host() == "127.0.0.1");
    const auto to_new = support::raw_client(address("::1", shared));
    CHECK(wait(only.accept()).peer_address().host() == "::1");
  });
}

TEST_CASE("a listener may be moved, also while a fiber waits") {
  support::on_both_surfaces([](auto wait) {
    tcp_listener first(loopback);
    const address where = first.local_address();
    bool accepted = false;
    auto waiting = coir::spawn([&] {
      const tcp_stream peer = wait(first.accept());
      accepted = true;
    });
    support::until([&] { return support::waiting(waiting); });
    tcp_listener second(std::move(first));
    CHECK(second.local_address() == where);
    const auto client = support::raw_client(where);
    coir::await(waiting.join());
    CHECK(accepted);

    tcp_listener third(loopback);
    third = std::move(second);
    CHECK(third.local_address() == where);
    const auto another = support::raw_client(where);
    CHECK(wait(third.accept()));
  });
}

TEST_CASE("fibers that wait on a listener that is destroyed get bad_file_descriptor") {
  support::leaves_no_descriptor([] {
    support::on_both_surfaces([](auto wait) {
      std::optional<tcp_listener> listener(std::in_place, loopback);
      std::vector<std::error_code> codes;
      std::vector<coir::fiber<void>> fibers;
      for (int i = 0; i < 3; ++i) {
        fibers.push_back(coir::spawn([&] {
          codes.push_back(support::error_of([&] { wait(listener->accept()); }));
        }));
      }
      support::until([&] { return support::waiting(fibers.back()); });
      listener.reset();
      for (auto& each : fibers) coir::await(each.join());
      CHECK(codes == std::vector<std::error_code>(3, std::make_error_code(
                                                         std::errc::bad_file_descriptor)));
    });
  });
}

TEST_CASE("an accept that fails for good says so to everybody who waits") {
  support::on_both_surfaces([](auto wait) {
    std::optional<tcp_listener> listener(std::in_place, loopback);
    const std::string number = std::to_string(listener->fd());
    std::vector<coir::fiber<void>> fibers;
    for (int i = 0; i < 2; ++i) {
      fibers.push_back(coir::spawn([&] {
        try {
          wait(listener->accept());
          FAIL("no error");
        } catch (const std::system_error& error) {
          CHECK(error.code() == std::errc::invalid_argument);
          CHECK_THAT(error.what(), Catch::Matchers::Contains("descriptor " + number));
        }
        // By the first who hears; the other has been told already.
        listener.reset();
      }));
    }
    support::until([&] { return support::waiting(fibers.back()); });
    // It listens no more.
    REQUIRE(::shutdown(listener->fd(), SHUT_RDWR) == 0);
    for (auto& each : fibers) coir::await(each.join());
  });
}

TEST_CASE("a loop that ends under an accept that waits tells it so") {
  // A fiber never sees this: its scheduler ends before the loop.
  counting_waiter seen;
  std::optional<tcp_listener> listener;
  std::optional<coir::net::accept_op> waits;
  {
    coir::loop loop;
    coir::scheduler fibers(loop);
    fibers.spawn([&] {
      listener.emplace(loopback);
      waits.emplace(listener->accept());
      REQUIRE(waits->start(seen));
    });
    loop.run_once();
    loop.run_once();
    CHECK(seen.count == 0);
  }
  CHECK(seen.count == 1);
  CHECK_THROWS_AS(waits->take(), std::system_error);
  listener.reset();
}

TEST_CASE("a listening socket that is closed behind the listener ends every accept, the next one too") {
  support::on_both_surfaces([](auto wait) {
    tcp_listener listener(loopback);
    std::error_code code;
    auto accepts = coir::spawn([&] { code = support::error_of([&] { wait(listener.accept()); }); });
    support::until([&] { return support::waiting(accepts); });
    coir::loop::current()->close_soon(listener.fd());
    coir::await(accepts.join());
    CHECK(code == std::errc::bad_file_descriptor);
    CHECK(support::error_of([&] { wait(listener.accept()); }) == std::errc::bad_file_descriptor);
  });
}
