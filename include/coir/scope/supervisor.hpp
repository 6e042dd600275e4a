// coir/scope/supervisor.hpp: children that are started again when they die.
//
//   co_await coir::supervise(
//       coir::supervisor_options{}.strategy(coir::one_for_one).intensity(5, 10s).backoff(10ms, 5s),
//       [&](coir::supervisor& s) { s.add("worker", [] { return worker(); }, coir::permanent); });
//   coir::await(coir::supervise(...));                                     // on a stack
//   s.add("reader", read_all, coir::child_options(coir::transient).shutdown(2s).heartbeat(30s));
//   s.on_event([&](const coir::child_event& e) { ... });  s.restart("worker");  s.remove("reader");
//                                                         [tests/scope/supervisor_test.cpp]
//
// A child is given by a function that makes a task, or by a plain function, which runs on a stack; another
// supervise() is a child like any other. What restarts is decided as in Erlang/OTP: permanent children always,
// transient ones after a failure (an exception; a cancellation by anybody but this supervisor; having hung),
// temporary ones never. one_for_one restarts who died; one_for_all stops the others in reverse order, then
// starts all in order; rest_for_one does that to those behind it. Whoever dies while a group is stopped for
// another is started with the group and does not count. Also started with it are members that had ended or
// been stopped by name; temporary ones are gone.
//
// Stopping a child: it is asked (coir::shutting_down), and cancelled when its shutdown time is over; by default
// that is at once. One that swallows its cancellation is waited for: no fiber is ever left behind.
//
// Ends     when no child runs and none is to be started (options: stay()); when stop() was called, or somebody
//          around it asked it to end (cancel(grace)); cancelled, with `cancelled`; giving up. In each case the
//          children are stopped first, one after the other, the last one added first, each with its shutdown
//          time. A cancellation that comes while that goes on cuts these times short.
// Gives up after more than `restarts` within `within` (default: 3 in 5 s), a restart of a group being one:
//          restart_limit_exceeded, with the last failure nested in it. Above it that is a child's failure.
// Back-off so long after a death a child is started again: a random part of what grows from `first` to `most` by
//          doubling, until the child has lived longer than `within`. Without one: at once.
//
// Shape    supervise() makes a task: a supervisor, which setup fills, and its run(). Children run in that task's
//          fiber's region, under their names.
// Order    children are started in the order in which they were added; deaths are handled in the order in which
//          they happened, and told so.
// Thread   one loop.
// Cancel   see above. A callback that waits is cancelled too.
// Errors   restart_limit_exceeded; what setup or a callback throws. What a child throws while all are stopped at
//          the end is kept in the fiber's other_failures(). add(): std::logic_error for a name that is taken, and
//          after the end; std::system_error with std::errc::operation_canceled while it ends.
// Cost     a child: about 300 bytes, and its fiber. A restart: about 1 us, 2 more when it threw. Memory does not
//          grow with restarts, but for 8 bytes each within the window of the intensity.
// See      coir/scope/heartbeat.hpp, shutdown.hpp; lib/scope/NOTE.md
#pragma once

#include <coir/base/place.hpp>
#include <coir/base/time.hpp>
#include <coir/fiber/fiber.hpp>
#include <coir/fiber/scheduler.hpp>
#include <coir/fiber/task.hpp>
#include <coir/scope/heartbeat.hpp>
#include <coir/scope/inside.hpp>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

namespace coir {

enum class restart_strategy : std::uint8_t { one_for_one, one_for_all, rest_for_one };
enum class restart_policy : std::uint8_t { permanent, transient, temporary };
using enum restart_strategy;
using enum restart_policy;

class supervisor_options {
 public:
  supervisor_options() noexcept {}

  supervisor_options& strategy(restart_strategy which) noexcept { return strategy_ = which, *this; }
  template <class Rep, class Period>
  supervisor_options& intensity(std::size_t restarts, std::chrono::duration<Rep, Period> within) noexcept {
    restarts_ = restarts;
    within_ = saturated(within);
    return *this;
  }
  template <class Rep, class Period, class Rep2, class Period2>
  supervisor_options& backoff(std::chrono::duration<Rep, Period> first,
                              std::chrono::duration<Rep2, Period2> most) noexcept {
    first_ = saturated(first);
    most_ = saturated(most);
    return *this;
  }
  // Of the back-off's randomness: the same seed, the same times.
  supervisor_options& seed(std::uint32_t value) noexcept { return seed_ = value, *this; }
  // It does not end when it has nothing to do: somebody will add children. If nobody can, that is a deadlock.
  supervisor_options& stay(bool wanted = true) noexcept { return stay_ = wanted, *this; }

