// An op that waits for the test: it completes when the test says so, and answers abort() as it was told.
//
//   hand hold;                          // the test's side
//   coir::await(hand_op(hold));         // a fiber's
//   hold.complete(7);                   // that fiber gets 7
#pragma once

#include <coir/coir.hpp>

namespace support {

class hand_op;

class hand {
 public:
  explicit hand(coir::abort_answer answer = coir::abort_answer::now) noexcept : answer_(answer) {}
  hand(const hand&) = delete;

  // Somebody waits here.
  bool waiting() const noexcept { return told_ != nullptr; }
  unsigned aborts() const noexcept { return aborts_; }
  // Whoever waits gets `value`; if nobody does, the next one gets it at once.
  void complete(int value = 0) noexcept {
    value_ = value;
    completed_ = true;
    tell();
  }
  // Whoever waits and was asked to stop has stopped.
  void give_up() noexcept {
    given_up_ = true;
    tell();
  }

 private:
  friend class hand_op;
  void tell() noexcept {
    if (coir::waiter* const told = std::exchange(told_, nullptr); told != nullptr) told->done();
  }

  coir::abort_answer answer_;
  coir::waiter* told_ = nullptr;
  unsigned aborts_ = 0;
  int value_ = 0;
  bool completed_ = false;
  bool given_up_ = false;
};

class [[nodiscard]] hand_op {
 public:
  static constexpr const char* name = "hand";
  explicit hand_op(hand& of) noexcept : of_(&of) {}

  bool start(coir::waiter& told) noexcept {
    if (of_->completed_) return false;
    of_->told_ = &told;
    return true;
  }
  coir::abort_answer abort() noexcept {
    ++of_->aborts_;
    if (of_->answer_ == coir::abort_answer::now) of_->told_ = nullptr;
    return of_->answer_;
  }
  int take() {
    if (std::exchange(of_->given_up_, false)) throw coir::cancelled();
    of_->completed_ = false;
    return of_->value_;
  }

 private:
  hand* of_;
};

}  // namespace support
