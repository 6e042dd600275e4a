// coir/fiber/fiber_home.hpp: what the fibers of one loop share: the run queue, and memory.
//
// The machinery behind coir::scheduler. What runs on every switch and every spawn is inline here; the rest
// is in lib/fiber/scheduler.cpp.
//
// Shape    on the heap and counted, because handles may outlive the scheduler: what they point to must
//          not vanish.
// Order    see scheduler.hpp.
// Thread   the loop's.
// Errors   std::bad_alloc from allocate().
// Cost     a switch is: pop, resume, one test for each thing that rarely happens, push.
// See      coir/fiber/scheduler.hpp; lib/fiber/NOTE.md
#pragma once

#include <coir/base/configured.hpp>
#include <coir/base/list.hpp>
#include <coir/fiber/fiber_base.hpp>
#include <coir/fiber/stack.hpp>
#include <coir/loop/loop.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <new>
#include <span>
#include <utility>
#include <vector>

namespace coir {

class spawn_options;
class stack_pool;

namespace priv {
// Where a stack that is done goes.
struct stack_exit {
  void* to;
  const side* target;
};
}  // namespace priv

struct scheduler_stats {
  std::uint64_t spawned = 0;
  std::uint64_t ended = 0;
  std::uint64_t failures = 0;   // told to the failure handler
  std::uint64_t swallowed = 0;  // cancellations that were caught and not rethrown
};

// Told of failures that no region and no joiner takes. Must not throw.
using failure_handler = std::function<void(const fiber_base& failed, std::exception_ptr why)>;

// Puts the fibers that are ready at the beginning of a turn in another order: for tests
// (coir/testing/shuffle.hpp). Who becomes ready meanwhile waits for the next turn, to be among the next batch.
class ready_order {
 public:
  virtual void arrange(std::span<fiber_base*> batch) noexcept = 0;

 protected:
  ~ready_order() = default;
};

class fiber_home final : public ready_hook {
 public:
  explicit fiber_home(loop& of);

  loop& on() const noexcept { return *loop_; }
  region& root() noexcept { return root_; }
  scheduler_stats stats() const noexcept {
    return {next_id_ - 1, ended_, failures_, swallowed_};
  }
  std::uint64_t alive() const noexcept { return next_id_ - 1 - ended_; }
  void on_failure(failure_handler handler) { on_failure_ = std::move(handler); }
  // Where what must not wait runs, whose fiber has no stack meanwhile; null: nowhere.
  const stack* hidden_stack() const noexcept { return hidden_ != nullptr ? hidden_ : leaving_; }
  // Must outlive the home; null: first ready, first run.
  void arrange(ready_order* order) noexcept { order_ = order; }

  // Cancels everything that lives and runs until it has ended: the scheduler's end. The home itself ends
  // with the last handle.
  void close() noexcept;

  // A fiber in `where`, at the end of the run queue (scheduler.hpp).
  template <class Body>
  auto spawn(region& where, Body&& body, const spawn_options& options, place at);

  void push(fiber_base& which) noexcept {
    if (unusual_) [[unlikely]]
      return push_unusual(which);
    ready_.push(which);
  }

  std::size_t run_ready() override;
  bool has_ready() const noexcept override { return !ready_.empty() || !visited_.empty(); }
  // Parked fibers go on, and none can be parked any more: whoever must see all of them end.
  void end_parking() noexcept;
  // A number below `count`, for whoever must not always begin with the same one: drawn, and the same whenever all
  // else is.
  std::uint32_t draw(std::uint32_t count) noexcept {
    drawn_ = drawn_ * 6364136223846793005U + 1442695040888963407U;
    return static_cast<std::uint32_t>((drawn_ >> 32) * count >> 32);
  }
  void say_outside() noexcept override {
    says_outside_ = true;
    update_unusual();
  }
  void abandon() noexcept override { turn_left_ = turn_put_by_ = 0; }

