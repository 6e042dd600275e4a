#include <coir/testing/suspension.hpp>

#include <coir/fiber/fiber_home.hpp>

#include <fmt/format.h>

namespace coir::testing::priv {

suspension_check::suspension_check(bool wanted, place at)
    : turn_(running_fiber().home().on().stats().turns),
      turn_left_(running_fiber().home().turn_left()),
      wanted_(wanted),
      at_(at) {}

void suspension_check::check() const {
  const fiber_home& home = running_fiber().home();
  const bool suspended = home.on().stats().turns != turn_ || home.turn_left() != turn_left_;
  if (suspended == wanted_) return;
  throw suspension_failure(fmt::format("{}:{}: the code {}", at_.file_name(), at_.line(),
                                       suspended ? "suspended, and was not to" : "did not suspend"));
}

}  // namespace coir::testing::priv
