// coir/loop/loop.hpp: one thread's event loop. Useful alone; fibers are one user of it.
//
//   coir::loop loop;
//   auto in = loop.watch(fd, coir::watch_options{.read = [&](coir::watcher& w) { read_from(w.fd()); }});
//   auto tick = loop.every(1s, [] { ... });
//   loop.post([&] { loop.stop(); });        // from any thread
//   loop.run();                                                          [tests/loop/loop_test.cpp]
//
// One turn, in this order, on every backend:
//   1. everything asked for so far is given to the kernel, and the loop waits: not at all when step 5
//      left something ready, else until the next timer;
//   2. completions, in the kernel's order, which only queue; then watchers are called, in the order of
//      their events;
//   3. timers that are due, by deadline, at most 1024;
//   4. what other threads posted, in order of arrival;
//   5. ready fibers, a bounded number (the hook `run_ready`, installed by coir/fiber).
// run_once() then gives what step 5 asked for to the kernel, without waiting.
//
// Shape    an object; several per thread and per process. It belongs to the thread that first runs it, has it watch a
//          signal, or asks for its pollable_fd().
// Thread   post() and stop() from any, and the loop must outlive their return, unless it is what they bring that
//          lets it end; everything else from its own.
//          SIGPIPE is blocked in that thread as long as the loop lives: writing to a closed peer or pipe is
//          an error result.
// Cancel   destroying a loop withdraws what is in flight, waits for it, and closes what was given to it.
//          Destroying it from inside its own run is a mistake that ends the program. So is doing it on another thread
//          than it belongs to while something is in flight, which what was let go of in its last turn may still be.
// Errors   std::system_error from the constructor when the kernel refuses what every backend needs, from
//          run when it breaks; std::logic_error for use by the wrong thread, inside itself, or in a child
//          process. What a callback throws leaves run(); what was not delivered then is delivered next.
// Cost     a turn without work: no system call on io_uring, one on epoll. One clock reading a turn.
// See      loop/watcher.hpp, timer.hpp, signal.hpp, child.hpp, waker.hpp, path_watch.hpp; loop/request.hpp;
//          lib/loop/NOTE.md
#pragma once

#include <coir/base/fd.hpp>
#include <coir/base/list.hpp>
#include <coir/base/time.hpp>
#include <coir/loop/backend.hpp>
#include <coir/loop/child.hpp>
#include <coir/loop/path_watch.hpp>
#include <coir/loop/post.hpp>
#include <coir/loop/registration.hpp>
#include <coir/loop/request.hpp>
#include <coir/loop/signal.hpp>
#include <coir/loop/timer.hpp>
#include <coir/loop/timer_heap.hpp>
#include <coir/loop/waker.hpp>
#include <coir/loop/watcher.hpp>
#include <coir/trace/trace.hpp>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace coir {

// given: by a backend_maker.
enum class backend_kind : std::uint8_t { automatic, uring, epoll, given };

class loop_options {
 public:
  loop_options() noexcept {}

  // automatic: io_uring where it is to be had, epoll elsewhere. The environment variable COIR_BACKEND
  // (auto, uring, epoll) decides where the program left it automatic.
  loop_options& backend(backend_kind kind) noexcept { return backend_ = kind, *this; }
  // In place of the kernel: coir/testing/simulator.hpp. Must outlive the loop.
  loop_options& backend(backend_maker* maker) noexcept {
    return maker_ = maker, backend_ = backend_kind::given, *this;
  }
  // Entries of io_uring's submission queue, rounded up to a power of two. More requests than this in one
  // turn cost one more system call each time; none is refused.
  loop_options& submission_entries(unsigned count) noexcept { return entries_ = count, *this; }
  // Entries of its completion queue; 0: four times the submission queue. What does not fit is not lost.
  loop_options& completion_entries(unsigned count) noexcept { return completions_ = count, *this; }
  // The pool behind receive loops: how many chunks (rounded up to a power of two, at most 32768), and how
  // long each is.
  loop_options& chunks(unsigned count) noexcept { return chunks_ = count, *this; }
  loop_options& chunk_bytes(std::size_t bytes) noexcept { return chunk_bytes_ = bytes, *this; }
  // Another clock than the steady one; must outlive the loop.
  loop_options& time(time_source* source) noexcept { return time_ = source, *this; }
  // Before it sleeps the loop looks so long for posts, so that a thread that posts soon need not wake it. It costs
  // processor time; for loops that talk to each other, where there is more than one processor. It looks half as long
  // after each time in vain, and again as long when a post came soon after it fell asleep. Descriptors and timers
  // are looked at meanwhile. 0, the default: not at all.
  template <class Rep, class Period>
  loop_options& spin(std::chrono::duration<Rep, Period> at_most) noexcept {
    return spin_ = saturated(at_most), *this;
  }

