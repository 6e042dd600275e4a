// Counts what a test program has on the heap, by replacing the global operator new. Included by one
// file of a program. The sanitizers bring their own operator new, which clang does not let be
// replaced, and find what is lost themselves: there nothing is counted, and the counts stay zero.
#pragma once

#include <coir/base/config.hpp>

#include <malloc.h>

#include <atomic>
#include <cstddef>
#include <cstdlib>
#include <new>

namespace support {

inline constexpr bool heap_is_counted = !COIR_ADDRESS_SANITIZER && !COIR_THREAD_SANITIZER;

inline struct {
  std::atomic<long> allocations = 0;  // ever made
  std::atomic<long> blocks = 0;       // alive
  std::atomic<long> bytes = 0;        // alive, as malloc counts: rounded up, and with its header
  std::atomic<bool> exhausted = false;  // set by a test: there is no memory
} heap;

}  // namespace support

#if !COIR_ADDRESS_SANITIZER && !COIR_THREAD_SANITIZER

namespace support {

inline long cost_of(void* memory) {
  return static_cast<long>(::malloc_usable_size(memory) + sizeof(std::size_t));
}
inline void* counted(void* memory) {
  if (memory == nullptr || heap.exhausted) {
    std::free(memory);
    throw std::bad_alloc();
  }
  ++heap.allocations;
  ++heap.blocks;
  heap.bytes += cost_of(memory);
  return memory;
}

}  // namespace support

// Where gcc inlines only one of a pair, it warns that the two do not match.
[[gnu::noinline]] void* operator new(std::size_t bytes) {
  return support::counted(std::malloc(bytes));
}
[[gnu::noinline]] void* operator new(std::size_t bytes, std::align_val_t alignment) {
  const auto step = static_cast<std::size_t>(alignment);
  return support::counted(std::aligned_alloc(step, (bytes + step - 1) / step * step));
}
[[gnu::noinline]] void operator delete(void* memory) noexcept {
  if (memory == nullptr) return;
  --support::heap.blocks;
  support::heap.bytes -= support::cost_of(memory);
  std::free(memory);
}
[[gnu::noinline]] void operator delete(void* memory, std::size_t) noexcept {
  operator delete(memory);
}
[[gnu::noinline]] void operator delete(void* memory, std::align_val_t) noexcept {
  operator delete(memory);
}
[[gnu::noinline]] void operator delete(void* memory, std::size_t, std::align_val_t) noexcept {
  operator delete(memory);
}

#endif
