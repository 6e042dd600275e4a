// All loops of the process, for the one moment when they must all be found: fork(2). Private to lib/loop.
#pragma once

#include <coir/loop/loop.hpp>
#include <coir/loop/loop_link.hpp>

#include <cstdint>

namespace coir {

class loop_registry {
 public:
  // Also gives the loop its number. Throws std::bad_alloc, and std::system_error when there are too many.
  static void add(loop& made);
  static void remove(loop& gone) noexcept;
  // It is the calling thread's from now on. Under the lock, because visit() asks whose it is.
  static void settle(loop& found) noexcept;
  // 0: there is none at this address.
  static unsigned number_of(const loop* which) noexcept;
  // loop_link::visit() from elsewhere than the running loop that had this number.
  static void visit(loop* which, std::uint16_t number, loop_link::work visiting, void* what) noexcept;

 private:
  static std::uint16_t free_number();
  static void before_fork() noexcept;
  static void in_parent() noexcept;
  static void in_child() noexcept;
};

}  // namespace coir
