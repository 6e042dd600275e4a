// coir/base/atomic.hpp: the one name under which coir uses atomics, so that a test can put others in their place.
//
//   coir::atomic<int> count{0};
//   count.fetch_add(1, std::memory_order_relaxed);            [tests/model/model_test.cpp]
//
// A program that tries all interleavings of a few threads (tests/support/model.hpp) compiles our files once more with
// COIR_ATOMIC_HEADER set to a header with atomics of its own, in which every access is a place where another thread may
// go on.
//
// Shape    std::atomic, and nothing around it.
// Thread   any.
// Errors   none.
// Cost     that of std::atomic.
#pragma once

#if defined(COIR_ATOMIC_HEADER)
#include COIR_ATOMIC_HEADER
#else

#include <atomic>

namespace coir {

template <class T>
using atomic = std::atomic<T>;

}  // namespace coir

#endif
