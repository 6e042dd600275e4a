#include <coir/loop/timer.hpp>

#include <coir/base/error.hpp>
#include <coir/loop/loop.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <stdexcept>
#include <system_error>
#include <utility>

namespace coir {

namespace {

std::uint64_t unsigned_of(duration time) noexcept { return static_cast<std::uint64_t>(time.count()); }

double seconds_of(duration time) noexcept { return std::chrono::duration<double>(time).count(); }

}  // namespace

timer::timer(loop& of, instant first, duration interval, callback<timer&>&& then)
    : registration(of, registration_kind::timer),
      then_(std::move(then)),
      deadline_(first),
      interval_(interval) {
  of.arm(node_, deadline_);
}

void timer::leave() noexcept {
  loop& mine = on();
  if (!mine.disarm(node_)) return;
  try {
    mine.show_change();
  } catch (const std::system_error&) {  // a foreign loop is woken once for nothing
  }
}

void timer::restart_in(duration wait) {
  if (wait < duration::zero()) throw std::invalid_argument(fmt::format("a timer is to fire in {} ns", wait.count()));
  restart_at(coir::after(checked().time(), wait));
}

void timer::restart_at(instant deadline) {
  loop& mine = checked();
  mine.arm(node_, deadline);
  deadline_ = deadline;
  mine.show_change();
}

void timer::fire(timer_node& node) {
  timer& self = *static_cast<own_node&>(node).whose;
  const call during(self);
  // One that fired and has no handle is over.
  struct end {
    timer& of;
    ~end() {
      if (!of.node_.armed() && !of.is_held()) of.cancel();
    }
  };
  const end afterwards{self};
  self.ticks_ = 1;
  if (self.interval_ != duration::zero()) {
    loop& on = self.on();
    const instant now = std::max(self.deadline_, on.turn_time());
    // Without a sign: between the beginning of time and now lies more than a duration holds.
    const std::uint64_t late = unsigned_of(now.time_since_epoch()) - unsigned_of(self.deadline_.time_since_epoch());
    const std::uint64_t interval = unsigned_of(self.interval_);
    self.ticks_ += late / interval;
    self.deadline_ = coir::after(now - duration(late % interval), self.interval_);
    on.arm(self.node_, self.deadline_);
  }
  self.then_(self);
}

std::string timer::describe() const {
  if (!node_.armed()) return "timer that has fired";
  const double seconds = seconds_of(deadline_.time_since_epoch()) - seconds_of(on().time().time_since_epoch());
  return interval_ == duration::zero()
             ? fmt::format("timer due in {:.3f} s", seconds)
             : fmt::format("timer due in {:.3f} s, every {:.3f} s", seconds, seconds_of(interval_));
}

}  // namespace coir
