#include <coir/loop/loop.hpp>

#include <coir/base/error.hpp>
#include <coir/base/relax.hpp>

#include "backend_epoll.hpp"
#include "backend_uring.hpp"
#include "child_table.hpp"
#include "path_hub.hpp"
#include "registry.hpp"
#include "signal_hub.hpp"
#include "watch_set.hpp"

#include <fmt/format.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <stdexcept>
#include <string_view>

namespace coir {

namespace {

constinit thread_local loop* current_loop = nullptr;

constinit backend_maker* chosen_maker = nullptr;
using blocking_choice = void (*)(loop&);
constinit blocking_choice blocking_giver = nullptr;

// Between two looks at the kernel: a million timers due at once must not keep descriptors waiting.
constexpr std::size_t timers_per_turn = 1024;

constexpr unsigned chunks_max = 32768;  // the kernel's limit for a buffer ring

backend_kind wanted_by_environment() {
  const char* const value = std::getenv("COIR_BACKEND");
  if (value == nullptr) return backend_kind::automatic;
  const std::string_view name(value);
  if (name == "uring") return backend_kind::uring;
  if (name == "epoll") return backend_kind::epoll;
  if (name == "auto" || name.empty()) return backend_kind::automatic;
  throw std::invalid_argument(
      fmt::format("COIR_BACKEND is \"{}\"; it can be auto, uring or epoll", name));
}

// Makes a small ring and throws it away: the answer holds for all loops of the process.
backend_choice decide() {
  switch (wanted_by_environment()) {
    case backend_kind::uring: return {backend_kind::uring, "io_uring: COIR_BACKEND asks for it"};
    case backend_kind::epoll: return {backend_kind::epoll, "epoll: COIR_BACKEND asks for it"};
    default: break;
  }
  trace::control trace;
  const inbox wake;
  uring_refusal refusal{};
  const backend_settings settings{wake.fd(), 8, 0, 1, 4096};
  const std::unique_ptr<backend> trial = make_uring_backend(trace, settings, refusal);
  if (trial == nullptr) return {backend_kind::epoll, "epoll: io_uring is refused: " + refusal.why};
  return {backend_kind::uring, "io_uring: the kernel has it"};
}

sigset_t only(int signal) noexcept {
  sigset_t set;
  ::sigemptyset(&set);
  ::sigaddset(&set, signal);
  return set;
}

// True: it was open before.
bool block_in_thread(int signal) noexcept {
  const sigset_t set = only(signal);
  sigset_t before;
  ::pthread_sigmask(SIG_BLOCK, &set, &before);
  return ::sigismember(&before, signal) == 0;
}

// One that came meanwhile is forgotten: its handler was not to see it.
void open_in_thread(int signal) noexcept {
  const sigset_t set = only(signal);
  const timespec at_once{};
  while (::sigtimedwait(&set, nullptr, &at_once) == signal) {
  }
  ::pthread_sigmask(SIG_UNBLOCK, &set, nullptr);
}

// The loops of this thread that have run, and whether SIGPIPE was open before the first of them did.
struct sigpipe_hold {
  unsigned loops = 0;
  bool was_open = false;
};
constinit thread_local sigpipe_hold sigpipe;

void hold_sigpipe() noexcept {
  if (sigpipe.loops++ == 0) sigpipe.was_open = block_in_thread(SIGPIPE);
}
void let_sigpipe_go() noexcept {
  if (sigpipe.loops != 0 && --sigpipe.loops == 0 && sigpipe.was_open) open_in_thread(SIGPIPE);
}

}  // namespace

void choose_backend(backend_maker* maker) noexcept { chosen_maker = maker; }

void choose_blocking(void (*give)(loop&)) noexcept { blocking_giver = give; }
void give_blocking(loop& to) {
  if (blocking_giver != nullptr && to.kind() == backend_kind::epoll) blocking_giver(to);
}

const backend_choice& backend_report() {
  static const backend_choice given{backend_kind::given, "given: the program has chosen it"};
  if (chosen_maker != nullptr) return given;
  static const backend_choice choice = decide();
  return choice;
}

// The loop is this thread's current one, and not re-entered, for the length of a run.
class loop::running {
 public:
  explicit running(loop& of) : loop_(of), outer_(current_loop) {
    loop_.check_alive();
    if (loop_.in_turn_) throw_misuse("a loop was run from inside itself");
    loop_.bind();
    if (!loop_.is_own_thread()) throw_misuse("a loop was run by another thread than it belongs to");
    loop_.in_turn_ = true;
    current_loop = &loop_;
    loop_.inbox_.awake();
  }
  running(const running&) = delete;
  ~running() {
    current_loop = outer_;
    loop_.in_turn_ = false;
  }