  // What the awaiters stand on.
  std::uint32_t turn_ms() const noexcept { return turn_ms_; }
  // Counts down by one for each fiber that is switched to in a turn.
  std::uint32_t turn_left() const noexcept { return turn_left_ + turn_put_by_; }
  // An op finished at once: has the running fiber had its share?
  bool share_is_used() noexcept { return --share_left_ == 0; }
  // What the coroutine that has just ended threw, on its way to the one that awaits it. Nothing else runs
  // in between, so one place serves all.
  std::exception_ptr& thrown() noexcept { return thrown_; }
  void rethrow() {
    if (thrown_ != nullptr) [[unlikely]]
      std::rethrow_exception(std::exchange(thrown_, nullptr));
  }
  // The next coroutine of the running fiber is to be resumed at once.
  void transfer() noexcept { transfer_ = true; }
  void switch_out(fiber_base& self) noexcept;
  void drive(fiber_base& self, promise_base& root) noexcept;
  stack& borrow_stack(void (*main)(void*) noexcept, void* argument);
  void begin_on_stack(fiber_base& self, stack& lent) noexcept;
  void return_stack(stack& unused) noexcept;
  // What runs in the fiber from here on cannot wait.
  stack& take_stack(fiber_base& of) noexcept { return *std::exchange(of.stack_, nullptr); }
  priv::stack_exit run_on_stack(fiber_base& self) noexcept;

  // To the failure handler, or standard error.
  void tell_failure(const fiber_base& which, std::exception_ptr why) noexcept;

  // Visits every fiber that is not dead, parents before children.
  template <class Visit>
  void for_each(Visit&& visit) const {
    for (fiber_base* at = root_.first_child(); at != nullptr; at = next_in_tree(*at)) visit(*at);
  }

  // Of control blocks, by size.
  static constexpr std::size_t block_class_of(std::size_t bytes) noexcept { return (bytes - 1) / block_step; }
  // Memory for control blocks: dense, and recycled. Under the address sanitizer all of it comes from the
  // heap, so that use after free is found.
  void* allocate(std::size_t bytes) {
    const std::size_t block_class = block_class_of(bytes);
    if (!COIR_HEAP_BLOCKS && block_class < block_classes) [[likely]] {
      if (free_block* const first = free_[block_class]; first != nullptr) [[likely]] {
        free_[block_class] = first->next;
        return first;
      }
    }
    return allocate_slow(bytes);
  }
  void recycle(void* block, std::size_t block_class) noexcept {
    if (!COIR_HEAP_BLOCKS && block_class < block_classes) [[likely]] {
      free_[block_class] = new (block) free_block{free_[block_class]};
    } else {
      ::operator delete(block);
    }
    ++recycled_;
    if (closed_ && is_unused()) [[unlikely]]
      delete this;
  }
  bool is_unused() const noexcept { return recycled_ == next_id_ - 1; }

 private:
  friend class fiber_base;
  friend class entered_region;

  static constexpr std::size_t block_step = 16;  // bytes
  static constexpr std::size_t block_classes = 32;
  static constexpr std::uint32_t fibers_per_turn = 256;
  // A turn looks at the clock when so many have run, then when so many times as many have, and ends there if it has
  // taken too long.
  static constexpr std::uint32_t fibers_unclocked = 8;
  static constexpr std::uint32_t clock_step = 4;
  static constexpr duration turn_limit = std::chrono::milliseconds(10);
  static constexpr std::uint32_t ops_per_share = 64;

  ~fiber_home();
  static fiber_base* next_in_tree(fiber_base& at) noexcept;
  std::uint32_t arrange_batch() noexcept;
  template <class Block, class... Arguments>
  Block& make(const spawn_options& options, Arguments&&... arguments);
  // What few fibers have. Throws without memory for it, and the block is no more.
  [[gnu::cold]] void prepare(fiber_base& block, const spawn_options& options);
  // For a function of this size, whose place it returns. Throws without one, and the block is no more.
  void* give_stack(fiber_base& block, std::size_t bytes, std::size_t alignment,
                   std::size_t stack_bytes);
  void discard(fiber_base& block) noexcept;
  void begin(fiber_base& block, bool ahead) noexcept;
  void begin_unusual(const fiber_base& block) noexcept;
  template <bool Traced>
  void run(fiber_base& which) noexcept;
  bool start_or_end(fiber_base& which) noexcept;
  fiber_base* next_on_stack() noexcept;
  void fetch_ahead() noexcept;
  void trace_stop(fiber_base& which) noexcept;
  void body_over(fiber_base& which) noexcept;
  static priv::side side_here() noexcept;
  void end(fiber_base& which) noexcept;
  static void destroy_body(fiber_base& which) noexcept;
  [[gnu::noinline]] void collect(fiber_base& which) noexcept;
  [[gnu::noinline]] void end_children(fiber_base& which) noexcept;
  static void settle_outcome(fiber_base& which) noexcept;
  bool begin_again(fiber_base& which) noexcept;
  void renew_stack(fiber_base& which) noexcept;
  bool end_control(fiber_base& which) noexcept;
  void visit_fibers() noexcept;
  // As soon as the running fiber suspends, run_ready looks again at what is unusual.
  void break_turn_off() noexcept { turn_put_by_ += std::exchange(turn_left_, 0); }
  void push_unusual(fiber_base& which) noexcept;
  void update_unusual() noexcept {
    unusual_ = trace_mask_ != 0 || parked_ != 0 || hastened_ != 0 || (says_outside_ && !switches_);
  }
  template <bool Unusual>
  void run_some() noexcept;
  // To whoever owns the region, or to the failure handler.
  void pass_failure(const fiber_base& which, region& where) noexcept;
  // `cancelled` because of this region was caught by the fiber, which went on.
  void note_swallowed(const fiber_base& which, region& origin) noexcept;

