// coir/thread/pool.hpp: threads that run calls that block, so that no loop has to.
//
//   coir::pool threads(coir::pool_options().threads(8));
//   int v = co_await coir::offload(threads, blocking_call);   // or coir::await(...): coir/thread/offload.hpp
//   threads.post([&] { write_down(v); });                     // nobody waits for it
//   coir::default_pool().stats().threads;                     // the one of the process
//                                                             [tests/thread/pool_test.cpp]
//
// A thread begins when a job comes and nobody is free for it, up to the limit. One that has been idle for its time
// leaves, down to the number to be kept.
//
// Shape    an object that is neither copied nor moved. Jobs are handed over, not the fibers that wait for them.
// Order    jobs begin in the order in which they were given, whoever gave them.
// Thread   any: post(), try_post(), stats() and offload() from loops, jobs and threads that are neither. Jobs run on
//          threads named coir-pool-1, coir-pool-2, ..., which have all signals blocked but SIGTRAP and those that
//          come of what a thread does itself (SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGSYS). No fiber runs there:
//          awaiting in a job is std::logic_error. Whoever destroys the pool waits for the jobs that run, so no job
//          may destroy its own pool: that ends the program.
// Full     queue(n) is how many jobs may have been given and not begun. What comes then: an offload() waits outside,
//          in its turn, in the frame of its fiber; try_offload() and try_post() say no; post() throws.
// Lifetime at the pool's end jobs that run are waited for. Those that have not begun never do: a fiber that waits for
//          one gets std::errc::operation_canceled, and what was posted is dropped.
// Fork     a child process has none of its parent's threads: there every use of the pool is std::logic_error, and its
//          end waits for nothing. default_pool() is another one there. A job that forks must end the child itself.
// Cancel   a job that was taken out of the queue never runs; one that runs is told through its std::stop_token, if it
//          takes one. More in coir/thread/offload.hpp.
// Errors   std::system_error: EAGAIN, posting to a full pool; ECANCELED, to one that is ending; what the system says
//          when not even a first thread can be started (with one or more, it goes on with those). std::logic_error:
//          no threads at all, a queue of nothing, in a child process. What a posted job throws goes to on_failure().
// Cost     a job: a lock to give it and one to begin it, and a futex(2) when somebody sleeps (pool_options::spin is
//          against that). A post allocates; an offload does not.
// See      coir/thread/offload.hpp; lib/thread/NOTE.md, which says why there is one queue
#pragma once

#include <coir/base/list.hpp>
#include <coir/base/time.hpp>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>

namespace coir {

class loop;

using job_failure_handler = std::function<void(std::exception_ptr why)>;

class pool_options {
 public:
  pool_options() noexcept {}

  // At most so many; 0: as many as there are processors, but at least 4.
  pool_options& threads(unsigned most) noexcept { return most_ = most, *this; }
  // So many stay when there is nothing to do. They too begin with the first jobs only.
  pool_options& keep(unsigned least) noexcept { return least_ = least, *this; }
  // How many jobs may wait inside.
  pool_options& queue(std::size_t limit) noexcept { return limit_ = limit, *this; }
  // How long a thread waits for a job before it leaves.
  template <class Rep, class Period>
  pool_options& idle(std::chrono::duration<Rep, Period> time) noexcept {
    return idle_ = saturated(time), *this;
  }
  // Before it sleeps a thread looks so long for a job, so that who gives one soon need not wake it; one at a time does.
  // It costs processor time; for jobs that are short and follow each other, where there are processors to spare. It
  // looks half as long after each time in vain, and again as long when a job came soon after it lay down. The other half
  // of the way there and back is the loop's: loop_options::spin. 0, the default: not at all.
  template <class Rep, class Period>
  pool_options& spin(std::chrono::duration<Rep, Period> at_most) noexcept {
    return spin_ = saturated(at_most), *this;
  }
  // Before the number, as in coir-pool-1. The kernel shows 15 bytes: of a long name the end is cut off.
  pool_options& name(std::string prefix) noexcept { return name_ = std::move(prefix), *this; }
  // Hears, on the job's thread, what a posted job threw; must not throw itself. Without one it is a line on
  // standard error.
  pool_options& on_failure(job_failure_handler handler) noexcept {
    return on_failure_ = std::move(handler), *this;
  }

