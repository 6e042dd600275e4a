// Who waits for connections, in which order, and what becomes of those that nobody waits for.
#include <coir/coir.hpp>

#include "net/peers.hpp"

#include "fiber/until.hpp"
#include "support/both.hpp"
#include "support/catch.hpp"
#include "support/loop_tools.hpp"

#include <poll.h>

#include <cstddef>
#include <optional>
#include <stdexcept>
#include <string>
#include <system_error>
#include <vector>

using coir::net::tcp_listener;
using coir::net::tcp_stream;
using support::loopback;

namespace {

// Has the other end closed or reset it?
bool closed_by_peer(const coir::unique_fd& socket) {
  pollfd one{socket.get(), POLLIN | POLLRDHUP, 0};
  return ::poll(&one, 1, 0) == 1 && (one.revents & (POLLRDHUP | POLLHUP | POLLERR)) != 0;
}

// The fibers of a listener, and which of them got which connection, in the order in which they got it.
template <class Wait>
class queue_of_fibers {
 public:
  queue_of_fibers(Wait wait, tcp_listener& listener) : wait_(wait), listener_(listener) {}

  coir::fiber<void> add(std::string name) {
    auto made = coir::spawn([this, name = std::move(name)] {
      tcp_stream peer = wait_(listener_.accept());
      got += name + "<" + support::read_text(wait_, peer, 1) + " ";
    });
    support::until([&] { return support::waiting(made); });
    return made;
  }
  // A connection that is named, and taken by somebody.
  void connect(const char* name, std::size_t expected_size) {
    clients_.push_back(support::raw_client(listener_.local_address()));
    support::send_raw(clients_.back(), name);
    support::until([&] { return got.size() == expected_size; });
  }

  std::string got;

 private:
  Wait wait_;
  tcp_listener& listener_;
  std::vector<coir::unique_fd> clients_;
};

}  // namespace

TEST_CASE("connections go to those who wait, first come, first served") {
  support::on_both_surfaces([](auto wait) {
    tcp_listener listener(loopback);
    queue_of_fibers fibers(wait, listener);
    for (const char* const name : {"a", "b", "c"}) fibers.add(name);
    fibers.connect("1", 4);
    fibers.connect("2", 8);
    fibers.connect("3", 12);
    CHECK(fibers.got == "a<1 b<2 c<3 ");
  });
}

TEST_CASE("a cancelled accept gives up its place: the first, one between, the last") {
  support::on_both_surfaces([](auto wait) {
    for (int cancelled = 0; cancelled < 3; ++cancelled) {
      tcp_listener listener(loopback);
      queue_of_fibers fibers(wait, listener);
      std::vector<coir::fiber<void>> three;
      for (const char* const name : {"a", "b", "c"}) three.push_back(fibers.add(name));
      auto& gone = three[static_cast<std::size_t>(cancelled)];
      gone.cancel();
      support::until([&] { return support::dead(gone); });
      fibers.connect("1", 4);
      auto last = fibers.add("d");
      fibers.connect("2", 8);
      fibers.connect("3", 12);
      const char* const expected[] = {"b<1 c<2 d<3 ", "a<1 c<2 d<3 ", "a<1 b<2 d<3 "};
      CHECK(fibers.got == expected[cancelled]);
    }
  });
}

TEST_CASE("an accept that is awaited again waits at the end of the line, or has at once what is there") {
  support::on_both_surfaces([](auto wait) {
    tcp_listener listener(loopback);
    std::string got;
    const auto add = [&](char name) {
      auto made = coir::spawn([&, name] {
        auto next = listener.accept();
        for (int i = 0; i < 3; ++i) {
          const tcp_stream peer = wait(support::again(next));
          got += name;
        }
      });
      support::until([&] { return support::waiting(made); });
      return made;
    };
    std::vector<coir::unique_fd> clients;
    const auto connect = [&] { clients.push_back(support::raw_client(listener.local_address())); };

    const auto a = add('a');
    const auto b = add('b');
    for (std::size_t i = 1; i <= 6; ++i) {
      connect();
      support::until([&] { return got.size() == i; });
    }
    CHECK(got == "ababab");
    const auto c = add('c');
    connect();
    connect();
    connect();
    support::until([&] { return support::dead(c); });
    CHECK(got == "abababccc");
  });
}

TEST_CASE("an accept that is awaited again after its listener ended says so") {
  support::on_both_surfaces([](auto wait) {
    std::optional<tcp_listener> listener(loopback);
    std::string refused;
    auto acceptor = coir::spawn([&] {
      auto next = listener->accept();
      CHECK_THROWS_AS(wait(support::again(next)), std::system_error);
      try {
        wait(support::again(next));
      } catch (const std::logic_error& error) {
        refused = error.what();
      }
    });
    support::until([&] { return support::waiting(acceptor); });
    listener.reset();
    support::until([&] { return support::dead(acceptor); });
    CHECK(refused.find("ended") != std::string::npos);
  });
}

