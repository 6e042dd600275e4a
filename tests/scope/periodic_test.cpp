#include "busy.hpp"

#include "fiber/counted.hpp"
#include "fiber/until.hpp"
#include "support/catch.hpp"

#include <coir/coir.hpp>
#include <coir/testing/mock_clock.hpp>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

using namespace std::chrono_literals;
using coir::fiber_outcome;
using coir::fiber_state;
using coir::flow;
using coir::task;
using coir::testing::mock_clock;
using support::counted;
using support::loop_here;
using support::on;
using support::record;

namespace {

using times = std::vector<coir::duration>;
using missed_slots = std::uint64_t;
using round_body = std::function<flow(missed_slots)>;

// A loop whose rounds are plain functions, and the same with rounds that are tasks. The latter stands on a
// stack too, so that one text serves both; what is awaited is a task and nothing else.
struct plain {
  static constexpr const char* name = "on a stack";
  template <class Duration>
  static void every(Duration interval, round_body body) {
    coir::every(interval, body);
  }
  template <class Limit, class... Count>
  static void throttled_loop(Limit&& limit, round_body body, Count... count) {
    coir::throttled_loop(limit, body, count...);
  }
  static auto spin_loop(round_body body) { return coir::spin_loop(std::move(body)); }
  static auto spin_loop(coir::duration interval, round_body body) {
    return coir::spin_loop(interval, std::move(body));
  }
  static auto after(coir::duration delay, std::function<int()> body) {
    return coir::after(delay, std::move(body));
  }
};

struct in_task {
  static constexpr const char* name = "in a task";
  static auto wrap(round_body& body) {
    return [&body](missed_slots missed) -> task<flow> { co_return body(missed); };
  }
  static auto wrap_for_spawn(round_body body) {
    return [body = std::move(body)](missed_slots missed) mutable -> task<flow> { co_return body(missed); };
  }
  template <class Duration>
  static void every(Duration interval, round_body body) {
    auto wrapped = wrap(body);
    coir::await(coir::every(interval, wrapped));
  }
  template <class Limit, class... Count>
  static void throttled_loop(Limit&& limit, round_body body, Count... count) {
    auto wrapped = wrap(body);
    coir::await(coir::throttled_loop(limit, wrapped, count...));
  }
  static auto spin_loop(round_body body) { return coir::spin_loop(wrap_for_spawn(std::move(body))); }
  static auto spin_loop(coir::duration interval, round_body body) {
    return coir::spin_loop(interval, wrap_for_spawn(std::move(body)));
  }
  static auto after(coir::duration delay, std::function<int()> body) {
    return coir::after(delay, [body = std::move(body)]() -> task<int> { co_return body(); });
  }
};

template <class Test>
void on_both(Test&& test) {
  {
    INFO(plain::name);
    test(plain());
  }
  {
    INFO(in_task::name);
    test(in_task());
  }
}

// A test of loops on a clock that jumps.
template <class Test>
void on_both_jumping(Test&& test) {
  on_both([&](auto surface) {
    mock_clock clock;
    coir::run([&] { test(surface, clock); }, on(clock));
  });
}

flow leave_if(bool over) { return over ? flow::leave : flow::go_on; }

template <class Call>
std::string refusal(Call call) {
  try {
    call();
  } catch (const std::logic_error& error) {
    return error.what();
  }
  return "nothing was refused";
}

}  // namespace

// --- every ---

TEST_CASE("every: the first call is after one interval, and then there is one at each point of the grid") {
  on_both_jumping([](auto surface, mock_clock& clock) {
    record at(clock);
    surface.every(10ms, [&](missed_slots missed) {
      CHECK(missed == 0);
      at();
      return leave_if(at.times.size() == 5);
    });
    CHECK(at.times == times{10ms, 20ms, 30ms, 40ms, 50ms});
    CHECK(loop_here().timers() == 0);
  });
}

TEST_CASE("every: a body that takes less than the interval does not move the grid") {
  on_both_jumping([](auto surface, mock_clock& clock) {
    record at(clock);
    surface.every(10ms, [&](missed_slots missed) {
      CHECK(missed == 0);
      at();
      clock.advance(9'999'999ns);
      return leave_if(at.times.size() == 3);
    });
    CHECK(at.times == times{10ms, 20ms, 30ms});
  });
}