 private:
  friend class pool_core;
  std::string name_ = "coir-pool";
  job_failure_handler on_failure_;
  std::size_t limit_ = 1024;
  duration idle_ = std::chrono::seconds(10);
  duration spin_ = duration::zero();
  unsigned most_ = 0;
  unsigned least_ = 0;
};

struct pool_stats {
  unsigned threads = 0;
  unsigned idle = 0;      // of those
  std::size_t queued = 0;   // given and not begun, at most the limit
  std::size_t waiting = 0;  // the jobs of fibers that wait for room
  unsigned threads_at_most = 0;    // so far
  std::uint64_t threads_started = 0;
  std::uint64_t threads_left = 0;  // because they had nothing to do
  std::uint64_t threads_refused = 0;  // by the system
  std::uint64_t begun = 0;
  std::uint64_t done = 0;
  std::uint64_t withdrawn = 0;  // taken out before they began
  std::uint64_t dropped = 0;    // the pool ended before they began
  std::uint64_t refused = 0;    // there was no room
  std::uint64_t spins_helped = 0;  // a job came while a thread looked for one (pool_options::spin)
  std::uint64_t spins_in_vain = 0;
};

class pool_core;
class pool_queue;

namespace priv {

// Something to run, which is part of whatever waits for it.
class pool_job : public list_node {
 public:
  struct kind {
    void (*run)(pool_job&) noexcept;     // on a thread of the pool
    void (*finish)(pool_job&) noexcept;  // then, when that thread is free again; the job may be gone afterwards
    void (*drop)(pool_job&) noexcept;    // in place of both, on the thread that ends the pool
  };
  explicit pool_job(const kind& what) noexcept : kind_(&what) {}

 protected:
  ~pool_job() = default;
  pool_job(const pool_job&) noexcept = default;

 private:
  friend class coir::pool_queue;
  const kind* kind_;
};

// The pool behind the object, for those whose jobs may outlive that: counted, any thread.
class pool_link {
 public:
  pool_link() noexcept = default;
  explicit pool_link(pool_core& to) noexcept;
  pool_link(pool_link&& other) noexcept : to_(std::exchange(other.to_, nullptr)) {}
  pool_link(const pool_link& other) noexcept : to_(other.to_) {
    if (to_ != nullptr) hold();
  }
  pool_link& operator=(pool_link other) noexcept {
    std::swap(to_, other.to_);
    return *this;
  }
  ~pool_link() {
    if (to_ != nullptr) let_go();
  }
  explicit operator bool() const noexcept { return to_ != nullptr; }

  // Throws std::logic_error in a child process.
  void check_usable() const;
  // False: `only_if_room`, and there is none.
  bool submit(pool_job& what, bool only_if_room) const;
  // True: it had not begun, and never will.
  bool withdraw(pool_job& what) const noexcept;
  // How many are in front of it; negative: it has begun.
  long ahead_of(const pool_job& what) const noexcept;
  void report(std::exception_ptr why) const noexcept;
  const std::string& name() const noexcept;

 private:
  void hold() const noexcept;
  void let_go() const noexcept;
  pool_core* to_ = nullptr;
};

// Nobody waits for it.
template <class F>
class posted_job final : public pool_job {
 public:
  template <class From>
  posted_job(From&& function, pool_link&& on)
      : pool_job(kind_of_this), function_(std::forward<From>(function)), on_(std::move(on)) {}

 private:
  static void run(pool_job& job) noexcept {
    auto& self = static_cast<posted_job&>(job);
    try {
      self.function_();
    } catch (...) {
      self.on_.report(std::current_exception());
    }
  }
  static void end(pool_job& job) noexcept { delete static_cast<posted_job*>(&job); }
  static constexpr kind kind_of_this{run, end, end};

  F function_;
  pool_link on_;
};

}  // namespace priv

class pool {
 public:
  explicit pool(const pool_options& options = {});
  pool(const pool&) = delete;
  pool& operator=(const pool&) = delete;
  ~pool();

  // Runs it some time, and tells nobody.
  template <class F>
  void post(F&& function) {
    if (!give(std::forward<F>(function))) refuse();
  }
  // False: there is no room, and the function is as it was, but for a move.
  template <class F>
  [[nodiscard]] bool try_post(F&& function) {
    return give(std::forward<F>(function));
  }

  pool_stats stats() const noexcept;
  const std::string& name() const noexcept;
  priv::pool_link link() const noexcept { return priv::pool_link(*core_); }

 private:
  template <class F>
  bool give(F&& function) {
    using job = priv::posted_job<std::decay_t<F>>;
    struct free_job {
      void operator()(job* what) const noexcept { delete what; }
    };
    std::unique_ptr<job, free_job> made(new job(std::forward<F>(function), link()));
    if (!link().submit(*made, true)) return false;
    static_cast<void>(made.release());
    return true;
  }
  [[noreturn, gnu::cold]] void refuse() const;

  pool_core* core_;
};

// The pool of this process, made when it is first asked for, and its threads with its first jobs. It is not destroyed:
// a program that ends does not wait for it.
pool& default_pool();

// What may block on this loop and is no request of the kernel's (files, and closing what lingers, on epoll) runs on
// `threads` from here on. Loops of coir::run and of runtimes have the default pool. The loop's thread, between its
// requests; the pool may end before the loop, which then runs such things itself.
void use_pool(loop& on, pool& threads);

namespace priv {
// Whoever sees this header has pools: coir::run is told so before main(), also where the library is a static one, out
// of which only what is named is linked.
bool know_pools() noexcept;
inline const bool pools_are_known = know_pools();
}  // namespace priv

}  // namespace coir
