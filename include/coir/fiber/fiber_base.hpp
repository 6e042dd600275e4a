// coir/fiber/fiber_base.hpp: the control block of a fiber: everything that is the same for all of them.
//
// Users meet it as fiber<T> (coir/fiber/fiber.hpp). Here is who may touch what, and when.
//
// Phases, and who moves a fiber to the next:
//   fresh    spawned, in the run queue, its body not begun     run            -> active
//   active   in the run queue, or the one fiber that runs      begin_wait     -> waiting
//                                                              body is over   -> over
//   waiting  in an op; op_ and op_kind_ say which              wake           -> active
//   over     its body has ended, its children have not         last child     -> run queue -> dead
//                                                              (restart)      -> run queue -> fresh
//   dead     its result can be read; only handles keep it
// state() tells the user the same, with `active` split into ready and running.
//
// References: one for being alive, one for each handle. The last one frees the block.
//
// Shape    128 bytes, then the result. What few fibers need (name, locals, failures, control) is a cold
//          block made on first use.
// Thread   one loop. Nothing here is atomic.
// Errors   none of its own.
// Cost     every function here is a few instructions, inline.
// See      coir/fiber/scheduler.hpp; lib/fiber/NOTE.md
#pragma once

#include <coir/base/assert.hpp>
#include <coir/base/callback.hpp>
#include <coir/base/config.hpp>
#include <coir/base/error.hpp>
#include <coir/base/list.hpp>
#include <coir/base/place.hpp>
#include <coir/base/time.hpp>
#include <coir/fiber/attached.hpp>
#include <coir/fiber/region.hpp>
#include <coir/loop/loop.hpp>
#include <coir/loop/waiter.hpp>

#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace coir {

class fiber_base;
class fiber_control;
class fiber_home;
class join_base;
class promise_base;
class stack;
class locals;

enum class fiber_state : std::uint8_t { fresh, ready, running, waiting, ending, dead };
enum class fiber_outcome : std::uint8_t { none, returned, failed, cancelled };

const char* name_of(fiber_state state) noexcept;

// What is known of every op of a type.
struct op_kind {
  const char* name;
  abort_answer (*abort)(void* op) noexcept;
  // Adds to a text what exactly is waited for; null where the name says it all.
  void (*describe)(const void* op, std::string& text);
  // A region around the fiber begins to wind down; null for ops that do not care.
  void (*shutting_down)(void* op) noexcept;
};

// What is known of every fiber with the same kind of body.
struct fiber_kind : waiter_kind {
  // Makes the coroutine, where a factory does; null for all other bodies.
  void (*begin)(fiber_base&);
  // Runs a plain function on the fiber's stack; null for coroutines.
  void (*run)(fiber_base&) noexcept;
  // Destroys what one run of the body left, so that it can begin again; null where it cannot (restart()).
  void (*again)(fiber_base&) noexcept;
  // A coroutine has come to its end: moves the result into the block; null where there is none.
  void (*collect)(fiber_base&) noexcept;
  // Destroys what the body was made of: frame, callable. Null: there is nothing but the frame.
  void (*end)(fiber_base&) noexcept;
  // Destroys the result in the block; null where there is nothing to destroy.
  void (*destroy)(fiber_base&) noexcept;
  std::size_t block_class;  // fiber_home::block_class_of(its size)
};

constinit extern thread_local fiber_base* current_fiber COIR_TLS;

// Its body is a region; as a base class, so that the way from a region to the fiber is a cast.
class fiber_base : public waiter, private region {
 public:
  fiber_base(const fiber_base&) = delete;

  std::uint64_t id() const noexcept { return id_; }
  fiber_state state() const noexcept {
    switch (phase_) {
      case phase::fresh: return fiber_state::fresh;
      case phase::active: return this == current_fiber ? fiber_state::running : fiber_state::ready;
      case phase::waiting: return fiber_state::waiting;
      case phase::over: return fiber_state::ending;
      case phase::dead: break;
    }
    return fiber_state::dead;
  }
  // None before it is dead.
  fiber_outcome outcome() const noexcept {
    return phase_ == phase::dead ? outcome_ : fiber_outcome::none;
  }
  std::string_view name() const noexcept;
  place spawned_at() const noexcept { return spawned_at_; }
  // Its next suspend point throws `cancelled`.
  bool cancelled() const noexcept { return innermost_region().cancelled(); }
  bool shutting_down() const noexcept { return innermost_region().shutting_down(); }
  fiber_home& home() const noexcept { return *home_; }
  // False in a forked child, for those of its parent, whose loop is no more.
  inline bool is_of_this_process() const noexcept;

