#include <coir/io/stream.hpp>

#include <fmt/format.h>

#include <cerrno>

namespace coir::io {

std::optional<std::size_t> read_goal::found_in(std::span<const std::byte> seen) noexcept {
  if (delimiter_.empty()) {
    return seen.size() >= limit_ ? std::optional<std::size_t>(limit_) : std::nullopt;
  }
  const std::string_view text(reinterpret_cast<const char*>(seen.data()), seen.size());
  const std::size_t at = text.find(delimiter_, searched_);
  if (at == std::string_view::npos) {
    // The end of what was seen may be the beginning of a delimiter.
    searched_ = text.size() >= delimiter_.size() ? text.size() - delimiter_.size() + 1 : 0;
    return std::nullopt;
  }
  const std::size_t found = at + delimiter_.size();
  return found <= limit_ ? std::optional<std::size_t>(found) : std::nullopt;
}

void throw_too_long(const read_goal& goal) {
  throw_error(EMSGSIZE, fmt::format("no delimiter ({} bytes long) within {} bytes",
                                    goal.delimiter().size(), goal.limit()));
}

}  // namespace coir::io
