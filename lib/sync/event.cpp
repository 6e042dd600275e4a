#include <coir/sync/event.hpp>

#include <fmt/format.h>

namespace coir {

void event::gate_op::describe(std::string& text) const {
  if (!linked()) return;
  const event_stats now = of_->stats();
  text += fmt::format(", which {} and was set {} times", now.waiting == 1 ? "nobody else waits for" : "others wait for",
                      now.sets);
}

event_stats event::stats() const noexcept {
  event_stats now = stats_;
  now.waiting = waiting_.size();
  return now;
}

}  // namespace coir
