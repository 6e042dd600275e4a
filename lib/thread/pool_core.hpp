// What is behind a pool: its queue, and its threads.
#pragma once

#include "pool_queue.hpp"

#include <coir/base/atomic.hpp>
#include <coir/base/list.hpp>
#include <coir/thread/pool.hpp>

#include <cstddef>
#include <memory>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

namespace coir {

// Counted: a job that has been taken by a thread, and whoever waits for it, may look here after the pool's end.
class pool_core final : pool_queue::crew {
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
  // Kept for the next thread when its own leaves.
  struct worker : pool_queue::worker {
    std::thread thread;
    std::thread before;  // the one whose place that has taken
    unsigned number = 0;
  };

  ~pool_core() = default;
  bool one_more(list<pool_queue::worker>& left, bool first, std::error_code& error) noexcept override;
  instant now() const noexcept override { return steady_now(); }
  void work(worker& self) noexcept;
  void run(priv::pool_job& what) noexcept;

  const std::string name_;
  const job_failure_handler on_failure_;
  const std::size_t limit_;
  const unsigned process_;  // the how manieth fork of a line of ancestors

  // With the queue's lock, and without it when that has ended.
  std::vector<std::unique_ptr<worker>> workers_;  // all there were
  instant retry_ = instant::min();  // after a refusal
  pool_queue queue_;

  coir::atomic<std::size_t> references_{1};
};

}  // namespace coir
