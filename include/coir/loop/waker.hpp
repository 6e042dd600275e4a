// coir/loop/waker.hpp: a function of a loop that other threads, and forked children, have called.
//
//   auto k = loop.waker([&](std::uint64_t count) { done += count; });
//   std::thread other([&] { k.wake(); k.wake(3); });        // one call with 4, or two with 1 and 3
//   coir::waker_end end = k.share();                        // for those who may outlive k
//                                                           [tests/loop/waker_test.cpp]
//
// It counts and carries nothing else: what is to be done travels elsewhere, or is a loop.post().
//
// Shape    a registration around an eventfd, with a handle that owns it. Others wake it through the handle, or through
//          ends, which may be copied. The eventfd lives as long as any of them.
// Order    nothing is called inline. What comes until the loop looks is one call with the sum; it looks once in a
//          turn, so that wakes from inside the callback come in a later one.
// Thread   wake(), share() and operator bool: any thread. reset(): the loop's, also while others wake. What moves or
//          destroys the handle, keep() too: the loop's, when no other uses it any more: give ends to the others.
// Fork     in a child that inherited it wake() calls the parent's function; ending it there ends nothing of
//          the parent's, and takes nothing from its count.
// Cancel   after reset(), or the end of the loop, a wake is refused, and one that comes at the same time reaches
//          nobody. What was counted and not delivered goes with it.
// Errors   std::invalid_argument for a count of 0 and of 2^64 - 1. std::system_error EAGAIN when the sum would
//          exceed 2^64 - 2: what was counted before is delivered, and then there is room again. std::logic_error
//          for a wake of one that has ended, and for a waker without a function. EMFILE, ENFILE from making one.
// Cost     a wake is one write(2); a call is one read(2), however many wakes it stands for.
// See      coir/loop/registration.hpp; loop.post() in coir/loop/loop.hpp; lib/loop/NOTE.md
#pragma once

#include <coir/base/callback.hpp>
#include <coir/loop/registration.hpp>

#include <cstdint>
#include <memory>
#include <utility>

namespace coir {

// The eventfd, and whether anybody still reads it.
class waker_counter;

// From where a waker is woken. Owns no registration: keep as many as are needed, where they are needed.
class waker_end {
 public:
  // Of none.
  waker_end() noexcept = default;

  void wake(std::uint64_t count = 1) const;
  // Somebody is there to be woken.
  explicit operator bool() const noexcept;

 private:
  friend class waker;
  explicit waker_end(std::shared_ptr<const waker_counter> of) noexcept : counter_(std::move(of)) {}
  std::shared_ptr<const waker_counter> counter_;
};

class [[nodiscard("a waker ends with its handle: give it a name, or say .keep()")]] waker {
 public:
  // Of none.
  waker() noexcept = default;
  waker(waker&&) noexcept = default;
  waker& operator=(waker&&) noexcept = default;
  ~waker() = default;

  void wake(std::uint64_t count = 1) const { end_.wake(count); }
  // There is one, and it is active.
  explicit operator bool() const noexcept { return static_cast<bool>(end_); }
  waker_end share() const noexcept { return end_; }

  // Ends it, idempotently. The descriptor stays open as long as this handle lives: no late wake reaches a stranger.
  void reset() noexcept { made_.reset(); }
  // Leaves it to the loop, with which it ends. What is returned wakes it from then on, this handle does not.
  waker_end keep() noexcept {
    made_.keep();
    return std::move(end_);
  }

 private:
  friend class loop;
  waker(loop& of, callback<std::uint64_t>&& then);

  waker_end end_;
  owned<registration> made_;
};

}  // namespace coir
