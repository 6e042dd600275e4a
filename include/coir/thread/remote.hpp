// coir/thread/remote.hpp: a fiber on another loop.
//
//   coir::remote<int> f = rt.spawn_on(2, [] { return work(); });   // a function, or one that gives a task
//   const int& seen = co_await f.join();       // from any loop, for as many as ask
//   int mine = co_await f.take();              // moves it out, once
//   int there = f.get();                       // from a plain thread, which blocks
//   f.cancel();   f.interrupt(too_late());     // messages
//                                              [tests/thread/remote_test.cpp]
//
// Shape    a counted pointer; copies. The fiber belongs to the root region of its loop.
// Order    what one thread tells a fiber comes in its order. Who waits for its end is told in the order in which it came.
// Thread   handles: any thread, any loop, at once; one handle object, as always, by one thread at a time. The function
//          that was given is moved to the other loop, runs there and is destroyed there; when that loop has ended, where
//          it was spawned. The result, or the exception, is destroyed by whoever lets go of it last: where that is.
//          take() while others still read what join() gave them is a race.
// Lifetime handles may outlive the runtime: its fibers ended with it, and what became of them can still be asked.
// Fork     in a child process whoever would wait for a fiber that had not ended gets std::logic_error: its thread is the
//          parent's. cancel() and interrupt() do nothing there.
// Cancel   join() and take() abort now. cancel() comes when the other loop looks: a fiber that never waits hears nothing.
// Errors   what the fiber threw is thrown by every join, take and get, also late ones. One that was cancelled, or spawned
//          when its loop had ended: std::system_error with std::errc::operation_canceled. A failure that nobody has
//          asked for when the last handle goes ends the runtime (coir/thread/runtime.hpp); with report_failure it is
//          told to the failure handler of that loop instead, or on standard error when the system gave no memory for
//          the fiber, and nobody else is touched.
// Cost     two allocations and a post to spawn; a lock, and a post to each loop that waits, at its end. While a fiber
//          waits in join() that is no deadlock.
// See      coir/thread/runtime.hpp; coir/fiber/fiber.hpp
#pragma once

#include <coir/base/atomic.hpp>
#include <coir/base/error.hpp>
#include <coir/base/list.hpp>
#include <coir/base/place.hpp>
#include <coir/base/time.hpp>
#include <coir/fiber/fiber.hpp>
#include <coir/fiber/op.hpp>
#include <coir/fiber/scheduler.hpp>
#include <coir/loop/loop.hpp>
#include <coir/loop/post.hpp>

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

namespace coir {

// starting: on its way to its loop.
enum class remote_state : std::uint8_t { starting, alive, dead };

class remote_options {
 public:
  remote_options() noexcept {}
  // NOLINTNEXTLINE: spawn_on(i, f, coir::report_failure) is how it is meant to be written.
  remote_options(report_failure_t) noexcept : report_(true) {}

  remote_options& name(std::string name) { return name_ = std::move(name), *this; }
  remote_options& stack_bytes(std::size_t bytes) noexcept { return stack_bytes_ = bytes, *this; }
  remote_options& report_failure() noexcept { return report_ = true, *this; }

 private:
  friend class remote_core;
  std::string name_;
  std::size_t stack_bytes_ = 0;
  bool report_ = false;
};

class remote_core;

// One loop of a runtime, as its fibers and those who hold them see it.
class remote_home {
 public:
  std::shared_ptr<loop_port> port;
  fiber_home* fibers = nullptr;  // its thread's
  std::size_t index = 0;
  atomic<std::size_t> load{0};  // fibers that were spawned there and have not ended

