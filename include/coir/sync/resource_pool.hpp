// coir/sync/resource_pool.hpp: so many things at most, made when they are wanted, each for one fiber at a time.
//
//   coir::resource_pool<connection> connections(8, connect);  // a function, or one that gives a task
//   auto mine = co_await connections.acquire();               // or coir::await(connections.acquire())
//   mine->send(query);
//   if (broken) mine.discard();                               // the next one makes another
//                                                             [tests/sync/resource_pool_test.cpp]
//
// A fiber that has a lease and acquires again gets the same resource, and uses no second place for it. So a lease moves
// within the fiber that acquired it: what is given to another fiber is still had again by the first.
//
// Shape    an object that is neither copied nor moved. acquire() and fill() are tasks; a lease moves. A factory that is a
//          plain function may wait too: it runs on a stack.
// Order    first come, first served. What came back last is lent first.
// Thread   one loop.
// Lifetime leases that outlive the pool keep their resources, and who makes one when it goes has it. Those who still
//          wait when it goes wait until they are cancelled.
// Cancel   aborts now. One that has been handed a place already gets it, and is cancelled at its next suspend point. A
//          factory that fails or is cancelled gives its place to the next who waits.
// Errors   what the factory throws, to whom it makes one for. std::logic_error for a limit of 0, and for a lease that has
//          nothing. std::bad_alloc.
// Cost     36 ns to acquire what is idle and to give it back, and a few for each resource that is out: all are looked at.
//          A resource is an allocation.
// See      coir/sync/semaphore.hpp
#pragma once

#include <coir/base/list.hpp>
#include <coir/base/place.hpp>
#include <coir/fiber/await.hpp>
#include <coir/fiber/fiber_base.hpp>
#include <coir/fiber/op.hpp>
#include <coir/fiber/task.hpp>
#include <coir/sync/event.hpp>
#include <coir/sync/holder.hpp>
#include <coir/sync/wait_list.hpp>

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>

namespace coir {

struct resource_pool_stats {
  std::uint64_t acquired = 0;
  std::uint64_t waited = 0;     // before they got one, or gave up
  std::uint64_t cancelled = 0;  // of those
  std::uint64_t made = 0;
  std::uint64_t failed = 0;     // to be made, or cancelled
  std::uint64_t discarded = 0;
};

namespace priv {

class pool_base;

// A resource, and who has it.
class pool_slot : public holder {
 public:
  pool_slot() noexcept = default;
  pool_slot(const pool_slot&) = delete;
  virtual ~pool_slot() = default;

 private:
  friend class pool_base;
  friend class pool_lease;
  pool_base* of_ = nullptr;  // null when that is gone
  std::size_t leases_ = 0;
  bool discarded_ = false;
};

class pool_lease {
 public:
  pool_lease() noexcept = default;
  // One more for the same resource.
  explicit pool_lease(pool_slot& of) noexcept : slot_(&of) { ++of.leases_; }
  pool_lease(pool_lease&& other) noexcept : slot_(std::exchange(other.slot_, nullptr)) {}
  pool_lease& operator=(pool_lease&& other) noexcept {
    std::swap(slot_, other.slot_);
    return *this;
  }
  ~pool_lease() { release(); }

  explicit operator bool() const noexcept { return slot_ != nullptr; }
  // Gives it back.
  void release() noexcept;
  // The resource goes with the last lease on it; until then its fiber has this one. What comes next is made anew.
  void discard();

 protected:
  pool_slot& slot() const {
    if (slot_ == nullptr) [[unlikely]]
      refuse();
    return *slot_;
  }

 private:
  [[noreturn, gnu::cold]] static void refuse();
  pool_slot* slot_ = nullptr;
};

// To make a resource: a place is kept for it.
class pool_right : public list_node {
 public:
  pool_right() noexcept = default;
  pool_right(pool_right&& other) noexcept;
  pool_right& operator=(pool_right&&) = delete;
  ~pool_right();

  explicit operator bool() const noexcept { return linked(); }
  // It was made. For the running fiber, or for whoever comes.
  pool_lease lend(std::unique_ptr<pool_slot> made, place at);
  void shelve(std::unique_ptr<pool_slot> made);

 private:
  friend class pool_base;
  pool_base* of_ = nullptr;
};

// A resource, or the right to make one.
class pool_turn {
 public:
  // With constructors: gcc 12 destroys an aggregate in an awaited expression twice.
  pool_turn() noexcept {}
  pool_turn(pool_turn&& other) noexcept : lease(std::move(other.lease)), right(std::move(other.right)) {}
  pool_lease lease;
  pool_right right;
};

class pool_base {
 public:
  class [[nodiscard("co_await it, or coir::await(it)")]] pool_op : public wait_node {
   public:
    static constexpr const char* name = "resource_pool";
    pool_op(pool_base& of, place at) noexcept : of_(&of), at_(at) {}

