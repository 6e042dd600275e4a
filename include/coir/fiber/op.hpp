// coir/fiber/op.hpp: the suspend point: what can be waited for, and what that promises.
//
//   std::size_t n = co_await peer.read_some(buffer);      // in a coroutine
//   std::size_t n = coir::await(peer.read_some(buffer));  // on a stack
//   auto got = co_await coir::as_result(peer.read_some(buffer));   // an error code, not an exception
//                                                         [tests/fiber/op_test.cpp]
//
// Whatever can be waited for is an op: a class with three verbs, and somebody to tell.
//
//     bool  start(waiter&);    // begin; false: already finished, no suspension needed
//     abort_answer abort();    // now: nothing happened and nobody will be told
//                              // later: someone still owns it; it will complete
//     T     take();            // the result, on the waiter's side; may throw
//
// It lives in the frame that waits for it. The rules, each tested for every op on both surfaces:
//   1. abort() is called at most once in a wait, on the op's own loop.
//   2. After `later`, its memory and buffers are somebody else's until it is done. Regions wait for it.
//   3. A `later` op may still succeed. Its result is delivered, never dropped; the cancellation surfaces
//      at the next suspend point. A descriptor that nobody takes is closed; bytes are never lost.
//   4. An op has no effect and throws `cancelled`, or it completes. An op made of steps (write_all) that
//      was stopped in between says in the exception how far it came.
//   5. Every op checks for cancellation before it starts, also when it would not suspend, and counts
//      against the fiber's turn budget: a fiber whose ops finish at once still lets others run. That
//      yield comes after completion: the result is kept, and a cancellation that arrives meanwhile
//      surfaces at the next suspend point.
//   6. done() only queues the waiter; it never runs user code.
//   7. A select is an op made of ops: losers are aborted and awaited before it returns.
//   8. When its wait is over it may be awaited again: it does the same again, or goes on where it was, or is over at
//      once. Where that makes no sense it is std::logic_error. What it was made of must still be there, where it was,
//      and a stream open; most ops that were given up when that ended say so too.
//
// Shape    an op is a class with constructors, movable until it is started and not after. Its awaiter is
//          one word.
// Thread   the loop's.
// Cancel   a fiber that is cancelled gets the exception `cancelled` at its suspend point; one that is interrupted,
//          what it was interrupted with. What an op throws as `cancelled` itself counts as the answer to that.
// Errors   co_await op throws std::system_error; as_result(op) returns its code. `cancelled` is thrown
//          in both cases. Awaiting outside of a fiber is std::logic_error.
// Cost     waiting allocates nothing: about 4 ns from co_await to the op and back.
// See      coir/fiber/await.hpp; lib/fiber/NOTE.md
#pragma once

#include <coir/base/error.hpp>
#include <coir/base/expected.hpp>
#include <coir/base/place.hpp>
#include <coir/fiber/fiber_base.hpp>
#include <coir/fiber/fiber_home.hpp>
#include <coir/loop/waiter.hpp>

#include <concepts>
#include <coroutine>
#include <string>
#include <type_traits>
#include <utility>

