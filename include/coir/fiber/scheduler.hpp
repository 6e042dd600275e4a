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
// Order    first ready, first run; a new fiber goes to the end. Ahead go a fiber whose child has failed, and
//          those that were told to (spawn_options::first, run_next). At most 256 fibers run in a turn before
//          the loop looks at the kernel again; a turn that has taken 10 ms ends when 8, 32 or 128 of them have
//          run. 64 ops in a row that finish at once are a fiber's share.
// Thread   the loop's.
// Lifetime a body's locals are destroyed before its children are cancelled: a child must not use them unless
//          the body joins it on every path. What the body was made of (captures, parameters) is destroyed at the
//          very end, where nothing can wait: coir::await there is std::logic_error, behind a shield too.
// Cancel   ~scheduler cancels what is left and waits for it. A fiber cancelled before its first run never
//          runs: its body is destroyed.
// Errors   a failure reaches the region the fiber was spawned in: its siblings and its owner are cancelled
//          and awaited, then it is rethrown from the owner's end. One that is joined meanwhile goes to the
//          joiner instead; one spawned with report_failure, and a root's, to the failure handler. What callbacks
//          of the loop throw while ~scheduler waits: the first is told on standard error, and how many more; the
//          fibers end all the same. A loop that does nothing but throw ends the program, and so does a scheduler of
//          another loop that a fiber made and spawned into. Fibers that nothing can wake (a shield; no loop::hold for
//          a post to come) are named on standard error, and waited for.
//          std::system_error with ENOMEM when there is no memory for a stack.
// Cost     spawn and join of a task about 40 ns, of a function about the same on a stack from the pool;
//          yield 4 to 10 ns, from a function to one of different code 20, with ten thousand functions 25. No
//          lock, no atomic; the coarse clock at most three times a turn.
// See      coir/fiber/fiber.hpp, coir/fiber/task.hpp; lib/fiber/NOTE.md
#pragma once

#include <coir/fiber/await.hpp>
#include <coir/fiber/fiber.hpp>
#include <coir/fiber/fiber_home.hpp>
#include <coir/fiber/op.hpp>
#include <coir/fiber/task.hpp>
#include <coir/loop/loop.hpp>

#include <cstddef>
#include <exception>
#include <new>
#include <string_view>
#include <type_traits>
#include <utility>

namespace coir {

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
  // It begins ahead of the fibers that are ready now.
  spawn_options& first() noexcept { return first_ = true, *this; }

 private:
  friend class fiber_home;
  std::string_view name_;
  std::size_t stack_bytes_ = 0;
  bool report_ = false;
  bool first_ = false;
};

class scheduler {
 public:
  explicit scheduler(loop& of);
  scheduler(const scheduler&) = delete;
  scheduler& operator=(const scheduler&) = delete;
  ~scheduler();

  // A fiber without a parent.
  template <class Body>
  auto spawn(Body&& body, const spawn_options& options = {}, place at = here::current()) {
    return home_->spawn(home_->root(), std::forward<Body>(body), options, at);
  }
  void on_failure(failure_handler handler) { home_->on_failure(std::move(handler)); }
  fiber_home& home() noexcept { return *home_; }
  scheduler_stats stats() const noexcept { return home_->stats(); }

 private:
  fiber_home* home_;
};

// A child of the running fiber: it lives no longer than that one's innermost region.
template <class Body>
auto spawn(Body&& body, const spawn_options& options = {}, place at = here::current()) {
  fiber_base& self = running_fiber();
  return self.home().spawn(self.innermost_region(), std::forward<Body>(body), options, at);
}

// To the end of the run queue: who is in it now runs before this fiber goes on, unless a test has the order drawn
// (testing/shuffle.hpp).
class [[nodiscard("co_await it, or coir::await(it)")]] yield_op {
 public:
  static constexpr const char* name = "yield";
  // Nothing is waited for: the awaiters put the fiber in the run queue and skip the rest.
  static constexpr bool only_yields = true;
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
    static_cast<task_fiber&>(self).take_over(task_access::root<T>(self));
  }
  static constexpr auto collector = [] {
    if constexpr (std::is_void_v<T>) {
      return nullptr;
    } else {
      return &collect;
    }
  }();
  template <class Promise>
  void take_over(Promise& root) noexcept {
    // Moving the result may throw; then that is how the fiber ended.
    try {
      if constexpr (std::is_reference_v<T>) {
        this->emplace(&root.take());
      } else {
        this->emplace(root.take());
      }
    } catch (...) {
      this->body_failed(std::current_exception());
    }
  }

 private:
  static constexpr fiber_kind own_kind{{task_fiber::wake},
                                       nullptr,
                                       nullptr,
                                       nullptr,
                                       task_fiber::collector,
                                       nullptr,
                                       fiber_block<T>::destroyer,
                                       fiber_home::block_class_of(sizeof(task_fiber))};
};

// The body is made by a function, which stays as long as the task: its captures are the task's.
template <class T, class F>
class factory_fiber final : public task_fiber<T> {
  static_assert(alignof(F) <= 2 * sizeof(void*),
                "the captures of a function that makes a task are over-aligned, and lie in the fiber's control "
                "block, which is aligned to 16 bytes: hold them by pointer");

 public:
  template <class From>
  factory_fiber(fiber_home& home, region& where, place at, From&& function)
      : task_fiber<T>(factory_kind, home, where, at), function_(std::forward<From>(function)) {}

