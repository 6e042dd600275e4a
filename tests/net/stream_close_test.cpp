// Closing a stream: by whom, under whom, and what is left.
#include <coir/coir.hpp>

#include "net/peers.hpp"

#include "fiber/until.hpp"
#include "support/both.hpp"
#include "support/catch.hpp"
#include "support/loop_tools.hpp"

#include <poll.h>
#include <unistd.h>

#include <array>
#include <memory>
#include <optional>
#include <string>
#include <thread>

using coir::net::tcp_stream;
using support::connected;

namespace {

enum class way { destroyed, closed, assigned };
constexpr way ways[] = {way::destroyed, way::closed, way::assigned};

template <class Wait>
void end(Wait wait, std::optional<tcp_stream>& stream, way how) {
  switch (how) {
    case way::destroyed: stream.reset(); break;
    case way::closed: wait(stream->close()); break;
    case way::assigned: *stream = connected().near; break;
  }
}

}  // namespace

TEST_CASE("a reader that waits on a stream that ends gets bad_file_descriptor") {
  support::leaves_no_descriptor([] {
    support::on_both_surfaces([](auto wait) {
      for (const way how : ways) {
        for (const bool chunks : {false, true}) {
          auto ends = connected();
          std::optional<tcp_stream> stream(std::move(ends.near));
          if (chunks) static_cast<void>(stream->chunks());
          std::error_code code;
          auto reader = coir::spawn(
              [&] { code = support::error_of([&] { support::read_text(wait, *stream); }); });
          support::until([&] { return support::waiting(reader); });
          support::let_turns_pass();
          end(wait, stream, how);
          coir::await(reader.join());
          CHECK(code == std::errc::bad_file_descriptor);
          // The connection is at its end for the peer, too.
          CHECK(support::read_text(wait, ends.far).empty());
        }
      }
    });
  });
}

TEST_CASE("a writer that waits on a stream that ends gets bad_file_descriptor, and what had moved") {
  support::leaves_no_descriptor([] {
    support::on_both_surfaces([](auto wait) {
      for (const way how : ways) {
        auto ends = connected();
        std::optional<tcp_stream> stream(std::move(ends.near));
        const std::string much(64 << 20, 'x');
        std::error_code code;
        std::size_t moved = 0;
        auto writer = coir::spawn([&] {
          try {
            wait(coir::io::write_all(*stream, much));
          } catch (const coir::io::partial_error& error) {
            code = error.code();
            moved = error.transferred();
          }
        });
        support::until([&] { return support::waiting(writer); });
        support::let_turns_pass();
        end(wait, stream, how);
        coir::await(writer.join());
        CHECK(code == std::errc::bad_file_descriptor);
        std::size_t arrived = 0;
        std::string block(1 << 20, '\0');
        while (const std::size_t n = wait(ends.far.read_some(std::as_writable_bytes(std::span(block)))))
          arrived += n;
        CHECK(arrived == moved);
      }
    });
  });
}

TEST_CASE("a stream that is closed in the turn in which a step of several began is not asked for another") {
  support::leaves_no_descriptor([] {
    support::on_both_surfaces([](auto wait) {
      enum class work { read, read_buffered, write };
      for (const work what : {work::read, work::read_buffered, work::write}) {
        for (const way how : ways) {
          auto ends = connected();
          auto stream = std::make_unique<std::optional<tcp_stream>>(std::move(ends.near));
          coir::io::buffered_reader reader(**stream, 8);
          const std::string much(8 << 20, 'x');
          std::array<std::byte, 100> buffer;
          if (what != work::write) wait(coir::io::write_all(ends.far, "hello"));
          std::error_code code;
          std::size_t moved = 0;
          auto worker = coir::spawn([&] {
            try {
              switch (what) {
                case work::read: wait(coir::io::read_exactly(**stream, buffer)); break;
                case work::read_buffered: wait(coir::io::read_exactly(reader, buffer)); break;
                case work::write: wait(coir::io::write_all(**stream, much)); break;
              }
            } catch (const coir::io::partial_error& error) {
              code = error.code();
              moved = error.transferred();
            }
          });
          coir::await(coir::yield());
          end(wait, *stream, how);
          if (how == way::destroyed) stream.reset();
          coir::await(worker.join());
          CHECK(code == std::errc::bad_file_descriptor);
          CHECK(moved < (what == work::write ? much.size() : buffer.size()));
        }
      }
    });
  });
}

