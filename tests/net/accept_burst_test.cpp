// Many connections at once.
#include <coir/coir.hpp>

#include "net/peers.hpp"

#include "fiber/until.hpp"
#include "support/both.hpp"
#include "support/catch.hpp"
#include "support/loop_tools.hpp"

#include <vector>

using coir::net::tcp_listener;
using coir::net::tcp_stream;
using support::loopback;

namespace {

constexpr std::size_t connections = 1000;

template <class Wait>
void burst(Wait wait, std::size_t fibers) {
  tcp_listener listener(loopback);
  std::vector<tcp_stream> accepted;
  std::vector<coir::fiber<void>> acceptors;
  for (std::size_t i = 0; i < fibers; ++i) {
    acceptors.push_back(coir::spawn([&] {
      for (;;) accepted.push_back(wait(listener.accept()));
    }));
  }
  coir::await(coir::yield());
  std::vector<coir::unique_fd> clients;
  for (std::size_t i = 0; i < connections; ++i) {
    clients.push_back(support::raw_client(listener.local_address()));
  }
  support::until([&] { return accepted.size() == connections; });
  CHECK(listener.stats().accepted == connections);
  CHECK(listener.stats().starved == 0);
  for (auto& each : acceptors) each.cancel();
  for (auto& each : acceptors) coir::await(coir::end_op(each));
}

}  // namespace

TEST_CASE("a burst of 1000 connections is accepted, by one fiber and by many") {
  support::leaves_no_descriptor([] {
    support::on_both_surfaces([](auto wait) {
      for (const std::size_t fibers : {std::size_t{1}, std::size_t{7}, connections}) {
        burst(wait, fibers);
      }
    });
  });
}

TEST_CASE("a burst that is cut short leaves no descriptor open") {
  support::leaves_no_descriptor([] {
    support::on_both_surfaces([](auto wait) {
      tcp_listener listener(loopback);
      std::vector<tcp_stream> accepted;
      auto acceptor = coir::spawn([&] {
        for (;;) accepted.push_back(wait(listener.accept()));
      });
      coir::await(coir::yield());
      std::vector<coir::unique_fd> clients;
      for (std::size_t i = 0; i < connections; ++i) {
        clients.push_back(support::raw_client(listener.local_address()));
      }
      support::until([&] { return accepted.size() > 10; });
      acceptor.cancel();
      coir::await(coir::end_op(acceptor));
      CHECK(accepted.size() <= connections);
    });
  });
}

TEST_CASE("a small submission and completion queue takes a burst all the same") {
  const auto small =
      coir::run_options().loop(coir::loop_options().submission_entries(2).completion_entries(4));
  coir::run([] { burst(support::on_stack(), 7); }, small);
}
