// Both bodies, for tests whose text is a coroutine.
//
//   in_both([] { return my_task(); });
//
// runs the task once as the body of a fiber and once awaited by a function on a stack.
#pragma once

#include <coir/coir.hpp>

namespace support {

template <class Make>
void in_both(Make&& make, const coir::run_options& options = {}) {
  coir::run(make(), options);
  coir::run([&] { coir::await(make()); }, options);
}

}  // namespace support
