#include <coir/sync/condition.hpp>

#include <coir/sync/holder.hpp>

#include <fmt/format.h>

namespace coir {

bool condition::condition_op::start(waiter& told) {
  of_->bound_.check();
  mutex* const lock = guard_->of_;
  if (lock == nullptr) throw_misuse("a wait in a condition needs a guard that has its lock, and this one has none");
  const fiber_base& self = running_fiber();
  if (!lock->owned()) {
    throw_misuse(fmt::format("a wait in a condition with a lock of another fiber: {} has held it since {}",
                             priv::text_of(self.home(), lock->owner_), priv::text_of(lock->since_)));
  }
  // An op with a name may be awaited again.
  notified_ = stopped_ = back_.given_ = back_.must_be_told_ = false;
  told_ = &told;
  back_.of_ = lock;
  back_.who_ = &self;
  back_.into_ = guard_;
  lock->absent_.push_back(back_);
  of_->waiting_.add(*this, told);
  ++of_->stats_.waited;
  guard_->give_back();
  return true;
}

abort_answer condition::condition_op::abort() noexcept {
  if (notified_) {
    // It has the lock, or will have it: unless that is gone.
    if (!back_.given_ && back_.of_ == nullptr) return abort_answer::now;
    back_.must_be_told_ = true;
    return abort_answer::later;
  }
  if (linked()) ++of_->stats_.cancelled;
  leave();
  mutex* const lock = back_.of_;
  if (lock == nullptr) return abort_answer::now;
  stopped_ = true;
  if (lock->holder_ == nullptr) {
    back_.unlink();
    lock->give(back_);
    return abort_answer::now;
  }
  back_.must_be_told_ = true;
  lock->come_back(back_, *told_);
  return abort_answer::later;
}

void condition::condition_op::describe(std::string& text) const {
  if (linked()) {
    priv::describe_place(of_->waiting_.place_of(*this), text);
  } else if (back_.linked() && (notified_ || stopped_)) {
    text += notified_ ? ", notified, for a mutex" : ", cancelled, for a mutex";
    back_.describe(text);
  }
}

bool condition::notify_one() noexcept {
  bound_.check();
  while (!waiting_.empty()) {
    condition_op& first = waiting_.front();
    first.unlink();
    mutex* const lock = first.back_.of_;
    // Without its mutex nothing can become of it any more; the next may have another.
    if (lock == nullptr) continue;
    first.notified_ = true;
    ++stats_.notified;
    lock->come_back(first.back_, *first.told_);
    return true;
  }
  return false;
}

std::size_t condition::notify_all() noexcept {
  std::size_t count = 0;
  while (notify_one()) ++count;
  return count;
}

condition_stats condition::stats() const noexcept {
  condition_stats now = stats_;
  now.waiting = waiting_.size();
  return now;
}

}  // namespace coir
