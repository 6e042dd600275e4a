// coir/fiber/fiber_base.hpp: the control block of a fiber: everything that is the same for all of them.
//
// Users meet it as fiber<T> (coir/fiber/fiber.hpp). Here is who may touch what, and when.
//
// States, and who moves a fiber to the next:
//   fresh    spawned, in the run queue, its body not begun      scheduler::run      -> running
//   running  the one fiber that runs on this loop               begin_wait          -> waiting
//                                                               its body is over    -> ending
//   waiting  in an op; op_ and op_kind_ say which               wake (done, abort)  -> ready
//   ready    in the run queue                                   scheduler::run      -> running
//   ending   its body is over, its children are not             last child          -> ready queue -> dead
//   dead     its result can be read; only handles keep it
//
// References: one for being alive, one for each handle. The last one frees the block.
//
// Shape    144 bytes, then the result. What few fibers need (name, locals, failures) is a cold block made
//          on first use.
// Thread   one loop. Nothing here is atomic.
// Errors   none of its own.
// Cost     every function here is a few instructions, inline.
// See      coir/fiber/scheduler.hpp; lib/fiber/NOTE.md
#pragma once

#include <coir/base/assert.hpp>
#include <coir/base/config.hpp>
#include <coir/base/error.hpp>
#include <coir/base/list.hpp>
#include <coir/base/place.hpp>
#include <coir/base/time.hpp>
#include <coir/fiber/region.hpp>
#include <coir/loop/loop.hpp>
#include <coir/loop/waiter.hpp>

#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace coir {

class fiber_base;
class fiber_home;
class join_base;
class promise_base;
class stack;
class locals;

enum class fiber_state : std::uint8_t { fresh, running, waiting, ready, ending, dead };
enum class fiber_outcome : std::uint8_t { none, returned, failed, cancelled };

const char* name_of(fiber_state state) noexcept;

// What is known of every op of a type.
struct op_kind {
  const char* name;
  abort_answer (*abort)(void* op) noexcept;
  // Adds to a text what exactly is waited for; null where the name says it all.
  void (*describe)(const void* op, std::string& text);
};

// What is known of every fiber with the same kind of body.
struct fiber_kind : waiter_kind {
  // Makes the coroutine, where a factory does; null for all other bodies.
  void (*begin)(fiber_base&);
  // Runs a plain function on the fiber's stack; null for coroutines.
  void (*run)(fiber_base&) noexcept;
  // The body is over: moves the result of a coroutine into the block; null for plain functions.
  void (*collect)(fiber_base&) noexcept;
  // Destroys what the body was made of: frame, callable.
  void (*end)(fiber_base&) noexcept;
  // Destroys the block.
  void (*destroy)(fiber_base&) noexcept;
  std::size_t bytes;  // of the block
};

constinit extern thread_local fiber_base* current_fiber COIR_TLS;

// Its body is a region; as a base class, so that the way from a region to the fiber is a cast.
class fiber_base : public waiter, private region {
 public:
  fiber_base(const fiber_base&) = delete;

  std::uint64_t id() const noexcept { return id_; }
  fiber_state state() const noexcept { return state_; }
  fiber_outcome outcome() const noexcept { return outcome_; }
  std::string_view name() const noexcept;
  place spawned_at() const noexcept { return spawned_at_; }
  bool cancelled() const noexcept { return cancel_pending_; }
  fiber_home& home() const noexcept { return *home_; }

  // The tree. The parent is the fiber whose region this one was spawned in; null for a root.
  fiber_base* parent() const noexcept;
  region& body() noexcept { return *this; }
  const region& body() const noexcept { return *this; }
  fiber_base* next_sibling() const noexcept;

  // Of a waiting fiber: in what, since when, and at which line.
  const char* waits_for() const noexcept {
    return state_ == fiber_state::waiting ? op_kind_->name : "";
  }
  void describe_wait(std::string& text) const {
    if (state_ == fiber_state::waiting && op_kind_->describe != nullptr) {
      op_kind_->describe(op_, text);
    }
  }
  instant since() const noexcept { return since_; }
  place waits_at() const noexcept;
  // The innermost coroutine, null when there is none, and whether it is suspended; its callers follow
  // (promise_base::caller).
  promise_base* innermost() const noexcept { return coroutine_; }
  bool suspended() const noexcept { return suspended_; }
  bool has_stack() const noexcept { return stack_ != nullptr; }
  const stack* current_stack() const noexcept { return stack_; }
  void waits_on_stack_at(place at) noexcept;

