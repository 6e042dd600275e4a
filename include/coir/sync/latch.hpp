// coir/sync/latch.hpp: a gate that opens, for good, when so many things have happened.
//
//   coir::latch loaded(3);
//   co_await loaded.wait();
//   // and in each of three:  loaded.count_down();   or: co_await loaded.arrive_and_wait();
//                                                             [tests/sync/latch_test.cpp]
//
// Shape    an object that is neither copied nor moved.
// Order    all who wait are woken when the count comes to nothing, in the order in which they came.
// Thread   one loop.
// Lifetime those who still wait when it goes wait until they are cancelled.
// Cancel   aborts now; that of arrive_and_wait() takes the arrival back. One that was woken already goes on, and is
//          cancelled at its next suspend point.
// Errors   std::logic_error for more arrivals than were expected.
// Cost     O(1), for the last O(number of waiters). No allocation.
// See      coir/sync/barrier.hpp: again and again; coir/sync/event.hpp
#pragma once

#include <coir/fiber/op.hpp>
#include <coir/sync/wait_list.hpp>

#include <cstddef>
#include <cstdint>
#include <string>

namespace coir {

struct latch_stats {
  std::uint64_t waited = 0;     // those that came before it was open
  std::uint64_t cancelled = 0;  // of those
  std::size_t waiting = 0;
};

class latch {
 public:
  class [[nodiscard("co_await it, or coir::await(it)")]] latch_op : public wait_node {
   public:
    static constexpr const char* name = "latch";
    latch_op(latch& of, std::size_t arrivals) noexcept : of_(&of), arrivals_(arrivals) {}

    bool start(waiter& told);
    abort_answer abort() noexcept;
    void take() noexcept {}
    void describe(std::string& text) const;

   private:
    latch* of_;
    std::size_t arrivals_;  // of its own
  };

  explicit latch(std::size_t count) noexcept : left_(count) {}
  latch(const latch&) = delete;
  latch& operator=(const latch&) = delete;

  void count_down(std::size_t arrivals = 1);
  latch_op wait() noexcept { return latch_op(*this, 0); }
  latch_op arrive_and_wait(std::size_t arrivals = 1) noexcept { return latch_op(*this, arrivals); }
  bool is_open() const noexcept { return left_ == 0; }
  // How many have to come.
  std::size_t left() const noexcept { return left_; }
  latch_stats stats() const noexcept;

 private:
  std::size_t left_;
  wait_list<latch_op> waiting_;
  priv::loop_bound bound_;
  latch_stats stats_;
};

}  // namespace coir
