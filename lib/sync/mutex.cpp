#include <coir/sync/mutex.hpp>

#include <coir/sync/holder.hpp>

#include <fmt/format.h>

namespace coir {

mutex::~mutex() {
  if (holder_ != nullptr) holder_->of_ = nullptr;
  while (!absent_.empty()) absent_.pop_front().of_ = nullptr;
  // Whoever was asked to stop, and answered that it comes back first, has nothing to come back to.
  for (turn* each = waiting_.empty() ? nullptr : &waiting_.front(); each != nullptr;) {
    turn& one = *each;
    each = waiting_.after(one);
    one.of_ = nullptr;
    if (one.must_be_told_) wait_list<turn>::wake(one);
  }
}

void mutex::turn::throw_gone() {
  throw_misuse("locking a mutex that ended while the same lock() waited");
}

std::optional<mutex::held> mutex::try_lock(place at) {
  bound_.check();
  const fiber_base& self = running_fiber();
  std::optional<held> got;
  if (holder_ == nullptr) {
    give(got.emplace(), self, at);
  } else if (owner_ == self.id()) {
    refuse_twice();
  }
  return got;
}

mutex_stats mutex::stats() const noexcept {
  mutex_stats now = stats_;
  now.waiting = waiting_.size();
  return now;
}

void mutex::wait(turn& one, waiter& told) {
  if (owner_ == one.who_->id()) refuse_twice();
  ++stats_.waited;
  waiting_.add(one, told);
}

void mutex::come_back(turn& one, waiter& told) noexcept {
  one.unlink();
  waiting_.add(one, told);
  if (holder_ == nullptr) pass_on();
}

void mutex::refuse_twice() const {
  throw_misuse(fmt::format("a mutex was locked twice by {}, which has held it since {}",
                           priv::text_of(running_fiber().home(), owner_), priv::text_of(since_)));
}

void mutex::held::refuse_unlock() const {
  if (of_ == nullptr) throw_misuse("a guard that has no lock was unlocked: it was moved from, or unlocked before");
  fiber_base* const self = current_fiber;
  if (self == nullptr) {
    throw_misuse(fmt::format("a mutex was unlocked outside of a fiber; fiber {} has held it since {}", of_->owner_,
                             priv::text_of(of_->since_)));
  }
  throw_misuse(fmt::format("a mutex was unlocked by {}; {} has held it since {}",
                           priv::text_of(self->home(), self->id()), priv::text_of(self->home(), of_->owner_),
                           priv::text_of(of_->since_)));
}

void mutex::turn::describe(std::string& text) const {
  if (!linked()) return;
  const std::size_t behind = of_->waiting_.place_of(*this);
  if (behind < priv::places_told) {
    text += fmt::format(" held by {} since {}", priv::text_of(who_->home(), of_->owner_), priv::text_of(of_->since_));
  }
  priv::describe_place(behind, text);
}

}  // namespace coir
