#include <coir/testing/sequencer.hpp>

#include <fmt/format.h>

namespace coir::testing {

bool sequencer::turn_op::start(waiter& told) {
  if (position_ < of_->next_ || (position_ == of_->next_ && of_->taken_)) {
    throw_misuse(fmt::format("turn {} was taken before", position_));
  }
  if (position_ == of_->next_) {
    of_->taken_ = true;
    return false;
  }
  of_->waiting_.for_each([&](const turn_op& other) {
    if (other.position_ == position_) {
      throw_misuse(fmt::format("turn {} is waited for already", position_));
    }
  });
  told_ = &told;
  of_->waiting_.push_back(*this);
  return true;
}

void sequencer::pass_on() noexcept {
  ++next_;
  taken_ = false;
  if (waiting_.empty()) return;
  for (turn_op* who = &waiting_.front(); who != nullptr; who = waiting_.after(*who)) {
    if (who->position_ != next_) continue;
    taken_ = true;
    who->unlink();
    // Whoever is told may withdraw others who wait here.
    who->told_->done();
    return;
  }
}

}  // namespace coir::testing