  virtual ~remote_home() = default;
  // Any thread.
  // std::logic_error in a forked child, where nobody will ever end.
  virtual void check_process() const = 0;
  virtual void ended() noexcept = 0;
  virtual void failed(std::exception_ptr why) noexcept = 0;
  // Its thread. `which`: null when there was no fiber to be had.
  virtual void report(const remote_core& whom, const fiber_base* which, std::exception_ptr why) noexcept = 0;
};

// Who wants to know of the end of a remote fiber.
class remote_waiter : public list_node {
 public:
  // Under the lock of the fiber's, by the thread in which it ends: it may only post, or notify.
  virtual void told() noexcept = 0;
  // It will ask for the result: a failure is its affair.
  bool asks = true;

 protected:
  ~remote_waiter() = default;
};

// What handles share, and what the other loop fills in.
class remote_core {
 public:
  remote_core(const remote_core&) = delete;

  // --- any thread ---
  void hold() noexcept { references_.fetch_add(1, std::memory_order_relaxed); }
  void release() noexcept {
    if (references_.fetch_sub(1, std::memory_order_acq_rel) == 1) delete this;
  }
  void add_handle() noexcept {
    handles_.fetch_add(1, std::memory_order_relaxed);
    hold();
  }
  void drop_handle() noexcept;
  remote_state state() const noexcept { return state_.load(std::memory_order_acquire); }
  std::uint64_t id() const noexcept { return id_.load(std::memory_order_relaxed); }
  std::string_view name() const noexcept { return options_.name_; }
  std::size_t loop_index() const noexcept { return home_->index; }
  fiber_outcome outcome() const noexcept { return state() == remote_state::dead ? outcome_ : fiber_outcome::none; }
  // False: it has ended.
  bool enlist(remote_waiter& who) noexcept;
  // False: it was told, or is about to be.
  bool strike(remote_waiter& who) noexcept;
  // Until it has ended; false: not before `limit`.
  bool block(duration limit, bool asks);
  // Throws unless it returned, and its result is still there.
  void check_result();
  void mark_taken() noexcept { taken_.store(true, std::memory_order_relaxed); }
  void order_cancel(duration grace) const;
  void order_interrupt(std::exception_ptr what) const;

  // --- its own loop ---
  void begin_on_home() noexcept { state_.store(remote_state::alive, std::memory_order_release); }
  void end_on_home(fiber_outcome outcome, std::exception_ptr failure, const fiber_base* which) noexcept;
  fiber_home& fibers() const noexcept { return *home_->fibers; }
  spawn_options options() const noexcept {
    spawn_options given;
    given.name(options_.name_).stack_bytes(options_.stack_bytes_);
    return given;
  }
  remote_home& home() const noexcept { return *home_; }
  bool is_fiber(const fiber_base& who) const noexcept {
    const handle_base mine = fiber();
    return mine && &mine.control() == &who;
  }

 protected:
  remote_core(std::shared_ptr<remote_home> home, remote_options options);
  virtual ~remote_core() = default;
  // Empty unless it lives.
  virtual handle_base fiber() const noexcept = 0;
  void set_id(std::uint64_t id) noexcept { id_.store(id, std::memory_order_relaxed); }

 private:
  class order;
  void send(std::unique_ptr<order> what) const noexcept;

  const std::shared_ptr<remote_home> home_;
  const remote_options options_;
  atomic<std::size_t> references_{1};
  atomic<std::size_t> handles_{1};
  atomic<std::uint64_t> id_{0};
  atomic<remote_state> state_{remote_state::starting};
  atomic<bool> taken_{false};

  std::mutex lock_;
  list<remote_waiter> waiters_;
  bool handled_ = false;  // a failure was asked for, or told
  fiber_outcome outcome_ = fiber_outcome::none;  // this and the result are written before it is dead
  std::exception_ptr failure_;
};

namespace priv {

// With the result, and the fiber itself on its loop.
template <class T>
class remote_block final : public remote_core, private waiter {
  static_assert(!std::is_reference_v<T>,
                "a remote fiber gives a value: a reference would be to what belongs to another thread");
  using stored = std::conditional_t<std::is_void_v<T>, char, T>;

