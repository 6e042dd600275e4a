#include <coir/fiber/monitor.hpp>

#include "control.hpp"

#include <coir/base/error.hpp>

#include <fmt/format.h>

#include <memory>

namespace coir {

class priv::watch : public priv::watched_fiber, public priv::watch_of_monitor {
 public:
  watch(const handle_base& whom, monitor& by) noexcept : whom_(whom), by_(by) {}

  handle_base whom_;
  monitor& by_;
};

monitor::~monitor() {
  // Often a local of a body whose children wait here: they wait until they are cancelled.
  while (!waiting_.empty()) waiting_.pop_front().of_ = nullptr;
  while (!handed_.empty()) handed_.pop_front().of_ = nullptr;
  while (!alive_.empty()) end(static_cast<priv::watch&>(alive_.front()));
  while (!dead_.empty()) end(static_cast<priv::watch&>(dead_.front()));
}

bool monitor::watch(const handle_base& whom) {
  fiber_base& fiber = whom.block();
  if (home_ == nullptr) home_ = &fiber.home();
  if (home_ != &fiber.home()) throw_misuse("a monitor was to watch fibers of two loops");
  if (find(whom) != nullptr) return false;
  fiber_control& control = fiber.make_control();
  auto& made = *new priv::watch(whom, *this);
  control.watches.push_back(made);
  alive_.push_back(made);
  ++stats_.watched;
  if (whom.state() == fiber_state::dead) died(made);
  return true;
}

bool monitor::unwatch(const handle_base& whom) noexcept {
  priv::watch* const found = find(whom);
  // Or a fiber has been woken for it, and will take it.
  if (found == nullptr || !found->watch_of_monitor::linked()) return false;
  --(whom.state() == fiber_state::dead ? stats_.untold : stats_.watched);
  end(*found);
  return true;
}

handle_base monitor::try_next() noexcept {
  if (dead_.empty()) return {};
  --stats_.untold;
  ++stats_.told;
  return end(static_cast<priv::watch&>(dead_.front()));
}

priv::watch* monitor::find(const handle_base& whom) const noexcept {
  const fiber_control* const control = whom.block_ == nullptr ? nullptr : whom.block_->control();
  if (control == nullptr || control->watches.empty()) return nullptr;
  for (priv::watched_fiber* each = &control->watches.front(); each != nullptr; each = control->watches.after(*each)) {
    auto& found = static_cast<priv::watch&>(*each);
    if (&found.by_ == this) return &found;
  }
  return nullptr;
}

bool monitor::tell(fiber_control& whose) noexcept {
  if (whose.watches.empty()) return false;
  // Told or not, they stay in this list until somebody takes the death.
  whose.watches.for_each([](priv::watched_fiber& each) {
    auto& mine = static_cast<priv::watch&>(each);
    mine.by_.died(mine);
  });
  return true;
}

void monitor::died(priv::watch& which) noexcept {
  which.watch_of_monitor::unlink();
  --stats_.watched;
  ++stats_.untold;
  if (waiting_.empty()) {
    dead_.push_back(which);
  } else {
    hand_over(which);
  }
}

void monitor::hand_over(priv::watch& which) noexcept {
  death_op& first = waiting_.pop_front();
  handed_.push_back(first);
  first.got_ = &which;
  first.told_->done();
}

handle_base monitor::end(priv::watch& which) noexcept {
  const std::unique_ptr<priv::watch> last(&which);
  which.watched_fiber::unlink();
  which.watch_of_monitor::unlink();
  return std::move(which.whom_);
}

// --- death_op ---

bool death_op::start(waiter& told) {
  if (of_ == nullptr) throw_misuse("waiting for a monitor that ended while the same wait was under way");
  if (of_->dead_.empty()) {
    told_ = &told;
    of_->waiting_.push_back(*this);
    return true;
  }
  got_ = static_cast<priv::watch*>(&of_->dead_.pop_front());
  of_->handed_.push_back(*this);
  return false;
}

abort_answer death_op::abort() noexcept {
  // It has been told of a death.
  if (got_ != nullptr) return abort_answer::later;
  unlink();
  return abort_answer::now;
}

handle_base death_op::take() noexcept {
  unlink();
  if (of_ != nullptr) {
    --of_->stats_.untold;
    ++of_->stats_.told;
  }
  return monitor::end(*std::exchange(got_, nullptr));
}

// Nobody took it: it is the first that the next one is told.
void death_op::give_back() noexcept {
  unlink();
  if (of_ == nullptr) {
    monitor::end(*got_);
  } else if (of_->waiting_.empty()) {
    of_->dead_.push_front(*got_);
  } else {
    of_->hand_over(*got_);
  }
}

void death_op::describe(std::string& text) const {
  if (of_ == nullptr) {
    text += " from a monitor that is gone";
  } else {
    text += fmt::format(" among {} fibers", of_->stats_.watched);
  }
}

}  // namespace coir
