// What lives how long: listeners and receive loops that nobody waits on, and those of a parent process.
#include <coir/coir.hpp>

#include "net/peers.hpp"

#include "fiber/until.hpp"
#include "support/both.hpp"
#include "support/catch.hpp"
#include "support/loop_tools.hpp"

#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstddef>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

using coir::net::tcp_listener;
using coir::net::tcp_stream;
using support::loopback;

namespace {

// A listener and a stream that the kernel works for, though nobody waits.
struct busy_pair {
  tcp_listener listener{loopback};
  support::raw_pair pair = support::connected_to_raw();
  coir::unique_fd client;

  busy_pair() {
    auto acceptor = coir::spawn([&] { const tcp_stream peer = coir::await(listener.accept()); });
    auto reader = coir::spawn([&] { static_cast<void>(coir::await(pair.stream.chunks().next())); });
    support::until([&] { return support::waiting(acceptor) && support::waiting(reader); });
    support::let_turns_pass();
    CHECK(coir::loop::current()->can_wake());
    acceptor.cancel();
    reader.cancel();
    support::until([&] { return support::dead(acceptor) && support::dead(reader); });
    client = support::raw_client(listener.local_address());
    support::send_raw(pair.peer, "queued");
    support::let_turns_pass();
  }
};

}  // namespace

TEST_CASE("a listener and a receive loop that nobody waits on do not keep a loop running") {
  support::leaves_no_descriptor([] {
    coir::loop loop;
    std::optional<busy_pair> busy;
    {
      coir::scheduler fibers(loop);
      fibers.spawn([&] { busy.emplace(); });
      loop.run();
      CHECK(busy.has_value());
      CHECK(!loop.can_wake());
      // What arrived is still there for whoever asks.
      auto later = fibers.spawn([&] {
        CHECK(coir::await(busy->listener.accept()));
        CHECK(support::read_text(support::on_stack(), busy->pair.stream) == "queued");
      });
      loop.run();
      CHECK(support::dead(later));
    }
    busy.reset();
  });
}

TEST_CASE("a read that is awaited again is the same read, until its stream has ended") {
  support::on_both_surfaces([](auto wait) {
    support::stream_pair ends = support::connected();
    std::array<std::byte, 8> into{};
    auto read = ends.near.read_some(into);
    std::vector<std::size_t> got;
    std::string refused;
    auto reader = coir::spawn([&] {
      got.push_back(wait(support::again(read)));
      got.push_back(wait(support::again(read)));
      CHECK_THROWS_AS(wait(support::again(read)), std::system_error);
      try {
        wait(support::again(read));
      } catch (const std::logic_error& error) {
        refused = error.what();
      }
    });
    for (const std::size_t count : {std::size_t{1}, std::size_t{2}}) {
      support::until([&] { return support::waiting(reader); });
      wait(coir::io::write_all(ends.far, std::string_view("abc").substr(0, count)));
      support::until([&] { return got.size() == count; });
    }
    support::until([&] { return support::waiting(reader); });
    { const tcp_stream moved = std::move(ends.near); }
    support::until([&] { return support::dead(reader); });
    CHECK(got == std::vector<std::size_t>{1, 2});
    CHECK(refused.find("ended") != std::string::npos);
  });
}

TEST_CASE("fibers that wait for a peer are no deadlock") {
  support::on_both_surfaces([](auto wait) {
    tcp_listener listener(loopback);
    auto ends = support::connected();
    auto acceptor = coir::spawn([&] { const tcp_stream peer = wait(listener.accept()); });
    auto reader = coir::spawn([&] { static_cast<void>(wait(ends.near.chunks().next())); });
    support::until([&] { return support::waiting(acceptor) && support::waiting(reader); });
    CHECK(coir::loop::current()->can_wake());
    acceptor.cancel();
    reader.cancel();
  });
}

TEST_CASE("a deadlock beside idle listeners and receive loops is still found") {
  CHECK_THROWS_AS(coir::run([] {
                    const busy_pair busy;
                    coir::await(coir::sleep_until(coir::never));
                  }),
                  coir::deadlock);
}

TEST_CASE("a forked child lets go of its parent's streams without touching them") {
  support::leaves_no_descriptor([] {
    coir::run([] {
      std::optional<busy_pair> busy(std::in_place);
      std::optional<support::stream_pair> plain(support::connected());
      auto reader = coir::spawn([&] { return support::read_text(support::on_stack(), plain->near); });
      support::until([&] { return support::waiting(reader); });
      support::let_turns_pass();
      const pid_t child = ::fork();
      REQUIRE(child >= 0);
      if (child == 0) {
        busy.reset();
        plain.reset();
        ::_exit(0);
      }
      int status = -1;
      REQUIRE(::waitpid(child, &status, 0) == child);
      CHECK(status == 0);

      coir::await(coir::io::write_all(plain->far, "still"));
      CHECK(coir::await(reader.take()) == "still");
      CHECK(coir::await(busy->listener.accept()));
      CHECK(support::read_text(support::on_stack(), busy->pair.stream) == "queued");
    });
  });
}
