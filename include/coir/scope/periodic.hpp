// coir/scope/periodic.hpp: loops over time: every, after, throttled_loop, spin_loop.
//
//   coir::every(1s, [&] { beat(); });                          // on a stack: for ever, until cancelled
//   co_await coir::every(1s, [&]() -> coir::task<coir::flow> { // in a coroutine
//     co_return co_await ping() ? coir::flow::go_on : coir::flow::leave;
//   });
//   coir::throttled_loop(coir::per_second(50), [&] { send(); }, 5);
//   auto reminder = coir::after(250ms, [&] { remind(); });  reminder.cancel();
//                                                              [tests/scope/periodic_test.cpp]
//
// The body is called again and again. It returns nothing, or coir::flow, which is how a loop is left from
// inside; an exception leaves it as well. What body it is decides how it runs: one that returns a task makes
// the loop a task, to be awaited; any other is called on the stack of the fiber that stands here.
//
//   every           in this fiber; first after one interval, then at the points of a fixed grid. Points that
//                   the body was too slow for are skipped: the next call is at the next point.
//   throttled_loop  in this fiber; first at once, then once in every slot of a throttler, `count` times.
//   spin_loop       in a fiber of its own; yields after each round or, with an interval, is throttled.
//   after           in a fiber of its own, once. Cancelled before, it is not called.
//
// A body may take a std::uint64_t: how many points or slots passed before this one without a call.
//
// Shape    functions. An interval is any std::chrono duration, or per_second(n).
// Order    the grid begins when the fiber first waits, and does not drift: point n is start + n * interval.
//          Never more than one call for a point, never a burst. After a turn that took too long a call may
//          be late, never early.
// Thread   one loop.
// Lifetime `every` and `throttled_loop` use a named body where it stands, and take a temporary over into the
//          task. `after` and `spin_loop` copy or move it into their fiber, as spawn does.
// Cancel   while waiting: at once. Each round has a suspend point, also where the body never waits, and no round
//          begins in a fiber that is cancelled.
// Errors   what the body throws. std::logic_error: an interval that is zero, negative, not a number or
//          without end, before anything is called; a body that returns no task, where there is no stack.
// Cost     a round: one clock reading, one timer, one turn of the loop, and the frame of the body's task;
//          spin_loop without an interval: one yield.
// See      coir/scope/throttler.hpp; coir/fiber/sleep.hpp; coir/loop/timer.hpp, for loops without fibers
#pragma once

#include <coir/base/config.hpp>
#include <coir/fiber/await.hpp>
#include <coir/fiber/fiber.hpp>
#include <coir/fiber/scheduler.hpp>
#include <coir/fiber/sleep.hpp>
#include <coir/fiber/task.hpp>
#include <coir/scope/inside.hpp>
#include <coir/scope/throttler.hpp>

#include <chrono>
#include <cstdint>
#include <type_traits>
#include <utility>

