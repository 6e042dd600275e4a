// coir/testing/wait_all_blocked.hpp: wait until all others wait.
//
//   auto reader = coir::spawn(read_from(peer));
//   co_await coir::testing::wait_all_blocked();      // now it waits for bytes, however long it took to get there
//   reader.cancel();                             [tests/testing/wait_all_blocked_test.cpp]
//
// Shape    an op. It is done when its loop would sleep, or its clock jump: no fiber is ready, nothing is due or
//          posted, and the kernel has nothing. Sleepers wait, too: the clock does not move for it.
// Order    all that wait in one are told at once.
// Thread   the loop's. While a loop::hold says that another thread will do something, not all are blocked.
// Cancel   now.
// Errors   std::logic_error outside of a loop.
// Cost     one look at the kernel. What a kernel still works at (a file, a packet to another process) it does
//          not say; on a simulator all that is under way has arrived.
// See      coir/testing/simulator.hpp
#pragma once

#include <coir/fiber/op.hpp>
#include <coir/loop/loop.hpp>

namespace coir::testing {

class [[nodiscard("co_await it, or coir::await(it)")]] all_blocked_op {
 public:
  static constexpr const char* name = "wait_all_blocked";
  explicit all_blocked_op(loop& of) noexcept : loop_(&of) {}

  bool start(waiter& told) noexcept {
    idle_.told = &told;
    loop_->tell_when_idle(idle_);
    return true;
  }
  abort_answer abort() noexcept {
    idle_.unlink();
    return abort_answer::now;
  }
  void take() const noexcept {}

 private:
  loop* loop_;
  loop::idle_wait idle_;
};

inline all_blocked_op wait_all_blocked() { return all_blocked_op(running_fiber().home().on()); }

}  // namespace coir::testing
