// Lines, delimiters and peeks.
#include "io/scripted_stream.hpp"

#include "support/both.hpp"
#include "support/catch.hpp"
#include "support/loop_tools.hpp"

#include <string>

using support::scripted_stream;
using support::text_of;
using reader_type = coir::io::buffered_reader<scripted_stream>;

namespace {

// All lines there are, with a bar behind each.
template <class Wait>
std::string lines_of(Wait wait, std::string source, int bytes_a_step) {
  scripted_stream stream;
  stream.source = std::move(source);
  stream.steps.assign(stream.source.size() + 1, {bytes_a_step});
  reader_type reader(stream, 4);
  std::string lines;
  while (const auto line = wait(reader.read_line())) lines += std::string(*line) + "|";
  CHECK(!wait(reader.read_line()).has_value());
  return lines;
}

}  // namespace

TEST_CASE("a line ends with LF or CRLF or the stream") {
  support::on_both_surfaces([](auto wait) {
    for (const int step : {1, 2, 3, 1000}) {
      INFO("bytes a step: " << step);
      CHECK(lines_of(wait, "", step) == "");
      CHECK(lines_of(wait, "\n", step) == "|");
      CHECK(lines_of(wait, "one\ntwo\n", step) == "one|two|");
      CHECK(lines_of(wait, "one\r\ntwo\r\n", step) == "one|two|");
      CHECK(lines_of(wait, "one\ntwo", step) == "one|two|");
      CHECK(lines_of(wait, "\n\r\n\nlast", step) == "|||last|");
      // A return that no newline follows belongs to the line.
      CHECK(lines_of(wait, "a\rb\r\r\nc\r", step) == "a\rb\r|c\r|");
      CHECK(lines_of(wait, std::string("a\0b\n", 4), step) == std::string("a\0b|", 4));
    }
  });
}

TEST_CASE("a delimiter of several bytes is found wherever the reads divide it") {
  support::on_both_surfaces([](auto wait) {
    for (int step = 1; step <= 12; ++step) {
      INFO("bytes a step: " << step);
      scripted_stream stream;
      stream.source = "key: 1\r\n\r\r\n\r\nbody";
      stream.steps.assign(40, {step});
      reader_type reader(stream, 3);
      CHECK(text_of(wait(reader.read_until("\r\n\r\n"))) == "key: 1\r\n\r\r\n\r\n");
      CHECK(text_of(wait(reader.read_until("\r\n\r\n"))) == "body");
      CHECK(wait(reader.read_until("\r\n\r\n")).empty());
    }
  });
}

TEST_CASE("a delimiter that begins in itself is found at its first place") {
  support::on_both_surfaces([](auto wait) {
    for (int step = 1; step <= 7; ++step) {
      scripted_stream stream;
      stream.source = "aaabaabaac";
      stream.steps.assign(20, {step});
      reader_type reader(stream, 2);
      CHECK(text_of(wait(reader.read_until("aab"))) == "aaab");
      CHECK(text_of(wait(reader.read_until("aab"))) == "aab");
      CHECK(text_of(wait(reader.read_until("aab"))) == "aac");
    }
  });
}

TEST_CASE("an empty delimiter is a misuse") {
  support::on_both_surfaces([](auto wait) {
    scripted_stream stream;
    reader_type reader(stream);
    CHECK_THROWS_AS(wait(reader.read_until("")), std::logic_error);
  });
}

TEST_CASE("a line may be as long as the limit, its end included") {
  support::on_both_surfaces([](auto wait) {
    for (const int step : {1, 6, 1000}) {
      scripted_stream stream;
      stream.source = "12345\nabcdef";
      stream.steps.assign(20, {step});
      reader_type reader(stream, 2);
      CHECK(wait(reader.read_line(6)) == "12345");
      // The stream ends just where the limit is.
      CHECK(wait(reader.read_line(6)) == "abcdef");
      CHECK(!wait(reader.read_line(6)).has_value());
    }
  });
}

TEST_CASE("a line longer than the limit is an error, and stays in the buffer") {
  support::on_both_surfaces([](auto wait) {
    for (const int step : {1, 3, 1000}) {
      scripted_stream stream;
      stream.source = "123456\nnext\n";
      stream.steps.assign(20, {step});
      reader_type reader(stream, 2);
      for (int i = 0; i < 3; ++i) {
        try {
          wait(reader.read_line(6));
          FAIL("no error");
        } catch (const std::system_error& error) {
          CHECK(error.code() == std::errc::message_size);
          CHECK(std::string(error.what()).find("6 bytes") != std::string::npos);
        }
      }
      const auto refused = wait(coir::as_result(reader.read_until("\n", 3)));
      REQUIRE(!refused.has_value());
      CHECK(refused.error() == std::errc::message_size);
      // No more was read than it takes to know, and none of it is lost.
      CHECK(reader.buffered().size() < 13);
      CHECK(wait(reader.read_line(7)) == "123456");
      CHECK(wait(reader.read_line(7)) == "next");
    }
  });
}

