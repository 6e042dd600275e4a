// coir/fiber/scheduler.hpp: the fibers of one loop: who runs next, and how a fiber is born.
//
//   auto child = coir::spawn(work(1));                        // a task
//   auto other = coir::spawn([p = std::move(p)] { ... });     // a plain function, on a stack of its own
//   int got = co_await child.join();   co_await coir::yield();
//                                                             [tests/fiber/spawn_test.cpp]
//   coir::loop loop;   coir::scheduler fibers(loop);          // for a loop that somebody else drives
//   fibers.spawn(serve());
//
// coir::run (fiber/run.hpp) makes a loop and a scheduler and is all that most programs need.
//
// Shape    a run queue in the loop's turn, and pools for control blocks and stacks.
// Order    first ready, first run; a new fiber goes to the end. At most 256 fibers run in a turn before
//          the loop looks at the kernel again. 64 ops in a row that finish at once are a fiber's share.
// Thread   the loop's.
// Cancel   ~scheduler cancels what is left and waits for it. A fiber cancelled before its first run never
//          runs: its body is destroyed.
// Errors   a failure reaches the region the fiber was spawned in: its siblings and its owner are cancelled
//          and awaited, then it is rethrown from the owner's end. One that is joined meanwhile goes to the
//          joiner instead; one spawned with report_failure, and a root's, to the failure handler.
//          std::system_error with ENOMEM when there is no memory for a stack.
// Cost     spawn and join of a task about 40 ns, of a function about the same on a stack from the pool;
//          yield 8 to 15 ns. No lock, no atomic, no clock.
// See      coir/fiber/fiber.hpp, coir/fiber/task.hpp; lib/fiber/NOTE.md
#pragma once

#include <coir/base/list.hpp>
#include <coir/fiber/await.hpp>
#include <coir/fiber/fiber.hpp>
#include <coir/fiber/op.hpp>
#include <coir/fiber/task.hpp>
#include <coir/loop/loop.hpp>

#include <array>
#include <concepts>
#include <cstddef>
#include <functional>
#include <new>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

namespace coir {

class stack_pool;

namespace priv {
struct stack_exit;
}

// spawn(f, coir::report_failure): a failure is told to the failure handler, and nobody else is touched.
struct report_failure_t {};
inline constexpr report_failure_t report_failure{};

class spawn_options {
 public:
  spawn_options() noexcept {}
  // NOLINTNEXTLINE: spawn(f, coir::report_failure) is how it is meant to be written.
  spawn_options(report_failure_t) noexcept : report_(true) {}

  spawn_options& name(std::string_view name) noexcept { return name_ = name, *this; }
  // Of the stack, for a plain function: virtual memory, of which only what is touched costs anything.
  // Rounded up to whole pages; 0: as in stack_options.
  spawn_options& stack_bytes(std::size_t bytes) noexcept { return stack_bytes_ = bytes, *this; }
  spawn_options& report_failure() noexcept { return report_ = true, *this; }

 private:
  friend class fiber_home;
  std::string_view name_;
  std::size_t stack_bytes_ = 0;
  bool report_ = false;
};

struct scheduler_stats {
  std::uint64_t spawned = 0;
  std::uint64_t ended = 0;
  std::uint64_t failures = 0;  // told to the failure handler
};

// Told of failures that no region and no joiner takes. Must not throw.
using failure_handler = std::function<void(const fiber_base& failed, std::exception_ptr why)>;

// What the fibers of one loop share. Lives on the heap and is counted, because handles may outlive the
// scheduler: what they point to must not vanish.
class fiber_home final : public ready_hook {
 public:
  explicit fiber_home(loop& of);

  loop& on() const noexcept { return *loop_; }
  region& root() noexcept { return root_; }
  scheduler_stats stats() const noexcept { return stats_; }
  std::uint64_t alive() const noexcept { return stats_.spawned - stats_.ended; }
  stack_pool& stacks() noexcept { return *stacks_; }

  // Puts a fiber at the end of the run queue.
  void make_ready(fiber_base& which) noexcept {
    COIR_TRACE(loop_->trace(), trace::point::ready, which.id());
    ready_.push(which);
  }

  std::size_t run_ready() override;
  bool has_ready() const noexcept override { return !ready_.empty(); }

  // Memory for control blocks: dense, and recycled.
  void* allocate(std::size_t bytes);
  void recycle(void* block, std::size_t bytes) noexcept;

  // A fiber in `where`, at the end of the run queue.
  template <class Body>
  auto spawn(region& where, Body&& body, const spawn_options& options, place at);

  // What await.hpp stands on.
  void switch_out(fiber_base& self) noexcept;
  void drive(fiber_base& self, promise_base& root) noexcept;
  stack& borrow_stack(void (*main)(void*) noexcept, void* argument);
  void begin_on_stack(fiber_base& self, stack& lent) noexcept;
  void return_stack(stack& unused) noexcept;
  void return_stack(fiber_base& of) noexcept { return_stack(*std::exchange(of.stack_, nullptr)); }
  static priv::stack_exit run_on_stack() noexcept;

