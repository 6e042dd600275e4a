#include "watch_set.hpp"

#include <coir/base/error.hpp>
#include <coir/loop/loop.hpp>

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <memory>
#include <utility>

namespace coir {

namespace {

constexpr std::uint64_t no_watcher = ~std::uint64_t{0};
// The life of a watcher that has no entry in the kernel's set any more: its descriptor turned out to be closed, or
// another has taken it over.
constexpr std::uint32_t lost = 0;

std::string why_refused(int error, int fd) {
  switch (error) {
    case EBADF: return fmt::format("watching descriptor {}, which is closed", fd);
    case EEXIST:
      return fmt::format("descriptor {} is watched already by this loop; say .replace = true to end that", fd);
    case EPERM:
      return fmt::format("descriptor {} cannot be watched: it is always ready, as a regular file is", fd);
    case ENOSPC:
      return fmt::format("watching descriptor {}: the user has as many watches as "
                         "/proc/sys/fs/epoll/max_user_watches allows", fd);
    default: return fmt::format("watching descriptor {}", fd);
  }
}

}  // namespace

watch_set::watch_set(int wake_fd) : set_(::epoll_create1(EPOLL_CLOEXEC)), wake_fd_(wake_fd) {
  epoll_event event{};
  event.events = EPOLLIN | EPOLLET;
  event.data.u64 = no_watcher;
  if (!set_ || ::epoll_ctl(set_.get(), EPOLL_CTL_ADD, wake_fd, &event) < 0) {
    throw_error(errno, "epoll set for the watchers of a loop");
  }
}

watcher* watch_set::find(int fd) noexcept {
  watcher** const place = table_.find(fd);
  return place == nullptr ? nullptr : *place;
}

// What the kernel is to tell of one that is armed, or that sleeps. A hang-up it tells once all the same, and nobody's:
// by the time it is delivered whoever slept may be armed again.
epoll_event watch_set::entry_of(const watcher& which, bool armed) const noexcept {
  epoll_event entry{};
  entry.events = armed ? which.interest() : EPOLLONESHOT;
  entry.data.u64 = armed ? data_of(which) : no_watcher;
  return entry;
}

// An errno, or 0.
int watch_set::control(int operation, const watcher& which, bool armed) noexcept {
  epoll_event entry = entry_of(which, armed);
  return ::epoll_ctl(set_.get(), operation, which.fd_, &entry) < 0 ? errno : 0;
}

void watch_set::set_armed(watcher& which, bool armed) noexcept {
  if (which.armed_ == armed) return;
  which.armed_ = armed;
  armed ? ++armed_ : --armed_;
}

watcher& watch_set::add(loop& of, int fd, watch_options&& options,
                        registration_kind kind) {
  if (fd < 0) throw_error(EBADF, fmt::format("watching descriptor {}", fd));
  if (!options.read && !options.write && !options.error) {
    throw_misuse(fmt::format("descriptor {} is to be watched without a callback: nobody would hear of it", fd));
  }
  watcher* const before = find(fd);
  const bool replace = options.replace;
  if (before != nullptr && before->is_part()) {
    throw_error(EEXIST, fmt::format("watching descriptor {}, which is the loop's own", fd));
  }
  struct undo {
    void operator()(watcher* made) const noexcept { delete made; }
  };
  std::unique_ptr<watcher, undo> made(new watcher(of, fd, std::move(options), kind));
  if (++lives_ == lost) ++lives_;
  made->life_ = lives_;

  // Where there is one before and the kernel adds another, that one's descriptor was closed, and its entry with it.
  int error = control(EPOLL_CTL_ADD, *made, true);
  // An entry for the same open file: of the one before, or of an earlier life of the number.
  if (error == EEXIST && (before == nullptr || before->life_ == lost || replace)) {
    error = control(EPOLL_CTL_MOD, *made, true);
  }
  if (error != 0) throw_error(error, why_refused(error, fd));
  try {
    table_[fd] = made.get();
  } catch (...) {
    control(EPOLL_CTL_DEL, *made, false);
    throw;
  }
  set_armed(*made, true);
  watcher& placed = *made.release();
  if (before != nullptr) {
    before->life_ = lost;  // what is in the kernel's set is not its own any more
    before->cancel();
  }
  return placed;
}

// The kernel tells again of what is ready, armed or not: an event of before would be a second one, and one that
// disarms what is armed. A oneshot one that has fired has none; one that went silent may have.
void watch_set::forget_taken(const watcher& which) noexcept {
  if (which.oneshot_ != which.armed_) return;
  for (std::size_t i = at_ + (steps_ != 0 ? 1 : 0); i < count_; ++i) {
    if (batch_[i].data.u64 == data_of(which)) batch_[i].data.u64 = no_watcher;
  }
}

void watch_set::change(watcher& which) {
  int error = which.life_ == lost ? EBADF : control(EPOLL_CTL_MOD, which, true);
  // Closed, and somebody else has the number.
  if (error == ENOENT) error = EBADF;
  if (error != 0) throw_error(error, why_refused(error, which.fd_));
  forget_taken(which);
  set_armed(which, true);
}

// Nobody is to be told less than asked for because the kernel refused: what comes all the same is dropped.
void watch_set::disable(watcher& which) noexcept {
  if (!which.armed_ || !set_) return;
  if (control(EPOLL_CTL_MOD, which, true) == 0) {
    forget_taken(which);
  } else {
    stale_ = true;  // closed behind our back: a duplicate may keep its entry alive, and what that tells nobody hears
  }
}

void watch_set::rest(watcher& which) noexcept {
  control(EPOLL_CTL_MOD, which, false);
  set_armed(which, false);
  if (std::exchange(which.repeats_, false)) --repeating_;
}

void watch_set::remove(watcher& which) noexcept {
  // A descriptor that was closed has taken its entry along. If a duplicate keeps it, the entry tells of
  // itself sooner or later, and the set is rebuilt.
  if (which.life_ != lost && set_) control(EPOLL_CTL_DEL, which, false);
  set_armed(which, false);
  if (std::exchange(which.repeats_, false)) --repeating_;
  if (watcher** const place = table_.find(which.fd_); place != nullptr && *place == &which) *place = nullptr;
  removed_in_ = harvests_;
}

void watch_set::again(watcher& which) noexcept {
  if (std::exchange(which.repeats_, true)) return;
  ++repeating_;
}

void watch_set::wait(instant deadline) {
  if (stale_) rebuild();  // before it is seen which of those left over will be told again
  if (count_ != 0) keep_unrepeatable();
  if (has_undelivered()) deadline = instant::min();
  ++stats_.waits;
  ++harvests_;
  const std::span<epoll_event> room = std::span(batch_).subspan(count_);
  const std::size_t found = room.empty() ? 0 : sleep_.wait(set_.get(), room, deadline);
  count_ += found;
  stats_.largest_batch = std::max<std::uint64_t>(stats_.largest_batch, found);
}

// What was not delivered because of a stop or an exception. The kernel repeats what is level-triggered, if
// it is still so; the rest it has told once and for all.
void watch_set::keep_unrepeatable() noexcept {
  std::size_t kept = 0;
  for (; at_ != count_; ++at_) {
    const watcher* const to = receiver_of(batch_[at_]);
    if (to != nullptr && (to->interest() & (EPOLLET | EPOLLONESHOT)) != 0) {
      batch_[kept++] = batch_[at_];
    } else if (kept == 0) {
      steps_ = 0;
    }
  }
  at_ = 0;
  count_ = kept;
}

watcher* watch_set::receiver_of(const epoll_event& event) noexcept {
  watcher* const to = find(static_cast<int>(event.data.u64 & 0xffff'ffff));
  return to != nullptr && to->life_ == event.data.u64 >> 32 ? to : nullptr;
}

// Which callbacks an event asks for.
unsigned watch_set::plan(watcher& which, std::uint32_t happened) noexcept {
  // Of one that went silent meanwhile: what the kernel told once more when its last direction was disabled.
  if (!which.armed_) return 0;
  if (which.oneshot_) set_armed(which, false);
  const bool failed = (happened & EPOLLERR) != 0;
  const bool hung_up = (happened & EPOLLHUP) != 0;
  const bool unread = hung_up && !which.reads_;
  if ((failed || unread) && which.error_) return tell_error;
  unsigned steps = 0;
  if ((failed || hung_up || (happened & (EPOLLIN | EPOLLRDHUP)) != 0) && which.reads_) steps |= tell_read;
  if ((failed || unread || (happened & EPOLLOUT) != 0) && which.writes_) steps |= tell_write;
  if (steps == 0 && (failed || hung_up)) {
    // Whoever hears of nothing is oneshot in the kernel's set, and will report nothing more.
    ++stats_.unheard;
    set_armed(which, false);
  }
  return steps;
}

void watch_set::call(watcher& which, unsigned what) {
  const watcher::call during(which);
  switch (what) {
    case tell_error:
      ++stats_.errors;
      which.error_(which);
      break;
    case tell_read:
      if (!which.reads_) break;
      ++stats_.reads;
      which.read_(which);
      break;
    case tell_write:
      if (!which.writes_) break;
      ++stats_.writes;
      which.write_(which);
      break;
    default: break;
  }
}

void watch_set::abandon() noexcept {
  set_.reset();
  at_ = count_ = steps_ = 0;
  if (repeating_ != 0) {
    table_.for_each([](int, watcher* which) {
      if (which != nullptr) which->repeats_ = false;
    });
  }
  repeating_ = 0;
}

std::size_t watch_set::dispatch(const inbox& stops) {
  const bool stopped_before = stops.stop_requested();
  const auto stopped = [&] { return !stopped_before && stops.stop_requested(); };
  std::size_t told = 0;
  if (repeating_ != 0) [[unlikely]] {
    table_.for_each([&](int, watcher* which) {
      if (which == nullptr || !which->repeats_ || stopped()) return;
      which->repeats_ = false;
      --repeating_;
      ++told;
      call(*which, tell_read);
    });
  }
  while (at_ != count_) {
    if (stopped()) return told;
    const epoll_event& event = batch_[at_];
    watcher* const to = event.data.u64 == no_watcher ? nullptr : receiver_of(event);
    if (to == nullptr) {
      const bool begun = std::exchange(steps_, 0U) != 0;
      ++at_;
      if (begun || event.data.u64 == no_watcher) continue;
      ++stats_.events;
      ++stats_.stale;
      // One that ended in this very turn explains itself; else it is an entry without an owner.
      stale_ |= removed_in_ != harvests_;
      continue;
    }
    if (steps_ == 0) {
      steps_ = plan(*to, event.events);
      ++stats_.events;
      ++told;
    }
    const unsigned first = steps_ & (0U - steps_);
    steps_ &= ~first;
    // Counted as delivered before it is called, so that one that throws is not called again for it.
    if (steps_ == 0) ++at_;
    if (first != 0) call(*to, first);
  }
  at_ = count_ = 0;
  return told;
}

// Without a descriptor or memory for the new set the old one stays. The new one gets its number, which is known to
// the backend and to a foreign loop's set.
void watch_set::rebuild() noexcept {
  unique_fd fresh(::epoll_create1(EPOLL_CLOEXEC));
  if (!fresh) return;
  const auto add = [&](int fd, epoll_event entry) {
    return ::epoll_ctl(fresh.get(), EPOLL_CTL_ADD, fd, &entry) == 0;
  };
  epoll_event wake{};
  wake.events = EPOLLIN | EPOLLET;
  wake.data.u64 = no_watcher;
  bool complete = add(wake_fd_, wake);
  table_.for_each([&](int fd, watcher* which) {
    if (which == nullptr || which->life_ == lost) return;
    // Not in the old set: its descriptor was closed behind our back. Nothing comes from it any more, whoever has
    // the number now.
    if (control(EPOLL_CTL_MOD, *which, which->armed_) != 0) {
      set_armed(*which, false);
      which->life_ = lost;
      return;
    }
    forget_taken(*which);
    complete &= add(fd, entry_of(*which, which->armed_));
  });
  if (!complete || ::dup3(fresh.get(), set_.get(), O_CLOEXEC) < 0) return;
  stale_ = false;
  ++stats_.rebuilds;
}

}  // namespace coir
