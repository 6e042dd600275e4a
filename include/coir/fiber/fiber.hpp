// coir/fiber/fiber.hpp: the handle of a fiber.
//
//   coir::fiber<int> child = coir::spawn(work());
//   const int& seen = co_await child.join();   // for as many as ask
//   int mine = co_await child.take();          // moves it out, once
//   child.cancel();                                            [tests/fiber/fiber_test.cpp]
//   child.cancel(5s);   child.interrupt(too_late());   child.stop(7);   child.restart();
//   child.interject([] { ... });   child.park();   child.detach();      [tests/fiber/control_test.cpp]
//
// Shape    one pointer; copies. It owns nothing: dropping it changes nothing.
// Order    joiners are woken in the order in which they came. Of what a fiber is told, an interruption is thrown
//          first, then a cancellation; a stop, and a cancellation, win over a restart.
// Thread   one loop.
// Cancel   cancel() marks the fiber and all it spawned; each gets `cancelled` at its suspend point. It is
//          level-triggered: a fiber that swallows it gets it again. join() and take() abort at once.
// Errors   joining a fiber that failed throws what it threw, and then counts as handled; one that was
//          cancelled, std::system_error with std::errc::operation_canceled. std::logic_error: joining
//          oneself, taking twice, using an empty handle. interrupt, cancel(grace) and interject allocate, once
//          per fiber, and may throw std::bad_alloc.
// Cost     join: about 15 ns when the fiber is dead already. A handle keeps the result and the control block
//          (about 150 bytes), not the body. What is not used of control costs nothing.
// See      coir/fiber/scheduler.hpp, coir/fiber/monitor.hpp; coir/scope/nursery.hpp: adopt
#pragma once

#include <coir/base/callback.hpp>
#include <coir/base/error.hpp>
#include <coir/base/time.hpp>
#include <coir/fiber/fiber_base.hpp>
#include <coir/fiber/fiber_home.hpp>
#include <coir/fiber/op.hpp>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

namespace coir {

class monitor;
template <class T>
class channel;

// A control block with room for the result.
template <class T>
class fiber_block : public fiber_base {
 public:
  using stored = std::conditional_t<std::is_reference_v<T>, std::remove_reference_t<T>*, T>;
  static_assert(alignof(stored) <= 2 * sizeof(void*),
                "a fiber cannot return an over-aligned type: its control block is aligned to 16 bytes");

  const stored& value() const noexcept { return value_; }
  stored& value() noexcept { return value_; }

 protected:
  // Not an inherited constructor: that one would be deleted for a result without a trivial one.
  fiber_block(const fiber_kind& kind, fiber_home& home, coir::region& where, place at) noexcept
      : fiber_base(kind, home, where, at) {}
  ~fiber_block() {}
  static void destroy_value(fiber_base& self) noexcept {
    auto& mine = static_cast<fiber_block&>(self);
    if (mine.has_value()) mine.value_.~stored();
  }
  static constexpr auto destroyer =
      std::is_trivially_destructible_v<stored> ? nullptr : &destroy_value;
  template <class... From>
  void emplace(From&&... from) {
    put(std::forward<From>(from)...);
    set_returned();
  }

 private:
  template <class>
  friend class fiber;
  template <class... From>
  void put(From&&... from) {
    // That of stop(), which comes too late, or again.
    if (has_value()) [[unlikely]] {
      mark_value(false);
      value_.~stored();
    }
    ::new (static_cast<void*>(std::addressof(value_))) stored(std::forward<From>(from)...);
    mark_value(true);
  }

  union {
    stored value_;
  };
};

template <>
class fiber_block<void> : public fiber_base {
 protected:
  using fiber_base::fiber_base;
  ~fiber_block() = default;
  static constexpr std::nullptr_t destroyer = nullptr;
  void emplace() noexcept { set_returned(); }

 private:
  template <class>
  friend class fiber;
  void put() noexcept { mark_value(true); }
};

// What handles of all types do.
class handle_base {
 public:
  handle_base() noexcept = default;
  handle_base(const handle_base& other) noexcept : handle_base(other.block_) {}
  handle_base(handle_base&& other) noexcept : block_(std::exchange(other.block_, nullptr)) {}
  handle_base& operator=(handle_base other) noexcept {
    std::swap(block_, other.block_);
    return *this;
  }
  ~handle_base() {
    if (block_ != nullptr) block_->release();
  }

  explicit operator bool() const noexcept { return block_ != nullptr; }
  friend bool operator==(const handle_base&, const handle_base&) noexcept = default;

  std::uint64_t id() const { return block().id(); }
  std::string_view name() const { return block().name(); }
  fiber_state state() const { return block().state(); }
  fiber_outcome outcome() const { return block().outcome(); }
  place spawned_at() const { return block().spawned_at(); }

