#include <coir/fiber/scheduler.hpp>

#include "context.hpp"
#include "stack_pool.hpp"

#include <fmt/format.h>

#include <cstdio>
#include <utility>

namespace coir {

namespace {

// Control blocks are cut from slabs of this size: dense, so that ten thousand fibers in turn touch few
// pages and few lines.
constexpr std::size_t slab_bytes = std::size_t{64} << 10;

}  // namespace

// --- fiber_home: birth ---

fiber_home::fiber_home(loop& of)
    : loop_(&of), root_(nullptr), stacks_(std::make_unique<stack_pool>()) {
  if (of.installed() != nullptr) throw_misuse("a loop has one scheduler, and this one has it already");
  own_side_ = priv::thread_side();
  of.install(this);
}

fiber_home::~fiber_home() = default;

void* fiber_home::refill(std::size_t block_class) {
  const std::size_t bytes = (block_class + 1) * block_step;
  const std::size_t count = slab_bytes / bytes;
  slabs_.push_back(std::make_unique_for_overwrite<std::byte[]>(count * bytes));
  std::byte* const start = slabs_.back().get();
  for (std::size_t i = count; i > 1; --i) {
    free_[block_class] = new (start + (i - 1) * bytes) free_block{free_[block_class]};
  }
  return start;
}

void* fiber_home::allocate(std::size_t bytes) {
  const std::size_t block_class = (bytes - 1) / block_step;
  void* taken = nullptr;
  if (COIR_ADDRESS_SANITIZER || block_class >= block_classes) {
    taken = ::operator new(bytes);
  } else if (free_block* const first = free_[block_class]; first != nullptr) {
    free_[block_class] = first->next;
    taken = first;
  } else {
    taken = refill(block_class);
  }
  hold();
  return taken;
}

void fiber_home::recycle(void* block, std::size_t bytes) noexcept {
  const std::size_t block_class = (bytes - 1) / block_step;
  if (COIR_ADDRESS_SANITIZER || block_class >= block_classes) {
    ::operator delete(block);
  } else {
    free_[block_class] = new (block) free_block{free_[block_class]};
  }
  release();
}

void fiber_home::release() noexcept {
  if (--references_ == 0) delete this;
}

void fiber_home::prepare(fiber_base& block, const spawn_options& options) {
  block.report_ = options.report_;
  if (!options.name_.empty()) block.make_cold().name = options.name_;
  if (current_fiber != nullptr && current_fiber->cold_ != nullptr &&
      current_fiber->cold_->values != nullptr) {
    block.make_cold().values = current_fiber->cold_->values;
  }
}

void* fiber_home::give_stack(fiber_base& block, std::size_t bytes, std::size_t alignment,
                             const spawn_options& options) {
  stack& given = stacks_->take(options.stack_bytes_);
  const auto high = reinterpret_cast<std::uintptr_t>(given.high());
  std::byte* const top = given.high() - (high - ((high - bytes) & ~(alignment - 1)));
  if (top < given.low() + given.bytes() / 2) {
    stacks_->give_back(given);
    throw_misuse(fmt::format("a function of {} bytes does not fit on a stack of {}: capture a pointer, "
                             "or ask for more with spawn_options::stack_bytes",
                             bytes, given.bytes()));
  }
  given.argument_ = top;
  given.main_ = nullptr;
  block.stack_ = &given;
  block.context_ =
      priv::make_context(top, static_cast<std::size_t>(top - given.low()));
  return top;
}

// A block that was never begun.
void fiber_home::discard(fiber_base& block) noexcept {
  block.body_kind().end(block);
  block.outcome_ = fiber_outcome::none;
  block.release();
}

void fiber_home::begin(fiber_base& block) noexcept {
  region& where = *block.region::parent();
  where.add(block);
  // Born into a cancelled region: it will not run.
  if (where.cancelled()) block.cancel();
  ++stats_.spawned;
  COIR_TRACE(loop_->trace(), trace::point::spawn, block.id(),
             block.parent() == nullptr ? 0 : block.parent()->id(),
             trace::packed(block.spawned_at()));
  ready_.push(block);
}

// --- fiber_home: running ---

void fiber_home::enter(fiber_base& which) noexcept {
  current_fiber = &which;
  which.state_ = fiber_state::running;
  which.budget_ = ops_per_share;
  COIR_TRACE(loop_->trace(), trace::point::resume, which.id());
}

// Whatever the fiber did, it stopped running.
void fiber_home::leave(fiber_base& which) noexcept {
  if (loop_->trace().on(trace::point::park) && which.state_ == fiber_state::waiting) [[unlikely]] {
    trace::emit(loop_->trace(), trace::point::park, which.id(),
                reinterpret_cast<std::uint64_t>(which.op_kind_->name),
                trace::packed(which.waits_at()));
  }
}

std::size_t fiber_home::run_ready() {
  fiber_base* const outer = current_fiber;
  turn_left_ = fibers_per_turn;
  while (turn_left_ != 0 && !ready_.empty()) {
    --turn_left_;
    run(ready_.pop());
  }
  current_fiber = outer;
  return static_cast<std::size_t>(fibers_per_turn - turn_left_);
}

void fiber_home::run(fiber_base& which) {
  fiber_base* self = &which;
  if (self->state_ == fiber_state::ending) {
    end(*self);
    return;
  }
  if (self->state_ == fiber_state::fresh && !start_fresh(*self)) return;
  enter(*self);
  do {
    self->transfer_ = false;
    if (self->stack_ == nullptr) {
      self->coroutine_->handle().resume();
    } else {
      priv::switch_context(main_context_, self->context_, own_side_, self->stack_->side_);
      // Stacks hand over to each other: another fiber may have come back than the one that went.
      self = current_fiber;
    }
  } while (self->transfer_);
  leave(*self);
  // Neither waiting nor ready: its body is over.
  if (self->state_ == fiber_state::running) body_over(*self);
}

// False: it will not run, and has been ended.
bool fiber_home::start_fresh(fiber_base& which) noexcept {
  if (which.cancel_pending_) {
    which.outcome_ = fiber_outcome::cancelled;
    end(which);
    return false;
  }
  if (which.body_kind().begin == nullptr) return true;
  current_fiber = &which;
  try {
    which.body_kind().begin(which);
    return true;
  } catch (...) {
    which.body_failed(std::current_exception());
  }
  body_over(which);
  return false;
}

void fiber_home::body_over(fiber_base& which) noexcept {
  if (which.body_kind().collect != nullptr && which.outcome_ == fiber_outcome::none) {
    which.body_kind().collect(which);
  }
  if (which.region::empty()) {
    end(which);
    return;
  }
  // A fiber ends after its children. They are cancelled; the last one puts it in the run queue.
  which.state_ = fiber_state::ending;
  which.region::cancel();
}

void fiber_home::end(fiber_base& which) noexcept {
  // Destructors of what the body was made of may use the loop and look at the current fiber.
  current_fiber = &which;
  which.body_kind().end(which);
  // A child's failure weighs more than the result of a body that it cancelled.
  if (which.cold_ != nullptr && which.cold_->failure != nullptr) {
    which.outcome_ = fiber_outcome::failed;
  }
  which.state_ = fiber_state::dead;
  ++stats_.ended;
  COIR_TRACE(loop_->trace(), trace::point::end, which.id(),
             static_cast<std::uint64_t>(which.outcome_) - 1);

  const bool joined = which.joiners_ != nullptr;
  for (join_base* next = std::exchange(which.joiners_, nullptr); next != nullptr;) {
    join_base& told = *next;
    next = std::exchange(told.next_, nullptr);
    told.previous_ = nullptr;
    told.told_->done();
  }

  region& where = *which.region::parent();
  where.remove(which);
  fiber_base* const owner = where.fiber();
  if (which.outcome_ == fiber_outcome::failed && !joined) {
    if (which.report_ || owner == nullptr) {
      tell_failure(which, which.cold_->failure);
    } else {
      owner->add_failure(which.cold_->failure);
      owner->cancel();
    }
  }
  if (owner != nullptr && owner->state_ == fiber_state::ending && where.empty()) {
    ready_.push(*owner);
  }
  current_fiber = nullptr;
  which.release();
}

void fiber_home::tell_failure(const fiber_base& which, std::exception_ptr why) noexcept {
  ++stats_.failures;
  if (on_failure_) {
    on_failure_(which, std::move(why));
    return;
  }
  std::string text = "an exception that is not a std::exception";
  try {
    std::rethrow_exception(std::move(why));
  } catch (const std::exception& error) {
    text = error.what();
  } catch (...) {
  }
  const place at = which.spawned_at();
  fmt::print(stderr, "coir: fiber {}{}{}, spawned at {}:{}, failed: {}\n", which.id(),
             which.name().empty() ? "" : " ", which.name(), at.file_name(), at.line(), text);
}

fiber_base* fiber_home::next_in_tree(fiber_base& at) noexcept {
  if (fiber_base* const child = at.region::first_child(); child != nullptr) return child;
  for (fiber_base* up = &at; up != nullptr; up = up->parent()) {
    if (up->younger_ != nullptr) return up->younger_;
  }
  return nullptr;
}

// The end of the scheduler: everything that lives is cancelled, and runs until it has ended.
void fiber_home::close() noexcept {
  // In a forked child nothing of the parent's can be waited for: it is left as it is.
  if (!loop_->usable()) return;
  root_.cancel();
  while (!root_.empty()) loop_->run_once(duration(-1));
  loop_->install(static_cast<ready_hook*>(nullptr));
  stacks_.reset();
}

scheduler::scheduler(loop& of) : home_(new fiber_home(of)) {}

scheduler::~scheduler() {
  home_->close();
  home_->release();
}

// --- stacks ---

// Runs a coroutine to its end on the fiber's own stack.
void fiber_home::drive(fiber_base& self, promise_base& root) noexcept {
  promise_base* const outer = std::exchange(self.coroutine_, &root);
  const bool outer_suspended = self.suspended_;
  for (;;) {
    do {
      self.transfer_ = false;
      self.coroutine_->handle().resume();
    } while (self.transfer_);
    if (root.handle().done()) break;
    switch_out(self);
  }
  self.coroutine_ = outer;
  self.suspended_ = outer_suspended;
}

stack& fiber_home::borrow_stack(void (*main)(void*) noexcept, void* argument) {
  stack& lent = stacks_->take(0);
  lent.main_ = main;
  lent.argument_ = argument;
  return lent;
}

// The coroutine has suspended: its fiber goes on with what will run on the stack.
void fiber_home::begin_on_stack(fiber_base& self, stack& lent) noexcept {
  self.stack_ = &lent;
  self.context_ = priv::make_context(lent.high(), lent.bytes());
  self.transfer_ = true;
}

void fiber_home::return_stack(stack& unused) noexcept { stacks_->give_back(unused); }

priv::stack_exit fiber_home::run_on_stack() noexcept {
  fiber_base& self = *current_fiber;
  fiber_home& home = self.home();
  stack& mine = *self.stack_;
  if (mine.main_ == nullptr) {
    self.body_kind().run(self);
  } else {
    // Borrowed by a coroutine, which goes on where it was, on the thread's own stack.
    mine.main_(mine.argument_);
    self.stack_ = nullptr;
    self.transfer_ = true;
  }
  return {home.main_context_, &home.own_side_};
}

void fiber_home::switch_out(fiber_base& self) noexcept {
  leave(self);
  // From stack to stack where that is possible: one switch instead of two.
  if (turn_left_ != 0 && !ready_.empty()) {
    fiber_base& next = *ready_.front();
    if (next.stack_ != nullptr && next.state_ == fiber_state::ready) {
      ready_.pop();
      --turn_left_;
      enter(next);
      // Alone in the queue: it goes on without a switch.
      if (&next == &self) return;
      priv::switch_context(self.context_, next.context_, self.stack_->side_, next.stack_->side_);
      return;
    }
  }
  priv::switch_context(self.context_, main_context_, self.stack_->side_, own_side_);
}

namespace priv {

void throw_no_stack() {
  throw_misuse(
      "coir::await needs a stack, and this fiber runs a coroutine: write co_await there, or call the "
      "function with co_await coir::on_stack(...)");
}

void throw_task_misuse(bool empty) {
  throw_misuse(empty ? "an empty task was awaited: it was moved from, spawned, or awaited before"
                     : "a task was awaited a second time");
}

stack_exit stack_main() noexcept { return fiber_home::run_on_stack(); }

void switch_out(fiber_base& self) noexcept { self.home().switch_out(self); }
void drive(fiber_base& self, promise_base& root) noexcept { self.home().drive(self, root); }
stack& borrow_stack(fiber_base& self, void (*main)(void*) noexcept, void* argument) {
  return self.home().borrow_stack(main, argument);
}
void begin_on_stack(fiber_base& self, stack& lent) noexcept {
  self.home().begin_on_stack(self, lent);
}
void return_stack(fiber_base& self, stack& unused) noexcept { self.home().return_stack(unused); }

}  // namespace priv

}  // namespace coir
