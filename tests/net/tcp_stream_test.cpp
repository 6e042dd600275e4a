// The ends of a stream: orderly, half, and sudden.
#include <coir/coir.hpp>

#include "net/peers.hpp"

#include "fiber/until.hpp"
#include "support/both.hpp"
#include "support/catch.hpp"
#include "support/loop_tools.hpp"

#include <linux/filter.h>
#include <netinet/tcp.h>
#include <poll.h>

#include <csignal>
#include <string>

using coir::net::direction;
using coir::net::tcp_stream;

TEST_CASE("the end of a stream is 0 bytes, as often as it is asked for") {
  support::leaves_no_descriptor([] {
    support::on_both_surfaces([](auto wait) {
      auto ends = support::connected_to_raw();
      auto& stream = ends.stream;
      auto& peer = ends.peer;
      support::send_raw(peer, "last words");
      peer.reset();
      CHECK(support::read_text(wait, stream) == "last words");
      CHECK(support::read_text(wait, stream).empty());
      CHECK(support::read_text(wait, stream).empty());
    });
  });
}

TEST_CASE("an empty buffer is read into and written from at once") {
  support::on_both_surfaces([](auto wait) {
    auto ends = support::connected();
    auto& near = ends.near;
    auto& far = ends.far;
    CHECK(wait(near.read_some({})) == 0);
    CHECK(wait(near.write_some({})) == 0);
    wait(coir::io::write_all(far, "x"));
    CHECK(wait(near.read_some({})) == 0);
    CHECK(wait(coir::as_result(near.read_some({}))).value() == 0);
    // With a writer that waits for room, too.
    const std::string much(64 << 20, 'x');
    auto writer = coir::spawn([&] { coir::await(coir::io::write_all(near, much)); }, coir::report_failure);
    support::until([&] { return support::waiting(writer); });
    support::let_turns_pass();
    CHECK(wait(near.write_some({})) == 0);
    writer.cancel();
    coir::await(coir::end_op(writer));
    CHECK(support::read_text(wait, near) == "x");
    // In chunk mode too.
    static_cast<void>(near.chunks());
    CHECK(wait(near.read_some({})) == 0);
  });
}

TEST_CASE("a stream that was shut down for sending still receives") {
  support::on_both_surfaces([](auto wait) {
    auto ends = support::connected();
    auto& near = ends.near;
    auto& far = ends.far;
    wait(coir::io::write_all(near, "question"));
    near.shutdown(direction::send);
    CHECK(support::read_text(wait, far) == "question");
    CHECK(support::read_text(wait, far).empty());
    wait(coir::io::write_all(far, "answer"));
    CHECK(support::read_text(wait, near) == "answer");
    CHECK(support::error_of([&] { wait(near.write_some(support::bytes_of("more"))); }) ==
          std::errc::broken_pipe);
    far.shutdown(direction::both);
    CHECK(support::read_text(wait, near).empty());
    // Both ends have said good-bye already.
    near.shutdown(direction::both);
  });
}

TEST_CASE("shutting down for receiving ends the wait of the reader") {
  support::on_both_surfaces([](auto wait) {
    for (const direction which : {direction::receive, direction::both}) {
      auto ends = support::connected();
      std::string got = "nothing yet";
      auto reader = coir::spawn([&] { got = support::read_text(wait, ends.near); });
      support::until([&] { return support::waiting(reader); });
      support::let_turns_pass();
      ends.near.shutdown(which);
      coir::await(reader.join());
      CHECK(got.empty());
    }
  });
}

TEST_CASE("a reset is connection_reset: for a reader that waits, and for one that comes later") {
  support::leaves_no_descriptor([] {
    support::on_both_surfaces([](auto wait) {
      auto waits = support::connected_to_raw();
      std::error_code code;
      auto reader = coir::spawn(
          [&] { code = support::error_of([&] { support::read_text(wait, waits.stream); }); });
      support::until([&] { return support::waiting(reader); });
      support::let_turns_pass();
      support::reset(waits.peer);
      coir::await(reader.join());
      CHECK(code == std::errc::connection_reset);

      auto later = support::connected_to_raw();
      support::reset(later.peer);
      CHECK(support::error_of([&] { support::read_text(wait, later.stream); }) ==
            std::errc::connection_reset);
    });
  });
}