  // The tree. The parent is the fiber whose region this one was spawned in; null for a root.
  fiber_base* parent() const noexcept;
  region& body() noexcept { return *this; }
  const region& body() const noexcept { return *this; }
  // The one it has entered last, of those it has not left; its body where there is none.
  region& innermost_region() noexcept {
    return const_cast<region&>(std::as_const(*this).innermost_region());
  }
  const region& innermost_region() const noexcept {
    if (more_ == 0) [[likely]] return *this;
    const region* const inner = (more_ & is_region) != 0
                                    ? reinterpret_cast<const region*>(more_ & ~is_region)
                                    : cold_part()->innermost;
    return inner == nullptr ? *this : *inner;
  }
  fiber_base* next_sibling() const noexcept;

  // Of a waiting fiber: in what, since when, and at which line.
  const char* waits_for() const noexcept {
    return phase_ == phase::waiting ? op_kind_->name : "";
  }
  void describe_wait(std::string& text) const {
    if (phase_ == phase::waiting && op_kind_->describe != nullptr) {
      op_kind_->describe(op_, text);
    }
  }
  instant since() const noexcept;
  place waits_at() const noexcept;
  // It waits in code on a stack, and not in its innermost coroutine.
  bool waits_on_stack() const noexcept;
  // The innermost coroutine, null when there is none, and whether it is suspended; its callers follow
  // (promise_base::caller).
  promise_base* innermost() const noexcept { return coroutine_; }
  bool suspended() const noexcept { return suspended_; }
  bool has_stack() const noexcept { return stack_ != nullptr; }
  const stack* current_stack() const noexcept { return stack_; }
  // Its body is a plain function.
  bool runs_function() const noexcept { return body_kind().run != nullptr; }
  void waits_on_stack_at(place at) noexcept;
  // What runs is a function that was interjected, and not the body.
  bool is_visited() const noexcept;

  // --- control (lib/fiber/control.cpp); what each verb means is said at the handle's, in fiber.hpp ---

  void cancel() noexcept;
  void cancel_after(duration grace);
  // Its body, or that of its next run, can still be told something.
  bool has_body() const noexcept { return phase_ < phase::over || (control_ & restarting) != 0; }
  bool interrupt(std::exception_ptr what);
  // It is cancelled, and ends with the value in the block; or as it likes.
  void stop() noexcept;
  bool restart();
  bool interject(callback<> visit);
  bool move_to(region& where);
  void move_children_to(region& where);
  bool park();
  bool unpark() noexcept;
  bool parked() const noexcept { return (control_ & is_parked) != 0; }
  bool run_next() noexcept;

  // What other folders keep with it (coir/fiber/attached.hpp). Null: nothing by this key.
  attached* find_attached(const void* key) const noexcept;
  attached& attach(std::unique_ptr<attached> what);

  // Failures of its children that nothing will throw: for handle_base::other_failures().
  void keep_failures(const std::vector<std::exception_ptr>& others) noexcept;
  // A failure is thrown in the place of this cancellation: whoever catches that has not swallowed it.
  void forgive(const coir::cancelled& why) noexcept;
  // What interrupt() gave it and no suspend point has thrown yet.
  std::exception_ptr take_interrupt() noexcept;

  // --- the suspend point (op.hpp, await.hpp) ---

