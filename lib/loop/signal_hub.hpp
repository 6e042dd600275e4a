// The signals of one loop: the numbers it owns, the descriptor they are read from, and who hears of them.
// Private to lib/loop.
#pragma once

#include <coir/base/fd.hpp>
#include <coir/base/list.hpp>
#include <coir/loop/signal.hpp>
#include <coir/loop/watcher.hpp>

#include <array>
#include <cstddef>
#include <cstdint>

namespace coir {

class watch_set;

// Which loop of the process has which number.
class signal_owners {
 public:
  // std::system_error EBUSY, and then none of them was taken.
  static void take(std::uint64_t numbers, std::uint16_t loop);
  static void give_back(std::uint64_t numbers) noexcept;
  // In a forked child: they belong to loops of the parent.
  static void forget() noexcept;
};

class signal_hub {
 public:
  explicit signal_hub(loop& of) noexcept : of_(of) {}
  signal_hub(const signal_hub&) = delete;
  ~signal_hub();

  void attach(signal_subscriber& which);
  void detach(signal_subscriber& which) noexcept;
  // The next to attach makes sure of the other threads, whatever was seen of them before.
  void look_anew(const signal_set& numbers) noexcept { looked_at_ &= ~numbers.bits_; }
  // In a forked child.
  void abandon() noexcept;
  std::size_t size() const noexcept;

 private:
  static constexpr std::size_t numbers_end = 64;

  void take(watch_set& watches, std::uint64_t numbers);
  void let_go(std::uint64_t numbers) noexcept;
  void on_readable();
  void read_some();
  template <class Stopped>
  void deliver(const Stopped& stopped);

  loop& of_;
  unique_fd fd_;  // made for the first number; it rests while there is none
  owned<watcher> watcher_;
  std::uint64_t owned_ = 0;    // the numbers that fd_ reads
  std::uint64_t blocked_ = 0;  // those among them that were open in this thread before
  std::uint64_t looked_at_ = 0;  // those that all threads had blocked, and this one has had ever since
  std::array<std::uint32_t, numbers_end> uses_{};  // by how many subscribers

  // Every subscriber is in one of them: those who have heard of what was read, or need not; those who are
  // still to be asked about the number that is being delivered; and those who came after it was read.
  list<signal_subscriber> subscribers_;
  list<signal_subscriber> due_;
  list<signal_subscriber> fresh_;
  std::array<signal_event, numbers_end> events_;
  std::uint64_t came_ = 0;   // numbers that were read, and not yet told to everybody
  bool delivering_ = false;  // the lowest of them has been begun
  bool heard_ = false;       // ... and somebody was told, or it was sent back
  std::uint64_t resumed_in_ = 0;  // the turn that delivered what one before had left
};

}  // namespace coir
