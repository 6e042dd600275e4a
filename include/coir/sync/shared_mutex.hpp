// coir/sync/shared_mutex.hpp: a lock for many who look, or one who changes.
//
//   coir::shared_mutex m;
//   auto looking = co_await m.lock_shared();    // together with others who look
//   auto changing = co_await m.lock();          // alone
//                                                             [tests/sync/shared_mutex_test.cpp]
//
// Fair to both: whoever comes waits behind those who came before, also where the lock is held in the mode they want. So
// a writer that waits holds back the readers that come after it, and readers next to each other go in together.
//
// Shape    an object that is neither copied nor moved. Guards, shared_mutex::held and ::held_shared, move.
// Order    first come, first served.
// Thread   one loop.
// Lifetime guards that outlive it have nothing to unlock. Those who still wait when it goes wait until they are
//          cancelled.
// Cancel   aborts now; readers behind a writer that has left go in at once. One that has been handed the lock already
//          gets it, and is cancelled at its next suspend point.
// Errors   std::logic_error: for a fiber that holds it, in either mode, and would wait for itself, also with try_.
//          unlock() of a guard that has no lock.
// Cost     13 ns to lock and unlock it when it is free; who has to wait looks at all who hold it. No allocation.
// See      coir/sync/mutex.hpp; lib/sync/NOTE.md
#pragma once

#include <coir/base/place.hpp>
#include <coir/fiber/fiber_base.hpp>
#include <coir/fiber/op.hpp>
#include <coir/sync/holder.hpp>
#include <coir/sync/wait_list.hpp>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>

namespace coir {

struct shared_mutex_stats {
  std::uint64_t taken = 0;         // by one alone
  std::uint64_t taken_shared = 0;
  std::uint64_t waited = 0;        // before they got it, or gave up
  std::uint64_t cancelled = 0;     // of those
  std::size_t holding = 0;
  std::size_t waiting = 0;
};

class shared_mutex {
 private:
  enum class mode : std::uint8_t { alone, shared };

  class guard : private priv::holder {
   public:
    // It has the lock: not moved from, and not unlocked.
    explicit operator bool() const noexcept { return linked(); }
    void unlock() {
      if (!linked()) [[unlikely]]
        refuse_unlock();
      give_back();
    }

   protected:
    guard() noexcept = default;
    guard(guard&& other) noexcept : holder(std::move(other)), of_(other.of_) {}
    guard& operator=(guard&& other) noexcept {
      if (this == &other) return *this;
      give_back();
      take_over(other);
      of_ = other.of_;
      return *this;
    }
    ~guard() { give_back(); }

   private:
    friend class shared_mutex;
    void give_back() noexcept {
      if (linked()) of_->release(*this);
    }
    [[noreturn, gnu::cold]] static void refuse_unlock();

    shared_mutex* of_ = nullptr;
  };

  // Who wants it.
  class turn : public wait_node {
   protected:
    friend class shared_mutex;
    turn(shared_mutex& of, mode wanted, place at) noexcept : of_(&of), at_(at), wanted_(wanted) {}
    bool start(guard& into, waiter& told);
    abort_answer abort() noexcept;
    void describe(std::string& text) const;

    shared_mutex* of_;
    const fiber_base* who_ = nullptr;
    guard* into_ = nullptr;
    place at_;
    mode wanted_;
  };

  template <class Guard, mode Mode>
  class [[nodiscard("co_await it, or coir::await(it)")]] shared_mutex_op : private turn {
   public:
    static constexpr const char* name = Mode == mode::alone ? "shared_mutex" : "shared_mutex, shared";
    shared_mutex_op(shared_mutex& of, place at) noexcept : turn(of, Mode, at) {}

    bool start(waiter& told) { return turn::start(got_, told); }
    abort_answer abort() noexcept { return turn::abort(); }
    Guard take() noexcept { return std::move(got_); }
    void describe(std::string& text) const { turn::describe(text); }
    // In a select for either mode, who wants it alone does not hold up who wants it shared.
    using turn::step_aside;
    using turn::step_back;

   private:
    friend class shared_mutex;
    Guard got_;  // if nobody takes it, it goes back
  };

 public:
  class [[nodiscard("its destructor unlocks")]] held : public guard {};
  class [[nodiscard("its destructor unlocks")]] held_shared : public guard {};
  using lock_op = shared_mutex_op<held, mode::alone>;
  using lock_shared_op = shared_mutex_op<held_shared, mode::shared>;

  shared_mutex() noexcept = default;
  shared_mutex(const shared_mutex&) = delete;
  shared_mutex& operator=(const shared_mutex&) = delete;
  ~shared_mutex() {
    while (!holders_.empty()) holders_.pop_front();
  }

  lock_op lock(place at = here::current()) noexcept { return lock_op(*this, at); }
  lock_shared_op lock_shared(place at = here::current()) noexcept { return lock_shared_op(*this, at); }
  // Empty where lock() would wait.
  std::optional<held> try_lock(place at = here::current()) { return try_in<held>(mode::alone, at); }
  std::optional<held_shared> try_lock_shared(place at = here::current()) {
    return try_in<held_shared>(mode::shared, at);
  }
  // By one alone.
  bool locked() const noexcept { return alone_; }
  std::size_t readers() const noexcept { return readers_; }
  shared_mutex_stats stats() const noexcept;

 private:
  bool is_free_for(mode wanted) const noexcept {
    return !alone_ && waiting_.empty() && (wanted == mode::shared || readers_ == 0);
  }
  void give(guard& into, mode wanted, const fiber_base& who, place at) noexcept;
  void release(guard& from) noexcept;
  // Lets in whoever is first, as long as that goes.
  void serve() noexcept;
  void refuse_twice(const fiber_base& who) const;
  template <class Guard>
  std::optional<Guard> try_in(mode wanted, place at) {
    bound_.check();
    const fiber_base& self = running_fiber();
    std::optional<Guard> got;
    if (is_free_for(wanted)) {
      give(got.emplace(), wanted, self, at);
    } else {
      refuse_twice(self);
    }
    return got;
  }

  wait_list<turn> waiting_;
  list<priv::holder> holders_;
  std::size_t readers_ = 0;
  bool alone_ = false;
  bool serving_ = false;
  priv::loop_bound bound_;
  shared_mutex_stats stats_;
};

}  // namespace coir