 private:
  loop& loop_;
  loop* outer_;
};

// From now on it is this thread's, if it is nobody's.
void loop::bind() noexcept {
  if (owner_ != 0) return;
  loop_registry::settle(*this);
  hold_sigpipe();
}

loop::loop(const loop_options& options)
    : port_{std::make_shared<loop_port>(inbox_)},
      time_source_(options.time_),
      spin_max_(options.time_ == nullptr ? options.spin_ : duration::zero()),
      spin_(spin_max_) {
  const backend_settings settings{
      .wake_fd = inbox_.fd(),
      .entries = std::max(1U, options.entries_),
      .completions = options.completions_,
      .chunks = std::bit_ceil(std::clamp(options.chunks_, 1U, chunks_max)),
      .chunk_bytes = std::max<std::size_t>(1, options.chunk_bytes_),
  };
  kind_ = options.backend_;
  backend_maker* maker = options.maker_;
  if (kind_ == backend_kind::automatic) {
    kind_ = backend_report().kind;
    maker = chosen_maker;
  }
  if (kind_ == backend_kind::given) {
    if (maker == nullptr) throw_misuse("a loop on a given backend was asked for, and none given");
    backend_ = maker->make({trace_, settings.wake_fd, settings.chunks, settings.chunk_bytes});
  } else if (kind_ == backend_kind::uring) {
    uring_refusal refusal{};
    backend_ = make_uring_backend(trace_, settings, refusal);
    if (backend_ == nullptr) {
      throw_error(refusal.error != 0 ? refusal.error : ENOSYS,
                  "a loop on io_uring was asked for and is refused (" + refusal.why + ")");
    }
  } else {
    backend_ = make_epoll_backend(trace_, settings);
  }
  turn_time_ = time();
  loop_registry::add(*this);
}

loop::~loop() {
  if (in_turn_ && usable()) {
    priv::tell("coir: a loop was destroyed from inside its own run\n");
    std::abort();
  }
  // One that is nobody's is this thread's: its visitors are through before anything ends.
  if (usable()) bind();
  const std::uint64_t owner = owner_;
  cancel_registrations();  // as that thread's, which has blocked their signals
  // While other threads find it: what they want of it meanwhile is posted, and waits for its end. Without a loop they would
  // work themselves on what is told here.
  if (usable()) loop_registry::settle(*this);
  // One of them may be what a request in flight waits for.
  while (posts_ != nullptr) std::exchange(posts_, inbox::behind(*posts_))->lost();
  if (usable() && in_flight() != 0 && owner != this_thread()) {
    // io_uring would answer that other thread only, and this one wait for ever.
    priv::tell("coir: a loop was destroyed by another thread than the one it belongs to, with requests in flight\n");
    std::abort();
  }
  if (usable()) {
    backend_->unattend();
    backend_->drain();
  }
  cancel_registrations();  // those of whoever was told
  timers_.clear();
  loop_registry::remove(*this);
  owner_ = owner;  // whose signal mask it is
  // In a child process the hold, if there is one, is that of loops of its own.
  if (usable() && owner == this_thread()) let_sigpipe_go();
}

void loop::cancel_registrations() noexcept {
  // What one of them held may have held, or makes, another.
  while (!registrations_.empty()) registrations_.front().cancel();
}

loop* loop::current() noexcept { return current_loop; }

void loop::forget_sigpipe() noexcept {
  if (sigpipe.loops != 0 && sigpipe.was_open) open_in_thread(SIGPIPE);
  sigpipe = {};
}

void loop::refuse_child() {
  throw_misuse(
      "a loop was used in a child process (fork) of the one that made it; make a new loop there");
}

// Runs turns. What they leave is sent, and shown to a foreign loop, which may be the next to wait.
template <class Turns>
void loop::drive(Turns&& turns) {
  const running now(*this);
  try {
    turns();
  } catch (...) {
    // What threw has left something, or another thread must be able to wake the foreign loop again.
    if (outer_ && usable()) {
      try {
        backend_->submit();
        show_readiness();
      } catch (const std::system_error&) {  // the next turn meets it again
      }
    }
    throw;
  }
  check_alive();  // the last turn may have forked, and this be the child
  backend_->submit();
  if (outer_) show_readiness();
}

void loop::run() {
  drive([&] {
    // A stop that was asked for before still lets one turn through.
    do {
      // Nothing that could wake it: a turn that only looks, instead of a sleep without end.
      turn(can_wake() ? never : instant::min());
    } while (!inbox_.stop_requested() && (can_wake() || (fibers_ != nullptr && fibers_->has_ready())));
    was_stopped_ = inbox_.stop_requested();
    // One that comes just now is for the next run.
    if (was_stopped_) inbox_.clear_stop();
  });
}

std::size_t loop::run_once(duration at_most) {
  std::size_t done = 0;
  drive([&] {
    done = turn(at_most < duration::zero()    ? never
                : at_most == duration::zero() ? instant::min()
                                              : coir::after(time(), at_most));
    if (inbox_.stop_requested()) inbox_.clear_stop();
  });
  return done;
}

void loop::run_for(duration limit) {
  drive([&] {
    const instant until = coir::after(time(), limit);
    bool stopped = false;
    do {
      turn(until);
      stopped = inbox_.stop_requested();
    } while (!stopped && time() < until);
    if (stopped) inbox_.clear_stop();
  });
}

std::size_t loop::turn(instant until) {
  ++stats_.turns;
  // Asked for before: this turn is the one that is let through.
  const bool stopped_before = inbox_.stop_requested();
  const auto stopped = [&] { return !stopped_before && inbox_.stop_requested(); };
  std::size_t done = wait(until);
  // Without timers nobody asks for the exact time, and the coarse clock costs a quarter.
  // It may be behind the last exact one.
  turn_time_ = timers_.empty() && time_source_ == nullptr
                   ? std::max(turn_time_, coarse_time())
                   : time();
  // Before the watchers are called: what they set, due or not, waits for the next turn.
  if (!timers_.empty()) timers_.collect(turn_time_, timers_per_turn);
  if (watchers_wait()) {
    done += watches_->dispatch(inbox_);
    check_alive();  // a callback may have forked, and this be the child
  }
  if (!timers_.empty()) {
    while (!stopped() && timers_.fire_next()) {
      ++stats_.timers;
      ++done;
      check_alive();
    }
  }
  done += run_posts();
  if (fibers_ != nullptr && fibers_->has_ready()) {
    done += fibers_->run_ready();
    check_alive();
  }
  return done;
}

// Requests and watchers; what comes of requests is queued, and counted here; watchers are called afterwards.
std::size_t loop::look(instant deadline) {
  if (watches_ == nullptr) [[likely]]
    return backend_->wait(deadline);
  if (watchers_wait()) deadline = instant::min();
  // With nothing else to wait for, in the watchers' own set: one system call. A foreign loop polls the backend
  // too, which must not go on saying that there is something.
  if (!outer_ && backend_->in_flight() == 0 && !backend_->has_more()) {
    watches_->wait(deadline);
    return 0;
  }
  // A foreign loop polls both. One in the other would be one more level, of which the kernel allows four: too few
  // for a loop that watches another.
  if (outer_) {
    if (deadline != instant::min()) sleep_over_all(deadline);
    deadline = instant::min();
  } else {
    backend_->attend(watches_->fd(), watches_->stats().rebuilds);
  }
  const std::size_t found = backend_->wait(deadline);
  if (outer_ || backend_->take_attention() || watchers_wait()) watches_->wait(instant::min());
  return found;
}

// As the foreign loop sleeps.
void loop::sleep_over_all(instant deadline) {
  backend_->submit();
  if (backend_->has_more()) return;
  std::array<pollfd, 3> all{{{backend_->pollable_fd(), POLLIN, 0},
                             {watches_->fd(), POLLIN, 0},
                             {inbox_.fd(), POLLIN, 0}}};
  const duration left = deadline == never ? duration::zero() : std::max(duration::zero(), deadline - steady_now());
  timespec limit{};
  limit.tv_sec = left / std::chrono::seconds(1);
  limit.tv_nsec = (left % std::chrono::seconds(1)).count();
  if (::ppoll(all.data(), all.size(), deadline == never ? nullptr : &limit, nullptr) < 0 && errno != EINTR) {
    throw_error(errno, "ppoll of a loop");
  }
}

std::size_t loop::wait(instant until) {
  check_alive();
  if ((fibers_ != nullptr && fibers_->has_ready()) || posts_ != nullptr || !inbox_.empty() ||
      inbox_.stop_requested() || watchers_wait()) {
    return look(instant::min());
  }
  if (!idle_waits_.empty() && !held()) [[unlikely]]
    return tell_of_idleness();
  instant deadline = std::min(until, timers_.next());
  if (time_source_ != nullptr) {
    // The deadline is not in the kernel's time: look, then let the clock decide whether to jump. Not
    // while another thread is expected to do something: then not everything waits.
    const std::size_t found = look(instant::min());
    if (found != 0 || watchers_wait() || deadline == instant::min()) return found;
    // Due already, whoever holds the loop and whatever the clock thinks of it: below is a sleep without end.
    if (deadline <= time()) return 0;
    if (!held() && time_source_->idle_until(shifted(deadline))) return 0;
    if (until != never) return 0;
    deadline = never;
  }
  deadline = shifted(deadline);
  if (outer_) inbox_.silence();
  // Nothing before the start of the clock is waited for: the kernel takes no negative time.
  if (deadline <= instant()) return look(instant::min());
  std::size_t found = 0;
  const bool spins = spin_max_ != duration::zero() && !outer_;
  if (spins) {
    const spun end = spin(deadline, found);
    if (end == spun::kernel) return found;
    if (end == spun::helped) return look(instant::min());
  }
  const instant began = spins ? steady_now() : instant();
  if (!inbox_.fall_asleep()) return look(instant::min());
  found = look(deadline);
  inbox_.awake();
  if (spins) judge_spin(began);
  return found;
}

// Looks for posts for a while. What the loop has asked for is given to the kernel first, and it is asked every
// microsecond if there is anything that it could tell.
loop::spun loop::spin(instant deadline, std::size_t& found) {
  constexpr duration between_looks = std::chrono::microseconds(1);
  constexpr int tries_per_reading = 16;
  if (spin_ == duration::zero()) return spun::in_vain;
  instant now = steady_now();
  const instant until = std::min(deadline, coir::after(now, spin_));
  instant next_look = now;
  while (now < until) {
    if (now >= next_look && (backend_->in_flight() != 0 || backend_->has_more() || watches_ != nullptr)) {
      found = look(instant::min());
      if (found != 0 || watchers_wait()) return spun::kernel;
      next_look = coir::after(now, between_looks);
    }
    for (int i = 0; i < tries_per_reading; ++i) {
      if (!inbox_.empty() || inbox_.stop_requested()) {
        ++stats_.spins_helped;
        spin_ = spin_max_;
        return spun::helped;
      }
      priv::relax();
    }
    now = steady_now();
  }
  ++stats_.spins_in_vain;
  spin_ /= 2;
  return spun::in_vain;
}

// It slept after all. Had it looked as long as it may, would it have been there for the post that woke it?
void loop::judge_spin(instant began) noexcept {
  if (!inbox_.empty() && steady_now() - began < spin_max_) spin_ = spin_max_;
}

// A turn that only looks, and finds nothing.
std::size_t loop::tell_of_idleness() {
  const std::size_t found = look(instant::min());
  if (found != 0 || watchers_wait() || timers_.next() <= time()) return found;
  list<idle_wait> told;
  told.splice_back(idle_waits_);
  while (!told.empty()) told.pop_front().told->done();
  return 0;
}

std::size_t loop::holds() const noexcept {
  std::size_t count = holds_;
  conditional_holds_.for_each([&](const conditional_hold& each) {
    if (each.holds()) ++count;
  });
  return count;
}

std::size_t loop::run_posts() {
  if (posts_ == nullptr) posts_ = inbox_.take();
  std::size_t count = 0;
  // What is posted meanwhile waits for the next turn. A post that throws has been run; those behind it
  // stay in posts_.
  while (posts_ != nullptr) {
    const std::unique_ptr<post_node, post_node::end> first(posts_);
    posts_ = inbox::behind(*first);
    ++count;
    ++stats_.posts;
    first->run();
    check_alive();
  }
  return count;
}

loop_stats loop::stats() const noexcept {
  loop_stats all = stats_;
  all.backend = backend_->stats();
  if (watches_ != nullptr) all.watchers = watches_->stats();
  return all;
}

// --- registrations ---

void loop::check_own_thread() const {
  check_alive();
  if (!is_own_thread()) throw_misuse("a loop was used by another thread than runs it; post() is for others");
}

watch_set& loop::watches() {
  check_own_thread();
  if (watches_ == nullptr) watches_ = std::make_unique<watch_set>(inbox_.fd());
  return *watches_;
}

void loop::keep(registration& made) {
  check_own_thread();
  registrations_.push_back(made);
  ++kept_[static_cast<std::size_t>(made.kind_)];
}

void loop::let_go(registration& which) noexcept {
  which.unlink();
  --kept_[static_cast<std::size_t>(which.kind_)];
}

bool loop::watchers_wait() const noexcept { return watches_ != nullptr && watches_->has_undelivered(); }
bool loop::watchers_can_wake() const noexcept {
  return watches_ != nullptr && (watches_->can_wake() || watches_->has_undelivered());
}

owned<watcher> loop::watch(int fd, watch_options options) {
  owned<watcher> made(watches().add(*this, fd, std::move(options)));
  show_change();
  return made;
}

void loop::unwatch(int fd) noexcept {
  if (watches_ == nullptr) return;
  watcher* const known = watches_->find(fd);
  // A number that was closed may be that of a signalfd by now.
  if (known != nullptr && known->kind_ != registration_kind::part) known->cancel();
}

signal_hub& loop::signals() {
  check_own_thread();
  if (signals_ == nullptr) signals_ = std::make_unique<signal_hub>(*this);
  return *signals_;
}

owned<signal_watch> loop::signal(const signal_set& numbers, callback<const signal_event&> then) {
  if (!then) throw_misuse("a signal without a function to call");
  owned<signal_watch> made(*new signal_watch(*this, numbers, std::move(then)));
  show_change();
  return made;
}

child_table& loop::children() {
  if (children_ == nullptr) children_ = std::make_unique<child_table>();
  return *children_;
}

owned<child_watch> loop::child_exit(pid_t pid, callback<const child_status&> then, reap how) {
  if (!then) throw_misuse("the end of a process without a function to call");
  owned<child_watch> made(*new child_watch(*this, pid, std::move(then), how));
  show_change();
  return made;
}

owned<timer> loop::set_timer(instant first, duration interval, callback<timer&>&& then) {
  if (!then) throw_misuse("a timer without a function to call");
  owned<timer> made(*new timer(*this, first, interval, std::move(then)));
  show_change();
  return made;
}

owned<timer> loop::fire_after(duration wait, callback<timer&>&& then) {
  if (wait < duration::zero()) {
    throw std::invalid_argument(fmt::format("a timer is to fire in {} ns", wait.count()));
  }
  return set_timer(coir::after(time(), wait), duration::zero(), std::move(then));
}

owned<timer> loop::fire_every(duration interval, const instant* first, callback<timer&>&& then) {
  if (interval <= duration::zero()) {
    throw std::invalid_argument(fmt::format("a timer is to fire every {} ns", interval.count()));
  }
  return set_timer(first != nullptr ? *first : coir::after(time(), interval), interval, std::move(then));
}

coir::waker loop::waker(callback<std::uint64_t> then) {
  coir::waker made(*this, std::move(then));
  show_change();
  return made;
}

owned<path_watch> loop::watch_path(std::string path, fs_mask what, callback<const fs_event&> then) {
  if (!then) throw_misuse("a path is to be watched without a function to call");
  owned<path_watch> made(*new path_watch(*this, std::move(path), what, std::move(then)));
  show_change();
  return made;
}

loop_census loop::census() const noexcept {
  const auto of = [&](registration_kind kind) { return kept_[static_cast<std::size_t>(kind)]; };
  loop_census all;
  all.watchers = of(registration_kind::watcher);
  all.timers = of(registration_kind::timer);
  all.signals = of(registration_kind::signal);
  all.children = of(registration_kind::child);
  all.wakers = of(registration_kind::waker);
  all.paths = of(registration_kind::path);
  all.requests = backend_->in_flight();
  all.holds = holds();
  all.armed = timers_.size();
  return all;
}

std::vector<std::string> loop::why_alive() const {
  std::vector<std::string> reasons;
  std::size_t own_timers = 0;
  registrations_.for_each([&](const registration& each) {
    if (each.kind_ == registration_kind::part || !each.is_expected()) return;
    if (each.kind_ == registration_kind::watcher && !static_cast<const coir::watcher&>(each).listens()) return;
    if (each.kind_ == registration_kind::timer) ++own_timers;
    reasons.push_back(each.describe());
  });
  const auto count = [&](std::size_t number, const char* of_what) {
    if (number != 0) reasons.push_back(fmt::format("{} {}", number, of_what));
  };
  count(backend_->awaited() + expected_, "requests in flight");
  count(timers_.size() - std::min(timers_.size(), own_timers), "sleepers and deadlines");
  if (signals_ != nullptr) {
    count(signals_->size() - kept_[static_cast<std::size_t>(registration_kind::signal)], "fibers that wait for signals");
  }
  count(holds(), "holds");
  if (!inbox_.empty() || posts_ != nullptr) reasons.push_back("posts not yet run");
  return reasons;
}

int loop::pollable_fd() {
  check_own_thread();
  if (!outer_) {
    unique_fd set(::epoll_create1(EPOLL_CLOEXEC));
    unique_fd timer(::timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC));
    if (!set || !timer) throw_error(errno, "a loop's pollable descriptor");
    epoll_event event{};
    event.events = EPOLLIN;
    // The inbox by itself: the backend may show a post only after a while (backend_uring.cpp).
    if (::epoll_ctl(set.get(), EPOLL_CTL_ADD, timer.get(), &event) < 0 ||
        ::epoll_ctl(set.get(), EPOLL_CTL_ADD, inbox_.fd(), &event) < 0) {
      throw_error(errno, "a loop's pollable descriptor");
    }
    bind();  // the kernel takes it for this thread's from here on
    outer_ = std::move(set);
    outer_timer_ = std::move(timer);
    outer_deadline_ = never;
    if (fibers_ != nullptr) fibers_->say_outside();
    backend_->unattend();
    if (!in_turn_) {
      try {
        // First: from then on the backend does not ask for posts, and need not take that back.
        static_cast<void>(backend_->pollable_fd());
        backend_->submit();
        show_readiness();
      } catch (...) {
        // One that does not show everything is none; the next call begins anew.
        outer_.reset();
        outer_timer_.reset();
        shown_backend_ = shown_watches_ = shown();
        throw;
      }
    }
  }
  return outer_.get();
}

