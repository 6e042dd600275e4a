// What the random programs of watcher_fuzz_test.cpp do to descriptors. The kernel answers the same deeds in
// the same way, so that two worlds made from one seed stay alike.
#pragma once

#include "support/loop_tools.hpp"

#include <algorithm>
#include <array>
#include <csignal>
#include <cstdint>
#include <ctime>
#include <initializer_list>
#include <vector>

namespace tests::fuzz {

// A decision depends on where it is made, and on nothing that was decided before.
class dice {
 public:
  dice(std::initializer_list<std::uint64_t> from) {
    for (const std::uint64_t each : from) {
      state_ ^= each;
      (*this)();
    }
  }
  std::uint64_t operator()() {
    std::uint64_t z = state_ += 0x9e37'79b9'7f4a'7c15;
    z = (z ^ (z >> 30)) * 0xbf58'476d'1ce4'e5b9;
    z = (z ^ (z >> 27)) * 0x94d0'49bb'1331'11eb;
    return z ^ (z >> 31);
  }
  unsigned below(unsigned limit) { return static_cast<unsigned>((*this)() % limit); }
  bool one_in(unsigned count) { return below(count) == 0; }

 private:
  std::uint64_t state_ = 0;
};

// Writing to a pipe without readers is a deed like others, in a thread that has no loop too.
class without_sigpipe {
 public:
  without_sigpipe() {
    ::sigemptyset(&set_);
    ::sigaddset(&set_, SIGPIPE);
    ::pthread_sigmask(SIG_BLOCK, &set_, &before_);
  }
  without_sigpipe(const without_sigpipe&) = delete;
  ~without_sigpipe() {
    const timespec at_once{};
    while (::sigtimedwait(&set_, nullptr, &at_once) == SIGPIPE) {
    }
    ::pthread_sigmask(SIG_SETMASK, &before_, nullptr);
  }

 private:
  sigset_t set_;
  sigset_t before_;
};

enum class deed : std::uint8_t {
  feed,            // by the peer
  feed_full,
  drain_peer,
  read_some,
  drain,
  write_some,
  fill,
  shut_peer,
  shut,
  close_peer,
  duplicate,       // keeps the open file alive when the number is closed
  feed_duplicate,  // by the peer that was the duplicate's when it was made
  drop_duplicate,
  // From here on the number has another open file afterwards, or none.
  renew,
  close_number,
  restore,         // the duplicate's open file gets the number back
  borrow,          // another place's open file gets it as well
};
inline constexpr unsigned deeds = 17;
inline constexpr unsigned gentle_deeds = 7;  // which end nothing
inline bool changes_number(deed what) { return what >= deed::renew; }
inline bool gets_used_file(deed what) { return what >= deed::restore; }

inline const char* name_of(deed what) {
  constexpr std::array names{"feed",       "feed_full", "drain_peer",     "read_some",      "drain",
                             "write_some", "fill",      "shut_peer",      "shut",           "close_peer",
                             "duplicate",  "feed_duplicate", "drop_duplicate", "renew", "close_number",
                             "restore",    "borrow"};
  return names[static_cast<unsigned>(what)];
}

class world {
 public:
  static constexpr unsigned places_max = 7;

  world(dice& random, unsigned count) : places_(count) {
    for (unsigned i = 0; i < count; ++i) {
      // Numbers above what the kernel gives out stay free when they are closed. The others are never left
      // free: a loop that makes its epoll set anew would get one of them.
      if (i % 3 != 2) places_[i].high = first_number + static_cast<int>(i);
      renew(places_[i], random);
    }
  }
  world(const world&) = delete;
  ~world() {
    for (place& each : places_) close_number(each);
  }

  unsigned count() const { return static_cast<unsigned>(places_.size()); }
  int number(unsigned at) const { return places_[at].number; }
  bool is_open(unsigned at) const { return places_[at].open; }

