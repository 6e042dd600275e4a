#include <coir/scope/nursery.hpp>

namespace coir {

void nursery::cancel() noexcept {
  region_.cancel();
  if (fiber_base* const self = region_.fiber(); self != nullptr) self->home().on().work_appeared();
}

void nursery::cancel_after(duration grace) {
  region_.cancel_after(grace);
  if (fiber_base* const self = region_.fiber(); self != nullptr) self->home().on().work_appeared();
}

fiber_home& nursery::home() {
  fiber_base* const owner = region_.fiber();
  if (owner == nullptr) {
    throw_misuse("a fiber was spawned in a nursery that no fiber is in: its run() has not begun, or is over");
  }
  if (closed()) {
    // For one that is to stop as well this is where it does.
    if (current_fiber != nullptr && current_fiber->cancelled()) current_fiber->check_interrupted();
    throw_error(ECANCELED, "spawning in a nursery that is closed or cancelled");
  }
  return owner->home();
}

void priv::as_value::refuse() {
  throw_error(ECANCELED, "running a nursery, which was cancelled before its body had a result");
}

}  // namespace coir
