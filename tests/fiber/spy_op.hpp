// An op around another op, which writes down what is done with it.
#pragma once

#include <coir/coir.hpp>

#include <thread>
#include <utility>

namespace support {

struct spy_log {
  unsigned starts = 0;
  unsigned at_once = 0;  // of those, how many finished without suspension
  unsigned aborts = 0;
  unsigned answers_now = 0;
  unsigned answers_later = 0;
  unsigned done = 0;
  unsigned takes = 0;
  bool aborted_elsewhere = false;  // not in a turn of the op's loop, or on another thread
  bool left_early = false;         // taken or destroyed while somebody else still owned it
  // The test's: counts what the waiting fiber did after the op.
  unsigned user_code = 0;
  bool user_code_in_done = false;
};

template <coir::op Inner>
class [[nodiscard]] spy : public coir::waiter {
 public:
  static constexpr const char* name = Inner::name;

  spy(Inner inner, spy_log& log) : waiter(spy_kind), inner_(std::move(inner)), log_(&log) {}
  spy(spy&& other) noexcept
      : waiter(spy_kind), inner_(std::move(other.inner_)), log_(other.log_) {}
  ~spy() {
    if (owned_) log_->left_early = true;
  }

  bool start(coir::waiter& told) {
    told_ = &told;
    thread_ = std::this_thread::get_id();
    ++log_->starts;
    owned_ = true;
    bool waits = false;
    try {
      waits = inner_.start(*this);
    } catch (...) {
      owned_ = false;
      throw;
    }
    if (!waits) {
      owned_ = false;
      ++log_->at_once;
    }
    return waits;
  }
  coir::abort_answer abort() noexcept {
    ++log_->aborts;
    if (thread_ != std::this_thread::get_id() || coir::loop::current() == nullptr) {
      log_->aborted_elsewhere = true;
    }
    const coir::abort_answer answer = inner_.abort();
    if (answer == coir::abort_answer::now) {
      ++log_->answers_now;
      owned_ = false;
    } else {
      ++log_->answers_later;
    }
    return answer;
  }
  decltype(auto) take() {
    if (owned_) log_->left_early = true;
    ++log_->takes;
    return inner_.take();
  }
  auto cancellation()
    requires requires(Inner& what) { what.cancellation(); }
  {
    return inner_.cancellation();
  }

 private:
  static void heard(coir::waiter& self) noexcept {
    auto& mine = static_cast<spy&>(self);
    spy_log& log = *mine.log_;
    mine.owned_ = false;
    ++log.done;
    const unsigned before = log.user_code;
    mine.told_->done();
    if (log.user_code != before) log.user_code_in_done = true;
  }
  static constexpr coir::waiter_kind spy_kind{heard};

  Inner inner_;
  spy_log* log_;
  coir::waiter* told_ = nullptr;
  std::thread::id thread_;
  bool owned_ = false;  // somebody else has it
};

}  // namespace support
