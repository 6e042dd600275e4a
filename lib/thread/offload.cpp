#include <coir/thread/offload.hpp>

#include <coir/base/error.hpp>
#include <coir/fiber/fiber_home.hpp>

#include <fmt/format.h>

#include <cerrno>

namespace coir::priv {

bool awaited_job::begin(waiter& told, bool only_if_room) {
  told_ = &told;
  home_ = &running_fiber().home().on();
  hold_loop();
  try {
    if (on_.submit(*this, only_if_room)) return true;
  } catch (...) {
    let_loop_go();
    throw;
  }
  let_loop_go();
  return false;
}

bool awaited_job::withdraw() noexcept {
  if (!on_.withdraw(*this)) return false;
  let_loop_go();
  return true;
}

void awaited_job::run() {
  let_loop_go();
  told_->done();
}

void awaited_job::throw_dropped() const {
  throw_error(ECANCELED, fmt::format("waiting for a job of pool {}, which ended before the job began", on_.name()));
}

void awaited_job::describe(std::string& text) const {
  text += fmt::format(" to pool {}", on_.name());
  if (const long ahead = on_.ahead_of(*this); ahead >= 0) {
    text += fmt::format(", not begun, behind {}", ahead);
  } else {
    text += ", begun";
  }
}

}  // namespace coir::priv
