// Floor: what switching and spawning cost with nothing but the language and Boost.Context.
//
//   switch/coroutine/N   N coroutines take turns through an intrusive queue, driven by a loop: one
//                        yield is one suspension, one push, one pop, one resumption.
//   switch/stack/N       N contexts on stacks of their own, twice:
//                        - floor-stack-jump: each jumps straight into the next; the figure is one
//                          jump.
//                        - floor-stack-pair: a loop on the main stack jumps into a context, and
//                          the context jumps back. A pair is these two jumps, and it is what a
//                          yield under a scheduler loop needs at least; the figure is one pair.
//   spawn/coroutine      a coroutine awaits a child that returns at once; the child's frame comes
//                        from malloc.
//   spawn/stack          on a stack from a pool, twice:
//                        - floor-stack: a context is made, entered, and left for ever.
//                        - floor-stack-fiber: the same by Boost.Context's own class and pool, which
//                          also keep a callable, unwind, and give the stack back.
//   spawn/parked-*       memory in RAM for each of 100,000 that wait.
//
// The stacks are laid out as a good library would: all in one mapping, tops shifted against each
// other within a quarter of a page (else they share the same cache sets: a factor of 3 to 4), and
// the context pointers side by side in one table rather than on the stacks.

#include "../micro.hpp"

#include <sys/mman.h>
#include <boost/context/detail/fcontext.hpp>
#include <boost/context/fiber.hpp>
#include <boost/context/pooled_fixedsize_stack.hpp>

#include <coroutine>
#include <cstdlib>
#include <exception>
#include <memory>
#include <new>
#include <utility>

namespace {

// ---- coroutines ----------------------------------------------------------------------------

// A coroutine that never ends; it owns itself as long as the queue knows it.
struct endless {
  struct promise_type {
    endless get_return_object() {
      return {std::coroutine_handle<promise_type>::from_promise(*this)};
    }
    std::suspend_always initial_suspend() noexcept { return {}; }
    std::suspend_always final_suspend() noexcept { return {}; }
    void return_void() {}
    void unhandled_exception() { std::terminate(); }

    promise_type* next = nullptr;
  };

  std::coroutine_handle<promise_type> handle;
};

// First in, first out, through the pointers in the promises.
class run_queue {
 public:
  ~run_queue() {
    while (endless::promise_type* const promise = pop()) {
      std::coroutine_handle<endless::promise_type>::from_promise(*promise).destroy();
    }
  }

  void push(endless::promise_type* promise) {
    promise->next = nullptr;
    *last_ = promise;
    last_ = &promise->next;
  }

  endless::promise_type* pop() {
    endless::promise_type* const promise = first_;
    if (promise != nullptr) {
      first_ = promise->next;
      if (first_ == nullptr) {
        last_ = &first_;
      }
    }
    return promise;
  }

 private:
  endless::promise_type* first_ = nullptr;
  endless::promise_type** last_ = &first_;
};

struct yield {
  run_queue& queue;

  bool await_ready() const noexcept { return false; }
  void await_suspend(std::coroutine_handle<endless::promise_type> self) const noexcept {
    queue.push(&self.promise());
  }
  void await_resume() const noexcept {}
};

endless yield_for_ever(run_queue& queue) {
  for (;;) {
    co_await yield{queue};
  }
}

double switch_coroutines(std::size_t count) {
  run_queue queue;
  for (std::size_t i = 0; i < count; ++i) {
    queue.push(&yield_for_ever(queue).handle.promise());
  }
  return micro::ns_per_iteration([&](std::size_t iterations) {
    for (std::size_t i = 0; i < iterations; ++i) {
      std::coroutine_handle<endless::promise_type>::from_promise(*queue.pop()).resume();
    }
    return iterations;
  });
}

// The barest lazy task: awaiting it starts it, its end resumes who awaits.
struct task {
  struct promise_type {
    static void* operator new(std::size_t bytes) {
      void* const frame = std::malloc(bytes);
      if (frame == nullptr) {
        throw std::bad_alloc();
      }
      return frame;
    }
    static void operator delete(void* frame) { std::free(frame); }

