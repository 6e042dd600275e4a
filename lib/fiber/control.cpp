// What is done to a fiber from outside. What comes of it on the fiber's side is in scheduler.cpp and region.cpp.
#include "control.hpp"

#include <coir/fiber/fiber.hpp>
#include <coir/fiber/scheduler.hpp>

#include <utility>

namespace coir {

void fiber_base::cold::free_control::operator()(fiber_control* what) const noexcept { delete what; }

fiber_control& fiber_base::make_control() {
  cold& mine = make_cold();
  if (mine.control == nullptr) mine.control.reset(new fiber_control(*this));
  return *mine.control;
}

// --- to an end ---

void fiber_base::cancel() noexcept {
  if (phase_ == phase::dead) return;
  control_ &= static_cast<std::uint8_t>(~restarting);
  region::cancel();
}

void fiber_base::cancel_after(duration grace) {
  // One that is being restarted is past asking.
  if (grace <= duration::zero() || (control_ & restarting) != 0) {
    cancel();
    return;
  }
  if (!has_body() || region::cancelled()) return;
  fiber_control& mine = make_control();
  const instant end = after(home_->on().time(), grace);
  if (end < mine.grace_end) {
    home_->on().arm(mine, end);
    mine.grace_end = end;
  }
  region::shut_down();
}

void fiber_control::grace_over(timer_node& mine) { static_cast<fiber_control&>(mine).whose.cancel(); }

void fiber_base::stop() noexcept {
  control_ |= stopping;
  cancel();
}

bool fiber_base::interrupt(std::exception_ptr what) {
  if (what == nullptr) throw_misuse("a fiber was interrupted with an empty exception_ptr");
  if (!has_body()) return false;
  make_cold().interrupt = std::move(what);
  interrupted_ = true;
  abort_wait();
  return true;
}

// --- restart ---

bool fiber_base::restart() {
  if ((control_ & is_main) != 0) {
    throw_misuse("the main fiber of coir::run cannot be restarted: spawn what is to be restarted");
  }
  if (body_kind().again == nullptr) {
    throw_misuse(
        "a fiber that was spawned from a task cannot be restarted, because a task runs once: spawn a function that "
        "makes the task");
  }
  if ((control_ & restarting) != 0) return true;
  if (!has_body() || region::cancelled() || region::shutting_down()) return false;
  if (phase_ == phase::fresh) return true;
  control_ |= restarting;
  region::cancel();
  tell_attached(&attached::fiber_restarted);
  return true;
}

// Its body is over, and it was to be restarted. False: it ends after all.
bool fiber_home::begin_again(fiber_base& which) noexcept {
  const bool failed = which.outcome_ == fiber_outcome::failed || which.has_failure();
  if (failed || which.region::parent()->cancelled()) {
    which.control_ &= static_cast<std::uint8_t>(~fiber_base::restarting);
    return false;
  }
  // As at an end: destructors may look at the current fiber and cannot wait, and what they spawn is awaited before it
  // begins. They may cancel it for good.
  {
    const fiber_base::without_stack hidden(which);
    which.body_kind().again(which);
    if ((which.control_ & fiber_base::restarting) == 0) return false;
    if (which.has_value()) {
      if (which.body_kind().destroy != nullptr) which.body_kind().destroy(which);
      which.mark_value(false);
    }
  }
  which.outcome_ = fiber_outcome::cancelled;
  // ... or the region around it, which passes over what is cancelled already.
  if (which.region::parent()->cancelled()) which.control_ &= static_cast<std::uint8_t>(~fiber_base::restarting);
  if ((which.control_ & fiber_base::restarting) == 0) return false;
  current_fiber = nullptr;
  if (!which.region::empty()) return true;

  which.control_ &= static_cast<std::uint8_t>(~fiber_base::restarting);
  which.flags_ &= fiber_base::report;
  which.region::state_ = static_cast<std::uint8_t>(
      region::body_of_fiber | (which.region::parent()->state_ & region::winding_down));
  which.outcome_ = fiber_outcome::none;
  which.phase_ = fiber_base::phase::fresh;
  which.suspended_ = true;
  if (which.stack_ != nullptr) renew_stack(which);
  which.update_interrupted();
  push(which);
  return true;
}

// --- what other folders keep with it ---

attached* fiber_base::find_attached(const void* key) const noexcept {
  const cold* const mine = cold_part();
  if (mine == nullptr) return nullptr;
  for (attached* each = mine->attached.get(); each != nullptr; each = each->next_.get()) {
    if (each->key_ == key) return each;
  }
  return nullptr;
}

attached& fiber_base::attach(std::unique_ptr<attached> what) {
  cold& mine = make_cold();
  what->next_ = std::move(mine.attached);
  mine.attached = std::move(what);
  return *mine.attached;
}

void fiber_base::tell_attached(void (attached::*what)() noexcept) noexcept {
  const cold* const mine = cold_part();
  if (mine == nullptr) return;
  for (attached* each = mine->attached.get(); each != nullptr; each = each->next_.get()) (each->*what)();
}

// --- interject ---

bool fiber_base::interject(callback<> visit) {
  if (!visit) throw_misuse("an empty function was interjected");
  if (!has_body()) return false;
  fiber_control& mine = make_control();
  if (phase_ == phase::waiting && !mine.to_be_visited) {
    home_->visited_.push_back(this);
    mine.to_be_visited = true;
    hold();
    // What visits interject is for the next turn: it might go on for ever.
    if (!home_->visiting_) home_->break_turn_off();
  }
  mine.visits.push_back(std::move(visit));
  control_ |= with_visits;
  interrupted_ = true;
  home_->on().work_appeared();
  return true;
}

void fiber_base::run_visits() noexcept {
  fiber_control& mine = *control();
  control_ &= static_cast<std::uint8_t>(~with_visits);
  // What they interject here is for the next suspend point.
  std::vector<callback<>> visits = std::exchange(mine.visits, {});
  const without_stack hidden(*this);
  fiber_base* const before = std::exchange(current_fiber, this);
  mine.visiting = true;
  for (callback<>& each : visits) {
    try {
      each();
    } catch (...) {
      interrupt(std::current_exception());
    }
    each = nullptr;
  }
  mine.visiting = false;
  current_fiber = before;
  update_interrupted();
}

void fiber_base::drop_visits() noexcept {
  control_ &= static_cast<std::uint8_t>(~with_visits);
  std::exchange(control()->visits, {}).clear();
}

void fiber_home::visit_fibers() noexcept {
  const std::vector<fiber_base*> due = std::exchange(visited_, {});
  visiting_ = true;
  for (fiber_base* each : due) {
    each->control()->to_be_visited = false;
    const bool stands = each->phase_ == fiber_base::phase::waiting || each->phase_ == fiber_base::phase::active;
    if (stands && (each->control_ & fiber_base::with_visits) != 0) each->run_visits();
    each->release();
  }
  visiting_ = false;
}

void fiber_base::meet_interruption() {
  if ((control_ & with_visits) != 0) run_visits();
  if (is_interrupted()) throw_interruption(coir::cancelled());
}

void fiber_base::meet_visits() noexcept {
  if ((control_ & with_visits) != 0) run_visits();
}

void fiber_base::hurry_rest() noexcept {
  if (const cold* const mine = cold_part(); mine != nullptr && mine->interrupt != nullptr) abort_wait();
}

void priv::throw_no_stack() {
  if (current_fiber->is_visited()) {
    throw_misuse("an interjected function waits, and its fiber waits already: let it spawn something that does");
  }
  if (current_fiber->state() == fiber_state::ending) {
    throw_misuse(
        "this waits at the end of a fiber whose body is over, in a destructor of what the body was made of or was "
        "sent: wait at the end of the body, before it returns");
  }
  if (current_fiber->runs_function()) {
    throw_misuse(
        "a callback on a stop token waits, and what it is told of would be gone when it goes on: let it spawn "
        "something that does");
  }
  throw_misuse(
      "coir::await needs a stack, and this fiber runs a coroutine: write co_await there, or call the "
      "function with co_await coir::on_stack(...)");
}

bool fiber_base::is_visited() const noexcept {
  const fiber_control* const mine = control();
  return mine != nullptr && mine->visiting;
}

// --- moving ---

bool fiber_base::move_to(region& where) {
  if (phase_ == phase::dead) return false;
  region& from = *region::parent_;
  if (&where == &from) return true;
  if (&where != &home_->root()) {
    fiber_base* const owner = where.fiber();
    if (owner == nullptr) throw_misuse("a fiber was moved into a region that no fiber of its loop is in");
    if (owner->home_ != home_) throw_misuse("a fiber was moved to another loop: fibers stay where they are born");
    for (const region* each = &where; each != nullptr; each = each->parent()) {
      if (each == &body()) throw_misuse("a fiber was moved into itself, or into what it has spawned");
    }
    if (where.is_body() && owner->phase_ >= phase::over) throw_misuse("a fiber was moved into one that is ending");
  }
  fiber_base* const former = from.fiber();
  from.remove(*this);
  region::parent_ = &where;
  where.add(*this);
  // In this order: what waits to be asked is not woken by the question when it is cancelled anyway.
  if (where.cancelled()) region::spread(is_cancelled);
  if (where.shutting_down()) region::spread(winding_down);
  // Who waits for the former region to become empty is told as if this fiber had ended.
  if (!from.is_body()) {
    if (former != nullptr) static_cast<entered_region&>(from).child_ended(false);
  } else if (former->phase_ == phase::over && from.empty() && former != current_fiber) {
    // Unless it is about to look for itself: it spawned this fiber in a destructor of what its body was made of.
    home_->push(*former);
  }
  return true;
}

void fiber_base::move_children_to(region& where) {
  for (region* each = &where; each != nullptr; each = each->parent()) {
    if (each->is_body() && each->fiber()->parent() == this) {
      throw_misuse("a fiber was moved into itself, or into what it has spawned");
    }
  }
  for (region* each = &innermost_region();; each = each->parent_) {
    // One that is dead is about to leave by itself, and tells of its end just now.
    const auto first_alive = [&] {
      fiber_base* child = each->first_child();
      while (child != nullptr && child->phase_ == phase::dead) child = child->next_sibling();
      return child;
    };
    while (fiber_base* const child = each == &where ? nullptr : first_alive()) child->move_to(where);
    if (each->is_body()) return;
  }
}

bool handle_base::detach() const { return block().move_to(block().home().root()); }

// --- who runs when ---

bool fiber_base::park() {
  if (phase_ == phase::dead || home_->parking_ended_) return false;
  if (parked()) return true;
  control_ |= is_parked;
  ++home_->parked_;
  home_->unusual_ = true;
  home_->break_turn_off();
  // Of its own ops one that finishes at once lets others run too.
  if (this == current_fiber) home_->share_left_ = 1;
  return true;
}

bool fiber_base::unpark() noexcept {
  if (!parked()) return false;
  control_ &= static_cast<std::uint8_t>(~is_parked);
  --home_->parked_;
  if ((control_ & held_back) != 0) {
    control_ &= static_cast<std::uint8_t>(~held_back);
    home_->held_back_.remove(*this);
    home_->push(*this);
  }
  home_->update_unusual();
  return true;
}

void fiber_home::end_parking() noexcept {
  parking_ended_ = true;
  if (parked_ != 0) for_each([](fiber_base& each) { each.unpark(); });
}

void fiber_base::hasten() noexcept {
  if ((control_ & hastened) != 0) return;
  control_ |= hastened;
  ++home_->hastened_;
  home_->unusual_ = true;
}

bool fiber_base::run_next() noexcept {
  if (!has_body()) return false;
  const bool queued = phase_ != phase::waiting && this != current_fiber;
  if (queued && home_->ready_.remove(*this)) {
    home_->ready_.push_front(*this);
  } else {
    hasten();
  }
  return true;
}

void fiber_home::push_unusual(fiber_base& which) noexcept {
  COIR_TRACE(loop_->trace(), trace::point::ready, which.id());
  loop_->work_appeared();
  if ((which.control_ & fiber_base::hastened) == 0) {
    ready_.push(which);
    return;
  }
  which.control_ &= static_cast<std::uint8_t>(~fiber_base::hastened);
  --hastened_;
  update_unusual();
  ready_.push_front(which);
}

// --- the end ---

// It is dead: what was begun to control it ends. True: a monitor watched it.
bool fiber_home::end_control(fiber_base& which) noexcept {
  if (which.parked()) --parked_;
  if ((which.control_ & fiber_base::hastened) != 0) --hastened_;
  which.control_ = 0;
  update_unusual();
  fiber_control* const control = which.control();
  if (control == nullptr) return false;
  loop_->disarm(*control);
  return monitor::tell(*control);
}

}  // namespace coir