  // What every switch touches, together.
  queue<fiber_base, &fiber_base::next_> ready_;
  std::uint32_t turn_left_ = 0;   // fibers that may still run in this turn
  std::uint32_t share_left_ = 0;  // ops of the running fiber that may still finish at once
  std::uint32_t trace_mask_ = 0;  // as it was when the turn began
  bool transfer_ = false;
  // Somebody is traced, parked or in a hurry: switches and wake-ups must look. While none is switched to, also when a
  // foreign loop is to be told of wake-ups.
  bool unusual_ = false;
  std::uint32_t turn_ms_ = 0;  // the turn's time in milliseconds since the epoch, modulo 2^32
  void* main_context_ = nullptr;  // where the thread's own stack is, while a fiber's runs
  stack* leaving_ = nullptr;      // a fiber ends on it: it is not to be had yet
  const stack* hidden_ = nullptr;  // ... or runs on it what must not wait, and so does without

  loop* loop_;
  std::uint64_t drawn_ = 0;
  std::exception_ptr thrown_;
  std::uint64_t next_id_ = 1;     // so many blocks were made, less one
  std::uint64_t recycled_ = 0;    // ... and so many of them are free again
  std::uint64_t ended_ = 0;
  std::uint64_t failures_ = 0;
  std::uint64_t swallowed_ = 0;
  bool closed_ = false;
  bool parking_ended_ = false;
  bool says_outside_ = false;
  bool switches_ = false;  // run_ready is at work
  std::uint32_t turn_put_by_ = 0;  // what may run in this turn after a look at the clock, or at what is unusual
  std::uint32_t parked_ = 0;       // so many fibers are
  std::uint32_t hastened_ = 0;     // so many are to be woken ahead of others
  queue<fiber_base, &fiber_base::next_> held_back_;  // ready but parked
  bool visiting_ = false;
  std::vector<fiber_base*> visited_;  // waiting, and a function was interjected; each is held
  region root_;

  // Free control blocks by size, cut from slabs.
  struct free_block {
    free_block* next;
  };
  void* allocate_slow(std::size_t bytes);
  std::array<free_block*, block_classes> free_{};
  struct free_slab {
    void operator()(std::byte* slab) const noexcept;
  };
  std::vector<std::unique_ptr<std::byte[], free_slab>> slabs_;