 private:
  friend class loop;
  time_source* time_ = nullptr;
  backend_maker* maker_ = nullptr;
  std::size_t chunk_bytes_ = 4096;
  unsigned entries_ = 256;
  unsigned completions_ = 0;
  unsigned chunks_ = 256;
  duration spin_ = duration::zero();
  backend_kind backend_ = backend_kind::automatic;
};

// Fibers, seen from below: whoever has something to run in step 5.
class ready_hook {
 public:
  // Runs a bounded number of what is ready; returns how many.
  virtual std::size_t run_ready() = 0;
  virtual bool has_ready() const noexcept = 0;
  // A foreign loop waits for this one: from now on what becomes ready is told (loop::work_appeared).
  virtual void say_outside() noexcept {}
  // In a forked child: what is left to run is the parent's.
  virtual void abandon() noexcept {}

 protected:
  ~ready_hook() = default;
};

struct loop_stats {
  std::uint64_t turns = 0;
  std::uint64_t timers = 0;  // fired
  std::uint64_t posts = 0;   // run
  std::uint64_t spins_helped = 0;   // a post came while the loop looked for one (loop_options::spin)
  std::uint64_t spins_in_vain = 0;
  backend_stats backend;
  watch_stats watchers;
};

// What a loop has, by kind.
struct loop_census {
  std::size_t watchers = 0;
  std::size_t timers = 0;
  std::size_t signals = 0;
  std::size_t children = 0;
  std::size_t wakers = 0;
  std::size_t paths = 0;
  std::size_t requests = 0;  // in flight
  std::size_t holds = 0;
  std::size_t armed = 0;  // deadlines of all kinds: of timers, sleeping fibers and scopes
};

class child_table;
class signal_hub;
class path_hub;
class watch_set;

class loop {
 public:
  explicit loop(const loop_options& options = {});
  loop(const loop&) = delete;
  loop& operator=(const loop&) = delete;
  ~loop();

  // The loop that is running on this thread, or whose fibers are; null outside of any.
  static loop* current() noexcept;

  // Until stop(), or until nothing is left that could wake anything (can_wake).
  void run();
  // The last run() ended for stop(), whatever else was left to wait for.
  bool was_stopped() const noexcept { return was_stopped_; }
  // One turn that waits at most so long (a negative limit: for ever). Returns how much was done.
  std::size_t run_once(duration at_most = duration::zero());
  void run_for(duration limit);
  // Any thread, and before run(), which then returns after one turn. Counts once. From a watcher's or a
  // timer's callback: none that is due behind it is called any more in this run. Nothing is lost: what was
  // not delivered comes in the next one.
  void stop() noexcept {
    if (!forked_) [[likely]]
      inbox_.stop();
  }

  // Runs `work` on the loop's thread, in step 4. Any thread. Never inline. Allocates the copy of `work`.
  template <class Work>
  void post(Work&& work) {
    check_alive();
    push(new posted<std::decay_t<Work>>(std::forward<Work>(work)));
  }

  // The same for what must not fail then: the node was made before. In a child process, where the loop is the parent's,
  // it is lost.
  void post_made(std::unique_ptr<post_node> work) noexcept {
    if (forked_) [[unlikely]] {
      work.release()->lost();
    } else {
      push(work.release());
    }
  }
  // For those who may outlive the loop.
  const std::shared_ptr<loop_port>& port() const noexcept { return port_.ours; }

  // See watcher.hpp.
  owned<watcher> watch(int fd, watch_options options);
  // Ends the registration of a descriptor, if there is one.
  void unwatch(int fd) noexcept;

