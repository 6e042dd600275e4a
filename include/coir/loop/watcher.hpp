// coir/loop/watcher.hpp: readiness of a descriptor, called back.
//
//   auto in = loop.watch(fd, coir::watch_options{.read = [&](coir::watcher& w) { drain(w.fd()); }});
//   loop.unwatch(fd);                        // the same as in.reset()   [tests/loop/watcher_test.cpp]
//
// The meaning is epoll's, on every backend.
//
// Shape    one registration per descriptor and loop. A second one is refused (EEXIST) unless it says
//          `replace`: then the first is inert from that moment on.
// Order    for one event: EPOLLERR calls `error`, and nothing else, or counts as readable and writable where
//          there is no `error`; EPOLLHUP counts as readable, so that the end is found by reading; then `read`,
//          then `write`. Between descriptors: the kernel's order. What a callback ends or replaces is
//          not called any more in this turn; what it registers is called in the next turn at the earliest.
// Level    by default an event comes again in every turn until its cause is gone. Edge-triggered: the callback
//          must read, or write, until EAGAIN. Oneshot: after one delivery nothing comes until rearm(). Both
//          together are legal.
//          Arming a oneshot one voids an event of it that was taken and waits for its turn: the kernel tells again.
// Silence  a hang-up that `read` does not hear (disabled or missing) goes to `error`, else to `write`. One that
//          nobody hears would come for ever: it is counted in stats().unheard, and then nothing comes until a
//          direction is enabled.
// Thread   the loop's.
// Cancel   the loop never closes a descriptor and never ends a watcher. Closing a watched descriptor silently
//          ends what comes from it, but perhaps for what was taken before, or left by a stop: unwatch it first.
//          An old event never reaches a new user of the number.
// Errors   std::system_error: EBADF for what is no descriptor, or not the one any more that was registered; EEXIST
//          see above; EPERM for what is always ready (a regular file); ENOSPC when the user has too many watches.
//          std::logic_error for one without any callback, and for enabling a direction that has none. What a
//          callback throws leaves run(); what was not delivered then comes in the next run.
// Cost     one epoll_ctl(2) to register, change or end, two to replace; an event is a table look-up and one
//          indirect call. A turn costs one epoll_wait(2) where the loop has nothing but watchers and timers, else
//          one more than its requests do.
// See      coir/loop/registration.hpp; lib/loop/NOTE.md
#pragma once

#include <coir/base/callback.hpp>
#include <coir/loop/registration.hpp>

#include <any>
#include <cstdint>
#include <string>

namespace coir {

class watcher;

struct watch_options {
  callback<watcher&> read{};
  callback<watcher&> write{};
  callback<watcher&> error{};
  bool edge_triggered = false;
  bool oneshot = false;
  bool replace = false;  // an earlier registration of the descriptor ends
  std::any data{};
};

class watcher final : public registration {
 public:
  int fd() const noexcept { return fd_; }

  // With `oneshot` enabling also does what rearm() does. Disabling cannot fail, and does nothing to one that is
  // inert.
  void enable_read() { enable(read_, reads_, "read"); }
  void enable_write() { enable(write_, writes_, "write"); }
  void disable_read() noexcept { disable(reads_); }
  void disable_write() noexcept { disable(writes_); }
  bool reads() const noexcept { return reads_; }
  bool writes() const noexcept { return writes_; }
  // A oneshot one hears once more, also of what is ready already. For others nothing changes.
  void rearm();
  // The kernel will tell of something: it is not a oneshot one that has fired, nor one that went silent.
  bool listens() const noexcept { return armed_; }

  std::string describe() const override;

 private:
  friend class watch_set;
  watcher(loop& of, int fd, watch_options&& options, registration_kind kind);
  ~watcher() override = default;
  void leave() noexcept override;
  void drop() noexcept override;
  void enable(const callback<watcher&>& direction, bool& enabled, const char* name);
  void disable(bool& enabled) noexcept;
  std::uint32_t interest() const noexcept;

  callback<watcher&> read_;
  callback<watcher&> write_;
  callback<watcher&> error_;
  int fd_;
  std::uint32_t life_ = 0;  // tells this registration of the number from those before
  bool reads_;
  bool writes_;
  bool edge_triggered_;
  bool oneshot_;
  bool armed_ = false;    // the kernel's entry will report
  bool repeats_ = false;  // has something left to deliver that the kernel will not tell again
};

// What happened, in numbers.
struct watch_stats {
  std::uint64_t waits = 0;         // system calls that asked for events
  std::uint64_t events = 0;        // that came
  std::uint64_t reads = 0;         // callbacks called
  std::uint64_t writes = 0;
  std::uint64_t errors = 0;
  std::uint64_t stale = 0;         // for a registration that was over
  std::uint64_t unheard = 0;       // hang-ups that nobody listens to
  std::uint64_t rebuilds = 0;      // of the epoll set, because of an entry that would not die
  std::uint64_t largest_batch = 0;
};

}  // namespace coir
