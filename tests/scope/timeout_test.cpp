#include "fiber/hand_op.hpp"
#include "surfaces.hpp"

#include "support/catch.hpp"
#include "support/jumping.hpp"

#include <coir/coir.hpp>

#include <array>
#include <chrono>
#include <cstddef>
#include <limits>
#include <memory>
#include <stdexcept>
#include <string>

using namespace std::chrono_literals;
using support::jumping;
using support::now;
using surfaces::on_both;

namespace {

coir::task<int> value_after(coir::duration wait, int value) {
  co_await coir::sleep_for(wait);
  co_return value;
}
coir::task<> nothing_after(coir::duration wait) { co_await coir::sleep_for(wait); }
coir::task<int> ready(int value) { co_return value; }

}  // namespace

TEST_CASE("a body that is quicker than its limit gives its result") {
  jumping([] {
    CHECK(coir::await(coir::move_on_after(1h, value_after(1min, 7))) == 7);
    CHECK(coir::await(coir::move_on_after(1h, nothing_after(1min))));
    CHECK(coir::await(coir::fail_after(1h, value_after(1min, 8))) == 8);
    CHECK(coir::move_on_after(1h, [] { return 9; }) == 9);
    CHECK(coir::move_on_after(1h, [] { coir::await(coir::sleep_for(1s)); }));
    CHECK(coir::fail_after(1h, [] { return std::string("ten"); }) == "ten");
    CHECK(coir::await(coir::move_on_after(1h, [] { return value_after(1s, 11); })) == 11);
    CHECK(coir::await(coir::move_on_after(1h, coir::sleep_for(1s))));
  });
}

TEST_CASE("a body that is slower than its limit is cut short when the limit is over") {
  jumping([] {
    const coir::instant begin = now();
    CHECK(coir::await(coir::move_on_after(1s, value_after(1h, 7))) == std::nullopt);
    CHECK(now() - begin == 1s);
    CHECK_FALSE(coir::await(coir::move_on_after(1s, nothing_after(1h))));
    CHECK_FALSE(coir::move_on_after(1s, [] { coir::await(coir::sleep_for(1h)); }));
    CHECK_FALSE(coir::await(coir::move_on_after(1s, coir::sleep_for(1h))));
    CHECK(now() - begin == 4s);
    CHECK_THROWS_AS(coir::await(coir::fail_after(1s, value_after(1h, 7))), coir::timed_out);
    CHECK_THROWS_AS(coir::fail_after(1s, [] { coir::await(coir::sleep_for(1h)); }), coir::timed_out);
    CHECK(now() - begin == 6s);
  });
}

TEST_CASE("what runs out of time throws where it was said, or what the caller likes better") {
  jumping([] {
    try {
      coir::await(coir::fail_after(1s, value_after(1h, 7)));
      FAIL("it did not run out of time");
    } catch (const coir::timed_out& error) {
      CHECK(error.code() == std::errc::timed_out);
      CHECK(std::string(error.what()).find("timeout_test.cpp:") != std::string::npos);
    }
    CHECK_THROWS_AS(coir::await(coir::fail_after(1s, value_after(1h, 7), std::out_of_range("slow"))), std::out_of_range);
    CHECK_THROWS_AS(coir::fail_at(now(), [] { coir::await(coir::sleep_for(1h)); }, std::out_of_range("slow")),
                    std::out_of_range);
  });
}

TEST_CASE("what is ready at once is done, also when there is no time left") {
  jumping([] {
    CHECK(coir::await(coir::move_on_after(0s, ready(1))) == 1);
    CHECK(coir::await(coir::move_on_after(-1s, ready(2))) == 2);
    CHECK(coir::await(coir::move_on_at(now() - 1h, ready(3))) == 3);
    CHECK(coir::await(coir::move_on_at(coir::instant::min(), ready(4))) == 4);
    const coir::instant begin = now();
    CHECK_FALSE(coir::await(coir::move_on_after(0s, nothing_after(1s))));
    CHECK_FALSE(coir::await(coir::move_on_after(-1h, nothing_after(1s))));
    CHECK_FALSE(coir::await(coir::move_on_at(coir::instant::min(), nothing_after(1s))));
    CHECK(now() - begin < 1s);
  });
}

