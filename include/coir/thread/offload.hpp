// coir/thread/offload.hpp: a call that blocks, made by a thread of a pool while the fiber waits.
//
//   int v = co_await coir::offload(threads, blocking_call);     // or coir::await(coir::offload(...))
//   co_await coir::offload(threads, [&](std::stop_token asked) { while (!asked.stop_requested()) ...; });
//   co_await coir::offload(threads, lookup, coir::abandon);     // cancelled, it goes on at once
//   if (auto got = co_await coir::try_offload(threads, f)) ...  // empty: the pool has no room
//                                                               [tests/thread/offload_test.cpp]
//
// What the function returns or throws is what the fiber gets. The function may take a std::stop_token, which is
// stopped when the fiber is cancelled.
//
// Shape    an op, which holds the function (an lvalue stays where it is, and is called there), the result, and the
//          job itself: 144 bytes and those. coir::wait_for_it (what is done unless said otherwise) or coir::abandon
//          says what a cancellation does to a job that runs.
// Order    jobs begin in the order in which they were given to the pool.
// Thread   one loop waits; the function runs on a thread of the pool. What the fiber did before is seen by the
//          function, and what the function did by the fiber afterwards. Function and result are moved, destroyed and
//          thrown on the loop's thread; those of an abandoned job on the pool's. Callbacks on the stop token run on
//          the loop's thread, in the middle of a cancellation, and must neither throw nor wait.
// Cancel   a job that has not begun is taken out of the queue: now, and the function never runs.
//          wait_for_it: one that runs is asked through its stop token and waited for: later. Its result is delivered,
//          and the cancellation surfaces at the next suspend point.
//          abandon: the fiber goes on at once: now. The job comes to its end with nobody to tell; its result or
//          exception is destroyed there. So the function must hold what it uses: it is always copied or moved, and
//          must refer to nothing of the fiber's; and the op cannot be awaited again: std::logic_error. A result that is
//          there already is delivered, as above; but of a fiber that was cancelled nobody can say whether its call had
//          an effect, or will have.
// Errors   what the function throws. As pool::post() in other cases (coir/thread/pool.hpp), but that a full pool is
//          waited for. std::errc::operation_canceled when the pool ended before the job began.
//          gcc before 13 refuses a temporary function with captures that are not trivially destructible.
// Cost     the job's (coir/thread/pool.hpp) and one post to the loop; no allocation. abandon: one. A function that
//          takes a stop token: one more. A fiber that waits for a job is no deadlock: the loop is held.
// See      coir/thread/pool.hpp; coir/fiber/op.hpp
#pragma once

#include <coir/base/atomic.hpp>
#include <coir/base/config.hpp>
#include <coir/base/error.hpp>
#include <coir/base/place.hpp>
#include <coir/fiber/op.hpp>
#include <coir/loop/loop.hpp>
#include <coir/loop/post.hpp>
#include <coir/scope/inside.hpp>
#include <coir/thread/pool.hpp>

#include <concepts>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <type_traits>
#include <utility>

namespace coir {

// What a cancellation does to a job that runs.
struct wait_for_it_t {
  explicit wait_for_it_t() = default;
};
inline constexpr wait_for_it_t wait_for_it{};
struct abandon_t {
  explicit abandon_t() = default;
};
inline constexpr abandon_t abandon{};

namespace priv {

template <class F>
inline constexpr bool takes_stop_token = std::invocable<std::remove_reference_t<F>&, std::stop_token>;
template <class F>
concept offloadable = takes_stop_token<F> || std::invocable<std::remove_reference_t<F>&>;

// A function, and what came of it.
template <class F>
class blocking_call {
  static auto result_type() {
    if constexpr (takes_stop_token<F>) {
      return std::type_identity<std::invoke_result_t<F&, std::stop_token>>();
    } else {
      return std::type_identity<std::invoke_result_t<F&>>();
    }
  }

 public:
  using value_type = typename decltype(result_type())::type;

  template <class From>
  explicit blocking_call(From&& function) : function_(std::forward<From>(function)) {}

  // Before it begins, where it can be asked to stop.
  void prepare() {
    // That of the last time: here, and not on the pool's thread.
    value_.reset();
    if constexpr (takes_stop_token<F>) stop_ = std::stop_source();
  }
  void ask_to_stop() noexcept { stop_.request_stop(); }
  // For whoever asks when this may be gone.
  auto stop_source() const noexcept { return stop_; }
  void run() noexcept {
    try {
      if constexpr (std::is_void_v<value_type>) {
        call();
      } else if constexpr (std::is_reference_v<value_type>) {
        value_.emplace(std::addressof(call()));
      } else {
        value_.emplace(call());
      }
    } catch (...) {
      failure_ = std::current_exception();
    }
  }
  value_type take() {
    if (failure_ != nullptr) std::rethrow_exception(std::move(failure_));
    if constexpr (std::is_reference_v<value_type>) {
      return static_cast<value_type>(**value_);
    } else if constexpr (!std::is_void_v<value_type>) {
      return std::move(*value_);
    }
  }

