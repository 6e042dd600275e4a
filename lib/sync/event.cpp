#include <coir/sync/event.hpp>

#include <fmt/format.h>

namespace coir {

void event::gate_op::describe(std::string& text) const {
  if (!linked()) return;
  text += fmt::format(", set {} times so far", of_->stats_.sets);
}

event_stats event::stats() const noexcept {
  event_stats now = stats_;
  now.waiting = waiting_.size();
  return now;
}

}  // namespace coir