  // Level-triggered: the body gets `cancelled` at its suspend points, as do all fibers inside it.
  void cancel() noexcept;

  // --- the suspend point (op.hpp, await.hpp) ---

  void check_cancelled() const {
    if (cancel_pending_) [[unlikely]]
      throw coir::cancelled();
  }
  // Before start(), which may already tell that the op is done (a yield does).
  void begin_wait(void* op, const op_kind& kind) noexcept {
    op_ = op;
    op_kind_ = &kind;
    since_ = turn_time();
  }
  // start() answered true. Always true: the fiber suspends.
  bool end_start() noexcept {
    if (state_ == fiber_state::running) state_ = fiber_state::waiting;
    return true;
  }
  // start() answered false: the op is over. True: the fiber has had its share and suspends all the same.
  bool end_wait_at_once() noexcept {
    if (--budget_ != 0) [[likely]]
      return false;
    yield_after_completion();
    return true;
  }
  void mark_suspended() noexcept { suspended_ = true; }
  void mark_resumed() noexcept { suspended_ = false; }
  bool take_aborted() noexcept {
    if (!aborted_) [[likely]]
      return false;
    aborted_ = false;
    return true;
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
  };
  cold& make_cold();  // may throw std::bad_alloc
  const cold* cold_part() const noexcept { return cold_.get(); }

  static void wake(waiter& self) noexcept;
  void set_returned() noexcept {
    outcome_ = fiber_outcome::returned;
    has_value_ = true;
  }
  // The block holds a result, whatever became of the fiber.
  bool has_value() const noexcept { return has_value_; }
  // The body threw.
  void body_failed(std::exception_ptr why) noexcept;

 private:
  friend class fiber_home;
  friend class fiber_local_access;
  friend class handle_base;
  friend class join_base;
  friend class promise_base;
  friend class region;
  friend class scheduler;
  friend class stack;
  friend class task_access;

  instant turn_time() const noexcept;
  void yield_after_completion() noexcept;
  void receive_cancel() noexcept;
  void add_failure(std::exception_ptr why) noexcept;
  void hold() noexcept { ++references_; }
  void release() noexcept;

  union {
    fiber_base* next_ = nullptr;  // fresh, ready: behind it in the run queue
    void* op_;                    // waiting
  };
  const op_kind* op_kind_ = nullptr;
  promise_base* coroutine_ = nullptr;
  stack* stack_ = nullptr;     // the one it runs on; null: the thread's own
  void* context_ = nullptr;    // where that stack stopped
  fiber_home* home_;
  std::uint64_t id_;
  instant since_{};
  fiber_base* older_ = nullptr;    // of the oldest: the youngest
  fiber_base* younger_ = nullptr;  // of the youngest: null
  place spawned_at_;
  join_base* joiners_ = nullptr;  // the oldest
  std::unique_ptr<cold> cold_;
  std::uint32_t references_ = 1;
  std::uint16_t budget_ = 0;
  fiber_state state_ = fiber_state::fresh;
  fiber_outcome outcome_ = fiber_outcome::none;
  bool cancel_pending_ = false;  // itself or something around it, and no shield between
  bool abort_asked_ = false;  // the op it waits in was asked to stop, and answered `later`
  bool aborted_ = false;      // it answered `now`
  bool transfer_ = false;     // its next coroutine, or the stack below, is to be resumed at once
  bool suspended_ = true;
  bool report_ = false;     // a failure goes to the failure handler, not to the region
  bool has_value_ = false;
  bool collected_ = false;  // take() moved the result out
};

// The fiber that runs, for code that cannot go on without one.
[[noreturn, gnu::cold]] void throw_no_fiber();
inline fiber_base& running_fiber() {
  fiber_base* const self = current_fiber;
  if (self == nullptr) [[unlikely]]
    throw_no_fiber();
  return *self;
}

}  // namespace coir
