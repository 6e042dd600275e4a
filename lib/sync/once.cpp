#include <coir/sync/once.hpp>

#include <coir/sync/holder.hpp>

#include <fmt/format.h>

namespace coir {

bool once::once_op::start(waiter& told) {
  once& of = *of_;
  of.bound_.check();
  if (of.done_) return false;
  who_ = &running_fiber();
  if (of.runner_ == nullptr) {
    of.give(*this);
    return false;
  }
  if (of.runner_id_ == who_->id()) {
    throw_misuse(fmt::format("{} does what is to be done once since {}, and would wait for itself",
                             priv::text_of(who_->home(), who_->id()), priv::text_of(of.since_)));
  }
  ++of.stats_.waited;
  of.waiting_.add(*this, told);
  return true;
}

abort_answer once::once_op::abort() noexcept {
  if (linked()) ++of_->stats_.cancelled;
  return leave();
}

void once::once_op::describe(std::string& text) const {
  if (!linked()) return;
  const std::size_t behind = of_->waiting_.place_of(*this);
  if (behind < priv::places_told) {
    text += fmt::format(" done by {} since {}", priv::text_of(who_->home(), of_->runner_id_),
                        priv::text_of(of_->since_));
  }
  priv::describe_place(behind, text);
}

void once::give(once_op& next) noexcept {
  runner_ = &next.got_;
  next.got_.of_ = this;
  runner_id_ = next.who_->id();
  since_ = next.at_;
  ++stats_.tried;
}

void once::pass_on() noexcept {
  bound_.check();
  runner_ = nullptr;
  if (waiting_.empty()) return;
  give(waiting_.front());
  waiting_.wake_first();
}

void once::finish() noexcept {
  bound_.check();
  runner_ = nullptr;
  done_ = true;
  waiting_.wake_all();
}

once_stats once::stats() const noexcept {
  once_stats now = stats_;
  now.waiting = waiting_.size();
  return now;
}

}  // namespace coir
