// The one name under which the pool's queue uses locks, so that a test can put others in their place, as with
// coir/base/atomic.hpp: COIR_LOCK_HEADER is a header with locks of its own. Private to lib/thread.
#pragma once

#if defined(COIR_LOCK_HEADER)
#include COIR_LOCK_HEADER
#else

#include <condition_variable>
#include <mutex>

namespace coir {

using thread_mutex = std::mutex;
using thread_condition = std::condition_variable;

}  // namespace coir

#endif
