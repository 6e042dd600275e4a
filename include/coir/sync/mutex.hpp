// coir/sync/mutex.hpp: a lock that fibers of one loop wait for.
//
//   coir::mutex m;
//   auto held = co_await m.lock();              // or coir::await(m.lock())
//   co_await peer.read_some(buffer);            // nobody else is in here meanwhile
//   held.unlock();                              // or the end of the block
//                                                             [tests/sync/mutex_test.cpp]
//
// Fibers of a loop do not run at the same time: a lock is for what must not be interleaved although it waits.
// Whoever unlocks hands the lock to the first that waits, before that one runs: nobody barges in.
//
// Shape    an object that is neither copied nor moved. A guard, mutex::held, is a pointer and moves.
// Order    first come, first served.
// Thread   one loop. For what several threads share there are locks of the standard library.
// Lifetime guards that outlive the mutex have nothing to unlock. Those who still wait when it goes wait until they
//          are cancelled.
// Cancel   aborts now. One that has been handed the lock already gets it, and is cancelled at its next suspend point.
// Errors   std::logic_error: locking twice from one fiber, also with try_lock(), as it would wait for itself;
//          unlock() by a fiber that is not the owner, and of a guard that has no lock. A guard's destructor unlocks
//          wherever it runs.
// Cost     9 ns to lock a mutex that is free and to unlock it; a hand-over 16 ns, with the switch to the next fiber.
//          No allocation.
// See      coir/sync/condition.hpp, coir/sync/shared_mutex.hpp; lib/sync/NOTE.md
#pragma once

#include <coir/base/place.hpp>
#include <coir/fiber/fiber_base.hpp>
#include <coir/fiber/fiber_home.hpp>
#include <coir/fiber/op.hpp>
#include <coir/sync/wait_list.hpp>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>

namespace coir {

struct mutex_stats {
  std::uint64_t taken = 0;
  std::uint64_t waited = 0;     // before they got it, or gave up
  std::uint64_t cancelled = 0;  // of those
  std::size_t waiting = 0;
};

class mutex {
 public:
  // Whoever has it has the lock.
  class [[nodiscard("its destructor unlocks")]] held {
   public:
    held() noexcept = default;
    held(held&& other) noexcept { take_over(other); }
    held& operator=(held&& other) noexcept {
      if (this == &other) return *this;
      give_back();
      take_over(other);
      return *this;
    }
    ~held() { give_back(); }

    // It has the lock: not moved from, not unlocked, and not in a condition's wait.
    explicit operator bool() const noexcept { return of_ != nullptr; }
    void unlock() {
      if (of_ == nullptr || !of_->owned()) [[unlikely]]
        refuse_unlock();
      give_back();
    }

   private:
    friend class condition;
    friend class mutex;
    void take_over(held& other) noexcept {
      if (other.of_ == nullptr) return;
      of_ = std::exchange(other.of_, nullptr);
      of_->holder_ = this;
    }
    void give_back() noexcept {
      if (of_ != nullptr) std::exchange(of_, nullptr)->release();
    }
    [[noreturn, gnu::cold]] void refuse_unlock() const;

    mutex* of_ = nullptr;
  };

 private:
  // One who waits for the lock, and the guard that will have it: also a wait in a condition that is over.
  class turn : public wait_node {
   protected:
    friend class mutex;
    friend class condition;
    turn(mutex* of, place at) noexcept : of_(of), at_(at) {}
    void describe(std::string& text) const;
    [[noreturn, gnu::cold]] static void throw_gone();

    mutex* of_;  // null when that is gone
    const fiber_base* who_ = nullptr;
    held* into_ = nullptr;
    place at_;
    bool given_ = false;
    bool must_be_told_ = false;  // it cannot be left to wait: its abort() has answered
  };

 public:
  class [[nodiscard("co_await it, or coir::await(it)")]] lock_op : private turn {
   public:
    static constexpr const char* name = "mutex";
    lock_op(mutex& of, place at) noexcept : turn(&of, at) {}

    bool start(waiter& told) {
      if (of_ == nullptr) [[unlikely]]
        throw_gone();
      mutex& of = *of_;
      of.bound_.check();
      who_ = &running_fiber();
      into_ = &got_;
      if (of.holder_ != nullptr) {
        of.wait(*this, told);
        return true;
      }
      of.give(*this);
      return false;
    }
    abort_answer abort() noexcept {
      if (linked()) ++of_->stats_.cancelled;
      return leave();
    }
    held take() noexcept { return std::move(got_); }
    void describe(std::string& text) const { turn::describe(text); }

   private:
    friend class mutex;
    held got_;  // if nobody takes it, it goes back
  };

  mutex() noexcept = default;
  mutex(const mutex&) = delete;
  mutex& operator=(const mutex&) = delete;
  ~mutex();

  lock_op lock(place at = here::current()) noexcept { return lock_op(*this, at); }
  // Empty when another fiber has it.
  std::optional<held> try_lock(place at = here::current());
  bool locked() const noexcept { return holder_ != nullptr; }
  // By the running fiber.
  bool owned() const noexcept {
    return holder_ != nullptr && current_fiber != nullptr && current_fiber->id() == owner_;
  }
  mutex_stats stats() const noexcept;

 private:
  friend class condition;

  // To one for whom it is free.
  void give(turn& next) noexcept {
    give(*next.into_, *next.who_, next.at_);
    next.given_ = true;
  }
  void give(held& into, const fiber_base& who, place at) noexcept {
    holder_ = &into;
    into.of_ = this;
    owner_ = who.id();
    since_ = at;
    ++stats_.taken;
  }
  void release() noexcept {
    bound_.check();
    if (waiting_.empty()) [[likely]] {
      holder_ = nullptr;
    } else {
      pass_on();
    }
  }
  void pass_on() noexcept {
    give(waiting_.front());
    waiting_.wake_first();
  }
  void wait(turn& one, waiter& told);
  [[noreturn, gnu::cold]] void refuse_twice() const;
  // Of a wait in a condition: it wants the lock again. True: it has it.
  void come_back(turn& one, waiter& told) noexcept;

  held* holder_ = nullptr;  // null: nobody has the lock, and nobody waits
  std::uint64_t owner_ = 0;
  place since_;
  wait_list<turn> waiting_;
  list<turn> absent_;  // those that wait in a condition
  priv::loop_bound bound_;
  mutex_stats stats_;
};

}  // namespace coir