// Before run_once() returns to a foreign loop: what could make the next call useful makes the
// descriptor readable.
void loop::show_readiness() {
  show(shown_backend_, backend_->pollable_fd(), backend_->stats().rebuilds);
  if (watches_ != nullptr) show(shown_watches_, watches_->fd(), watches_->stats().rebuilds);
  // Asleep already, outside of a turn, is not the same as having something.
  inbox_.awake();
  inbox_.silence();
  const bool busy = (fibers_ != nullptr && fibers_->has_ready()) || posts_ != nullptr ||
                    backend_->has_more() || watchers_wait() ||
                    !inbox_.fall_asleep();
  instant deadline = busy ? instant::min() : timers_.next();
  if (time_source_ != nullptr && deadline != never && deadline <= time()) deadline = instant::min();
  aim(deadline);
}

// A descriptor that was made anew may have the number of an earlier one. The old one, if there was one, is
// closed and thereby gone from the set.
void loop::show(shown& last, int fd, std::uint64_t rebuilds) {
  if (fd == last.fd && rebuilds == last.rebuilds) return;
  epoll_event event{};
  event.events = EPOLLIN;
  if (::epoll_ctl(outer_.get(), EPOLL_CTL_ADD, fd, &event) < 0) {
    throw_error(errno, "a loop's pollable descriptor");
  }
  last = {fd, rebuilds};
}

void loop::aim(instant deadline) {
  if (deadline != instant::min()) deadline = shifted(deadline);
  if (deadline == outer_deadline_ && deadline != instant::min()) return;
  itimerspec when{};
  if (deadline != never) {
    // 1 ns after the clock's start is long ago, and arms the timer where 0 would disarm it.
    const duration at = std::max(duration(1), deadline.time_since_epoch());
    when.it_value.tv_sec = at / std::chrono::seconds(1);
    when.it_value.tv_nsec = (at % std::chrono::seconds(1)).count();
  }
  if (::timerfd_settime(outer_timer_.get(), TFD_TIMER_ABSTIME, &when, nullptr) < 0) {
    throw_error(errno, "a loop's pollable descriptor: setting its timer");
  }
  outer_deadline_ = deadline;
}

}  // namespace coir
