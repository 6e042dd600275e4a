// coir/sync/semaphore.hpp: so many at most at a time.
//
//   coir::semaphore gate(10);
//   auto permit = co_await gate.acquire();      // or acquire(3)
//   co_await fetch(url);                        // ten of these at most
//                                                             [tests/sync/semaphore_test.cpp]
//
// Fair to those who want many: nobody goes past one that came before, also if what it wants is there. When that one is
// cancelled, those behind it for whom there is enough go at once.
//
// Shape    an object that is neither copied nor moved. semaphore::permit moves, and gives back what it stands for.
// Order    first come, first served.
// Thread   one loop.
// Lifetime permits that outlive it have nothing to give back. Those who still wait when it goes wait until they are
//          cancelled.
// Cancel   aborts now. One that has been handed its permits already gets them, and is cancelled at its next suspend
//          point.
// Errors   std::logic_error: none are wanted or released, or more are released than can be counted. To want more than
//          there are is none: somebody may release() them.
// Cost     15 ns to acquire what is there and to give it back. No allocation.
// See      coir/scope/throttler.hpp: so many in a time; coir/sync/resource_pool.hpp
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

struct semaphore_stats {
  std::uint64_t acquired = 0;   // times, not permits
  std::uint64_t waited = 0;     // before they got them, or gave up
  std::uint64_t cancelled = 0;  // of those
  std::size_t waiting = 0;
};

class semaphore {
 public:
  class [[nodiscard("its destructor gives them back")]] permit : private priv::holder {
   public:
    permit() noexcept = default;
    permit(permit&& other) noexcept : holder(std::move(other)), of_(other.of_), count_(other.count_) {}
    permit& operator=(permit&& other) noexcept {
      if (this == &other) return *this;
      release();
      take_over(other);
      of_ = other.of_;
      count_ = other.count_;
      return *this;
    }
    ~permit() { release(); }

    // It stands for something: not moved from, not given back, and its semaphore is there.
    explicit operator bool() const noexcept { return linked(); }
    std::size_t count() const noexcept { return linked() ? count_ : 0; }
    void release() noexcept {
      if (linked()) of_->give_back(*this);
    }
    // Does not give them back: somebody else calls semaphore::release().
    void keep() noexcept { unlink(); }

   private:
    friend class semaphore;
    semaphore* of_ = nullptr;
    std::size_t count_ = 0;
  };

  class [[nodiscard("co_await it, or coir::await(it)")]] acquire_op : public wait_node {
   public:
    static constexpr const char* name = "semaphore";
    acquire_op(semaphore& of, std::size_t count, place at) noexcept : of_(&of), count_(count), at_(at) {}

    bool start(waiter& told);
    abort_answer abort() noexcept;
    permit take() noexcept { return std::move(got_); }
    void describe(std::string& text) const;

   private:
    friend class semaphore;
    semaphore* of_;
    const fiber_base* who_ = nullptr;
    std::size_t count_;
    place at_;
    permit got_;  // if nobody takes it, it goes back
  };

  explicit semaphore(std::size_t permits) noexcept : available_(permits) {}
  semaphore(const semaphore&) = delete;
  semaphore& operator=(const semaphore&) = delete;
  ~semaphore() {
    while (!holders_.empty()) holders_.pop_front();
  }

  acquire_op acquire(std::size_t count = 1, place at = here::current()) noexcept {
    return acquire_op(*this, count, at);
  }
  // Empty where acquire() would wait.
  std::optional<permit> try_acquire(std::size_t count = 1, place at = here::current());
  // Adds so many, whoever had them.
  void release(std::size_t count = 1);
  std::size_t available() const noexcept { return available_; }
  semaphore_stats stats() const noexcept;

 private:
  bool has(std::size_t count) const noexcept { return count <= available_ && waiting_.empty(); }
  void check(std::size_t count);
  void give(permit& into, std::size_t count, const fiber_base& who, place at) noexcept;
  void give_back(permit& from) noexcept;
  // Hands out what there is, as long as it is enough for the first.
  void serve() noexcept;

  std::size_t available_;
  bool serving_ = false;
  wait_list<acquire_op> waiting_;
  list<priv::holder> holders_;
  priv::loop_bound bound_;
  semaphore_stats stats_;
};

}  // namespace coir
