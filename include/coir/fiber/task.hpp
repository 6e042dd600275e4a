// coir/fiber/task.hpp: task<T>, the coroutine type.
//
//   coir::task<int> twice(int x) { co_return 2 * co_await fetch(x); }
//   int y = co_await twice(21);          // stays inside the same fiber
//   auto child = coir::spawn(twice(21)); // a fiber of its own
//                                                             [tests/fiber/task_test.cpp]
//
// Shape    lazy: nothing runs before it is awaited or spawned, once. Moves, never copies; one pointer. A
//          task that is destroyed before it began destroys its parameters and never ran.
// Order    awaiting runs the child at once, before any other fiber.
// Thread   one loop.
// Cancel   awaiting a task is no suspend point; the ops inside are.
// Errors   an exception leaves the co_await that awaited it. std::logic_error for awaiting an empty task or
//          one that began already.
// Cost     about 10 ns from co_await to the child and back, frame from a free list included. Depth costs
//          heap, never stack, at every optimisation level. A frame is 56 bytes plus what lives across its
//          awaits; locals of disjoint scopes do not share space on gcc 12.
// See      README.md, "Coroutines on gcc 12"; coir/fiber/op.hpp
#pragma once

#include <coir/base/config.hpp>
#include <coir/base/place.hpp>
#include <coir/fiber/fiber_base.hpp>
#include <coir/fiber/fiber_home.hpp>
#include <coir/fiber/frame.hpp>
#include <coir/fiber/op.hpp>

#include <coroutine>
#include <cstddef>
#include <exception>
#include <memory>
#include <new>
#include <type_traits>
#include <utility>

namespace coir {

template <class T = void>
class task;

template <class F>
class stack_call;

namespace priv {
template <class T>
class task_awaiter;
template <class F>
class stack_call_awaiter;
[[noreturn, gnu::cold]] void throw_task_misuse(bool empty);
}  // namespace priv

class promise_base;

// What the library does with tasks and their promises.
class task_access {
 public:
  template <class T>
  static auto promise(task<T>& of) noexcept {
    return of.promise_;
  }
  template <class T>
  static auto release(task<T>& of) noexcept {
    return std::exchange(of.promise_, nullptr);
  }
  // Every switch between coroutines goes back to the loop that resumes them (fiber_home::run, drive),
  // whatever the compiler makes of symmetric transfer: depth then never costs stack.
  static void call(fiber_base& self, promise_base& child, promise_base& caller) noexcept;
  static void go_on_with(fiber_base& self, promise_base& next) noexcept {
    self.coroutine_ = &next;
    self.home().transfer();
  }
  // One that is awaited by a coroutine has a caller; on a stack, `await` consumes the task.
  static bool began(const promise_base& child) noexcept;
  // Throws unless it can still be run.
  template <class T>
  static void check_fresh(task<T>& what) {
    if (what.promise_ == nullptr || began(*what.promise_)) [[unlikely]]
      priv::throw_task_misuse(what.promise_ == nullptr);
  }

  // The outermost coroutine of a fiber.
  template <class T>
  static void set_root(fiber_base& block, task<T>&& body) noexcept {
    block.coroutine_ = release(body);
  }
  template <class T>
  static auto& root(fiber_base& block) noexcept {
    return static_cast<typename task<T>::promise_type&>(*block.coroutine_);
  }
  static void root_over(fiber_base& self) noexcept { self.phase_ = fiber_base::phase::over; }
  static void destroy_root(fiber_base& block) noexcept;
};

// What is the same for all coroutines, and what the debugger walks.
class promise_base {
 public:
  promise_base(const promise_base&) = delete;

  static void* operator new(std::size_t bytes) { return priv::allocate_frame(bytes); }
  static void operator delete(void* frame, std::size_t bytes) noexcept {
    priv::release_frame(frame, bytes);
  }

  // The coroutine that awaits this one; null for the outermost, of a fiber or of an await on a stack.
  promise_base* caller() const noexcept { return caller_; }
  // The line of its latest co_await.
  place waits_at() const noexcept { return at_; }
  std::coroutine_handle<> handle() noexcept {
    return std::coroutine_handle<>::from_address(reinterpret_cast<std::byte*>(this) - header_bytes);
  }

  class initial_awaiter {
   public:
    bool await_ready() noexcept { return false; }
    void await_suspend(std::coroutine_handle<>) noexcept {}
    void await_resume() noexcept { current_fiber->mark_resumed(); }
  };
  class final_awaiter {
   public:
    bool await_ready() noexcept { return false; }
    template <class Promise>
    void await_suspend(std::coroutine_handle<Promise> end) noexcept {
      fiber_base& self = *current_fiber;
      self.mark_suspended();
      promise_base& ended = end.promise();
      if (ended.caller_ != nullptr) {
        task_access::go_on_with(self, *ended.caller_);
      } else if (!self.has_stack()) {
        task_access::root_over(self);
      }
    }
    void await_resume() noexcept {}
  };
  void unhandled_exception() noexcept {
    current_fiber->home().thrown() = std::current_exception();
  }
  initial_awaiter initial_suspend() noexcept { return {}; }
  final_awaiter final_suspend() noexcept { return {}; }

