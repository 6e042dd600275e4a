// A buffered_reader against a string that does the same.
#include "io/scripted_stream.hpp"

#include "support/both.hpp"
#include "support/catch.hpp"
#include "support/loop_tools.hpp"

#include <cstdlib>
#include <optional>
#include <random>
#include <string>

namespace {

// What the reader should do, said in the simplest words.
class model {
 public:
  explicit model(std::string text) : rest_(std::move(text)) {}

  // The bytes, or nothing when the limit is exceeded.
  std::optional<std::string> until(const std::string& delimiter, std::size_t limit) {
    const std::size_t at = rest_.find(delimiter);
    const std::size_t size = at == std::string::npos ? rest_.size() : at + delimiter.size();
    if (size > limit) return std::nullopt;
    return cut(size);
  }
  std::string peek(std::size_t count) const { return rest_.substr(0, count); }
  std::string cut(std::size_t count) {
    std::string front = rest_.substr(0, count);
    rest_.erase(0, count);
    return front;
  }
  std::size_t left() const { return rest_.size(); }

 private:
  std::string rest_;
};

std::string random_text(std::mt19937& random, std::size_t size) {
  // Few letters, so that delimiters are met, and parts of them.
  static constexpr char letters[] = {'a', 'b', '\r', '\n'};
  std::string text;
  while (text.size() < size) text += letters[random() % std::size(letters)];
  return text;
}

template <class Wait>
void one_stream(Wait wait, unsigned seed) {
  INFO("seed " << seed);
  std::mt19937 random(seed);
  support::scripted_stream stream;
  stream.source = random_text(random, random() % 300);
  for (int i = 0; i < 400; ++i) stream.steps.push_back({static_cast<int>(1 + random() % 9)});
  model expected(stream.source);
  coir::io::buffered_reader reader(stream, 1 + random() % 16);

  static const std::string delimiters[] = {"\n", "\r\n", "ab", "aab", "\r\n\r\n", "bbbbb"};
  for (int i = 0; i < 60; ++i) {
    switch (random() % 4) {
      case 0:
      case 1: {
        const std::string& delimiter = delimiters[random() % std::size(delimiters)];
        const std::size_t limit = 1 + random() % 40;
        const auto want = expected.until(delimiter, limit);
        const auto got = wait(coir::as_result(reader.read_until(delimiter, limit)));
        REQUIRE(got.has_value() == want.has_value());
        if (want) REQUIRE(support::text_of(*got) == *want);
        break;
      }
      case 2: {
        const std::size_t count = random() % 30;
        REQUIRE(support::text_of(wait(reader.peek(count))) == expected.peek(count));
        break;
      }
      default: {
        std::string into(1 + random() % 20, '-');
        const std::size_t got = wait(reader.read_some(std::as_writable_bytes(std::span(into))));
        REQUIRE((got != 0 || expected.left() == 0));
        REQUIRE(into.substr(0, got) == expected.cut(got));
      }
    }
  }
}

}  // namespace

TEST_CASE("a buffered reader does what a string in its place would do") {
  const char* const wanted = std::getenv("COIR_TEST_LONG");
  const unsigned count = wanted != nullptr ? 20'000 : 400;
  support::on_both_surfaces([&](auto wait) {
    for (unsigned seed = 1; seed <= count; ++seed) one_stream(wait, seed);
  });
}
