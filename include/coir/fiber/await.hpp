// coir/fiber/await.hpp: waiting on a stack, and lending a coroutine a stack.
//
//   std::size_t n = coir::await(peer.read_some(buffer));    // in a plain function: the fiber waits
//   int y = coir::await(twice(21));                         // a task, inside the same fiber
//   co_await coir::on_stack([&] { legacy_call_that_awaits(); });   // in a coroutine
//                                                           [tests/fiber/await_test.cpp]
//
// Shape    functions. on_stack borrows a stack from the pool for the length of the call; where the
//          coroutine already runs on one (a task awaited on a stack), the function runs there.
// Thread   one loop.
// Cancel   await(op) is a suspend point like co_await op. await(task) and on_stack are none; what is
//          awaited inside is.
// Errors   as co_await. std::logic_error where there is no stack, with what to write instead.
//          std::system_error with ENOMEM when there is no memory for a stack.
// Cost     two context switches a wait, or one when the next ready fiber has a stack too: 6 ns each.
// See      coir/fiber/op.hpp, which has the rules; README.md, "Coroutines on gcc 12"
#pragma once

#include <coir/base/config.hpp>
#include <coir/fiber/fiber_base.hpp>
#include <coir/fiber/fiber_home.hpp>
#include <coir/fiber/op.hpp>
#include <coir/fiber/stack.hpp>
#include <coir/fiber/task.hpp>

#include <concepts>
#include <exception>
#include <memory>
#include <type_traits>
#include <utility>

namespace coir {

namespace priv {

[[noreturn, gnu::cold]] void throw_no_stack();
inline fiber_base& running_fiber_on_stack(place at) {
  fiber_base& self = running_fiber();
  if (!self.has_stack()) [[unlikely]]
    throw_no_stack();
  self.waits_on_stack_at(at);
  return self;
}

}  // namespace priv

template <class Op>
  requires op<std::remove_reference_t<Op>>
decltype(auto) await(Op&& what, place at = here::current()) {
  fiber_base& self = priv::running_fiber_on_stack(at);
  if constexpr (!priv::cannot_be_cancelled<std::remove_reference_t<Op>>) self.check_interrupted();
  if constexpr (priv::only_yields<std::remove_reference_t<Op>>) {
    self.begin_yield();
    self.home().switch_out(self);
  } else {
    if (self.begin_wait(what, priv::kind_of<std::remove_reference_t<Op>>)) {
      self.home().switch_out(self);
    }
    if (self.take_aborted()) [[unlikely]]
      priv::throw_stopped(self, what);
  }
  return priv::take_from(self, what);
}

template <class T>
T await(task<T> what, place at = here::current()) {
  fiber_base& self = priv::running_fiber_on_stack(at);
  auto* const promise = task_access::promise(what);
  if (promise == nullptr || task_access::began(*promise)) [[unlikely]]
    priv::throw_task_misuse(promise == nullptr);
  self.home().drive(self, *promise);
  self.home().rethrow();
  return promise->take();
}

template <class Other>
  requires(!op<std::remove_reference_t<Other>>)
void await(Other&&) {
  static_assert(priv::never<Other>,
                "coir::await takes an op (coir/fiber/op.hpp) or a coir::task; for the end of a fiber write "
                "coir::await(handle.join())");
}

// What on_stack(fn) returns: awaitable in a coroutine, once.
template <class F>
class [[nodiscard("co_await it")]] stack_call {
 public:
  using value_type = std::invoke_result_t<F&>;

  explicit stack_call(F&& function) : function_(std::forward<F>(function)) {}
  stack_call(stack_call&& other) : function_(std::forward<F>(other.function_)) {}
  ~stack_call() {
    if constexpr (!std::is_void_v<value_type>) {
      if (has_value_) value_.~stored();
    }
  }

 private:
  friend class priv::stack_call_awaiter<F>;
  using stored = std::conditional_t<
      std::is_void_v<value_type>, char,
      std::conditional_t<std::is_reference_v<value_type>,
                         std::remove_reference_t<value_type>*, value_type>>;

  void run() noexcept {
    try {
      if constexpr (std::is_void_v<value_type>) {
        function_();
      } else if constexpr (std::is_reference_v<value_type>) {
        ::new (static_cast<void*>(std::addressof(value_))) stored(&function_());
        has_value_ = true;
      } else {
        ::new (static_cast<void*>(std::addressof(value_))) stored(function_());
        has_value_ = true;
      }
    } catch (...) {
      exception_ = std::current_exception();
    }
  }

  F function_;  // a reference when an lvalue was given
  union {
    stored value_;
  };
  bool has_value_ = false;
  std::exception_ptr exception_;
};

// Runs `function` on a stack, as part of this fiber: await() works in it.
template <class F>
  requires std::invocable<std::remove_reference_t<F>&>
stack_call<F> on_stack(F&& function) {
#if COIR_GCC_BEFORE_13
  static_assert(std::is_lvalue_reference_v<F> || std::is_trivially_destructible_v<F>,
                "gcc before 13 destroys the captures of a temporary in a co_await expression twice. "
                "Name the function first: auto fn = [...] {...}; co_await coir::on_stack(fn);");
#endif
  return stack_call<F>(std::forward<F>(function));
}

namespace priv {

template <class F>
class [[nodiscard]] stack_call_awaiter {
 public:
  explicit stack_call_awaiter(stack_call<F>& what) noexcept : what_(&what) {}

  bool await_ready() {
    fiber_base& self = running_fiber();
    if (self.has_stack()) {
      what_->run();
      return true;
    }
    lent_ = &self.home().borrow_stack(run, what_);
    return false;
  }
  void await_suspend(std::coroutine_handle<>) noexcept {
    fiber_base& self = *current_fiber;
    self.mark_suspended();
    self.home().begin_on_stack(self, *lent_);
  }
  decltype(auto) await_resume() {
    if (lent_ != nullptr) {
      fiber_base& self = *current_fiber;
      self.mark_resumed();
      self.home().return_stack(*lent_);
    }
    if (what_->exception_ != nullptr) std::rethrow_exception(what_->exception_);
    using value = typename stack_call<F>::value_type;
    if constexpr (std::is_reference_v<value>) {
      return static_cast<value>(*what_->value_);
    } else if constexpr (!std::is_void_v<value>) {
      return value(std::move(what_->value_));
    }
  }

 private:
  static void run(void* what) noexcept { static_cast<stack_call<F>*>(what)->run(); }

  stack_call<F>* what_;
  stack* lent_ = nullptr;
};

}  // namespace priv

}  // namespace coir