  // --- control ---

  void cancel() const { block().cancel(); }
  // Asks first: coir::shutting_down() is true in it and all it spawned, and wait_shutting_down() returns. Cancels
  // when this time is over; at once when it is not positive. Of several, the one that ends first counts.
  template <class Rep, class Period>
  void cancel(std::chrono::duration<Rep, Period> grace) const {
    block().cancel_after(saturated(grace));
  }
  // Throws this exception, or what this exception_ptr holds, at its suspend point: once, inside shields too, and
  // before a cancellation. One that was not thrown yet is replaced. One that has not begun fails with it. False:
  // it is ending or dead.
  template <class E>
  bool interrupt(E&& what) const {
    if constexpr (std::is_same_v<std::remove_cvref_t<E>, std::exception_ptr>) {
      return block().interrupt(std::forward<E>(what));
    } else {
      return block().interrupt(std::make_exception_ptr(std::forward<E>(what)));
    }
  }
  // Unwinds its body as cancel() does, awaits its children, and begins the body again: the same fiber, with the
  // same id, name, parent and joiners; fiber locals keep their values. A run that ends with a failure ends the
  // fiber. False: it is cancelled, stopped, asked to end, ending or dead. std::logic_error: it was spawned from a
  // task object, which can run only once, or it is the main fiber of coir::run.
  bool restart() const { return block().restart(); }
  // Calls `function` once as a part of this fiber, at the suspend point it waits in, and leaves it waiting; one
  // that is ready, running or has not begun calls it at its next suspend point, or when it begins. It may spawn,
  // and must not wait. What it throws interrupts the fiber. One that dies before does not call it. False: it is
  // ending or dead.
  template <class F>
  bool interject(F&& function) const {
    static_assert(std::is_void_v<std::invoke_result_t<std::decay_t<F>&>>,
                  "interject takes a plain function that returns nothing, and does not wait");
    return block().interject(callback<>(std::forward<F>(function)));
  }
  // Moves it, and what it spawned, to where scheduler::spawn puts fibers: it lives until it ends, or the scheduler
  // does. One that was cancelled stays so. False: it is dead.
  bool detach() const;
  // ... into another region: for nursery::adopt, and those who write regions.
  bool move_to(region& where) const { return block().move_to(where); }
  void move_children_to(region& where) const { block().move_children_to(where); }
  // From its next suspend point on it does not run, whatever happens to it, before unpark(); then it goes on with
  // what it was woken with. A cancellation waits for that too. False: it is dead, or the scheduler ends.
  bool park() const { return block().park(); }
  // False: it was not parked.
  bool unpark() const { return block().unpark(); }
  bool parked() const { return block().parked(); }
  // It is the next to run, once it is ready. O(n) in the number of fibers that are ready. False: it is ending or
  // dead.
  bool run_next() const { return block().run_next(); }
  // --- messages (defined in coir/sync/inbox.hpp, which says more) ---

  // Puts a message into its inbox, which is made on first use; never waits, never switches. False: it is ending or
  // dead, or has closed that inbox. std::system_error (ENOBUFS): the inbox was given a capacity, and is full.
  template <class M>
  bool send(M&& message) const;
  // The inbox for messages of this type. A fiber that has ended has a closed one.
  template <class M>
  channel<M>& inbox() const;

  // Failures of the body and of children that came after the one that join() throws.
  std::vector<std::exception_ptr> other_failures() const;
  // The control block: what a debugger wants to know, and no user needs.
  const fiber_base& control() const { return block(); }

 protected:
  struct adopted {
    fiber_base* block;
  };
  explicit handle_base(adopted block) noexcept : block_(block.block) {}
  explicit handle_base(fiber_base* block) noexcept : block_(block) {
    if (block_ != nullptr) block_->hold();
  }
  fiber_base& block() const {
    if (block_ == nullptr) throw_misuse("an empty fiber handle was used");
    return *block_;
  }
  fiber_base* get() const noexcept { return block_; }

 private:
  friend class monitor;
  friend class runner;
  fiber_base* block_ = nullptr;
};

// Waiting for the end of a fiber.
class join_base : public handle_base {
 public:
  join_base(join_base&& other) noexcept
      : handle_base(std::move(other)), next_(nullptr), previous_(nullptr) {}

  bool start(waiter& told) {
    fiber_base& whom = *get();
    if (whom.phase_ == fiber_base::phase::dead) return false;
    if (&whom == current_fiber) [[unlikely]]
      refuse_self();
    told_ = &told;
    if (whom.joiners_ == nullptr) [[likely]] {
      previous_ = this;
      whom.joiners_ = this;
    } else {
      previous_ = std::exchange(whom.joiners_->previous_, this);
      previous_->next_ = this;
    }
    return true;
  }
  abort_answer abort() noexcept;
  void describe(std::string& text) const;

