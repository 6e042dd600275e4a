#include <coir/fiber/region.hpp>

#include "control.hpp"

#include <coir/fiber/scheduler.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <exception>
#include <new>
#include <optional>
#include <string>
#include <utility>

namespace coir {

// --- region ---

void region::cancel() noexcept {
  state_ |= requested;
  spread(is_cancelled);
}

void region::shut_down() noexcept { spread(winding_down); }

void region::spread(flag what) noexcept {
  if ((state_ & what) != 0) return;
  hooks due;
  mark(what, due);
  while (due.first != nullptr) {
    entered_region& each = *due.first;
    due.first = each.next_told_;
    each.queued_ = false;
    each.tell();
  }
}

// Down the tree without recursion, which a long chain of fibers would turn into a stack overflow. What is
// marked already has told everything below it.
void region::mark(flag what, hooks& due) noexcept {
  fiber_base* const own = fiber();
  region* at = this;
  if (own != nullptr) {
    at = own->receive(*this, what, due);
  } else {
    state_ |= what;
  }
  fiber_base* child = at->children_;
  for (;;) {
    if (child != nullptr) {
      region& body = child->body();
      if ((body.state_ & what) != 0) {
        child = child->younger_;
      } else {
        at = child->receive(body, what, due);
        child = at->children_;
      }
    } else if (at == this) {
      return;
    } else if (at->is_body()) {
      // All in this fiber are told; its siblings are next.
      child = at->fiber()->younger_;
      at = at->parent_;
    } else {
      at = at->parent_;
      child = at->children_;
    }
  }
}

// --- entered_region ---

// It, or what is around it, was cancelled, asked to end or shielded before.
void entered_region::enter_marked() noexcept {
  if (!shielded()) state_ |= parent_->state_ & (is_cancelled | winding_down);
  fiber_->update_interrupted();
  if (cancelled() || shutting_down()) tell();
}

void entered_region::call_hook() noexcept {
  std::optional<fiber_base::without_stack> hidden;
  if (current_fiber != nullptr) hidden.emplace(*current_fiber);
  on_told_(*this);
}

void entered_region::set_limit(bool relative, duration from_parking, instant at) {
  if (fiber_ != nullptr && !expired_) {
    loop& on = fiber_->home().on();
    const bool runs = fiber_ == current_fiber && fiber_->phase_ != fiber_base::phase::waiting;
    if (runs && !armed()) {
      fiber_->flags_ |= fiber_base::with_limit;
    } else {
      // Its fiber is parked, or the timer was armed when it was.
      if (std::exchange(relative, false)) at = after(on.time(), from_parking);
      if (const instant end = std::min(at, grace_end_); end == never) {
        on.disarm(*this);
      } else {
        on.arm(*this, end);  // may throw; nothing has changed before
      }
    }
  }
  relative_ = relative;
  limit_ = from_parking;
  deadline_ = at;
}

void entered_region::arm(instant now) {
  const instant at = relative_ ? std::min(deadline_, after(now, limit_)) : deadline_;
  const instant grace_end =
      grace_ == duration::max() ? grace_end_ : std::min(grace_end_, after(now, grace_));
  if (const instant end = std::min(at, grace_end); end != never) fiber_->home().on().arm(*this, end);
  deadline_ = at;
  relative_ = false;
  grace_end_ = grace_end;
  grace_ = duration::max();
}

void entered_region::expire(timer_node& mine) {
  auto& self = static_cast<entered_region&>(mine);
  self.expired_ = !self.cancelled();
  self.cancel();
}

void entered_region::cancel_after(duration grace) {
  if (is_over()) return;
  if (grace <= duration::zero()) {
    cancel();
    return;
  }
  if (fiber_ == nullptr) {
    // The grace counts from when there is somebody to whom it is given.
    grace_ = std::min(grace_, grace);
  } else if (const instant end = after(fiber_->home().on().time(), grace); end < grace_end_) {
    if (end < deadline_) fiber_->home().on().arm(*this, end);  // may throw; nothing has changed before
    grace_end_ = end;
  }
  shut_down();
}

void entered_region::set_shield(bool on) noexcept {
  if (on == shielded()) return;
  if (on) {
    state_ |= shield;
  } else {
    state_ &= static_cast<std::uint8_t>(~shield);
  }
  if (fiber_ == nullptr) return;
  if (on) {
    // What came from outside does not hold any more in what its own fiber has entered; children that were
    // told stay so.
    fiber_->update_cancelled();
    return;
  }
  if (parent_->shutting_down()) shut_down();
  if (parent_->cancelled()) spread(is_cancelled);
}

void entered_region::lose_child() noexcept {
  if (!region::cancelled()) {
    if (needs_all_) cancel();
  } else if (!cancel_requested()) {
    lost_child_ = true;
  }
}

void entered_region::queue_hook(flag what, hooks& due) noexcept {
  if (what == is_cancelled) {
    if (cancelled() || resting_) return;
    only_rest_ = false;
  } else if (shutting_down()) {
    return;
  }
  // A hook may spread something else while others wait for their turn: they will see both.
  if (on_told_ == nullptr || std::exchange(queued_, true)) return;
  next_told_ = nullptr;
  *due.end = this;
  due.end = &next_told_;
}

void entered_region::cancel_rest() noexcept {
  if (region::cancelled()) return;
  only_rest_ = resting_ = true;
  spread(is_cancelled);
  resting_ = false;
}

void entered_region::fail(std::exception_ptr why) noexcept {
  if (failure_ == nullptr) {
    failure_ = std::move(why);
  } else {
    try {
      other_failures_.push_back(std::move(why));
    } catch (const std::bad_alloc&) {
      // There is one to throw; of the others this one is not kept.
    }
  }
  cancel();
}

// --- a fiber and its regions ---

region* fiber_base::receive(region& outermost, region::flag what, region::hooks& due) noexcept {
  region* first = &innermost_region();
  bool shielded = false;
  for (region* each = first; each != &outermost; each = each->parent_) {
    if (each->shielded()) {
      shielded = true;
      first = each->parent_;
    }
  }
  for (region* each = first;; each = each->parent_) {
    if (!each->is_body()) static_cast<entered_region*>(each)->queue_hook(what, due);
    each->state_ |= what;
    if (each == &outermost) break;
  }
  if (shielded) return first;
  if (what == region::is_cancelled) {
    interrupted_ = true;
    abort_wait();
  } else if (phase_ == phase::waiting && op_kind_->shutting_down != nullptr) {
    op_kind_->shutting_down(op_);
  }
  return first;
}

void fiber_base::abort_wait() noexcept {
  if (phase_ != phase::waiting || (flags_ & abort_asked) != 0) return;
  flags_ |= abort_asked;
  if (op_kind_->abort(op_) == abort_answer::now) {
    flags_ |= aborted;
    wake(*this);
  }
}

bool fiber_base::is_interrupted() const noexcept {
  const cold* const mine = cold_part();
  return innermost_region().cancelled() || (mine != nullptr && mine->interrupt != nullptr);
}

void fiber_base::update_interrupted() noexcept {
  interrupted_ = is_interrupted() || (control_ & with_visits) != 0;
}

// From the innermost region outwards, what its cancellation depends on: the last that asked for it, or a shield.
void fiber_base::update_cancelled() noexcept {
  region* open = &innermost_region();  // not decided yet: from here outwards
  for (region* each = open; !each->is_body(); each = each->parent_) {
    if (each->cancel_requested()) {
      open = each->parent_;
    } else if (each->shielded()) {
      for (; open != each->parent_; open = open->parent_) {
        open->state_ &= static_cast<std::uint8_t>(~region::is_cancelled);
      }
    }
  }
  update_interrupted();
}

// The outermost first, so that of equal deadlines it is the one that fires first.
void fiber_base::arm_limits() noexcept {
  flags_ &= static_cast<std::uint8_t>(~with_limit);
  entered_region* first = nullptr;
  for (region* each = &innermost_region(); !each->is_body(); each = each->parent_) {
    auto& mine = static_cast<entered_region&>(*each);
    const bool counts = !mine.relative_ && mine.grace_ == duration::max();
    if (mine.expired_ || !mine.has_limit() || (counts && mine.armed())) continue;
    mine.next_unarmed_ = std::exchange(first, &mine);
  }
  if (first == nullptr) return;
  const instant now = home_->on().time();
  while (first != nullptr) {
    entered_region& each = *std::exchange(first, first->next_unarmed_);
    try {
      each.arm(now);
    } catch (...) {
      // Without memory for its timer a region cannot keep its limit: it ends now.
      each.fail(std::current_exception());
    }
  }
}

void fiber_base::throw_interruption(coir::cancelled why) {
  // The outermost that was cancelled, up to a shield. One that went up after an op was stopped has nothing inside
  // to account for that: then it was what is further out.
  region* origin = nullptr;
  for (region* each = &innermost_region();; each = each->parent_) {
    if (each->cancel_requested() || (each->is_body() && each->cancelled())) origin = each;
    if (each->is_body() || (each->shielded() && origin != nullptr)) break;
  }
  if (origin == nullptr) origin = this;
  // Thrown in a destructor it would end the program without a word, unless it is caught in there.
  if (stack_ != nullptr) {
    const cold* const mine = cold_part();
    const bool ends_inside = !origin->is_body() && (mine == nullptr || mine->interrupt == nullptr);
    const int ends_at = ends_inside ? static_cast<entered_region*>(origin)->in_flight_ : 0;
    if (std::uncaught_exceptions() > ends_at) {
      throw_misuse(
          "a fiber that is cancelled waits in a destructor, while an exception unwinds its stack: wait in "
          "with_cleanup() or in a shielded cancel_scope instead");
    }
  }
  if (std::exception_ptr given = take_interrupt(); given != nullptr) {
    std::rethrow_exception(std::move(given));
  }
  if ((origin->state_ & region::told) != 0) home_->note_swallowed(*this, *origin);
  origin->state_ |= region::told;
  throw why.because_of(origin);
}

void fiber_base::forgive(const coir::cancelled& why) noexcept {
  // The origin may be gone: it is compared, and not looked at.
  for (region* each = &innermost_region();; each = each->parent_) {
    if (each == why.origin()) each->state_ &= static_cast<std::uint8_t>(~region::told);
    if (each->is_body()) return;
  }
}

std::exception_ptr fiber_base::take_interrupt() noexcept {
  cold* const mine = cold_part();
  if (mine == nullptr || mine->interrupt == nullptr) return nullptr;
  std::exception_ptr given = std::exchange(mine->interrupt, nullptr);
  update_interrupted();
  return given;
}

void fiber_home::note_swallowed(const fiber_base& which, region& origin) noexcept {
  ++swallowed_;
  // Once for each region: a fiber that does it in a loop would say nothing else.
  if ((std::exchange(origin.state_, static_cast<std::uint8_t>(origin.state_ | region::swallowed)) &
       region::swallowed) != 0) {
    return;
  }
  try {
    const place at = which.waits_at();
    // No line: it waits where a region ends, which nobody has written.
    const std::string where = at.line() == 0 ? "" : fmt::format(" at {}:{}", at.file_name(), at.line());
    priv::tell(fmt::format("coir: fiber {}{}{} caught `cancelled`, did not rethrow it, and waits again{}\n", which.id(),
                           which.name().empty() ? "" : " ", which.name(), where));
  } catch (const std::bad_alloc&) {
    priv::tell("coir: a fiber caught `cancelled`, did not rethrow it, and waits again\n");
  }
}

}  // namespace coir
