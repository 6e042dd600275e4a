// Streams and listeners that other threads destroy while their loop ends, and when it has ended.
#include <coir/coir.hpp>

#include "net/peers.hpp"

#include "fiber/until.hpp"
#include "support/catch.hpp"
#include "support/descriptor_limit.hpp"
#include "support/loop_tools.hpp"

#include <array>
#include <atomic>
#include <string>
#include <thread>
#include <vector>

namespace {

// On a loop that goes on to accept and to receive for nobody.
struct belongings {
  std::vector<coir::net::tcp_stream> streams;  // each with chunks that nobody has taken
  std::vector<coir::net::tcp_listener> listeners;  // the last in its pause: it had no descriptor for a connection
  std::vector<coir::unique_fd> clients;
};

belongings busy() {
  belongings made;
  for (int i = 0; i < 4; ++i) {
    auto ends = support::connected();
    coir::await(coir::io::write_all(ends.near, "first"));
    CHECK(coir::await(ends.far.chunks().next()));
    coir::await(coir::io::write_all(ends.near, std::string(10'000, 'x')));
    made.streams.push_back(std::move(ends.far));
    made.streams.push_back(std::move(ends.near));
  }
  coir::net::tcp_listener& listener = made.listeners.emplace_back(support::loopback);
  auto first = coir::spawn([&] { return coir::await(listener.accept()); });
  made.streams.push_back(coir::await(coir::net::tcp_stream::connect(listener.local_address())));
  made.streams.push_back(coir::await(first.take()));
  support::let_turns_pass(2);
  coir::net::tcp_listener& starved = made.listeners.emplace_back(support::loopback);
  made.clients.push_back(support::raw_client(starved.local_address()));
  auto second = coir::spawn([&] { const coir::net::tcp_stream peer = coir::await(starved.accept()); });
  {
    const support::descriptor_limit limit(0);
    support::until([&] { return starved.stats().starved > 0; });
  }
  second.cancel();
  support::until([&] { return support::dead(second); });
  return made;
}

}  // namespace

TEST_CASE("streams and listeners may be destroyed by another thread while their loop ends") {
  support::leaves_no_descriptor([] {
    for (int round = 0; round < 30; ++round) {
      belongings mine;
      std::atomic<bool> made = false;
      std::thread other([&] {
        while (!made.load()) std::this_thread::yield();
        for (int i = round; i > 0; --i) std::this_thread::yield();
        mine.listeners.clear();
        mine.streams.clear();
      });
      coir::run([&] {
        mine = busy();
        made = true;
      });
      other.join();
    }
  });
}

TEST_CASE("streams and listeners that outlive their loop may be destroyed by several threads at once") {
  support::leaves_no_descriptor([] {
    for (int round = 0; round < 30; ++round) {
      std::array<belongings, 3> parts;
      coir::run([&] {
        for (belongings& each : parts) each = busy();
      });
      std::atomic<unsigned> ready = 0;
      std::vector<std::thread> threads;
      for (belongings& each : parts) {
        threads.emplace_back([&] {
          ++ready;
          while (ready.load() < parts.size()) std::this_thread::yield();
          each = belongings();
        });
      }
      for (std::thread& each : threads) each.join();
    }
  });
}