 private:
  static void begin(fiber_base& self) {
    auto& mine = static_cast<factory_fiber&>(self);
    task<T> made = mine.function_();
    task_access::check_fresh(made);
    task_access::set_root(self, std::move(made));
  }
  static void end(fiber_base& self) noexcept {
    task_access::destroy_root(self);
    static_cast<factory_fiber&>(self).function_.~F();
  }
  static constexpr fiber_kind factory_kind{{factory_fiber::wake},     begin,
                                           nullptr,                   task_access::destroy_root,
                                           factory_fiber::collector,  end,
                                           factory_fiber::destroyer,  fiber_home::block_class_of(sizeof(factory_fiber))};

  // Destroyed when the body ends, before the block.
  union {
    F function_;
  };

 public:
  // Blocks are not destroyed as objects: fiber_base::release takes them apart.
  ~factory_fiber() {}
};

// The body is a plain function, which lies at the top of the fiber's stack.
template <class R>
class function_fiber final : public fiber_block<R> {
 public:
  function_fiber(fiber_home& home, region& where, place at, const fiber_kind& kind) noexcept
      : fiber_block<R>(kind, home, where, at) {}

 private:
  template <class F>
  static F& function(fiber_base& self) noexcept {
    return *static_cast<F*>(self.current_stack()->argument());
  }
  template <class F>
  static void run(fiber_base& self) noexcept {
    auto& mine = static_cast<function_fiber&>(self);
    try {
      if constexpr (std::is_void_v<R>) {
        function<F>(self)();
        mine.emplace();
      } else if constexpr (std::is_reference_v<R>) {
        mine.emplace(&function<F>(self)());
      } else {
        mine.emplace(function<F>(self)());
      }
    } catch (...) {
      mine.body_failed(std::current_exception());
    }
  }
  template <class F>
  static void end(fiber_base& self) noexcept {
    if (!self.has_stack()) return;  // there was no memory for one
    // Taken away first: whoever waited on it now would find it in another fiber's hands.
    stack& own = self.home().take_stack(self);
    if constexpr (!std::is_trivially_destructible_v<F>) static_cast<F*>(own.argument())->~F();
    self.home().return_stack(own);
  }
  // The function is where it was, and so is the stack.
  static void again(fiber_base&) noexcept {}

 public:
  // All that a program has for each of its functions.
  template <class F>
  static constexpr fiber_kind kind_of{{function_fiber::wake},    nullptr, run<F>, again, nullptr, end<F>,
                                      function_fiber::destroyer, fiber_home::block_class_of(sizeof(function_fiber))};
};

}  // namespace priv

template <class Block, class... Arguments>
Block& fiber_home::make(const spawn_options& options, Arguments&&... arguments) {
  void* const memory = allocate(sizeof(Block));
  Block* block = nullptr;
  if constexpr (std::is_nothrow_constructible_v<Block, fiber_home&, Arguments...>) {
    block = new (memory) Block(*this, std::forward<Arguments>(arguments)...);
  } else {
    try {
      block = new (memory) Block(*this, std::forward<Arguments>(arguments)...);
    } catch (...) {
      // Its base was made, and has counted.
      ++ended_;
      recycle(memory, block_class_of(sizeof(Block)));
      throw;
    }
  }
  if (options.report_) block->flags_ |= fiber_base::report;
  if (!options.name_.empty() || (current_fiber != nullptr && current_fiber->has_values())) [[unlikely]]
    prepare(*block, options);
  return *block;
}

template <class Body>
auto fiber_home::spawn(region& where, Body&& body, const spawn_options& options, place at) {
  using decayed = std::decay_t<Body>;
  if constexpr (priv::is_task<decayed>::value) {
    static_assert(std::is_rvalue_reference_v<Body&&> && !std::is_const_v<Body>,
                  "spawn takes the task over: write spawn(std::move(task))");
    using value = typename decayed::value_type;
    task_access::check_fresh(body);
    auto& block = make<priv::task_fiber<value>>(options, where, at, std::move(body));
    begin(block, options.first_);
    return fiber<value>::first(block);
  } else {
    static_assert(std::is_invocable_v<decayed&>,
                  "spawn takes a coir::task or something that can be called without arguments");
    using value = std::invoke_result_t<decayed&>;
    if constexpr (priv::is_task<value>::value) {
      using inner = typename value::value_type;
      auto& block = make<priv::factory_fiber<inner, decayed>>(options, where, at,
                                                              std::forward<Body>(body));
      begin(block, options.first_);
      return fiber<inner>::first(block);
    } else {
      using block_type = priv::function_fiber<value>;
      auto& block = make<block_type>(options, where, at, block_type::template kind_of<decayed>);
      void* const top = give_stack(block, sizeof(decayed), alignof(decayed), options.stack_bytes_);
      if constexpr (std::is_nothrow_constructible_v<decayed, Body>) {
        new (top) decayed(std::forward<Body>(body));
      } else {
        // A throwing copy of the function: as if nothing had been spawned.
        try {
          new (top) decayed(std::forward<Body>(body));
        } catch (...) {
          return_stack(take_stack(block));
          discard(block);
          throw;
        }
      }
      begin(block, options.first_);
      return fiber<value>::first(block);
    }
  }
}

}  // namespace coir