  void check_interrupted() {
    if (interrupted_) [[unlikely]]
      meet_interruption();
  }
  // Runs what was interjected; throws if there is something to throw.
  [[gnu::cold]] void meet_interruption();
  // What interrupt() gave it, or else `cancelled`, with what `why` says of how far the op came.
  [[noreturn, gnu::cold]] void throw_interruption(coir::cancelled why);
  // Starts the op. True: the fiber suspends.
  template <class Op>
  bool begin_wait(Op& what, const op_kind& kind);
  // It waits in nothing and is ready at once, behind the others.
  void begin_yield() noexcept;
  void mark_suspended() noexcept { suspended_ = true; }
  void mark_resumed() noexcept { suspended_ = false; }
  // How the wait that is over ended: nobody asked it to stop; it was asked, and is complete; or it stopped.
  enum class wait_end : std::uint8_t { complete, was_asked, stopped };
  wait_end take_wait_end() noexcept {
    if ((flags_ & (aborted | abort_asked)) == 0) [[likely]]
      return wait_end::complete;
    const bool stopped = (flags_ & aborted) != 0;
    flags_ &= static_cast<std::uint8_t>(~(aborted | abort_asked));
    return stopped ? wait_end::stopped : wait_end::was_asked;
  }

 protected:
  fiber_base(const fiber_kind& kind, fiber_home& home, region& where, place at) noexcept;
  ~fiber_base() = default;

  const fiber_kind& body_kind() const noexcept { return static_cast<const fiber_kind&>(kind()); }

  // What few fibers have.
  struct cold {
    std::string name;
    std::exception_ptr failure;                 // the first: of the body or of a child
    std::vector<std::exception_ptr> failures;   // those that came after it
    std::shared_ptr<const coir::locals> values;  // fiber_local values, shared with children
    std::exception_ptr interrupt;               // to be thrown at the next suspend point
    region* innermost = nullptr;                // null: its body
    struct free_control {
      void operator()(fiber_control* what) const noexcept;
    };
    std::unique_ptr<fiber_control, free_control> control;  // grace, interjected functions, monitors
    std::unique_ptr<coir::attached> attached;              // the latest
  };
  cold& make_cold();  // may throw std::bad_alloc
  // Has values that a child inherits.
  bool has_values() const noexcept {
    if (more_ == 0) [[likely]] return false;
    const cold* const mine = cold_part();
    return mine != nullptr && mine->values != nullptr;
  }
  cold* cold_part() const noexcept {
    return (more_ & is_region) != 0 ? nullptr : reinterpret_cast<cold*>(more_);
  }
  bool keeps_failure() const noexcept {
    if (more_ == 0) [[likely]] return false;
    const cold* const mine = cold_part();
    return mine != nullptr && mine->failure != nullptr;
  }
  bool has_failure() const noexcept { return keeps_failure() || (control_ & failure_lost) != 0; }
  // Of one that failed: the first failure, or that there was no memory to keep it.
  std::exception_ptr failure() const noexcept;

  static void wake(waiter& self) noexcept;
  void set_returned() noexcept {
    outcome_ = fiber_outcome::returned;
    flags_ |= with_value;
  }
  // The block holds a result, whatever became of the fiber.
  bool has_value() const noexcept { return (flags_ & with_value) != 0; }
  void mark_value(bool there) noexcept {
    flags_ = static_cast<std::uint8_t>(there ? flags_ | with_value : flags_ & ~with_value);
  }
  // The body threw.
  void body_failed(std::exception_ptr why) noexcept;

 private:
  friend class entered_region;
  friend class fiber_home;
  friend class fiber_local_access;
  friend class handle_base;
  friend class join_base;
  friend class monitor;
  friend class region;
  friend class runner;
  friend class task_access;

  enum class phase : std::uint8_t { fresh, active, waiting, over, dead };