  // Visits every fiber that is not dead, parents before children.
  template <class Visit>
  void for_each(Visit&& visit) const {
    for (fiber_base* at = root_.first_child(); at != nullptr; at = next_in_tree(*at)) visit(*at);
  }

 private:
  friend class fiber_base;
  friend class handle_base;
  friend class scheduler;
  friend class stack;

  static constexpr std::uint16_t fibers_per_turn = 256;
  static constexpr std::uint16_t ops_per_share = 64;

  ~fiber_home();
  static fiber_base* next_in_tree(fiber_base& at) noexcept;
  template <class Block, class... Arguments>
  Block& make(const spawn_options& options, Arguments&&... arguments);
  void prepare(fiber_base& block, const spawn_options& options);
  void* give_stack(fiber_base& block, std::size_t bytes, std::size_t alignment,
                   const spawn_options& options);
  void discard(fiber_base& block) noexcept;
  void begin(fiber_base& block) noexcept;
  void enter(fiber_base& which) noexcept;
  void leave(fiber_base& which) noexcept;
  void run(fiber_base& which);
  bool start_fresh(fiber_base& which) noexcept;
  void body_over(fiber_base& which) noexcept;
  void end(fiber_base& which) noexcept;
  void tell_failure(const fiber_base& which, std::exception_ptr why) noexcept;
  void close() noexcept;
  void hold() noexcept { ++references_; }
  void release() noexcept;

  queue<fiber_base, &fiber_base::next_> ready_;
  loop* loop_;
  std::uint16_t turn_left_ = 0;
  std::uint64_t next_id_ = 1;
  void* main_context_ = nullptr;  // where the thread's own stack is, while a fiber's runs
  priv::side own_side_;
  region root_;
  std::unique_ptr<stack_pool> stacks_;
  scheduler_stats stats_;
  std::uint64_t references_ = 1;  // the scheduler, and every control block
  failure_handler on_failure_;

  // Free control blocks by size, in steps of 16 bytes, cut from slabs.
  static constexpr std::size_t block_step = 16;
  static constexpr std::size_t block_classes = 32;
  struct free_block {
    free_block* next;
  };
  void* refill(std::size_t block_class);
  std::array<free_block*, block_classes> free_{};
  std::vector<std::unique_ptr<std::byte[]>> slabs_;
};

class scheduler {
 public:
  explicit scheduler(loop& of);
  scheduler(const scheduler&) = delete;
  scheduler& operator=(const scheduler&) = delete;
  ~scheduler();

  // A fiber without a parent.
  template <class Body>
  auto spawn(Body&& body, const spawn_options& options = {}, place at = place::current()) {
    return home_->spawn(home_->root(), std::forward<Body>(body), options, at);
  }
  void on_failure(failure_handler handler) { home_->on_failure_ = std::move(handler); }
  fiber_home& home() noexcept { return *home_; }
  scheduler_stats stats() const noexcept { return home_->stats(); }

 private:
  fiber_home* home_;
};

// A child of the running fiber: it lives no longer than that one's innermost region.
template <class Body>
auto spawn(Body&& body, const spawn_options& options = {}, place at = place::current()) {
  fiber_base& self = running_fiber();
  return self.home().spawn(self.body(), std::forward<Body>(body), options, at);
}

// Lets every fiber that is ready now run before this one goes on.
class [[nodiscard]] yield_op {
 public:
  static constexpr const char* name = "yield";
  yield_op() noexcept {}
  bool start(waiter& told) noexcept {
    told.done();
    return true;
  }
  // It is done as soon as it has begun; nothing is left to stop.
  abort_answer abort() noexcept { return abort_answer::later; }
  void take() noexcept {}
};

inline yield_op yield() noexcept { return {}; }

namespace priv {

template <class T>
struct is_task : std::false_type {};
template <class T>
struct is_task<task<T>> : std::true_type {};

// The body is a task.
template <class T>
class task_fiber : public fiber_block<T> {
 public:
  task_fiber(fiber_home& home, region& where, place at, task<T>&& body) noexcept
      : task_fiber(own_kind, home, where, at) {
    task_access::set_root(*this, std::move(body));
  }

 protected:
  task_fiber(const fiber_kind& kind, fiber_home& home, region& where, place at) noexcept
      : fiber_block<T>(kind, home, where, at) {}

  static void collect(fiber_base& self) noexcept {
    auto& mine = static_cast<task_fiber&>(self);
    auto& root = task_access::root<T>(self);
    if (std::exception_ptr why = root.exception(); why != nullptr) {
      mine.body_failed(std::move(why));
      return;
    }
    // Moving the result may throw; then that is how the fiber ended.
    try {
      if constexpr (std::is_void_v<T>) {
        mine.emplace();
      } else if constexpr (std::is_reference_v<T>) {
        mine.emplace(&root.take());
      } else {
        mine.emplace(root.take());
      }
    } catch (...) {
      mine.body_failed(std::current_exception());
    }
  }

