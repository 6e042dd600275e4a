// coir/base/relax.hpp: tells the processor that this thread looks for what another one is about to do.
//
//   while (!awake.load(std::memory_order_relaxed) && steady_now() < until) priv::relax();
//
// Shape    a function.
// Thread   any.
// Errors   none.
// Cost     10 to 150 cycles, in which the other thread of the same core has the processor.
#pragma once

namespace coir::priv {

inline void relax() noexcept {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace coir::priv
