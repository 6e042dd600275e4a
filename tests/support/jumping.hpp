// A run on a clock that jumps when everything waits: an hour's limit takes no time.
#pragma once

#include "both.hpp"

#include <coir/coir.hpp>
#include <coir/testing/mock_clock.hpp>

#include <utility>

namespace support {

inline coir::run_options on(coir::time_source& clock) {
  return coir::run_options().loop(coir::loop_options().time(&clock));
}

// The body in a fiber on a stack; waiting is coir::await.
template <class Body>
void jumping(Body&& body) {
  coir::testing::mock_clock clock;
  coir::run(std::forward<Body>(body), on(clock));
}

// On both surfaces (both.hpp). Tasks too: wait(task) is await(task) on a stack, and co_await in a coroutine.
template <class Body>
void jumping_on_both(Body&& body) {
  coir::testing::mock_clock clock;
  on_both_surfaces(std::forward<Body>(body), on(clock));
}

inline coir::loop& loop_here() { return coir::running_fiber().home().on(); }
inline coir::instant now() { return loop_here().time(); }

}  // namespace support
