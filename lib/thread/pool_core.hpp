// What is behind a pool: its queue, its threads, and the one lock around both.
#pragma once

#include <coir/base/atomic.hpp>
#include <coir/base/list.hpp>
#include <coir/thread/pool.hpp>

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace coir {

// Counted: a job that has been taken by a thread, and whoever waits for it, may look here after the pool's end.
class pool_core {
 public:
  explicit pool_core(const pool_options& options);
  pool_core(const pool_core&) = delete;

  bool submit(priv::pool_job& what, bool only_if_room);
  bool withdraw(priv::pool_job& what) noexcept;
  long ahead_of(const priv::pool_job& what) const noexcept;
  void report(std::exception_ptr why) noexcept;
  // Nothing begins any more; returns when nothing runs.
  void end() noexcept;
  pool_stats stats() const noexcept;
  const std::string& name() const noexcept { return name_; }
  std::size_t limit() const noexcept { return limit_; }

  void hold() noexcept { references_.fetch_add(1, std::memory_order_relaxed); }
  void let_go() noexcept {
    // Acquire and release: whoever frees it sees what all others did.
    if (references_.fetch_sub(1, std::memory_order_acq_rel) == 1) delete this;
  }
  // Of this process, not of its parent.
  bool usable() const noexcept;
  void check_usable() const;

 private:
  // Kept for the next thread when its own leaves: whoever calls one out of its sleep may do so without the lock.
  struct worker : list_node {
    std::thread thread;
    std::thread before;  // the one whose place that has taken
    std::condition_variable called;
    unsigned number = 0;
    bool awake = true;
  };
  enum class state : std::uint8_t { open, ending };

  ~pool_core() = default;
  // With the lock. Null: the system refuses; `error` says why.
  bool start_thread(std::error_code& error);
  void work(worker& self) noexcept;
  // With the lock; null: there is nothing to do.
  priv::pool_job* next_job() noexcept;
  void run(priv::pool_job& what) noexcept;
  void rest(worker& self) noexcept;

  const std::string name_;
  const job_failure_handler on_failure_;
  const std::size_t limit_;
  const duration idle_time_;
  const unsigned most_;
  const unsigned least_;
  const unsigned process_;  // the how manieth fork of a line of ancestors

  mutable std::mutex lock_;
  list<priv::pool_job> jobs_;
  std::size_t length_ = 0;  // of that
  list<worker> idle_;       // the one that has worked last first: the others may leave
  std::vector<std::unique_ptr<worker>> workers_;  // all there were
  std::vector<worker*> free_;                     // those without a thread, or whose thread is leaving
  pool_stats stats_;
  instant retry_ = instant::min();  // after a refusal
  state state_ = state::open;

  coir::atomic<std::size_t> references_{1};
};

}  // namespace coir
