// coir/fiber/attached.hpp: what other folders keep with a fiber: found by a key, and told of its end.
//
//   class notes final : public coir::attached { void fiber_over() noexcept override { ... } ... };
//   self.attach(std::make_unique<notes>(&key));   self.find_attached(&key);     [tests/fiber/attached_test.cpp]
//
// For those who write something that every fiber can have one of, such as an inbox (coir/sync/inbox.hpp).
//
// Shape    a base class. It lives in the fiber's cold part, and goes with the control block: after the fiber, when the
//          last handle does.
// Order    found by its key; the latest first.
// Thread   one loop.
// Errors   std::bad_alloc from attach().
// Cost     for a fiber that has none: nothing; else a search among what it has.
// See      lib/fiber/NOTE.md
#pragma once

#include <memory>

namespace coir {

class attached {
 public:
  // The address of something that lives as long as the program.
  explicit attached(const void* key) noexcept : key_(key) {}
  attached(const attached&) = delete;
  attached& operator=(const attached&) = delete;
  virtual ~attached() = default;

  // The fiber's body has come to its end: nobody can tell it anything, and nothing here can wait. May be called more
  // than once.
  virtual void fiber_over() noexcept = 0;
  // The fiber was asked to begin again: what is told from now on is for its next run.
  virtual void fiber_restarted() noexcept = 0;

 private:
  friend class fiber_base;
  const void* key_;
  std::unique_ptr<attached> next_;
};

}  // namespace coir
