#include <coir/thread/pool.hpp>

#include "pool_core.hpp"
#include "start_thread.hpp"

#include <coir/base/error.hpp>

#include <fmt/format.h>
#include <pthread.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <new>

namespace coir {

namespace {

constexpr unsigned threads_at_least = 4;
constexpr duration idle_at_most = std::chrono::hours(24 * 365);  // longer does not fit into a time to wait until
// Where the system has refused a thread, every job would ask it again.
constexpr duration refusal_lasts = std::chrono::milliseconds(100);

// How many forks lie between the first process and this one, and which pool is its default one. Read and written in
// the only thread that a child has.
struct process_pool {
  pool threads{pool_options()};
  process_pool* of_parent = nullptr;  // kept in sight, so that it is no leak
};
constinit coir::atomic<unsigned> forks{0};
constinit coir::atomic<process_pool*> of_process{nullptr};
constinit coir::atomic<process_pool*> of_parent{nullptr};

// A pool that has ended in a child process: what its parent's threads had in hand there stays as it is.
struct left_behind {
  pool_core* core;
  left_behind* next;
};
constinit coir::atomic<left_behind*> inherited{nullptr};

constinit thread_local const pool_core* works_for = nullptr;

void count_forks() {
  static const int installed = ::pthread_atfork(nullptr, nullptr, [] {
    forks.fetch_add(1, std::memory_order_relaxed);
    if (process_pool* const known = of_process.exchange(nullptr, std::memory_order_relaxed)) {
      of_parent.store(known, std::memory_order_relaxed);
    }
  });
  if (installed != 0) throw_error(installed, "pthread_atfork for a pool");
}

unsigned most_of(unsigned wanted) noexcept {
  return wanted != 0 ? wanted : std::max(std::thread::hardware_concurrency(), threads_at_least);
}

}  // namespace

// --- pool_core ---

pool_core::pool_core(const pool_options& options)
    : name_(options.name_),
      on_failure_(options.on_failure_),
      limit_(options.limit_),
      process_(forks.load(std::memory_order_relaxed)),
      queue_(*this, {options.limit_, most_of(options.most_), options.least_,
                     std::clamp(options.idle_, duration::zero(), idle_at_most),
                     std::max(options.spin_, duration::zero())}) {
  if (options.least_ > most_of(options.most_)) {
    throw_misuse(fmt::format("pool {}: {} threads are to be kept, of at most {}", name_, options.least_,
                             most_of(options.most_)));
  }
  if (limit_ == 0) {
    throw_misuse(fmt::format("pool {}: a queue for no job at all, through which none could come", name_));
  }
  count_forks();
}

bool pool_core::usable() const noexcept { return process_ == forks.load(std::memory_order_relaxed); }

void pool_core::check_usable() const {
  if (!usable()) {
    throw_misuse(fmt::format("pool {} was used in a child process (fork) of the one that made it, which has none of "
                             "its threads; make a new one there, or use coir::default_pool()",
                             name_));
  }
}

bool pool_core::submit(priv::pool_job& what, bool only_if_room) {
  check_usable();
  std::error_code error;
  switch (queue_.submit(what, only_if_room, error)) {
    case pool_queue::answer::taken: return true;
    case pool_queue::answer::full: return false;
    case pool_queue::answer::ending:
      throw_error(ECANCELED, fmt::format("giving a job to pool {}, which is ending", name_));
    case pool_queue::answer::no_thread: break;
  }
  throw std::system_error(error, fmt::format("starting the first thread of pool {}", name_));
}

bool pool_core::one_more(list<pool_queue::worker>& left, bool first, std::error_code& error) noexcept {
  if (!first && retry_ != instant::min() && steady_now() < retry_) return false;
  try {
    if (left.empty()) {
      workers_.push_back(std::make_unique<worker>());
      workers_.back()->number = static_cast<unsigned>(workers_.size());
      left.push_front(*workers_.back());
    }
    auto& next = static_cast<worker&>(left.front());
    // One that is just leaving has let go of everything but its thread, on which what jobs keep for it may be on its way
    // out, and may use this pool: nobody waits for that under the lock.
    if (next.thread.joinable()) next.before = std::move(next.thread);
    const priv::all_signals_blocked inherited_by_it;
    next.thread = std::thread([this, &next] {
      if (next.before.joinable()) next.before.join();
      work(next);
    });
    next.unlink();
  } catch (const std::system_error& refusal) {
    error = refusal.code();
  } catch (const std::bad_alloc&) {
    error = error_of(ENOMEM);
  }
  retry_ = error ? after(steady_now(), refusal_lasts) : instant::min();
  return !error;
}

void pool_core::run(priv::pool_job& what) noexcept {
  pool_queue::run(what);
  if (usable()) return;
  priv::tell(fmt::format("coir: a job of pool {} forked, and the child came back from it; it must end there, in exec "
                         "or _exit\n",
                         name_));
  std::abort();
}

void pool_core::work(worker& self) noexcept {
  works_for = this;
  const std::string number = fmt::format("-{}", self.number);
  priv::name_this_thread(name_.substr(0, priv::thread_name_bytes - number.size()) + number);
  for (priv::pool_job* now = queue_.next(self, nullptr); now != nullptr; now = queue_.next(self, now)) run(*now);
}

bool pool_core::withdraw(priv::pool_job& what) noexcept { return usable() && queue_.withdraw(what); }
long pool_core::ahead_of(const priv::pool_job& what) const noexcept { return usable() ? queue_.ahead_of(what) : -1; }

void pool_core::report(std::exception_ptr why) noexcept {
  if (on_failure_) {
    on_failure_(std::move(why));
    return;
  }
  priv::tell(fmt::format("coir: a job that was posted to pool {} failed: {}\n", name_, priv::text_of(why)));
}

void pool_core::end() noexcept {
  if (works_for == this) {
    priv::tell(fmt::format("coir: a job of pool {} destroys that pool, whose end would wait for the job\n", name_));
    std::abort();
  }
  queue_.end();
  for (const auto& each : workers_) {
    if (each->thread.joinable()) each->thread.join();
    if (each->before.joinable()) each->before.join();
  }
}

pool_stats pool_core::stats() const noexcept { return usable() ? queue_.stats() : pool_stats(); }

// --- pool ---

pool::pool(const pool_options& options) : core_(new pool_core(options)) {}

pool::~pool() {
  if (core_->usable()) {
    core_->end();
    core_->let_go();
    return;
  }
  // Its lock may be held by a thread that is not there, as may be any of what it owns.
  auto* const mine = new left_behind{core_, inherited.load(std::memory_order_relaxed)};
  while (!inherited.compare_exchange_weak(mine->next, mine, std::memory_order_relaxed)) {
  }
}

pool_stats pool::stats() const noexcept { return core_->stats(); }
const std::string& pool::name() const noexcept { return core_->name(); }

void pool::refuse() const {
  throw_error(EAGAIN, fmt::format("posting a job to pool {}, where {} wait already", name(), core_->limit()));
}

pool& default_pool() {
  // Acquire: pairs with the release of whoever made it.
  process_pool* known = of_process.load(std::memory_order_acquire);
  if (known == nullptr) {
    auto made = std::make_unique<process_pool>();
    made->of_parent = of_parent.load(std::memory_order_relaxed);
    // Of two threads that come at the same time one makes it.
    if (of_process.compare_exchange_strong(known, made.get(), std::memory_order_acq_rel)) known = made.release();
  }
  return known->threads;
}

// --- pool_link ---

namespace priv {

pool_link::pool_link(pool_core& to) noexcept : to_(&to) { to.hold(); }
void pool_link::hold() const noexcept { to_->hold(); }
void pool_link::let_go() const noexcept { to_->let_go(); }
void pool_link::check_usable() const { to_->check_usable(); }
bool pool_link::submit(pool_job& what, bool only_if_room) const { return to_->submit(what, only_if_room); }
bool pool_link::withdraw(pool_job& what) const noexcept { return to_->withdraw(what); }
long pool_link::ahead_of(const pool_job& what) const noexcept { return to_->ahead_of(what); }
void pool_link::report(std::exception_ptr why) const noexcept { to_->report(std::move(why)); }
const std::string& pool_link::name() const noexcept { return to_->name(); }

}  // namespace priv

}  // namespace coir