TEST_CASE("a connection that arrives while nobody waits any more is kept for the next") {
  support::on_both_surfaces([](auto wait) {
    tcp_listener listener(loopback);
    auto first = coir::spawn([&] { const tcp_stream peer = wait(listener.accept()); });
    support::until([&] { return support::waiting(first); });
    first.cancel();
    support::until([&] { return support::dead(first); });

    std::vector<coir::unique_fd> clients;
    for (int i = 0; i < 10; ++i) {
      clients.push_back(support::raw_client(listener.local_address()));
      support::send_raw(clients.back(), std::to_string(i));
    }
    // The loop hears of them before anybody asks.
    support::let_turns_pass();
    std::string order;
    for (int i = 0; i < 10; ++i) {
      tcp_stream peer = wait(listener.accept());
      order += support::read_text(wait, peer, 1);
    }
    CHECK(order == "0123456789");
    CHECK(listener.stats().accepted == 10);
  });
}

TEST_CASE("an accept that is cancelled when its connection is there already keeps it") {
  support::on_both_surfaces([](auto wait) {
    tcp_listener listener(loopback);
    bool returned = false;
    bool next_cancelled = false;
    auto who = coir::spawn([&] {
      {
        const tcp_stream peer = wait(listener.accept());
        returned = static_cast<bool>(peer);
      }
      try {
        coir::await(coir::yield());
      } catch (const coir::cancelled&) {
        next_cancelled = true;
        throw;
      }
    });
    support::until([&] { return support::waiting(who); });
    const auto client = support::raw_client(listener.local_address());
    // Told, and not yet run: the test sees it before the fiber does, when it is ahead in the queue.
    support::until([&] { return !support::waiting(who); });
    const bool already_over = support::dead(who);
    who.cancel();
    support::until([&] { return support::dead(who); });
    CHECK(returned);
    CHECK((already_over || next_cancelled));
  });
}

TEST_CASE("connections accepted ahead of anybody are few, and end with the listener") {
  support::leaves_no_descriptor([] {
    support::on_both_surfaces([](auto wait) {
      constexpr int connections = 600;
      std::optional<tcp_listener> listener(std::in_place, loopback);
      // An accept that is given up leaves a multishot one behind, where the backend has it.
      auto first = coir::spawn([&] { const tcp_stream peer = wait(listener->accept()); });
      support::until([&] { return support::waiting(first); });
      first.cancel();
      support::until([&] { return support::dead(first); });

      const std::size_t before = support::open_descriptors();
      std::vector<coir::unique_fd> clients;
      for (int i = 0; i < connections; ++i) {
        clients.push_back(support::raw_client(listener->local_address()));
        if (i % 8 == 0) support::let_turns_pass(1);
      }
      support::let_turns_pass();
      const std::size_t ahead = support::open_descriptors() - before - clients.size();
      const bool multishot = !support::on_epoll(*coir::loop::current());
      CHECK(ahead >= (multishot ? 1U : 0U));
      CHECK(ahead <= (multishot ? 64U + 64U : 0U));

      // All of them can still be had: those ahead, and those in the backlog.
      for (int i = 0; i < 200; ++i) CHECK(wait(listener->accept()));
      CHECK(listener->stats().accepted >= 200);

      listener.reset();
      support::until([&] { return support::open_descriptors() == before + clients.size() - 1; });
      for (const auto& client : clients) CHECK(closed_by_peer(client));
    });
  });
}

TEST_CASE("an accept that is stopped while others of its turn succeed is no leak") {
  support::leaves_no_descriptor([] {
    support::on_both_surfaces([](auto wait) {
      for (int round = 0; round < 50; ++round) {
        std::optional<tcp_listener> listener(std::in_place, loopback);
        std::vector<coir::fiber<void>> fibers;
        for (int i = 0; i < 4; ++i) {
          fibers.push_back(coir::spawn([&] { const tcp_stream peer = wait(listener->accept()); }));
        }
        support::let_turns_pass(1);
        std::vector<coir::unique_fd> clients;
        for (int i = 0; i < round % 6; ++i) {
          clients.push_back(support::raw_client(listener->local_address()));
        }
        support::let_turns_pass(static_cast<unsigned>(round % 3));
        for (auto& each : fibers) each.cancel();
        support::until([&] {
          for (auto& each : fibers) {
            if (!support::dead(each)) return false;
          }
          return true;
        });
        if (round % 2 == 0) listener.reset();
      }
    });
  });
}
