#include <coir/fiber/local.hpp>

namespace coir {

void* fiber_local_access::find(const void* key) {
  const fiber_base& self = running_fiber();
  if (!self.has_values()) return nullptr;
  for (const locals::value& each : self.cold_part()->values->values) {
    if (each.key == key) return each.what.get();
  }
  return nullptr;
}

void fiber_local_access::set(const void* key, std::shared_ptr<void> what) {
  fiber_base::cold& mine = running_fiber().make_cold();
  auto changed = std::make_shared<locals>();
  if (mine.values != nullptr) *changed = *mine.values;
  for (locals::value& each : changed->values) {
    if (each.key == key) {
      each.what = std::move(what);
      mine.values = std::move(changed);
      return;
    }
  }
  changed->values.push_back({key, std::move(what)});
  mine.values = std::move(changed);
}

}  // namespace coir