TEST_CASE("every: points that a slow body missed are skipped; the next call waits for the next point") {
  on_both_jumping([](auto surface, mock_clock& clock) {
    record at(clock);
    std::vector<missed_slots> missed_before;
    surface.every(10ms, [&](missed_slots missed) {
      at();
      missed_before.push_back(missed);
      if (at.times.size() == 2) clock.advance(25ms);
      return leave_if(at.times.size() == 4);
    });
    CHECK(at.times == times{10ms, 20ms, 50ms, 60ms});
    CHECK(missed_before == std::vector<missed_slots>{0, 0, 2, 0});
  });
}

TEST_CASE("every: a body five times slower than the interval is called at every fifth point, and never in a burst") {
  on_both_jumping([](auto surface, mock_clock& clock) {
    record at(clock);
    bool other_ran = true;
    surface.every(10ms, [&](missed_slots missed) {
      CHECK(missed == (at.times.empty() ? 0 : 4));
      at();
      // One yield or more lies between two calls.
      CHECK(std::exchange(other_ran, false));
      coir::spawn([&] { other_ran = true; });
      clock.advance(50ms);
      return leave_if(at.times.size() == 4);
    });
    CHECK(at.times == times{10ms, 60ms, 110ms, 160ms});
  });
}

TEST_CASE("every: a body that waits is as slow as what it waits for") {
  mock_clock clock;
  coir::run(
      [&]() -> task<> {
        record at(clock);
        co_await coir::every(10ms, [&]() -> task<flow> {
          at();
          co_await coir::sleep_for(12ms);
          co_return leave_if(at.times.size() == 3);
        });
        CHECK(at.times == times{10ms, 30ms, 50ms});
      },
      on(clock));
}

