// Ops with a name that are awaited again when what they waited for has ended, or their limit was over (rule 8 of
// op.hpp; tests/fiber/sweep_ops_test.cpp has those that can go on).
#include "fiber/until.hpp"
#include "net/peers.hpp"
#include "support/both.hpp"
#include "support/catch.hpp"
#include "support/jumping.hpp"
#include "support/loop_tools.hpp"

#include <coir/coir.hpp>

#include <array>
#include <chrono>
#include <cstddef>
#include <optional>
#include <stdexcept>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

using coir::net::tcp_stream;
using support::again;
using namespace std::chrono_literals;

namespace {

struct given_up {};

// A fiber waits in the op while its object ends, is given up, and awaits it again. What it is told then.
template <class Op, class End>
std::string told_after(Op op, End end) {
  std::string told;
  auto who = coir::spawn([&] {
    for (;;) {
      try {
        static_cast<void>(coir::await(op));
        return;
      } catch (const given_up&) {
      } catch (const std::system_error&) {
      } catch (const std::logic_error& error) {
        told = error.what();
        return;
      }
    }
  });
  support::until([&] { return support::waiting(who); });
  end();
  support::let_turns_pass();
  if (support::waiting(who)) who.interrupt(given_up());
  support::until([&] { return support::dead(who); });
  return told;
}

// Its writes wait.
struct full_stream {
  full_stream() { support::fill(near.fd()); }
  support::fd_pair ends = support::socket_pair();
  tcp_stream near{*coir::loop::current(), ends[0].release()};
  std::vector<std::byte> some = std::vector<std::byte>(1024);
};

}  // namespace

TEST_CASE("an op that is awaited again when its object has ended says which") {
  coir::run([] {
    const auto check = [](const std::string& told, const char* what) {
      INFO(told);
      CHECK(told.find(what) != std::string::npos);
      CHECK(told.find(" ended while") != std::string::npos);
    };
    std::optional<coir::mutex> lock(std::in_place);
    auto held = coir::await(lock->lock());
    check(told_after(lock->lock(), [&] { lock.reset(); }), "mutex");

    std::optional<coir::monitor> deaths(std::in_place);
    check(told_after(deaths->next(), [&] { deaths.reset(); }), "monitor");

    std::optional<coir::throttler> slots(std::in_place, 1h);
    coir::await(slots->wait());
    check(told_after(slots->wait(), [&] { slots.reset(); }), "throttler");

    std::optional<coir::mailbox<int>> box(std::in_place);
    const auto to = box->sender();
    check(told_after(box->receive(), [&] { box.reset(); }), "mailbox");

    auto ends = support::connected();
    check(told_after(ends.near.chunks().next(), [&] { const auto gone = std::move(ends.near); }), "TCP stream");
  });
}

TEST_CASE("a write that is awaited again when its descriptor was closed under it is not made on that number") {
  coir::run([] {
    full_stream full;
    const std::string told = told_after(full.near.write_some(full.some), [&] {
      const auto gone = std::move(full.near);
    });
    INFO(told);
    CHECK(told.find("closed while") != std::string::npos);
  });
}

TEST_CASE("what is made of steps does not go on with another stream in the place of its own") {
  coir::run([] {
    const auto errors_of = [](auto op, auto end) {
      std::vector<std::error_code> errors;
      auto who = coir::spawn([&] {
        for (int i = 0; i < 3; ++i) {
          const auto got = coir::await(again(op));
          if (!got.has_value()) errors.push_back(got.error());
        }
      });
      support::until([&] { return support::waiting(who); });
      end();
      support::until([&] { return support::dead(who); });
      return errors;
    };
    const std::vector bad(3, std::make_error_code(std::errc::bad_file_descriptor));
    {
      full_stream full;
      auto another = support::connected();
      CHECK(errors_of(coir::as_result(coir::io::write_all(full.near, full.some)), [&] {
              full.near = std::move(another.near);
            }) == bad);
    }
    for (const bool chunked : {false, true}) {
      auto ends = support::connected();
      auto another = support::connected();
      if (chunked) static_cast<void>(ends.near.chunks());
      std::array<std::byte, 8> into{};
      CHECK(errors_of(coir::as_result(coir::io::read_exactly(ends.near, into)), [&] {
              ends.near = std::move(another.near);
            }) == bad);
    }
  });
}

TEST_CASE("a limit that is over twice throws the same exception twice") {
  support::jumping([] {
    const std::string text(100, 'x');
    auto op = coir::fail_after(1s, coir::sleep_for(1h), std::runtime_error(text));
    for (int i = 0; i < 2; ++i) {
      try {
        coir::await(op);
        FAIL("it was not over");
      } catch (const std::runtime_error& error) {
        CHECK(error.what() == text);
      }
    }
  });
}