 private:
  static void destroy(fiber_base& self) noexcept { static_cast<task_fiber&>(self).~task_fiber(); }
  static constexpr fiber_kind own_kind{{task_fiber::wake},        nullptr, nullptr, collect,
                                       task_access::destroy_root, destroy, sizeof(fiber_block<T>)};
};

// The body is made by a function, which stays as long as the task: its captures are the task's.
template <class T, class F>
class factory_fiber final : public task_fiber<T> {
 public:
  template <class From>
  factory_fiber(fiber_home& home, region& where, place at, From&& function)
      : task_fiber<T>(factory_kind, home, where, at), function_(std::forward<From>(function)) {}

 private:
  static void begin(fiber_base& self) {
    auto& mine = static_cast<factory_fiber&>(self);
    task_access::set_root(self, mine.function_());
  }
  static void end(fiber_base& self) noexcept {
    task_access::destroy_root(self);
    static_cast<factory_fiber&>(self).function_.~F();
  }
  static void destroy(fiber_base& self) noexcept {
    static_cast<factory_fiber&>(self).~factory_fiber();
  }
  ~factory_fiber() {}
  static constexpr fiber_kind factory_kind{{factory_fiber::wake},  begin, nullptr,
                                           factory_fiber::collect, end,   destroy,
                                           sizeof(factory_fiber)};

  // Destroyed when the body ends, before the block.
  union {
    F function_;
  };
};

// The body is a plain function, which lies at the top of the fiber's stack.
template <class R, class F>
class function_fiber final : public fiber_block<R> {
 public:
  function_fiber(fiber_home& home, region& where, place at) noexcept
      : fiber_block<R>(own_kind, home, where, at) {}

 private:
  static F& function(fiber_base& self) noexcept {
    return *static_cast<F*>(self.current_stack()->argument());
  }
  static void run(fiber_base& self) noexcept {
    auto& mine = static_cast<function_fiber&>(self);
    try {
      if constexpr (std::is_void_v<R>) {
        function(self)();
        mine.emplace();
      } else if constexpr (std::is_reference_v<R>) {
        mine.emplace(&function(self)());
      } else {
        mine.emplace(function(self)());
      }
    } catch (...) {
      mine.body_failed(std::current_exception());
    }
  }
  static void end(fiber_base& self) noexcept {
    if (!self.has_stack()) return;  // there was no memory for one
    function(self).~F();
    self.home().return_stack(self);
  }
  static void destroy(fiber_base& self) noexcept {
    static_cast<function_fiber&>(self).~function_fiber();
  }
  ~function_fiber() = default;
  static constexpr fiber_kind own_kind{{function_fiber::wake}, nullptr, run,    nullptr,
                                       end,                    destroy, sizeof(fiber_block<R>)};
};

}  // namespace priv

template <class Block, class... Arguments>
Block& fiber_home::make(const spawn_options& options, Arguments&&... arguments) {
  void* const memory = allocate(sizeof(Block));
  Block* block = nullptr;
  try {
    block = new (memory) Block(*this, std::forward<Arguments>(arguments)...);
    prepare(*block, options);
  } catch (...) {
    if (block == nullptr) {
      recycle(memory, sizeof(Block));
    } else {
      discard(*block);
    }
    throw;
  }
  return *block;
}

template <class Body>
auto fiber_home::spawn(region& where, Body&& body, const spawn_options& options, place at) {
  using decayed = std::remove_cvref_t<Body>;
  if constexpr (priv::is_task<decayed>::value) {
    static_assert(std::is_rvalue_reference_v<Body&&> && !std::is_const_v<Body>,
                  "spawn takes the task over: write spawn(std::move(task))");
    using value = typename decayed::value_type;
    if (!body) throw_misuse("an empty task was spawned");
    auto& block = make<priv::task_fiber<value>>(options, where, at, std::move(body));
    begin(block);
    return fiber<value>(block);
  } else {
    static_assert(std::is_invocable_v<decayed&>,
                  "spawn takes a coir::task or something that can be called without arguments");
    using value = std::invoke_result_t<decayed&>;
    if constexpr (priv::is_task<value>::value) {
      using inner = typename value::value_type;
      auto& block = make<priv::factory_fiber<inner, decayed>>(options, where, at,
                                                              std::forward<Body>(body));
      begin(block);
      return fiber<inner>(block);
    } else {
      using block_type = priv::function_fiber<value, decayed>;
      auto& block = make<block_type>(options, where, at);
      void* top = nullptr;
      try {
        top = give_stack(block, sizeof(decayed), alignof(decayed), options);
      } catch (...) {
        discard(block);
        throw;
      }
      // A throwing copy of the function: as if nothing had been spawned.
      try {
        new (top) decayed(std::forward<Body>(body));
      } catch (...) {
        return_stack(block);
        discard(block);
        throw;
      }
      begin(block);
      return fiber<value>(block);
    }
  }
}

}  // namespace coir