TEST_CASE("a reset is connection_reset for a reader, whoever else waited before, or asks before") {
  support::leaves_no_descriptor([] {
    support::on_both_surfaces([](auto wait) {
      for (const bool waits : {true, false}) {
        INFO((waits ? "a writer that waits" : "a writer that comes"));
        auto ends = support::connected_to_raw();
        const std::string much(waits ? 64 << 20 : 1, 'x');
        const auto write = [&] {
          static_cast<void>(support::error_of([&] { wait(coir::io::write_all(ends.stream, much)); }));
        };
        coir::fiber<void> writer;
        if (waits) {
          writer = coir::spawn(write);
          support::until([&] { return support::waiting(writer); });
          support::let_turns_pass();
        }
        std::error_code code;
        auto reader = coir::spawn(
            [&] { code = support::error_of([&] { support::read_text(wait, ends.stream); }); });
        support::until([&] { return support::waiting(reader); });
        support::let_turns_pass();
        support::reset(ends.peer);
        if (!waits) write();
        coir::await(reader.join());
        CHECK(code == std::errc::connection_reset);
        if (waits) coir::await(writer.join());
        CHECK(support::error_of([&] { support::read_text(wait, ends.stream); }) == std::errc::connection_reset);
      }
    });
  });
}

TEST_CASE("a write to a peer that has gone fails, and raises no SIGPIPE") {
  // The loop blocks it in its thread; here it would end the program.
  std::signal(SIGPIPE, SIG_DFL);
  support::leaves_no_descriptor([] {
    support::on_both_surfaces([](auto wait) {
      sigset_t pipe_only;
      sigemptyset(&pipe_only);
      sigaddset(&pipe_only, SIGPIPE);
      sigset_t before;
      REQUIRE(::pthread_sigmask(SIG_UNBLOCK, &pipe_only, &before) == 0);
      for (const bool by_reset : {false, true}) {
        auto ends = support::connected_to_raw();
        auto& stream = ends.stream;
        auto& peer = ends.peer;
        if (by_reset) support::reset(peer);
        else peer.reset();
        // The first one may still be taken by the kernel, and be answered with a reset.
        std::error_code code;
        for (int i = 0; i < 10 && !code; ++i) {
          code = support::error_of([&] { wait(coir::io::write_all(stream, "hello?")); });
          if (!code) support::let_turns_pass(1);
        }
        CHECK((code == std::errc::broken_pipe || code == std::errc::connection_reset));
        CHECK(support::error_of([&] { wait(stream.write_some(support::bytes_of("x"))); }) ==
              std::errc::broken_pipe);
      }
      REQUIRE(::pthread_sigmask(SIG_SETMASK, &before, nullptr) == 0);
    });
  });
}

TEST_CASE("an error says what was done on which descriptor") {
  support::on_both_surfaces([](auto wait) {
    std::array<std::byte, 8> into{};
    const auto text_after_reset = [&](auto&& what) {
      auto ends = support::connected_to_raw();
      support::reset(ends.peer);
      // The first send after it may still go out, and learns nothing.
      for (int i = 0; i < 1000; ++i) {
        try {
          what(ends.stream);
        } catch (const std::system_error& error) {
          const std::string number = std::to_string(ends.stream.fd());
          return std::string(error.what()) + (std::string(error.what()).find("descriptor " + number) == std::string::npos
                                                  ? ", and not of " + number
                                                  : ": of it");
        }
      }
      return std::string("none");
    };
    const auto names_it = Catch::Matchers::EndsWith(": of it");
    CHECK_THAT(text_after_reset([&](tcp_stream& of) { wait(of.read_some(into)); }), names_it);
    CHECK_THAT(text_after_reset([&](tcp_stream& of) { wait(of.chunks().next()); }), names_it);
    CHECK_THAT(text_after_reset([&](tcp_stream& of) {
                 static_cast<void>(of.chunks());
                 wait(of.read_some(into));
               }),
               names_it);
    CHECK_THAT(text_after_reset([&](tcp_stream& of) { wait(coir::io::read_exactly(of, into)); }), names_it);
    CHECK_THAT(text_after_reset([&](tcp_stream& of) { wait(coir::io::write_all(of, "abc")); }), names_it);
    CHECK_THAT(text_after_reset([&](tcp_stream& of) {
                 coir::io::buffered_reader reader(of);
                 wait(reader.read_line());
               }),
               names_it);
  });
}

TEST_CASE("a writer that waits hears of the reset") {
  support::leaves_no_descriptor([] {
    support::on_both_surfaces([](auto wait) {
      auto ends = support::connected_to_raw();
      const std::string much(64 << 20, 'x');
      std::size_t moved = 0;
      std::error_code code;
      auto writer = coir::spawn([&] {
        try {
          wait(coir::io::write_all(ends.stream, much));
        } catch (const coir::io::partial_error& error) {
          code = error.code();
          moved = error.transferred();
        }
      });
      support::until([&] { return support::waiting(writer); });
      support::let_turns_pass();
      support::reset(ends.peer);
      coir::await(writer.join());
      CHECK((code == std::errc::connection_reset || code == std::errc::broken_pipe));
      CHECK(moved < much.size());
    });
  });
}

