// The receive loop: bytes in the loop's memory, as they arrive.
#include <coir/coir.hpp>

#include "net/peers.hpp"

#include "fiber/until.hpp"
#include "support/both.hpp"
#include "support/catch.hpp"
#include "support/loop_tools.hpp"

#include <optional>
#include <random>
#include <string>
#include <vector>

using namespace std::chrono_literals;
using coir::net::tcp_stream;
using support::text_of;

namespace {

coir::chunk_pool& pool() { return coir::loop::current()->chunks(); }

// All there is, as text.
template <class Wait>
std::string all_chunks(Wait wait, tcp_stream& from) {
  std::string text;
  auto chunks = from.chunks();
  while (auto chunk = wait(chunks.next())) text += text_of(chunk->bytes());
  return text;
}

}  // namespace

TEST_CASE("chunks have what was sent, whole and in order, whatever the sizes") {
  support::leaves_no_descriptor([] {
    support::on_both_surfaces([](auto wait) {
      std::mt19937 random(11);
      for (int round = 0; round < 20; ++round) {
        auto ends = support::connected();
        std::string sent;
        auto sender = coir::spawn([&] {
          for (int i = 0; i < 30; ++i) {
            const std::size_t size = 1 + random() % (i % 3 == 0 ? 30'000 : 50);
            std::string text(size, static_cast<char>('a' + i % 26));
            text.back() = static_cast<char>(random());
            sent += text;
            wait(coir::io::write_all(ends.near, text));
            if (random() % 2 == 0) support::let_turns_pass(1);
          }
          ends.near.shutdown(coir::net::direction::send);
        });
        CHECK(all_chunks(wait, ends.far) == sent);
        coir::await(sender.join());
        CHECK(pool().free() == pool().count());
      }
    });
  });
}

TEST_CASE("a chunk is never empty, and the end of the stream is no chunk, again and again") {
  support::on_both_surfaces([](auto wait) {
    auto ends = support::connected_to_raw();
    auto& stream = ends.stream;
    auto& peer = ends.peer;
    auto chunks = stream.chunks();
    support::send_raw(peer, "x");
    const auto first = wait(chunks.next());
    REQUIRE(first.has_value());
    CHECK(text_of(first->bytes()) == "x");
    CHECK(first->pooled());
    peer.reset();
    CHECK(!wait(chunks.next()).has_value());
    CHECK(!wait(chunks.next()).has_value());
    CHECK(!wait(coir::as_result(stream.chunks().next())).value().has_value());
    CHECK(support::read_text(wait, stream).empty());
  });
}

TEST_CASE("the op of a chunk gives the next one each time that it is awaited, also after it was given up") {
  support::on_both_surfaces([](auto wait) {
    auto ends = support::connected_to_raw();
    auto chunks = ends.stream.chunks();
    auto next = chunks.next();
    support::send_raw(ends.peer, "one");
    CHECK(text_of(wait(support::again(next))->bytes()) == "one");
    CHECK(!coir::move_on_after(1ms, [&] { wait(support::again(next)); }));
    support::send_raw(ends.peer, "two");
    CHECK(text_of(wait(support::again(next))->bytes()) == "two");
    ends.peer.reset();
    CHECK(!wait(support::again(next)).has_value());
    CHECK(!wait(support::again(next)).has_value());
    CHECK(pool().free() == pool().count());
  });
}

TEST_CASE("a reset comes behind what arrived before it, and stays") {
  support::on_both_surfaces([](auto wait) {
    auto ends = support::connected_to_raw();
    auto& stream = ends.stream;
    auto& peer = ends.peer;
    auto chunks = stream.chunks();
    support::send_raw(peer, "1");
    CHECK(text_of(wait(chunks.next())->bytes()) == "1");
    support::send_raw(peer, "2");
    support::let_turns_pass();
    support::reset(peer);
    support::let_turns_pass();
    // Whether "2" was still there when the reset came is the kernel's business.
    std::string got;
    const auto code = support::error_of([&] {
      while (auto chunk = wait(chunks.next())) got += text_of(chunk->bytes());
    });
    CHECK(code == std::errc::connection_reset);
    CHECK((got.empty() || got == "2"));
    CHECK(wait(coir::as_result(chunks.next())).error() == std::errc::connection_reset);
    CHECK(support::error_of([&] { support::read_text(wait, stream); }) ==
          std::errc::connection_reset);
    CHECK(pool().free() == pool().count());
  });
}

TEST_CASE("what arrived for a reader that was cancelled is kept for the next, in order") {
  support::on_both_surfaces([](auto wait) {
    auto ends = support::connected_to_raw();
    auto& stream = ends.stream;
    auto& peer = ends.peer;
    auto chunks = stream.chunks();
    std::string sent;
    std::string got;
    int cancelled = 0;
    for (int round = 0; round < 60; ++round) {
      auto reader = coir::spawn([&] {
        try {
          const auto chunk = wait(chunks.next());
          got += text_of(chunk->bytes());
        } catch (const coir::cancelled&) {
          ++cancelled;
        }
      });
      if (round % 4 != 0) support::until([&] { return !(reader.state() == coir::fiber_state::fresh); });
      support::let_turns_pass(static_cast<unsigned>(round % 3));
      sent += std::to_string(round) + ",";
      support::send_raw(peer, std::to_string(round) + ",");
      support::let_turns_pass(static_cast<unsigned>(round / 3 % 3));
      reader.cancel();
      support::until([&] { return support::dead(reader); });
      if (round % 10 == 9) {
        while (got.size() < sent.size()) got += text_of(wait(chunks.next())->bytes());
      }
    }
    CHECK(got == sent);
    // Some were in time, and some were not.
    CHECK(cancelled > 0);
    CHECK(pool().free() == pool().count());
  });
}

TEST_CASE("a chunk for which the reader was woken is delivered, and the cancellation comes after") {
  support::on_both_surfaces([](auto wait) {
    auto ends = support::connected_to_raw();
    auto& stream = ends.stream;
    auto& peer = ends.peer;
    auto chunks = stream.chunks();
    std::string got;
    bool next_cancelled = false;
    auto reader = coir::spawn([&] {
      got = text_of(wait(chunks.next())->bytes());
      try {
        static_cast<void>(wait(chunks.next()));
      } catch (const coir::cancelled&) {
        next_cancelled = true;
        throw;
      }
    });
    support::until([&] { return support::waiting(reader); });
    support::send_raw(peer, "x");
    support::until([&] { return !support::waiting(reader) || !got.empty(); });
    reader.cancel();
    support::until([&] { return support::dead(reader); });
    CHECK(got == "x");
    CHECK(next_cancelled);
  });
}

TEST_CASE("read_some after chunks() takes what is queued first, in pieces and in order") {
  support::on_both_surfaces([](auto wait) {
    auto ends = support::connected_to_raw();
    auto& stream = ends.stream;
    auto& peer = ends.peer;
    auto chunks = stream.chunks();
    support::send_raw(peer, "0123456789");
    CHECK(wait(chunks.next()).has_value());
    for (const char* const text : {"abcdef", "ghijkl", "mnopqr"}) {
      support::send_raw(peer, text);
      support::let_turns_pass();
    }
    std::string got = support::read_text(wait, stream, 4);
    CHECK(got == "abcd");
    // What is left of a chunk is the next chunk.
    got += text_of(wait(chunks.next())->bytes());
    got += support::read_text(wait, stream, 1);
    std::string rest(18 - got.size(), '-');
    wait(coir::io::read_exactly(stream, std::as_writable_bytes(std::span(rest))));
    CHECK(got + rest == "abcdefghijklmnopqr");
    CHECK(pool().free() == pool().count());

    support::send_raw(peer, "line one\r\nline two\r\n");
    coir::io::buffered_reader reader(stream);
    CHECK(wait(reader.read_line()) == "line one");
    CHECK(wait(reader.read_line()) == "line two");
  });
}

TEST_CASE("chunks() again is the same receive loop") {
  support::on_both_surfaces([](auto wait) {
    auto ends = support::connected_to_raw();
    auto& stream = ends.stream;
    auto& peer = ends.peer;
    support::send_raw(peer, "12");
    static_cast<void>(stream.chunks());
    auto chunks = stream.chunks();
    const tcp_stream moved = std::move(stream);
    CHECK(text_of(wait(chunks.next())->bytes()) == "12");
  });
}

TEST_CASE("a chunk may outlive its stream and its loop") {
  std::optional<coir::chunk> pooled;
  std::optional<coir::chunk> from_heap;
  coir::run(
      [&] {
        auto ends = support::connected_to_raw();
        auto& stream = ends.stream;
        auto& peer = ends.peer;
        auto chunks = stream.chunks();
        support::send_raw(peer, "still here");
        pooled = coir::await(chunks.next());
        support::send_raw(peer, "as is this");
        from_heap = coir::await(chunks.next());
      },
      coir::run_options().loop(coir::loop_options().chunks(1)));
  CHECK(pooled->pooled());
  CHECK(!from_heap->pooled());
  CHECK(text_of(pooled->bytes()) == "still here");
  CHECK(text_of(from_heap->bytes()) == "as is this");
  pooled.reset();
}

TEST_CASE("a hundred receive loops share the pool, and each gets its own bytes") {
  support::leaves_no_descriptor([] {
    coir::run(
        [] {
          constexpr int connections = 100;
          std::vector<support::raw_pair> pairs;
          std::vector<std::string> got(connections);
          std::vector<coir::fiber<void>> readers;
          for (int i = 0; i < connections; ++i) pairs.push_back(support::connected_to_raw());
          for (std::size_t i = 0; i < connections; ++i) {
            readers.push_back(coir::spawn([&, i] {
              auto chunks = pairs[i].stream.chunks();
              while (auto chunk = coir::await(chunks.next())) {
                got[i] += text_of(chunk->bytes());
                // Held for a while: the pool runs low, and over.
                if (i % 3 == 0) support::let_turns_pass(static_cast<unsigned>(i % 7));
              }
            }));
          }
          std::string sent;
          for (int round = 0; round < 50; ++round) {
            const std::string text = std::to_string(round) + "+";
            sent += text;
            for (const auto& pair : pairs) support::send_raw(pair.peer, text);
            support::let_turns_pass(static_cast<unsigned>(round % 3));
          }
          for (auto& pair : pairs) pair.peer.reset();
          for (auto& each : readers) coir::await(each.join());
          for (const auto& text : got) CHECK(text == sent);
          CHECK(pool().free() == pool().count());
        },
        coir::run_options().loop(coir::loop_options().chunks(32).chunk_bytes(64)));
  });
}