TEST_CASE("no limit is no limit") {
  jumping([] {
    CHECK(coir::await(coir::move_on_after(coir::duration::max(), value_after(1000h, 1))) == 1);
    CHECK(coir::await(coir::move_on_after(std::chrono::hours::max(), value_after(1000h, 1))) == 1);
    CHECK(coir::await(coir::move_on_at(coir::never, value_after(1000h, 2))) == 2);
    const std::chrono::duration<double> infinite(std::numeric_limits<double>::infinity());
    CHECK(coir::await(coir::fail_after(infinite, value_after(1000h, 3))) == 3);
  });
}

TEST_CASE("the timer of a limit that was kept never fires into later code") {
  jumping([] {
    CHECK(coir::await(coir::move_on_after(1s, nothing_after(1ms))));
    coir::await(coir::sleep_for(1h));
    CHECK_THROWS_AS(coir::move_on_after(1s,
                                        [] {
                                          coir::await(coir::yield());
                                          throw std::runtime_error("out");
                                        }),
                    std::runtime_error);
    CHECK(support::loop_here().census().armed == 0);
    coir::await(coir::sleep_for(1h));
  });
}

TEST_CASE("a body that never waits is not interrupted") {
  jumping([] {
    CHECK(coir::move_on_after(0s, [] { return 3; }) == 3);
    // It comes to its end, although its time is over and it was told so.
    int caught = 0;
    CHECK(coir::move_on_after(1s, [&] {
            try {
              coir::await(coir::sleep_for(1h));
            } catch (const coir::cancelled&) {
              ++caught;
            }
            return 5;
          }) == 5);
    CHECK(caught == 1);
  });
}

TEST_CASE("what a body spawned under a limit ends with it") {
  jumping([] {
    bool ran = false;
    auto alive = std::make_shared<int>(1);
    CHECK(coir::move_on_after(1h, [&] {
      coir::spawn([&ran, kept = alive] {
        ran = true;
        coir::await(coir::sleep_for(10h));
      });
      coir::await(coir::sleep_for(1s));
    }));
    CHECK(ran);
    CHECK(alive.use_count() == 1);
  });
}

TEST_CASE("references go through a limit") {
  jumping([] {
    int mine = 1;
    int* got = coir::move_on_after(1s, [&]() -> int& { return mine; });
    CHECK(got == &mine);
    int& same = coir::fail_after(1s, [&]() -> int& { return mine; });
    CHECK(&same == &mine);
  });
}

TEST_CASE("a limit ends what the kernel holds") {
  on_both([](auto s) {
    const coir::instant begin = now();
    coir::net::tcp_listener listener(coir::net::address("127.0.0.1", 0));
    CHECK_FALSE(s.get(coir::move_on_after(1s, s.body([&] { static_cast<void>(s.wait(listener.accept())); }))));
    coir::net::tcp_stream near = coir::await(coir::net::tcp_stream::connect(listener.local_address()));
    std::array<std::byte, 4> buffer;
    CHECK_FALSE(s.get(coir::move_on_after(1s, s.body([&] { static_cast<void>(s.wait(near.read_some(buffer))); }))));
    CHECK_FALSE(s.get(coir::move_on_after(1s, s.body([&] { s.wait(coir::io::read_exactly(near, buffer)); }))));
    // The result of an op that gives error codes is no place for a cancellation.
    CHECK_FALSE(s.get(coir::move_on_after(
        1s, s.body([&] { static_cast<void>(s.wait(coir::as_result(near.read_some(buffer)))); }))));
    CHECK(now() - begin == 4s);
  });
}

TEST_CASE("an op that stops later, and one that completes all the same, end a limit as what they are") {
  on_both([](auto s) {
    support::hand stops(coir::abort_answer::later);
    coir::spawn([&] {
      coir::await(coir::sleep_for(2s));
      CHECK(stops.aborts() == 1);
      stops.give_up();
    });
    bool went_on = false;
    CHECK_FALSE(s.get(coir::move_on_after(1s, s.body([&] {
      s.wait(support::hand_op(stops));
      went_on = true;
    }))));
    CHECK_FALSE(went_on);

    support::hand completes(coir::abort_answer::later);
    coir::spawn([&] {
      coir::await(coir::sleep_for(2s));
      CHECK(completes.aborts() == 1);
      completes.complete(7);
    });
    int got = 0;
    CHECK_FALSE(s.get(coir::move_on_after(1s, s.body([&] {
      got = s.wait(support::hand_op(completes));
      s.wait(coir::yield());
      went_on = true;
    }))));
    CHECK(got == 7);
    CHECK_FALSE(went_on);
  });
}
