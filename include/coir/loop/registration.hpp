// coir/loop/registration.hpp: what a loop keeps for a user, and the handle that owns it.
//
//   auto tick = loop.every(1s, [] { ... });    // lives as long as `tick`
//   loop.signal(SIGINT, [&] { loop.stop(); }).keep();    // lives as long as the loop
//                                                       [tests/loop/registration_test.cpp]
//
// Watchers, timers, signals, children, wakers and watched paths are registrations.
//
// Shape    one heap object, shared by the loop and the handle.
// Order    a registration that has ended is not called any more, also when its event was there already.
// Thread   the loop's.
// Cancel   cancel(), destroying the handle, or the end of the loop: the three do the same. Afterwards it is
//          inert: every use is harmless or a std::logic_error that says so. It may end itself from its own
//          callback; what the callback has captured is destroyed when that returns.
// Errors   std::logic_error for one that has ended, from another thread than the loop's, and in a forked child,
//          where ending one is harmless.
// Cost     making one allocates; being called does not.
// See      coir/loop/watcher.hpp, timer.hpp, signal.hpp, child.hpp, waker.hpp, path_watch.hpp
#pragma once

#include <coir/base/assert.hpp>
#include <coir/base/list.hpp>

#include <any>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>

namespace coir {

class loop;
class watch_set;

// `part`: what one of the others is made of.
enum class registration_kind : std::uint8_t { watcher, timer, signal, child, waker, path, part };
inline constexpr std::size_t registration_kinds = 7;

class registration : public list_node {
 public:
  registration(const registration&) = delete;

  // Not cancelled, and its loop is there.
  bool active() const noexcept { return loop_ != nullptr; }
  // Idempotent.
  void cancel() noexcept;
  // std::logic_error when it is inert.
  loop& on() const;
  // What it waits for, in a few words.
  virtual std::string describe() const = 0;

  std::any data;  // the user's; destroyed with the callbacks

 protected:
  registration(loop& of, registration_kind kind);
  virtual ~registration();

  // Gives back what it has of the kernel and the loop.
  virtual void leave() noexcept = 0;
  // Destroys the user's functions.
  virtual void drop() noexcept = 0;
  // For what may throw: refuses another thread, and a forked child.
  loop& checked() const;
  // For what may not, because whoever gives up a loop also ends what it has, in a forked child too.
  watch_set& watches() const noexcept;
  // It may still call somebody without being touched.
  virtual bool is_expected() const noexcept { return true; }
  bool is_part() const noexcept { return kind_ == registration_kind::part; }
  // Somebody holds a handle.
  bool is_held() const noexcept { return references_ > 1 + calls_; }

  // Keeps it in one piece while its callback runs.
  class call {
   public:
    explicit call(registration& of) noexcept : of_(of) {
      ++of_.references_;
      ++of_.calls_;
    }
    call(const call&) = delete;
    ~call() {
      if (--of_.calls_ == 0 && !of_.active()) of_.drop_all();
      of_.release();
    }

   private:
    registration& of_;
  };

 private:
  template <class T>
  friend class owned;
  friend class loop;
  void drop_all() noexcept;
  void release() noexcept {
    if (--references_ == 0) delete this;
  }

  loop* loop_;
  std::uint32_t references_ = 2;  // the loop's, the handle's, and one for each call
  std::uint32_t calls_ = 0;
  registration_kind kind_;
};

template <class T>
class [[nodiscard("a registration ends with its handle: give it a name, or say .keep()")]] owned {
 public:
  owned() noexcept = default;
  // Takes over the reference that a new registration has for its handle.
  explicit owned(T& made) noexcept : to_(&made) {}
  owned(owned&& other) noexcept : to_(std::exchange(other.to_, nullptr)) {}
  owned& operator=(owned&& other) noexcept {
    if (this != &other) {
      reset();
      to_ = std::exchange(other.to_, nullptr);
    }
    return *this;
  }
  ~owned() { reset(); }

  // Ends the registration.
  void reset() noexcept {
    if (T* const mine = std::exchange(to_, nullptr); mine != nullptr) {
      mine->cancel();
      base(*mine).release();
    }
  }
  // Leaves it to the loop: it ends with the loop, or when it is cancelled from its callback.
  void keep() noexcept {
    if (T* const mine = std::exchange(to_, nullptr); mine != nullptr) {
      if (!base(*mine).is_expected()) mine->cancel();
      base(*mine).release();
    }
  }

  // There is one, and it is active.
  explicit operator bool() const noexcept { return to_ != nullptr && to_->active(); }
  T* operator->() const noexcept { return &**this; }
  T& operator*() const noexcept {
    COIR_ASSERT(to_ != nullptr, "an empty handle was used");
    return *to_;
  }

 private:
  static registration& base(T& of) noexcept { return of; }
  T* to_ = nullptr;
};

}  // namespace coir
