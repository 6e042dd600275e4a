// coir/fiber/region.hpp: the node of the tree of who lives inside whom.
//
// Every fiber belongs to the region it was spawned in. A fiber's body is a region; scopes and nurseries are
// further ones, which a fiber enters and leaves (entered_region). This file has the node and how a
// cancellation spreads; what comes of it is decided by whoever owns the region (coir/scope, and
// coir/fiber/scheduler.hpp for bodies).
//
//     body of fiber 1 <- scope <- nursery    (parent(); fiber 1 runs in the nursery, its innermost region)
//                          |         +-- fiber 3, whose body is a region
//                          +-- fiber 2, ...
//
// Shape    17 bytes in its owner: the enclosing region, the children, flags.
// Order    children are cancelled in the order in which they were spawned, the innermost region's first.
// Thread   one loop.
// Cancel   cancel() is level-triggered: it stays, and reaches children spawned later. It stops at shields.
// Errors   none.
// Cost     adding and removing a child O(1); cancel() touches each fiber below once, without recursion.
// See      coir/scope/cancel_scope.hpp, coir/fiber/fiber.hpp; lib/fiber/NOTE.md
#pragma once

#include <coir/base/assert.hpp>
#include <coir/base/time.hpp>
#include <coir/loop/timer_heap.hpp>
#include <coir/loop/waiter.hpp>

#include <algorithm>
#include <cstdint>
#include <exception>
#include <utility>
#include <vector>

namespace coir {

class entered_region;
class fiber_base;

class region {
 public:
  explicit region(region* parent, bool body = false) noexcept
      : parent_(parent), state_(body ? body_of_fiber : 0) {}
  region(const region&) = delete;
  region& operator=(const region&) = delete;
  ~region() { COIR_ASSERT(children_ == nullptr, "a region ended before its children"); }

  // The region this one is inside of; null for a scheduler's root.
  region* parent() const noexcept { return parent_; }
  // The fiber that runs in it: whose body it is, or who entered it. Null for a root, and before it is entered.
  fiber_base* fiber() noexcept;
  // It was cancelled itself, or something around it was, and no shield is between.
  bool cancelled() const noexcept { return (state_ & is_cancelled) != 0; }
  // It was cancelled itself.
  bool cancel_requested() const noexcept { return (state_ & requested) != 0; }
  // It is to come to an end by itself: what cancel(grace) asks for before it cancels.
  bool shutting_down() const noexcept { return (state_ & winding_down) != 0; }
  bool shielded() const noexcept { return (state_ & shield) != 0; }
  bool empty() const noexcept { return children_ == nullptr; }

  // The oldest child; the others follow it (fiber_base::next_sibling).
  fiber_base* first_child() const noexcept { return children_; }

  void add(fiber_base& child) noexcept;
  void remove(fiber_base& child) noexcept;
  // Cancels everything inside. What the region's own fiber does about it is its owner's business.
  void cancel() noexcept;
  // Asks everything inside to come to an end.
  void shut_down() noexcept;

 protected:
  friend class entered_region;
  friend class fiber_base;
  friend class fiber_home;

  enum flag : std::uint8_t {
    body_of_fiber = 1,  // base of a fiber_base, whose body it is
    requested = 2,
    is_cancelled = 4,
    winding_down = 8,
    shield = 16,       // what is around it cannot cancel what is in it
    told = 32,         // its fiber got `cancelled` because of it
    swallowed = 64,    // ... and went on waiting: reported once
    by_entering = 128,  // base of an entered_region
  };
  // Regions whose hooks are due once everything is marked: a hook is code of a user, who looks around.
  struct hooks {
    entered_region* first = nullptr;
    entered_region** end = &first;
  };
  bool is_body() const noexcept { return (state_ & body_of_fiber) != 0; }
  void spread(flag what) noexcept;
  void mark(flag what, hooks& due) noexcept;

  region* parent_;
  fiber_base* children_ = nullptr;  // the oldest; its older_sibling_ is the youngest
  std::uint8_t state_;
};

// A region that the running fiber enters and leaves: what scopes and nurseries are made of. It has a limit in
// time, which becomes a deadline when its fiber first parks in it: as long as all is ready at once, no clock is
// read and no timer armed.
// Its timer is a base, so that the way from there to the region is a cast.
class entered_region : public region, private timer_node {
 public:
  entered_region() noexcept : region(nullptr), timer_node(expire) { state_ = by_entering; }
  ~entered_region() { COIR_ASSERT(fiber_ == nullptr, "a region was destroyed while a fiber was in it"); }

