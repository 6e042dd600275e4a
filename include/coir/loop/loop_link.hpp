// coir/loop/loop_link.hpp: the way back to a loop that may be gone, from any thread.
//
//   coir::loop_link link(loop);
//   link.visit([](void* what, coir::loop* on) noexcept { ... }, what);    // on: null when it is gone
//                                                             [tests/loop/loop_link_test.cpp]
//
// For destructors of what belongs to a loop: they may run anywhere, and what they must do there is the
// loop's business.
//
// Shape    a loop and its number: another loop may have its address by now. Copies.
// Order    with the loop's posts.
// Thread   any. While nobody has run the loop one visits at a time: not beside a thread that still prepares it, and
//          without leading to another such loop.
// Errors   none. Ends the program when there is no memory for a post.
// Cost     on the loop's thread, while it runs: a comparison. Elsewhere a lock, and a post.
// See      coir/loop/descriptor.hpp
#pragma once

#include <coir/loop/loop.hpp>

#include <cstdint>

namespace coir {

class loop_link {
 public:
  using work = void (*)(void* what, loop* on) noexcept;

  loop_link() noexcept = default;
  explicit loop_link(loop& to) noexcept : loop_(&to), number_(to.number()) {}

  // For whoever knows that it is there.
  loop& get() const noexcept { return *loop_; }
  // This thread runs it now.
  bool is_here() const noexcept {
    return loop_ == loop::current() && loop_->number() == number_ && loop_->usable();
  }
  // Calls `visiting` once: on the loop's thread, at once when this is it or nobody has run the loop yet, or without a
  // loop when that has ended, or was left behind in the parent process.
  void visit(work visiting, void* what) const noexcept {
    if (is_here()) [[likely]] {
      visiting(what, loop_);
    } else {
      visit_elsewhere(visiting, what);
    }
  }

 private:
  void visit_elsewhere(work visiting, void* what) const noexcept;

  loop* loop_ = nullptr;
  std::uint16_t number_ = 0;
};

}  // namespace coir