 private:
  decltype(auto) call() {
    if constexpr (takes_stop_token<F>) {
      return std::invoke(function_, stop_.get_token());
    } else {
      return std::invoke(function_);
    }
  }
  struct nothing {
    explicit nothing(std::nostopstate_t) noexcept {}
    nothing() noexcept {}
    void request_stop() const noexcept {}
  };
  using stored = std::conditional_t<std::is_void_v<value_type>, nothing,
                                    std::conditional_t<std::is_reference_v<value_type>,
                                                       std::remove_reference_t<value_type>*, value_type>>;

  F function_;
  [[no_unique_address]] std::conditional_t<takes_stop_token<F>, std::stop_source, nothing> stop_{std::nostopstate};
  std::optional<stored> value_;
  std::exception_ptr failure_;
};

// The job of a fiber that waits: what is the same for all functions.
class awaited_job : public pool_job, public post_node {
 public:
  // On the loop's thread. False: the pool has no room.
  bool begin(waiter& told, bool only_if_room);
  // True: it has not begun and never will, and nobody is told.
  bool withdraw() noexcept;
  // The pool ended before it began.
  bool dropped() const noexcept { return dropped_; }
  [[noreturn, gnu::cold]] void throw_dropped() const;
  void describe(std::string& text) const;

 protected:
  awaited_job(const pool_job::kind& what, const pool& threads) noexcept : pool_job(what), on_(threads.link()) {}
  awaited_job(awaited_job&& other) noexcept : pool_job(other), post_node(), on_(std::move(other.on_)) {}
  ~awaited_job() override = default;
  // On the pool's thread, when all is written: the last touch.
  void tell() noexcept {
    // Ours: the loop may end with what it hears, and this with it.
    const std::shared_ptr<loop_port> home = home_->port();
    home->push(*this);
  }
  void mark_dropped() noexcept { dropped_ = true; }
  // The loop will hear of it, or will not.
  void hold_loop() noexcept { hold_ = loop::hold(*home_); }
  void let_loop_go() noexcept { hold_ = loop::hold(); }

 private:
  // On the loop's thread.
  void run() override;
  void over() noexcept override {}

  pool_link on_;
  waiter* told_ = nullptr;
  loop* home_ = nullptr;
  loop::hold hold_;
  bool dropped_ = false;
};

// In the frame that waits: waited for in any case.
template <class F>
class framed_job : public awaited_job {
 public:
  using value_type = typename blocking_call<F>::value_type;

  template <class From>
  framed_job(const pool& threads, From&& function)
      : awaited_job(kind_of_this, threads), call_(std::forward<From>(function)) {}

  bool start(waiter& told, bool only_if_room) {
    call_.prepare();
    return begin(told, only_if_room);
  }
  abort_answer abort() noexcept {
    if (withdraw()) return abort_answer::now;
    call_.ask_to_stop();
    return abort_answer::later;
  }
  value_type take() {
    if (dropped()) throw_dropped();
    return call_.take();
  }

 private:
  static void perform(pool_job& job) noexcept {
    static_cast<framed_job&>(job).call_.run();
  }
  static void finish(pool_job& job) noexcept { static_cast<framed_job&>(job).tell(); }
  static void drop(pool_job& job) noexcept {
    auto& self = static_cast<framed_job&>(job);
    self.mark_dropped();
    self.tell();
  }
  static constexpr pool_job::kind kind_of_this{perform, finish, drop};

  blocking_call<F> call_;
};

// On the heap, because it may outlive the fiber's wait.
template <class F>
class shared_job final : public awaited_job {
 public:
  using value_type = typename blocking_call<F>::value_type;

  template <class From>
  shared_job(const pool& threads, From&& function)
      : awaited_job(kind_of_this, threads), call_(std::forward<From>(function)) {}

  using awaited_job::withdraw;
  bool start(waiter& told) {
    call_.prepare();
    // Awaited before, it was done.
    state_.store(state::attached, std::memory_order_relaxed);
    return begin(told, false);
  }
  auto stop_source() const noexcept { return call_.stop_source(); }
  // True: it is the thread's, and may be gone. False: it is done, and the loop is about to hear of it.
  bool abandon() noexcept {
    let_loop_go();
    state before = state::attached;
    // Release: what this thread wrote there, for whoever deletes it.
    if (state_.compare_exchange_strong(before, state::abandoned, std::memory_order_acq_rel)) return true;
    hold_loop();
    return false;
  }
  value_type take() {
    if (dropped()) throw_dropped();
    return call_.take();
  }

 private:
  enum class state : std::uint8_t { attached, abandoned, done };

