// coir/fiber/sleep.hpp: waiting for time to pass.
//
//   co_await coir::sleep_for(1ms);
//   coir::await(coir::sleep_until(deadline));               [tests/fiber/sleep_test.cpp]
//
// Shape    ops of 40 bytes. Any std::chrono duration; instants of the loop's clock (loop.time()).
//          One that is awaited again has the deadline that it had.
// Order    by deadline; equal deadlines in the order in which they were started.
// Thread   one loop.
// Cancel   aborts now.
// Errors   std::bad_alloc when the timer heap cannot grow.
// Cost     O(log n) in the number of armed timers. sleep_for reads the clock once. One that is zero,
//          negative or past lets the fibers that are ready run first, and arms nothing.
// See      coir/loop/timer_heap.hpp
#pragma once

#include <coir/base/time.hpp>
#include <coir/fiber/op.hpp>
#include <coir/loop/timer_heap.hpp>

#include <chrono>
#include <string>

namespace coir {

class [[nodiscard("co_await it, or coir::await(it)")]] sleep_op {
 public:
  static constexpr const char* name = "sleep";

  explicit sleep_op(instant until) noexcept : timer_(fire), until_(until) {}
  explicit sleep_op(duration wait) noexcept : timer_(fire), wait_(wait), relative_(true) {}

  bool start(waiter& told);
  abort_answer abort() noexcept;
  void take() noexcept {}
  void describe(std::string& text) const;

 private:
  // The timer is the first member, so that its address is the op's.
  static void fire(timer_node& mine);

  timer_node timer_;
  union {
    instant until_;
    duration wait_;  // before start
  };
  bool relative_ = false;
  waiter* told_ = nullptr;
  loop* loop_ = nullptr;
};

template <class Rep, class Period>
sleep_op sleep_for(std::chrono::duration<Rep, Period> wait) noexcept {
  return sleep_op(saturated(wait));
}
inline sleep_op sleep_until(instant until) noexcept { return sleep_op(until); }

}  // namespace coir
