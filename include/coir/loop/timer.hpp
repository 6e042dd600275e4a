// coir/loop/timer.hpp: a function called at an instant, or again and again.
//
//   auto once = loop.after(250ms, [&] { ... });              // or at(deadline, ...)
//   auto tick = loop.every(1s, [&](coir::timer& t) { lost += t.ticks() - 1; });
//   once->restart(1s);                                       // a watchdog that was fed
//                                                            [tests/loop/timer_test.cpp]
//
// For fibers there are sleep_for and sleep_until; what loops and libraries are made of is timer_heap.hpp.
//
// Shape    a registration. One that has fired once can be restarted as long as its handle lives.
// Order    by deadline, equal deadlines in the order in which they were set. Nothing fires inline, not even what is
//          due already: it fires in a later turn. At most 1024 in a turn, then descriptors get theirs.
// Grid     every() keeps to first + n * interval for ever: ticks that were missed are one call, and ticks()
//          says how many. The next deadline is set before the call, so that one that throws goes on.
// Clock    the loop's time(): the steady clock, which jumps with nobody's settings and stands still while the
//          machine is suspended.
// Thread   the loop's.
// Cancel   also from another timer that is due in the same turn.
// Errors   std::invalid_argument for a negative wait and for an interval that is not positive.
// Cost     O(log n) to set, move and end; one clock reading for a wait, none for an instant.
// See      coir/loop/registration.hpp; coir/fiber/sleep.hpp
#pragma once

#include <coir/base/callback.hpp>
#include <coir/base/time.hpp>
#include <coir/loop/registration.hpp>
#include <coir/loop/timer_heap.hpp>

#include <chrono>
#include <cstdint>
#include <string>

namespace coir {

class timer final : public registration {
 public:
  // Fires so long from now, or at this instant, instead of when it was to. One of a grid begins a new one.
  template <class Rep, class Period>
  void restart(std::chrono::duration<Rep, Period> wait) {
    restart_in(saturated(wait));
  }
  void restart_at(instant deadline);

  // In the callback: how many points of the grid have passed since the call before, this one included.
  std::uint64_t ticks() const noexcept { return ticks_; }
  // When it will fire; `never` when it will not.
  instant deadline() const noexcept { return node_.armed() ? deadline_ : never; }
  bool armed() const noexcept { return node_.armed(); }

  std::string describe() const override;

 private:
  friend class loop;
  timer(loop& of, instant first, duration interval, callback<timer&>&& then);
  ~timer() override = default;
  void restart_in(duration wait);
  void leave() noexcept override;
  void drop() noexcept override { then_ = nullptr; }
  bool is_expected() const noexcept override { return node_.armed(); }
  static void fire(timer_node& node);

  struct own_node : timer_node {
    explicit own_node(timer* owner) noexcept : timer_node(fire), whose(owner) {}
    timer* whose;
  };

  own_node node_{this};
  callback<timer&> then_;
  instant deadline_;
  duration interval_;  // zero: once
  std::uint64_t ticks_ = 0;
};

}  // namespace coir
