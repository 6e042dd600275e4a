#include <coir/sync/barrier.hpp>

#include <fmt/format.h>

namespace coir {

barrier::barrier(std::size_t count) : count_(count) {
  if (count == 0) throw_misuse("a barrier for 0 fibers: it takes one or more");
}

bool barrier::barrier_op::start(waiter& told) noexcept {
  barrier& of = *of_;
  of.bound_.check();
  last_ = false;
  if (of.arrived_ + 1 < of.count_) {
    ++of.arrived_;
    of.waiting_.add(*this, told);
    return true;
  }
  of.arrived_ = 0;
  ++of.stats_.rounds;
  last_ = true;
  of.waiting_.wake_all();
  return false;
}

abort_answer barrier::barrier_op::abort() noexcept {
  // Not of a round that is complete: the select whose other op was just woken stops this one before its turn comes.
  if (linked() && of_->arrived_ != 0) {
    --of_->arrived_;
    ++of_->stats_.cancelled;
  }
  return leave();
}

void barrier::barrier_op::step_aside() noexcept {
  if (!linked()) return;
  wait_node::step_aside();
  --of_->arrived_;
}

void barrier::barrier_op::step_back() noexcept {
  if (linked()) return;
  wait_node::step_back();
  if (linked()) ++of_->arrived_;
}

void barrier::barrier_op::describe(std::string& text) const {
  if (linked()) text += fmt::format(", {} of {} have come", of_->arrived_, of_->count_);
}

barrier_stats barrier::stats() const noexcept {
  barrier_stats now = stats_;
  now.waiting = arrived_;
  return now;
}

}  // namespace coir
