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
  waiting_.for_each([&](turn_op& who) {
    if (who.position_ != next_ || taken_) return;
    taken_ = true;
    who.unlink();
    who.told_->done();
  });
}

}  // namespace coir::testing
