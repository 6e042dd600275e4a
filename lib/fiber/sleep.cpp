#include <coir/fiber/sleep.hpp>

#include <coir/fiber/scheduler.hpp>

#include <fmt/format.h>

namespace coir {

bool sleep_op::start(waiter& told) {
  loop_ = &running_fiber().home().on();
  instant now = loop_->turn_time();
  if (relative_) {
    // From a fresh reading: the turn's time may be old by what ran in it.
    if (wait_ > duration::zero()) {
      now = loop_->time();
      until_ = after(now, wait_);
    } else {
      until_ = instant::min();
    }
    relative_ = false;
  } else if (until_ > now && until_ != never) {
    now = loop_->time();
  }
  if (until_ <= now) {
    told.done();  // behind those that are ready
    return true;
  }
  told_ = &told;
  // The end of time needs no timer, and is nothing that could wake anybody.
  if (until_ != never) loop_->arm(timer_, until_);
  return true;
}

abort_answer sleep_op::abort() noexcept {
  if (until_ == never) return abort_answer::now;
  return loop_->disarm(timer_) ? abort_answer::now : abort_answer::later;
}

void sleep_op::fire(timer_node& mine) { reinterpret_cast<sleep_op&>(mine).told_->done(); }

void sleep_op::describe(std::string& text) const {
  if (until_ == never) {
    text += " for ever";
  } else {
    text += fmt::format(" for {:.6f} s more",
                        std::chrono::duration<double>(until_ - loop_->time()).count());
  }
}

}  // namespace coir
