// Lets the other fibers run until something holds.
#pragma once

#include <coir/coir.hpp>

#include "support/catch.hpp"

#include <chrono>

namespace support {

// Called on a stack. It yields and never sleeps: what has to happen is under way. The limit only ends a
// test that has failed.
template <class Condition>
void until(Condition&& holds) {
  const coir::instant limit = coir::after(coir::steady_now(), std::chrono::seconds(20));
  while (!holds()) {
    if (coir::steady_now() > limit) FAIL("what was waited for does not happen");
    coir::await(coir::yield());
  }
}

inline bool dead(const coir::handle_base& whom) {
  return whom.state() == coir::fiber_state::dead;
}
inline bool waiting(const coir::handle_base& whom) {
  return whom.state() == coir::fiber_state::waiting;
}

}  // namespace support
