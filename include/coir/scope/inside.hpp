// coir/scope/inside.hpp: running code inside a region: what scopes, limits in time and nurseries have in common.
//
//   template <class T> coir::task<maybe<T>> in(coir::entered_region& where, coir::task<T> body);
//                                                         [tests/scope/cancel_scope_test.cpp]
//
// The bottom layer of coir/scope, for those who write another kind of region. The steps are the same on both
// surfaces: enter, run the body, cancel what it left behind (or let it end), wait for that, leave; then what went
// wrong is thrown, and if nothing did, the result is the body's.
//
// Shape    `maybe<T>`: the result of a body that may have been cut short. `inside`: the steps.
// Order    a failure of the body or of a child comes first, then a cancellation from further out, then the result.
// Thread   one loop.
// Cancel   the region's own cancellation ends here; that of another region passes through. Waiting for the
//          children cannot be cancelled: they are.
// Errors   as its body, and as its children.
// Cost     a coroutine's frame (about 10 ns) and 5 ns; on a stack the latter.
// See      coir/fiber/region.hpp; lib/scope/NOTE.md
#pragma once

#include <coir/base/config.hpp>
#include <coir/base/error.hpp>
#include <coir/base/place.hpp>
#include <coir/fiber/await.hpp>
#include <coir/fiber/op.hpp>
#include <coir/fiber/region.hpp>
#include <coir/fiber/task.hpp>

#include <concepts>
#include <exception>
#include <memory>
#include <optional>
#include <type_traits>
#include <utility>

namespace coir {

// What a body returned, empty when it was cut short: optional<T>; for void, whether it came to its end; for a
// reference, a pointer.
template <class T>
struct maybe_of {
  using type = std::optional<T>;
};
template <>
struct maybe_of<void> {
  using type = bool;
};
template <class T>
struct maybe_of<T&> {
  using type = T*;
};
template <class T>
using maybe = typename maybe_of<T>::type;

namespace priv {

// Whatever can be a body: a task, an op, a function that makes a task, or a plain function.
template <class Body>
inline constexpr bool is_awaited = is_task<Body>::value || op<Body>;
template <class T>
struct result_of_made {
  using type = T;
};
template <class T>
struct result_of_made<task<T>> {
  using type = T;
};
template <class Body, class... Arguments>
struct body_result : result_of_made<std::invoke_result_t<Body&, Arguments...>> {};
template <class T>
struct body_result<task<T>> {
  using type = T;
};
template <op Body>
struct body_result<Body> {
  using type = result_of<Body>;
};
template <class Body, class... Arguments>
using body_result_t = typename body_result<Body, Arguments...>::type;

// A function given inside a co_await expression, as a temporary that gcc before 13 destroys twice.
template <class F>
inline constexpr bool safe_in_await =
#if COIR_GCC_BEFORE_13
    std::is_lvalue_reference_v<F> || std::is_trivially_destructible_v<F>;
#else
    true;
#endif

// Puts what it is given into a maybe.
template <class T, class From>
void fill(maybe<T>& into, From&& from) {
  if constexpr (std::is_reference_v<T>) {
    into = std::addressof(from);
  } else {
    into.emplace(std::forward<From>(from));
  }
}
template <class T>
T unwrap(maybe<T>&& full) {
  if constexpr (std::is_reference_v<T>) {
    return static_cast<T>(*full);
  } else if constexpr (!std::is_void_v<T>) {
    return *std::move(full);
  }
}

}  // namespace priv

// The end of the last child of a region.
class [[nodiscard("co_await it, or coir::await(it)")]] region_end_op {
 public:
  static constexpr const char* name = "the end of a region";
  static constexpr bool cannot_be_cancelled = true;

  explicit region_end_op(entered_region& which) noexcept : which_(&which) {}

  bool start(waiter& told) noexcept {
    if (which_->empty()) return false;
    which_->tell_when_empty(told);
    return true;
  }
  // Whoever interrupts the wait wants it to end: the children are cancelled. It lasts until they are gone.
  abort_answer abort() noexcept {
    if (!which_->region::cancelled()) which_->cancel();
    return abort_answer::later;
  }
  void take() noexcept {}

 private:
  entered_region* which_;
};

// The steps of running a body in a region, but for the waiting, which is the surface's.
class inside {
 public:
  // What becomes of children that live when the body is over.
  enum class rest : bool { is_cancelled, is_awaited };

  explicit inside(entered_region& where) : where_(where) {
    if (where.was_entered()) [[unlikely]]
      refuse();
    where.enter(running_fiber());
  }
  inside(const inside&) = delete;

  // In a handler: the body threw.
  void caught() noexcept;
  // The body is over. True: there are children to wait for.
  bool has_rest(rest what) noexcept {
    if (where_.empty()) return false;
    begin_waiting(what);
    return true;
  }
  // Leaves, and throws what went wrong, unless all that happened is that the region was cancelled.
  void leave() {
    if (!waited_ && foreign_ == nullptr && where_.failure() == nullptr) [[likely]] {
      where_.leave();
    } else {
      leave_and_throw();
    }
  }

