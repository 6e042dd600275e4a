// coir/fiber/loop_bound.hpp: a member of what belongs to one loop and has no lock; it notices another loop.
//
//   void my_lock::lock() { bound_.check(); ... }              [tests/sync/wait_list_test.cpp]
//
// Shape    a loop and its number: another loop may have its address by now.
// Thread   any that runs a loop; one that runs none may use everything.
// Errors   check() in a fiber, or a callback, of another loop than the one it was made for, or the first that used it: a
//          line on standard error that names both, and std::abort(). Whose loop has ended belongs to the next that uses it.
// Cost     a comparison. With NDEBUG nothing is checked.
// See      coir/sync/wait_list.hpp; lib/fiber/NOTE.md
#pragma once

#include <coir/fiber/fiber_base.hpp>
#include <coir/fiber/fiber_home.hpp>
#include <coir/loop/loop.hpp>

#include <cstdint>

namespace coir::priv {

class loop_bound {
 public:
  loop_bound() noexcept = default;
  explicit loop_bound(const loop& to) noexcept : bound_(&to), number_(to.number()) {}

  void check() noexcept {
#if !defined(NDEBUG)
    const loop* const here = loop_here();
    if (here != bound_ || (here != nullptr && here->number() != number_)) [[unlikely]]
      bind(here);
#endif
  }

 private:
  void bind(const loop* here) noexcept;
  // There also where nothing is checked: who includes this may be built otherwise.
  const loop* bound_ = nullptr;
  std::uint16_t number_ = 0;
};

}  // namespace coir::priv
