// Waiting for one op: results, error codes, exceptions. What holds for every op is in op_rules_test.cpp.
#include "hand_op.hpp"
#include "until.hpp"

#include "support/both.hpp"
#include "support/catch.hpp"
#include "support/loop_tools.hpp"

#include <coir/coir.hpp>

#include <array>
#include <cstddef>
#include <stdexcept>
#include <string>
#include <system_error>
#include <utility>

using Catch::Matchers::Contains;
using coir::fiber_outcome;
using coir::fiber_state;
using support::hand;
using support::hand_op;

namespace {

// Fails where the test says.
class failing_op {
 public:
  enum class where { start, take };
  static constexpr const char* name = "failing";
  explicit failing_op(where at) noexcept : at_(at) {}
  bool start(coir::waiter&) {
    if (at_ == where::start) throw std::system_error(std::make_error_code(std::errc::too_many_files_open), "start");
    return false;
  }
  coir::abort_answer abort() noexcept { return coir::abort_answer::now; }
  int take() {
    throw std::system_error(std::make_error_code(std::errc::io_error), "take");
  }

 private:
  where at_;
};

coir::net::tcp_stream stream_of(coir::unique_fd& end) {
  return {coir::running_fiber().home().on(), end.release()};
}

}  // namespace

TEST_CASE("an op is awaited in a coroutine and on a stack, and gives its result or an error code") {
  coir::run([]() -> coir::task<> {
    auto ends = support::socket_pair();
    auto peer = stream_of(ends[0]);
    std::array<std::byte, 16> buffer;
    CHECK(::send(ends[1].get(), "abc", 3, MSG_NOSIGNAL) == 3);
    std::size_t n = co_await peer.read_some(buffer);
    CHECK(n == 3);
    CHECK(::send(ends[1].get(), "ab", 2, MSG_NOSIGNAL) == 2);
    n = co_await coir::on_stack([&] { return coir::await(peer.read_some(buffer)); });
    CHECK(n == 2);
    ends[1].reset();
    auto got = co_await coir::as_result(peer.read_some(buffer));
    CHECK((got.has_value() && *got == 0));
    peer = coir::net::tcp_stream(coir::running_fiber().home().on(), support::tcp_socket().release());
    auto failed = co_await coir::as_result(peer.read_some(buffer));
    CHECK(failed.error() == std::errc::not_connected);
  });
}

TEST_CASE("what start() throws leaves the await, and the fiber goes on") {
  support::on_both_surfaces([](auto wait) {
    for (int i = 0; i < 3; ++i) {
      CHECK_THROWS_AS(wait(failing_op(failing_op::where::start)), std::system_error);
      CHECK(coir::running_fiber().state() == fiber_state::running);
      wait(coir::yield());
      CHECK_THROWS_AS(wait(failing_op(failing_op::where::take)), std::system_error);
    }
  });
}

TEST_CASE("as_result turns std::system_error into its code, and nothing else") {
  class throws_logic_error : public hand_op {
   public:
    using hand_op::hand_op;
    int take() { throw std::logic_error("not a system error"); }
  };
  support::on_both_surfaces([](auto wait) {
    const auto failed = wait(coir::as_result(failing_op(failing_op::where::take)));
    REQUIRE_FALSE(failed.has_value());
    CHECK(failed.error() == std::errc::io_error);
    hand ready;
    ready.complete(5);
    const auto fine = wait(coir::as_result(hand_op(ready)));
    CHECK((fine.has_value() && *fine == 5));
    ready.complete();
    CHECK_THROWS_AS(wait(coir::as_result(throws_logic_error(ready))), std::logic_error);
    CHECK(wait(coir::as_result(coir::sleep_for(std::chrono::nanoseconds(1)))).has_value());
  });
}

TEST_CASE("as_result throws `cancelled` like any other op") {
  coir::run([] {
    for (const auto answer : {coir::abort_answer::now, coir::abort_answer::later}) {
      hand hold(answer);
      bool thrown = false;
      auto child = coir::spawn([&] {
        try {
          static_cast<void>(coir::await(coir::as_result(hand_op(hold))));
        } catch (const coir::cancelled&) {
          thrown = true;
          throw;
        }
      });
      support::until([&] { return hold.waiting(); });
      child.cancel();
      if (answer == coir::abort_answer::later) hold.give_up();
      coir::await(coir::end_op(child));
      CHECK(thrown);
      CHECK(child.outcome() == fiber_outcome::cancelled);
    }
  });
}

TEST_CASE("an op can be named, moved and kept before it is awaited") {
  support::on_both_surfaces([](auto) {
    hand hold;
    hand_op first(hold);
    hand_op second = std::move(first);
    coir::spawn([&] { hold.complete(9); });
    CHECK(coir::await(second) == 9);
    coir::await([](hand& of) -> coir::task<> {
      hand_op named(of);
      hand_op moved = std::move(named);
      of.complete(8);
      const int got = co_await moved;
      CHECK(got == 8);
    }(hold));
  });
}

TEST_CASE("`cancelled` is no std::exception: a handler for errors does not take it for one") {
  STATIC_REQUIRE_FALSE(std::is_base_of_v<std::exception, coir::cancelled>);
  coir::run([] {
    bool mistaken = false;
    auto child = coir::spawn([&] {
      try {
        coir::await(coir::sleep_until(coir::never));
      } catch (const std::exception&) {
        mistaken = true;
      }
    });
    coir::await(coir::yield());
    child.cancel();
    coir::await(coir::end_op(child));
    CHECK_FALSE(mistaken);
    CHECK(child.outcome() == fiber_outcome::cancelled);
  });
}

TEST_CASE("a cancellation that is swallowed comes back at every suspend point, in any number") {
  coir::run([] {
    int swallowed = 0;
    auto child = coir::spawn([&] {
      for (int i = 0; i < 100; ++i) {
        try {
          coir::await(coir::yield());
          coir::await(coir::sleep_for(std::chrono::hours(1)));
        } catch (const coir::cancelled&) {
          ++swallowed;
        }
      }
      return swallowed;
    });
    support::until([&] { return child.state() == fiber_state::waiting; });
    child.cancel();
    CHECK(coir::await(child.join()) == 100);
  });
}
