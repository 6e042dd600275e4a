#include <coir/sync/semaphore.hpp>

#include <fmt/format.h>

#include <limits>

namespace coir {

bool semaphore::acquire_op::start(waiter& told) {
  semaphore& of = *of_;
  of.check(count_);
  const fiber_base& self = running_fiber();
  if (of.has(count_)) {
    of.give(got_, count_, self, at_);
    return false;
  }
  who_ = &self;
  ++of.stats_.waited;
  of.waiting_.add(*this, told);
  return true;
}

abort_answer semaphore::acquire_op::abort() noexcept {
  if (!linked()) return leave();
  const abort_answer answer = leave();
  ++of_->stats_.cancelled;
  of_->serve();
  return answer;
}

void semaphore::acquire_op::describe(std::string& text) const {
  if (!linked()) return;
  text += fmt::format(" for {}, {} available", count_, of_->available_);
  const std::size_t behind = of_->waiting_.place_of(*this);
  if (behind < priv::places_told) priv::describe_holders(who_->home(), of_->holders_, text);
  priv::describe_place(behind, text);
}

std::optional<semaphore::permit> semaphore::try_acquire(std::size_t count, place at) {
  check(count);
  std::optional<permit> got;
  if (has(count)) give(got.emplace(), count, running_fiber(), at);
  return got;
}

void semaphore::release(std::size_t count) {
  check(count);
  if (count > std::numeric_limits<std::size_t>::max() - available_) {
    throw_misuse(fmt::format("{} permits were released to a semaphore that has {}: more than can be counted", count,
                             available_));
  }
  available_ += count;
  serve();
}

semaphore_stats semaphore::stats() const noexcept {
  semaphore_stats now = stats_;
  now.waiting = waiting_.size();
  return now;
}

void semaphore::check(std::size_t count) {
  bound_.check();
  if (count == 0) throw_misuse("a semaphore was asked for 0 permits, or given as many: it takes one or more");
}

void semaphore::give(permit& into, std::size_t count, const fiber_base& who, place at) noexcept {
  available_ -= count;
  into.of_ = this;
  into.count_ = count;
  into.hang(holders_, who, at);
  ++stats_.acquired;
}

void semaphore::give_back(permit& from) noexcept {
  bound_.check();
  from.unlink();
  available_ += from.count_;
  serve();
}

void semaphore::serve() noexcept {
  // A select that is woken stops its other ops at once. Where these wait here too, that comes here again, and so on,
  // as deep as many wait.
  if (serving_) return;
  serving_ = true;
  while (!waiting_.empty()) {
    acquire_op& first = waiting_.front();
    if (first.count_ > available_) break;
    give(first.got_, first.count_, *first.who_, first.at_);
    wait_list<acquire_op>::wake(first);
  }
  serving_ = false;
}

}  // namespace coir
