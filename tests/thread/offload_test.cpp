// What a fiber gets of a call that it has made elsewhere, on both surfaces.
#include "turnstile.hpp"

#include "support/both.hpp"
#include "support/catch.hpp"
#include "support/counted_heap.hpp"

#include <coir/coir.hpp>
#include <coir/testing/mock_clock.hpp>

#include <atomic>
#include <memory>
#include <stdexcept>
#include <stop_token>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

using Catch::Matchers::Contains;
using coir::await;
using coir::offload;
using coir::pool;
using coir::pool_options;
using support::on_both_surfaces;
using support::opened_at_end;
using support::turnstile;
using namespace std::chrono_literals;

namespace {

coir::loop& loop_here() { return coir::running_fiber().home().on(); }

template <class Condition>
void until(Condition&& holds) {
  const coir::instant limit = coir::after(coir::steady_now(), 20s);
  while (!holds()) {
    if (coir::steady_now() > limit) FAIL("what was waited for does not happen");
    await(coir::yield());
  }
}

int blocking_call() { return 7; }
int failing_call() { throw std::runtime_error("no route"); }
int refused_call() { throw std::system_error(std::make_error_code(std::errc::connection_refused)); }

// The shapes of the card, as a user writes them.
coir::task<int> as_in_the_card(pool& threads) {
  int v = co_await coir::offload(threads, blocking_call);
  co_await coir::offload(threads, [&](std::stop_token asked) {
    if (!asked.stop_requested()) ++v;
  });
  v += co_await coir::offload(threads, blocking_call, coir::abandon);
  if (auto got = co_await coir::try_offload(threads, blocking_call)) v += *got;
  co_return v;
}

}  // namespace

TEST_CASE("a call on a pool's thread gives the fiber its value") {
  pool threads;
  on_both_surfaces([&](auto wait) {
    CHECK(wait(offload(threads, blocking_call)) == 7);
    CHECK(wait(offload(threads, [] { return std::make_unique<int>(8); })) != nullptr);
    CHECK(wait(offload(threads, [] { return std::string("nine"); }, coir::abandon)) == "nine");
    CHECK(wait(offload(threads, blocking_call, coir::wait_for_it)) == 7);
    CHECK(wait(coir::try_offload(threads, blocking_call)) == 7);
    CHECK(wait(coir::try_offload(threads, [] {})));
    bool called = false;
    wait(offload(threads, [&] { called = true; }));
    CHECK(called);
  });
  CHECK(coir::run(as_in_the_card(threads)) == 22);
}

TEST_CASE("a call gives a reference as one") {
  pool threads;
  coir::run([&] {
    int value = 7;
    int& same = await(offload(threads, [&]() -> int& { return value; }));
    CHECK(&same == &value);
    CHECK(await(coir::try_offload(threads, [&]() -> int& { return value; })) == &value);
  });
}

TEST_CASE("what a call throws the fiber gets, or its error code") {
  pool threads;
  on_both_surfaces([&](auto wait) {
    CHECK_THROWS_WITH(wait(offload(threads, failing_call)), "no route");
    CHECK_THROWS_WITH(wait(offload(threads, failing_call, coir::abandon)), "no route");
    CHECK_THROWS_WITH(wait(coir::try_offload(threads, failing_call)), "no route");
    const auto refused = wait(coir::as_result(offload(threads, refused_call)));
    REQUIRE_FALSE(refused.has_value());
    CHECK(refused.error() == std::errc::connection_refused);
    CHECK(wait(coir::as_result(offload(threads, blocking_call))) == 7);
  });
}

TEST_CASE("the call runs on another thread, which sees what was written before it, and is seen afterwards") {
  pool threads;
  on_both_surfaces([&](auto wait) {
    int plain = 1;
    std::thread::id where;
    wait(offload(threads, [&] {
      where = std::this_thread::get_id();
      ++plain;
    }));
    CHECK(plain == 2);
    CHECK(where != std::this_thread::get_id());
  });
}

