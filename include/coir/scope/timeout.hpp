// coir/scope/timeout.hpp: limits in time, around any code that waits.
//
//   std::optional<page> p = co_await coir::move_on_after(1s, fetch(url));   // empty when time ran out
//   page q = co_await coir::fail_after(1s, fetch(url));                     // throws timed_out
//   bool done = co_await coir::move_on_after(1s, flush());                  // a task<>: false when time ran out
//   auto r = coir::move_on_after(1s, [&] { return coir::await(fetch(url)); });       // on a stack
//   co_await coir::fail_after(1s, fetch(url), my_error("the page is slow"));         // another exception
//                                                            [tests/scope/timeout_test.cpp]
//
// The body is a task, an op, a function that makes a task, or, on a stack, a plain function. No operation takes
// a timeout: a region of code does, and what it spawned ends with it.
//
// Shape    functions. For a task or a maker of tasks they give a task, for an op an op, for a plain function, which
//          runs at once, the result.
// Order    of limits that end at once the outermost is the one that is felt.
// Thread   one loop.
// Cancel   the body gets `cancelled` at its suspend points. A body that never waits is not interrupted; one
//          that comes to its end all the same gives its result. Another region's cancellation passes through.
//          How far a read_exactly or a write_all had come when time ran out is not told: a limited op with a name
//          goes on there when it is awaited again.
// Errors   what the body throws; timed_out, a std::system_error with std::errc::timed_out.
// Cost     around what is ready at once a few instructions for an op, about 30 ns for a task: a limit becomes a
//          deadline when the fiber first parks under it, so no clock is read and no timer armed. After that one
//          reading, O(log n) to arm and disarm.
//          A limit of zero or less, or an instant that has passed: what is ready at once is done, what would wait
//          is cancelled in the next turn. duration::max() and `never`: no limit.
// See      coir/scope/cancel_scope.hpp, for a deadline that moves; lib/scope/NOTE.md
#pragma once

#include <coir/base/place.hpp>
#include <coir/base/time.hpp>
#include <coir/scope/inside.hpp>
#include <coir/scope/limited_op.hpp>

#include <chrono>
#include <string>
#include <system_error>
#include <type_traits>
#include <utility>

namespace coir {

// A limit in time was over before the code under it.
class timed_out : public std::system_error {
 public:
  explicit timed_out(const std::string& what);
};

namespace priv {

// A region that lives as long as the call.
class limited_region {
 public:
  using argument = time_limit;
  template <class Body>
  using result = body_result_t<Body>;
  template <class Body>
  using called = std::invoke_result_t<Body&>;

  explicit limited_region(time_limit limit) { limit.set(region_); }
  entered_region& region() noexcept { return region_; }
  template <class Body>
  decltype(auto) call(Body& body) {
    return body();
  }

 private:
  entered_region region_;
};

// The result, or an exception in its place.
template <class Exception>
class or_throw {
 public:
  template <class T>
  using result = T;
  explicit or_throw(Exception what) : what_(std::move(what)) {}
  template <class T, class Take>
  static T full(Take&& take) {
    return take();
  }

  template <class T>
  T end(maybe<T>&& got) {
    if (!got) {
      // An op that is limited may be awaited again.
      if constexpr (std::is_copy_constructible_v<Exception>) throw what_;
      throw std::move(what_);
    }
    return unwrap<T>(std::move(got));
  }

 private:
  Exception what_;
};

// timed_out, whose text is made when it is needed.
class or_timed_out {
 public:
  template <class T>
  using result = T;
  explicit or_timed_out(place at) noexcept : at_(at) {}
  template <class T, class Take>
  static T full(Take&& take) {
    return take();
  }

  template <class T>
  T end(maybe<T>&& got) {
    if (!got) refuse();
    return unwrap<T>(std::move(got));
  }

 private:
  [[noreturn, gnu::cold]] void refuse() const;
  place at_;
};

template <class Ending, class Body>
decltype(auto) run_limited(time_limit limit, Ending ending, Body&& body, place at) {
  if constexpr (op<std::remove_cvref_t<Body>>) {
    return limited_op<std::remove_cvref_t<Body>, Ending>(limit, std::move(ending), std::forward<Body>(body));
  } else {
    return run_in<limited_region>(limit, inside::rest::is_cancelled, std::move(ending), std::forward<Body>(body), at);
  }
}

}  // namespace priv

// The body's result, or nothing when `limit` was over first.
template <class Rep, class Period, class Body>
decltype(auto) move_on_after(std::chrono::duration<Rep, Period> limit, Body&& body, place at = here::current()) {
  return priv::run_limited(time_limit(saturated(limit)), priv::as_maybe(), std::forward<Body>(body), at);
}
template <class Body>
decltype(auto) move_on_at(instant deadline, Body&& body, place at = here::current()) {
  return priv::run_limited(time_limit(deadline), priv::as_maybe(), std::forward<Body>(body), at);
}

// The body's result; timed_out when `limit` was over first.
template <class Rep, class Period, class Body>
decltype(auto) fail_after(std::chrono::duration<Rep, Period> limit, Body&& body, place at = here::current()) {
  return priv::run_limited(time_limit(saturated(limit)), priv::or_timed_out(at), std::forward<Body>(body), at);
}
template <class Body>
decltype(auto) fail_at(instant deadline, Body&& body, place at = here::current()) {
  return priv::run_limited(time_limit(deadline), priv::or_timed_out(at), std::forward<Body>(body), at);
}
// ... or this exception.
template <class Rep, class Period, class Body, class Exception>
  requires(!std::is_convertible_v<Exception, place>)
decltype(auto) fail_after(std::chrono::duration<Rep, Period> limit, Body&& body, Exception what,
                          place at = here::current()) {
  return priv::run_limited(time_limit(saturated(limit)), priv::or_throw<Exception>(std::move(what)),
                           std::forward<Body>(body), at);
}
template <class Body, class Exception>
  requires(!std::is_convertible_v<Exception, place>)
decltype(auto) fail_at(instant deadline, Body&& body, Exception what, place at = here::current()) {
  return priv::run_limited(time_limit(deadline), priv::or_throw<Exception>(std::move(what)),
                           std::forward<Body>(body), at);
}

}  // namespace coir