    task get_return_object() {
      return task{std::coroutine_handle<promise_type>::from_promise(*this)};
    }
    std::suspend_always initial_suspend() noexcept { return {}; }
    auto final_suspend() noexcept {
      struct resume_parent {
        bool await_ready() const noexcept { return false; }
        std::coroutine_handle<> await_suspend(
            std::coroutine_handle<promise_type> self) const noexcept {
          return self.promise().parent;
        }
        void await_resume() const noexcept {}
      };
      return resume_parent{};
    }
    void return_void() {}
    void unhandled_exception() { std::terminate(); }

    std::coroutine_handle<> parent = std::noop_coroutine();
  };

  explicit task(std::coroutine_handle<promise_type> handle) : handle(handle) {}
  task(const task&) = delete;
  ~task() { handle.destroy(); }

  bool await_ready() const noexcept { return false; }
  std::coroutine_handle<> await_suspend(std::coroutine_handle<> parent) const noexcept {
    handle.promise().parent = parent;
    return handle;
  }
  void await_resume() const noexcept {}

  std::coroutine_handle<promise_type> handle;
};

// Not inlined, so that no compiler sees that the frame could live in the caller's.
[[gnu::noinline]] task return_at_once() {
  co_return;
}

task call_children(std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) {
    co_await return_at_once();
  }
}

double spawn_coroutines() {
  return micro::ns_per_iteration([](std::size_t iterations) {
    const task caller = call_children(iterations);
    caller.handle.resume();
    return iterations;
  });
}

constexpr std::size_t parked = 100'000;

double park_coroutines() {
  run_queue queue;
  const std::size_t before = micro::resident_bytes();
  for (std::size_t i = 0; i < parked; ++i) {
    const endless waiting = yield_for_ever(queue);
    waiting.handle.resume();
  }
  return static_cast<double>(micro::resident_bytes() - before) / parked;
}

// ---- contexts on stacks --------------------------------------------------------------------

using boost::context::detail::fcontext_t;
using boost::context::detail::jump_fcontext;
using boost::context::detail::make_fcontext;
using boost::context::detail::transfer_t;

class stacks {
 public:
  static constexpr std::size_t stack_bytes = 16 * 1024;

  explicit stacks(std::size_t count) : bytes_(count * stack_bytes) {
    void* const memory = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) {
      throw std::bad_alloc();
    }
    memory_ = static_cast<char*>(memory);
  }
  stacks(const stacks&) = delete;
  ~stacks() { munmap(memory_, bytes_); }

  fcontext_t make_context(std::size_t number, void (*entry)(transfer_t)) const {
    constexpr std::size_t line = 64;
    constexpr std::size_t colours = 1024 / line;
    const std::size_t shift = number % colours * line;
    return make_fcontext(memory_ + (number + 1) * stack_bytes - shift, stack_bytes - shift, entry);
  }

 private:
  std::size_t bytes_;
  char* memory_ = nullptr;
};

// What the members of a ring share, and where each of them stands.
struct ring {
  explicit ring(std::size_t count) : table(count), memory(count) {}

  std::vector<fcontext_t> table;
  stacks memory;
  fcontext_t main = nullptr;
  std::size_t jumps_left = 0;
};

struct ring_place {
  ring& shared;
  fcontext_t* own;
  fcontext_t* next;
};

// Whoever jumps passes the place where the context it leaves behind is to be kept.
void keep_context(const transfer_t& from) {
  *static_cast<fcontext_t*>(from.data) = from.fctx;
}

void ring_member(transfer_t from) {
  const ring_place place = *static_cast<ring_place*>(from.data);
  from = jump_fcontext(from.fctx, place.own);
  for (;;) {
    keep_context(from);
    const bool last = --place.shared.jumps_left == 0;
    from = jump_fcontext(last ? place.shared.main : *place.next, place.own);
  }
}

