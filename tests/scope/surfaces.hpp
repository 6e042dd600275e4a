// Both spellings of everything that runs a body in a region, for tests that must hold for each.
//
//   on_both([](auto s) {
//     auto got = s.get(coir::move_on_after(1s, s.body([&] { s.wait(coir::sleep_for(1h)); })));
//   });
//
// runs the text twice, on a clock that jumps: bodies are plain functions, called on the fiber's stack; and they are
// coroutines, in which each wait is a co_await.
#pragma once

#include "support/both.hpp"
#include "support/jumping.hpp"

#include <coir/coir.hpp>

#include <type_traits>
#include <utility>

namespace surfaces {

struct functions {
  static constexpr const char* name = "functions";
  static constexpr support::on_stack wait{};

  template <class Function>
  static Function body(Function function) {
    return function;
  }
  // For spawn().
  template <class Function>
  static Function child(Function function) {
    return function;
  }
  template <class T>
  static T get(T&& result) {
    return std::forward<T>(result);
  }
};

struct coroutines {
  static constexpr const char* name = "coroutines";
  static constexpr support::in_coroutine wait{};

  template <class Function>
  static auto body(Function function) {
    return [function]<class... Given>(Given&... given) -> coir::task<std::invoke_result_t<Function&, Given&...>> {
      // In the frame: the coroutine may outlive the lambda that made it.
      Function mine = function;
      co_return mine(given...);
    };
  }
  template <class Function>
  static auto child(Function function) {
    return [function] { return coir::await(body(function)()); };
  }
  template <class T>
  static T get(coir::task<T> made) {
    return coir::await(std::move(made));
  }
};

// What a call of a scope gives back, whichever surface; `call` makes it.
template <class Surface, class Call>
decltype(auto) get(Surface s, Call&& call) {
  if constexpr (std::is_void_v<std::invoke_result_t<Call&>>) {
    call();
  } else {
    return s.get(call());
  }
}

template <class Test>
void on_both(Test&& test) {
  support::jumping([&] { test(functions()); });
  support::jumping([&] { test(coroutines()); });
}

}  // namespace surfaces