TEST_CASE("a function that has a name stays where it is, unless the call may be abandoned") {
  struct counting {
    int calls = 0;
    int operator()() { return ++calls; }
  };
  pool threads;
  coir::run([&] {
    counting mine;
    CHECK(await(offload(threads, mine)) == 1);
    CHECK(await(offload(threads, mine)) == 2);
    CHECK(await(offload(threads, mine, coir::abandon)) == 3);
    CHECK(mine.calls == 2);
    CHECK(await(offload(threads, std::move(mine))) == 3);
    CHECK(mine.calls == 2);
  });
}

TEST_CASE("the loop goes on while a call blocks, and a fiber that waits for it is no deadlock") {
  turnstile gate;
  pool threads;
  on_both_surfaces([&](auto wait) {
    gate.close();
    auto opener = coir::spawn([&] {
      // Nothing else is there that could wake the loop.
      await(coir::sleep_for(1ms));
      gate.open();
    });
    wait(offload(threads, [&] { gate.pass(); }));
    await(opener.join());
    // Not even a timer.
    coir::loop& here = loop_here();
    std::atomic<std::uint64_t> turns = here.stats().turns;
    wait(offload(threads, [&] {
      turnstile heard;
      here.post([&] { heard.open(); });
      heard.pass();
    }));
    CHECK(here.stats().turns > turns);
    CHECK(here.census().holds == 0);
  });
}

TEST_CASE("a clock that jumps when everything waits does not while a call runs") {
  pool threads;
  coir::testing::mock_clock clock;
  coir::run(
      [&] {
        coir::loop& here = loop_here();
        const coir::instant before = here.time();
        coir::instant then{};
        auto sleeper = coir::spawn([&] {
          await(coir::sleep_for(1h));
          then = here.time();
        });
        await(offload(threads, [&] {
          // Two turns of the loop lie behind it then, in which nothing was ready.
          for (int i = 0; i < 2; ++i) {
            turnstile heard;
            here.post([&] { heard.open(); });
            heard.pass();
          }
        }));
        CHECK(here.time() == before);
        await(sleeper.join());
        CHECK(then - before == 1h);
      },
      coir::run_options().loop(coir::loop_options().time(&clock)));
}

TEST_CASE("a fiber that waits for a full pool waits in its turn; who does not wait is told no") {
  turnstile gate;
  pool threads(pool_options().threads(1).queue(2));
  on_both_surfaces([&](auto wait) {
    gate.close();
    std::vector<int> order;
    auto first = coir::spawn([&] { await(offload(threads, [&] { gate.pass(); })); });
    const opened_at_end open(gate);
    until([&] { return threads.stats().idle == 0 && first.state() == coir::fiber_state::waiting; });
    gate.until_inside(1);
    std::vector<coir::fiber<void>> waiting;
    for (int i = 0; i < 5; ++i) {
      waiting.push_back(coir::spawn([&threads, &order, wait, i] { wait(offload(threads, [&order, i] { order.push_back(i); })); }));
    }
    until([&] { return waiting.back().state() == coir::fiber_state::waiting; });
    CHECK(threads.stats().queued == 2);
    CHECK(threads.stats().waiting == 3);
    CHECK_FALSE(wait(coir::try_offload(threads, [] {})));
    CHECK_FALSE(wait(coir::try_offload(threads, blocking_call)).has_value());
    CHECK_FALSE(threads.try_post([] {}));
    // One in the middle gives up its place.
    waiting[3].cancel();
    CHECK(threads.stats().waiting == 2);
    gate.open();
    for (auto& each : waiting) static_cast<void>(await(coir::as_result(coir::end_op(each))));
    CHECK(order == std::vector{0, 1, 2, 4});
  });
}

TEST_CASE("waiting for a call allocates nothing") {
  pool threads;
  coir::run([&] {
    const auto call = [&] { return 7; };
    for (int i = 0; i < 3; ++i) static_cast<void>(await(offload(threads, call)));
    const long before = support::heap.allocations;
    for (int i = 0; i < 100; ++i) static_cast<void>(await(offload(threads, call)));
    CHECK(support::heap.allocations == before);
    // One that can be abandoned lies on the heap.
    for (int i = 0; i < 100; ++i) static_cast<void>(await(offload(threads, call, coir::abandon)));
    if (support::heap_is_counted) CHECK(support::heap.allocations == before + 100);
  });
}