namespace coir {

// What a body says about the loop it is in.
enum class flow : std::uint8_t { go_on, leave };

namespace priv {

// Only at the points, the first of which is one interval away.
class metronome final : public throttler {
 public:
  explicit metronome(duration interval) noexcept : throttler(interval, kind::points) {}
};

inline constexpr std::uint64_t endless = ~std::uint64_t{0};

template <class Body>
decltype(auto) call_round(Body& body, std::uint64_t missed) {
  if constexpr (std::is_invocable_v<Body&, std::uint64_t>) {
    return body(missed);
  } else {
    return body();
  }
}

template <class Body>
inline constexpr bool takes_round =
    std::is_invocable_v<Body&, std::uint64_t> || std::is_invocable_v<Body&>;

// What can be a round: `made` is what a call returns, `said` what that says about the loop.
template <class Body>
struct round_of {
  static_assert(takes_round<Body>,
                "the body of a loop is called without arguments, or with the number of points that were missed "
                "(std::uint64_t)");
  using made = decltype(call_round(std::declval<Body&>(), 0));
  using said = typename result_of_made<made>::type;
  static_assert(std::is_void_v<said> || std::is_same_v<said, flow>,
                "the body of a loop returns nothing or coir::flow, or a task of one of these");
  static constexpr bool is_task = priv::is_task<made>::value;
  static constexpr bool may_leave = !std::is_void_v<said>;
};

// An op that was done when the cancellation came has its result, and the next one throws. Here that would be one
// more round.
inline void check_stopped() { running_fiber().check_interrupted(); }

// Limit is a throttler that the loop has for itself, or a reference to somebody's.
template <class Limit, class From, class Body>
void rounds_on_stack(From&& from, Body& body, std::uint64_t count, place at) {
  Limit limit(from);
  for (; count != 0; --count) {
    const std::uint64_t missed = await(limit.wait(), at);
    check_stopped();
    if constexpr (round_of<Body>::may_leave) {
      if (call_round(body, missed) == flow::leave) return;
    } else {
      call_round(body, missed);
    }
  }
}

// Body is a reference where the body has a name.
template <class Limit, class From, class Body>
task<> rounds_in_task(From from, Body body, std::uint64_t count) {
  Limit limit(from);
  for (; count != 0; --count) {
    const std::uint64_t missed = co_await limit.wait();
    check_stopped();
    if constexpr (round_of<std::remove_reference_t<Body>>::may_leave) {
      const flow said = co_await call_round(body, missed);
      if (said == flow::leave) co_return;
    } else {
      co_await call_round(body, missed);
    }
  }
}

template <class Limit, class From, class Body>
auto rounds(From&& from, Body&& body, std::uint64_t count, place at) {
  if constexpr (round_of<std::remove_reference_t<Body>>::is_task) {
    static_assert(safe_in_await<Body>,
                  "gcc before 13 destroys the captures of a temporary in a co_await expression twice. "
                  "Name the body first: auto body = [...] {...}; co_await coir::every(1s, body);");
    return rounds_in_task<Limit, From, Body>(std::forward<From>(from), std::forward<Body>(body), count);
  } else {
    rounds_on_stack<Limit>(from, body, count, at);
  }
}

template <class Body>
void spin_on_stack(Body& body, place at) {
  for (;;) {
    if constexpr (round_of<Body>::may_leave) {
      if (call_round(body, 0) == flow::leave) return;
    } else {
      call_round(body, 0);
    }
    await(yield(), at);
    check_stopped();
  }
}

template <class Body>
task<> spin_in_task(Body& body) {
  for (;;) {
    if constexpr (round_of<Body>::may_leave) {
      const flow said = co_await call_round(body, 0);
      if (said == flow::leave) co_return;
    } else {
      co_await call_round(body, 0);
    }
    co_await yield();
    check_stopped();
  }
}

template <class T, class Body>
task<T> call_in_task_after(duration delay, Body& body) {
  co_await sleep_for(delay);
  co_return co_await body();
}

template <class T>
inline constexpr bool is_duration = false;
template <class Rep, class Period>
inline constexpr bool is_duration<std::chrono::duration<Rep, Period>> = true;

}  // namespace priv

// A task, or nothing when it is over.
template <class Rep, class Period, class Body>
auto every(std::chrono::duration<Rep, Period> interval, Body&& body, place at = here::current()) {
  return priv::rounds<priv::metronome>(priv::checked_interval(interval), std::forward<Body>(body),
                                       priv::endless, at);
}

// A task, or nothing when it is over.
template <class Rep, class Period, class Body>
auto throttled_loop(std::chrono::duration<Rep, Period> interval, Body&& body,
                    std::uint64_t count = priv::endless, place at = here::current()) {
  return priv::rounds<throttler>(priv::checked_interval(interval), std::forward<Body>(body), count, at);
}
// With a throttler that others use as well, and that outlives the loop.
template <class Body>
auto throttled_loop(throttler& limit, Body&& body, std::uint64_t count = priv::endless,
                    place at = here::current()) {
  return priv::rounds<throttler&>(limit, std::forward<Body>(body), count, at);
}

template <class Body>
  requires(!priv::is_duration<std::decay_t<Body>>)
fiber<void> spin_loop(Body&& body, const spawn_options& options = {}, place at = here::current()) {
  if constexpr (priv::round_of<std::decay_t<Body>>::is_task) {
    return spawn([body = std::forward<Body>(body)]() mutable { return priv::spin_in_task(body); },
                 options, at);
  } else {
    return spawn([body = std::forward<Body>(body), at]() mutable { priv::spin_on_stack(body, at); },
                 options, at);
  }
}
// The first round at once, then one in every interval, as throttled_loop.
template <class Rep, class Period, class Body>
fiber<void> spin_loop(std::chrono::duration<Rep, Period> interval, Body&& body,
                      const spawn_options& options = {}, place at = here::current()) {
  // A named body: it lies in the fiber.
  return spawn(
      [interval = priv::checked_interval(interval), body = std::forward<Body>(body), at]() mutable {
        return priv::rounds<throttler>(duration(interval), body, priv::endless, at);
      },
      options, at);
}

// The handle of a fiber that sleeps, and then has the body's result; a delay that is over lets others run first.
template <class Rep, class Period, class Body>
  requires std::is_invocable_v<std::decay_t<Body>&>
auto after(std::chrono::duration<Rep, Period> delay, Body&& body, const spawn_options& options = {},
           place at = here::current()) {
  using made = std::invoke_result_t<std::decay_t<Body>&>;
  if constexpr (priv::is_task<made>::value) {
    using value = typename made::value_type;
    return spawn(
        [wait = saturated(delay), body = std::forward<Body>(body)]() mutable {
          return priv::call_in_task_after<value>(wait, body);
        },
        options, at);
  } else {
    return spawn(
        [wait = saturated(delay), body = std::forward<Body>(body), at]() mutable -> made {
          await(sleep_for(wait), at);
          return body();
        },
        options, at);
  }
}

}  // namespace coir
