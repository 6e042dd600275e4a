#include <coir/sync/resource_pool.hpp>

#include <fmt/format.h>

namespace coir::priv {

void pool_lease::release() noexcept {
  if (slot_ == nullptr) return;
  pool_slot& mine = *std::exchange(slot_, nullptr);
  if (--mine.leases_ != 0) return;
  if (mine.of_ != nullptr) {
    mine.of_->come_back(mine);
  } else {
    delete &mine;
  }
}

void pool_lease::discard() {
  slot().discarded_ = true;
  release();
}

void pool_lease::refuse() { throw_misuse("a lease that has no resource was used: it was moved from, or given back"); }

pool_right::pool_right(pool_right&& other) noexcept : list_node(), of_(other.of_) {
  if (!other.linked()) return;
  other.unlink();
  of_->rights_.push_back(*this);
}

pool_right::~pool_right() {
  if (!linked()) return;
  of_->bound_.check();
  unlink();
  --of_->in_the_making_;
  ++of_->stats_.failed;
  of_->serve();
}

pool_lease pool_right::lend(std::unique_ptr<pool_slot> made, place at) {
  if (linked()) {
    unlink();
    of_->adopt(*made);
    made->hang(of_->lent_, running_fiber(), at);
    ++of_->stats_.acquired;
  }
  return pool_lease(*made.release());
}

void pool_right::shelve(std::unique_ptr<pool_slot> made) {
  unlink();
  of_->adopt(*made);
  of_->idle_.push_front(*made.release());
  ++of_->available_;
  of_->serve();
}

pool_base::pool_base(std::size_t limit) : limit_(limit) {
  if (limit == 0) throw_misuse("a resource_pool with a limit of 0: it takes one or more");
}

pool_base::~pool_base() {
  while (!rights_.empty()) rights_.pop_front();
  while (!lent_.empty()) static_cast<pool_slot&>(lent_.pop_front()).of_ = nullptr;
  while (!idle_.empty()) delete &idle_.pop_front();
}

bool pool_base::pool_op::start(waiter& told) {
  pool_base& of = *of_;
  of.bound_.check();
  who_ = &running_fiber();
  if (pool_slot* const mine = of.slot_of(*who_); mine != nullptr) {
    got_.lease = pool_lease(*mine);
    ++of.stats_.acquired;
    return false;
  }
  if (of.give(got_, *who_, at_)) return false;
  ++of.stats_.waited;
  of.waiting_.add(*this, told);
  return true;
}

abort_answer pool_base::pool_op::abort() noexcept {
  if (linked()) ++of_->stats_.cancelled;
  return leave();
}

void pool_base::pool_op::describe(std::string& text) const {
  if (!linked()) return;
  text += fmt::format(", {} of {} are out", of_->size_ - of_->available_, of_->limit_);
  if (of_->in_the_making_ != 0) text += fmt::format(" and {} in the making", of_->in_the_making_);
  const std::size_t behind = of_->waiting_.place_of(*this);
  if (behind < places_told) describe_holders(who_->home(), of_->lent_, text);
  describe_place(behind, text);
}

pool_right pool_base::right() noexcept {
  bound_.check();
  pool_right one;
  if (size_ + in_the_making_ == limit_) return one;
  one.of_ = this;
  rights_.push_back(one);
  ++in_the_making_;
  return one;
}

pool_slot* pool_base::slot_of(const fiber_base& who) const noexcept {
  pool_slot* found = nullptr;
  lent_.for_each([&](holder& one) {
    if (one.fiber() == who.id()) found = &static_cast<pool_slot&>(one);
  });
  return found;
}

bool pool_base::give(pool_turn& into, const fiber_base& who, place at) noexcept {
  if (!idle_.empty()) {
    pool_slot& slot = idle_.pop_front();
    --available_;
    slot.hang(lent_, who, at);
    into.lease = pool_lease(slot);
    ++stats_.acquired;
    return true;
  }
  if (size_ + in_the_making_ == limit_) return false;
  into.right.of_ = this;
  rights_.push_back(into.right);
  ++in_the_making_;
  return true;
}

void pool_base::adopt(pool_slot& made) noexcept {
  bound_.check();
  made.of_ = this;
  --in_the_making_;
  ++size_;
  ++stats_.made;
}

void pool_base::come_back(pool_slot& from) noexcept {
  bound_.check();
  from.unlink();
  std::unique_ptr<pool_slot> gone;  // at the end: its destructor may look here
  if (from.discarded_) {
    gone.reset(&from);
    --size_;
    ++stats_.discarded;
  } else {
    idle_.push_front(from);
    ++available_;
  }
  serve();
}

void pool_base::serve() noexcept {
  while (!waiting_.empty()) {
    pool_op& first = waiting_.front();
    if (!give(first.got_, *first.who_, first.at_)) return;
    wait_list<pool_op>::wake(first);
  }
}

}  // namespace coir::priv
