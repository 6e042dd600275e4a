#include <coir/scope/throttler.hpp>

#include <coir/base/error.hpp>
#include <coir/fiber/scheduler.hpp>

#include <fmt/format.h>

#include <algorithm>

namespace coir {

namespace priv {

void throw_bad_interval(double seconds) {
  throw_misuse(fmt::format("an interval of {} s: it must be more than nothing, and at most 100 years", seconds));
}

}  // namespace priv

duration per_second(double count) {
  const std::chrono::duration<double, std::nano> interval(1e9 / count);
  const duration exact = saturated(interval);
  // Of an infinite rate nothing is left, which is rounded up to nothing.
  if (exact <= duration::zero() || exact > priv::interval_max) {
    throw_misuse(fmt::format("a rate of {} per second: it must be more than nothing (at least one in 100 years), "
                             "and finite",
                             count));
  }
  return exact;
}

throttler::~throttler() {
  while (!waiting_.empty()) {
    slot_op& left = waiting_.pop_front();
    loop_->disarm(left);
    left.of_ = nullptr;
  }
}

void throttler::begin(instant now) noexcept {
  if (begun_) return;
  begun_ = true;
  next_ = kind_ == kind::slots ? now : after(now, interval_);
}

// For one who comes now and has nobody in front.
instant throttler::free_at(instant now) const noexcept {
  if (next_ >= now) return next_;
  // In the middle of a slot that nobody took. Not at its beginning: what was due between that and now, such as
  // the end of the caller's time, comes first.
  if (kind_ == kind::slots) return now;
  const duration since_point = (now - next_) % interval_;
  return since_point == duration::zero() ? now : after(now - since_point, interval_);
}

// The one that has begun last; those before it are missed.
std::uint64_t throttler::take_slot(instant now) noexcept {
  const auto missed = now > next_ ? (now - next_) / interval_ : 0;
  next_ = after(next_ + missed * interval_, interval_);
  ++stats_.taken;
  stats_.missed += static_cast<std::uint64_t>(missed);
  return static_cast<std::uint64_t>(missed);
}

bool slot_op::start(waiter& told) {
  if (of_ == nullptr) throw_misuse("waiting for a throttler that ended while the same wait was under way");
  throttler& of = *of_;
  of.bound_.check();
  loop& on = running_fiber().home().on();
  if (of.waiting_.empty()) {
    const instant now = on.time();
    of.begin(now);
    const instant aim = of.free_at(now);
    on.arm(*this, aim);
    of.aim_ = aim;
    of.loop_ = &on;
  } else {
    on.arm(*this, never);
  }
  told_ = &told;
  of.waiting_.push_back(*this);
  ++of.stats_.waiting;
  return true;
}

abort_answer slot_op::abort() noexcept {
  if (of_ == nullptr) return abort_answer::now;
  if (!linked()) return abort_answer::later;  // the slot is taken
  throttler& of = *of_;
  const bool first = &of.waiting_.front() == this;
  unlink();
  of.loop_->disarm(*this);
  --of.stats_.waiting;
  ++of.stats_.cancelled;
  if (first && !of.waiting_.empty()) of.loop_->arm(of.waiting_.front(), of.aim_);
  return abort_answer::now;
}

void slot_op::fire(timer_node& mine) {
  auto& self = static_cast<slot_op&>(mine);
  throttler& of = *self.of_;
  self.unlink();
  --of.stats_.waiting;
  // As late as it may be by now: whoever is next must not get a second one out of the same slot.
  self.missed_ = of.take_slot(of.loop_->turn_time());
  if (!of.waiting_.empty()) {
    of.aim_ = of.next_;
    of.loop_->arm(of.waiting_.front(), of.aim_);
  }
  self.told_->done();
}

void slot_op::describe(std::string& text) const {
  if (!linked()) return;
  const throttler& of = *of_;
  unsigned before = 0;
  for (const slot_op* at = &of.waiting_.front(); at != this; at = of.waiting_.after(*at)) ++before;
  // In seconds: so many intervals may be more than a duration holds.
  using seconds = std::chrono::duration<double>;
  const seconds left = seconds(of.aim_ - of.loop_->time()) + before * seconds(of.interval_);
  text += fmt::format(" for {:.6f} s more", std::max(left.count(), 0.0));
  if (before != 0) text += fmt::format(", behind {}", before);
}

}  // namespace coir
