// coir/trace/trace.hpp: writing down what happened: the trace points, and the ring they are written into.
//
//   loop.trace().record(coir::trace::all);               // from any thread; 0 switches it off again
//   ...
//   std::string text = coir::trace::text(coir::trace::recorded());   [tests/trace/trace_test.cpp]
//
// Shape    one ring of 32-byte records per thread, made on first use, 65,536 records (2 MiB); when full
//          the oldest are overwritten. What is recorded is a mask per loop, a bit per point.
// Order    per thread, as it happened. Between threads: by time.
// Thread   a ring is written by its thread; recorded() reads the caller's own. The mask may be set from
//          any thread and is seen soon after.
// Errors   none; a ring that cannot be allocated records nothing, and lost() says so.
// Cost     off: a relaxed load or two, which the hot paths share, and a predicted branch. On: about 20 ns, of
//          which the time stamp counter is most.
// See      lib/trace/NOTE.md
#pragma once

#include <coir/base/atomic.hpp>
#include <coir/base/place.hpp>
#include <coir/base/time.hpp>

#include <cstdint>
#include <string>
#include <vector>

namespace coir::trace {

// The points. `a` and `b` say what the two arguments of the record hold.
enum class point : std::uint16_t {
  spawn,         // a: the parent's id; b: where it was spawned (a packed place)
  ready,         // the fiber was put in the run queue
  resume,        // the fiber runs
  park,          // a: address of the name of what it waits for; b: where it waits (a packed place)
  end,           // a: 0 returned, 1 failed, 2 cancelled
  submit,        // a: what (request_kind); b: its descriptor
  complete,      // a: what (request_kind); b: its result, sign extended
  poll_enter,    // the loop asks the kernel; a: 1 when it may sleep
  poll_leave,    // a: how many completions and events came
};
inline constexpr unsigned points = 9;

constexpr std::uint32_t bit(point which) noexcept { return 1u << static_cast<unsigned>(which); }
inline constexpr std::uint32_t all = (1u << points) - 1;

const char* name_of(point which) noexcept;

struct record {
  std::uint64_t ticks;  // of the time stamp counter, or nanoseconds where there is none
  std::uint32_t fiber;  // the low half of its id; 0 for the loop itself
  point what;
  std::uint16_t loop;
  std::uint64_t a;
  std::uint64_t b;
};
static_assert(sizeof(record) == 32);

// What one loop records. Read on every hot path, written when somebody starts or stops looking.
class control {
 public:
  std::uint32_t mask() const noexcept { return mask_.load(std::memory_order_relaxed); }
  bool on(point which) const noexcept { return (mask() & bit(which)) != 0; }
  // Relaxed: the reader needs no other data of the writer, and a record more or less does not matter.
  void record(std::uint32_t mask) noexcept { mask_.store(mask, std::memory_order_relaxed); }

  std::uint16_t loop = 0;

 private:
  atomic<std::uint32_t> mask_{0};
};

// Writes one record into the caller's ring.
[[gnu::cold, gnu::noinline]] void emit(const control& control, point what, std::uint64_t fiber,
                                       std::uint64_t a = 0, std::uint64_t b = 0) noexcept;

// What the calling thread's ring holds, oldest first.
std::vector<record> recorded();
// How many records of the calling thread were overwritten or had no ring to go to.
std::uint64_t lost() noexcept;
// Forgets what the calling thread's ring holds.
void forget() noexcept;

// One line per record: microseconds since the first, loop, fiber, point, arguments in words.
std::string text(const std::vector<record>& records);

}  // namespace coir::trace

// A trace point on a path too hot to call anything when nobody looks.
#define COIR_TRACE(control, what, ...)                                    \
  do {                                                                    \
    if ((control).on(what)) [[unlikely]]                                  \
      ::coir::trace::emit((control), (what)__VA_OPT__(, ) __VA_ARGS__);   \
  } while (false)
