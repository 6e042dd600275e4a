// coir/testing/suspension.hpp: that a piece of code suspends, or does not.
//
//   co_await coir::testing::expect_no_suspension(channel.send(1));         // an op
//   co_await coir::testing::expect_suspends(fetch(url));                   // a task
//   coir::testing::expect_suspends([&] { coir::await(lock.acquire()); });  // a plain function, on a stack
//                                                             [tests/testing/suspension_test.cpp]
//
// Shape    functions around an op, a task (both give a task to await) or a plain function (called at once). They
//          give what is inside. A yield is a suspension, also the one after 64 ops in a row that finished at once.
// Thread   the loop's.
// Cancel   as what is inside.
// Errors   suspension_failure, with the place, when the code ended and it was not so; std::logic_error outside of
//          a fiber. What the code throws goes through, and nothing is checked.
// Cost     nothing on the switch: two numbers that the loop and the run queue have are compared.
// See      coir/fiber/op.hpp
#pragma once

#include <coir/base/place.hpp>
#include <coir/fiber/op.hpp>
#include <coir/fiber/task.hpp>

#include <concepts>
#include <cstdint>
#include <stdexcept>
#include <type_traits>
#include <utility>

namespace coir::testing {

class suspension_failure : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

namespace priv {

template <class T>
struct is_task : std::false_type {};
template <class T>
struct is_task<task<T>> : std::true_type {};

// A fiber that goes on was either never left, or some fiber was switched to since: itself.
class suspension_check {
 public:
  suspension_check(bool wanted, place at);
  void check() const;

 private:
  std::uint64_t turn_;
  std::uint32_t turn_left_;
  bool wanted_;
  place at_;
};

template <class T, class What>
task<T> checked(What what, bool wanted, place at) {
  const suspension_check before(wanted, at);
  if constexpr (std::is_void_v<T>) {
    co_await std::move(what);
    before.check();
  } else {
    T result = co_await std::move(what);
    before.check();
    co_return std::forward<T>(result);
  }
}

template <class Function>
decltype(auto) called(Function& function, bool wanted, place at) {
  using result = std::invoke_result_t<Function&>;
  static_assert(!is_task<result>::value, "call it, and give the task: co_await expect_suspends(function())");
  const suspension_check before(wanted, at);
  if constexpr (std::is_void_v<result>) {
    function();
    before.check();
  } else {
    result value = function();
    before.check();
    return static_cast<result>(std::forward<result>(value));
  }
}

}  // namespace priv

template <op Op>
task<result_of<Op>> expect_suspends(Op what, place at = here::current()) {
  return priv::checked<result_of<Op>>(std::move(what), true, at);
}
template <class T>
task<T> expect_suspends(task<T> what, place at = here::current()) {
  return priv::checked<T>(std::move(what), true, at);
}
template <std::invocable Function>
decltype(auto) expect_suspends(Function&& function, place at = here::current()) {
  return priv::called(function, true, at);
}

template <op Op>
task<result_of<Op>> expect_no_suspension(Op what, place at = here::current()) {
  return priv::checked<result_of<Op>>(std::move(what), false, at);
}
template <class T>
task<T> expect_no_suspension(task<T> what, place at = here::current()) {
  return priv::checked<T>(std::move(what), false, at);
}
template <std::invocable Function>
decltype(auto) expect_no_suspension(Function&& function, place at = here::current()) {
  return priv::called(function, false, at);
}

}  // namespace coir::testing