  // The place is a default argument, evaluated where co_await stands. Not of type place: the conversion
  // would be a second temporary in the frame.
  template <class Op>
    requires op<std::remove_reference_t<Op>>
  priv::op_awaiter<std::remove_reference_t<Op>> await_transform(
      Op&& what, here at = here::current()) noexcept {
    at_ = at;
    return priv::op_awaiter<std::remove_reference_t<Op>>(what);
  }
  template <class T>
  priv::task_awaiter<T> await_transform(task<T>&& what, here at = here::current()) noexcept {
    at_ = at;
    return priv::task_awaiter<T>(what);
  }
  template <class T>
  priv::task_awaiter<T> await_transform(task<T>& what, here at = here::current()) noexcept {
    at_ = at;
    return priv::task_awaiter<T>(what);
  }
  template <class F>
  priv::stack_call_awaiter<F> await_transform(stack_call<F>&& what,
                                              here at = here::current()) noexcept {
    at_ = at;
    return priv::stack_call_awaiter<F>(what);
  }
  template <class Other>
    requires(!op<std::remove_reference_t<Other>>)
  std::suspend_never await_transform(Other&&) {
    static_assert(priv::never<Other>,
                  "co_await in a coir::task takes an op (coir/fiber/op.hpp), a coir::task or "
                  "coir::on_stack(...); for the end of a fiber write co_await handle.join()");
    return {};
  }

 protected:
  promise_base() noexcept = default;
  ~promise_base() = default;

 private:
  friend class task_access;
  // The compiler puts the promise behind two pointers, at its alignment; task<T> checks the alignment.
  static constexpr std::size_t header_bytes = 2 * sizeof(void*);

  promise_base* caller_ = nullptr;
  place at_{};
};

inline void task_access::call(fiber_base& self, promise_base& child,
                              promise_base& caller) noexcept {
  child.caller_ = &caller;
  go_on_with(self, child);
}

inline bool task_access::began(const promise_base& child) noexcept {
  return child.caller_ != nullptr;
}

inline void task_access::destroy_root(fiber_base& block) noexcept {
  if (block.coroutine_ != nullptr) std::exchange(block.coroutine_, nullptr)->handle().destroy();
}

namespace priv {

// The value of a coroutine. An exception is not kept here: it is in the home's hand (fiber_home::thrown)
// for the short way from the end of the coroutine to whoever awaits it.
template <class T>
class promise : public promise_base {
 public:
  // References are kept as pointers.
  using stored = std::conditional_t<std::is_reference_v<T>, std::remove_reference_t<T>*, T>;
  static_assert(alignof(stored) <= 2 * sizeof(void*),
                "a task cannot return an over-aligned type: frames are aligned to 16 bytes");

  promise() noexcept {}
  ~promise() {
    if (has_value_) value_.~stored();
  }

  // The default is for braces.
  template <class From = T>
    requires std::is_constructible_v<T, From&&>
  void return_value(From&& from) {
    void* const where = std::addressof(value_);
    if constexpr (std::is_reference_v<T>) {
      ::new (where) stored(std::addressof(static_cast<T>(from)));
    } else {
      ::new (where) stored(std::forward<From>(from));
    }
    has_value_ = true;
  }

  T take() {
    if constexpr (std::is_reference_v<T>) {
      return static_cast<T>(*value_);
    } else {
      return std::move(value_);
    }
  }

 private:
  union {
    stored value_;
  };
  bool has_value_ = false;
};

template <>
class promise<void> : public promise_base {
 public:
  void return_void() noexcept {}
  void take() const noexcept {}
};

}  // namespace priv

template <class T>
class [[nodiscard("a task does nothing before it is awaited or spawned")]] task {
 public:
  using value_type = T;
  class promise_type : public priv::promise<T> {
   public:
    task get_return_object() noexcept { return task(this); }
  };

  task(const task&) = delete;  // it runs once: write std::move(task)
  task(task&& other) noexcept : promise_(std::exchange(other.promise_, nullptr)) {}
  task& operator=(task&& other) noexcept {
    if (this != &other) {
      drop();
      promise_ = std::exchange(other.promise_, nullptr);
    }
    return *this;
  }
  ~task() { drop(); }

  // False once it was moved from, or spawned.
  explicit operator bool() const noexcept { return promise_ != nullptr; }

 private:
  friend class task_access;
  explicit task(promise_type* promise) noexcept : promise_(promise) {}
  void drop() noexcept {
    if (promise_ != nullptr) std::exchange(promise_, nullptr)->handle().destroy();
  }

  promise_type* promise_;
};

namespace priv {

template <class T>
struct is_task : std::false_type {};
template <class T>
struct is_task<task<T>> : std::true_type {};

template <class T>
class [[nodiscard]] task_awaiter {
 public:
  explicit task_awaiter(task<T>& what) noexcept : child_(task_access::promise(what)) {}

  bool await_ready() const {
    if (child_ == nullptr || task_access::began(*child_)) [[unlikely]]
      throw_task_misuse(child_ == nullptr);
    return false;
  }
  template <class Promise>
  void await_suspend(std::coroutine_handle<Promise> caller) noexcept {
    fiber_base& self = *current_fiber;
    self.mark_suspended();
    task_access::call(self, *child_, caller.promise());
  }
  T await_resume() {
    fiber_base& self = *current_fiber;
    self.mark_resumed();
    self.home().rethrow();
    return child_->take();
  }

 private:
  typename task<T>::promise_type* child_;
};

}  // namespace priv

}  // namespace coir