TEST_CASE("a read that is over when the stream ends keeps its bytes") {
  support::on_both_surfaces([](auto wait) {
    for (const way how : ways) {
      for (const bool chunks : {false, true}) {
        auto ends = connected();
        std::optional<tcp_stream> stream(std::move(ends.near));
        if (chunks) static_cast<void>(stream->chunks());
        std::string got;
        // Runs in the same turn as the reader, and before it: it was spawned to wait for the same event.
        auto reader = coir::spawn([&] { got = support::read_text(wait, *stream); });
        support::until([&] { return support::waiting(reader); });
        support::let_turns_pass();
        wait(coir::io::write_all(ends.far, "in time"));
        support::until([&] { return !support::waiting(reader); });
        end(wait, stream, how);
        coir::await(reader.join());
        CHECK(got == "in time");
      }
    }
  });
}

TEST_CASE("a closed stream is empty, and closing it again does nothing") {
  support::leaves_no_descriptor([] {
    support::on_both_surfaces([](auto wait) {
      auto ends = connected();
      auto& near = ends.near;
      auto& far = ends.far;
      CHECK(near);
      wait(near.close());
      CHECK(!near);
      CHECK(near.fd() == -1);
      wait(near.close());
      CHECK(wait(coir::as_result(near.close())).has_value());
      CHECK(support::error_of([&] { support::read_text(wait, near); }) ==
            std::errc::bad_file_descriptor);
      CHECK(support::error_of([&] { wait(near.write_some(support::bytes_of("x"))); }) ==
            std::errc::bad_file_descriptor);
      CHECK(support::error_of([&] { wait(near.chunks().next()); }) ==
            std::errc::bad_file_descriptor);
      CHECK_THROWS_AS(near.shutdown(coir::net::direction::both), std::system_error);
      CHECK_THROWS_AS(near.peer_address(), std::system_error);
      CHECK(support::read_text(wait, far).empty());
    });
  });
}

TEST_CASE("a receive loop whose stream was closed hears of it") {
  support::on_both_surfaces([](auto wait) {
    auto ends = connected();
    auto& near = ends.near;
    auto& far = ends.far;
    auto chunks = near.chunks();
    wait(coir::io::write_all(far, "never read"));
    support::let_turns_pass();
    wait(near.close());
    CHECK(support::error_of([&] { wait(chunks.next()); }) == std::errc::bad_file_descriptor);
    CHECK(coir::loop::current()->chunks().free() == coir::loop::current()->chunks().count());
  });
}

TEST_CASE("a close that is cancelled before it begins closes all the same") {
  support::leaves_no_descriptor([] {
    support::on_both_surfaces([](auto wait) {
      auto ends = connected();
      bool went_on = false;
      auto closer = coir::spawn([&] {
        coir::running_fiber().cancel();
        wait(ends.near.close());
        went_on = true;
      });
      coir::await(coir::end_op(closer));
      CHECK(!went_on);
      CHECK(!ends.near);
      CHECK(support::read_text(wait, ends.far).empty());
      // One that is dropped.
      { auto dropped = ends.far.close(); }
      CHECK(!ends.far);
    });
  });
}

TEST_CASE("a close that is cancelled while it waits is through when it returns") {
  support::leaves_no_descriptor([] {
    support::on_both_surfaces([](auto wait) {
      auto ends = connected();
      std::error_code code;
      auto reader = coir::spawn(
          [&] { code = support::error_of([&] { support::read_text(wait, ends.near); }); });
      support::until([&] { return support::waiting(reader); });
      support::let_turns_pass();
      const int fd = ends.near.fd();
      bool closed = false;
      auto closer = coir::spawn([&] {
        wait(ends.near.close());
        closed = true;
      });
      coir::await(coir::yield());
      closer.cancel();
      coir::await(coir::end_op(closer));
      CHECK(closed);
      CHECK(::fcntl(fd, F_GETFD) == -1);
      coir::await(reader.join());
      CHECK(code == std::errc::bad_file_descriptor);
    });
  });
}

