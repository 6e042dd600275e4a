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

#include <cstddef>
#include <new>
#include <type_traits>
#include <utility>

namespace surfaces {

// Bodies of one shape in one type: what runs them is compiled once in a file, and not for each of its bodies, which was
// half of what these tests took to compile. Without a destructor, as gcc 12 wants it of what it awaits (inside.hpp).
template <class>
class erased;
template <class Result, class... Given>
class erased<Result(Given...)> {
 public:
  static constexpr std::size_t room = 64;

  template <class Function>
  explicit erased(Function function)
      : call_([](void* at, Given... given) -> Result {
          return (*static_cast<Function*>(at))(std::forward<Given>(given)...);
        }) {
    new (bytes_) Function(function);
  }
  Result operator()(Given... given) const { return call_(bytes_, std::forward<Given>(given)...); }

 private:
  alignas(void*) mutable std::byte bytes_[room];
  Result (*call_)(void* at, Given... given);
};

template <class>
struct called;
template <class Result, class Function, class... Given>
struct called<Result (Function::*)(Given...)> {
  using shape = Result(Given...);
};
template <class Result, class Function, class... Given>
struct called<Result (Function::*)(Given...) const> : called<Result (Function::*)(Given...)> {};

template <class Function>
auto erase(Function function) {
  if constexpr (requires { typename called<decltype(&Function::operator())>::shape; } && sizeof(Function) <= erased<void()>::room &&
                alignof(Function) <= alignof(void*) && std::is_trivially_copyable_v<Function>) {
    return erased<typename called<decltype(&Function::operator())>::shape>(function);
  } else {
    return function;
  }
}

struct functions {
  static constexpr const char* name = "functions";
  static constexpr support::on_stack wait{};

  template <class Function>
  static auto body(Function function) {
    return erase(std::move(function));
  }
  // For spawn().
  template <class Function>
  static auto child(Function function) {
    return erase(std::move(function));
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
    return coroutine(erase(std::move(function)));
  }
  template <class Function>
  static auto child(Function function) {
    return erase([function] { return coir::await(body(function)()); });
  }
  template <class T>
  static T get(coir::task<T> made) {
    return coir::await(std::move(made));
  }

 private:
  template <class Function>
  static auto coroutine(Function function) {
    return [function]<class... Given>(Given&... given) -> coir::task<std::invoke_result_t<Function&, Given&...>> {
      // In the frame: the coroutine may outlive the lambda that made it.
      Function mine = function;
      co_return mine(given...);
    };
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
