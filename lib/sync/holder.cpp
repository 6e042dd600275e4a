#include <coir/sync/holder.hpp>

#include <coir/sync/wait_list.hpp>

#include <fmt/format.h>

namespace coir::priv {

namespace {
// More of them make a report longer and nobody wiser.
constexpr std::size_t holders_named = 4;
}  // namespace

std::string text_of(const fiber_home& home, std::uint64_t fiber) {
  std::string text = fmt::format("fiber {}", fiber);
  home.for_each([&](const fiber_base& which) {
    if (which.id() == fiber && !which.name().empty()) text += fmt::format(" {}", which.name());
  });
  return text;
}

std::string text_of(place at) { return fmt::format("{}:{}", at.file_name(), at.line()); }

void describe_holders(const fiber_home& home, const list<holder>& all, std::string& text) {
  std::size_t count = 0;
  all.for_each([&](const holder& one) {
    if (++count > holders_named) return;
    text += fmt::format("{}{} since {}", count == 1 ? " held by " : ", ", text_of(home, one.fiber()),
                        text_of(one.since()));
  });
  if (count > holders_named) text += fmt::format(" and {} more", count - holders_named);
}

void describe_place(std::size_t behind, std::string& text) {
  if (behind != 0) text += fmt::format(", behind {}{}", behind, behind < places_told ? "" : " or more");
}

}  // namespace coir::priv