 protected:
  explicit join_base(fiber_base& whom) noexcept : handle_base(&whom) {}
  explicit join_base(const handle_base& whom) noexcept : handle_base(whom) {}
  ~join_base() = default;
  // Throws unless the fiber returned and its result is still there.
  void check_result() const {
    if (get()->outcome() != fiber_outcome::returned || (get()->flags_ & fiber_base::taken) != 0) [[unlikely]]
      throw_no_result();
  }
  void mark_taken() const noexcept { get()->flags_ |= fiber_base::taken; }

 private:
  friend class fiber_home;
  [[noreturn, gnu::cold]] static void refuse_self();
  [[noreturn, gnu::cold]] void throw_no_result() const;

  waiter* told_ = nullptr;
  join_base* next_ = nullptr;      // of the youngest: null
  join_base* previous_ = nullptr;  // of the oldest: the youngest
};

template <class T>
class [[nodiscard("co_await it, or coir::await(it)")]] join_op : public join_base {
 public:
  static constexpr const char* name = "join";
  explicit join_op(fiber_block<T>& whom) noexcept : join_base(whom) {}

  decltype(auto) take() const {
    check_result();
    if constexpr (std::is_reference_v<T>) {
      return static_cast<T>(*static_cast<fiber_block<T>*>(get())->value());
    } else if constexpr (!std::is_void_v<T>) {
      return std::as_const(*static_cast<fiber_block<T>*>(get())).value();
    }
  }
};

// The end of a fiber, whatever it was.
class [[nodiscard("co_await it, or coir::await(it)")]] end_op : public join_base {
 public:
  static constexpr const char* name = "join";
  explicit end_op(const handle_base& whom) : join_base(whom) {}
  void take() const noexcept {}
};

template <class T>
class [[nodiscard("co_await it, or coir::await(it)")]] take_op : public join_base {
 public:
  static constexpr const char* name = "join";
  explicit take_op(fiber_block<T>& whom) noexcept : join_base(whom) {}

  T take() const {
    check_result();
    mark_taken();
    if constexpr (std::is_reference_v<T>) {
      return static_cast<T>(*static_cast<fiber_block<T>*>(get())->value());
    } else if constexpr (!std::is_void_v<T>) {
      return std::move(static_cast<fiber_block<T>*>(get())->value());
    }
  }
};

template <class T>
class fiber : public handle_base {
 public:
  fiber() noexcept = default;
  explicit fiber(fiber_block<T>& block) noexcept : handle_base(&block) {}
  // The first handle: its reference is counted already.
  static fiber first(fiber_block<T>& block) noexcept { return fiber(handle_base::adopted{&block}); }

  // On a named handle only. `co_await spawn(f).join()` would put a temporary callable in the expression
  // that is awaited, which gcc 12 destroys twice; and a task can be awaited without a fiber.
  join_op<T> join() & { return join_op<T>(static_cast<fiber_block<T>&>(block())); }
  join_op<T> join() const& { return join_op<T>(static_cast<fiber_block<T>&>(block())); }
  join_op<T> join() && {
    static_assert(priv::never<T>,
                  "join() needs a named handle: auto child = coir::spawn(...); co_await child.join();");
    return std::as_const(*this).join();
  }
  take_op<T> take() & { return take_op<T>(static_cast<fiber_block<T>&>(block())); }
  take_op<T> take() && {
    static_assert(priv::never<T>,
                  "take() needs a named handle: auto child = coir::spawn(...); co_await child.take();");
    return static_cast<fiber&>(*this).take();
  }

  // cancel(), with a result: joiners get this value, unless the body comes to its end with one of its own, or
  // fails. A body that has not begun never runs. False: it is ending or dead.
  template <class From = T>
    requires(!std::is_void_v<T>)
  bool stop(From&& value) const {
    static_assert(std::is_constructible_v<T, From&&>, "stop() takes what the fiber could have returned");
    auto& mine = static_cast<fiber_block<T>&>(block());
    if (!mine.has_body()) return false;
    if constexpr (std::is_reference_v<T>) {
      mine.put(std::addressof(static_cast<T>(value)));
    } else {
      mine.put(std::forward<From>(value));
    }
    mine.stop();
    return true;
  }
  bool stop() const
    requires std::is_void_v<T>
  {
    auto& mine = static_cast<fiber_block<T>&>(block());
    if (!mine.has_body()) return false;
    mine.put();
    mine.stop();
    return true;
  }

 private:
  explicit fiber(handle_base::adopted block) noexcept : handle_base(block) {}
};

}  // namespace coir
