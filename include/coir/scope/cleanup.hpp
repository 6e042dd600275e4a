// coir/scope/cleanup.hpp: code that runs when other code is over, however that ended, and that may wait.
//
//   co_await coir::with_cleanup(transfer(), rollback());          // within 10 s
//   co_await coir::with_cleanup(transfer(), rollback(), 2s);
//   int sent = coir::with_cleanup([&] { return send(); }, [&] { hang_up(); });    // on a stack
//                                                             [tests/scope/cleanup_test.cpp]
//
// The result is the body's. Body and cleanup are each a task, an op or a function that makes a task; or both are
// plain functions, on a stack. What a destructor cannot do, wait while a cancelled fiber unwinds, is done here.
//
// Shape    functions. For plain functions they give the result, else a task.
// Order    the body; what it spawned and left behind is cancelled and awaited, as in a scope; the cleanup, and the
//          same for what that spawned.
// Thread   one loop.
// Cancel   the body's is felt, and then the cleanup runs. The cleanup is shielded, and has a limit in time: 10 s
//          unless another is given, counted from when it first waits. Over that it is cancelled. A task of
//          with_cleanup() that is cancelled before it runs runs neither body nor cleanup.
// Errors   the first of these is thrown: a failure of the body, a failure of the cleanup (timed_out when its limit
//          was over), a cancellation. If both failed, the cleanup's is in the fiber's other_failures().
// Cost     two regions and three coroutine frames, about 40 ns; on a stack two regions.
// See      coir/scope/cancel_scope.hpp: shield()
#pragma once

#include <coir/base/place.hpp>
#include <coir/base/time.hpp>
#include <coir/scope/inside.hpp>
#include <coir/scope/timeout.hpp>

#include <chrono>
#include <exception>
#include <type_traits>
#include <utility>

namespace coir {

namespace priv {

inline constexpr duration cleanup_limit = std::chrono::seconds(10);

class shielded_region : public limited_region {
 public:
  explicit shielded_region(time_limit limit) : limited_region(limit) { region().set_shield(true); }
};

// The result: nothing but the body itself ends its region.
class as_it_is {
 public:
  template <class T>
  using result = T;
  template <class T>
  T end(maybe<T>&& got) {
    return unwrap<T>(std::move(got));
  }
};

// Whether it came to its end in time.
class as_done {
 public:
  template <class>
  using result = bool;
  template <class T>
  bool end(maybe<T>&& got) {
    return static_cast<bool>(got);
  }
};

// How body and cleanup ended.
class two_endings {
 public:
  explicit two_endings(place at) noexcept : at_(at) {}

  // In a handler: it threw.
  void body_threw() noexcept { body_ = std::current_exception(); }
  void cleanup_threw() noexcept { cleanup_ = std::current_exception(); }
  // Both are over. Throws, unless both came to their end.
  void settle(bool in_time);

 private:
  place at_;
  std::exception_ptr body_;
  std::exception_ptr cleanup_;
};

template <class Body, class Cleanup>
auto clean_awaited(Body body, Cleanup cleanup, duration limit, place at) -> task<body_result_t<Body>> {
  using value = body_result_t<Body>;
  two_endings both(at);
  maybe<value> got{};
  bool in_time = true;
  // Made before the body runs: afterwards there might be no memory for it.
  auto second = run_awaited<shielded_region, as_done, Cleanup>(time_limit(limit), inside::rest::is_cancelled,
                                                               as_done(), std::move(cleanup));
  try {
    auto first = run_awaited<limited_region, as_it_is, Body>(time_limit(coir::never), inside::rest::is_cancelled,
                                                             as_it_is(), std::move(body));
    if constexpr (std::is_void_v<value>) {
      co_await std::move(first);
      got = true;
    } else {
      fill<value>(got, co_await std::move(first));
    }
  } catch (...) {
    both.body_threw();
  }
  try {
    in_time = co_await std::move(second);
  } catch (...) {
    both.cleanup_threw();
  }
  both.settle(in_time);
  co_return unwrap<value>(std::move(got));
}

template <class Body, class Cleanup>
auto clean_on_stack(Body& body, Cleanup& cleanup, duration limit, place at) -> std::invoke_result_t<Body&> {
  using value = std::invoke_result_t<Body&>;
  two_endings both(at);
  maybe<value> got{};
  bool in_time = true;
  // Where there is no stack to wait on neither is begun.
  if (!running_fiber().has_stack()) throw_no_stack();
  try {
    if constexpr (std::is_void_v<value>) {
      run_on_stack<limited_region>(time_limit(coir::never), inside::rest::is_cancelled, as_it_is(), body, at);
      got = true;
    } else {
      fill<value>(got, run_on_stack<limited_region>(time_limit(coir::never), inside::rest::is_cancelled, as_it_is(),
                                                    body, at));
    }
  } catch (...) {
    both.body_threw();
  }
  try {
    in_time = run_on_stack<shielded_region>(time_limit(limit), inside::rest::is_cancelled, as_done(), cleanup, at);
  } catch (...) {
    both.cleanup_threw();
  }
  both.settle(in_time);
  return unwrap<value>(std::move(got));
}

template <class Body>
constexpr bool makes_task() {
  if constexpr (is_awaited<Body>) {
    return true;
  } else {
    return is_task<std::invoke_result_t<Body&>>::value;
  }
}

template <class Body, class Cleanup>
decltype(auto) clean(Body&& body, Cleanup&& cleanup, duration limit, place at) {
  using plain_body = std::remove_cvref_t<Body>;
  using plain_cleanup = std::remove_cvref_t<Cleanup>;
  constexpr bool awaited = makes_task<plain_body>();
  static_assert(awaited == makes_task<plain_cleanup>(),
                "body and cleanup are both plain functions, on a stack, or none is: make a task of the other one");
  static_assert((!is_task<plain_body>::value || !std::is_lvalue_reference_v<Body>) &&
                    (!is_task<plain_cleanup>::value || !std::is_lvalue_reference_v<Cleanup>),
                "a task runs once: write std::move(task)");
  if constexpr (awaited) {
    static_assert((is_awaited<plain_body> || safe_in_await<Body>) && (is_awaited<plain_cleanup> || safe_in_await<Cleanup>),
                  "gcc before 13 destroys the captures of a temporary in a co_await expression twice. Name the "
                  "function first: auto body = [...] {...}; and give it by that name");
    return clean_awaited<plain_body, plain_cleanup>(std::forward<Body>(body), std::forward<Cleanup>(cleanup), limit, at);
  } else {
    return clean_on_stack(body, cleanup, limit, at);
  }
}

}  // namespace priv

// The body's result; the cleanup has 10 s.
template <class Body, class Cleanup>
decltype(auto) with_cleanup(Body&& body, Cleanup&& cleanup, place at = here::current()) {
  return priv::clean(std::forward<Body>(body), std::forward<Cleanup>(cleanup), priv::cleanup_limit, at);
}
// ... or this long.
template <class Body, class Cleanup, class Rep, class Period>
decltype(auto) with_cleanup(Body&& body, Cleanup&& cleanup, std::chrono::duration<Rep, Period> limit,
                            place at = here::current()) {
  return priv::clean(std::forward<Body>(body), std::forward<Cleanup>(cleanup), saturated(limit), at);
}

}  // namespace coir