TEST_CASE("every: nothing drifts: 1000 ticks later a call is at its point, whatever the bodies took") {
  on_both_jumping([](auto surface, mock_clock& clock) {
    std::mt19937 random(7);
    record at(clock);
    std::uint64_t points = 0;
    int calls = 0;
    surface.every(333'333ns, [&](missed_slots missed) {
      points += 1 + missed;
      REQUIRE(at.passed() == points * 333'333ns);
      clock.advance(std::chrono::nanoseconds(random() % 400'000));
      return leave_if(++calls == 1000);
    });
    CHECK(points > 1000);
  });
}

TEST_CASE("every: in a turn that took too long there is one call, late, and the grid stays where it was") {
  on_both([](auto surface) {
    mock_clock clock(mock_clock::mode::by_hand);
    coir::run(
        [&] {
          record at(clock);
          std::vector<missed_slots> missed_before;
          auto ticking = coir::spawn([&] {
            surface.every(10ms, [&](missed_slots missed) {
              at();
              missed_before.push_back(missed);
              return flow::go_on;
            });
          });
          const auto calls_after = [&](coir::duration by) {
            support::until([turns = 0]() mutable { return ++turns == 600; });
            clock.advance(by);
            support::until([turns = 0]() mutable { return ++turns == 600; });
            return at.times.size();
          };
          CHECK(calls_after(9ms) == 0);
          CHECK(calls_after(26ms) == 1);
          CHECK(calls_after(4ms) == 1);
          CHECK(calls_after(1ms) == 2);
          CHECK(at.times == times{35ms, 40ms});
          CHECK(missed_before == std::vector<missed_slots>{2, 0});
          ticking.cancel();
        },
        on(clock));
  });
}

TEST_CASE("every: two loops of the same interval keep their order") {
  mock_clock clock;
  coir::run(
      [&] {
        std::string order;
        const auto beat = [&](char mine) {
          return [&order, mine, n = 0]() mutable {
            order += mine;
            return leave_if(++n == 4);
          };
        };
        auto one = coir::spawn([&] { coir::every(10ms, beat('1')); });
        auto two = coir::spawn([&] { coir::every(10ms, beat('2')); });
        coir::await(one.join());
        coir::await(two.join());
        CHECK(order == "12121212");
      },
      on(clock));
}

TEST_CASE("every: on the real clock no call comes before its point") {
  on_both([](auto surface) {
    coir::run([&] {
      const coir::instant before = coir::steady_now();
      std::uint64_t points = 0;
      int calls = 0;
      surface.every(500us, [&](missed_slots missed) {
        points += 1 + missed;
        CHECK(coir::steady_now() >= before + points * 500us);
        return leave_if(++calls == 20);
      });
    });
  });
}

// --- ways out, for every and throttled_loop alike ---

namespace {

// Each kind of loop, as a function of its body.
template <class Test>
void with_each_loop(Test&& test) {
  on_both_jumping([&](auto surface, mock_clock& clock) {
    using surface_type = decltype(surface);
    const auto every = [](round_body body) { surface_type::every(10ms, std::move(body)); };
    const auto throttled = [](round_body body) { surface_type::throttled_loop(10ms, std::move(body)); };
    const auto shared = [](round_body body) {
      coir::throttler limit(10ms);
      surface_type::throttled_loop(limit, std::move(body));
    };
    const auto spun = [](round_body body) {
      auto spinning = surface_type::spin_loop(std::move(body));
      coir::await(spinning.join());
    };
    const auto spun_slowly = [](round_body body) {
      auto spinning = surface_type::spin_loop(10ms, std::move(body));
      coir::await(spinning.join());
    };
    for (const auto& loop :
         std::initializer_list<std::function<void(round_body)>>{every, throttled, shared, spun, spun_slowly}) {
      test(loop, clock);
    }
  });
}

}  // namespace

TEST_CASE("a loop is left when its body says so, and that round is the last") {
  with_each_loop([](auto loop, mock_clock&) {
    int rounds = 0;
    loop([&](missed_slots) { return leave_if(++rounds == 3); });
    CHECK(rounds == 3);
    rounds = 0;
    loop([&](missed_slots) { return leave_if(++rounds == 1); });
    CHECK(rounds == 1);
    coir::await(coir::sleep_for(1s));
    CHECK(rounds == 1);
    CHECK(loop_here().timers() == 0);
  });
}

TEST_CASE("an exception of the body leaves the loop") {
  with_each_loop([](auto loop, mock_clock&) {
    int rounds = 0;
    const auto failing = [&](missed_slots) -> flow {
      if (++rounds == 3) throw std::runtime_error("third round");
      return flow::go_on;
    };
    CHECK_THROWS_WITH(loop(failing), "third round");
    CHECK(rounds == 3);
    CHECK(loop_here().timers() == 0);
  });
}

TEST_CASE("a loop whose fiber is cancelled between two rounds ends at once, without another one") {
  with_each_loop([](auto loop, mock_clock& clock) {
    int rounds = 0;
    auto looping = coir::spawn([&] {
      loop([&](missed_slots) {
        ++rounds;
        clock.advance(1ms);
        return flow::go_on;
      });
    });
    coir::await(coir::sleep_for(25ms));
    looping.cancel();
    const int before = rounds;
    CHECK(before >= 2);
    coir::await(coir::end_op(looping));
    CHECK(looping.outcome() == fiber_outcome::cancelled);
    CHECK(rounds == before);
    CHECK(loop_here().timers() == 0);
  });
}

TEST_CASE("a loop whose fiber is cancelled in its body ends after that round") {
  with_each_loop([](auto loop, mock_clock&) {
    int rounds = 0;
    auto looping = coir::spawn([&] {
      coir::fiber_base& self = coir::running_fiber();
      loop([&](missed_slots) {
        if (++rounds == 2) self.cancel();
        return flow::go_on;
      });
    });
    coir::await(coir::end_op(looping));
    CHECK(looping.outcome() == fiber_outcome::cancelled);
    CHECK(rounds == 2);
  });
}

TEST_CASE("a loop whose fiber is cancelled when its next round is due already does not begin that") {
  on_both([](auto surface) {
    mock_clock clock(mock_clock::mode::by_hand);
    coir::run(
        [&] {
          int rounds = 0;
          auto looping = coir::spawn([&] {
            surface.every(10ms, [&](missed_slots) {
              ++rounds;
              return flow::go_on;
            });
          });
          support::until([&] { return support::waiting(looping); });
          // In the same turn, after the point of the grid.
          auto limit = loop_here().after(10ms, [&] { looping.cancel(); });
          clock.advance(10ms);
          coir::await(coir::end_op(looping));
          CHECK(looping.outcome() == fiber_outcome::cancelled);
          CHECK(rounds == 0);
        },
        on(clock));
  });
}

TEST_CASE("a loop whose body swallows the cancellation ends all the same") {
  mock_clock clock;
  coir::run(
      [&] {
        int swallowed = 0;
        auto looping = coir::spawn([&] {
          coir::every(10ms, [&] {
            try {
              coir::await(coir::sleep_for(1h));
            } catch (const coir::cancelled&) {
              ++swallowed;
            }
          });
        });
        coir::await(coir::sleep_for(1s));
        looping.cancel();
        coir::await(coir::end_op(looping));
        CHECK(looping.outcome() == fiber_outcome::cancelled);
        CHECK(swallowed == 1);
      },
      on(clock));
}

// --- bodies ---

TEST_CASE("a body returns nothing or a flow, itself or by a task, and takes how many were missed or nothing") {
  mock_clock clock;
  coir::run(
      [&]() -> task<> {
        int rounds = 0;
        const auto nothing = [&] { ++rounds; };
        const auto nothing_missed = [&](missed_slots) { ++rounds; };
        const auto says = [&] { return leave_if(++rounds % 2 == 0); };
        const auto says_missed = [&](missed_slots) { return leave_if(++rounds % 2 == 0); };
        auto on_stack = [&] {
          coir::throttled_loop(1ms, nothing, 2);
          coir::throttled_loop(1ms, nothing_missed, 2);
          coir::throttled_loop(1ms, says);
          coir::throttled_loop(1ms, says_missed);
        };
        co_await coir::on_stack(on_stack);
        CHECK(rounds == 8);

        const auto task_of_nothing = [&]() -> task<> {
          ++rounds;
          co_await coir::yield();
        };
        const auto task_of_nothing_missed = [&](missed_slots) -> task<> {
          ++rounds;
          co_await coir::yield();
        };
        const auto task_says = [&]() -> task<flow> {
          co_await coir::yield();
          co_return leave_if(++rounds % 2 == 0);
        };
        const auto task_says_missed = [&](missed_slots) -> task<flow> {
          co_await coir::yield();
          co_return leave_if(++rounds % 2 == 0);
        };
        co_await coir::throttled_loop(1ms, task_of_nothing, 2);
        co_await coir::throttled_loop(1ms, task_of_nothing_missed, 2);
        co_await coir::throttled_loop(1ms, task_says);
        co_await coir::throttled_loop(1ms, task_says_missed);
        CHECK(rounds == 16);
      },
      on(clock));
}

TEST_CASE("a named body is used where it stands: what it keeps is there afterwards") {
  mock_clock clock;
  coir::run(
      [&]() -> task<> {
        struct counter {
          explicit counter(int start) : own(std::make_unique<int>(start)) {}
          task<flow> operator()() { co_return leave_if(++*own == 3); }
          std::unique_ptr<int> own;
        };
        counter body(0);
        co_await coir::every(1ms, body);
        CHECK(*body.own == 3);
      },
      on(clock));
}

TEST_CASE("a task of a loop does nothing before it is awaited, and its grid begins there") {
  mock_clock clock;
  coir::run(
      [&]() -> task<> {
        int rounds = 0;
        auto loop = coir::every(10ms, [&]() -> task<flow> { co_return leave_if(++rounds == 2); });
        co_await coir::sleep_for(1s);
        CHECK(rounds == 0);
        record at(clock);
        co_await std::move(loop);
        CHECK(rounds == 2);
        CHECK(at.passed() == 20ms);
      },
      on(clock));
}

TEST_CASE("bodies with captures of every kind are destroyed once, whichever way they are given") {
  mock_clock clock;
  coir::run(
      [&]() -> task<> {
        const counted shared(1);
        auto named = [copy = shared]() -> task<flow> { co_return leave_if(copy.value == 1); };
        co_await coir::every(1ms, named);
        co_await coir::throttled_loop(1ms, named);
        int rounds = 0;
        co_await coir::every(1ms, [&rounds, step = 1]() -> task<flow> {
          rounds += step;
          co_return leave_if(rounds == 2);
        });
        auto spinning = coir::spin_loop([copy = shared]() -> task<flow> { co_return leave_if(copy.value == 1); });
        co_await spinning.join();
        auto slowly = coir::spin_loop(1ms, [copy = shared]() -> task<flow> { co_return leave_if(copy.value == 1); });
        co_await slowly.join();
        auto once = coir::after(1ms, [copy = shared]() -> task<int> { co_return copy.value; });
        const int by_task = co_await once.join();
        CHECK(by_task == 1);
        auto plainly = coir::after(1ms, [copy = shared] { return copy.value; });
        const int by_call = co_await plainly.join();
        CHECK(by_call == 1);
        auto never_called = coir::after(1h, [copy = shared] { return copy.value; });
        co_await coir::yield();
        never_called.cancel();
      },
      on(clock));
  CHECK(counted::alive == 0);
}

// --- misuse ---

TEST_CASE("an interval that is not more than nothing, or without end, is refused before anything is called") {
  on_both_jumping([](auto surface, mock_clock&) {
    const auto refused = [&](auto interval) {
      int rounds = 0;
      const round_body body = [&](missed_slots) {
        ++rounds;
        return flow::leave;
      };
      CHECK(refusal([&] { surface.every(interval, body); }).find("an interval of ") == 0);
      CHECK(refusal([&] { surface.throttled_loop(interval, body); }).find("an interval of ") == 0);
      CHECK(refusal([&] { surface.throttled_loop(interval, body, 0U); }).find("an interval of ") == 0);
      CHECK(refusal([&] { coir::spin_loop(interval, body); }).find("an interval of ") == 0);
      CHECK(rounds == 0);
    };
    refused(0s);
    refused(-1ns);
    refused(coir::duration::max());
    refused(std::chrono::duration<double>(std::numeric_limits<double>::infinity()));
    refused(std::chrono::duration<double>(std::numeric_limits<double>::quiet_NaN()));
  });
}

TEST_CASE("a task of a loop refuses its interval when it is made, not when it is awaited") {
  const auto body = []() -> task<> { co_return; };
  CHECK(refusal([&] { static_cast<void>(coir::every(0s, body)); }).find("an interval of 0 s") == 0);
}

TEST_CASE("a plain body where there is no stack, or no fiber, is an error that says what to write") {
  int rounds = 0;
  const auto body = [&] { ++rounds; };
  coir::run([&]() -> task<> {
    const int before = rounds;
    CHECK(refusal([&] { coir::every(1ms, body); }).find("coir::await needs a stack") == 0);
    CHECK(refusal([&] { coir::throttled_loop(1ms, body); }).find("co_await coir::on_stack(...)") !=
          std::string::npos);
    co_await coir::yield();
    CHECK(rounds == before);
  });
  CHECK_THROWS_AS(coir::every(1ms, body), std::logic_error);
  CHECK_THROWS_AS(coir::throttled_loop(1ms, body), std::logic_error);
  CHECK_THROWS_AS(coir::spin_loop(body), std::logic_error);
  CHECK_THROWS_AS(coir::after(1ms, body), std::logic_error);
  CHECK(rounds == 0);
}

// --- throttled_loop ---

TEST_CASE("throttled_loop: fifty a second, five times: at once, and then four intervals") {
  on_both_jumping([](auto surface, mock_clock& clock) {
    record at(clock);
    surface.throttled_loop(
        coir::per_second(50),
        [&](missed_slots) {
          at();
          return flow::go_on;
        },
        5U);
    CHECK(at.times == times{0ms, 20ms, 40ms, 60ms, 80ms});
    CHECK(at.passed() == 80ms);
  });
}

TEST_CASE("throttled_loop: a count of zero is no round, and takes no slot") {
  on_both_jumping([](auto surface, mock_clock&) {
    int rounds = 0;
    const round_body body = [&](missed_slots) {
      ++rounds;
      return flow::go_on;
    };
    coir::throttler limit(1ms);
    surface.throttled_loop(limit, body, 0U);
    surface.throttled_loop(1ms, body, 0U);
    CHECK(rounds == 0);
    CHECK(limit.stats().taken == 0);
  });
}

TEST_CASE("throttled_loop: a slow body takes the slot that it ends in, and skips those it lay across") {
  on_both_jumping([](auto surface, mock_clock& clock) {
    record at(clock);
    std::vector<missed_slots> missed_before;
    surface.throttled_loop(
        10ms,
        [&](missed_slots missed) {
          at();
          missed_before.push_back(missed);
          if (at.times.size() == 2) clock.advance(35ms);
          return flow::go_on;
        },
        5U);
    CHECK(at.times == times{0ms, 10ms, 45ms, 50ms, 60ms});
    CHECK(missed_before == std::vector<missed_slots>{0, 0, 2, 0, 0});
  });
}

TEST_CASE("throttled_loop: one whose body never waits lets others run in every round, and ends on time") {
  on_both([](auto surface) {
    for (const auto work : {0ns, 700'000ns, 7'000'000ns}) {
      mock_clock clock;
      coir::run(
          [&] {
            record at(clock);
            int rounds = 0;
            int others = 0;
            auto looping = coir::spawn([&] {
              surface.throttled_loop(1ms, [&](missed_slots) {
                CHECK(others == rounds++);
                coir::spawn([&] { ++others; });
                clock.advance(work);
                return flow::go_on;
              });
            });
            // What a limit around it does.
            auto limit = loop_here().after(100ms, [&] { looping.cancel(); });
            coir::await(coir::end_op(looping));
            CHECK(looping.outcome() == fiber_outcome::cancelled);
            // The round that is under way when the time is over is the last.
            CHECK(at.passed() >= 100ms);
            CHECK(at.passed() < 100ms + std::max<coir::duration>(work, 1ns));
            CHECK(rounds >= (work > 1ms ? 15 : 100));
          },
          on(clock));
    }
  });
}

TEST_CASE("throttled_loop: loops with one throttler share its slots in turn") {
  on_both_jumping([](auto surface, mock_clock& clock) {
    coir::throttler limit(10ms);
    record at(clock);
    std::string order;
    const auto loop = [&](char mine) {
      return coir::spawn([&, mine] {
        surface.throttled_loop(
            limit,
            [&, mine](missed_slots) {
              order += mine;
              at();
              return flow::go_on;
            },
            3U);
      });
    };
    auto one = loop('1');
    auto two = loop('2');
    coir::await(one.join());
    coir::await(two.join());
    CHECK(order == "121212");
    CHECK(at.times == times{0ms, 10ms, 20ms, 30ms, 40ms, 50ms});
    CHECK(limit.stats().taken == 6);
  });
}

// --- spin_loop ---

TEST_CASE("spin_loop: nothing before the first switch, then one round for each") {
  on_both_jumping([](auto surface, mock_clock&) {
    int rounds = 0;
    auto spinning = surface.spin_loop([&](missed_slots missed) {
      CHECK(missed == 0);
      ++rounds;
      return flow::go_on;
    });
    CHECK(rounds == 0);
    CHECK(spinning.state() == fiber_state::fresh);
    for (int i = 1; i <= 1000; ++i) {
      coir::await(coir::yield());
      REQUIRE(rounds == i);
    }
    spinning.cancel();
    coir::await(coir::end_op(spinning));
    CHECK(rounds == 1000);
  });
}

TEST_CASE("spin_loop: a body that waits for ever is one round, and is cancelled in it") {
  mock_clock clock;
  coir::run(
      [&] {
        int rounds = 0;
        auto spinning = coir::spin_loop([&]() -> task<> {
          ++rounds;
          co_await coir::sleep_until(coir::never);
        });
        for (int i = 0; i < 10; ++i) coir::await(coir::yield());
        CHECK(rounds == 1);
        spinning.cancel();
        coir::await(coir::end_op(spinning));
        CHECK(spinning.outcome() == fiber_outcome::cancelled);
      },
      on(clock));
}

TEST_CASE("spin_loop: with an interval, the first round at once and then one in every slot") {
  on_both_jumping([](auto surface, mock_clock& clock) {
    record at(clock);
    auto spinning = surface.spin_loop(10ms, [&](missed_slots) {
      at();
      return leave_if(at.times.size() == 4);
    });
    CHECK(at.times.empty());
    coir::await(spinning.join());
    CHECK(at.times == times{0ms, 10ms, 20ms, 30ms});
  });
}

TEST_CASE("spin_loop: the fiber has the name it was given, and its failure goes where it was told") {
  int failures = 0;
  coir::run(
      [&] {
        auto named = coir::spin_loop([] { return flow::leave; }, coir::spawn_options().name("spinner"));
        CHECK(named.control().name() == "spinner");
        auto failing = coir::spin_loop(1ms, []() -> task<> { throw std::runtime_error("in a round"); },
                                       coir::report_failure);
        auto other = coir::spin_loop([]() -> task<> { throw std::runtime_error("at once"); }, coir::report_failure);
        support::until([&] { return support::dead(failing) && support::dead(other); });
      },
      coir::run_options().on_failure([&](const coir::fiber_base&, std::exception_ptr) { ++failures; }));
  CHECK(failures == 2);
}

// --- after ---

TEST_CASE("after: calls come in the order of their delays, in whichever order they were asked for") {
  on_both_jumping([](auto surface, mock_clock& clock) {
    std::vector<int> order;
    record at(clock);
    std::vector<coir::fiber<int>> calls;
    for (const int delay : {30, 10, 20}) {
      calls.push_back(surface.after(std::chrono::milliseconds(delay), [&order, &at, delay] {
        order.push_back(delay);
        at();
        return delay;
      }));
    }
    CHECK(order.empty());
    for (auto& each : calls) coir::await(each.join());
    CHECK(order == std::vector<int>{10, 20, 30});
    CHECK(at.times == times{10ms, 20ms, 30ms});
  });
}

TEST_CASE("after: the handle has what the body returned or threw") {
  on_both_jumping([](auto surface, mock_clock&) {
    auto seven = surface.after(10ms, [] { return 7; });
    CHECK(coir::await(seven.join()) == 7);
    auto failing = surface.after(10ms, []() -> int { throw std::runtime_error("late"); });
    CHECK_THROWS_WITH(coir::await(failing.join()), "late");
  });
}

TEST_CASE("after: a result may be nothing, a reference, or what can only be moved") {
  mock_clock clock;
  coir::run(
      [&] {
        int called = 0;
        auto nothing = coir::after(1ms, [&] { ++called; });
        auto task_of_nothing = coir::after(1ms, [&]() -> task<> {
          ++called;
          co_return;
        });
        auto reference = coir::after(1ms, [&]() -> int& { return called; });
        auto task_of_reference = coir::after(1ms, [&]() -> task<int&> { co_return called; });
        auto moves = coir::after(1ms, [own = std::make_unique<int>(5)]() mutable { return std::move(own); });
        coir::await(nothing.join());
        coir::await(task_of_nothing.join());
        CHECK(called == 2);
        CHECK(&coir::await(reference.join()) == &called);
        CHECK(&coir::await(task_of_reference.join()) == &called);
        CHECK(*coir::await(moves.take()) == 5);
      },
      on(clock));
}

TEST_CASE("after: one that is cancelled before its time is not called, and its timer is given back") {
  on_both_jumping([](auto surface, mock_clock&) {
    bool called = false;
    const auto body = [&] {
      called = true;
      return 0;
    };
    auto fresh = surface.after(10ms, body);
    fresh.cancel();
    auto asleep = surface.after(10ms, body);
    coir::await(coir::sleep_for(5ms));
    asleep.cancel();
    CHECK(loop_here().timers() == 0);
    coir::await(coir::sleep_for(1s));
    CHECK_FALSE(called);
    CHECK(fresh.outcome() == fiber_outcome::cancelled);
    CHECK(asleep.outcome() == fiber_outcome::cancelled);
  });
}

TEST_CASE("after: a delay that is over lets others run first; one without end is never called") {
  on_both_jumping([](auto surface, mock_clock& clock) {
    record at(clock);
    std::string order;
    const auto say = [&](char what) {
      return [&order, what] {
        order += what;
        return 0;
      };
    };
    auto now = surface.after(0s, say('0'));
    auto past = surface.after(-1h, say('-'));
    auto other = coir::spawn([&] { order += 'x'; });
    auto for_ever = surface.after(coir::duration::max(), say('e'));
    coir::await(now.join());
    coir::await(past.join());
    coir::await(other.join());
    CHECK(order == "x0-");
    CHECK(at.passed() == 0ns);
    coir::await(coir::sleep_for(1h));
    CHECK(order == "x0-");
    for_ever.cancel();
  });
}

// --- what the debugger sees ---

TEST_CASE("a loop on a stack waits at the line that stands in the program, and its fiber was spawned there") {
  mock_clock clock;
  coir::run(
      [&] {
        unsigned line = 0;
        auto looping = coir::spawn([&] {
          line = __LINE__ + 1;
          coir::every(10ms, [] {});
        });
        auto once = coir::after(1h, [] {});
        const unsigned once_line = __LINE__ - 1;
        auto spinning = coir::spin_loop(1h, []() -> task<> { co_return; });
        const unsigned spinning_line = __LINE__ - 1;
        coir::await(coir::sleep_for(1ms));
        CHECK(looping.control().waits_at().line() == line);
        CHECK(std::string(looping.control().waits_for()) == "slot");
        CHECK(once.control().spawned_at().line() == once_line);
        CHECK(once.control().waits_at().line() == once_line);
        CHECK(spinning.control().spawned_at().line() == spinning_line);
        for (const coir::handle_base* each : {static_cast<const coir::handle_base*>(&looping),
                                              static_cast<const coir::handle_base*>(&once),
                                              static_cast<const coir::handle_base*>(&spinning)}) {
          each->cancel();
        }
      },
      on(clock));
}
