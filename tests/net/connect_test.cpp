#include <coir/coir.hpp>

#include "net/peers.hpp"

#include "fiber/until.hpp"
#include "support/both.hpp"
#include "support/catch.hpp"
#include "support/loop_tools.hpp"

#include <optional>
#include <string>
#include <vector>

using coir::net::address;
using coir::net::tcp_listener;
using coir::net::tcp_listener_options;
using coir::net::tcp_stream;
using support::loopback;

namespace {

// A listener whose queue is full: the kernel lets further connections wait without an answer.
class full_listener {
 public:
  full_listener() : listener(loopback, tcp_listener_options().backlog(0)) {
    // One is accepted by the kernel beyond a backlog of 0; those behind it wait.
    for (int i = 0; i < 4; ++i) {
      const address where = listener.local_address();
      coir::unique_fd client(::socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
      REQUIRE(client);
      static_cast<void>(::connect(client.get(), where.raw(), where.raw_bytes()));
      clients_.push_back(std::move(client));
    }
  }

  tcp_listener listener;

 private:
  std::vector<coir::unique_fd> clients_;
};

std::uint16_t unused_port() {
  const tcp_listener gone(loopback);
  return gone.local_address().port();
}

}  // namespace

TEST_CASE("a stream knows both its ends, on IPv4 and on IPv6") {
  support::on_both_surfaces([](auto wait) {
    for (const address& where : {loopback, support::loopback_v6}) {
      tcp_listener listener(where);
      const tcp_stream out = wait(tcp_stream::connect(listener.local_address()));
      const tcp_stream in = wait(listener.accept());
      CHECK(out.peer_address() == listener.local_address());
      CHECK(in.local_address() == listener.local_address());
      CHECK(out.local_address() == in.peer_address());
    }
  });
}

TEST_CASE("a refused connection is an error that names the address") {
  support::leaves_no_descriptor([] {
    support::on_both_surfaces([](auto wait) {
      const address where = loopback.with_port(unused_port());
      try {
        wait(tcp_stream::connect(where));
        FAIL("connected to nobody");
      } catch (const std::system_error& error) {
        CHECK(error.code() == std::errc::connection_refused);
        CHECK(std::string(error.what()).find(where.to_string()) != std::string::npos);
      }
      const auto as_value = wait(coir::as_result(tcp_stream::connect(where)));
      REQUIRE(!as_value.has_value());
      CHECK(as_value.error() == std::errc::connection_refused);
    });
  });
}

TEST_CASE("what the kernel says to a strange address is an error, and no leak") {
  support::leaves_no_descriptor([] {
    support::on_both_surfaces([](auto wait) {
      // A broadcast address, and a link-local one without its link.
      CHECK(support::error_of([&] { wait(tcp_stream::connect(address("255.255.255.255", 9))); }));
      CHECK(support::error_of([&] { wait(tcp_stream::connect(address("fe80::1", 9))); }));
    });
  });
}

TEST_CASE("a connection can be cancelled while it waits for an answer, and leaves nothing") {
  support::leaves_no_descriptor([] {
    support::on_both_surfaces([](auto wait) {
      const full_listener silent;
      const std::size_t before = support::open_descriptors();
      bool cancelled = false;
      auto who = coir::spawn([&] {
        try {
          wait(tcp_stream::connect(silent.listener.local_address()));
        } catch (const coir::cancelled&) {
          cancelled = true;
          throw;
        }
      });
      support::until([&] { return support::waiting(who); });
      support::let_turns_pass();
      REQUIRE(support::waiting(who));
      std::string report = who.control().waits_for();
      who.control().describe_wait(report);
      CHECK(report.find(silent.listener.local_address().to_string()) != std::string::npos);
      who.cancel();
      support::until([&] { return support::dead(who); });
      CHECK(cancelled);
      CHECK(support::open_descriptors() == before);
    });
  });
}

TEST_CASE("a connection that is cancelled in the moment it succeeds is delivered or undone") {
  support::leaves_no_descriptor([] {
    support::on_both_surfaces([](auto wait) {
      tcp_listener listener(loopback);
      int connected = 0;
      for (unsigned turns = 0; turns < 40; ++turns) {
        auto who = coir::spawn([&] {
          const tcp_stream out = wait(tcp_stream::connect(listener.local_address()));
          ++connected;
        });
        support::let_turns_pass(turns % 3);
        if (turns % 2 == 0) coir::await(coir::yield());
        who.cancel();
        support::until([&] { return support::dead(who); });
      }
      CHECK(connected > 0);
    });
  });
}

TEST_CASE("a connection that was never waited for leaves no socket") {
  support::leaves_no_descriptor([] {
    coir::run([] {
      const tcp_listener listener(loopback);
      for (int i = 0; i < 10; ++i) {
        auto dropped = tcp_stream::connect(listener.local_address());
        auto moved = std::move(dropped);
      }
    });
  });
}

TEST_CASE("a hundred connections to a listener that takes its time are all made") {
  support::leaves_no_descriptor([] {
    support::on_both_surfaces([](auto wait) {
      tcp_listener listener(loopback);
      std::vector<coir::fiber<void>> clients;
      for (int i = 0; i < 100; ++i) {
        clients.push_back(coir::spawn([&] {
          tcp_stream out = wait(tcp_stream::connect(listener.local_address()));
          wait(coir::io::write_all(out, "x"));
          CHECK(support::read_text(wait, out).empty());
        }));
      }
      for (int i = 0; i < 100; ++i) {
        support::let_turns_pass(1);
        tcp_stream peer = wait(listener.accept());
        CHECK(support::read_text(wait, peer) == "x");
      }
      for (auto& each : clients) coir::await(each.join());
    });
  });
}
