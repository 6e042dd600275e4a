// coir/loop/waiter.hpp: whom to tell when something that was waited for is over.
//
//   struct counter : coir::waiter {
//     counter() : waiter(kind) {}
//     static constexpr coir::waiter_kind kind{[](coir::waiter& self) noexcept { ... }};
//   };
//
// Shape    one pointer to a constant that says what to call: a virtual call without the rest of a
//          virtual class, so that a fiber's control block needs one word for it.
// Order    done() is called once for each thing waited for, or once per result of a multishot request.
// Thread   the loop's.
// Errors   none; done() must not throw.
// Cost     one indirect call. done() queues; it never runs user code.
// See      coir/fiber/op.hpp
#pragma once

namespace coir {

class waiter;

struct waiter_kind {
  void (*done)(waiter&) noexcept;
};

class waiter {
 public:
  explicit constexpr waiter(const waiter_kind& kind) noexcept : kind_(&kind) {}
  void done() noexcept { kind_->done(*this); }

 protected:
  ~waiter() = default;
  const waiter_kind& kind() const noexcept { return *kind_; }

 private:
  const waiter_kind* kind_;
};

// What an operation answers when it is asked to stop.
enum class abort_answer {
  now,    // it is over, nothing happened, and nobody will be told
  later,  // someone still owns it: it will complete, and may yet succeed
};

}  // namespace coir
