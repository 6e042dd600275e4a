#include "support/catch.hpp"
#include "support/jumping.hpp"

#include <coir/coir.hpp>

#include <sys/socket.h>

#include <array>
#include <chrono>
#include <cstddef>
#include <optional>
#include <stdexcept>
#include <utility>
#include <variant>

using namespace std::chrono_literals;
using support::jumping_on_both;
using support::now;

namespace {

// Two ends of a connection, whose reads wait in the kernel.
std::pair<coir::net::tcp_stream, coir::net::tcp_stream> connection() {
  coir::net::tcp_listener listener(coir::net::address("127.0.0.1", 0));
  auto client = coir::await(coir::net::tcp_stream::connect(listener.local_address()));
  auto server = coir::await(listener.accept());
  return {std::move(client), std::move(server)};
}

// Answers `later` when it is asked to stop, and then does what the test wants.
class stubborn_op {
 public:
  static constexpr const char* name = "stubborn";
  explicit stubborn_op(coir::waiter*& told, int& stops) : told_(&told), stops_(&stops) {}
  bool start(coir::waiter& told) {
    *told_ = &told;
    return true;
  }
  coir::abort_answer abort() noexcept {
    ++*stops_;
    return coir::abort_answer::later;
  }
  int take() const { return 7; }

 private:
  coir::waiter** told_;
  int* stops_;
};

}  // namespace

TEST_CASE("an op that is quicker than its limit gives its result") {
  jumping_on_both([](auto wait) {
    const coir::instant begin = now();
    CHECK(wait(coir::move_on_after(1h, coir::sleep_for(1s))));
    CHECK(now() - begin == 1s);
    wait(coir::fail_after(1h, coir::sleep_for(1s)));
    CHECK(support::loop_here().census().armed == 0);
  });
}

TEST_CASE("an op that is slower than its limit is stopped when the limit is over") {
  jumping_on_both([](auto wait) {
    const coir::instant begin = now();
    CHECK_FALSE(wait(coir::move_on_after(1s, coir::sleep_for(1h))));
    CHECK(now() - begin == 1s);
    CHECK_THROWS_AS(wait(coir::fail_after(1s, coir::sleep_for(1h))), coir::timed_out);
    CHECK_THROWS_AS(wait(coir::fail_at(now() + 1s, coir::sleep_for(1h), std::out_of_range("slow"))), std::out_of_range);
    CHECK(now() - begin == 3s);
    CHECK(support::loop_here().census().armed == 0);
  });
}

TEST_CASE("a receive under a limit ends with it, and the next one has the bytes") {
  support::on_both_surfaces([](auto wait) {
    auto [client, server] = connection();
    std::array<std::byte, 16> buffer;
    std::optional<std::size_t> got = wait(coir::move_on_after(5ms, server.read_some(buffer)));
    CHECK_FALSE(got);
    CHECK_THROWS_AS(wait(coir::fail_after(5ms, server.read_some(buffer))), coir::timed_out);
    const std::array<std::byte, 3> bytes{};
    wait(client.write_some(bytes));
    got = wait(coir::move_on_after(1h, server.read_some(buffer)));
    CHECK(got == 3u);
  });
}

TEST_CASE("a scope catches the cancellation of an op that the kernel had to give back") {
  support::on_both_surfaces([](auto wait) {
    auto ends = connection();
    std::array<std::byte, 16> buffer;
    coir::cancel_scope scope;
    auto canceller = coir::spawn([&] {
      coir::await(coir::sleep_for(5ms));
      scope.cancel();
    });
    CHECK_FALSE(scope.run([&] { wait(ends.second.read_some(buffer)); }));
    CHECK(scope.caught());
    CHECK_FALSE(coir::move_on_after(5ms, [&] { wait(ends.second.read_some(buffer)); }));
  });
}

TEST_CASE("what cannot be stopped any more when its time is over gives its result") {
  jumping_on_both([](auto wait) {
    coir::waiter* told = nullptr;
    int stops = 0;
    auto helper = coir::spawn([&] {
      coir::await(coir::sleep_for(2s));
      told->done();
    });
    const coir::instant begin = now();
    CHECK(wait(coir::move_on_after(1s, stubborn_op(told, stops))) == 7);
    CHECK(now() - begin == 2s);
    CHECK(stops == 1);
  });
}

TEST_CASE("an op with a limit that is awaited again has all of its time again") {
  jumping_on_both([](auto wait) {
    coir::channel<int> numbers;
    auto receiving = coir::move_on_after(1s, numbers.receive());
    // In this order: its time is over, it is over in time, and both again.
    for (const bool in_time : {false, true, true, false, false, true}) {
      const coir::instant before = now();
      auto other = coir::spawn([&] {
        if (!in_time) return;
        coir::await(coir::sleep_for(10ms));
        coir::await(numbers.send(7));
      });
      const auto got = wait(coir::select(receiving, coir::sleep_for(1h)));
      REQUIRE(got.index() == 0);
      CHECK(std::get<0>(got).has_value() == in_time);
      CHECK(now() - before == (in_time ? 10ms : 1s));
      coir::await(other.join());
    }
    coir::waiter* told = nullptr;
    int stops = 0;
    auto slow = coir::move_on_after(1s, stubborn_op(told, stops));
    for (int round = 1; round <= 3; ++round) {
      auto other = coir::spawn([&] {
        coir::await(coir::sleep_for(2s));
        CHECK(stops == round);
        told->done();
      });
      CHECK(std::get<0>(wait(coir::select(slow))) == 7);
      coir::await(other.join());
    }
    CHECK(support::loop_here().census().armed == 0);
  });
}

TEST_CASE("an op whose time is over is not asked to stop a second time by a cancellation") {
  jumping_on_both([](auto wait) {
    coir::waiter* told = nullptr;
    int stops = 0;
    coir::cancel_scope scope;
    auto helper = coir::spawn([&] {
      coir::await(coir::sleep_for(2s));
      scope.cancel();
      CHECK(stops == 1);
      told->done();
    });
    bool went_on = false;
    CHECK_FALSE(scope.run([&] {
      CHECK(wait(coir::move_on_after(1s, stubborn_op(told, stops))) == 7);
      wait(coir::yield());
      went_on = true;
    }));
    CHECK_FALSE(went_on);
  });
}

TEST_CASE("of a limit and a cancellation in the same turn the cancellation is felt") {
  jumping_on_both([](auto wait) {
    const coir::instant end = now() + 1s;
    coir::cancel_scope outer;
    outer.deadline(end);
    bool went_on = false;
    CHECK_FALSE(outer.run([&] {
      wait(coir::move_on_at(end, coir::sleep_for(1h)));
      went_on = true;
    }));
    CHECK_FALSE(went_on);
  });
}

TEST_CASE("an interrupt reaches a fiber whose op the kernel had to give back") {
  support::on_both_surfaces([](auto wait) {
    auto ends = connection();
    auto reader = coir::spawn([&] {
      std::array<std::byte, 16> buffer;
      CHECK_THROWS_AS(wait(ends.second.read_some(buffer)), std::out_of_range);
    });
    coir::await(coir::sleep_for(2ms));
    const_cast<coir::fiber_base&>(reader.control()).interrupt(std::make_exception_ptr(std::out_of_range("now")));
    coir::await(reader.join());
  });
}
