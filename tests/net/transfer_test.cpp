// Much data, and readers that take their time.
#include <coir/coir.hpp>

#include "net/peers.hpp"

#include "fiber/until.hpp"
#include "support/both.hpp"
#include "support/catch.hpp"
#include "support/loop_tools.hpp"

#include <algorithm>
#include <cstring>
#include <random>
#include <string>
#include <vector>

using coir::net::tcp_stream;

namespace {

constexpr std::size_t total = std::size_t{64} << 20;

// The bytes of the stream: every eight of them are their own number, so that none fits where another belongs.
std::span<const std::byte> everything() {
  static const std::vector<std::byte> bytes = [] {
    std::vector<std::byte> made(total);
    for (std::uint64_t at = 0; at < total; at += 8) {
      const std::uint64_t number = at / 8 * 0x9e3779b97f4a7c15ULL;
      std::memcpy(made.data() + at, &number, 8);
    }
    return made;
  }();
  return bytes;
}

// What was got is what was sent there.
bool is_right(std::span<const std::byte> got, std::size_t at) {
  return at + got.size() <= total && std::memcmp(got.data(), everything().data() + at, got.size()) == 0;
}

template <class Wait>
void send_everything(Wait wait, tcp_stream& to, std::size_t block_bytes) {
  for (std::size_t at = 0; at < total; at += block_bytes) {
    wait(coir::io::write_all(to, everything().subspan(at, std::min(block_bytes, total - at))));
  }
  to.shutdown(coir::net::direction::send);
}

}  // namespace

TEST_CASE("64 MiB arrive whole and in order: by read_some, and in chunks") {
  support::leaves_no_descriptor([] {
    support::on_both_surfaces([](auto wait) {
      for (const bool in_chunks : {false, true}) {
        auto ends = support::connected();
        auto sender = coir::spawn([&] { send_everything(wait, ends.near, 1'000'003); });
        std::size_t at = 0;
        bool right = true;
        if (in_chunks) {
          auto chunks = ends.far.chunks();
          while (auto chunk = wait(chunks.next())) {
            right = right && is_right(chunk->bytes(), at);
            at += chunk->bytes().size();
          }
        } else {
          std::vector<std::byte> into(100'000);
          while (const std::size_t n = wait(ends.far.read_some(into))) {
            right = right && is_right(std::span(into).first(n), at);
            at += n;
          }
        }
        coir::await(sender.join());
        CHECK(right);
        CHECK(at == total);
      }
    });
  });
}

TEST_CASE("64 MiB arrive whole and in order when reads and chunks take turns") {
  coir::run([] {
    auto ends = support::connected();
    auto sender = coir::spawn([&] { send_everything(support::on_stack(), ends.near, 65536); });
    std::mt19937 random(7);
    auto chunks = ends.far.chunks();
    std::vector<std::byte> into(10'000);
    std::size_t at = 0;
    bool right = true;
    for (bool over = false; !over;) {
      if (random() % 2 == 0) {
        const auto size = 1 + random() % into.size();
        const std::size_t n = coir::await(ends.far.read_some(std::span(into).first(size)));
        right = right && is_right(std::span(into).first(n), at);
        at += n;
        over = n == 0;
      } else {
        const auto chunk = coir::await(chunks.next());
        over = !chunk.has_value();
        if (over) break;
        right = right && is_right(chunk->bytes(), at);
        at += chunk->bytes().size();
      }
    }
    CHECK(right);
    CHECK(at == total);
    coir::await(sender.join());
  });
}

TEST_CASE("a writer waits for a reader that does not read, and holds up nobody else") {
  support::leaves_no_descriptor([] {
    support::on_both_surfaces([](auto wait) {
      auto slow = support::connected();
      auto quick = support::connected();
      auto writer = coir::spawn([&] { send_everything(wait, slow.near, 1 << 20); });
      support::until([&] { return support::waiting(writer); });
      support::let_turns_pass(20);
      CHECK(support::waiting(writer));
      for (int i = 0; i < 100; ++i) {
        wait(coir::io::write_all(quick.near, "tick"));
        CHECK(support::read_text(wait, quick.far) == "tick");
      }
      CHECK(support::waiting(writer));
      std::vector<std::byte> into(1 << 20);
      std::size_t at = 0;
      bool right = true;
      while (const std::size_t n = wait(slow.far.read_some(into))) {
        right = right && is_right(std::span(into).first(n), at);
        at += n;
      }
      CHECK(right);
      CHECK(at == total);
      coir::await(writer.join());
    });
  });
}
