// coir/sync/condition.hpp: waiting, with a lock in hand, until somebody says that things have changed.
//
//   auto held = co_await m.lock();
//   co_await changed.wait(held, [&] { return !jobs.empty(); });
//   // and elsewhere:  jobs.push_back(job);   changed.notify_one();
//                                                             [tests/sync/condition_test.cpp]
//
// wait(held) unlocks the mutex while it waits, and has locked it again before it returns, and before any exception
// leaves it: a guard that went into a wait with the lock comes out of it with the lock.
//
// Shape    an object that is neither copied nor moved. wait(held) is an op; with a predicate it is a task, and
//          returns when that is true. Each wait may have another mutex.
// Order    who waits longest is notified first; those that were notified queue up for the mutex with all others.
// Thread   one loop.
// Lifetime those who still wait when the condition or the mutex goes wait until they are cancelled. A guard whose mutex
//          has gone comes out without a lock. A guard stays where it is while it waits.
// Cancel   gives up the place at once, and then waits for the mutex, which nothing shortens. A waiter that was notified
//          before returns as if nothing had happened, and is cancelled at its next suspend point: a notification is
//          never lost, and one that comes after the time was over goes to another.
// Errors   std::logic_error for a guard that has no lock, or one of another fiber. What the predicate throws. A select()
//          of a wait and of the lock() of the same mutex waits for itself when the lock wins: a deadlock, and reported.
// Cost     wait and notify: two hand-overs. No allocation; with a predicate one coroutine's frame.
// See      coir/sync/mutex.hpp, coir/sync/event.hpp; lib/sync/NOTE.md
#pragma once

#include <coir/base/config.hpp>
#include <coir/base/error.hpp>
#include <coir/base/place.hpp>
#include <coir/fiber/op.hpp>
#include <coir/fiber/task.hpp>
#include <coir/scope/inside.hpp>
#include <coir/sync/mutex.hpp>
#include <coir/sync/wait_list.hpp>

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>

namespace coir {

struct condition_stats {
  std::uint64_t waited = 0;
  std::uint64_t notified = 0;   // of those
  std::uint64_t cancelled = 0;  // or out of time
  std::size_t waiting = 0;
};

class condition {
 public:
  class [[nodiscard("co_await it, or coir::await(it)")]] condition_op : public wait_node {
   public:
    static constexpr const char* name = "condition";
    // One that was notified and is stopped before it has the mutex has succeeded (select.hpp).
    static constexpr bool succeeds_late = true;
    condition_op(condition& of, mutex::held& guard, place at) noexcept : of_(&of), guard_(&guard), back_(at) {}

    bool start(waiter& told);
    abort_answer abort() noexcept;
    void take() {
      if (stopped_) throw cancelled();
    }
    void describe(std::string& text) const;

   private:
    friend class condition;
    // Its place among those who want the lock, when the wait is over; until then, among those who are absent.
    class way_back : public mutex::turn {
     public:
      explicit way_back(place at) noexcept : turn(nullptr, at) {}
      friend class condition_op;
      friend class condition;
    };

    condition* of_;
    mutex::held* guard_;
    waiter* told_ = nullptr;
    way_back back_;
    bool notified_ = false;
    bool stopped_ = false;
  };

  condition() noexcept = default;
  condition(const condition&) = delete;
  condition& operator=(const condition&) = delete;

  condition_op wait(mutex::held& guard, place at = here::current()) noexcept { return condition_op(*this, guard, at); }
  template <class Predicate>
    requires std::predicate<std::remove_reference_t<Predicate>&>
  task<> wait(mutex::held& guard, Predicate&& holds, place at = here::current()) {
    static_assert(priv::safe_in_await<Predicate>,
                  "gcc before 13 destroys the captures of a temporary in a co_await expression twice. "
                  "Name the predicate first: auto holds = [...] {...}; co_await changed.wait(held, holds);");
    return wait_until<std::decay_t<Predicate>>(guard, std::forward<Predicate>(holds), at);
  }
  // False: nobody waited.
  bool notify_one() noexcept;
  // How many waited.
  std::size_t notify_all() noexcept;
  condition_stats stats() const noexcept;

 private:
  template <class Predicate>
  task<> wait_until(mutex::held& guard, Predicate holds, place at) {
    while (!holds()) {
      co_await wait(guard, at);
    }
  }

  wait_list<condition_op> waiting_;
  priv::loop_bound bound_;
  condition_stats stats_;
};

}  // namespace coir