namespace coir {

template <class Op>
concept op = requires(Op& what, waiter& told) {
  { what.start(told) } -> std::same_as<bool>;
  { what.abort() } noexcept -> std::same_as<abort_answer>;
  what.take();
  { Op::name } -> std::convertible_to<const char*>;
};

template <op Op>
using result_of = decltype(std::declval<Op&>().take());

namespace priv {

// What a fiber keeps of the op it waits in.
template <op Op>
inline constexpr op_kind kind_of{
    Op::name, [](void* what) noexcept { return static_cast<Op*>(what)->abort(); },
    [] {
      void (*describe)(const void*, std::string&) = nullptr;
      if constexpr (requires(const Op& what, std::string& text) { what.describe(text); }) {
        describe = [](const void* what, std::string& text) {
          static_cast<const Op*>(what)->describe(text);
        };
      }
      return describe;
    }(),
    [] {
      void (*shutting_down)(void*) noexcept = nullptr;
      if constexpr (requires(Op& what) { what.shutting_down(); }) {
        shutting_down = [](void* what) noexcept { static_cast<Op*>(what)->shutting_down(); };
      }
      return shutting_down;
    }()};

// False, and known to be so only where a template is used: for what must not compile, but say why.
template <class T>
inline constexpr bool never = false;

template <op Op>
inline constexpr bool only_yields = requires { Op::only_yields; };

// Such an op is waited for in any case: a region's end waits for its children, however often it is cancelled.
template <op Op>
inline constexpr bool cannot_be_cancelled = requires { Op::cannot_be_cancelled; };

// An op that was stopped half-way says so itself; all others had no effect.
template <op Op>
[[noreturn, gnu::cold]] void throw_stopped(fiber_base& self, Op& what) {
  if constexpr (requires { what.cancellation(); }) {
    self.throw_interruption(what.cancellation());
  } else {
    self.throw_interruption(cancelled());
  }
}

// The result of an op that was asked to stop and went on to its end. If that is that it stopped after all, what
// it throws does not know why: which region was cancelled, or what interrupt() gave.
template <op Op>
[[gnu::cold, gnu::noinline]] decltype(auto) take_late(fiber_base& self, Op& what) {
  try {
    return what.take();
  } catch (const cancelled& why) {
    if (why.origin() != nullptr) throw;
    self.throw_interruption(why);
  }
}

// After the wait, or where there was none. Inline, which compilers do not find worth it for what it throws.
template <op Op>
[[gnu::always_inline]] inline decltype(auto) take_waited(fiber_base& self, Op& what) {
  if (const auto end = self.take_wait_end(); end != fiber_base::wait_end::complete) [[unlikely]] {
    if (end == fiber_base::wait_end::stopped) throw_stopped(self, what);
    return take_late(self, what);
  }
  return what.take();
}

// `co_await op`. One word, trivially destructible, with a constructor: what gcc 12 can handle in any
// expression. The place is kept in the promise.
template <op Op>
class [[nodiscard]] op_awaiter {
 public:
  explicit op_awaiter(Op& what) noexcept : what_(&what) {}

  bool await_ready() {
    fiber_base& self = running_fiber();
    if constexpr (!cannot_be_cancelled<Op>) self.check_interrupted();
    if constexpr (only_yields<Op>) {
      return false;
    } else {
      return !self.begin_wait(*what_, kind_of<Op>);
    }
  }
  void await_suspend(std::coroutine_handle<>) noexcept {
    fiber_base& self = *current_fiber;
    self.mark_suspended();
    if constexpr (only_yields<Op>) self.begin_yield();
  }
  decltype(auto) await_resume() {
    fiber_base& self = *current_fiber;
    self.mark_resumed();
    if constexpr (only_yields<Op>) {
      return what_->take();
    } else {
      return take_waited(self, *what_);
    }
  }

 private:
  Op* what_;
};

}  // namespace priv

// An op whose take() gives expected<T, std::error_code> in place of throwing std::system_error.
template <op Op>
class [[nodiscard("co_await it, or coir::await(it)")]] result_op {
 public:
  static constexpr const char* name = Op::name;

  explicit result_op(Op what) : what_(std::move(what)) {}
  bool start(waiter& told) { return what_.start(told); }
  abort_answer abort() noexcept { return what_.abort(); }
  void describe(std::string& text) const
    requires requires(const Op& what) { what.describe(text); }
  {
    what_.describe(text);
  }
  auto cancellation()
    requires requires(Op& what) { what.cancellation(); }
  {
    return what_.cancellation();
  }
  void shutting_down()
    requires requires(Op& what) { what.shutting_down(); }
  {
    what_.shutting_down();
  }
  void step_aside() noexcept
    requires requires(Op& what) { what.step_aside(); }
  {
    what_.step_aside();
  }
  void step_back() noexcept
    requires requires(Op& what) { what.step_back(); }
  {
    what_.step_back();
  }

  auto take() {
    if constexpr (requires { what_.take_result(); }) {
      return what_.take_result();
    } else {
      using value = std::remove_cvref_t<result_of<Op>>;
      try {
        if constexpr (std::is_void_v<value>) {
          what_.take();
          return result<void>();
        } else {
          return result<value>(what_.take());
        }
      } catch (const std::system_error& error) {
        return result<value>(unexpected<std::error_code>(error.code()));
      }
    }
  }

 private:
  Op what_;
};

template <op Op>
result_op<Op> as_result(Op what) {
  return result_op<Op>(std::move(what));
}

}  // namespace coir
