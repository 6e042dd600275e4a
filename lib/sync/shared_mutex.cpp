#include <coir/sync/shared_mutex.hpp>

#include <fmt/format.h>

namespace coir {

bool shared_mutex::turn::start(guard& into, waiter& told) {
  shared_mutex& of = *of_;
  of.bound_.check();
  const fiber_base& self = running_fiber();
  if (of.is_free_for(wanted_)) {
    of.give(into, wanted_, self, at_);
    return false;
  }
  of.refuse_twice(self);
  who_ = &self;
  into_ = &into;
  ++of.stats_.waited;
  of.waiting_.add(*this, told);
  return true;
}

abort_answer shared_mutex::turn::abort() noexcept {
  if (!linked()) return leave();
  const abort_answer answer = leave();
  ++of_->stats_.cancelled;
  of_->serve();
  return answer;
}

void shared_mutex::turn::describe(std::string& text) const {
  if (!linked()) return;
  const std::size_t behind = of_->waiting_.place_of(*this);
  if (behind < priv::places_told) priv::describe_holders(who_->home(), of_->holders_, text);
  priv::describe_place(behind, text);
}

void shared_mutex::give(guard& into, mode wanted, const fiber_base& who, place at) noexcept {
  into.of_ = this;
  into.hang(holders_, who, at);
  if (wanted == mode::alone) {
    alone_ = true;
    ++stats_.taken;
  } else {
    ++readers_;
    ++stats_.taken_shared;
  }
}

void shared_mutex::release(guard& from) noexcept {
  bound_.check();
  from.unlink();
  if (alone_) {
    alone_ = false;
  } else {
    --readers_;
  }
  serve();
}

void shared_mutex::serve() noexcept {
  // A select that is woken stops its other ops at once. Where these wait here too, that comes here again, and so on,
  // as deep as many wait.
  if (serving_) return;
  serving_ = true;
  while (!waiting_.empty()) {
    turn& first = waiting_.front();
    if (alone_ || (first.wanted_ == mode::alone && readers_ != 0)) break;
    give(*first.into_, first.wanted_, *first.who_, first.at_);
    wait_list<turn>::wake(first);
  }
  serving_ = false;
}

void shared_mutex::refuse_twice(const fiber_base& who) const {
  holders_.for_each([&](const priv::holder& one) {
    if (one.fiber() != who.id()) return;
    throw_misuse(fmt::format("a shared_mutex was locked twice by {}, which has held it since {} and would wait for "
                             "itself",
                             priv::text_of(who.home(), who.id()), priv::text_of(one.since())));
  });
}

void shared_mutex::guard::refuse_unlock() {
  throw_misuse("a guard that has no lock was unlocked: it was moved from, or unlocked before");
}

shared_mutex_stats shared_mutex::stats() const noexcept {
  shared_mutex_stats now = stats_;
  now.holding = readers_ + (alone_ ? 1 : 0);
  now.waiting = waiting_.size();
  return now;
}

}  // namespace coir
