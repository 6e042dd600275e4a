#include <coir/base/time.hpp>

#include "support/catch.hpp"

#include <limits>
#include <ratio>

using namespace std::chrono_literals;
using coir::after;
using coir::duration;
using coir::instant;
using coir::never;
using coir::saturated;

TEST_CASE("the steady clock never goes back, and the coarse one is never ahead of it") {
  instant last = coir::steady_now();
  for (int i = 0; i < 10'000; ++i) {
    const instant coarse = coir::coarse_now();
    const instant now = coir::steady_now();
    REQUIRE(now >= last);
    REQUIRE(coarse <= now);
    last = now;
  }
}

TEST_CASE("the steady clock is the one that std::chrono and the kernel's absolute timers mean") {
  const auto before = std::chrono::steady_clock::now();
  const instant ours = coir::steady_now();
  const auto behind = std::chrono::steady_clock::now();
  CHECK(before <= ours);
  CHECK(ours <= behind);
}

TEST_CASE("a sum that would overflow is the end, or the beginning, of time") {
  const instant now(1h);
  CHECK(after(now, 250ms) - now == 250ms);
  CHECK(after(now, -250ms) - now == -250ms);
  CHECK(after(now, duration::max()) == never);
  CHECK(after(never, 1ns) == never);
  CHECK(after(never, -1ns) == never - 1ns);
  CHECK(after(never - 1ns, 1ns) == never);
  CHECK(after(instant::min(), -1ns) == instant::min());
  CHECK(after(instant::min() + 1ns, -1ns) == instant::min());
  CHECK(after(instant(-1h), duration::min()) == instant::min());
  CHECK(after(instant::min(), duration::max()) == instant(-1ns));
}

TEST_CASE("a duration that fits is converted exactly, and a fraction of a nanosecond counts as one") {
  CHECK(saturated(1500us) == 1'500'000ns);
  CHECK(saturated(-3s) == -3s);
  CHECK(saturated(0h) == 0ns);
  CHECK(saturated(std::chrono::duration<std::int64_t, std::pico>(1)) == 1ns);
  CHECK(saturated(std::chrono::duration<std::int64_t, std::pico>(1001)) == 2ns);
  CHECK(saturated(std::chrono::duration<double>(0.25)) == 250ms);
  CHECK(saturated(std::chrono::duration<double, std::nano>(0.1)) == 1ns);
  CHECK(saturated(std::chrono::duration<float>(-0.5F)) == -500ms);
}

TEST_CASE("a duration that does not fit saturates") {
  using years = std::chrono::duration<std::int64_t, std::ratio<31'556'952>>;
  CHECK(saturated(years(291)) < duration::max());
  CHECK(saturated(years(300)) == duration::max());
  CHECK(saturated(years(-300)) == duration::min());
  CHECK(saturated(years::max()) == duration::max());
  CHECK(saturated(years::min()) == duration::min());
  CHECK(saturated(std::chrono::hours::max()) == duration::max());
  CHECK(saturated(std::chrono::duration<double>(1e300)) == duration::max());
  CHECK(saturated(std::chrono::duration<std::uint64_t, std::nano>(~0ULL)) == duration::max());
  const double infinity = std::numeric_limits<double>::infinity();
  CHECK(saturated(std::chrono::duration<double>(infinity)) == duration::max());
  CHECK(saturated(std::chrono::duration<double>(-infinity)) == duration::min());
}

TEST_CASE("a duration that is no number is no time at all") {
  volatile double nothing = std::numeric_limits<double>::quiet_NaN();  // not known when compiling
  CHECK(saturated(std::chrono::duration<double>(nothing)) == duration::zero());
}