    bool start(waiter& told);
    abort_answer abort() noexcept;
    pool_turn take() noexcept { return std::move(got_); }
    void describe(std::string& text) const;

   private:
    friend class pool_base;
    pool_base* of_;
    const fiber_base* who_ = nullptr;
    place at_;
    pool_turn got_;  // if nobody takes it, it goes back
  };

  explicit pool_base(std::size_t limit);
  pool_base(const pool_base&) = delete;
  pool_base& operator=(const pool_base&) = delete;
  ~pool_base();

  pool_op turn(place at) noexcept { return pool_op(*this, at); }
  // Has none when there are as many as there may be.
  pool_right right() noexcept;

  std::size_t limit() const noexcept { return limit_; }
  // Those that there are, and those of them that nobody has.
  std::size_t size() const noexcept { return size_; }
  std::size_t available() const noexcept { return available_; }
  std::size_t waiting() const noexcept { return waiting_.size(); }
  resource_pool_stats stats() const noexcept { return stats_; }

 private:
  friend class pool_lease;
  friend class pool_right;
  pool_slot* slot_of(const fiber_base& who) const noexcept;
  // To a waiter, or to one who comes: a resource, or the right to make one. False: there is neither.
  bool give(pool_turn& into, const fiber_base& who, place at) noexcept;
  void adopt(pool_slot& made) noexcept;
  void come_back(pool_slot& from) noexcept;
  void serve() noexcept;

  std::size_t limit_;
  std::size_t size_ = 0;
  std::size_t available_ = 0;
  std::size_t in_the_making_ = 0;
  list<pool_slot> idle_;
  list<holder> lent_;
  list<pool_right> rights_;
  wait_list<pool_op> waiting_;
  loop_bound bound_;
  resource_pool_stats stats_;
};

template <class T>
class pool_slot_of final : public pool_slot {
 public:
  // Made where it stays: it need not move.
  template <class Make>
  explicit pool_slot_of(Make&& make) : what_(make()) {}
  T what_;
};

template <class T>
class pool_factory {
 public:
  virtual ~pool_factory() = default;
  virtual task<> make(std::unique_ptr<pool_slot>& into) = 0;
};
template <class T, class Function>
class pool_factory_of final : public pool_factory<T> {
 public:
  template <class From>
  explicit pool_factory_of(From&& function) : function_(std::forward<From>(function)) {}

  task<> make(std::unique_ptr<pool_slot>& into) override {
    if constexpr (is_task<std::invoke_result_t<Function&>>::value) {
      T made = co_await function_();
      into = std::make_unique<pool_slot_of<T>>([&]() -> T&& { return std::move(made); });
    } else {
      auto call = [&] { into = std::make_unique<pool_slot_of<T>>(function_); };
      co_await on_stack(call);
    }
  }

 private:
  Function function_;
};

}  // namespace priv

template <class T>
class resource_pool : private priv::pool_base {
 public:
  // Whoever has it has the resource.
  class [[nodiscard("its destructor gives it back")]] lease : public priv::pool_lease {
   public:
    lease() noexcept = default;
    explicit lease(priv::pool_lease&& what) noexcept : pool_lease(std::move(what)) {}
    T& get() const { return static_cast<priv::pool_slot_of<T>&>(slot()).what_; }
    T& operator*() const { return get(); }
    T* operator->() const { return std::addressof(get()); }
  };

  template <class Factory>
    requires std::invocable<std::decay_t<Factory>&>
  resource_pool(std::size_t limit, Factory&& factory)
      : pool_base(limit),
        factory_(std::make_shared<priv::pool_factory_of<T, std::decay_t<Factory>>>(std::forward<Factory>(factory))) {}

  task<lease> acquire(place at = here::current()) {
    priv::pool_turn turn = co_await pool_base::turn(at);
    if (turn.right) {
      const std::shared_ptr<priv::pool_factory<T>> factory = factory_;
      std::unique_ptr<priv::pool_slot> made;
      co_await factory->make(made);
      // The pool may have gone meanwhile; the right knows.
      turn.lease = turn.right.lend(std::move(made), at);
    } else if (!turn.lease) {
      // It was handed a place, and the pool went before it ran: as those who still wait in it.
      event nothing;
      co_await nothing.wait();
    }
    co_return lease(std::move(turn.lease));
  }
  // Makes as many as there may be, ahead of their use.
  task<> fill() {
    const std::shared_ptr<priv::pool_factory<T>> factory = factory_;
    for (;;) {
      priv::pool_right next = right();
      if (!next) break;
      std::unique_ptr<priv::pool_slot> made;
      co_await factory->make(made);
      // Or the pool has gone meanwhile.
      if (!next) break;
      next.shelve(std::move(made));
    }
  }

  using pool_base::available;
  using pool_base::limit;
  using pool_base::size;
  using pool_base::stats;
  using pool_base::waiting;

 private:
  std::shared_ptr<priv::pool_factory<T>> factory_;  // whoever makes with it keeps it: the pool may go meanwhile
};

}  // namespace coir
