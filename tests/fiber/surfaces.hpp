// The places in which an op can be awaited: a rule of op.hpp must hold in each.
//
//   surfaces::for_each([&](auto surface) { auto who = surface.spawn(some_op()); ... });
//
// spawn(op) makes a fiber that waits for the op and returns its result.
#pragma once

#include <coir/coir.hpp>

#include "support/catch.hpp"

#include <type_traits>
#include <utility>

namespace surfaces {

template <class Op>
using result_of = std::remove_cvref_t<coir::result_of<Op>>;

template <class Op>
coir::task<result_of<Op>> in_coroutine(Op what) {
  co_return co_await what;
}

// co_await in a fiber whose body is a coroutine.
struct coroutine {
  static constexpr const char* name = "co_await";
  template <class Op>
  static auto spawn(Op what, const coir::spawn_options& options = {}) {
    return coir::spawn(in_coroutine(std::move(what)), options);
  }
};

// coir::await in a fiber whose body is a plain function.
struct stack {
  static constexpr const char* name = "await";
  template <class Op>
  static auto spawn(Op what, const coir::spawn_options& options = {}) {
    return coir::spawn([what = std::move(what)]() mutable -> result_of<Op> { return coir::await(what); },
                       options);
  }
};

// co_await in a task that a function on a stack awaits.
struct task_on_stack {
  static constexpr const char* name = "co_await in a task on a stack";
  template <class Op>
  static auto spawn(Op what, const coir::spawn_options& options = {}) {
    return coir::spawn(
        [inner = in_coroutine(std::move(what))]() mutable -> result_of<Op> {
          return coir::await(std::move(inner));
        },
        options);
  }
};

// coir::await in a function that a coroutine runs on a borrowed stack.
struct borrowed_stack {
  static constexpr const char* name = "await on a borrowed stack";
  template <class Op>
  static coir::task<result_of<Op>> body(Op what) {
    auto function = [&what]() -> result_of<Op> { return coir::await(what); };
    co_return co_await coir::on_stack(function);
  }
  template <class Op>
  static auto spawn(Op what, const coir::spawn_options& options = {}) {
    return coir::spawn(body(std::move(what)), options);
  }
};

// The two bodies.
template <class Test>
void for_both(Test&& test) {
  {
    INFO("surface: " << coroutine::name);
    test(coroutine());
  }
  {
    INFO("surface: " << stack::name);
    test(stack());
  }
}

// And what lies between them.
template <class Test>
void for_each(Test&& test) {
  for_both(test);
  {
    INFO("surface: " << task_on_stack::name);
    test(task_on_stack());
  }
  {
    INFO("surface: " << borrowed_stack::name);
    test(borrowed_stack());
  }
}

}  // namespace surfaces