 private:
  friend class supervisor;
  std::size_t restarts_ = 3;
  duration within_ = std::chrono::seconds(5);
  duration first_{};
  duration most_{};
  std::uint32_t seed_ = 0;  // 0: from the time
  restart_strategy strategy_ = one_for_one;
  bool stay_ = false;
};

class child_options {
 public:
  // NOLINTNEXTLINE: add(name, factory, coir::permanent) is how it is meant to be written.
  child_options(restart_policy policy = permanent) noexcept : policy_(policy) {}

  // It is asked to end so long before it is cancelled; duration::max(): it is not cancelled.
  template <class Rep, class Period>
  child_options& shutdown(std::chrono::duration<Rep, Period> wait) noexcept {
    return shutdown_ = saturated(wait), *this;
  }
  // It calls coir::heartbeat() at least so often.
  template <class Rep, class Period>
  child_options& heartbeat(std::chrono::duration<Rep, Period> interval) noexcept {
    return heartbeat_ = saturated(interval), *this;
  }
  // For a plain function, as in spawn_options.
  child_options& stack_bytes(std::size_t bytes) noexcept { return stack_bytes_ = bytes, *this; }

 private:
  friend class supervised;
  duration shutdown_{};
  duration heartbeat_{};
  std::size_t stack_bytes_ = 0;
  restart_policy policy_;
};

enum class child_state : std::uint8_t {
  waiting,   // will be started: after its back-off, with its group, or in a moment
  running,
  stopping,  // asked to end, or cancelled
  ended,     // by itself, and not to be started again; or its death is just being told
  stopped,   // by stop(name)
};

const char* name_of(child_state state) noexcept;

struct child_info {
  std::string name;
  restart_policy policy;
  child_state state;
  std::uint64_t restarts;           // so often it was started after the first time
  std::uint64_t fiber;              // its id; 0: none
  std::exception_ptr last_failure;  // null: it has not failed
  instant next_start;               // `never`, unless it waits for its back-off
};

// Something that has happened to a child.
struct child_event {
  enum class kind : std::uint8_t { started, ended };
  kind what;
  std::string_view name;  // as long as the child is there
  fiber_outcome outcome;  // of one that has ended
  std::exception_ptr failure;
  std::uint64_t restarts;

  bool ended() const noexcept { return what == kind::ended; }
  bool failed() const noexcept { return outcome == fiber_outcome::failed; }
};

struct supervisor_stats {
  std::size_t children = 0;
  std::size_t running = 0;  // their fibers live
  std::uint64_t starts = 0;
  std::uint64_t restarts = 0;  // that count towards the intensity
  std::uint64_t ends = 0;
  std::uint64_t failures = 0;
  std::uint64_t hangs = 0;
};

class restart_limit_exceeded : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

namespace priv {

// The function that makes a child, whatever it is. Each child has a share in it: one that was moved elsewhere may
// outlive its supervisor.
class child_factory : public std::enable_shared_from_this<child_factory> {
 public:
  virtual ~child_factory() = default;
  virtual handle_base spawn(fiber_home& home, region& where, const spawn_options& options, place at,
                            const std::shared_ptr<pulse>& heart) = 0;
};

template <class Factory>
class child_factory_of final : public child_factory {
 public:
  template <class From>
  explicit child_factory_of(From&& from) : make_(std::forward<From>(from)) {}

  handle_base spawn(fiber_home& home, region& where, const spawn_options& options, place at,
                    const std::shared_ptr<pulse>& heart) override {
    // It stays here, and is called again: what it captured lives longer than any child it makes.
    auto self = std::static_pointer_cast<child_factory_of>(shared_from_this());
    return home.spawn(
        where,
        [self = std::move(self), heart] {
          if (heart != nullptr) speak_for(heart);
          if constexpr (is_task<std::invoke_result_t<Factory&>>::value) {
            return self->make_();
          } else {
            static_cast<void>(self->make_());
          }
        },
        options, at);
  }