 private:
  [[noreturn, gnu::cold]] static void refuse();
  void begin_waiting(rest what) noexcept;
  void leave_and_throw();

  entered_region& where_;
  bool waited_ = false;
  rest rest_ = rest::is_cancelled;
  std::exception_ptr foreign_;  // a cancellation that is not the region's
};

namespace priv {

// A failure that nothing will throw: it is one of the running fiber's other failures.
void keep_failure(std::exception_ptr why) noexcept;
// If it is a cancellation: a failure is thrown in its place, and nobody else will hear of it.
void forgive_cancellation(const std::exception_ptr& unheard) noexcept;

// Where a body runs: a holder has the region, and calls the body if it is a function. This one's belongs to
// somebody else.
class region_of_another {
 public:
  using argument = entered_region&;
  template <class Body>
  using result = body_result_t<Body>;
  template <class Body>
  using called = std::invoke_result_t<Body&>;

  explicit region_of_another(entered_region& which) noexcept : which_(&which) {}
  entered_region& region() noexcept { return *which_; }
  template <class Body>
  decltype(auto) call(Body& body) {
    return body();
  }

 private:
  entered_region* which_;
};

// What the caller gets for a body's result: that as it is.
class as_maybe {
 public:
  template <class T>
  using result = maybe<T>;
  // Of what has come to its end.
  template <class T, class Take>
  static maybe<T> full(Take&& take) {
    if constexpr (std::is_void_v<T>) {
      take();
      return true;
    } else if constexpr (std::is_reference_v<T>) {
      return std::addressof(take());
    } else {
      return maybe<T>(std::in_place, take());
    }
  }
  template <class T>
  maybe<T> end(maybe<T>&& got) {
    return std::move(got);
  }
};

template <class Holder, class Ending, class Body>
auto run_awaited(typename Holder::argument from, inside::rest rest, Ending ending, Body body)
    -> task<typename Ending::template result<typename Holder::template result<Body>>> {
  using value = typename Holder::template result<Body>;
  Holder holder(from);
  maybe<value> got{};
  inside steps(holder.region());
  try {
    if constexpr (is_awaited<Body>) {
      if constexpr (std::is_void_v<value>) {
        co_await std::move(body);
        got = true;
      } else {
        fill<value>(got, co_await std::move(body));
      }
    } else {
      auto made = holder.call(body);
      if constexpr (std::is_void_v<value>) {
        co_await std::move(made);
        got = true;
      } else {
        fill<value>(got, co_await std::move(made));
      }
    }
  } catch (...) {
    steps.caught();
  }
  // Whoever runs before this fiber does may have put another one in.
  while (steps.has_rest(rest)) {
    region_end_op end(holder.region());
    co_await end;
  }
  steps.leave();
  co_return ending.template end<value>(std::move(got));
}

template <class Holder, class Ending, class Body>
auto run_on_stack(typename Holder::argument from, inside::rest rest, Ending ending, Body& body, place at) ->
    typename Ending::template result<typename Holder::template result<Body>> {
  using value = typename Holder::template result<Body>;
  if (!running_fiber().has_stack()) throw_no_stack();
  Holder holder(from);
  maybe<value> got{};
  inside steps(holder.region());
  try {
    if constexpr (std::is_void_v<value>) {
      holder.call(body);
      got = true;
    } else {
      fill<value>(got, holder.call(body));
    }
  } catch (...) {
    steps.caught();
  }
  while (steps.has_rest(rest)) await(region_end_op(holder.region()), at);
  steps.leave();
  return ending.template end<value>(std::move(got));
}

// A task for a body that is awaited or makes a task; for a plain function, its result. `at` is where a function's
// fiber waits for what is left inside; who awaits a task says that himself.
template <class Holder, class Ending, class Body>
decltype(auto) run_in(typename Holder::argument from, inside::rest rest, Ending ending, Body&& body,
                      place at = here::current()) {
  using plain = std::remove_cvref_t<Body>;
  if constexpr (is_awaited<plain>) {
    static_assert(!is_task<plain>::value || !std::is_lvalue_reference_v<Body>, "a task runs once: write std::move(task)");
    return run_awaited<Holder, Ending, plain>(from, rest, std::move(ending), std::forward<Body>(body));
  } else if constexpr (is_task<typename Holder::template called<plain>>::value) {
    static_assert(safe_in_await<Body>,
                  "gcc before 13 destroys the captures of a temporary in a co_await expression twice. Name the "
                  "function first: auto body = [...] {...}; and give it by that name");
    return run_awaited<Holder, Ending, plain>(from, rest, std::move(ending), std::forward<Body>(body));
  } else {
    return run_on_stack<Holder>(from, rest, std::move(ending), body, at);
  }
}

}  // namespace priv

}  // namespace coir