  // False: it does not apply here.
  bool perform(deed what, unsigned at, dice& random) {
    place& here = places_[at];
    switch (what) {
      case deed::feed: return here.peer && put(here.peer.get(), 1 + random.below(3000));
      case deed::feed_full: return here.peer && fill(here.peer.get());
      case deed::drain_peer: return here.peer && drain(here.peer.get());
      case deed::read_some: return here.open && take(here.number, 1 + random.below(500));
      case deed::drain: return here.open && drain(here.number);
      case deed::write_some: return here.open && put(here.number, 1 + random.below(3000));
      case deed::fill: return here.open && fill(here.number);
      case deed::shut_peer: return here.peer && shut(here.peer.get(), random);
      case deed::shut: return here.open && shut(here.number, random);
      case deed::close_peer:
        if (!here.peer) return false;
        here.peer.reset();
        return true;
      case deed::duplicate: return duplicate(here, random);
      case deed::feed_duplicate: return here.copy_peer && put(here.copy_peer.get(), 1 + random.below(3000));
      case deed::drop_duplicate:
        if (!here.copy) return false;
        here.copy.reset();
        here.copy_peer.reset();
        return true;
      case deed::renew: renew(here, random); return true;
      case deed::close_number:
        if (!here.open || here.high < 0) return false;
        close_number(here);
        return true;
      case deed::restore: return restore(here);
      case deed::borrow: return borrow(here, places_[random.below(count())]);
    }
    return false;
  }

 private:
  static constexpr int first_number = 400;
  static constexpr int buffer_bytes = 4096;

  struct place {
    int high = -1;    // the number it has, or -1: what the kernel gives it
    int number = -1;
    bool open = false;
    coir::unique_fd peer;
    coir::unique_fd copy;
    coir::unique_fd copy_peer;
  };

  static bool put(int fd, unsigned bytes) {
    static constexpr std::array<char, buffer_bytes> block{};
    static_cast<void>(!::write(fd, block.data(), bytes));
    return true;
  }
  static bool fill(int fd) {
    static constexpr std::array<char, buffer_bytes> block{};
    while (::write(fd, block.data(), block.size()) > 0) {
    }
    return true;
  }
  static bool take(int fd, unsigned bytes) {
    std::array<char, buffer_bytes> block;
    static_cast<void>(!::read(fd, block.data(), bytes));
    return true;
  }
  static bool drain(int fd) {
    std::array<char, buffer_bytes> block;
    while (::read(fd, block.data(), block.size()) > 0) {
    }
    return true;
  }
  static bool shut(int fd, dice& random) {
    constexpr std::array how{SHUT_WR, SHUT_WR, SHUT_RD, SHUT_RDWR};
    return ::shutdown(fd, how[random.below(how.size())]) == 0;
  }

  static void close_number(place& here) {
    if (here.open) ::close(here.number);
    here.open = false;
  }

  // A new pair: sockets, or a pipe either way round.
  static void renew(place& here, dice& random) {
    const unsigned kind = random.below(5);
    if (here.high < 0) close_number(here);
    int ends[2];
    if (kind < 3) {
      REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends) == 0);
      for (const int end : ends) {
        REQUIRE(::setsockopt(end, SOL_SOCKET, SO_SNDBUF, &buffer_bytes, sizeof buffer_bytes) == 0);
      }
    } else {
      REQUIRE(::pipe2(ends, O_NONBLOCK | O_CLOEXEC) == 0);
      REQUIRE(::fcntl(ends[0], F_SETPIPE_SZ, buffer_bytes) >= buffer_bytes);
    }
    if (kind == 4) std::swap(ends[0], ends[1]);
    if (here.high >= 0) here.number = here.high;
    if (here.number < 0) here.number = ends[0];
    // The number that was closed just now mostly comes back by itself, as one of the two.
    if (ends[1] == here.number) {
      if (kind < 3) {
        std::swap(ends[0], ends[1]);
      } else {
        ends[1] = copy_of(here.number).release();
      }
    }
    if (ends[0] != here.number) {
      REQUIRE(::dup3(ends[0], here.number, O_CLOEXEC) == here.number);
      ::close(ends[0]);
    }
    here.peer = coir::unique_fd(ends[1]);
    here.open = true;
  }

  static coir::unique_fd copy_of(int fd) { return coir::unique_fd(::fcntl(fd, F_DUPFD_CLOEXEC, 0)); }
  static bool duplicate(place& here, dice& random) {
    if (!here.open || here.copy) return false;
    here.copy = copy_of(here.number);
    if (here.peer && random.one_in(2)) here.copy_peer = copy_of(here.peer.get());
    return true;
  }
  static bool put_over(int from, place& here) {
    REQUIRE(::dup3(from, here.number, O_CLOEXEC) == here.number);
    here.open = true;
    return true;
  }
  static bool restore(place& here) {
    if (!here.copy) return false;
    put_over(here.copy.get(), here);
    here.peer = std::move(here.copy_peer);
    here.copy.reset();
    return true;
  }
  static bool borrow(place& here, place& from) {
    if (&here == &from || !from.open) return false;
    put_over(from.number, here);
    here.peer.reset();
    return true;
  }

  std::vector<place> places_;
};

}  // namespace tests::fuzz
