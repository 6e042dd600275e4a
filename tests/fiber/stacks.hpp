// For tests of stacks: using them up, and how much memory the process has.
#pragma once

#include <coir/base/config.hpp>

#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>

namespace support {

// Recursion that uses at least so many bytes of the stack, and the deepest address it reached.
[[gnu::noinline]] inline std::uintptr_t dive(std::size_t bytes) {
  volatile char block[512];
  block[0] = 1;
  std::uintptr_t deeper = 0;
  if (bytes <= sizeof block) {
    deeper = reinterpret_cast<std::uintptr_t>(&block[0]);
  } else {
    deeper = dive(bytes - sizeof block);
  }
  // After the call, so that it is none that returns at once.
  block[1] = block[0];
  return deeper;
}

struct memory_use {
  std::size_t virtual_bytes = 0;
  std::size_t resident_bytes = 0;
};
inline memory_use memory_of_process() {
  memory_use found;
  std::FILE* const file = std::fopen("/proc/self/statm", "re");
  if (file == nullptr) return found;
  const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  std::size_t pages = 0;
  std::size_t resident = 0;
  if (std::fscanf(file, "%zu %zu", &pages, &resident) == 2) found = {pages * page, resident * page};
  std::fclose(file);
  return found;
}

// Sanitizers have memory of their own for all that they watch.
inline constexpr bool sanitized = COIR_ADDRESS_SANITIZER || COIR_THREAD_SANITIZER;

}  // namespace support
