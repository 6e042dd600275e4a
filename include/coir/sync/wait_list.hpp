// coir/sync/wait_list.hpp: who waits for something of this loop, in order: what every lock and channel stands on.
//
//   class [[nodiscard]] turn_op : public coir::wait_node { ... bool start(coir::waiter& told) {
//     if (of_->free) { of_->free = false; return false; }
//     of_->waiting.add(*this, told);
//     return true;
//   } coir::abort_answer abort() noexcept { return leave(); } ... };
//   coir::wait_list<turn_op> waiting;
//   if (!waiting.empty()) waiting.wake_first();               [tests/sync/wait_list_test.cpp]
//
// Whoever wakes a waiter first gives it what it waited for: the lock, the value, the permit. From then on that is
// the waiter's, whatever happens to its fiber: a cancellation that comes between the wake-up and the fiber's run
// finds an op that is complete, the fiber gets what it was given, and is cancelled at its next suspend point. So a
// wake-up is never lost, and nobody who comes later can take it away.
//
// Shape    a ring of nodes; a node is a base of the op and lives in the frame that waits. 24 bytes a node.
// Order    first come, first served.
// Thread   one loop, the first that used it, for as long as that lives: another is an assertion that names both.
// Lifetime whoever still waits when the list goes (children of a body whose local it was) waits until it is cancelled.
// Cancel   leave() answers now as long as nobody has woken the node.
// Errors   none.
// Cost     O(1) for all but size() and place_of(), which count. No allocation.
// See      coir/fiber/op.hpp; lib/sync/NOTE.md
#pragma once

#include <coir/base/list.hpp>
#include <coir/fiber/loop_bound.hpp>
#include <coir/loop/waiter.hpp>

#include <cstddef>
#include <utility>

namespace coir {

class wait_node : public list_node {
 public:
  // It hangs in a list.
  bool waiting() const noexcept { return linked(); }

  // Nobody meets it until it is back, in its place: the ops of one select do not meet each other (select.hpp).
  using list_node::step_aside;
  using list_node::step_back;

 protected:
  wait_node() noexcept = default;
  ~wait_node() = default;
  wait_node(const wait_node&) noexcept : list_node() {}
  wait_node& operator=(const wait_node&) = delete;

  // An op's abort(). After a wake-up: what it was given stays its own.
  abort_answer leave() noexcept {
    if (told_ == nullptr) return abort_answer::later;
    unlink();
    told_ = nullptr;
    return abort_answer::now;
  }

 private:
  template <class Op>
  friend class wait_list;
  waiter* told_ = nullptr;  // until it is woken or leaves; kept when its list goes
};

namespace priv {

// Whoever waits behind so many says no more than that in a report: those in front have said what there is to say, and
// to find it out for each of 20,000 took 8 s.
inline constexpr std::size_t places_told = 100;

}  // namespace priv

template <class Op>
class wait_list {
 public:
  wait_list() noexcept = default;
  wait_list(const wait_list&) = delete;
  wait_list& operator=(const wait_list&) = delete;
  ~wait_list() {
    while (!waiting_.empty()) waiting_.pop_front();
  }

  bool empty() const noexcept { return waiting_.empty(); }
  // O(n): for those who look, not for those who wait.
  std::size_t size() const noexcept {
    std::size_t count = 0;
    waiting_.for_each([&](const Op&) { ++count; });
    return count;
  }
  // So many are in front of it, or places_told if it is more.
  std::size_t place_of(const Op& one) const noexcept {
    std::size_t before = 0;
    for (const Op* at = &front(); at != &one && before != priv::places_told; at = after(*at)) ++before;
    return before;
  }
  Op& front() const noexcept { return waiting_.front(); }
  Op* after(const Op& one) const noexcept { return waiting_.after(one); }

  void add(Op& who, waiter& told) noexcept {
    static_cast<wait_node&>(who).told_ = &told;
    waiting_.push_back(who);
  }
  // Gives `who` the wake-up: it was given what it waited for.
  static void wake(Op& who) noexcept {
    wait_node& node = who;
    node.unlink();
    std::exchange(node.told_, nullptr)->done();
  }
  Op& wake_first() noexcept {
    Op& first = waiting_.front();
    wake(first);
    return first;
  }
  void wake_all() noexcept {
    while (!waiting_.empty()) wake_first();
  }
  template <class Visit>
  void for_each(Visit&& visit) const {
    waiting_.for_each(std::forward<Visit>(visit));
  }

 private:
  list<Op> waiting_;
};

}  // namespace coir