  // See timer.hpp.
  template <class Rep, class Period>
  owned<timer> after(std::chrono::duration<Rep, Period> wait, callback<timer&> then) {
    return fire_after(saturated(wait), std::move(then));
  }
  owned<timer> at(instant deadline, callback<timer&> then) {
    return set_timer(deadline, duration::zero(), std::move(then));
  }
  // The first time one interval from now, or at `first`.
  template <class Rep, class Period>
  owned<timer> every(std::chrono::duration<Rep, Period> interval, callback<timer&> then) {
    return fire_every(saturated(interval), nullptr, std::move(then));
  }
  template <class Rep, class Period>
  owned<timer> every(std::chrono::duration<Rep, Period> interval, instant first, callback<timer&> then) {
    return fire_every(saturated(interval), &first, std::move(then));
  }

  // See signal.hpp.
  owned<signal_watch> signal(const signal_set& numbers, callback<const signal_event&> then);

  // See child.hpp.
  owned<child_watch> child_exit(pid_t pid, callback<const child_status&> then, reap how = reap::yes);

  // See waker.hpp.
  coir::waker waker(callback<std::uint64_t> then);

  // See path_watch.hpp.
  owned<path_watch> watch_path(std::string path, fs_mask what, callback<const fs_event&> then);

  // A descriptor for a foreign poll, epoll or event loop: readable when run_once() has something to do.
  // Once asked for, run_once(), run_for() and run() leave it so, and so does what is registered, started, changed or
  // ended outside of a turn; at times it says so once for nothing. Stays the same for the life of the loop.
  int pollable_fd();
  // Outside of a turn, something has become ready to run: shows it to the foreign loop.
  void work_appeared() noexcept {
    if (outer_ && !in_turn_ && !forked_) [[unlikely]]
      aim(instant::min());
  }

  // The time now: the steady clock, or its replacement, less the time the loop was held by a debugger.
  instant time() const noexcept {
    return (time_source_ == nullptr ? steady_now() : time_source_->now()) - time_shift_;
  }
  // The same, or up to one tick of the kernel's clock (1 to 10 ms) less, for a quarter of the cost.
  instant coarse_time() const noexcept {
    return time_source_ == nullptr ? coarse_now() - time_shift_ : time();
  }
  // The time of this turn, which costs nothing; up to a tick behind while there are no timers.
  instant turn_time() const noexcept { return turn_time_; }
  // Moves the loop's time into the past by `held`: for whoever stopped the loop.
  void shift_time(duration held) {
    time_shift_ += held;
    show_change();
  }

  // See timer.hpp. Deadlines are instants of time().
  void arm(timer_node& which, instant deadline) {
    timers_.arm(which, deadline);
    work_appeared();  // for nothing once, and cannot fail
  }
  bool disarm(timer_node& which) noexcept { return timers_.disarm(which); }

  // See request.hpp. True: in flight. False: over, result set, nobody will be told.
  bool start(request& what) {
    check_alive();
    work_appeared();
    return backend_->start(what);
  }
  abort_answer withdraw(request& what) noexcept {
    work_appeared();
    return backend_->withdraw(what);
  }
  // A descriptor made outside of requests (socket(2)) is now the loop's to close.
  void adopt(int fd) { backend_->adopt(fd); }
  // And from here on somebody else's.
  void disown(int fd) noexcept { backend_->disown(fd); }
  // Gives a descriptor to the closing path; the loop does the rest. Its own thread; see loop/descriptor.hpp
  // for one that may be let go of anywhere.
  void close_soon(int fd) noexcept {
    work_appeared();
    backend_->close_soon(fd);
  }
  // SO_LINGER was set: closing may block, and is done elsewhere where the backend can.
  void lingers(int fd) { backend_->lingers(fd); }
  chunk_pool& chunks() { return backend_->chunks(); }

  // Something that the loop cannot see may wake it (a thread that will post): while one of these lives,
  // run() waits, and fibers that wait are no deadlock.
  class hold {
   public:
    hold() noexcept = default;  // of none
    explicit hold(loop& of) noexcept : loop_(&of) { ++loop_->holds_; }
    hold(hold&& other) noexcept : loop_(std::exchange(other.loop_, nullptr)) {}
    hold& operator=(hold&& other) noexcept {
      hold given(std::move(other));
      std::swap(loop_, given.loop_);
      return *this;
    }
    ~hold() {
      if (loop_ != nullptr) --loop_->holds_;
    }

