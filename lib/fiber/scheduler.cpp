#include <coir/fiber/run.hpp>
#include <coir/fiber/scheduler.hpp>

#include "context.hpp"
#include "control.hpp"
#include "stack_pool.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <exception>
#include <utility>

namespace coir {

namespace {

// Control blocks are cut from slabs of this size: dense, so that ten thousand fibers in turn touch few
// pages and few lines.
constexpr std::size_t slab_bytes = std::size_t{64} << 10;
constexpr std::size_t slab_alignment = 64;

// A loop that throws in so many turns in a row, with no fiber ready meanwhile, is broken; or what its callbacks throw
// keeps from the last fibers what they wait for. A tenth of a second to a second.
constexpr std::uint32_t turns_in_vain_max = 100'000;

std::uint32_t milliseconds_of(instant at) noexcept {
  return static_cast<std::uint32_t>(at.time_since_epoch() / std::chrono::milliseconds(1));
}

}  // namespace

// --- fiber_home: birth ---

// Who forks in a fiber goes on, on that one's stack.
priv::side fiber_home::side_here() noexcept {
  const bool forked = current_fiber != nullptr && !current_fiber->is_of_this_process();
  const stack* const on = forked ? current_fiber->current_stack() : nullptr;
  return on != nullptr ? on->side_ : priv::thread_side();
}

fiber_home::fiber_home(loop& of)
    : loop_(&of),
      root_(nullptr),
      own_side_(side_here()),
      stacks_(std::make_unique<stack_pool>()) {
  if (of.installed() != nullptr) throw_misuse("a loop has one scheduler, and this one has it already");
  of.install(this);
}

fiber_home::~fiber_home() = default;


instant fiber_base::since() const noexcept {
  const loop& on = home_->on();
  return on.turn_time() -
         std::chrono::milliseconds(milliseconds_of(on.turn_time()) - since_ms_);
}

void* fiber_home::allocate_slow(std::size_t bytes) {
  const std::size_t block_class = block_class_of(bytes);
  if (COIR_HEAP_BLOCKS || block_class >= block_classes) return ::operator new(bytes);
  const std::size_t block_bytes = (block_class + 1) * block_step;
  const std::size_t count = slab_bytes / block_bytes;
  // On a line of the cache: a block's first 64 bytes are then one.
  auto* const start =
      static_cast<std::byte*>(::operator new[](slab_bytes, std::align_val_t(slab_alignment)));
  slabs_.emplace_back(start);
  for (std::size_t i = count; i > 1; --i) {
    free_[block_class] = new (start + (i - 1) * block_bytes) free_block{free_[block_class]};
  }
  return start;
}

void fiber_home::free_slab::operator()(std::byte* slab) const noexcept {
  ::operator delete[](slab, std::align_val_t(slab_alignment));
}

void fiber_home::prepare(fiber_base& block, const spawn_options& options) try {
  if (!options.name_.empty()) block.make_cold().name = options.name_;
  if (current_fiber != nullptr && current_fiber->has_values()) {
    block.make_cold().values = current_fiber->cold_part()->values;
  }
} catch (...) {
  discard(block);
  throw;
}

void fiber_home::begin_unusual(const fiber_base& block) noexcept {
  if (trace_mask_ != 0) {
    COIR_TRACE(loop_->trace(), trace::point::spawn, block.id(), block.parent() == nullptr ? 0 : block.parent()->id(),
               block.spawned_at().packed());
  }
  loop_->work_appeared();
}

void* fiber_home::give_stack(fiber_base& block, std::size_t bytes, std::size_t alignment,
                             std::size_t stack_bytes) try {
  stack& given = stacks_->take(stack_bytes);
  const auto high = reinterpret_cast<std::uintptr_t>(given.high());
  std::byte* const top = given.high() - (high - ((high - bytes) & ~(alignment - 1)));
  if (top < given.low() + given.bytes() / 2) {
    stacks_->give_back(given);
    throw_misuse(fmt::format("a function of {} bytes does not fit on a stack of {}: capture a pointer, "
                             "or ask for more with spawn_options::stack_bytes",
                             bytes, given.bytes()));
  }
  given.argument_ = top;
  given.borrower_ = nullptr;
  given.at_ = place();
  given.main_ = nullptr;
  given.context_ = priv::make_context(top, static_cast<std::size_t>(top - given.low()));
  block.stack_ = &given;
  return top;
} catch (...) {
  discard(block);
  throw;
}

// A block that was never begun.
void fiber_home::discard(fiber_base& block) noexcept {
  destroy_body(block);
  block.outcome_ = fiber_outcome::none;
  ++ended_;
  block.references_ = 1;  // no handle was given out
  block.release();
}

// --- fiber_home: running ---

std::size_t fiber_home::run_ready() {
  // Their stacks and their current fiber would be mixed up.
  fiber_base* const around = current_fiber;
  if (around != nullptr && around->is_of_this_process()) [[unlikely]] {
    throw_misuse("a loop that has fibers was run by a fiber of another loop");
  }
  const std::uint32_t limit = order_ == nullptr ? fibers_per_turn : arrange_batch();
  // An order is there to be repeated, and goes without the clock.
  std::uint32_t clocked = order_ == nullptr ? fibers_unclocked : limit;
  std::uint32_t ran = 0;
  // Read once: who starts or stops looking meanwhile is heard in the next turn.
  trace_mask_ = loop_->trace().mask();
  turn_ms_ = milliseconds_of(loop_->turn_time());
  switches_ = true;
  update_unusual();
  for (;;) {
    turn_left_ = clocked - ran;
    turn_put_by_ = limit - clocked;
    if (!visited_.empty()) [[unlikely]]
      visit_fibers();
    if (unusual_) [[unlikely]] {
      run_some<true>();
    } else {
      run_some<false>();
    }
    ran = limit - turn_left();
    if (turn_left_ != 0 || ran == limit || !has_ready()) break;
    // Broken off to look again?
    if (ran < clocked) continue;
    if (loop_->coarse_time() - loop_->turn_time() >= turn_limit) break;
    clocked = std::min(clocked * clock_step, limit);
  }
  current_fiber = around;
  switches_ = false;
  update_unusual();
  return ran;
}

std::uint32_t fiber_home::arrange_batch() noexcept {
  std::array<fiber_base*, fibers_per_turn> all;
  std::uint32_t count = 0;
  while (count != fibers_per_turn && !ready_.empty()) all[count++] = &ready_.pop();
  const std::span<fiber_base*> batch(all.data(), count);
  order_->arrange(batch);
  for (auto last = batch.rbegin(); last != batch.rend(); ++last) ready_.push_front(**last);
  return count;
}

template <bool Unusual>
inline void fiber_home::run_some() noexcept {
  while (turn_left_ != 0 && !ready_.empty()) {
    --turn_left_;
    fiber_base& first = ready_.pop();
    if (Unusual && first.parked()) {
      first.control_ |= fiber_base::held_back;
      held_back_.push(first);
      continue;
    }
    // What the next one will need comes while this one runs: with ten thousand fibers in turn, a sixth.
    if (!ready_.empty()) __builtin_prefetch(ready_.front()->coroutine_);
    run<Unusual>(first);
  }
}

template <bool Traced>
inline void fiber_home::run(fiber_base& which) noexcept {
  if (which.phase_ != fiber_base::phase::active) {
    if (which.phase_ == fiber_base::phase::fresh && !which.interrupted_ &&
        which.body_kind().begin == nullptr) [[likely]] {
      which.phase_ = fiber_base::phase::active;
    } else if (!start_or_end(which)) {
      return;
    }
  }
  fiber_base* self = &which;
  current_fiber = self;
  share_left_ = ops_per_share;
  if (Traced) COIR_TRACE(loop_->trace(), trace::point::resume, self->id());
  for (;;) {
    if (self->stack_ == nullptr) [[likely]] {
      self->coroutine_->handle().resume();
    } else {
      priv::switch_context(main_context_, self->stack_->context_, own_side_, self->stack_->side_);
      // Stacks hand over to each other: another fiber may have come back than the one that went, or none,
      // when the last one ended where it was.
      self = current_fiber;
      if (self == nullptr) return;
    }
    if (!transfer_) [[likely]]
      break;
    transfer_ = false;
  }
  if (Traced) trace_stop(*self);
  if (self->phase_ == fiber_base::phase::over) body_over(*self);
}

// Whatever the fiber did, it stopped running.
void fiber_home::trace_stop(fiber_base& which) noexcept {
  if (which.phase_ != fiber_base::phase::waiting) return;
  COIR_TRACE(loop_->trace(), trace::point::park, which.id(),
             reinterpret_cast<std::uint64_t>(which.op_kind_->name),
             which.waits_at().packed());
}

// True: it is to be run, for the first time.
bool fiber_home::start_or_end(fiber_base& which) noexcept {
  if (which.phase_ == fiber_base::phase::over) {
    end(which);
    return false;
  }
  if ((which.control_ & fiber_base::with_visits) != 0) which.run_visits();
  if (which.interrupted_) {
    if (std::exception_ptr given = which.take_interrupt(); given != nullptr) {
      which.body_failed(std::move(given));
    } else {
      which.outcome_ = fiber_outcome::cancelled;
    }
    // What was interjected may have spawned its children.
    current_fiber = &which;
    which.phase_ = fiber_base::phase::over;
    body_over(which);
    return false;
  }
  which.phase_ = fiber_base::phase::active;
  if (which.body_kind().begin == nullptr) return true;
  current_fiber = &which;
  try {
    which.body_kind().begin(which);
    return true;
  } catch (...) {
    which.body_failed(std::current_exception());
  }
  which.phase_ = fiber_base::phase::over;
  body_over(which);
  return false;
}

inline void fiber_home::destroy_body(fiber_base& which) noexcept {
  if (const auto end = which.body_kind().end; end == nullptr) [[likely]] {
    task_access::destroy_root(which);
  } else {
    end(which);
  }
}

// What became of a coroutine.
void fiber_home::collect(fiber_base& which) noexcept {
  if (thrown_ != nullptr) {
    which.body_failed(std::exchange(thrown_, nullptr));
  } else {
    which.body_kind().collect(which);
  }
}

void fiber_home::body_over(fiber_base& which) noexcept {
  if (which.outcome_ == fiber_outcome::none) {
    if (thrown_ == nullptr && which.body_kind().collect == nullptr) {
      which.set_returned();
    } else {
      collect(which);
    }
  }
  if ((which.region::state_ & region::told) != 0) [[unlikely]] {
    if (which.outcome_ == fiber_outcome::returned) ++swallowed_;
  }
  if (which.region::empty()) [[likely]] {
    end(which);
  } else {
    end_children(which);
  }
}

// A fiber ends after its children. They are cancelled; the last one puts it in the run queue. Callbacks of stop
// tokens hear of that, and messages that nobody received are destroyed.
void fiber_home::end_children(fiber_base& which) noexcept {
  {
    const fiber_base::without_stack hidden(which);
    which.region::cancel();
    if ((which.control_ & fiber_base::restarting) == 0) which.tell_attached_end();
  }
  // Which of those may have moved the last child away.
  if (which.region::empty()) [[unlikely]]
    end(which);
}

void fiber_home::end(fiber_base& which) noexcept {
  // Destructors of what the body was made of may use the loop and look at the current fiber. They cannot
  // wait, for the stack is taken away before; what they spawn is cancelled before it runs, and awaited like all
  // children.
  current_fiber = &which;
  which.phase_ = fiber_base::phase::over;
  which.refuse_more();
  if ((which.control_ & fiber_base::restarting) != 0) [[unlikely]] {
    if (begin_again(which)) return;
  }
  if ((which.flags_ & fiber_base::bodyless) == 0) [[likely]] {
    which.flags_ |= fiber_base::bodyless;
    destroy_body(which);
    if ((which.control_ & fiber_base::with_visits) != 0) [[unlikely]]
      which.drop_visits();
    which.tell_attached_end();
  }
  if (!which.region::empty()) [[unlikely]] {
    current_fiber = nullptr;
    return;
  }
  // One test for all that few fibers have.
  const bool plain = which.control_ == 0 && which.more_ == 0;
  if (!plain) [[unlikely]]
    settle_outcome(which);
  which.phase_ = fiber_base::phase::dead;
  ++ended_;
  if (trace_mask_ != 0) [[unlikely]] {
    COIR_TRACE(loop_->trace(), trace::point::end, which.id(),
               static_cast<std::uint64_t>(which.outcome_) - 1);
  }

  // From here on nobody's children can be spawned: who is told, and the failure handler, are no part of the fiber.
  bool handled = which.joiners_ != nullptr;
  // One by one: whoever is told may make others give up.
  current_fiber = nullptr;
  while (join_base* const told = which.joiners_) {
    which.joiners_ = std::exchange(told->next_, nullptr);
    join_base* const youngest = std::exchange(told->previous_, nullptr);
    if (which.joiners_ != nullptr) which.joiners_->previous_ = youngest;
    told->told_->done();
  }
  if (!plain && (which.control_ != 0 || which.control() != nullptr)) [[unlikely]]
    handled |= end_control(which);

  region& where = *which.region::parent();
  where.remove(which);
  // Before a failure handler runs, which may move what is left there away: then that is who puts the owner here.
  if (where.is_body()) {
    fiber_base& owner = *where.fiber();
    if (owner.phase_ == fiber_base::phase::over && where.empty()) ready_.push(owner);
  }
  if (which.outcome_ == fiber_outcome::failed && !handled) [[unlikely]]
    pass_failure(which, where);
  if (!where.is_body() && where.fiber() != nullptr) {
    static_cast<entered_region&>(where).child_ended(which.outcome_ == fiber_outcome::cancelled);
  }
  which.release();
}

// A child's failure weighs more than the result of a body that it cancelled.
void fiber_home::settle_outcome(fiber_base& which) noexcept {
  if (which.has_failure()) {
    which.outcome_ = fiber_outcome::failed;
  } else if ((which.control_ & fiber_base::stopping) != 0 && which.outcome_ == fiber_outcome::cancelled &&
             which.has_value()) {
    which.outcome_ = fiber_outcome::returned;
  }
}

void fiber_home::pass_failure(const fiber_base& which, region& where) noexcept {
  fiber_base* const owner = where.fiber();
  if ((which.flags_ & fiber_base::report) != 0 || owner == nullptr) {
    tell_failure(which, which.failure());
    return;
  }
  // Ahead of what is queued: others may do in vain what the failure is about to stop.
  if (owner->phase_ == fiber_base::phase::waiting && !where.cancelled()) owner->hasten();
  if (where.is_body()) {
    owner->add_failure(which.failure());
    owner->cancel();
  } else {
    static_cast<entered_region&>(where).fail(which.failure());
  }
}

void fiber_home::tell_failure(const fiber_base& which, std::exception_ptr why) noexcept {
  ++failures_;
  if (on_failure_) {
    on_failure_(which, std::move(why));
    return;
  }
  const place at = which.spawned_at();
  try {
    priv::tell(fmt::format("coir: fiber {}{}{}, spawned at {}:{}, failed: {}\n", which.id(),
                           which.name().empty() ? "" : " ", which.name(), at.file_name(), at.line(),
                           priv::text_of(why)));
  } catch (const std::bad_alloc&) {
    priv::tell("coir: a fiber failed, and there is no memory to say which\n");
  }
}

fiber_base* fiber_home::next_in_tree(fiber_base& at) noexcept {
  region* where = &at.innermost_region();
  fiber_base* child = where->first_child();
  while (child == nullptr) {
    if (where == &at.home_->root()) return nullptr;
    if (where->is_body()) {
      child = where->fiber()->younger_;
      where = where->parent();
    } else {
      where = where->parent();
      child = where->first_child();
    }
  }
  return child;
}

namespace {

// By a callback of the loop, while its scheduler ended and nobody was there to catch it.
void tell_thrown(const std::exception_ptr& first) noexcept {
  try {
    priv::tell(fmt::format("coir: a callback of a loop threw while the loop's fibers came to their end: {}\n",
                           priv::text_of(first)));
  } catch (const std::bad_alloc&) {
    priv::tell("coir: a callback of a loop threw while the loop's fibers came to their end\n");
  }
}
// Though cancelled.
void tell_endless(const fiber_home& fibers) noexcept {
  try {
    priv::tell("coir: a loop ends and waits for these fibers, which nothing that it knows of can wake:\n" +
               describe(fibers));
  } catch (const std::bad_alloc&) {
    priv::tell("coir: a loop ends and waits for fibers which nothing that it knows of can wake\n");
  }
}
void tell_thrown_again(std::uint64_t times) noexcept {
  try {
    priv::tell(fmt::format("coir: ... and callbacks threw {} more times until the fibers had ended\n", times));
  } catch (const std::bad_alloc&) {
    priv::tell("coir: ... and callbacks threw again until the fibers had ended\n");
  }
}

}  // namespace

// The end of the scheduler: everything that lives is cancelled, and runs until it has ended, whatever callbacks of
// the loop throw meanwhile.
void fiber_home::close() noexcept {
  // In a forked child nothing of the parent's can be waited for: it is left as it is.
  if (!loop_->usable()) return;
  end_parking();
  root_.cancel();
  const std::uint64_t turns_before = loop_->stats().turns;
  std::uint64_t threw = 0;
  std::uint32_t in_vain = 0;  // turns in a row that were left by an exception, before any fiber ran
  bool told = false;
  while (!root_.empty()) {
    if (!told && !has_ready() && !loop_->can_wake()) {
      // To leave would destroy what they use, and a thread may post that did not hold the loop.
      told = true;
      tell_endless(*this);
    }
    try {
      loop_->run_once(duration(-1));
      in_vain = 0;
      continue;
    } catch (...) {
      // The loop cannot be run here, or by this process; or it does nothing but throw. Nothing would ever end.
      const bool in_fiber = current_fiber != nullptr && current_fiber->is_of_this_process();
      const bool refused = !loop_->usable() || in_fiber || loop_->stats().turns == turns_before;
      if (refused || in_vain == turns_in_vain_max) std::terminate();
      if (threw++ == 0) tell_thrown(std::current_exception());
    }
    // Fibers come last in a turn, and what throws in each may be what only they can end. Outside of a turn
    // loop::current() is null for them, so not before it must be.
    if (++in_vain > 1 && has_ready()) {
      run_ready();
      in_vain = 0;
    }
  }
  if (threw > 1) tell_thrown_again(threw - 1);
  // Visits to fibers that died before them.
  visit_fibers();
  loop_->install(static_cast<ready_hook*>(nullptr));
  stacks_.reset();
  closed_ = true;
  if (is_unused()) delete this;
}

scheduler::scheduler(loop& of) : home_(new fiber_home(of)) {}

scheduler::~scheduler() { home_->close(); }

// --- stacks ---

// Runs a coroutine to its end on the fiber's own stack.
void fiber_home::drive(fiber_base& self, promise_base& root) noexcept {
  promise_base* const outer = std::exchange(self.coroutine_, &root);
  const bool outer_suspended = self.suspended_;
  for (;;) {
    do {
      transfer_ = false;
      self.coroutine_->handle().resume();
    } while (transfer_);
    if (root.handle().done()) break;
    switch_out(self);
  }
  self.coroutine_ = outer;
  self.suspended_ = outer_suspended;
}

stack& fiber_home::borrow_stack(void (*main)(void*) noexcept, void* argument) {
  stack& lent = stacks_->take(0);
  lent.main_ = main;
  lent.at_ = place();
  lent.argument_ = argument;
  return lent;
}

// The coroutine has suspended: its fiber goes on with what will run on the stack.
void fiber_home::begin_on_stack(fiber_base& self, stack& lent) noexcept {
  self.stack_ = &lent;
  lent.borrower_ = self.coroutine_;
  lent.context_ = priv::make_context(lent.high(), lent.bytes());
  transfer();
}

// What runs on the stack begins again: all below the function is free.
void fiber_home::renew_stack(fiber_base& which) noexcept {
  stack& mine = *which.stack_;
  auto* const top = static_cast<std::byte*>(mine.argument_);
  const auto bytes = static_cast<std::size_t>(top - mine.low());
  priv::clear_red_zones(mine.low(), bytes);
  mine.at_ = place();
  mine.context_ = priv::make_context(top, bytes);
}

void fiber_home::return_stack(stack& unused) noexcept {
  if (&unused != leaving_) stacks_->give_back(unused);
}

// The way to a stack is three cache misses, each behind the one before: control block, record, saved context. With
// ten thousand fibers in turn nothing of it is near, so while one fiber runs the context of the second behind it is asked
// for, the third's record and the fourth's block. Must be inlined: g++ drops calls of a function that only prefetches.
[[gnu::always_inline]] inline void fiber_home::fetch_ahead() noexcept {
  const fiber_base* const next = ready_.front();
  if (next == nullptr) return;
  const fiber_base* const second = next->next_;
  if (second == nullptr) return;
  if (second->stack_ != nullptr) {
    // What a switch and the returns from it up to the body read.
    const auto* const top = static_cast<const std::byte*>(second->stack_->context_);
    for (std::size_t line = 0; line != 3; ++line) __builtin_prefetch(top + line * 64);
  }
  const fiber_base* const third = second->next_;
  if (third == nullptr) return;
  __builtin_prefetch(third->stack_);
  __builtin_prefetch(third->next_);
}

// The next fiber, if it can be gone to from another's stack: from stack to stack is one switch, by way of
// the thread's own stack it is two.
fiber_base* fiber_home::next_on_stack() noexcept {
  if (turn_left_ == 0 || ready_.empty() || unusual_) return nullptr;
  fiber_base& next = *ready_.front();
  if (next.stack_ == nullptr || next.phase_ > fiber_base::phase::active) return nullptr;
  if (next.phase_ == fiber_base::phase::fresh) {
    if (next.interrupted_) return nullptr;
    next.phase_ = fiber_base::phase::active;
  }
  ready_.pop();
  --turn_left_;
  share_left_ = ops_per_share;
  fetch_ahead();
  return &next;
}

void fiber_home::switch_out(fiber_base& self) noexcept {
  stack& mine = *self.stack_;
  fiber_base* const next = next_on_stack();
  if (next == nullptr) {
    priv::switch_context(mine.context_, main_context_, mine.side_, own_side_);
  } else if (next != &self) {
    current_fiber = next;
    priv::switch_context(mine.context_, next->stack_->context_, mine.side_, next->stack_->side_);
  }
}

priv::stack_exit fiber_home::run_on_stack(fiber_base& self) noexcept {
  stack& mine = *self.stack_;
  if (mine.main_ != nullptr) {
    // Borrowed by a coroutine, which goes on where it was, on the thread's own stack.
    mine.main_(mine.argument_);
    self.stack_ = nullptr;
    transfer();
    return {main_context_, &own_side_};
  }
  self.body_kind().run(self);
  self.phase_ = fiber_base::phase::over;
  // Without children, and unless it begins again here, or the pool would take the pages away from under us, the end can come
  // here: what runs next overwrites the stack, but not before we have left it. Until then a failure
  // handler or a destructor that spawns must not get this one.
  if (self.region::empty() && trace_mask_ == 0 && stacks_->keeps(mine) &&
      (self.control_ & fiber_base::restarting) == 0 && (self.region::state_ & region::told) == 0) {
    leaving_ = &mine;
    end(self);
    leaving_ = nullptr;
    // Others may have gone back meanwhile, and the pool be full.
    stacks_->give_back_hot(mine);
    if (fiber_base* const next = next_on_stack(); next != nullptr) {
      current_fiber = next;
      return {next->stack_->context_, &next->stack_->side_};
    }
  }
  return {main_context_, &own_side_};
}

namespace priv {

void throw_task_misuse(bool empty) {
  throw_misuse(empty ? "an empty task was awaited or spawned: it was moved from, spawned, or awaited before"
                     : "a task was awaited or spawned a second time");
}

stack_exit stack_main() noexcept {
  fiber_base& self = *current_fiber;
  return self.home().run_on_stack(self);
}

}  // namespace priv

}  // namespace coir