  static void perform(pool_job& job) noexcept {
    static_cast<shared_job&>(job).call_.run();
  }
  static void drop(pool_job& job) noexcept {
    static_cast<shared_job&>(job).mark_dropped();
    finish(job);
  }
  static void finish(pool_job& job) noexcept {
    // A cast of the reference: one of the address could give null, of which gcc 12 warns with sanitizers.
    auto& self = static_cast<shared_job&>(job);
    if (self.state_.exchange(state::done, std::memory_order_acq_rel) == state::abandoned) {
      delete &self;
    } else {
      self.tell();
    }
  }
  static constexpr pool_job::kind kind_of_this{perform, finish, drop};

  blocking_call<F> call_;
  coir::atomic<state> state_{state::attached};
};

}  // namespace priv

template <class F>
class [[nodiscard("co_await it, or coir::await(it)")]] offload_op : private priv::framed_job<F> {
 public:
  static constexpr const char* name = "offload";
  using value_type = typename priv::framed_job<F>::value_type;

  template <class From>
  offload_op(const pool& threads, From&& function) : priv::framed_job<F>(threads, std::forward<From>(function)) {}
  bool start(waiter& told) { return priv::framed_job<F>::start(told, false); }
  abort_answer abort() noexcept { return priv::framed_job<F>::abort(); }
  value_type take() { return priv::framed_job<F>::take(); }
  using priv::awaited_job::describe;
};

template <class F>
class [[nodiscard("co_await it, or coir::await(it)")]] try_offload_op : private priv::framed_job<F> {
 public:
  static constexpr const char* name = "try_offload";
  using value_type = maybe<typename priv::framed_job<F>::value_type>;

  template <class From>
  try_offload_op(const pool& threads, From&& function) : priv::framed_job<F>(threads, std::forward<From>(function)) {}
  bool start(waiter& told) {
    refused_ = !priv::framed_job<F>::start(told, true);
    return !refused_;
  }
  abort_answer abort() noexcept { return priv::framed_job<F>::abort(); }
  value_type take() {
    if (refused_) return value_type();
    return priv::as_maybe::full<typename priv::framed_job<F>::value_type>(
        [&]() -> decltype(auto) { return priv::framed_job<F>::take(); });
  }
  using priv::awaited_job::describe;

 private:
  bool refused_ = false;
};

template <class F>
class [[nodiscard("co_await it, or coir::await(it)")]] abandonable_op {
 public:
  static constexpr const char* name = "offload, abandonable";
  using value_type = typename priv::shared_job<F>::value_type;

  template <class From>
  abandonable_op(const pool& threads, From&& function)
      : job_(std::make_unique<priv::shared_job<F>>(threads, std::forward<From>(function))) {}
  bool start(waiter& told) {
    if (job_ == nullptr) throw_misuse("an offload that was abandoned or moved is awaited: its function went with it");
    return job_->start(told);
  }
  abort_answer abort() noexcept {
    if (job_->withdraw()) return abort_answer::now;
    auto stop = job_->stop_source();
    const bool abandoned = job_->abandon();
    if (abandoned) static_cast<void>(job_.release());
    // Only now: a function that stops at once would be done before it was abandoned. And whoever hears of it may look
    // around, and at this op too.
    stop.request_stop();
    return abandoned ? abort_answer::now : abort_answer::later;
  }
  value_type take() { return job_->take(); }
  void describe(std::string& text) const {
    if (job_ == nullptr) {
      text += ", abandoned";
    } else {
      job_->describe(text);
    }
  }

 private:
  std::unique_ptr<priv::shared_job<F>> job_;
};

namespace priv {
template <class F>
constexpr void check_offloaded() {
  static_assert(safe_in_await<F>,
                "gcc before 13 destroys the captures of a temporary in a co_await expression twice. Name the "
                "function first: auto call = [...] {...}; co_await coir::offload(threads, call);");
}
}  // namespace priv

// Calls it on a thread of the pool.
template <class F>
  requires priv::offloadable<F>
offload_op<F> offload(pool& threads, F&& function, wait_for_it_t = wait_for_it) {
  priv::check_offloaded<F>();
  return offload_op<F>(threads, std::forward<F>(function));
}
template <class F>
  requires priv::offloadable<F>
abandonable_op<std::decay_t<F>> offload(pool& threads, F&& function, abandon_t) {
  priv::check_offloaded<F>();
  return abandonable_op<std::decay_t<F>>(threads, std::forward<F>(function));
}
// ... if the pool has room for the job at once; else the result is empty (of a function without one: false).
template <class F>
  requires priv::offloadable<F>
try_offload_op<F> try_offload(pool& threads, F&& function) {
  priv::check_offloaded<F>();
  return try_offload_op<F>(threads, std::forward<F>(function));
}

}  // namespace coir