TEST_CASE("a number that is used again never sees what belonged to its former owner") {
  support::leaves_no_descriptor([] {
    support::on_both_surfaces([](auto wait) {
      for (int round = 0; round < 100; ++round) {
        auto ends = connected();
        std::optional<tcp_stream> stream(std::move(ends.near));
        if (round % 2 == 0) static_cast<void>(stream->chunks());
        auto reader = coir::spawn(
            [&] { support::error_of([&] { support::read_text(wait, *stream); }); });
        support::until([&] { return support::waiting(reader); });
        const int fd = stream->fd();
        wait(coir::io::write_all(ends.far, "old"));
        stream.reset();
        support::until([&] { return support::dead(reader); });
        auto fresh = connected();
        // The kernel gives the lowest number that is free.
        CHECK((fresh.near.fd() == fd || fresh.far.fd() == fd || fd > fresh.far.fd() ||
               fd > fresh.near.fd()));
        wait(coir::io::write_all(fresh.far, "new"));
        CHECK(support::read_text(wait, fresh.near) == "new");
      }
    });
  });
}

TEST_CASE("a stream may be moved, also while fibers read and write") {
  support::leaves_no_descriptor([] {
    support::on_both_surfaces([](auto wait) {
      for (const bool chunks : {false, true}) {
        auto ends = connected();
        std::optional<tcp_stream> first(std::move(ends.near));
        if (chunks) static_cast<void>(first->chunks());
        std::string got;
        auto reader = coir::spawn([&] { got = support::read_text(wait, *first); });
        support::until([&] { return support::waiting(reader); });
        tcp_stream second(std::move(*first));
        first.reset();
        // It still has its reader.
        if (!chunks) CHECK_THROWS_AS(support::read_text(wait, second), std::logic_error);
        wait(coir::io::write_all(ends.far, "one"));
        coir::await(reader.join());
        CHECK(got == "one");
        wait(coir::io::write_all(ends.far, "two"));
        CHECK(support::read_text(wait, second) == "two");
      }
    });
  });
}

TEST_CASE("a stream may end outside of its loop's run, after its loop, and on another thread") {
  support::leaves_no_descriptor([] {
    for (const bool chunks : {false, true}) {
      std::optional<tcp_stream> after_the_loop;
      {
        coir::loop loop;
        coir::scheduler fibers(loop);
        std::optional<support::stream_pair> outside;
        std::optional<support::stream_pair> elsewhere;
        bool ready = false;
        auto maker = fibers.spawn([&] {
          const auto make = [&] {
            auto ends = connected();
            if (chunks) {
              // A request is in flight, and a chunk in the queue.
              auto reader = ends.near.chunks();
              coir::await(coir::io::write_all(ends.far, "1"));
              static_cast<void>(coir::await(reader.next()));
              coir::await(coir::io::write_all(ends.far, "2"));
              support::let_turns_pass();
            }
            return ends;
          };
          outside.emplace(make());
          elsewhere.emplace(make());
          after_the_loop.emplace(make().near);
          ready = true;
        });
        support::run_until(loop, [&] { return ready; });
        outside.reset();
        std::thread([&] { elsewhere.reset(); }).join();
        support::idle_turns(loop);
        // What was posted is done: only the loop's own descriptors and one stream are open.
        CHECK(loop.in_flight() <= 1);
      }
      after_the_loop.reset();
    }
  });
}

TEST_CASE("a stream of another thread's loop that ends with it is closed") {
  support::leaves_no_descriptor([] {
    std::optional<support::stream_pair> ends;
    {
      coir::loop loop;
      coir::scheduler fibers(loop);
      auto maker = fibers.spawn([&] { ends.emplace(connected()); });
      support::run_until(loop, [&] { return support::dead(maker); });
      // Posted to a loop that never runs again.
      std::thread([&] { ends.reset(); }).join();
    }
  });
}

