// coir/testing/sequencer.hpp: force an order between fibers.
//
//   coir::testing::sequencer order;
//   { auto turn = co_await order.turn(0); ... }      // in one fiber
//   { auto turn = co_await order.turn(1); ... }      // in another: not before the first is done
//                                                             [tests/testing/sequencer_test.cpp]
//
// Shape    a counter and who waits for it. A turn ends when the object that stands for it dies.
// Order    0, 1, 2, ...
// Thread   one loop.
// Cancel   aborts now; the turn stays untaken, and those behind it wait for ever.
// Errors   std::logic_error: a turn that was taken before.
// Cost     O(number of waiters) per turn.
// See      coir/testing/mock_clock.hpp
#pragma once

#include <coir/base/list.hpp>
#include <coir/fiber/op.hpp>

#include <string>
#include <utility>

namespace coir::testing {

class sequencer {
 public:
  // Whoever holds it has the turn.
  class held {
   public:
    explicit held(sequencer& of) noexcept : of_(&of) {}
    held(held&& other) noexcept : of_(std::exchange(other.of_, nullptr)) {}
    held& operator=(held&&) = delete;
    ~held() {
      if (of_ != nullptr) of_->pass_on();
    }

   private:
    sequencer* of_;
  };

  class [[nodiscard("co_await it, or coir::await(it)")]] turn_op : public list_node {
   public:
    static constexpr const char* name = "turn";
    turn_op(sequencer& of, unsigned position) noexcept : of_(&of), position_(position) {}

    bool start(waiter& told);
    abort_answer abort() noexcept {
      if (!linked()) return abort_answer::later;
      unlink();
      return abort_answer::now;
    }
    held take() noexcept { return held(*of_); }
    void describe(std::string& text) const {
      text += ' ';
      text += std::to_string(position_);
    }

   private:
    friend class sequencer;
    sequencer* of_;
    unsigned position_;
    waiter* told_ = nullptr;
  };

  turn_op turn(unsigned position) noexcept { return {*this, position}; }

 private:
  void pass_on() noexcept;

  unsigned next_ = 0;
  bool taken_ = false;
  list<turn_op> waiting_;
};

}  // namespace coir::testing