 public:
  remote_block(std::shared_ptr<remote_home> home, remote_options options)
      : remote_core(std::move(home), std::move(options)), waiter(own_kind) {}

  stored& value() noexcept { return *value_; }

  template <class F>
  void begin(F&& function, place at) noexcept {
    try {
      fiber_ = fibers().spawn(fibers().root(), std::forward<F>(function), options(), at);
    } catch (...) {
      end_on_home(fiber_outcome::failed, std::current_exception(), nullptr);
      return;
    }
    set_id(fiber_.id());
    begin_on_home();
    hold();  // as long as it lives
    end_.emplace(fiber_);
    end_->start(*this);
  }

 private:
  handle_base fiber() const noexcept override { return fiber_; }
  static void finished(waiter& self) noexcept { static_cast<remote_block&>(self).collect(); }
  void collect() noexcept {
    fiber_outcome outcome = fiber_.outcome();
    std::exception_ptr failure;
    if (outcome != fiber_outcome::cancelled) {
      try {
        if constexpr (std::is_void_v<T>) {
          fiber_.take().take();
        } else {
          value_.emplace(fiber_.take().take());
        }
      } catch (...) {
        outcome = fiber_outcome::failed;
        failure = std::current_exception();
      }
    }
    end_.reset();
    const coir::fiber<T> which = std::move(fiber_);
    end_on_home(outcome, std::move(failure), &which.control());
    release();
  }
  static constexpr waiter_kind own_kind{finished};

  std::optional<stored> value_;
  coir::fiber<T> fiber_;
  std::optional<end_op> end_;
};

// On its way to the loop.
template <class T, class F>
class remote_birth final : public post_node {
 public:
  template <class From>
  remote_birth(remote_block<T>& whom, From&& function, place at)
      : whom_(whom), function_(std::forward<From>(function)), at_(at) {
    whom_.hold();
  }
  ~remote_birth() override { whom_.release(); }
  void run() override { whom_.begin(std::move(function_), at_); }
  void lost() noexcept override {
    whom_.end_on_home(fiber_outcome::cancelled, nullptr, nullptr);
    delete this;
  }

 private:
  remote_block<T>& whom_;
  F function_;
  place at_;
};

template <class F>
struct remote_result {
  using type = std::invoke_result_t<F&>;
};
template <class F>
  requires is_task<std::invoke_result_t<F&>>::value
struct remote_result<F> {
  using type = typename std::invoke_result_t<F&>::value_type;
};

}  // namespace priv

// Waiting for the end of a remote fiber, on any loop.
class remote_wait : private remote_waiter {
 public:
  remote_wait(remote_wait&& other) noexcept : whom_(std::exchange(other.whom_, nullptr)) {}
  bool start(waiter& told);
  abort_answer abort() noexcept;
  void describe(std::string& text) const;

 protected:
  explicit remote_wait(remote_core& whom) noexcept : whom_(&whom) { whom.hold(); }
  ~remote_wait() {
    if (whom_ != nullptr) whom_->release();
  }
  remote_core& whom() const noexcept { return *whom_; }

 private:
  class reply final : public post_node {
   public:
    explicit reply(remote_wait& to) noexcept : to_(to) {}
    void run() override { to_.arrived(); }
    void over() noexcept override {}

   private:
    remote_wait& to_;
  };
  void told() noexcept override;
  void arrived() noexcept;

