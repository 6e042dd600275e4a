// All loops of the process, for the one moment when they must all be found: fork(2). Private to lib/loop.
#pragma once

#include <coir/loop/loop.hpp>

#include <cstdint>

namespace coir {

class loop_registry {
 public:
  // Also gives the loop its number. Throws nothing but std::bad_alloc.
  static void add(loop& made);
  static void remove(loop& gone) noexcept;
  // Closes a descriptor of the loop that had this number, from any thread: on that loop, or, when it is
  // gone, at once.
  static void close(loop* of, std::uint16_t number, int fd) noexcept;

 private:
  static void before_fork() noexcept;
  static void in_parent() noexcept;
  static void in_child() noexcept;
};

}  // namespace coir