TEST_CASE("a stream without line ends is not read beyond the limit") {
  coir::run([] {
    scripted_stream stream;
    stream.source = std::string(1'000'000, 'x');
    coir::io::buffered_reader reader(stream, 512);
    const auto line = coir::await(coir::as_result(reader.read_line(10'000)));
    REQUIRE(!line.has_value());
    CHECK(reader.buffered().size() <= 20'000);
  });
}

TEST_CASE("peek shows what comes and takes nothing away") {
  support::on_both_surfaces([](auto wait) {
    for (const int step : {1, 3, 1000}) {
      scripted_stream stream;
      stream.source = "hello\nworld";
      stream.steps.assign(30, {step});
      reader_type reader(stream, 2);
      CHECK(wait(reader.peek(0)).empty());
      CHECK(stream.started == 0);
      CHECK(text_of(wait(reader.peek(3))) == "hel");
      CHECK(text_of(wait(reader.peek(1))) == "h");
      CHECK(text_of(wait(reader.peek(7))) == "hello\nw");
      CHECK(wait(reader.read_line()) == "hello");
      // More than there is: what there is.
      CHECK(text_of(wait(reader.peek(100))) == "world");
      CHECK(wait(reader.read_line()) == "world");
      CHECK(wait(reader.peek(1)).empty());
    }
  });
}

TEST_CASE("what is buffered comes first, and once, whoever reads") {
  support::on_both_surfaces([](auto wait) {
    scripted_stream stream;
    stream.source = "line\n0123456789";
    reader_type reader(stream, 8);
    CHECK(wait(reader.read_line()) == "line");
    REQUIRE(text_of(reader.buffered()) == "012");
    std::array<std::byte, 2> two{};
    CHECK(wait(reader.read_some(two)) == 2);
    CHECK(text_of(two) == "01");
    std::array<std::byte, 20> many{};
    // What is buffered, and no waiting for more.
    CHECK(wait(reader.read_some(many)) == 1);
    CHECK(wait(coir::io::read_exactly(reader, std::span(many).first(4))) == 4);
    CHECK(text_of(std::span(many).first(4)) == "3456");
    CHECK(wait(coir::io::read_exactly(reader, many)) == 3);
    CHECK(text_of(std::span(many).first(3)) == "789");
    CHECK(wait(reader.read_some(many)) == 0);
    CHECK(wait(reader.read_some({})) == 0);
  });
}

TEST_CASE("consume takes away what the user has looked at, and no more") {
  support::on_both_surfaces([](auto wait) {
    scripted_stream stream;
    stream.source = "abcdef";
    reader_type reader(stream, 8);
    wait(reader.peek(6));
    reader.consume(2);
    CHECK(text_of(reader.buffered()) == "cdef");
    CHECK_THROWS_AS(reader.consume(5), std::logic_error);
    reader.consume(4);
    CHECK(reader.buffered().empty());
  });
}

TEST_CASE("small reads fill the buffer, and large ones go around it") {
  support::on_both_surfaces([](auto wait) {
    scripted_stream stream;
    stream.source = support::pattern(5000);
    const std::string whole = stream.source;
    coir::io::buffered_reader reader(stream, 1000);
    std::string got(10, '-');
    for (std::size_t i = 0; i < 100; ++i) {
      CHECK(wait(reader.read_some(std::as_writable_bytes(std::span(got)))) == 10);
      CHECK(got == whole.substr(10 * i, 10));
    }
    CHECK(stream.started == 1);
    std::string large(4000, '-');
    CHECK(wait(reader.read_some(std::as_writable_bytes(std::span(large)))) == 4000);
    CHECK(large == whole.substr(1000));
    CHECK(stream.started == 2);
  });
}

TEST_CASE("an error of the stream is a system error, and the buffer stays") {
  support::on_both_surfaces([](auto wait) {
    scripted_stream stream;
    stream.source = "begin";
    stream.steps = {{5}, {-ECONNRESET}, {-ECONNRESET}, {0}, {-ECONNRESET}};
    reader_type reader(stream, 8);
    try {
      wait(reader.read_line());
      FAIL("no error");
    } catch (const std::system_error& error) {
      CHECK(error.code() == std::errc::connection_reset);
      CHECK(std::string(error.what()).find("read_line") != std::string::npos);
    }
    CHECK(wait(coir::as_result(reader.peek(6))).error() == std::errc::connection_reset);
    CHECK(wait(reader.read_line()) == "begin");
    std::array<std::byte, 4> some{};
    CHECK_THROWS_AS(wait(reader.read_some(some)), std::system_error);
  });
}