  remote_core* whom_;
  waiter* told_ = nullptr;
  std::shared_ptr<loop_port> home_;
  std::optional<loop::hold> hold_;  // another loop will tell
  reply reply_{*this};
};

template <class T>
class [[nodiscard("co_await it, or coir::await(it)")]] remote_join_op final : public remote_wait {
 public:
  static constexpr const char* name = "remote join";
  explicit remote_join_op(remote_core& whom) noexcept : remote_wait(whom) {}
  decltype(auto) take() const {
    whom().check_result();
    if constexpr (!std::is_void_v<T>) return std::as_const(static_cast<priv::remote_block<T>&>(whom()).value());
  }
};

template <class T>
class [[nodiscard("co_await it, or coir::await(it)")]] remote_take_op final : public remote_wait {
 public:
  static constexpr const char* name = "remote join";
  explicit remote_take_op(remote_core& whom) noexcept : remote_wait(whom) {}
  T take() const {
    whom().check_result();
    whom().mark_taken();
    if constexpr (!std::is_void_v<T>) return std::move(static_cast<priv::remote_block<T>&>(whom()).value());
  }
};

template <class T>
class remote {
 public:
  remote() noexcept = default;
  // The first handle of a new one.
  explicit remote(priv::remote_block<T>& first) noexcept : block_(&first) {}
  remote(const remote& other) noexcept : block_(other.block_) {
    if (block_ != nullptr) block_->add_handle();
  }
  remote(remote&& other) noexcept : block_(std::exchange(other.block_, nullptr)) {}
  remote& operator=(remote other) noexcept {
    std::swap(block_, other.block_);
    return *this;
  }
  ~remote() {
    if (block_ != nullptr) block_->drop_handle();
  }

  explicit operator bool() const noexcept { return block_ != nullptr; }
  friend bool operator==(const remote&, const remote&) noexcept = default;

  remote_state state() const { return block().state(); }
  // None before it is dead.
  fiber_outcome outcome() const { return block().outcome(); }
  // On its loop; 0 while it is on its way.
  std::uint64_t id() const { return block().id(); }
  std::string_view name() const { return block().name(); }
  // Which loop of the runtime it was spawned on.
  std::size_t loop_index() const { return block().loop_index(); }

  // On a named handle only: the handle keeps the result, and gcc 12 must see no temporary function there.
  remote_join_op<T> join() const& { return remote_join_op<T>(block()); }
  remote_join_op<T> join() && {
    static_assert(priv::never<T>, "join() needs a named handle: auto f = rt.spawn_on(...); co_await f.join();");
    return std::as_const(*this).join();
  }
  remote_take_op<T> take() & { return remote_take_op<T>(block()); }
  remote_take_op<T> take() && {
    static_assert(priv::never<T>, "take() needs a named handle: auto f = rt.spawn_on(...); co_await f.take();");
    return static_cast<remote&>(*this).take();
  }

  // join() for a thread that runs no loop: it blocks. std::logic_error on a loop's thread.
  decltype(auto) get() const& {
    block().block(duration::max(), true);
    return remote_join_op<T>(block()).take();
  }
  // Of a handle that goes: what it alone kept is moved out.
  T get() && {
    block().block(duration::max(), true);
    return remote_take_op<T>(block()).take();
  }
  // False: it did not end in this time, and lives on.
  template <class Rep, class Period>
  bool wait_for(std::chrono::duration<Rep, Period> limit) const {
    return block().block(saturated(limit), false);
  }

  // fiber<T>::cancel(), at the other loop's next turn. Nothing happens when it has ended.
  void cancel() const { block().order_cancel(duration::zero()); }
  template <class Rep, class Period>
  void cancel(std::chrono::duration<Rep, Period> grace) const {
    block().order_cancel(saturated(grace));
  }
  // fiber<T>::interrupt(), at the other loop's next turn.
  template <class E>
  void interrupt(E&& what) const {
    if constexpr (std::is_same_v<std::remove_cvref_t<E>, std::exception_ptr>) {
      block().order_interrupt(std::forward<E>(what));
    } else {
      block().order_interrupt(std::make_exception_ptr(std::forward<E>(what)));
    }
  }

 private:
  priv::remote_block<T>& block() const {
    if (block_ == nullptr) throw_misuse("an empty handle of a remote fiber was used");
    return *block_;
  }
  priv::remote_block<T>* block_ = nullptr;
};

}  // namespace coir
