#include "pool_queue.hpp"

#include <coir/base/relax.hpp>

#include <algorithm>
#include <utility>

namespace coir {

pool_queue::answer pool_queue::submit(priv::pool_job& what, bool only_if_room, std::error_code& error) noexcept {
  std::unique_lock held(lock_);
  if (ending_) return answer::ending;
  if (only_if_room && length_ >= limits_.jobs) {
    ++stats_.refused;
    return answer::full;
  }
  jobs_.push_back(what);
  ++length_;
  if (looks_out_ != nullptr) {
    call(*std::exchange(looks_out_, nullptr));
    return answer::taken;
  }
  if (!idle_.empty()) {
    worker& next = idle_.pop_front();
    call(next);
    held.unlock();
    next.called.notify_one();
    return answer::taken;
  }
  if (stats_.threads == limits_.threads) return answer::taken;
  if (crew_.one_more(left_, stats_.threads == 0, error)) {
    ++stats_.threads;
    ++stats_.threads_started;
    stats_.threads_at_most = std::max(stats_.threads_at_most, stats_.threads);
    return answer::taken;
  }
  if (error) ++stats_.threads_refused;
  if (stats_.threads != 0) return answer::taken;
  what.unlink();
  --length_;
  return answer::no_thread;
}

priv::pool_job* pool_queue::first() noexcept {
  if (jobs_.empty() || ending_) return nullptr;
  --length_;
  ++stats_.begun;
  return &jobs_.pop_front();
}

void pool_queue::rest(worker& self) noexcept {
  self.awake.store(false, std::memory_order_relaxed);
  ++stats_.idle;
  if (spin_ != duration::zero() && looks_out_ == nullptr) {
    looks_out_ = &self;
  } else {
    idle_.push_front(self);
  }
}

// Relaxed: what is to be seen then is seen with the lock.
void pool_queue::call(worker& whom) noexcept {
  whom.awake.store(true, std::memory_order_relaxed);
  --stats_.idle;
}

void pool_queue::look_out(const worker& self, instant until) const noexcept {
  while (!self.awake.load(std::memory_order_relaxed) && crew_.now() < until) priv::relax();
}

priv::pool_job* pool_queue::next(worker& self, priv::pool_job* done) noexcept {
  std::unique_lock held(lock_);
  if (done != nullptr) ++stats_.done;
  for (;;) {
    priv::pool_job* const next = first();
    // It is free before it says so: whoever hears of a job and gives the next at once finds a thread for it.
    if (next == nullptr && !ending_) rest(self);
    const bool looks = looks_out_ == &self;
    if (done != nullptr || looks) {
      const duration spin = spin_;
      held.unlock();
      if (done != nullptr) done->kind_->finish(*done);
      done = nullptr;
      if (looks) look_out(self, after(crew_.now(), spin));
      if (next != nullptr) return next;
      held.lock();
    }
    if (next != nullptr) return next;
    if (ending_) break;
    if (looks) {
      if (looks_out_ != &self) {
        ++stats_.spins_helped;
        spin_ = limits_.spin;
        continue;
      }
      looks_out_ = nullptr;
      idle_.push_front(self);
      ++stats_.spins_in_vain;
      spin_ /= 2;
    }
    const bool spins = limits_.spin != duration::zero();
    const instant began = spins ? crew_.now() : instant();
    if (self.called.wait_for(held, limits_.idle, [&] { return self.awake.load(std::memory_order_relaxed); })) {
      // Had it looked as long as it may, would it have been there for that call?
      if (spins && crew_.now() - began < limits_.spin) spin_ = limits_.spin;
      continue;
    }
    self.unlink();
    --stats_.idle;
    if (stats_.threads > limits_.kept) {
      ++stats_.threads_left;
      break;
    }
  }
  --stats_.threads;
  left_.push_front(self);
  return nullptr;
}

bool pool_queue::withdraw(priv::pool_job& what) noexcept {
  const std::lock_guard held(lock_);
  if (!what.linked()) return false;
  what.unlink();
  --length_;
  ++stats_.withdrawn;
  return true;
}

long pool_queue::ahead_of(const priv::pool_job& what) const noexcept {
  const std::lock_guard held(lock_);
  if (!what.linked()) return -1;
  long ahead = 0;
  for (const priv::pool_job* at = &jobs_.front(); at != &what; at = jobs_.after(*at)) ++ahead;
  return ahead;
}

void pool_queue::end() noexcept {
  std::unique_lock held(lock_);
  ending_ = true;
  if (looks_out_ != nullptr) call(*std::exchange(looks_out_, nullptr));
  while (!idle_.empty()) {
    worker& next = idle_.pop_front();
    call(next);
    next.called.notify_one();
  }
  // One by one: until it is dropped, whoever waits for it may take it back.
  while (!jobs_.empty()) {
    priv::pool_job& next = jobs_.pop_front();
    --length_;
    ++stats_.dropped;
    held.unlock();
    next.kind_->drop(next);
    held.lock();
  }
}

pool_stats pool_queue::stats() const noexcept {
  const std::lock_guard held(lock_);
  pool_stats now = stats_;
  now.queued = std::min(length_, limits_.jobs);
  now.waiting = length_ - now.queued;
  return now;
}

}  // namespace coir
