// coir/loop/signal.hpp: signals, called back.
//
//   auto end = loop.signal({SIGINT, SIGTERM}, [&] { loop.stop(); });
//   auto reload = loop.signal(SIGHUP, [&](coir::signal_event e) { read_settings_for(e.pid); });
//                                                               [tests/loop/signal_test.cpp]
//
// No handler is installed and none is called: the numbers are blocked, and read from a descriptor
// (signalfd(2)).
//
// Shape    a registration; any number of them for one number. A number belongs to one loop of the process at
//          a time. The loop belongs, from the first registration on, to the thread that made it.
// Order    what came since the turn before is one call per number and subscriber: numbers in ascending order,
//          the subscribers of each in the order in which they registered. One that registers meanwhile hears
//          what comes afterwards. The kernel merges the ordinary numbers while they are pending, so that
//          `count` is at least how often; the real-time ones (SIGRTMIN and up) are counted exactly. At most
//          256 are taken in a turn, then other descriptors get theirs.
// Mask     registering blocks the numbers in this thread; the end of the last subscriber of a number opens
//          again what was blocked here, and no more. What has come by then and nobody has heard of takes its
//          ordinary course, which may end the program: where that matters, block it before and for good. Then
//          it stays pending, and the next subscriber hears of it.
//          Threads started later by this one inherit the mask, and so does a program started without
//          fork(2) (posix_spawn(3)): that one needs POSIX_SPAWN_SETSIGMASK. A forked child has the numbers
//          open again, and free for a loop of its own.
// SIGPIPE  is blocked in the loop's thread anyhow; a subscriber also hears of the writes that failed here.
// Thread   the loop's. All other threads must have the numbers blocked, because the kernel gives a signal to
//          any that has not.
// Cancel   also from another subscriber in the same delivery. On the loop's thread; elsewhere the mask stays.
// Errors   std::invalid_argument for what cannot be waited for (SIGKILL, SIGSTOP, the faults of an
//          instruction, the C library's own) and what is no number; std::logic_error names the thread that leaves it
//          open (not where /proc is missing: nobody knows there; and one that has everything blocked, as it does while
//          it begins, is believed after 60 ms); std::system_error: EBUSY when another loop has it. Nothing has changed
//          then. What a callback throws leaves run(); what was not delivered then, or because of a stop(), comes in
//          the next run.
// Cost     registering reads the status of each thread: about 20 us, and 10 us per thread; up to 60 ms for one
//          that has everything blocked, as one does that begins, or starts a process. One descriptor per loop, from
//          the first registration on. A delivery is two system calls for all numbers, and a look at each subscriber
//          per number.
// See      coir/loop/registration.hpp; lib/loop/NOTE.md
#pragma once

#include <coir/base/callback.hpp>
#include <coir/base/list.hpp>
#include <coir/loop/registration.hpp>

#include <sys/types.h>

#include <concepts>
#include <csignal>
#include <cstdint>
#include <initializer_list>
#include <string>

namespace coir {

class signal_hub;

// Numbers of signals. Throws std::invalid_argument for one that cannot be waited for.
class signal_set {
 public:
  signal_set() noexcept = default;
  signal_set(int number) { add(number); }  // NOLINT: a number stands for it
  signal_set(std::initializer_list<int> numbers) {
    for (const int each : numbers) add(each);
  }
  signal_set(std::floating_point auto) = delete;

  void add(int number);
  bool has(int number) const noexcept {
    return number >= 1 && number <= 64 && (bits_ >> (number - 1) & 1) != 0;
  }
  bool empty() const noexcept { return bits_ == 0; }
  // Their names, "SIGINT, SIGTERM".
  std::string names() const;

 private:
  friend class signal_hub;
  std::uint64_t bits_ = 0;  // the lowest is number 1
};

struct signal_event {
  int number = 0;
  std::uint64_t count = 0;  // since the one before
  // Of the last of them, as in siginfo_t(2).
  int code = 0;   // SI_USER: kill(2); SI_QUEUE: sigqueue(3); CLD_EXITED, ...
  pid_t pid = 0;  // 0: the kernel
  uid_t uid = 0;
  int value = 0;  // sent along by sigqueue(3)
};

// What signal_watch and the ops of fibers are made of: somebody to tell, in a place of his own. Attaching looks at the
// threads only for a number that is new to the loop or that this thread had open, so that for one which the program has
// blocked it allocates nothing, unless he is the first: four system calls, and two to detach, where nobody else waits.
class signal_subscriber : public list_node {
 public:
  using action = void (*)(signal_subscriber&, const signal_event&);

  // `tell` may detach and destroy the subscriber, and may throw.
  signal_subscriber(const signal_set& numbers, action tell) noexcept : numbers_(numbers), tell_(tell) {}
  // Movable until it is attached, like all that waits.
  signal_subscriber(signal_subscriber&& other) noexcept : numbers_(other.numbers_), tell_(other.tell_) {
    COIR_ASSERT(!other.attached(), "an attached subscriber was moved");
  }
  signal_subscriber& operator=(signal_subscriber&&) = delete;
  ~signal_subscriber() { COIR_ASSERT(!attached(), "an attached subscriber was destroyed"); }

  void attach(loop& to);
  // Harmless when it is not attached.
  void detach() noexcept;
  bool attached() const noexcept { return hub_ != nullptr; }
  const signal_set& numbers() const noexcept { return numbers_; }

 private:
  friend class signal_hub;
  signal_set numbers_;
  action tell_;
  signal_hub* hub_ = nullptr;
};

class signal_watch final : public registration {
 public:
  const signal_set& numbers() const noexcept { return node_.numbers(); }

  std::string describe() const override;

 private:
  friend class loop;
  signal_watch(loop& of, const signal_set& numbers, callback<const signal_event&>&& then);
  ~signal_watch() override = default;
  void leave() noexcept override { node_.detach(); }
  void drop() noexcept override { then_ = nullptr; }
  static void tell(signal_subscriber& node, const signal_event& event);

  struct own_node : signal_subscriber {
    own_node(const signal_set& numbers, signal_watch* owner) noexcept
        : signal_subscriber(numbers, signal_watch::tell), whose(owner) {}
    signal_watch* whose;
  };

  own_node node_;
  callback<const signal_event&> then_;
};

// "SIGTERM", "SIGRTMIN+3", or "signal 99" for what has no name.
std::string name_of_signal(int number);

}  // namespace coir