  priv::side own_side_;
  std::unique_ptr<stack_pool> stacks_;
  failure_handler on_failure_;
  ready_order* order_ = nullptr;
};

inline fiber_base::fiber_base(const fiber_kind& kind, fiber_home& home, region& where,
                              place at) noexcept
    : waiter(kind), region(&where, true), home_(&home), id_(home.next_id_++), spawned_at_(at) {}

inline void fiber_base::wake(waiter& self) noexcept {
  auto& mine = static_cast<fiber_base&>(self);
  mine.phase_ = phase::active;
  mine.home_->push(mine);
}

inline void fiber_base::waits_on_stack_at(place at) noexcept { stack_->waits_at(at); }

inline void fiber_base::begin_yield() noexcept {
  begin_limits();
  home_->push(*this);
}

template <class Op>
bool fiber_base::begin_wait(Op& what, const op_kind& kind) {
  constexpr bool lasts_anyway = requires { Op::cannot_be_cancelled; };
  if (lasts_anyway && interrupted_) [[unlikely]]
    meet_visits();
  // Before start(), which may tell at once that the op is done.
  op_ = &what;
  op_kind_ = &kind;
  since_ms_ = home_->turn_ms();
  phase_ = phase::waiting;
  try {
    if (what.start(*this)) {
      begin_limits();
      if (lasts_anyway && interrupted_) [[unlikely]]
        hurry_rest();
      return true;
    }
  } catch (...) {
    phase_ = phase::active;
    throw;
  }
  phase_ = phase::active;
  if (!home_->share_is_used()) [[likely]]
    return false;
  // Its yield comes after completion: the result is kept.
  begin_yield();
  return true;
}

inline void fiber_base::release() noexcept {
  if (--references_ != 0) return;
  fiber_home& home = *home_;
  const fiber_kind& mine = body_kind();
  if (mine.destroy != nullptr) mine.destroy(*this);
  if (more_ != 0) [[unlikely]]
    delete cold_part();
  home.recycle(this, mine.block_class);
}

inline void region::add(fiber_base& child) noexcept {
  child.younger_ = nullptr;
  if (children_ == nullptr) {
    child.older_ = &child;
    children_ = &child;
  } else {
    child.older_ = std::exchange(children_->older_, &child);
    child.older_->younger_ = &child;
  }
}

inline void region::remove(fiber_base& child) noexcept {
  if (children_ == &child) {
    children_ = child.younger_;
    if (children_ != nullptr) children_->older_ = child.older_;
  } else {
    child.older_->younger_ = child.younger_;
    (child.younger_ != nullptr ? child.younger_ : children_)->older_ = child.older_;
  }
}

inline fiber_base* region::fiber() noexcept {
  if (is_body()) [[likely]]
    return static_cast<fiber_base*>(this);
  return (state_ & by_entering) != 0 ? static_cast<entered_region*>(this)->fiber_ : nullptr;
}

inline void fiber_base::set_innermost(region* which) noexcept {
  region* const inner = which->is_body() ? nullptr : which;
  if (cold* const mine = cold_part(); mine != nullptr) [[unlikely]] {
    mine->innermost = inner;
  } else {
    more_ = inner == nullptr ? 0 : reinterpret_cast<std::uintptr_t>(inner) | is_region;
  }
}

// Entering and leaving is what a limit costs around code that is ready at once.
inline void entered_region::enter(fiber_base& self) noexcept {
  COIR_ASSERT(fiber_ == nullptr, "a region was entered twice");
  fiber_ = &self;
  was_entered_ = true;
  if (self.has_stack()) in_flight_ = static_cast<std::uint8_t>(std::uncaught_exceptions());
  parent_ = &self.innermost_region();
  self.set_innermost(this);
  if (((state_ | parent_->state_) & (shield | is_cancelled | winding_down)) != 0) [[unlikely]]
    enter_marked();
  if (has_limit()) self.flags_ |= fiber_base::with_limit;
}

inline void entered_region::leave() noexcept {
  COIR_ASSERT(fiber_ != nullptr && &fiber_->innermost_region() == this,
              "a region was left that is not its fiber's innermost");
  COIR_ASSERT(empty(), "a region was left before its children had ended");
  if (only_rest_) state_ &= static_cast<std::uint8_t>(~is_cancelled);
  fiber_base& self = *std::exchange(fiber_, nullptr);
  if (armed()) self.home_->on().disarm(*this);
  self.set_innermost(std::exchange(parent_, nullptr));
  // Behind a shield the fiber may have been spared what is around it.
  if (self.interrupted_ || shielded()) [[unlikely]]
    self.update_interrupted();
}

inline void fiber_home::begin(fiber_base& block, bool ahead) noexcept {
  region& where = *block.region::parent();
  where.add(block);
  // Born into a cancelled region: it will not run.
  if ((where.state_ & (region::is_cancelled | region::winding_down)) != 0) [[unlikely]] {
    block.region::state_ |= static_cast<std::uint8_t>(
        where.state_ & (region::is_cancelled | region::winding_down));
    block.interrupted_ = where.cancelled();
  }
  if (unusual_) [[unlikely]]
    begin_unusual(block);
  if (ahead) {
    ready_.push_front(block);
  } else {
    ready_.push(block);
  }
}

inline bool fiber_base::is_of_this_process() const noexcept { return home_->on().usable(); }

// The running fiber's, or else the one that this thread runs; null outside of any.
inline loop* loop_here() noexcept {
  return current_fiber != nullptr && current_fiber->is_of_this_process() ? &current_fiber->home().on() : loop::current();
}

}  // namespace coir
