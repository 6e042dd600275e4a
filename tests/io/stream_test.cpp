// write_all and read_exactly on a stream that does what the test says.
#include "io/scripted_stream.hpp"

#include "support/both.hpp"
#include "support/catch.hpp"
#include "support/loop_tools.hpp"

#include "fiber/until.hpp"

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

using Catch::Matchers::Contains;
using coir::io::partial_error;
using support::moment;
using support::scripted_stream;
using support::when;

namespace {

// The fiber goes on until it has ended; steps that wait are finished one by one.
void drive(scripted_stream& stream, const coir::handle_base& whom) {
  support::until([&] {
    if (stream.waits()) stream.finish();
    return whom.state() == coir::fiber_state::dead;
  });
}

}  // namespace

TEST_CASE("write_all writes everything, in as many steps as it takes") {
  support::on_both_surfaces([](auto wait) {
    scripted_stream stream;
    stream.steps = {{3}, {1, when::later}, {2}, {2, when::later}};
    auto writer = coir::spawn([&] { wait(coir::io::write_all(stream, "hello, world")); });
    drive(stream, writer);
    CHECK(stream.sunk == "hello, world");
    CHECK(stream.started == 5);
  });
}

TEST_CASE("read_exactly fills its buffer, in as many steps as it takes") {
  support::on_both_surfaces([](auto wait) {
    scripted_stream stream;
    stream.source = "hello, world";
    stream.steps = {{3}, {1, when::later}, {2}, {2, when::later}};
    std::string got(9, '-');
    auto reader = coir::spawn([&] {
      CHECK(wait(coir::io::read_exactly(stream, std::as_writable_bytes(std::span(got)))) == 9);
    });
    drive(stream, reader);
    CHECK(got == "hello, wo");
    CHECK(stream.source == "rld");
    CHECK(stream.started == 5);
  });
}

TEST_CASE("nothing to write and nothing to read take no step") {
  support::on_both_surfaces([](auto wait) {
    scripted_stream stream;
    wait(coir::io::write_all(stream, ""));
    wait(coir::io::write_all(stream, std::span<const std::byte>()));
    CHECK(wait(coir::io::read_exactly(stream, {})) == 0);
    CHECK(stream.started == 0);
  });
}

TEST_CASE("read_exactly says how much there was before the end of the stream") {
  support::on_both_surfaces([](auto wait) {
    for (const when finishes : {when::at_once, when::later}) {
      scripted_stream stream;
      stream.source = "abcde";
      stream.steps = {{2, finishes}, {3, finishes}, {0, finishes}};
      std::array<std::byte, 8> into{};
      auto reader = coir::spawn([&] { CHECK(wait(coir::io::read_exactly(stream, into)) == 5); });
      drive(stream, reader);
      CHECK(support::text_of(into).substr(0, 5) == "abcde");
      // The end was not asked about twice.
      CHECK(stream.started == 3);
    }
  });
}

TEST_CASE("an error says how many bytes had moved before it") {
  support::on_both_surfaces([](auto wait) {
    for (const when finishes : {when::at_once, when::later}) {
      scripted_stream stream;
      stream.source = "abcdefgh";
      stream.steps = {{3, finishes}, {2, finishes}, {-ECONNRESET, finishes},
                      {4, finishes}, {-EPIPE, finishes}};
      auto both = coir::spawn([&] {
        std::array<std::byte, 8> into{};
        try {
          wait(coir::io::read_exactly(stream, into));
          FAIL("no error");
        } catch (const partial_error& error) {
          CHECK(error.transferred() == 5);
          CHECK(error.code() == std::errc::connection_reset);
        }
        try {
          wait(coir::io::write_all(stream, "123456"));
          FAIL("no error");
        } catch (const partial_error& error) {
          CHECK(error.transferred() == 4);
          CHECK(error.code() == std::errc::broken_pipe);
          CHECK_THAT(error.what(), Catch::Matchers::Contains("write_all") && Catch::Matchers::Contains("after 4 bytes"));
        }
      });
      drive(stream, both);
      CHECK(stream.sunk == "1234");
    }
  });
}

TEST_CASE("as_result gives the error of the step as a value") {
  support::on_both_surfaces([](auto wait) {
    scripted_stream stream;
    stream.source = "abc";
    stream.steps = {{2}, {-ECONNRESET}, {1}, {-EPIPE}};
    std::array<std::byte, 8> into{};
    const auto got = wait(coir::as_result(coir::io::read_exactly(stream, into)));
    REQUIRE(!got.has_value());
    CHECK(got.error() == std::errc::connection_reset);
    const auto wrote = wait(coir::as_result(coir::io::write_all(stream, "12")));
    REQUIRE(!wrote.has_value());
    CHECK(wrote.error() == std::errc::broken_pipe);
    CHECK(wait(coir::as_result(coir::io::write_all(stream, "12"))).has_value());
    CHECK(wait(coir::as_result(coir::io::read_exactly(stream, std::span(into).first(1)))).value() == 1);
  });
}

