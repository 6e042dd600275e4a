// Every chunk goes back to its pool, and no reader hoards what others need.
#include <coir/coir.hpp>

#include "net/peers.hpp"

#include "fiber/until.hpp"
#include "support/both.hpp"
#include "support/catch.hpp"
#include "support/loop_tools.hpp"

#include <algorithm>
#include <deque>
#include <optional>
#include <string>
#include <vector>

using coir::net::tcp_stream;
using support::text_of;

namespace {

constexpr unsigned cap = 16;  // chunks that wait for one stream

coir::chunk_pool& pool() { return coir::loop::current()->chunks(); }
unsigned held() { return pool().count() - pool().free(); }

coir::run_options with_chunks(unsigned count) {
  return coir::run_options().loop(coir::loop_options().chunks(count));
}

// Sends in small pieces, each of them a chunk, until `pieces` have arrived or the cap holds them back.
void pour(const coir::unique_fd& peer, int pieces) {
  for (int i = 0; i < pieces; ++i) {
    support::send_raw(peer, "x");
    support::let_turns_pass(1);
  }
  support::let_turns_pass();
}

// A stream whose receive loop has begun, and has chunks waiting for nobody.
template <class Wait>
support::raw_pair with_queue(Wait wait, int pieces) {
  auto ends = support::connected_to_raw();
  support::send_raw(ends.peer, "begin");
  CHECK(wait(ends.stream.chunks().next()).has_value());
  pour(ends.peer, pieces);
  return ends;
}

}  // namespace

TEST_CASE("what waits for nobody goes back when the stream is destroyed, closed, reset or at its end") {
  support::leaves_no_descriptor([] {
    support::on_both_surfaces([](auto wait) {
      for (int way = 0; way < 5; ++way) {
        INFO("way " << way);
        auto ends = with_queue(wait, 5);
        // The receive loop goes on without a reader.
        CHECK(held() == 5);
        switch (way) {
          case 0: { const tcp_stream gone = std::move(ends.stream); break; }
          case 1: wait(ends.stream.close()); break;
          case 2: {
            support::reset(ends.peer);
            support::let_turns_pass();
            const tcp_stream gone = std::move(ends.stream);
            break;
          }
          case 3: {
            ends.peer.reset();
            support::let_turns_pass();
            const tcp_stream gone = std::move(ends.stream);
            break;
          }
          default: ends.stream = std::move(support::connected_to_raw().stream);
        }
        support::until([] { return held() == 0; });
      }
    });
  });
}

TEST_CASE("what is on its way when the stream ends goes back, too") {
  support::leaves_no_descriptor([] {
    support::on_both_surfaces([](auto wait) {
      for (unsigned turns = 0; turns < 20; ++turns) {
        auto ends = with_queue(wait, static_cast<int>(turns % 4));
        support::send_raw(ends.peer, "on its way");
        if (turns % 3 != 0) support::let_turns_pass(turns % 3 - 1);
        if (turns % 2 == 0) wait(ends.stream.close());
        else const tcp_stream gone = std::move(ends.stream);
        // Too late; the answer is a reset.
        static_cast<void>(::send(ends.peer.get(), "x", 1, MSG_NOSIGNAL));
        support::until([] { return held() == 0; });
      }
    });
  });
}

TEST_CASE("a slow reader among a hundred holds no more than its cap, and loses nothing") {
  support::leaves_no_descriptor([] {
    coir::run([] {
      std::vector<support::raw_pair> pairs;
      std::vector<coir::fiber<void>> quick;
      unsigned echoed = 0;
      for (int i = 0; i < 100; ++i) pairs.push_back(support::connected_to_raw());
      for (std::size_t i = 1; i < pairs.size(); ++i) {
        quick.push_back(coir::spawn([&, i] {
          auto chunks = pairs[i].stream.chunks();
          while (auto chunk = coir::await(chunks.next())) {
            echoed += static_cast<unsigned>(chunk->bytes().size());
          }
        }));
      }
      auto slow = pairs[0].stream.chunks();
      support::send_raw(pairs[0].peer, "0");
      REQUIRE(coir::await(slow.next()).has_value());

      unsigned most = 0;
      unsigned sent = 0;
      for (int i = 0; i < 200; ++i) {
        support::send_raw(pairs[0].peer, std::to_string(i % 10));
        const auto& other = pairs[static_cast<std::size_t>(1 + i % 99)].peer;
        support::send_raw(other, "x");
        ++sent;
        support::let_turns_pass(1);
        most = std::max(most, held());
      }
      support::until([&] { return echoed == sent; });
      CHECK(held() == cap);
      CHECK(most <= cap + 1);  // and one that a quick one is about to take

      std::string got;
      while (got.size() < 200) {
        got += text_of(coir::await(slow.next())->bytes());
        CHECK(held() <= cap);
      }
      std::string expected;
      for (int i = 0; i < 200; ++i) expected += std::to_string(i % 10);
      CHECK(got == expected);
      for (auto& pair : pairs) pair.peer.reset();
      for (auto& each : quick) coir::await(each.join());
      CHECK(held() == 0);
    });
  });
}

TEST_CASE("the cap holds every time that a reader falls behind") {
  coir::run([] {
    auto [stream, peer] = support::connected_to_raw();
    auto chunks = stream.chunks();
    std::size_t sent = 0;
    std::size_t got = 0;
    for (int round = 0; round < 30; ++round) {
      pour(peer, 30);
      sent += 30;
      CHECK(held() <= cap);
      // Sometimes to the end of the queue, sometimes not.
      const std::size_t wanted = round % 3 == 0 ? sent : got + static_cast<std::size_t>(round);
      while (got < std::min(sent, wanted)) {
        got += coir::await(chunks.next())->bytes().size();
        CHECK(held() <= cap);
      }
    }
    while (got < sent) got += coir::await(chunks.next())->bytes().size();
    CHECK(held() == 0);
  });
}

