// What a pool is but for its threads: the jobs, those who wait for one, and the one lock around both. Whose threads
// they are and how they begin is its crew's business, so that a test can have it tried by threads of another kind
// (tests/thread/model_pool_test.cpp). Private to lib/thread.
#pragma once

#include "lock.hpp"

#include <coir/base/atomic.hpp>
#include <coir/base/list.hpp>
#include <coir/base/time.hpp>
#include <coir/thread/pool.hpp>

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <system_error>

namespace coir {

class pool_queue {
 public:
  // A thread, from its first next() to the one that returns null, and then the next thread in its place. It is never
  // destroyed before the queue: whoever calls one out of its sleep does so without the lock.
  struct worker : list_node {
    thread_condition called;
    coir::atomic<bool> awake{true};
  };
  class crew {
   public:
    // With the lock. True: one more thread will call next(), as a worker that has left, or a new one. False: none; why
    // not, if it was tried, as it must be for the first.
    virtual bool one_more(list<worker>& left, bool first, std::error_code& error) noexcept = 0;
    virtual instant now() const noexcept = 0;

   protected:
    ~crew() = default;
  };
  struct limits {
    std::size_t jobs;
    unsigned threads;
    unsigned kept;
    duration idle;
    duration spin;
  };
  enum class answer : std::uint8_t { taken, full, ending, no_thread };

  pool_queue(crew& threads, const limits& at) noexcept : crew_(threads), limits_(at), spin_(at.spin) {}
  pool_queue(const pool_queue&) = delete;
  ~pool_queue() {
    while (!left_.empty()) left_.pop_front();
  }

  // `error`: why there is no thread at all, and none to be had.
  answer submit(priv::pool_job& what, bool only_if_room, std::error_code& error) noexcept;
  bool withdraw(priv::pool_job& what) noexcept;
  long ahead_of(const priv::pool_job& what) const noexcept;
  pool_stats stats() const noexcept;

  // The next job for a thread, which is free for it before anybody hears that its last one is done. Null: it leaves.
  priv::pool_job* next(worker& self, priv::pool_job* done) noexcept;
  static void run(priv::pool_job& what) noexcept { what.kind_->run(what); }

  // Nothing begins any more, and every thread leaves.
  void end() noexcept;

 private:
  // With the lock; null: there is nothing to do.
  priv::pool_job* first() noexcept;
  void rest(worker& self) noexcept;
  void call(worker& whom) noexcept;
  // Without it: looks for a while whether it is called.
  void look_out(const worker& self, instant until) const noexcept;

  crew& crew_;
  const limits limits_;

  mutable thread_mutex lock_;
  list<priv::pool_job> jobs_;
  std::size_t length_ = 0;  // of that
  list<worker> idle_;       // the one that has worked last first: the others may leave
  worker* looks_out_ = nullptr;  // idle as well, and called before the others; at most one, as it costs a processor
  duration spin_;                // as long as it helps
  list<worker> left_;       // without a thread, or with one that has let go of everything else
  pool_stats stats_;
  bool ending_ = false;
};

}  // namespace coir