TEST_CASE("a stream that takes nothing is not written to for ever") {
  support::on_both_surfaces([](auto wait) {
    scripted_stream stream;
    stream.steps = {{2}, {0}};
    try {
      wait(coir::io::write_all(stream, "12345"));
      FAIL("no error");
    } catch (const partial_error& error) {
      CHECK(error.transferred() == 2);
      CHECK(error.code() == std::errc::broken_pipe);
    }
  });
}

TEST_CASE("what a step throws reaches whoever waits, whichever step it is") {
  support::on_both_surfaces([](auto wait) {
    for (const when finishes : {when::at_once, when::later}) {
      scripted_stream stream;
      stream.steps = {{2, finishes}};
      auto writer = coir::spawn([&] {
        CHECK_THROWS_AS(wait(coir::io::write_all(stream, "12345")), std::domain_error);
      });
      if (finishes == when::later) support::until([&] { return stream.waits(); });
      // The second step throws; the first one too where nothing happens before.
      stream.thrown = std::make_exception_ptr(std::domain_error("not like this"));
      drive(stream, writer);
    }
  });
}

TEST_CASE("a step may say that it is done before its start has returned") {
  support::on_both_surfaces([](auto wait) {
    scripted_stream stream;
    const std::string text = support::pattern(20'000);
    stream.steps.assign(text.size(), {1, when::told_at_once});
    stream.steps[500].finishes = when::later;
    auto writer = coir::spawn([&] { wait(coir::io::write_all(stream, text)); });
    drive(stream, writer);
    CHECK(writer.outcome() == coir::fiber_outcome::returned);
    CHECK(stream.sunk == text);
    CHECK(stream.started == text.size());
  });
}

TEST_CASE("steps after the first are made where the one before completes: in no fiber, or in another's") {
  support::on_both_surfaces([](auto wait) {
    scripted_stream stream;
    std::vector<std::uint64_t> made_in;
    stream.during = [&](moment what, unsigned) {
      if (what == moment::asked) made_in.push_back(coir::running_fiber().id());
    };
    const auto writes = [&](std::string& said) {
      stream.steps.assign(3, {1, when::later});
      return coir::spawn([&] {
        try {
          wait(coir::io::write_all(stream, "123"));
        } catch (const std::logic_error& error) {
          said = error.what();
        }
      });
    };
    std::string said;
    auto by_fiber = writes(said);
    drive(stream, by_fiber);
    const std::uint64_t other = coir::running_fiber().id();
    CHECK(made_in == std::vector<std::uint64_t>{by_fiber.id(), other, other});
    CHECK(said.empty());
    CHECK(stream.sunk == "123");

    auto by_loop = writes(said);
    support::until([&] { return stream.waits(); });
    coir::running_fiber().home().on().post([&] { stream.finish(); });
    coir::await(by_loop.join());
    CHECK_THAT(said, Contains("outside of any fiber"));
    CHECK(stream.sunk == "1231");
  });
}

TEST_CASE("no memory for a step is an error that says how far it came") {
  support::on_both_surfaces([](auto wait) {
    scripted_stream stream;
    stream.steps = {{2, when::later}};
    auto writer = coir::spawn([&] {
      try {
        wait(coir::io::write_all(stream, "12345"));
        FAIL("no error");
      } catch (const partial_error& error) {
        CHECK(error.transferred() == 2);
        CHECK(error.code() == std::errc::not_enough_memory);
      }
    });
    support::until([&] { return stream.waits(); });
    stream.thrown = std::make_exception_ptr(std::bad_alloc());
    drive(stream, writer);
  });
}

TEST_CASE("a stream that is always ready does not keep others from running") {
  support::on_both_surfaces([](auto wait) {
    scripted_stream stream;
    constexpr std::size_t steps = 1000;
    stream.steps.assign(steps, {1});
    bool over = false;
    unsigned turns = 0;
    auto other = coir::spawn([&] {
      while (!over) {
        ++turns;
        coir::await(coir::yield());
      }
    });
    wait(coir::io::write_all(stream, support::pattern(steps)));
    over = true;
    coir::await(other.join());
    CHECK(stream.sunk.size() == steps);
    // 64 steps are a share.
    CHECK(turns >= steps / 64);
  });
}

TEST_CASE("a reader that stands on a reader gets its steps from wherever they come") {
  // The second step is started by the loop, and not by a fiber.
  support::on_both_surfaces([](auto wait) {
    scripted_stream stream;
    stream.source = support::pattern(20000);
    stream.steps.assign(100, {150, when::later});
    const std::string whole = stream.source;
    coir::io::buffered_reader inner(stream, 64);
    coir::io::buffered_reader outer(inner, 512);
    std::string got(9000, '-');
    auto reader = coir::spawn([&] {
      CHECK(wait(coir::io::read_exactly(outer, std::as_writable_bytes(std::span(got)))) == 9000);
    });
    drive(stream, reader);
    CHECK(got == whole.substr(0, 9000));
  });
}

TEST_CASE("the report of who waits for what names the step") {
  coir::run([] {
    scripted_stream stream;
    stream.steps = {{2, when::later}};
    auto writer = coir::spawn([&] { coir::await(coir::io::write_all(stream, "12345")); });
    support::until([&] { return stream.waits(); });
    std::string text = writer.control().waits_for();
    writer.control().describe_wait(text);
    CHECK(text == "write_all: scripted");
    drive(stream, writer);
  });
}
