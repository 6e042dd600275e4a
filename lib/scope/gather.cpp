#include <coir/scope/gather.hpp>

#include <coir/base/error.hpp>
#include <coir/fiber/stack.hpp>

#include <cerrno>

namespace coir::priv {

place awaited_at() {
  const fiber_base& self = running_fiber();
  if (const promise_base* const caller = self.innermost()->caller(); caller != nullptr) return caller->waits_at();
  return self.has_stack() ? self.current_stack()->waits_at() : self.spawned_at();
}

void race::entry::enter(race& which, std::size_t index, const handle_base& who) {
  race_ = &which;
  index_ = index;
  end_.emplace(who);
  end_->start(*this);
  ++which.running_;
}

void race::entry::finished(waiter& self) noexcept {
  const auto& mine = static_cast<entry&>(self);
  race& of = *mine.race_;
  --of.running_;
  // Who was cancelled has not come to an end.
  if (of.winner_ != nobody || mine.end_->outcome() == fiber_outcome::cancelled) return;
  of.winner_ = mine.index_;
  of.where_->cancel();
}

std::size_t race::winner() const {
  if (winner_ == nobody) {
    running_fiber().check_interrupted();
    // Its region has ended without it.
    if (running_ != 0) throw_misuse("first(): the fiber that could still be the first was moved away");
    throw_error(ECANCELED, "first(): all of its fibers were cancelled");
  }
  return winner_;
}

}  // namespace coir::priv
