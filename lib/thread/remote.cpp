#include <coir/thread/remote.hpp>

#include <fmt/format.h>

#include <cerrno>
#include <system_error>

namespace coir {

remote_core::remote_core(std::shared_ptr<remote_home> home, remote_options options)
    : home_(std::move(home)), options_(std::move(options)) {
  home_->load.fetch_add(1, std::memory_order_relaxed);
}

void remote_core::drop_handle() noexcept {
  if (handles_.fetch_sub(1, std::memory_order_acq_rel) == 1) {
    std::exception_ptr unheard;
    {
      const std::lock_guard held(lock_);
      if (failure_ != nullptr && !std::exchange(handled_, true)) unheard = failure_;
    }
    if (unheard != nullptr) home_->failed(std::move(unheard));
  }
  release();
}

bool remote_core::enlist(remote_waiter& who) noexcept {
  const std::lock_guard held(lock_);
  if (state() == remote_state::dead) return false;
  waiters_.push_back(who);
  return true;
}

bool remote_core::strike(remote_waiter& who) noexcept {
  const std::lock_guard held(lock_);
  if (!who.linked()) return false;
  who.unlink();
  return true;
}

void remote_core::end_on_home(fiber_outcome outcome, std::exception_ptr failure, const fiber_base* which) noexcept {
  std::exception_ptr unheard;
  {
    const std::lock_guard held(lock_);
    outcome_ = outcome;
    failure_ = std::move(failure);
    state_.store(remote_state::dead, std::memory_order_release);
    waiters_.for_each([&](const remote_waiter& each) { handled_ |= each.asks; });
    if (failure_ != nullptr && !handled_ && (options_.report_ || handles_.load(std::memory_order_acquire) == 0)) {
      handled_ = true;
      unheard = failure_;
    }
    while (!waiters_.empty()) waiters_.pop_front().told();
  }
  if (unheard != nullptr) {
    if (options_.report_) {
      home_->report(*this, which, std::move(unheard));
    } else {
      home_->failed(std::move(unheard));
    }
  }
  home_->load.fetch_sub(1, std::memory_order_relaxed);
  home_->ended();
}

void remote_core::check_result() {
  if (outcome() == fiber_outcome::returned) [[likely]] {
    if (taken_.load(std::memory_order_relaxed)) {
      throw_misuse("the result of a remote fiber was asked for after it had been taken");
    }
    return;
  }
  if (outcome() == fiber_outcome::cancelled) {
    throw_error(ECANCELED, fmt::format("joining the remote fiber {}{}{} of loop {} of its runtime, which was cancelled", id(),
                                       name().empty() ? "" : " ", name(), loop_index()));
  }
  std::exception_ptr thrown;
  {
    const std::lock_guard held(lock_);
    handled_ = true;
    thrown = failure_;
  }
  std::rethrow_exception(std::move(thrown));
}

bool remote_core::block(duration limit, bool asks) {
  if (loop_here() != nullptr) {
    throw_misuse("a remote fiber was waited for by blocking the thread of a loop: await its join()");
  }
  if (state() == remote_state::dead) return true;
  home_->check_process();
  class sleeper final : public remote_waiter {
   public:
    void told() noexcept override { changed.notify_one(); }
    std::condition_variable changed;
  };
  sleeper me;
  me.asks = asks;
  std::unique_lock held(lock_);
  if (state() == remote_state::dead) return true;
  waiters_.push_back(me);
  // It is told under the lock, which this has to take before it goes.
  const auto over = [&] { return !me.linked(); };
  const instant until = after(steady_now(), limit);
  if (until == never) {
    me.changed.wait(held, over);
    return true;
  }
  if (me.changed.wait_until(held, until, over)) return true;
  me.unlink();
  return false;
}

// --- what is told to it ---

class remote_core::order final : public post_node {
 public:
  order(const remote_core& whom, duration grace, std::exception_ptr what)
      : whom_(const_cast<remote_core&>(whom)), grace_(grace), what_(std::move(what)) {
    whom_.hold();
  }
  ~order() override { whom_.release(); }
  void run() override {
    const handle_base who = whom_.fiber();
    if (!who) return;
    if (what_ != nullptr) {
      who.interrupt(std::move(what_));
    } else if (grace_ > duration::zero()) {
      who.cancel(grace_);
    } else {
      who.cancel();
    }
  }
  const std::shared_ptr<loop_port>& to() const noexcept { return whom_.home().port; }

 private:
  remote_core& whom_;
  duration grace_;
  std::exception_ptr what_;
};

void remote_core::send(std::unique_ptr<order> what) const noexcept {
  if (state() == remote_state::dead) return;
  if (what->to()->push(*what)) static_cast<void>(what.release());
}

void remote_core::order_cancel(duration grace) const { send(std::make_unique<order>(*this, grace, nullptr)); }
void remote_core::order_interrupt(std::exception_ptr what) const {
  send(std::make_unique<order>(*this, duration::zero(), std::move(what)));
}

// --- waiting on a loop ---

bool remote_wait::start(waiter& told) {
  if (whom_ == nullptr) throw_misuse("the end of a remote fiber was awaited by an op that had been moved from");
  if (whom_->state() == remote_state::dead) return false;
  whom_->home().check_process();
  fiber_base& self = running_fiber();
  if (whom_->home().fibers == &self.home() && whom_->is_fiber(self)) {
    throw_misuse("a remote fiber waits for its own end");
  }
  loop& on = self.home().on();
  told_ = &told;
  home_ = on.port();
  hold_.emplace(on);
  if (whom_->enlist(*this)) return true;
  hold_.reset();
  return false;
}

abort_answer remote_wait::abort() noexcept {
  if (!whom_->strike(*this)) return abort_answer::later;
  hold_.reset();
  return abort_answer::now;
}

void remote_wait::told() noexcept {
  // Its fiber waits, so its loop is there.
  static_cast<void>(home_->push(reply_));
}

void remote_wait::arrived() noexcept {
  hold_.reset();
  told_->done();
}

void remote_wait::describe(std::string& text) const {
  text += fmt::format(" of fiber {}{}{} on loop {} of its runtime", whom_->id(), whom_->name().empty() ? "" : " ",
                      whom_->name(), whom_->loop_index());
}

}  // namespace coir
