#include <coir/trace/trace.hpp>

#include "ring.hpp"

#if defined(__x86_64__)
#include <x86intrin.h>
#endif

namespace coir::trace {

namespace {

std::uint64_t ticks_now() noexcept {
#if defined(__x86_64__)
  return __rdtsc();
#else
  return static_cast<std::uint64_t>(steady_now().time_since_epoch().count());
#endif
}

using own_records = ring<65536>;

own_records& own_ring() {
  thread_local own_records mine;
  return mine;
}

}  // namespace

void emit(const control& control, point what, std::uint64_t fiber, std::uint64_t a,
          std::uint64_t b) noexcept {
  own_ring().write({ticks_now(), static_cast<std::uint32_t>(fiber), what, control.loop, a, b});
}

std::vector<record> recorded() { return own_ring().read(); }
std::uint64_t lost() noexcept { return own_ring().lost(); }
void forget() noexcept { own_ring().forget(); }

}  // namespace coir::trace
