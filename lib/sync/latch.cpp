#include <coir/sync/latch.hpp>

#include <fmt/format.h>

namespace coir {

bool latch::latch_op::start(waiter& told) {
  latch& of = *of_;
  of.count_down(arrivals_);
  if (of.left_ == 0) return false;
  ++of.stats_.waited;
  of.waiting_.add(*this, told);
  return true;
}

abort_answer latch::latch_op::abort() noexcept {
  if (linked()) {
    // It is open for good: a select may stop this op because it was woken by another one of its own.
    if (of_->left_ != 0) of_->left_ += arrivals_;
    ++of_->stats_.cancelled;
  }
  return leave();
}

void latch::latch_op::describe(std::string& text) const {
  if (linked()) text += fmt::format(", {} have to come", of_->left_);
}

void latch::count_down(std::size_t arrivals) {
  bound_.check();
  if (arrivals > left_) {
    throw_misuse(fmt::format("a latch was counted down by {} and had {} left", arrivals, left_));
  }
  left_ -= arrivals;
  if (left_ == 0) waiting_.wake_all();
}

latch_stats latch::stats() const noexcept {
  latch_stats now = stats_;
  now.waiting = waiting_.size();
  return now;
}

}  // namespace coir