TEST_CASE("a close that begins in the middle of its loop's end is refused, and closes all the same") {
  support::leaves_no_descriptor([] {
    const auto pipe = support::pipe_pair();
    auto sockets = support::socket_pair();
    auto loop = std::make_unique<coir::loop>();
    std::optional<tcp_stream> stream(std::in_place, *loop, sockets[0].release());
    support::asked told_at_the_end(coir::request::poll(pipe[0].get(), POLLIN));
    REQUIRE(loop->start(told_at_the_end.request));
    support::asked never_told(coir::request::poll(pipe[0].get(), POLLIN));
    bool waits = true;
    std::error_code code;
    told_at_the_end.seen.then = [&](coir::request&) {
      auto closing = stream->close();
      waits = closing.start(never_told.seen);
      code = closing.take_result().error();
    };
    loop.reset();
    CHECK_FALSE(waits);
    CHECK(code == std::errc::operation_canceled);
    CHECK(never_told.seen.count() == 0);
    char none = 0;
    CHECK(::read(sockets[1].get(), &none, 1) == 0);
  });
}

TEST_CASE("a released socket is somebody else's to close, and works for a stream on another loop") {
  support::leaves_no_descriptor([] {
    support::on_both_surfaces([](auto wait) {
      auto ends = connected();
      wait(coir::io::write_all(ends.near, "before"));
      CHECK(support::read_text(wait, ends.far) == "before");
      const int number = ends.near.fd();
      // What has come and nobody has read goes along.
      wait(coir::io::write_all(ends.far, "for the next"));
      coir::unique_fd socket(ends.near.release());
      CHECK(socket.get() == number);
      CHECK(!ends.near);
      CHECK(ends.near.fd() == -1);
      wait(ends.near.close());
      support::let_turns_pass();

      std::string got;
      std::thread([&] {
        coir::run([&] {
          tcp_stream stream(*coir::loop::current(), socket.release());
          CHECK(stream.fd() == number);
          got = support::read_text(support::on_stack(), stream);
          coir::await(coir::io::write_all(stream, "from elsewhere"));
        });
      }).join();
      CHECK(got == "for the next");
      CHECK(support::read_text(wait, ends.far) == "from elsewhere");
      CHECK(support::read_text(wait, ends.far).empty());
    });
  });
}

TEST_CASE("a socket that was released and taken again is a stream like any other") {
  support::leaves_no_descriptor([] {
    support::on_both_surfaces([](auto wait) {
      auto ends = connected();
      // What its first life left is nothing to the second: edges, and a reader that was cancelled.
      auto reader = coir::spawn([&] { support::read_text(wait, ends.near); });
      support::until([&] { return support::waiting(reader); });
      support::let_turns_pass();
      reader.cancel();
      support::until([&] { return support::dead(reader); });
      for (int i = 0; i < 3; ++i) {
        ends.near = tcp_stream(*coir::loop::current(), ends.near.release());
        wait(coir::io::write_all(ends.far, "again"));
        CHECK(support::read_text(wait, ends.near) == "again");
        auto far_reader = coir::spawn([&] { return support::read_text(wait, ends.far); });
        support::until([&] { return support::waiting(far_reader); });
        wait(coir::io::write_all(ends.near, "and back"));
        CHECK(wait(far_reader.take()) == "and back");
      }
    });
  });
}

TEST_CASE("a stream that somebody reads, or reads in chunks, is not released, and stays as it was") {
  support::leaves_no_descriptor([] {
    support::on_both_surfaces([](auto wait) {
      auto ends = connected();
      auto reader = coir::spawn([&] { return support::read_text(wait, ends.near); });
      support::until([&] { return support::waiting(reader); });
      CHECK_THROWS_WITH(ends.near.release(), Catch::Matchers::Contains("while somebody reads"));
      CHECK(ends.near);
      wait(coir::io::write_all(ends.far, "still"));
      CHECK(wait(reader.take()) == "still");

      static_cast<void>(ends.near.chunks());
      CHECK_THROWS_WITH(ends.near.release(), Catch::Matchers::Contains("chunks()"));
      wait(coir::io::write_all(ends.far, "here"));
      CHECK(support::read_text(wait, ends.near) == "here");
    });
  });
}

TEST_CASE("an empty stream has no socket to release") {
  coir::run([] {
    auto ends = connected();
    const tcp_stream taken = std::move(ends.near);
    CHECK(ends.near.release() == -1);
    coir::await(ends.far.close());
    CHECK(ends.far.release() == -1);
  });
}
