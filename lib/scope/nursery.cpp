#include <coir/scope/nursery.hpp>

namespace coir {

fiber_home& nursery::home() {
  check_entered();
  if (closed()) {
    // For one that is to stop as well this is where it does.
    if (current_fiber != nullptr && current_fiber->cancelled()) current_fiber->check_interrupted();
    throw_error(ECANCELED, "spawning in a nursery that is closed or cancelled");
  }
  return region_.fiber()->home();
}

void nursery::check_entered() const {
  if (!region_.entered()) {
    throw_misuse(
        "a fiber was spawned or adopted in a nursery that no fiber is in: its run() has not begun, or is over");
  }
}

bool nursery::adopt(const handle_base& child) {
  check_entered();
  if (closed_) throw_error(ECANCELED, "adopting a fiber in a nursery that is closed");
  return child.move_to(region_);
}

void nursery::adopt_children(const handle_base& of) {
  check_entered();
  if (closed_) throw_error(ECANCELED, "adopting fibers in a nursery that is closed");
  of.move_children_to(region_);
}

void priv::as_value::refuse() {
  throw_error(ECANCELED, "running a nursery, which was cancelled before its body had a result");
}

}  // namespace coir
