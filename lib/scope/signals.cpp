#include <coir/scope/signals.hpp>

#include <coir/fiber/run.hpp>
#include <coir/fiber/scheduler.hpp>

#include <fmt/format.h>

#include <cstdlib>

namespace coir {

priv::signalled_region::signalled_region(const stop_request& how)
    : home_(running_fiber().home()),
      grace_(how.grace),
      watch_(home_.on().signal(how.numbers, [this](const signal_event& which) { heard(which); })) {}

void priv::signalled_region::heard(const signal_event& which) {
  switch (++times_) {
    case 1: region_.cancel_after(grace_); return;
    case 2: region_.cancel(); return;
    default: break;
  }
  tell(fmt::format("coir: {} is the third signal to end, and these fibers have not ended:\n{}",
                   name_of_signal(which.number), describe(home_)));
  std::abort();
}

}  // namespace coir