  // Whether it was entered and is not left.
  bool entered() const noexcept { return fiber_ != nullptr; }
  // Whether it was ever entered: it is, once.
  bool was_entered() const noexcept { return was_entered_; }
  void enter(fiber_base& self) noexcept;
  // Its children have ended, and it is the innermost.
  void leave() noexcept;

  // Counted from when the fiber first parks in it; `duration::max()`: none.
  void limit(duration from_parking) { set_limit(from_parking != duration::max(), from_parking, never); }
  void deadline(instant at) { set_limit(false, {}, at); }
  // `never` while there is none, or while it is not known yet.
  instant deadline() const noexcept { return std::min(deadline_, grace_end_); }
  // It was cancelled by its deadline.
  bool expired() const noexcept { return expired_; }

  // Asks what is inside to come to an end, and cancels it when this time is over.
  void cancel_after(duration grace);
  // Left, it stays as it was.
  void cancel() noexcept {
    if (is_over()) return;
    only_rest_ = false;
    region::cancel();
    tell();
  }
  bool cancelled() const noexcept { return region::cancelled() && !only_rest_; }

  // The body is over: what is left inside is cancelled, and what comes is; but the region does not count as
  // cancelled for it.
  void cancel_rest() noexcept;

  // From now on what is around it cannot cancel it, or can again.
  void set_shield(bool on) noexcept;

  // The body of the region, or a child, threw: what is inside is cancelled.
  void fail(std::exception_ptr why) noexcept;
  // Without one of its children the others are of no use: a child that is cancelled by itself cancels them.
  void need_all() noexcept { needs_all_ = true; }
  // A child has ended.
  void child_ended(bool was_cancelled) noexcept {
    if (was_cancelled) lose_child();
    if (told_ != nullptr && empty()) std::exchange(told_, nullptr)->done();
  }
  // What is around it cancelled a child before its end.
  bool lost_child() const noexcept { return lost_child_ && !cancel_requested(); }
  void tell_when_empty(waiter& whom) noexcept { told_ = &whom; }

  // The first failure, and those that came after it.
  const std::exception_ptr& failure() const noexcept { return failure_; }
  const std::vector<std::exception_ptr>& other_failures() const noexcept { return other_failures_; }
  // For the body's `cancelled`: is it because of this region?
  bool is_own(const void* origin) const noexcept {
    // An exception that was kept may be older than the region, and name another that lay where it lies.
    return origin == static_cast<const region*>(this) && cancel_requested();
  }

  // Called when it is asked to end, and when it is cancelled, whoever did it; by then its fibers know. It may
  // be called again without news.
  using told_hook = void (*)(entered_region&) noexcept;
  void on_told(told_hook what) noexcept { on_told_ = what; }

 private:
  friend class fiber_base;
  friend class region;

  static void expire(timer_node& mine);
  bool is_over() const noexcept { return was_entered_ && fiber_ == nullptr; }
  bool has_limit() const noexcept {
    return relative_ || deadline_ != never || grace_ != duration::max() || grace_end_ != never;
  }
  void enter_marked() noexcept;
  void set_limit(bool relative, duration from_parking, instant at);
  void arm(instant now);
  void lose_child() noexcept;
  // It is about to be marked with `what`.
  void queue_hook(flag what, hooks& due) noexcept;
  void tell() noexcept {
    if (on_told_ != nullptr) [[unlikely]]
      call_hook();
  }
  // It must not wait: whoever tells goes on with regions that may be gone by then.
  void call_hook() noexcept;

  bool was_entered_ = false;
  bool expired_ = false;
  bool lost_child_ = false;
  bool needs_all_ = false;
  bool only_rest_ = false;
  bool resting_ = false;  // cancel_rest() is at it
  bool queued_ = false;  // its hook is due
  // There is a limit which does not count yet. It becomes the deadline, unless that is sooner.
  bool relative_ = false;
  // Exceptions that were unwinding the fiber's stack when it was entered, by a destructor.
  std::uint8_t in_flight_ = 0;
  instant deadline_ = never;
  duration limit_{};
  // What cancel_after() gave, which a deadline that is moved does not take back: counted from parking, then its end.
  duration grace_ = duration::max();
  instant grace_end_ = never;
  fiber_base* fiber_ = nullptr;
  waiter* told_ = nullptr;
  told_hook on_told_ = nullptr;
  entered_region* next_unarmed_ = nullptr;
  entered_region* next_told_ = nullptr;
  std::exception_ptr failure_;
  std::vector<std::exception_ptr> other_failures_;
};

}  // namespace coir