TEST_CASE("when all chunks are held, bytes come in memory of the heap, until chunks are back") {
  support::leaves_no_descriptor([] {
    support::on_both_surfaces(
        [](auto wait) {
          auto one = support::connected_to_raw();
          auto two = support::connected_to_raw();
          auto chunks = one.stream.chunks();
          auto others = two.stream.chunks();
          std::deque<coir::chunk> kept;
          for (int i = 0; i < 8; ++i) {
            support::send_raw(one.peer, std::to_string(i));
            kept.push_back(std::move(*wait(chunks.next())));
            CHECK(kept.back().pooled());
          }
          CHECK(pool().free() == 0);
          for (int i = 8; i < 12; ++i) {
            support::send_raw(two.peer, std::to_string(i));
            kept.push_back(std::move(*wait(others.next())));
            CHECK(!kept.back().pooled());
          }
          support::send_raw(one.peer, "12");
          kept.push_back(std::move(*wait(chunks.next())));
          std::string text;
          for (const auto& each : kept) text += text_of(each.bytes());
          CHECK(text == "0123456789101112");

          // One is not enough to begin again; a quarter is.
          kept.pop_front();
          support::send_raw(one.peer, "a");
          CHECK(!wait(chunks.next())->pooled());
          kept.pop_front();
          for (int tries = 0;; ++tries) {
            REQUIRE(tries < 3);
            support::send_raw(one.peer, "b");
            if (wait(chunks.next())->pooled()) break;
          }
          kept.clear();
          CHECK(pool().free() == pool().count());
        },
        with_chunks(8));
  });
}

TEST_CASE("a reader that waits while all chunks are held costs nothing") {
  for (const unsigned count : {1U, 2U, 8U}) {
    INFO(count << " chunks");
    support::on_both_surfaces(
        [&](auto wait) {
          auto holder = support::connected_to_raw();
          auto chunks = holder.stream.chunks();
          std::vector<coir::chunk> kept;
          while (pool().free() != 0) {
            support::send_raw(holder.peer, "x");
            kept.push_back(std::move(*wait(chunks.next())));
          }
          auto waits = support::connected_to_raw();
          std::string got;
          auto reader = coir::spawn([&] {
            got = text_of(wait(waits.stream.chunks().next())->bytes());
          });
          support::until([&] { return support::waiting(reader); });
          support::let_turns_pass(20);
          const auto before = coir::loop::current()->stats().backend.submitted;
          support::let_turns_pass(200);
          CHECK(coir::loop::current()->stats().backend.submitted == before);
          support::send_raw(waits.peer, "at last");
          coir::await(reader.join());
          CHECK(got == "at last");
        },
        with_chunks(count));
  }
}

TEST_CASE("a pool of one chunk serves many streams") {
  support::leaves_no_descriptor([] {
    support::on_both_surfaces(
        [](auto wait) {
          std::vector<support::raw_pair> pairs;
          std::vector<coir::fiber<void>> readers;
          std::size_t got = 0;
          for (int i = 0; i < 20; ++i) pairs.push_back(support::connected_to_raw());
          for (auto& pair : pairs) {
            readers.push_back(coir::spawn([&] {
              auto chunks = pair.stream.chunks();
              while (auto chunk = wait(chunks.next())) {
                got += chunk->bytes().size();
                support::let_turns_pass(1);
              }
            }));
          }
          for (int round = 0; round < 10; ++round) {
            for (const auto& pair : pairs) support::send_raw(pair.peer, std::string(9000, 'x'));
            support::let_turns_pass(2);
          }
          for (auto& pair : pairs) pair.peer.reset();
          for (auto& each : readers) coir::await(each.join());
          CHECK(got == 20 * 10 * 9000);
          CHECK(pool().free() == 1);
        },
        with_chunks(1));
  });
}

TEST_CASE("a completion queue that overflows loses no byte, and every receive loop goes on") {
  support::leaves_no_descriptor([] {
    const auto options = coir::run_options().loop(
        coir::loop_options().submission_entries(2).completion_entries(4).chunks(64));
    support::on_both_surfaces(
        [](auto wait) {
          constexpr std::size_t connections = 60;
          std::vector<support::raw_pair> pairs;
          std::vector<std::string> got(connections);
          std::vector<coir::fiber<void>> readers;
          for (std::size_t i = 0; i < connections; ++i) pairs.push_back(support::connected_to_raw());
          for (std::size_t i = 0; i < connections; ++i) {
            readers.push_back(coir::spawn([&, i] {
              auto chunks = pairs[i].stream.chunks();
              while (auto chunk = wait(chunks.next())) got[i] += text_of(chunk->bytes());
            }));
          }
          support::let_turns_pass();
          std::string sent;
          for (int round = 0; round < 40; ++round) {
            const std::string text = std::to_string(round) + "+";
            sent += text;
            // All of them in one turn: more results than the queue holds.
            for (const auto& pair : pairs) support::send_raw(pair.peer, text);
            support::let_turns_pass(1);
          }
          for (auto& pair : pairs) pair.peer.reset();
          for (auto& each : readers) coir::await(each.join());
          for (const auto& text : got) CHECK(text == sent);
          CHECK(held() == 0);
          const coir::loop& here = *coir::loop::current();
          if (support::on_uring(here)) CHECK(here.stats().backend.overflows > 0);
        },
        options);
  });
}
