// coir/scope/throttler.hpp: so many at most in a time: slots on a fixed grid, and one for each who waits.
//
//   coir::throttler limit(coir::per_second(50));       // or an interval: limit(20ms)
//   co_await limit.wait();                             // or coir::await(limit.wait())
//   send_one_more();                                   [tests/scope/throttler_test.cpp]
//
// Time is cut into slots of one interval, from the first wait on. A slot is taken once. Whoever comes while
// the present one is free gets it; all others get the next ones, in turn. Slots that nobody took are over:
// they are not made up for, so there is no burst after a pause, and what comes late moves nothing.
//
// Shape    an object that is neither copied nor moved. wait() is an op of 56 bytes, and gives the number of
//          slots that passed unused before its own.
// Order    first come, first served. In any time of n intervals at most n + 1 slots are taken.
// Thread   one loop, the first that used it, for as long as that lives: another is an assertion that names both.
// Lifetime those who still wait when it goes, such as children of a body whose local it was, wait until they
//          are cancelled.
// Cancel   aborts now. A cancelled waiter takes no slot, and those behind it move up.
// Errors   std::logic_error for an interval or a rate that is zero, negative, not a number or without end.
//          std::bad_alloc when the timer heap cannot grow.
// Cost     a timer for each who waits; one clock reading where nobody is in front. Also where the slot is
//          free a wait is one turn of the loop: others run, the kernel is looked at, and timers that are
//          due fire. So a loop that does nothing else holds up nobody, and its limit ends it on time.
// See      coir/scope/periodic.hpp; lib/scope/NOTE.md
#pragma once

#include <coir/base/list.hpp>
#include <coir/base/time.hpp>
#include <coir/fiber/loop_bound.hpp>
#include <coir/fiber/op.hpp>
#include <coir/loop/timer_heap.hpp>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>

namespace coir {

class loop;
class throttler;

// The interval that makes so many in a second, rounded up to a nanosecond: never more than that.
duration per_second(double count);

namespace priv {

// More than that is as good as without end, and sums of it stay within what the clock can say.
inline constexpr duration interval_max = std::chrono::hours(24) * 36525;

[[noreturn, gnu::cold]] void throw_bad_interval(double seconds);

template <class Rep, class Period>
duration checked_interval(std::chrono::duration<Rep, Period> interval) {
  // What is not a number becomes zero, and what is infinite the longest there is.
  const duration exact = saturated(interval);
  if (exact <= duration::zero() || exact > interval_max) [[unlikely]] {
    throw_bad_interval(std::chrono::duration_cast<std::chrono::duration<double>>(interval).count());
  }
  return exact;
}

}  // namespace priv

struct throttler_stats {
  std::uint64_t taken = 0;
  std::uint64_t missed = 0;  // passed between two that were taken
  std::uint64_t cancelled = 0;
  std::size_t waiting = 0;
};

// Its timer is its own, so that nothing can fail when a slot is handed on: of those who wait, the first is
// armed for its slot, and the others, for the end of time, only have their places in the heap.
class [[nodiscard("co_await it, or coir::await(it)")]] slot_op : public list_node, private timer_node {
 public:
  static constexpr const char* name = "slot";
  explicit slot_op(throttler& of) noexcept : timer_node(fire), of_(&of) {}

  bool start(waiter& told);
  abort_answer abort() noexcept;
  std::uint64_t take() const noexcept { return missed_; }
  void describe(std::string& text) const;

 private:
  friend class throttler;
  static void fire(timer_node& mine);

  throttler* of_;  // null when that is gone
  waiter* told_ = nullptr;
  std::uint64_t missed_ = 0;
};

class throttler {
 public:
  template <class Rep, class Period>
  explicit throttler(std::chrono::duration<Rep, Period> interval)
      : throttler(priv::checked_interval(interval), kind::slots) {}
  throttler(const throttler&) = delete;
  throttler& operator=(const throttler&) = delete;
  ~throttler();

  slot_op wait() noexcept { return slot_op(*this); }
  duration interval() const noexcept { return interval_; }
  throttler_stats stats() const noexcept { return stats_; }

 protected:
  // points: there is nothing to be had between the points of the grid, and the first is one interval away.
  enum class kind : std::uint8_t { slots, points };
  throttler(duration interval, kind what) noexcept : interval_(interval), kind_(what) {}

 private:
  friend class slot_op;
  void begin(instant now) noexcept;
  instant free_at(instant now) const noexcept;
  std::uint64_t take_slot(instant now) noexcept;

  duration interval_;
  instant next_{};  // the first slot that was neither taken nor passed over
  instant aim_{};   // when the first of those who wait gets one
  list<slot_op> waiting_;
  loop* loop_ = nullptr;
  priv::loop_bound bound_;
  throttler_stats stats_;
  kind kind_;
  bool begun_ = false;
};

}  // namespace coir
