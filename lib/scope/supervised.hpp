// A child of a supervisor: how it is made, the fiber that it is now, and its timers. What is to be done about
// its end is decided in supervisor.cpp.
#pragma once

#include <coir/base/list.hpp>
#include <coir/fiber/fiber.hpp>
#include <coir/loop/timer_heap.hpp>
#include <coir/loop/waiter.hpp>
#include <coir/scope/supervisor.hpp>

#include <cstdint>
#include <exception>
#include <list>
#include <memory>
#include <optional>
#include <string>
#include <utility>

namespace coir {

class supervisor_inbox;

class supervised final : private waiter, private timer_node {
 public:
  // What is to come after its end.
  enum class then : std::uint8_t {
    decide,    // as its policy says
    with_all,  // its group is being stopped, and it is started with that
    start,     // restart(name)
    stay,      // stop(name)
    go,        // remove(name)
  };

  supervised(supervisor_inbox& inbox, std::string_view name, std::shared_ptr<priv::child_factory> factory,
             const child_options& options, place at);
  supervised(const supervised&) = delete;
  ~supervised();

  const std::string& name() const noexcept { return name_; }
  restart_policy policy() const noexcept { return options_.policy_; }
  std::uint64_t restarts() const noexcept { return starts_ == 0 ? 0 : starts_ - 1; }
  child_info info() const;

  // Its fiber lives, or its end has not been looked at.
  bool present() const noexcept { return end_.has_value() || unborn_ != nullptr; }
  bool alive() const noexcept { return end_.has_value() && end_->control().state() != fiber_state::dead; }

  // That there is no memory for its fiber is an end like any other.
  void start(fiber_home& home, region& where);
  // Asks it to end, and cancels it when its shutdown time is over, or at once.
  void stop(bool at_once) noexcept;
  // Its end, once: how, and why it failed.
  struct ending {
    fiber_outcome outcome;
    std::exception_ptr failure;
    bool hung;
    duration lived;
  };
  ending take_end();

  // It will be started: told to the inbox, at once or at an instant.
  void start_soon() noexcept;
  void start_at(loop& on, instant at);
  void wait_for_group() noexcept;
  // Settled, it tells the inbox that those who waited for it go on without.
  void leave_group() noexcept;
  bool due() const noexcept { return due_; }
  // It will not.
  void settle(child_state how) noexcept;

  // Of the restarts in a row: how long the next one's back-off may be.
  duration longest_wait{};
  // Those that stopped because of its end start with it.
  bool leads_group = false;
  then next = then::decide;
  child_state state = child_state::waiting;
  std::list<supervised>::iterator position;

 private:
  friend class supervisor_inbox;

  class end_watch : public join_base {
   public:
    explicit end_watch(const handle_base& whom) noexcept : join_base(whom) {}
    ~end_watch() = default;
    fiber_base& whom() const noexcept { return *get(); }
    std::exception_ptr failure() const noexcept;
  };
  // What the timer is for.
  enum class alarm : std::uint8_t { none, start, shutdown, heartbeat };

  static void has_ended(waiter& self) noexcept;
  static void ring(timer_node& self);
  static constexpr waiter_kind kind_{has_ended};

  loop& on() const noexcept { return end_->whom().home().on(); }
  void set_alarm(loop& on, alarm what, instant at);
  void clear_alarm() noexcept;
  void check_heartbeat();
  void cancel() noexcept;

  supervisor_inbox& inbox_;
  std::string name_;
  std::shared_ptr<priv::child_factory> factory_;
  child_options options_;
  place at_;

  std::optional<end_watch> end_;  // of its fiber
  std::exception_ptr unborn_;     // why it has none
  std::shared_ptr<priv::pulse> heart_;
  std::exception_ptr last_failure_;
  std::uint64_t starts_ = 0;
  instant started_at_{};
  instant next_start_ = never;
  loop* armed_on_ = nullptr;
  alarm alarm_ = alarm::none;
  bool hung_ = false;
  bool due_ = false;     // to be started, or its group
  bool queued_ = false;  // in the inbox for that, due or not any more
  supervised* next_ended_ = nullptr;
  supervised* next_due_ = nullptr;
  supervised* next_gone_ = nullptr;

 public:
  // Removed, and not forgotten yet: whoever removes one may be out of memory.
  using gone = queue<supervised, &supervised::next_gone_>;
};

// What a supervisor has to look at. Whoever puts something there only wakes its fiber.
class supervisor_inbox {
 public:
  void has_ended(supervised& which) noexcept {
    ended_.push(which);
    tell();
  }
  void is_due(supervised& which) noexcept {
    if (!std::exchange(which.queued_, true)) due_.push(which);
    tell();
  }
  bool has_ends() const noexcept { return !ended_.empty(); }
  // Null: none.
  supervised* next_ended() noexcept { return ended_.empty() ? nullptr : &ended_.pop(); }
  supervised* next_due() noexcept;

  void tell() noexcept {
    news_ = true;
    if (waiting_ != nullptr) std::exchange(waiting_, nullptr)->done();
  }

 private:
  friend class supervisor_wait_op;

  queue<supervised, &supervised::next_ended_> ended_;
  queue<supervised, &supervised::next_due_> due_;
  waiter* waiting_ = nullptr;
  bool news_ = false;
};

}  // namespace coir
