// The atomics of a program that tries all interleavings (model.hpp). They have the shape of the real ones, so that what
// was compiled with these can be linked with what was not.
#pragma once

#include "support/model.hpp"

#include <atomic>

namespace coir {

template <class T>
class atomic {
 public:
  constexpr atomic() noexcept = default;
  constexpr atomic(T first) noexcept : value_(first) {}
  atomic(const atomic&) = delete;
  atomic& operator=(const atomic&) = delete;

  T load(std::memory_order = std::memory_order_seq_cst) const noexcept {
    const around now("load", this);
    return value_.load();
  }
  void store(T what, std::memory_order = std::memory_order_seq_cst) noexcept {
    const around now("store", this);
    value_.store(what);
  }
  T exchange(T what, std::memory_order = std::memory_order_seq_cst) noexcept {
    const around now("exchange", this);
    return value_.exchange(what);
  }
  bool compare_exchange_strong(T& expected, T wanted, std::memory_order = std::memory_order_seq_cst,
                               std::memory_order = std::memory_order_seq_cst) noexcept {
    const around now("compare and exchange", this);
    return value_.compare_exchange_strong(expected, wanted);
  }
  bool compare_exchange_weak(T& expected, T wanted, std::memory_order = std::memory_order_seq_cst,
                             std::memory_order = std::memory_order_seq_cst) noexcept {
    return compare_exchange_strong(expected, wanted);
  }
  T fetch_add(T count, std::memory_order = std::memory_order_seq_cst) noexcept {
    const around now("add", this);
    return value_.fetch_add(count);
  }
  T fetch_sub(T count, std::memory_order = std::memory_order_seq_cst) noexcept {
    const around now("subtract", this);
    return value_.fetch_sub(count);
  }
  T fetch_or(T bits, std::memory_order = std::memory_order_seq_cst) noexcept {
    const around now("or", this);
    return value_.fetch_or(bits);
  }
  T fetch_and(T bits, std::memory_order = std::memory_order_seq_cst) noexcept {
    const around now("and", this);
    return value_.fetch_and(bits);
  }
  operator T() const noexcept { return load(); }

 private:
  // After it too: what a thread does next may be a system call, before which others may go on.
  struct around {
    around(const char* what, const volatile void* where) : what_(what), where_(where) { model::point(what, where); }
    ~around() { model::point("after", where_); }
    const char* what_;
    const volatile void* where_;
  };

  std::atomic<T> value_;
};

static_assert(sizeof(atomic<void*>) == sizeof(std::atomic<void*>) && sizeof(atomic<bool>) == sizeof(std::atomic<bool>));

}  // namespace coir
