// coir/loop/timer_heap.hpp: something to do at an instant, and the heap of all such instants.
//
//   coir::timer_node wake([](coir::timer_node&) noexcept { ... });
//   loop.arm(wake, coir::after(loop.time(), 250ms));   loop.disarm(wake);   [tests/loop/timer_heap_test.cpp]
//
// The bottom layer: sleeping fibers and deadlines are made of it.
//
// Shape    a timer is 16 bytes in its owner; the heap keeps 24 bytes for each armed one.
// Order    by deadline; equal deadlines in the order in which they were armed (moving one counts as
//          arming it again). A timer armed while timers fire waits for a later turn, also when it is due.
// Thread   the loop's.
// Cancel   disarm(): O(log n), no allocation; also from another timer that fires in the same turn.
// Errors   arm() throws std::bad_alloc when the heap cannot grow, and has then done nothing.
// Cost     arm, move, disarm O(log n) with a base of four; 1,000,000 outstanding are tested. Nothing
//          fires early; how late is the kernel's doing and that of the turn's other work.
// See      coir/loop/loop.hpp; coir/fiber/sleep.hpp
#pragma once

#include <coir/base/assert.hpp>
#include <coir/base/time.hpp>

#include <cstddef>
#include <cstdint>
#include <vector>

namespace coir {

class timer_node {
 public:
  using action = void (*)(timer_node&);

  explicit constexpr timer_node(action fire) noexcept : fire_(fire) {}
  // Movable until it is armed, like all that waits.
  timer_node(timer_node&& other) noexcept : fire_(other.fire_) {
    COIR_ASSERT(!other.armed(), "an armed timer was moved");
  }
  timer_node& operator=(timer_node&&) = delete;
  ~timer_node() { COIR_ASSERT(!armed(), "an armed timer was destroyed"); }

  bool armed() const noexcept { return where_ != nowhere; }

 private:
  friend class timer_heap;
  static constexpr std::uint32_t nowhere = ~std::uint32_t{0};

  action fire_;
  std::uint32_t where_ = nowhere;  // index in the heap or, when due_, among the due
  bool due_ = false;
};

class timer_heap {
 public:
  timer_heap() noexcept = default;
  timer_heap(const timer_heap&) = delete;
  // What is still armed will not fire any more; it may outlive the heap.
  ~timer_heap() { clear(); }
  // Whatever is in it is armed no more.
  void clear() noexcept;

  // Both also move a timer that is armed already.
  void arm(timer_node& which, instant deadline);
  // False when it was not armed: it has fired, or never was.
  bool disarm(timer_node& which) noexcept;

  bool empty() const noexcept { return size() == 0; }
  std::size_t size() const noexcept { return heap_.size() + due_left_; }
  // When the loop must next look here; `never` when there is nothing.
  instant next() const noexcept {
    if (due_left_ != 0) return instant::min();
    return heap_.empty() ? never : heap_.front().deadline;
  }

  // Collects what is due at `now`, at most `limit` timers; nothing while there is something collected before.
  // Collected first and fired afterwards: what a timer arms, due or not, waits for the next turn, and a
  // timer may disarm its neighbours.
  void collect(instant now, std::size_t limit);
  // Fires the first of those collected. False: there was none. What it throws leaves here.
  bool fire_next();

 private:
  struct entry {
    instant deadline;
    std::uint64_t sequence;
    timer_node* which;
    bool before(const entry& other) const noexcept {
      return deadline != other.deadline ? deadline < other.deadline : sequence < other.sequence;
    }
  };

  void sift_up(std::size_t hole, entry moved) noexcept;
  void sift_down(std::size_t hole, entry moved) noexcept;
  void remove(std::size_t at) noexcept;
  void put(std::size_t at, const entry& what) noexcept {
    heap_[at] = what;
    what.which->where_ = static_cast<std::uint32_t>(at);
  }

  std::vector<entry> heap_;
  std::vector<timer_node*> due_;  // collected, not yet fired; disarmed ones are null
  std::size_t due_at_ = 0;
  std::size_t due_left_ = 0;  // those behind due_at_ that are not null
  std::uint64_t sequence_ = 0;
};

}  // namespace coir