TEST_CASE("a second reader is refused, and the first goes on") {
  support::on_both_surfaces([](auto wait) {
    auto ends = support::connected();
    for (const bool chunks : {false, true}) {
      if (chunks) static_cast<void>(ends.near.chunks());
      std::string got;
      auto first = coir::spawn([&] { got = support::read_text(wait, ends.near); });
      support::until([&] { return support::waiting(first); });
      CHECK_THROWS_AS(support::read_text(wait, ends.near), std::logic_error);
      if (!chunks) CHECK_THROWS_AS(ends.near.chunks(), std::logic_error);
      else CHECK_THROWS_AS(wait(ends.near.chunks().next()), std::logic_error);
      wait(coir::io::write_all(ends.far, "for the first"));
      coir::await(first.join());
      CHECK(got == "for the first");
      // And now another may.
      wait(coir::io::write_all(ends.far, "for the second"));
      CHECK(support::read_text(wait, ends.near) == "for the second");
    }
  });
}

TEST_CASE("a reader that is cancelled makes way for the next, and takes no bytes with it") {
  support::on_both_surfaces([](auto wait) {
    auto ends = support::connected();
    for (const bool chunks : {false, true}) {
      if (chunks) static_cast<void>(ends.near.chunks());
      for (unsigned turns = 0; turns < 3; ++turns) {
        std::string got;
        auto first = coir::spawn([&] { got = support::read_text(wait, ends.near); });
        support::until([&] { return support::waiting(first); });
        support::let_turns_pass(turns);
        // Sent and cancelled in the same turn: the bytes are the first reader's, or the next one's.
        wait(coir::io::write_all(ends.far, "precious"));
        first.cancel();
        support::until([&] { return support::dead(first); });
        if (got.empty()) got = support::read_text(wait, ends.near);
        CHECK(got == "precious");
      }
    }
  });
}

TEST_CASE("a stream may be read and written at the same time") {
  support::on_both_surfaces([](auto wait) {
    auto ends = support::connected();
    const std::string text(1 << 20, 'x');
    const auto send = [&](tcp_stream& to) { return [&] { wait(coir::io::write_all(to, text)); }; };
    const auto receive = [&](tcp_stream& from) {
      return [&] {
        std::string got(text.size(), '-');
        wait(coir::io::read_exactly(from, std::as_writable_bytes(std::span(got))));
        CHECK(got == text);
      };
    };
    std::vector<coir::fiber<void>> four;
    four.push_back(coir::spawn(send(ends.near)));
    four.push_back(coir::spawn(send(ends.far)));
    four.push_back(coir::spawn(receive(ends.near)));
    four.push_back(coir::spawn(receive(ends.far)));
    for (auto& each : four) coir::await(each.join());
  });
}

TEST_CASE("urgent data does not hold up what comes behind it") {
  support::on_both_surfaces([](auto wait) {
    auto ends = support::connected_to_raw();
    auto& stream = ends.stream;
    auto& peer = ends.peer;
    // The stream has been read once, so that all edges are seen.
    support::send_raw(peer, "0");
    CHECK(support::read_text(wait, stream) == "0");
    auto reader = coir::spawn([&] { return support::read_text(wait, stream); });
    support::until([&] { return support::waiting(reader); });
    support::let_turns_pass();
    support::send_raw(peer, "before");
    REQUIRE(::send(peer.get(), "!", 1, MSG_OOB | MSG_NOSIGNAL) == 1);
    support::send_raw(peer, "behind");
    std::string got = coir::await(reader.take());
    while (got.size() < 12) got += support::read_text(wait, stream);
    CHECK(got == "beforebehind");
  });
}

TEST_CASE("a connection whose peer has vanished is timed_out, for all who ask") {
  support::leaves_no_descriptor([] {
    support::on_both_surfaces([](auto wait) {
      for (const bool in_chunks : {false, true}) {
        auto ends = support::connected_to_raw();
        // The peer hears nothing, and answers nothing.
        sock_filter drop{BPF_RET | BPF_K, 0, 0, 0};
        const sock_fprog all{1, &drop};
        REQUIRE(::setsockopt(ends.peer.get(), SOL_SOCKET, SO_ATTACH_FILTER, &all, sizeof all) == 0);
        const int milliseconds = 50;
        const int fd = ends.stream.fd();
        REQUIRE(::setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &milliseconds, sizeof milliseconds) == 0);
        wait(coir::io::write_all(ends.stream, "x"));
        pollfd over{fd, 0, 0};
        REQUIRE(::poll(&over, 1, 30'000) == 1);
        const auto text = support::bytes_of("y");
        CHECK(support::error_of([&] { wait(ends.stream.write_some(text)); }) == std::errc::timed_out);
        CHECK(support::error_of([&] {
                if (in_chunks) wait(ends.stream.chunks().next());
                else support::read_text(wait, ends.stream);
              }) == std::errc::timed_out);
      }
    });
  });
}
