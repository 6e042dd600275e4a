// No descriptors left: the listener pauses, and goes on when they are back.
#include <coir/coir.hpp>
#include <coir/testing/mock_clock.hpp>

#include "net/peers.hpp"

#include "fiber/until.hpp"
#include "support/both.hpp"
#include "support/catch.hpp"
#include "support/descriptor_limit.hpp"
#include "support/loop_tools.hpp"

#include <chrono>
#include <vector>

using namespace std::chrono_literals;
using coir::net::tcp_listener;
using coir::net::tcp_stream;
using support::loopback;

namespace {

// A loop whose time stands still: no pause ends unless the test says so.
template <class Condition>
void turn_until(coir::loop& loop, Condition&& reached) {
  const coir::instant limit = coir::after(coir::steady_now(), 20s);
  while (!reached()) {
    REQUIRE(coir::steady_now() < limit);
    loop.run_once();
  }
}

}  // namespace

TEST_CASE("a listener without descriptors tries once a pause, and fails nobody's accept") {
  support::leaves_no_descriptor([] {
    coir::testing::mock_clock clock(coir::testing::mock_clock::mode::by_hand);
    coir::loop loop(coir::loop_options().time(&clock));
    coir::scheduler fibers(loop);
    tcp_listener listener(loop, loopback);
    std::vector<coir::unique_fd> clients;
    for (int i = 0; i < 3; ++i) clients.push_back(support::raw_client(listener.local_address()));
    support::descriptor_limit limit(0);

    int got = 0;
    std::vector<coir::fiber<void>> waiting;
    for (int i = 0; i < 3; ++i) {
      waiting.push_back(fibers.spawn([&] {
        const tcp_stream peer = coir::await(listener.accept());
        ++got;
      }));
    }
    for (unsigned tries = 1; tries <= 4; ++tries) {
      turn_until(loop, [&] { return listener.stats().starved == tries; });
      const auto submitted = loop.stats().backend.submitted;
      support::idle_turns(loop, 200);
      clock.advance(10ms - 1ns);
      support::idle_turns(loop, 200);
      CHECK(loop.stats().backend.submitted == submitted);
      CHECK(listener.stats().starved == tries);
      clock.advance(1ns);
    }
    CHECK(got == 0);
    for (const auto& each : waiting) CHECK(support::waiting(each));

    limit.lift();
    turn_until(loop, [&] {
      clock.advance(10ms);
      return got == 3;
    });
    CHECK(listener.stats().accepted == 3);
    for (const auto& each : waiting) CHECK(each.outcome() == coir::fiber_outcome::returned);
  });
}

TEST_CASE("a starved listener does not spin") {
  coir::run([] {
    tcp_listener listener(loopback);
    const auto client = support::raw_client(listener.local_address());
    auto waiting = coir::spawn([&] { const tcp_stream peer = coir::await(listener.accept()); });
    coir::loop& here = *coir::loop::current();
    {
      const support::descriptor_limit limit(0);
      coir::await(coir::yield());
      const coir::instant began = coir::steady_now();
      const auto before = here.stats();
      coir::await(coir::sleep_for(60ms));
      const auto after = here.stats();
      // However late this fiber wakes: one try in 10 ms, and two turns for each at most.
      const auto tries = static_cast<std::uint64_t>((coir::steady_now() - began) / 10ms) + 2;
      CHECK(listener.stats().starved >= 1);
      CHECK(listener.stats().starved <= tries);
      CHECK(after.turns - before.turns <= 3 * tries + 3);
      CHECK(after.backend.enters - before.backend.enters <= 3 * tries + 3);
    }
    coir::await(waiting.join());
  });
}

TEST_CASE("every descriptor that comes back is used for one of those who wait") {
  support::leaves_no_descriptor([] {
    support::on_both_surfaces([](auto wait) {
      tcp_listener listener(loopback);
      std::vector<coir::unique_fd> clients;
      for (int i = 0; i < 6; ++i) clients.push_back(support::raw_client(listener.local_address()));
      const support::descriptor_limit limit(2);
      std::vector<tcp_stream> accepted;
      auto acceptor = coir::spawn([&] {
        for (int i = 0; i < 6; ++i) accepted.push_back(wait(listener.accept()));
      });
      support::until([&] { return listener.stats().starved > 0 && accepted.size() == 2; });
      for (std::size_t closed = 0; closed < 4; ++closed) {
        { const tcp_stream gone = std::move(accepted[closed]); }
        support::until([&] { return accepted.size() == closed + 3; });
      }
      coir::await(acceptor.join());
      CHECK(listener.stats().accepted == 6);
    });
  });
}

TEST_CASE("a starved listener can be given up, and destroyed, in its pause") {
  support::leaves_no_descriptor([] {
    support::on_both_surfaces([](auto wait) {
      for (const bool destroy_first : {false, true}) {
        std::optional<tcp_listener> listener(std::in_place, loopback);
        const auto client = support::raw_client(listener->local_address());
        std::error_code code;
        auto waiting = coir::spawn([&] {
          code = support::error_of([&] { wait(listener->accept()); });
        });
        {
          const support::descriptor_limit limit(0);
          support::until([&] { return listener->stats().starved > 0; });
          if (destroy_first) listener.reset();
          else waiting.cancel();
          support::until([&] { return support::dead(waiting); });
        }
        if (destroy_first) CHECK(code == std::errc::bad_file_descriptor);
        else CHECK(wait(listener->accept()));
      }
    });
  });
}

TEST_CASE("a listener may outlive its loop, in its pause and with connections nobody took") {
  support::leaves_no_descriptor([] {
    std::vector<coir::unique_fd> clients;
    std::optional<tcp_listener> outlives;
    {
      coir::loop loop;
      coir::scheduler fibers(loop);
      outlives.emplace(loop, loopback);
      for (int i = 0; i < 3; ++i) clients.push_back(support::raw_client(outlives->local_address()));
      auto waiting = fibers.spawn([&] { const tcp_stream peer = coir::await(outlives->accept()); });
      support::run_until(loop, [&] { return support::dead(waiting); });
      // Where connections are accepted ahead, there are some now.
      support::idle_turns(loop);
      const support::descriptor_limit limit(0);
      clients.clear();
      support::idle_turns(loop);
    }
    outlives.reset();
  });
  support::leaves_no_descriptor([] {
    std::optional<tcp_listener> outlives;
    {
      coir::loop loop;
      coir::scheduler fibers(loop);
      outlives.emplace(loop, loopback);
      const auto client = support::raw_client(outlives->local_address());
      auto waiting = fibers.spawn([&] { const tcp_stream peer = coir::await(outlives->accept()); });
      const support::descriptor_limit limit(0);
      support::run_until(loop, [&] { return outlives->stats().starved > 0; });
      waiting.cancel();
      support::run_until(loop, [&] { return support::dead(waiting); });
    }
    outlives.reset();
  });
}

TEST_CASE("a connection that there is no descriptor for is refused where it is made") {
  coir::run([] {
    const tcp_listener listener(loopback);
    const support::descriptor_limit limit(0);
    try {
      static_cast<void>(tcp_stream::connect(listener.local_address()));
      FAIL("connected without a descriptor");
    } catch (const std::system_error& error) {
      CHECK(error.code() == std::errc::too_many_files_open);
      CHECK(std::string(error.what()).find(listener.local_address().to_string()) !=
            std::string::npos);
    }
    CHECK_THROWS_AS(tcp_listener(loopback), std::system_error);
  });
}
