// coir/fiber/stack.hpp: a fiber's stack, as far as inline code and the debugger must know it.
//
// Made and kept by the pool in lib/fiber. The records are dense and apart from the stacks, so that a free
// stack can give all its pages back.
//
// Shape    256 KiB of virtual memory by default, a guard page below, recycled; a parked stack costs the
//          pages it touched, usually one.
// Thread   one loop.
// Errors   std::system_error with ENOMEM when there is no memory for one.
// Cost     taking and giving back a stack from the pool: a few nanoseconds. A new one: about 3 microseconds,
//          most of it the first touch of its page.
// See      coir/fiber/await.hpp; lib/fiber/NOTE.md
#pragma once

#include <coir/base/place.hpp>

#include <cstddef>
#include <memory>

namespace coir {

class fiber_base;
class promise_base;

namespace priv {

// One side of a switch, as the sanitizers see it; without them nothing here is used.
struct side {
  std::byte* low = nullptr;
  std::size_t bytes = 0;
  void* fake_stack = nullptr;       // address sanitizer
  void* sanitizer_fiber = nullptr;  // thread sanitizer
};

}  // namespace priv

class stack {
 public:
  stack(const stack&) = delete;
  stack& operator=(const stack&) = delete;

  // The usable memory: from the guard to the record.
  std::byte* low() const noexcept { return low_; }
  std::byte* high() const noexcept { return high_; }
  std::size_t bytes() const noexcept { return static_cast<std::size_t>(high_ - low_); }
  // The most that was in use since the pages were last given back, in whole pages.
  std::size_t high_water_bytes() const noexcept;

  // The line of the latest await on this stack.
  place waits_at() const noexcept { return at_; }
  void waits_at(place at) noexcept { at_ = at; }
  // The function that is a fiber's body, or the call that borrowed the stack.
  void* argument() const noexcept { return argument_; }
  // The coroutine that borrowed it, which is suspended meanwhile; null for a fiber's own.
  promise_base* borrower() const noexcept { return borrower_; }

 private:
  friend class fiber_home;
  friend class stack_pool;
  friend struct std::default_delete<stack[]>;
  stack() noexcept = default;
  ~stack() = default;

  std::byte* low_ = nullptr;
  std::byte* high_ = nullptr;
  void* context_ = nullptr;  // where it stopped
  place at_{};
  stack* next_free_ = nullptr;
  // What runs here: the body of the fiber, or a function for which a coroutine borrowed it.
  void (*main_)(void* argument) noexcept = nullptr;  // null: the body
  void* argument_ = nullptr;
  promise_base* borrower_ = nullptr;
  priv::side side_;
  unsigned valgrind_id_ = 0;
  unsigned size_class_ = 0;
  bool hot_ = false;  // free, and keeps its pages
};

}  // namespace coir
