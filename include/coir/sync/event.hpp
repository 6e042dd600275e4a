// coir/sync/event.hpp: a gate for any number of fibers: shut until somebody opens it.
//
//   coir::event started;
//   co_await started.wait();                    // at once when it is set
//   // and elsewhere:  started.set();
//                                                             [tests/sync/event_test.cpp]
//
// Shape    an object that is neither copied nor moved.
// Order    set() wakes all who waited at that moment, in the order in which they came; a reset() right after it takes
//          that from none of them.
// Thread   one loop.
// Lifetime those who still wait when it goes wait until they are cancelled.
// Cancel   aborts now. One that was woken already goes on, and is cancelled at its next suspend point.
// Errors   none.
// Cost     waiting where it is set: 4 ns. set() O(number of waiters). No allocation.
// See      coir/sync/condition.hpp, coir/sync/latch.hpp
#pragma once

#include <coir/fiber/op.hpp>
#include <coir/sync/wait_list.hpp>

#include <cstddef>
#include <cstdint>
#include <string>

namespace coir {

struct event_stats {
  std::uint64_t sets = 0;       // from shut to open
  std::uint64_t waited = 0;     // those that came when it was shut
  std::uint64_t cancelled = 0;  // of those
  std::size_t waiting = 0;
};

class event {
 public:
  class [[nodiscard("co_await it, or coir::await(it)")]] gate_op : public wait_node {
   public:
    static constexpr const char* name = "event";
    explicit gate_op(event& of) noexcept : of_(&of) {}

    bool start(waiter& told) noexcept {
      of_->bound_.check();
      if (of_->set_) return false;
      ++of_->stats_.waited;
      of_->waiting_.add(*this, told);
      return true;
    }
    abort_answer abort() noexcept {
      if (linked()) ++of_->stats_.cancelled;
      return leave();
    }
    void take() noexcept {}
    void describe(std::string& text) const;

   private:
    event* of_;
  };

  event() noexcept = default;
  event(const event&) = delete;
  event& operator=(const event&) = delete;

  gate_op wait() noexcept { return gate_op(*this); }
  void set() noexcept {
    bound_.check();
    if (set_) return;
    set_ = true;
    ++stats_.sets;
    waiting_.wake_all();
  }
  void reset() noexcept {
    bound_.check();
    set_ = false;
  }
  bool is_set() const noexcept { return set_; }
  event_stats stats() const noexcept;

 private:
  wait_list<gate_op> waiting_;
  priv::loop_bound bound_;
  bool set_ = false;
  event_stats stats_;
};

}  // namespace coir
