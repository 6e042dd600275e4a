#include <coir/scope/limited_op.hpp>

#include <coir/fiber/scheduler.hpp>

namespace coir {

void priv::limited_op_base::arm() {
  loop_ = &running_fiber().home().on();
  const instant deadline = limit_.from(loop_->time());
  if (deadline == coir::never) return;
  try {
    loop_->arm(*this, deadline);
  } catch (...) {
    // It has begun, and without a limit it must not go on. What cannot be stopped any more is waited for.
    if (stop_(*this) == abort_answer::now) throw;
    expired_ = true;
  }
}

void priv::limited_op_base::disarm() noexcept {
  if (armed()) loop_->disarm(*this);
}

void priv::limited_op_base::finished(waiter& self) noexcept {
  auto& mine = static_cast<limited_op_base&>(self);
  mine.over_ = true;
  mine.disarm();
  mine.told_->done();
}

void priv::limited_op_base::expire(timer_node& self) {
  auto& mine = static_cast<limited_op_base&>(self);
  mine.expired_ = true;
  if (mine.stop_(mine) == abort_answer::later) return;
  mine.stopped_ = true;
  mine.told_->done();
}

}  // namespace coir
