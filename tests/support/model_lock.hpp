// The locks of a program that tries all interleavings (model.hpp), of the shape of the real ones, as in model_atomic.hpp.
// Between lock() and unlock() nobody else goes on, if there is nothing else of the model's: then the lock's order is all
// there is to try.
#pragma once

#include "support/model.hpp"

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <mutex>

namespace coir {

class thread_mutex {
 public:
  thread_mutex() noexcept = default;
  thread_mutex(const thread_mutex&) = delete;
  void lock() noexcept {
    model::wait_at("lock", this, [this] { return !held_; }, false);
    held_ = true;
  }
  void unlock() noexcept {
    held_ = false;
    model::point("unlock", this);
  }

 private:
  friend class thread_condition;
  alignas(std::mutex) bool held_ = false;
  [[maybe_unused]] std::byte rest_[sizeof(std::mutex) - sizeof(bool)];
};

class thread_condition {
 public:
  thread_condition() noexcept = default;
  thread_condition(const thread_condition&) = delete;

  void notify_one() noexcept {
    model::point("notify", this);
    if (waiter* const first = first_) {
      first_ = first->next;
      first->called = true;
    }
    model::point("after", this);
  }
  // How long is decided by the model: model::options::timeouts.
  template <class Rep, class Period, class Predicate>
  bool wait_for(std::unique_lock<thread_mutex>& held, std::chrono::duration<Rep, Period>, Predicate holds) {
    while (!holds()) {
      if (!wait(*held.mutex())) return holds();
    }
    return true;
  }

 private:
  struct waiter {
    waiter* next = nullptr;
    bool called = false;
  };
  // To let go and to wait is one step. False: its time was over.
  bool wait(thread_mutex& with) noexcept {
    waiter mine;
    waiter** at = &first_;
    while (*at != nullptr) at = &(*at)->next;
    *at = &mine;
    with.held_ = false;
    const bool called = model::wait_at("wait for", this, [&mine] { return mine.called; }, true);
    for (at = &first_; *at != nullptr; at = &(*at)->next) {
      if (*at != &mine) continue;
      *at = mine.next;
      break;
    }
    with.lock();
    return called;
  }

  alignas(std::condition_variable) waiter* first_ = nullptr;
  [[maybe_unused]] std::byte rest_[sizeof(std::condition_variable) - sizeof(waiter*)];
};

static_assert(sizeof(thread_mutex) == sizeof(std::mutex) && alignof(thread_mutex) == alignof(std::mutex));
static_assert(sizeof(thread_condition) == sizeof(std::condition_variable) &&
              alignof(thread_condition) == alignof(std::condition_variable));

}  // namespace coir