TEST_CASE("a list of fibers says which pool one waits for, and whether its call has begun") {
  turnstile gate;
  pool threads(pool_options().threads(1).name("files"));
  coir::run([&] {
    const opened_at_end open(gate);
    const auto blocked = [&] { gate.pass(); };
    auto first = coir::spawn([&] { await(offload(threads, blocked)); });
    until([&] { return first.state() == coir::fiber_state::waiting; });
    gate.until_inside(1);
    std::vector<coir::fiber<void>> others;
    for (int i = 0; i < 3; ++i) others.push_back(coir::spawn([&] { await(offload(threads, blocked, coir::abandon)); }));
    until([&] { return others.back().state() == coir::fiber_state::waiting; });
    const std::string all = coir::describe(coir::running_fiber().home());
    CHECK_THAT(all, Contains("waiting in offload to pool files, begun at "));
    CHECK_THAT(all, Contains("waiting in offload, abandonable to pool files, not begun, behind 2 at "));
    for (auto& each : others) each.cancel();
    gate.open();
  });
}

TEST_CASE("when a pool ends, fibers whose calls have not begun are told, and those whose calls run get the result") {
  on_both_surfaces([&](auto wait) {
    turnstile gate;
    auto threads = std::make_unique<pool>(pool_options().threads(1).name("short-lived"));
    auto running = coir::spawn([&] {
      return wait(offload(*threads, [&] {
        gate.pass();
        return 7;
      }));
    });
    until([&] { return running.state() == coir::fiber_state::waiting; });
    gate.until_inside(1);
    std::vector<std::string> said;
    const auto expect_refusal = [&](auto what) {
      try {
        static_cast<void>(wait(std::move(what)));
      } catch (const std::system_error& error) {
        if (error.code() == std::errc::operation_canceled) said.emplace_back(error.what());
      }
    };
    auto second = coir::spawn([&] { expect_refusal(offload(*threads, blocking_call)); });
    auto third = coir::spawn([&] { expect_refusal(offload(*threads, blocking_call, coir::abandon)); });
    until([&] { return third.state() == coir::fiber_state::waiting; });
    const auto last = std::make_shared<int>();
    threads->post([last] {});
    std::thread opener([&] {
      // It is dropped while the first call runs.
      while (last.use_count() != 1) std::this_thread::yield();
      gate.open();
    });
    threads.reset();
    opener.join();
    await(second.join());
    await(third.join());
    CHECK(await(running.join()) == 7);
    REQUIRE(said.size() == 2);
    CHECK_THAT(said[0], Contains("pool short-lived, which ended before the job began"));
    CHECK(said[1] == said[0]);
  });
}

TEST_CASE("a call is no fiber: what it awaits is refused") {
  pool threads;
  on_both_surfaces([&](auto wait) {
    CHECK_THROWS_AS(wait(offload(threads, [] { await(coir::sleep_for(1ms)); })), std::logic_error);
  });
}

TEST_CASE("loops on several threads share a pool, and each fiber gets what is its own") {
  pool threads(pool_options().threads(3));
  std::atomic<int> wrong = 0;
  const auto work = [&](int from) {
    coir::run([&] {
      std::vector<coir::fiber<void>> all;
      for (int i = 0; i < 50; ++i) {
        all.push_back(coir::spawn([&, i] {
          for (int j = 0; j < 20; ++j) {
            const auto where = std::this_thread::get_id();
            const int got = await(offload(threads, [=] { return from + i + j; }));
            if (got != from + i + j || where != std::this_thread::get_id()) ++wrong;
          }
        }));
      }
      for (auto& each : all) await(each.join());
    });
  };
  std::thread other(work, 1000);
  work(2000);
  other.join();
  CHECK(wrong == 0);
  CHECK(threads.stats().done == 2000);
}

TEST_CASE("a run that ends with what a call brings may be gone before the call's thread has gone back") {
  pool threads(pool_options().threads(2));
  for (int i = 0; i < 500; ++i) {
    CHECK(coir::run([&] { return await(offload(threads, blocking_call)); }) == 7);
  }
}
