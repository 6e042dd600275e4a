// coir/sync/barrier.hpp: so many fibers go on together, again and again.
//
//   coir::barrier all(4);
//   if (co_await all.arrive_and_wait()) write_down(step);     // true: this one came last
//                                                             [tests/sync/barrier_test.cpp]
//
// Shape    an object that is neither copied nor moved.
// Order    the last to arrive goes on at once, and wakes the others in the order in which they came. Whoever arrives then
//          is the first of the next round.
// Thread   one loop.
// Lifetime those who still wait when it goes wait until they are cancelled.
// Cancel   aborts now, and takes the arrival back: one more has to come. One whose round is complete goes on, and is
//          cancelled at its next suspend point.
// Errors   std::logic_error for a barrier for nobody.
// Cost     O(number of waiters) for the last, O(1) for the others. No allocation.
// See      coir/sync/latch.hpp: once; coir/scope/nursery.hpp
#pragma once

#include <coir/fiber/op.hpp>
#include <coir/sync/wait_list.hpp>

#include <cstddef>
#include <cstdint>
#include <string>

namespace coir {

struct barrier_stats {
  std::uint64_t rounds = 0;     // complete
  std::uint64_t cancelled = 0;  // arrivals taken back
  std::size_t waiting = 0;
};

class barrier {
 public:
  class [[nodiscard("co_await it, or coir::await(it)")]] barrier_op : public wait_node {
   public:
    static constexpr const char* name = "barrier";
    explicit barrier_op(barrier& of) noexcept : of_(&of) {}

    bool start(waiter& told) noexcept;
    abort_answer abort() noexcept;
    // This one came last.
    bool take() const noexcept { return last_; }
    void describe(std::string& text) const;

    // With its arrival: the ops of one select do not make a round of their own.
    void step_aside() noexcept;
    void step_back() noexcept;

   private:
    barrier* of_;
    bool last_ = false;
  };

  explicit barrier(std::size_t count);
  barrier(const barrier&) = delete;
  barrier& operator=(const barrier&) = delete;

  barrier_op arrive_and_wait() noexcept { return barrier_op(*this); }
  std::size_t count() const noexcept { return count_; }
  barrier_stats stats() const noexcept;

 private:
  std::size_t count_;
  std::size_t arrived_ = 0;
  wait_list<barrier_op> waiting_;
  priv::loop_bound bound_;
  barrier_stats stats_;
};

}  // namespace coir