   private:
    loop* loop_ = nullptr;
  };
  // A hold for as long as it says so itself: it is asked when the loop may have nothing left to wait for. Leaves by
  // unlink().
  class conditional_hold : public list_node {
   public:
    virtual bool holds() const noexcept = 0;

   protected:
    ~conditional_hold() = default;
  };
  void ask(conditional_hold& which) noexcept { conditional_holds_.push_back(which); }
  // Somebody waits for a background request: while the count is above zero, that one counts.
  void expect_more() noexcept { ++expected_; }
  void expect_less() noexcept { --expected_; }
  // Is there something that could make something happen: a request, a timer, a watcher that listens, a post, a hold?
  bool can_wake() const noexcept {
    return backend_->awaited() != 0 || !timers_.empty() ||
           (expected_ != 0 && !backend_->stalled()) || !inbox_.empty() ||
           posts_ != nullptr || watchers_can_wake() || !idle_waits_.empty() || held();
  }
  // What can_wake() is about, a line for each: for whoever wonders why run() does not return.
  std::vector<std::string> why_alive() const;
  loop_census census() const noexcept;

  // Told once, when a turn would sleep or let the clock jump: nothing is ready or due, the kernel has nothing
  // for the loop, and nobody holds it. Leaves by unlink().
  class idle_wait : public list_node {
   public:
    waiter* told = nullptr;
  };
  void tell_when_idle(idle_wait& who) noexcept { idle_waits_.push_back(who); }

  // For those that stand on watchers.
  watch_set& watches();

  void install(ready_hook* fibers) noexcept {
    fibers_ = fibers;
    if (outer_ && fibers != nullptr) fibers->say_outside();
  }
  ready_hook* installed() const noexcept { return fibers_; }
  void install(backend::blocking_hook hook) noexcept { backend_->install(hook); }
  // For a hook that answered false: what it ran is over, its result set.
  void finish_blocking(request& what) noexcept { backend_->finish_blocking(what); }
  backend::blocking_hook blocking() const noexcept { return backend_->blocking(); }
  // For its `settle`, while the loop ends: waits for a post. What has been posted is lost.
  void drop_posts() noexcept { inbox_.drop_some(); }

  trace::control& trace() noexcept { return trace_; }
  std::uint16_t number() const noexcept { return trace_.loop; }
  std::size_t timers() const noexcept { return timers_.size(); }
  std::size_t in_flight() const noexcept { return backend_->in_flight(); }
  loop_stats stats() const noexcept;
  // Which backend this loop has, and with what.
  std::string describe() const { return backend_->describe(); }
  backend_kind kind() const noexcept { return kind_; }

  // The number of a loop of this process; 0: it is gone. Any thread.
  static unsigned number_of_living(const loop* which) noexcept;

  // The calling thread is the one that this loop belongs to, or it is nobody's yet.
  bool is_own_thread() const noexcept { return owner_ == 0 || owner_ == this_thread(); }
  // False in a child process that inherited the loop.
  bool usable() const noexcept { return !forked_; }
  // Throws std::logic_error in a child process that inherited the loop.
  void check_alive() const {
    if (forked_) [[unlikely]] refuse_child();
  }

 private:
  template <class Work>
  struct posted final : post_node {
    template <class From>
    explicit posted(From&& work) : work_(std::forward<From>(work)) {}
    void run() override { work_(); }
    Work work_;
  };

  // What the foreign loop's set has: a descriptor, and how often it had been made anew by then.
  struct shown {
    int fd = -1;
    std::uint64_t rebuilds = 0;
  };
  class running;
  friend class loop_registry;
  friend class path_hub;
  friend class registration;
  friend class signal_hub;
  friend class signal_subscriber;
  friend class signal_watch;
  friend class child_watch;
  friend class timer;
  static void forget_sigpipe() noexcept;  // in a forked child
  // The calling thread. Never 0, and never another's: what std::thread::id calls an ended thread, it calls a later one.
  static std::uint64_t this_thread() noexcept;
  void cancel_registrations() noexcept;