 private:
  Factory make_;
};

// Told of what has happened.
class child_listener {
 public:
  virtual ~child_listener() = default;
  virtual task<> tell(const child_event& event) = 0;
};

template <class Tell>
class child_listener_of final : public child_listener {
 public:
  template <class From>
  explicit child_listener_of(From&& from) : tell_(std::forward<From>(from)) {}

  task<> tell(const child_event& event) override {
    if constexpr (is_task<std::invoke_result_t<Tell&, const child_event&>>::value) {
      return tell_(event);
    } else {
      return call(event);
    }
  }

 private:
  task<> call(const child_event& event) {
    tell_(event);
    co_return;
  }
  Tell tell_;
};

}  // namespace priv

class supervisor {
 public:
  explicit supervisor(const supervisor_options& options = {});
  supervisor(const supervisor&) = delete;
  supervisor& operator=(const supervisor&) = delete;
  ~supervisor();

  // Before run(), or while it goes on: the child is then started in a moment.
  template <class Factory>
  void add(std::string_view name, Factory&& factory, const child_options& options = {},
           place at = here::current()) {
    using function = std::decay_t<Factory>;
    static_assert(!priv::is_task<function>::value,
                  "a task runs once, and a child may be started again: give a function that makes the task");
    static_assert(priv::is_task<function>::value || std::is_invocable_v<function&>,
                  "a child is a function without arguments: one that makes a coir::task, or a plain one");
    add_child(name, std::make_shared<priv::child_factory_of<function>>(std::forward<Factory>(factory)), options,
              at);
  }

  // By name; false: there is no such child. None of these waits.
  // It is stopped, and stays.
  bool stop(std::string_view name);
  // Stopped if it runs, then started, at once; that does not count as a restart.
  bool restart(std::string_view name);
  // Stopped if it runs, and forgotten; its name is free at once.
  bool remove(std::string_view name);

  // All children are stopped, and run() returns.
  void stop() noexcept;

  // Called with each start and each end, in order, before anything is done about it: void(const child_event&), or
  // a function that makes a task<>. It may add, remove, stop and restart children. Not called for the ends of
  // children that are stopped because the supervisor ends. What it throws ends the supervisor.
  template <class Tell>
  void on_event(Tell&& tell) {
    static_assert(std::is_invocable_v<std::decay_t<Tell>&, const child_event&>,
                  "a listener is called with a const coir::child_event&");
    listen(std::make_unique<priv::child_listener_of<std::decay_t<Tell>>>(std::forward<Tell>(tell)));
  }

  // In the order in which they were added.
  std::vector<child_info> children() const;
  supervisor_stats stats() const noexcept;

  // Starts the children and looks after them. Once.
  task<> run();

 private:
  class crew;

  void add_child(std::string_view name, std::shared_ptr<priv::child_factory> factory,
                 const child_options& options, place at);
  void listen(std::unique_ptr<priv::child_listener> listener);

  std::unique_ptr<crew> crew_;
};

namespace priv {

template <class Setup>
task<> supervise_with(supervisor_options options, Setup setup) {
  supervisor those(options);
  setup(those);
  co_await those.run();
}

}  // namespace priv

// A supervisor whose children `setup(supervisor&)` adds, until it ends.
template <class Setup>
task<> supervise(const supervisor_options& options, Setup&& setup) {
  static_assert(std::is_invocable_v<std::decay_t<Setup>&, supervisor&>,
                "setup is called with a coir::supervisor&");
  static_assert(priv::safe_in_await<Setup>,
                "gcc before 13 destroys the captures of a temporary in a co_await expression twice. Name the "
                "function first: auto setup = [...] {...}; and give it by that name");
  return priv::supervise_with<std::decay_t<Setup>>(options, std::forward<Setup>(setup));
}
template <class Setup>
task<> supervise(Setup&& setup) {
  return supervise(supervisor_options(), std::forward<Setup>(setup));
}

}  // namespace coir