double jump_around(std::size_t count) {
  ring shared(count);
  for (std::size_t i = 0; i < count; ++i) {
    ring_place place{shared, &shared.table[i], &shared.table[(i + 1) % count]};
    keep_context(jump_fcontext(shared.memory.make_context(i, ring_member), &place));
  }
  return micro::ns_per_iteration([&](std::size_t iterations) {
    shared.jumps_left = iterations;
    keep_context(jump_fcontext(shared.table[0], &shared.main));
    return iterations;
  });
}

void jump_back_for_ever(transfer_t from) {
  for (;;) {
    from = jump_fcontext(from.fctx, nullptr);
  }
}

double jump_pairs(std::size_t count) {
  const stacks memory(count);
  std::vector<fcontext_t> table(count);
  for (std::size_t i = 0; i < count; ++i) {
    table[i] = jump_fcontext(memory.make_context(i, jump_back_for_ever), nullptr).fctx;
  }
  std::size_t turn = 0;
  return micro::ns_per_iteration([&](std::size_t iterations) {
    for (std::size_t i = 0; i < iterations; ++i) {
      table[turn] = jump_fcontext(table[turn], nullptr).fctx;
      turn = turn + 1 == count ? 0 : turn + 1;
    }
    return iterations;
  });
}

void return_for_good(transfer_t from) {
  jump_fcontext(from.fctx, nullptr);
}

double spawn_contexts() {
  constexpr std::size_t pooled = 16;
  const stacks memory(pooled);
  std::vector<std::size_t> pool;
  for (std::size_t i = 0; i < pooled; ++i) {
    pool.push_back(i);
  }
  return micro::ns_per_iteration([&](std::size_t iterations) {
    for (std::size_t i = 0; i < iterations; ++i) {
      const std::size_t stack = pool.back();
      pool.pop_back();
      jump_fcontext(memory.make_context(stack, return_for_good), nullptr);
      pool.push_back(stack);
    }
    return iterations;
  });
}

double spawn_context_fibers() {
  using boost::context::fiber;
  boost::context::pooled_fixedsize_stack pool(stacks::stack_bytes);
  return micro::ns_per_iteration([&](std::size_t iterations) {
    for (std::size_t i = 0; i < iterations; ++i) {
      fiber(std::allocator_arg, pool, [](fiber&& from) { return std::move(from); }).resume();
    }
    return iterations;
  });
}

double park_contexts() {
  const std::size_t before = micro::resident_bytes();
  const stacks memory(parked);
  std::vector<fcontext_t> table(parked);
  for (std::size_t i = 0; i < parked; ++i) {
    table[i] = jump_fcontext(memory.make_context(i, jump_back_for_ever), nullptr).fctx;
  }
  return static_cast<double>(micro::resident_bytes() - before) / parked;
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<micro::bench_case> cases;
  for (const std::size_t count : {2, 100, 10'000}) {
    const std::string suffix = std::to_string(count);
    cases.push_back({"switch/coroutine/" + suffix, "floor-coroutine", "ns",
                     [count] { return switch_coroutines(count); }});
    cases.push_back({"switch/stack/" + suffix, "floor-stack-jump", "ns",
                     [count] { return jump_around(count); }});
    cases.push_back({"switch/stack/" + suffix, "floor-stack-pair", "ns",
                     [count] { return jump_pairs(count); }});
  }
  cases.push_back({"spawn/coroutine", "floor-coroutine", "ns", spawn_coroutines});
  cases.push_back({"spawn/stack", "floor-stack", "ns", spawn_contexts});
  cases.push_back({"spawn/stack", "floor-stack-fiber", "ns", spawn_context_fibers});
  cases.push_back({"spawn/parked-coroutine", "floor-coroutine", "bytes", park_coroutines});
  cases.push_back({"spawn/parked-stack", "floor-stack", "bytes", park_contexts});
  return micro::run(argc, argv, cases);
}
