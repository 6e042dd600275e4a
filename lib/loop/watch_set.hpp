// The watchers of one loop: an epoll set of their own, and the batch of events that is being delivered. Private to
// lib/loop.
#pragma once

#include <coir/base/fd.hpp>
#include <coir/base/time.hpp>
#include <coir/loop/fd_table.hpp>
#include <coir/loop/watcher.hpp>

#include "epoll_sleep.hpp"

#include <sys/epoll.h>

#include <array>
#include <cstddef>
#include <cstdint>

namespace coir {

class backend;
class inbox;

class watch_set {
 public:
  // A write to `wake_fd` must end a wait here, as it does in the backend.
  explicit watch_set(int wake_fd);

  watcher& add(loop& of, int fd, watch_options&& options,
               registration_kind kind = registration_kind::watcher);
  watcher* find(int fd) noexcept;
  // Throws what the kernel answers.
  void change(watcher& which);
  void remove(watcher& which) noexcept;
  void disable(watcher& which) noexcept;
  // For the loop's own parts that nobody needs now: nothing comes of it until change().
  void rest(watcher& which) noexcept;
  // In the next turn its `read` is called again, whatever the kernel says.
  void again(watcher& which) noexcept;

  // Takes events from the kernel, waiting for one at most until `deadline`.
  void wait(instant deadline);
  // Calls those whose events were taken, and says for how many; ends early when a stop is asked for meanwhile.
  std::size_t dispatch(const inbox& stops);
  bool has_undelivered() const noexcept { return repeating_ != 0 || at_ != count_; }

  // Readable when wait() would find something. After a rebuild another set has the number.
  int fd() const noexcept { return set_.get(); }
  // Something may come of it.
  bool can_wake() const noexcept { return armed_ != 0; }
  const watch_stats& stats() const noexcept { return stats_; }
  // In a forked child: the kernel's set is the parent's, and so is what it told.
  void abandon() noexcept;

 private:
  static constexpr std::size_t events_per_wait = 256;

  // What is left to do for the first event of the batch, in this order.
  enum step : std::uint8_t { tell_error = 1, tell_read = 2, tell_write = 4 };

  std::uint64_t data_of(const watcher& which) const noexcept {
    return static_cast<std::uint64_t>(which.life_) << 32 | static_cast<std::uint32_t>(which.fd_);
  }
  epoll_event entry_of(const watcher& which, bool armed) const noexcept;
  int control(int operation, const watcher& which, bool armed) noexcept;
  watcher* receiver_of(const epoll_event& event) noexcept;
  unsigned plan(watcher& which, std::uint32_t happened) noexcept;
  void call(watcher& which, unsigned what);
  void forget_taken(const watcher& which) noexcept;
  void set_armed(watcher& which, bool armed) noexcept;
  void keep_unrepeatable() noexcept;
  void rebuild() noexcept;

  unique_fd set_;
  int wake_fd_;
  epoll_sleep sleep_;
  fd_table<watcher*> table_;
  std::uint32_t lives_ = 0;
  std::size_t armed_ = 0;      // watchers from which something may come
  std::size_t repeating_ = 0;  // those to be called without an event

  std::array<epoll_event, events_per_wait> batch_;
  std::size_t at_ = 0;  // the first that is not delivered
  std::size_t count_ = 0;
  unsigned steps_ = 0;  // left of that one; 0: not begun
  std::uint64_t harvests_ = 0;
  std::uint64_t removed_in_ = 0;  // the harvest during whose delivery a watcher ended last
  bool stale_ = false;
  watch_stats stats_;
};

}  // namespace coir