  owned<timer> fire_after(duration wait, callback<timer&>&& then);
  owned<timer> fire_every(duration interval, const instant* first, callback<timer&>&& then);
  owned<timer> set_timer(instant first, duration interval, callback<timer&>&& then);
  void keep(registration& made);
  void let_go(registration& which) noexcept;
  bool watchers_can_wake() const noexcept;
  std::size_t holds() const noexcept;
  bool held() const noexcept { return holds_ != 0 || (!conditional_holds_.empty() && holds() != 0); }
  signal_hub& signals();
  child_table& children();
  bool watchers_wait() const noexcept;
  void check_own_thread() const;
  void bind() noexcept;

  void push(post_node* node) noexcept { inbox_.push(*node); }
  std::size_t look(instant deadline);
  void sleep_over_all(instant deadline);
  template <class Turns>
  void drive(Turns&& turns);
  std::size_t turn(instant until);
  std::size_t wait(instant until);
  enum class spun : std::uint8_t { in_vain, helped, kernel };
  spun spin(instant deadline, std::size_t& found);
  void judge_spin(instant began) noexcept;
  std::size_t tell_of_idleness();
  std::size_t run_posts();
  void show_readiness();
  // After a change outside of a turn.
  void show_change() {
    if (outer_ && !in_turn_ && !forked_) [[unlikely]]
      show_readiness();
  }
  void show(shown& last, int fd, std::uint64_t rebuilds);
  void aim(instant deadline);
  // An instant of time() on the clock behind it.
  instant shifted(instant at) const noexcept { return at == never ? never : coir::after(at, time_shift_); }
  [[noreturn]] static void refuse_child();

  trace::control trace_;
  inbox inbox_;
  // Closed when nothing of the loop waits for a post any more, and before the inbox goes.
  struct port_end {
    std::shared_ptr<loop_port> ours;
    ~port_end() { ours->close(); }
  };
  port_end port_;
  timer_heap timers_;
  std::unique_ptr<backend> backend_;  // ends before the timers: what it withdraws may still arm one
  std::unique_ptr<watch_set> watches_;  // made with the first watcher
  std::unique_ptr<signal_hub> signals_;  // made with the first of theirs, as are the children
  std::unique_ptr<child_table> children_;
  std::unique_ptr<path_hub> paths_;     // with the first path
  list<registration> registrations_;
  list<idle_wait> idle_waits_;
  list<conditional_hold> conditional_holds_;
  std::array<std::size_t, registration_kinds> kept_{};  // by kind
  ready_hook* fibers_ = nullptr;
  post_node* posts_ = nullptr;  // taken from the inbox, not yet run
  time_source* time_source_;
  instant turn_time_;
  duration time_shift_ = duration::zero();
  std::size_t holds_ = 0;
  std::size_t expected_ = 0;
  duration spin_max_ = duration::zero();
  duration spin_ = duration::zero();  // as long as it helps
  loop_stats stats_;

  // For a foreign loop: an epoll set with the backend's descriptor, the inbox and a timerfd in it.
  unique_fd outer_;
  unique_fd outer_timer_;
  shown shown_backend_;
  shown shown_watches_;
  instant outer_deadline_ = never;  // what the timerfd is set to

  std::uint64_t owner_ = 0;
  unsigned visits_ = 0;  // by a thread that found no owner; with the registry's lock
  std::uint64_t visitor_ = 0;  // ... and which
  backend_kind kind_ = backend_kind::automatic;
  bool in_turn_ = false;
  bool was_stopped_ = false;
  bool forked_ = false;  // this process is a child of the one that made the loop
};

struct backend_choice {
  backend_kind kind;
  std::string why;  // one line: what was chosen, and because of what
};

// What loops of this process get that leave the choice to coir. Decided once, on first use.
const backend_choice& backend_report();
// For test programs: from here on those loops get what `maker` makes, each its own; null: what the report says.
// Before other threads make loops.
void choose_backend(backend_maker* maker) noexcept;

// Who installs a blocking hook in loops that fibers run on (coir::run) and whose backend has no other way to keep
// files from holding them up. Set before main() by coir/thread, where a program has that.
void choose_blocking(void (*give)(loop&)) noexcept;
// ... does so.
void give_blocking(loop& to);

}  // namespace coir
