#include <coir/loop/watcher.hpp>

#include <coir/base/error.hpp>
#include <coir/loop/loop.hpp>

#include "watch_set.hpp"

#include <fmt/format.h>

#include <utility>

namespace coir {

watcher::watcher(loop& of, int fd, watch_options&& options, registration_kind kind)
    : registration(of, kind),
      read_(std::move(options.read)),
      write_(std::move(options.write)),
      error_(std::move(options.error)),
      fd_(fd),
      reads_(static_cast<bool>(read_)),
      writes_(static_cast<bool>(write_)),
      edge_triggered_(options.edge_triggered),
      oneshot_(options.oneshot) {
  data = std::move(options.data);
}

void watcher::leave() noexcept { watches().remove(*this); }

void watcher::drop() noexcept {
  // One after the other: each may look at this watcher while it goes.
  read_ = nullptr;
  write_ = nullptr;
  error_ = nullptr;
}

std::uint32_t watcher::interest() const noexcept {
  std::uint32_t events = 0;
  if (reads_) events |= EPOLLIN | EPOLLRDHUP;
  if (writes_) events |= EPOLLOUT;
  if (edge_triggered_) events |= EPOLLET;
  // A hang-up that nobody hears is told once, too.
  if (oneshot_ || (!reads_ && !writes_ && !error_)) events |= EPOLLONESHOT;
  return events;
}

void watcher::enable(const callback<watcher&>& direction, bool& enabled, const char* name) {
  checked();
  if (!direction) throw_misuse(fmt::format("the watcher of descriptor {} has no callback to {}", fd_, name));
  if (enabled && armed_ && !oneshot_) return;
  const bool before = std::exchange(enabled, true);
  try {
    watches().change(*this);
  } catch (...) {
    enabled = before;
    throw;
  }
}

void watcher::disable(bool& enabled) noexcept {
  if (!std::exchange(enabled, false) || !active()) return;
  watches().disable(*this);
}

void watcher::rearm() {
  checked();
  if (oneshot_ || !armed_) watches().change(*this);
}

std::string watcher::describe() const {
  return fmt::format("watcher of descriptor {}{}{}{}", fd_, reads_ ? ", read" : "", writes_ ? ", write" : "",
                     armed_ ? "" : ", silent");
}

}  // namespace coir
