// coir/fiber/region.hpp: the node of the tree of who lives inside whom.
//
// Every fiber belongs to the region it was spawned in. A fiber's body is a region; scopes and nurseries
// are further ones. This file has the node and what happens to it; when that happens is decided by
// whoever owns the region (coir/fiber/scheduler.hpp for bodies).
//
// Shape    18 bytes in its owner: the enclosing region, the children, flags.
// Order    children are cancelled in the order in which they were spawned.
// Thread   one loop.
// Cancel   cancel() is level-triggered: it stays, and reaches children spawned later.
// Errors   none.
// Cost     adding and removing a child O(1); cancel() touches each fiber below once, without recursion.
// See      coir/fiber/fiber.hpp; lib/fiber/NOTE.md
#pragma once

#include <coir/base/assert.hpp>

namespace coir {

class fiber_base;

class region {
 public:
  explicit region(region* parent, bool body = false) noexcept : parent_(parent), body_(body) {}
  region(const region&) = delete;
  ~region() { COIR_ASSERT(children_ == nullptr, "a region ended before its children"); }

  // The region this one is inside of; null for a scheduler's root.
  region* parent() const noexcept { return parent_; }
  // The fiber whose body it is; null for other regions.
  fiber_base* fiber() noexcept;
  bool cancelled() const noexcept { return cancelled_; }
  bool empty() const noexcept { return children_ == nullptr; }

  // The oldest child; the others follow it (fiber_base::next_sibling).
  fiber_base* first_child() const noexcept { return children_; }

  void add(fiber_base& child) noexcept;
  void remove(fiber_base& child) noexcept;
  // Cancels everything inside. What the region's own fiber does about it is its owner's business.
  void cancel() noexcept;

 private:
  friend class fiber_base;

  region* parent_;
  fiber_base* children_ = nullptr;  // the oldest; its older_sibling_ is the youngest
  bool cancelled_ = false;
  bool body_;  // base of a fiber_base, whose body it is
};

}  // namespace coir