  // One of its regions, and what it has entered inside up to a shield, is marked with `what`. Returns the
  // innermost that is.
  region* receive(region& outermost, region::flag what, region::hooks& due) noexcept;
  void abort_wait() noexcept;
  // For waits that nothing stops. What was interjected runs before; what interrupt() gave before lets them know.
  [[gnu::cold]] void meet_visits() noexcept;
  [[gnu::cold]] void hurry_rest() noexcept;
  void set_innermost(region* which) noexcept;
  // There is something to throw.
  bool is_interrupted() const noexcept;
  // After anything that it depends on has changed.
  void update_interrupted() noexcept;
  void update_cancelled() noexcept;
  // It parks: limits in time begin to count.
  void begin_limits() noexcept {
    if ((flags_ & with_limit) != 0) [[unlikely]]
      arm_limits();
  }
  void arm_limits() noexcept;
  // Its body is over: nobody in it waits any more, and what is still spawned there will not run.
  void refuse_more() noexcept {
    interrupted_ = true;
    region::state_ |= region::is_cancelled;
  }
  void add_failure(std::exception_ptr why) noexcept;
  fiber_control& make_control();
  fiber_control* control() const noexcept {
    const cold* const mine = cold_part();
    return mine == nullptr ? nullptr : mine->control.get();
  }
  // Its next wake-up goes ahead of what is queued.
  void hasten() noexcept;
  // While one of these lives, the fiber has no stack (lib/fiber/control.hpp).
  class without_stack;
  // Its body is over.
  void tell_attached_end() noexcept {
    if (more_ != 0) [[unlikely]]
      tell_attached(&attached::fiber_over);
  }
  void tell_attached(void (attached::*what)() noexcept) noexcept;
  void run_visits() noexcept;
  void drop_visits() noexcept;
  void hold() noexcept { ++references_; }
  void release() noexcept;

  // The first line of the cache: all that a switch touches. It begins with the waiter and the region, in
  // whose padding the flags lie.
  phase phase_ = phase::fresh;
  bool suspended_ = true;        // the innermost coroutine, not the code around it
  bool interrupted_ = false;     // its next suspend point throws
  enum : std::uint8_t {
    aborted = 1,      // the op it waits in was asked to stop, and answered `now`
    abort_asked = 2,  // ... was asked, whatever it answered; until the fiber takes the result
    report = 4,       // a failure goes to the failure handler, not to the region
    with_value = 8,   // the block holds a result
    taken = 16,       // take() moved it out
    bodyless = 32,    // what the body was made of is destroyed
    with_limit = 64,  // it has entered a region whose limit in time does not count yet
  };
  std::uint8_t flags_ = 0;
  fiber_outcome outcome_ = fiber_outcome::none;
  enum : std::uint8_t {
    stopping = 1,     // cancelled, it ends with the value in the block
    restarting = 2,   // its body begins again when it is over
    is_main = 4,      // of coir::run
    is_parked = 8,
    held_back = 16,   // it would be ready if it were not parked
    hastened = 32,    // its next wake-up goes ahead of what is queued
    with_visits = 64,  // functions were interjected and have not run
    // It has failed, and there was no memory to keep why. Here, and not among the flags, because this byte is
    // looked at when the outcome is settled.
    failure_lost = 128
  };
  std::uint8_t control_ = 0;
  union {
    fiber_base* next_;  // in the run queue, where each begins: who is behind it
    void* op_;          // waiting
  };
  promise_base* coroutine_ = nullptr;
  stack* stack_ = nullptr;  // the one it runs on; null: the thread's own
  fiber_home* home_;

  // The second line.
  const op_kind* op_kind_ = nullptr;
  std::uint32_t since_ms_ = 0;  // of the home's clock, which wraps after 49 days
  std::uint32_t references_ = 2;  // itself, while it lives, and the handle that spawn returns
  std::uint64_t id_;
  // Set by region::add(), which is part of every birth.
  fiber_base* older_;    // of the oldest: the youngest
  fiber_base* younger_;  // of the youngest: null
  place spawned_at_;
  join_base* joiners_ = nullptr;  // the oldest
  // The innermost region it has entered, with the low bit set; or its cold block, which then has that.
  static constexpr std::uintptr_t is_region = 1;
  std::uintptr_t more_ = 0;
};

static_assert(sizeof(fiber_base) == 128, "two lines of the cache");

// The fiber that runs, for code that cannot go on without one.
[[noreturn, gnu::cold]] void throw_no_fiber();
inline fiber_base& running_fiber() {
  fiber_base* const self = current_fiber;
  if (self == nullptr) [[unlikely]]
    throw_no_fiber();
  return *self;
}

}  // namespace coir
