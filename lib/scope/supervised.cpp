#include "supervised.hpp"

#include <coir/fiber/scheduler.hpp>

#include <fmt/chrono.h>
#include <fmt/format.h>

namespace coir {

supervised::supervised(supervisor_inbox& inbox, std::string_view name,
                       std::shared_ptr<priv::child_factory> factory, const child_options& options, place at)
    : waiter(kind_),
      timer_node(ring),
      inbox_(inbox),
      name_(name),
      factory_(std::move(factory)),
      options_(options),
      at_(at) {}

supervised::~supervised() {
  clear_alarm();
  // A fiber that was moved away may live on.
  if (end_) static_cast<void>(end_->abort());
}

child_info supervised::info() const {
  return {name_, policy(), state, restarts(), alive() ? end_->id() : 0, last_failure_, next_start_};
}

// --- its fiber ---

void supervised::start(fiber_home& home, region& where) {
  loop& on = home.on();
  clear_alarm();
  due_ = hung_ = leads_group = false;
  next = then::decide;
  state = child_state::running;
  ++starts_;
  started_at_ = on.time();
  try {
    const bool watched = options_.heartbeat_ > duration::zero();
    if (watched) {
      heart_ = std::make_shared<priv::pulse>(priv::pulse{started_at_});
      set_alarm(on, alarm::heartbeat, after(started_at_, options_.heartbeat_));
    }
    end_.emplace(factory_->spawn(
        home, where, spawn_options().name(name_).stack_bytes(options_.stack_bytes_), at_, heart_));
    end_->start(*this);
  } catch (...) {
    clear_alarm();
    unborn_ = std::current_exception();
    inbox_.has_ended(*this);
  }
}

void supervised::stop(bool at_once) noexcept {
  if (!alive()) return;
  const bool asked = state == child_state::stopping;
  state = child_state::stopping;
  if (at_once || options_.shutdown_ <= duration::zero()) {
    cancel();
  } else if (!asked) {
    end_->whom().body().shut_down();
    try {
      if (options_.shutdown_ == duration::max()) {
        clear_alarm();
      } else {
        set_alarm(on(), alarm::shutdown, after(on().time(), options_.shutdown_));
      }
    } catch (...) {
      // No memory to wait with.
      cancel();
    }
  }
}

void supervised::cancel() noexcept {
  clear_alarm();
  end_->whom().cancel();
}

void supervised::has_ended(waiter& self) noexcept {
  auto& mine = static_cast<supervised&>(self);
  mine.clear_alarm();
  mine.inbox_.has_ended(mine);
}

std::exception_ptr supervised::end_watch::failure() const noexcept {
  try {
    check_result();
    return nullptr;
  } catch (...) {
    return std::current_exception();
  }
}

supervised::ending supervised::take_end() {
  ending how{fiber_outcome::failed, std::exchange(unborn_, nullptr), false, duration::zero()};
  if (end_.has_value()) {
    how.lived = on().time() - started_at_;
    how.outcome = end_->outcome();
    if (how.outcome == fiber_outcome::failed) {
      how.failure = end_->failure();
    } else if (hung_ && how.outcome == fiber_outcome::cancelled) {
      how.outcome = fiber_outcome::failed;
      how.hung = true;
      how.failure = std::make_exception_ptr(
          child_hung(fmt::format("child \"{}\" hung: it did not call coir::heartbeat() for {}", name_,
                                 std::chrono::duration<double>(options_.heartbeat_))));
    }
    end_.reset();
    heart_.reset();
  }
  if (how.failure != nullptr) last_failure_ = how.failure;
  return how;
}

// --- its timers ---

void supervised::set_alarm(loop& on, alarm what, instant at) {
  armed_on_ = &on;
  on.arm(*this, at);
  alarm_ = what;
}

void supervised::clear_alarm() noexcept {
  if (armed()) armed_on_->disarm(*this);
  alarm_ = alarm::none;
  next_start_ = never;
}

void supervised::ring(timer_node& self) {
  auto& mine = static_cast<supervised&>(self);
  switch (mine.alarm_) {
    case alarm::none: break;
    case alarm::start: mine.start_soon(); break;
    case alarm::shutdown: mine.cancel(); break;
    case alarm::heartbeat: mine.check_heartbeat(); break;
  }
}

void supervised::check_heartbeat() {
  const instant late = after(heart_->last, options_.heartbeat_);
  if (on().time() < late) {
    set_alarm(on(), alarm::heartbeat, late);
    return;
  }
  hung_ = true;
  state = child_state::stopping;
  cancel();
}

void supervised::start_soon() noexcept {
  clear_alarm();
  state = child_state::waiting;
  due_ = true;
  inbox_.is_due(*this);
}

void supervised::leave_group() noexcept {
  due_ = true;
  inbox_.is_due(*this);
}

void supervised::start_at(loop& on, instant at) {
  set_alarm(on, alarm::start, at);
  state = child_state::waiting;
  next_start_ = at;
}

void supervised::wait_for_group() noexcept {
  settle(child_state::waiting);
  leads_group = false;
}

void supervised::settle(child_state how) noexcept {
  clear_alarm();
  due_ = false;
  state = how;
}

supervised* supervisor_inbox::next_due() noexcept {
  while (!due_.empty()) {
    supervised& first = due_.pop();
    first.queued_ = false;
    if (std::exchange(first.due_, false)) return &first;
  }
  return nullptr;
}

}  // namespace coir
