// coir/io/events.hpp: a fiber waits for a signal, the end of a process, or a change of a path.
//
//   coir::signal_event end = co_await coir::wait_signal({SIGINT, SIGTERM});
//   coir::child_status status = co_await coir::wait_child(pid);
//   coir::fs_change change = co_await coir::wait_path("/etc", coir::fs_mask::create);
//                                                              [tests/io/events_test.cpp]
//
// Shape    ops over the loop's own registrations, and mean what those mean: coir/loop/signal.hpp, child.hpp,
//          path_watch.hpp. Each hears what happens while it waits; of several that wait all go on. Only one of
//          them reaps a child: the others say reap::no.
// Between  two waits nobody listens. A signal then takes its ordinary course, unless the program has blocked it:
//          then it stays pending, and the next wait has it. A child's end is never missed. Changes of a path are:
//          to see all of them, use loop.watch_path.
// Thread   one loop.
// Cancel   now; nothing was taken from anybody. A child goes on, and is not reaped.
// Errors   those of the registration: co_await throws them.
// Cost     wait_signal: six system calls and no allocation where the program has the signal blocked, but for the
//          first; where it has not, each wait reads the status of every thread, as registering does. The others
//          make a registration each time.
// See      coir/io/readiness.hpp
#pragma once

#include <coir/base/expected.hpp>
#include <coir/fiber/op.hpp>
#include <coir/fiber/scheduler.hpp>
#include <coir/loop/loop.hpp>

#include <cstdint>
#include <exception>
#include <string>
#include <system_error>
#include <utility>

namespace coir {

namespace priv {

// What has come, or why it could not be waited for.
template <class Value>
class event_op {
 public:
  Value take() {
    if (failure_ != nullptr) std::rethrow_exception(failure_);
    return std::move(value_);
  }
  result<Value> take_result() {
    if (failure_ != nullptr) return unexpected<std::error_code>(code_);
    return std::move(value_);
  }

 protected:
  // False: it was refused.
  template <class Begin>
  bool start_with(waiter& told, Begin&& begin) {
    told_ = &told;
    failure_ = nullptr;
    code_.clear();
    try {
      begin(running_fiber().home().on());
      return true;
    } catch (const std::system_error& error) {
      code_ = error.code();
      failure_ = std::current_exception();
      return false;
    }
  }
  void finish(Value&& value) noexcept {
    value_ = std::move(value);
    told_->done();
  }

 private:
  Value value_{};
  waiter* told_ = nullptr;
  std::exception_ptr failure_;
  std::error_code code_;
};

}  // namespace priv

class [[nodiscard("co_await it, or coir::await(it)")]] signal_op : public priv::event_op<signal_event>,
                                                                   private signal_subscriber {
 public:
  static constexpr const char* name = "wait_signal";

  explicit signal_op(const signal_set& numbers) noexcept : signal_subscriber(numbers, heard) {}

  bool start(waiter& told) {
    return start_with(told, [this](loop& on) { attach(on); });
  }
  abort_answer abort() noexcept {
    detach();
    return abort_answer::now;
  }
  void describe(std::string& text) const { text.append(" for ").append(numbers().names()); }

 private:
  static void heard(signal_subscriber& node, const signal_event& event) {
    auto& self = static_cast<signal_op&>(node);
    self.detach();
    self.finish(signal_event(event));
  }
};

namespace priv {

// A registration that is made by start() and gone when it has called. Movable until then.
template <class Registration, class Value>
class registration_op : public event_op<Value> {
 public:
  abort_answer abort() noexcept {
    made_.reset();
    return abort_answer::now;
  }

 protected:
  template <class Make>
  bool begin(waiter& told, Make&& make) {
    return this->start_with(told, [&](loop& on) { made_ = make(on); });
  }
  void end(Value&& value) noexcept {
    made_.reset();
    this->finish(std::move(value));
  }

 private:
  owned<Registration> made_;
};

}  // namespace priv

class [[nodiscard("co_await it, or coir::await(it)")]] child_op
    : public priv::registration_op<child_watch, child_status> {
 public:
  static constexpr const char* name = "wait_child";

  child_op(pid_t pid, reap how) noexcept : pid_(pid), how_(how) {}

  bool start(waiter& told) {
    return begin(told, [this](loop& on) {
      return on.child_exit(pid_, [this](child_status status) { end(std::move(status)); }, how_);
    });
  }
  void describe(std::string& text) const { text.append(" ").append(std::to_string(pid_)); }

 private:
  pid_t pid_;
  reap how_;
};

// An fs_event that one may keep.
struct fs_change {
  fs_mask what = fs_mask::none;
  bool is_directory = false;
  std::uint32_t cookie = 0;
  std::string name;

  bool is(fs_mask one_of) const noexcept { return (what & one_of) != fs_mask::none; }
};

class [[nodiscard("co_await it, or coir::await(it)")]] path_op
    : public priv::registration_op<path_watch, fs_change> {
 public:
  static constexpr const char* name = "wait_path";

  path_op(std::string path, fs_mask mask) noexcept : path_(std::move(path)), mask_(mask) {}

  bool start(waiter& told) {
    return begin(told, [this](loop& on) {
      return on.watch_path(path_, mask_, [this](const fs_event& event) {
        end({event.what, event.is_directory, event.cookie, std::string(event.name)});
      });
    });
  }
  void describe(std::string& text) const { text.append(" \"").append(path_).append("\""); }

 private:
  std::string path_;
  fs_mask mask_;
};

// Wakes with the first of them that comes.
inline signal_op wait_signal(const signal_set& numbers) { return signal_op(numbers); }
inline child_op wait_child(pid_t pid, reap how = reap::yes) { return {pid, how}; }
inline path_op wait_path(std::string path, fs_mask mask) { return {std::move(path), mask}; }

}  // namespace coir
