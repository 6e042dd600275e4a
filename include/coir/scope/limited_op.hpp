// coir/scope/limited_op.hpp: an op with a limit in time is an op.
//
//   std::optional<std::size_t> n = co_await coir::move_on_after(1s, peer.read_some(buffer));
//                                                         [tests/scope/limited_op_test.cpp]
//
// What move_on_after() and fail_after() make of an op. An op has no children, so there is no region: only a timer
// that aborts it.
//
// Shape    the op, and 72 bytes. No frame.
// Order    when the fiber is cancelled in the turn in which the limit is over, the cancellation is what is felt.
// Thread   one loop.
// Cancel   as the op inside. One that cannot be stopped any more when its time is over gives its result.
// Errors   as the op inside; std::bad_alloc when the timer cannot be armed.
// Cost     around an op that is ready at once a few instructions: no clock, no timer. Else one reading of the clock,
//          arming and disarming.
// See      coir/scope/timeout.hpp
#pragma once

#include <coir/base/time.hpp>
#include <coir/fiber/op.hpp>
#include <coir/fiber/region.hpp>
#include <coir/loop/timer_heap.hpp>
#include <coir/loop/waiter.hpp>
#include <coir/scope/inside.hpp>

#include <string>
#include <utility>

namespace coir {

// A limit in time: so long from when a fiber first parks under it, or an instant.
class time_limit {
 public:
  explicit time_limit(duration from_parking) noexcept : length_(from_parking), relative_(true) {}
  explicit time_limit(instant at) noexcept : at_(at) {}

  void set(entered_region& of) const {
    if (relative_) {
      of.limit(length_);
    } else {
      of.deadline(at_);
    }
  }
  // As an instant, when the clock says `now`.
  instant from(instant now) const noexcept {
    if (!relative_) return at_;
    return length_ == duration::max() ? coir::never : after(now, length_);
  }

 private:
  union {
    duration length_;
    instant at_;
  };
  bool relative_ = false;
};

namespace priv {

// The op tells this one, which tells the fiber.
class limited_op_base : public waiter, private timer_node {
 protected:
  limited_op_base(time_limit limit, abort_answer (*stop)(limited_op_base&) noexcept) noexcept
      : waiter(kind), timer_node(expire), limit_(limit), stop_(stop) {}
  limited_op_base(limited_op_base&&) noexcept = default;
  ~limited_op_base() = default;

  void begin(waiter& told) noexcept {
    told_ = &told;
    // An op with a name may be awaited again.
    over_ = expired_ = stopped_ = asked_ = false;
  }
  // The op waits.
  void arm();
  void disarm() noexcept;
  // Its time was over before its end.
  bool expired() const noexcept { return expired_; }
  bool over() const noexcept { return over_; }
  // Whoever waits wants it to stop: by then its time does not matter any more.
  void be_asked() noexcept {
    asked_ = true;
    disarm();
  }
  bool asked() const noexcept { return asked_; }
  // It was stopped for it, with no effect.
  bool stopped() const noexcept { return stopped_; }

 private:
  static void finished(waiter& self) noexcept;
  static void expire(timer_node& self);
  static constexpr waiter_kind kind{finished};

  time_limit limit_;
  abort_answer (*stop_)(limited_op_base&) noexcept;
  loop* loop_ = nullptr;
  waiter* told_ = nullptr;
  bool over_ = false;  // the op has told
  bool expired_ = false;
  bool stopped_ = false;
  bool asked_ = false;
};

template <op Op, class Ending>
class [[nodiscard("co_await it, or coir::await(it)")]] limited_op : public limited_op_base {
 public:
  static constexpr const char* name = Op::name;
  using value = result_of<Op>;

  limited_op(time_limit limit, Ending ending, Op what)
      : limited_op_base(limit, stop), what_(std::move(what)), ending_(std::move(ending)) {}

  bool start(waiter& told) {
    begin(told);
    if (!what_.start(*this)) return false;
    if (!over() && !asked()) arm();
    return true;
  }
  abort_answer abort() noexcept {
    // Its time was over, and it has been asked already.
    if (expired()) return abort_answer::later;
    const abort_answer answer = what_.abort();
    be_asked();
    return answer;
  }
  typename Ending::template result<value> take() {
    if (!stopped()) {
      // Made where it is returned: read back in one piece what was written in two, it would cost a third of the op.
      try {
        return Ending::template full<value>([this]() -> decltype(auto) { return what_.take(); });
      } catch (const cancelled&) {
        if (!expired()) throw;
      }
    }
    running_fiber().check_interrupted();
    return ending_.template end<value>(maybe<value>());
  }
  void describe(std::string& text) const
    requires requires(const Op& what) { what.describe(text); }
  {
    what_.describe(text);
  }
  auto cancellation()
    requires requires(Op& what) { what.cancellation(); }
  {
    return what_.cancellation();
  }
  void shutting_down()
    requires requires(Op& what) { what.shutting_down(); }
  {
    what_.shutting_down();
  }
  void step_aside() noexcept
    requires requires(Op& what) { what.step_aside(); }
  {
    what_.step_aside();
  }
  void step_back() noexcept
    requires requires(Op& what) { what.step_back(); }
  {
    what_.step_back();
  }

 private:
  static abort_answer stop(limited_op_base& self) noexcept { return static_cast<limited_op&>(self).what_.abort(); }

  Op what_;
  Ending ending_;
};

}  // namespace priv

}  // namespace coir
