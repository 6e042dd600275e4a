#include <coir/scope/supervisor.hpp>

#include "supervised.hpp"

#include <coir/base/error.hpp>
#include <coir/scope/inside.hpp>

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <algorithm>
#include <deque>
#include <list>
#include <random>
#include <unordered_map>

namespace coir {

const char* name_of(child_state state) noexcept {
  switch (state) {
    case child_state::waiting: return "waiting";
    case child_state::running: return "running";
    case child_state::stopping: return "stopping";
    case child_state::ended: return "ended";
    case child_state::stopped: return "stopped";
  }
  return "";
}

// Until there is something in the inbox.
class supervisor_wait_op {
 public:
  static constexpr const char* name = "supervise";

  explicit supervisor_wait_op(supervisor_inbox& inbox) noexcept : inbox_(&inbox) {}
  bool start(waiter& told) noexcept {
    if (std::exchange(inbox_->news_, false)) return false;
    inbox_->waiting_ = &told;
    return true;
  }
  abort_answer abort() noexcept {
    // Told already, and queued for it.
    if (std::exchange(inbox_->waiting_, nullptr) == nullptr) return abort_answer::later;
    return abort_answer::now;
  }
  void take() noexcept { inbox_->news_ = false; }

 private:
  supervisor_inbox* inbox_;
};

// What a supervisor has, and does.
//
// Two regions: what is around may cancel the outer one, which tells of it; the inner one is shielded, so that the
// children live until the supervisor's fiber, which is in both, has stopped them in its order.
class supervisor::crew {
 public:
  explicit crew(const supervisor_options& options)
      : options_(options), outer_(*this), random_(options.seed_), seeded_(options.seed_ != 0) {
    region_.set_shield(true);
  }

  void add(std::string_view name, std::shared_ptr<priv::child_factory> factory, const child_options& options,
           place at);
  supervised* find(std::string_view name) const noexcept;
  void stop(supervised& which) noexcept;
  void restart(supervised& which) noexcept;
  void remove(supervised& which) noexcept;
  void stop() noexcept;
  std::vector<child_info> children() const;
  supervisor_stats stats() const noexcept;

  task<> run();

  void listen(std::unique_ptr<priv::child_listener> listener);

 private:
  class outer_region : public entered_region {
   public:
    explicit outer_region(crew& of) noexcept : of_(of) { on_told(told); }

   private:
    static void told(entered_region& mine) noexcept { static_cast<outer_region&>(mine).of_.asked_to_end(); }
    crew& of_;
  };
  enum class phase : std::uint8_t { fresh, going, ending, over };

  task<> serve();
  task<> look_after();
  task<> end_children();
  task<> stop_and_wait(supervised& which);
  task<> begin_group(supervised& first);
  task<> begin_child(supervised& which);
  supervised::ending take_end(supervised& which);
  task<> handle_end(supervised& which);
  task<> start_again(supervised& which, const supervised::ending& how);
  task<> stop_group(supervised& of);
  task<> tell(child_event event);

  void asked_to_end() noexcept;
  bool has_work() const noexcept;
  void count_restart(const supervised& which, const supervised::ending& how, instant now);
  duration next_wait(supervised& which, duration lived);
  void forget(supervised& which) noexcept;
  void sweep() noexcept;

  supervisor_options options_;
  supervisor_inbox inbox_;
  // In their order; those that are removed stay until nobody looks at them.
  std::list<supervised> children_;
  std::unordered_map<std::string_view, supervised*> by_name_;
  supervised::gone gone_;
  std::deque<instant> recent_;  // restarts within the window
  std::unique_ptr<priv::child_listener> listener_;
  outer_region outer_;
  entered_region region_;
  entered_region* telling_ = nullptr;  // where the listener runs
  fiber_base* self_ = nullptr;
  supervisor_stats stats_;
  std::minstd_rand random_;
  bool seeded_;
  bool end_wanted_ = false;
  bool cancelled_ = false;  // from outside
  bool hurry_ = false;      // children get no time to end by themselves
  phase phase_ = phase::fresh;
};

// --- orders, from any fiber ---

void supervisor::crew::add(std::string_view name, std::shared_ptr<priv::child_factory> factory,
                           const child_options& options, place at) {
  if (phase_ == phase::over) throw_misuse("a child was added to a supervisor that is over");
  if (end_wanted_ || phase_ == phase::ending) {
    if (current_fiber != nullptr) current_fiber->check_interrupted();
    throw_error(ECANCELED, fmt::format("adding child \"{}\" to a supervisor that ends", name));
  }
  if (find(name) != nullptr) {
    throw_misuse(fmt::format("a supervisor was given a second child with the name \"{}\"", name));
  }
  children_.emplace_back(inbox_, name, std::move(factory), options, at);
  supervised& made = children_.back();
  made.position = std::prev(children_.end());
  try {
    by_name_.emplace(made.name(), &made);
  } catch (...) {
    children_.pop_back();
    throw;
  }
  if (phase_ == phase::going) {
    made.start_soon();
    inbox_.tell();
  }
}

supervised* supervisor::crew::find(std::string_view name) const noexcept {
  const auto found = by_name_.find(name);
  return found == by_name_.end() ? nullptr : found->second;
}

void supervisor::crew::stop(supervised& which) noexcept {
  if (which.present()) {
    which.next = supervised::then::stay;
    which.stop(hurry_);
  } else {
    which.settle(child_state::stopped);
    if (which.leads_group) which.leave_group();
  }
  inbox_.tell();
}

void supervisor::crew::restart(supervised& which) noexcept {
  if (which.present()) {
    if (which.next != supervised::then::with_all) which.next = supervised::then::start;
    which.stop(hurry_);
  } else if (phase_ == phase::fresh) {
    which.settle(child_state::waiting);
  } else if (phase_ == phase::going) {
    which.start_soon();
  }
  inbox_.tell();
}

void supervisor::crew::remove(supervised& which) noexcept {
  by_name_.erase(which.name());
  const bool present = which.present();
  which.next = supervised::then::go;
  if (present) {
    which.stop(hurry_);
  } else {
    which.settle(child_state::stopped);
    if (which.leads_group) {
      which.leave_group();
    } else {
      gone_.push(which);
    }
  }
  if (phase_ == phase::fresh) sweep();
  inbox_.tell();
}

void supervisor::crew::stop() noexcept {
  if (end_wanted_) return;
  end_wanted_ = true;
  inbox_.tell();
}

void supervisor::crew::listen(std::unique_ptr<priv::child_listener> listener) {
  if (telling_ != nullptr) throw_misuse("a supervisor's listener was replaced while it was called");
  listener_ = std::move(listener);
}

std::vector<child_info> supervisor::crew::children() const {
  std::vector<child_info> all;
  all.reserve(by_name_.size());
  for (const supervised& each : children_) {
    if (each.next != supervised::then::go) all.push_back(each.info());
  }
  return all;
}

supervisor_stats supervisor::crew::stats() const noexcept {
  supervisor_stats now = stats_;
  now.children = by_name_.size();
  for (const supervised& each : children_) {
    if (each.alive()) ++now.running;
  }
  return now;
}

// A region around it is to end, or is cancelled.
void supervisor::crew::asked_to_end() noexcept {
  if (outer_.cancelled()) {
    if (!std::exchange(cancelled_, true) && end_wanted_) hurry_ = true;
    if (telling_ != nullptr) telling_->cancel();
  } else if (telling_ != nullptr) {
    telling_->shut_down();
  }
  end_wanted_ = true;
  inbox_.tell();
}

// --- the supervisor's fiber ---

task<> supervisor::crew::run() {
  if (phase_ != phase::fresh) throw_misuse("a supervisor was run a second time");
  self_ = &running_fiber();
  phase_ = phase::going;
  try {
    auto shielded = priv::run_in<priv::region_of_another>(region_, inside::rest::is_awaited, priv::as_maybe(),
                                                          serve());
    co_await priv::run_in<priv::region_of_another>(outer_, inside::rest::is_cancelled, priv::as_maybe(),
                                                   std::move(shielded));
  } catch (...) {
    phase_ = phase::over;
    self_ = nullptr;
    throw;
  }
  phase_ = phase::over;
  std::exchange(self_, nullptr)->check_interrupted();
}

task<> supervisor::crew::serve() {
  std::exception_ptr why;
  try {
    co_await look_after();
  } catch (...) {
    why = std::current_exception();
  }
  // From here on a cancellation from outside is in a hurry.
  end_wanted_ = true;
  phase_ = phase::ending;
  try {
    co_await end_children();
  } catch (...) {
    // Interrupted: who is left is cancelled with the region.
    if (why != nullptr) self_->keep_failures({why});
    throw;
  }
  if (why != nullptr) std::rethrow_exception(std::move(why));
}

task<> supervisor::crew::look_after() {
  if (!seeded_) {
    random_.seed(static_cast<std::uint32_t>(self_->home().on().time().time_since_epoch().count()));
  }
  for (supervised& each : children_) {
    if (each.state == child_state::waiting) each.start_soon();
  }
  while (!end_wanted_) {
    // A group is started when all has been said about the ends of its members.
    const bool may_start = options_.strategy_ == one_for_one || !inbox_.has_ends();
    if (supervised* const due = may_start ? inbox_.next_due() : nullptr; due != nullptr) {
      co_await begin_group(*due);
    } else if (supervised* const ended = inbox_.next_ended(); ended != nullptr) {
      co_await handle_end(*ended);
    } else {
      sweep();
      if (!options_.stay_ && !has_work()) co_return;
      supervisor_wait_op wait(inbox_);
      co_await wait;
    }
  }
}

bool supervisor::crew::has_work() const noexcept {
  return std::any_of(children_.begin(), children_.end(), [](const supervised& each) {
    return each.present() || each.state == child_state::waiting;
  });
}

task<> supervisor::crew::stop_and_wait(supervised& which) {
  which.stop(hurry_);
  while (which.alive()) {
    supervisor_wait_op wait(inbox_);
    co_await wait;
    if (hurry_) which.stop(true);
  }
}

// In reverse order, each with its time.
task<> supervisor::crew::end_children() {
  for (supervised& each : children_) {
    if (!each.present()) each.settle(child_state::stopped);
  }
  for (auto each = children_.rbegin(); each != children_.rend(); ++each) {
    if (each->alive()) co_await stop_and_wait(*each);
  }
  // Nobody is told of these ends, but failures are not lost.
  std::vector<std::exception_ptr> failures;
  while (supervised* const ended = inbox_.next_ended()) {
    supervised::ending how = take_end(*ended);
    ended->settle(child_state::stopped);
    if (how.failure != nullptr) failures.push_back(std::move(how.failure));
  }
  self_->keep_failures(failures);
}

// A child that is due; if others stopped because of it they are, too, and all begin in order.
task<> supervisor::crew::begin_group(supervised& first) {
  const bool with_others = std::exchange(first.leads_group, false);
  if (first.next == supervised::then::go) gone_.push(first);
  auto each = with_others && options_.strategy_ == one_for_all ? children_.begin() : first.position;
  for (; each != children_.end() && !end_wanted_; ++each) {
    if (each->leads_group) {
      // One with a back-off of its own has died since, and those behind it wait for that.
      if (options_.strategy_ == rest_for_one) break;
    } else if (each->state == child_state::waiting && each->next != supervised::then::go) {
      co_await begin_child(*each);
    }
    if (!with_others) break;
  }
}

task<> supervisor::crew::begin_child(supervised& which) {
  ++stats_.starts;
  which.start(self_->home(), region_);
  child_event event{child_event::kind::started, which.name(), fiber_outcome::none, nullptr, which.restarts()};
  co_await tell(std::move(event));
}

supervised::ending supervisor::crew::take_end(supervised& which) {
  supervised::ending how = which.take_end();
  ++stats_.ends;
  if (how.outcome == fiber_outcome::failed) ++stats_.failures;
  if (how.hung) ++stats_.hangs;
  return how;
}

task<> supervisor::crew::handle_end(supervised& which) {
  using then = supervised::then;
  const supervised::ending how = take_end(which);
  const then next = which.next;
  if (next != then::go) which.next = then::decide;
  switch (next) {
    case then::decide: which.settle(child_state::ended); break;
    case then::with_all: which.wait_for_group(); break;
    case then::start: which.start_soon(); break;
    case then::stay: which.settle(child_state::stopped); break;
    case then::go:
      which.settle(child_state::stopped);
      gone_.push(which);
      break;
  }
  // Their names are gone with them, unless somebody has asked for more.
  if (which.policy() == temporary && (next == then::with_all || next == then::stay)) forget(which);

  child_event event{child_event::kind::ended, which.name(), how.outcome, how.failure, which.restarts()};
  co_await tell(std::move(event));

  // The listener may have decided.
  if (next != then::decide || which.next == then::go || end_wanted_) co_return;
  const bool left_to_us = which.state == child_state::ended;
  if (which.policy() == temporary) {
    if (left_to_us || which.state == child_state::stopped) forget(which);
  } else if (left_to_us && (which.policy() == permanent || how.outcome != fiber_outcome::returned)) {
    co_await start_again(which, how);
  }
}

task<> supervisor::crew::start_again(supervised& which, const supervised::ending& how) {
  loop& on = self_->home().on();
  const instant now = on.time();
  count_restart(which, how, now);
  const instant start = after(now, next_wait(which, how.lived));
  which.settle(child_state::waiting);
  if (options_.strategy_ != one_for_one) {
    which.leads_group = true;
    co_await stop_group(which);
    // Meanwhile it may have been started, stopped or removed by name.
    if (which.state != child_state::waiting || which.due()) co_return;
  }
  if (start <= now) {
    which.start_soon();
  } else {
    which.start_at(on, start);
  }
}

task<> supervisor::crew::stop_group(supervised& of) {
  for (auto each = children_.rbegin(); each != children_.rend(); ++each) {
    if (&*each == &of) {
      if (options_.strategy_ == rest_for_one) co_return;
    } else if (each->next == supervised::then::go) {
      // No longer a member, and nobody's start waits for that of one who is not there.
      each->leads_group = false;
    } else if (!each->present()) {
      each->wait_for_group();
    } else {
      // Also one that has died without anybody having looked: it is one of those that this start is for.
      if (each->next == supervised::then::decide) each->next = supervised::then::with_all;
      if (each->alive()) co_await stop_and_wait(*each);
    }
  }
}

task<> supervisor::crew::tell(child_event event) {
  if (listener_ == nullptr) co_return;
  entered_region where;
  class telling {
   public:
    telling(entered_region*& kept, entered_region& now) noexcept : kept_(kept) { kept_ = &now; }
    telling(const telling&) = delete;
    ~telling() { kept_ = nullptr; }

   private:
    entered_region*& kept_;
  } now(telling_, where);
  co_await priv::run_in<priv::region_of_another>(where, inside::rest::is_cancelled, priv::as_maybe(),
                                                 listener_->tell(event));
}

// --- how often, and how soon ---

namespace {

[[noreturn]] void give_up(const supervised& which, const supervised::ending& how, std::size_t restarts,
                          duration within) {
  std::string why;
  switch (how.outcome) {
    case fiber_outcome::failed: why = fmt::format("failed: {}", priv::text_of(how.failure)); break;
    case fiber_outcome::cancelled: why = "was cancelled"; break;
    case fiber_outcome::returned:
    case fiber_outcome::none: why = "returned"; break;
  }
  const restart_limit_exceeded limit(
      fmt::format("a supervisor gives up: it has restarted {} times within {}, which is all it may, and now "
                  "child \"{}\" {}",
                  restarts, std::chrono::duration<double>(within), which.name(), why));
  if (how.failure == nullptr) throw limit;
  try {
    std::rethrow_exception(how.failure);
  } catch (...) {
    std::throw_with_nested(limit);
  }
}

}  // namespace

void supervisor::crew::count_restart(const supervised& which, const supervised::ending& how, instant now) {
  while (!recent_.empty() && after(recent_.front(), options_.within_) < now) recent_.pop_front();
  if (recent_.size() >= options_.restarts_) give_up(which, how, options_.restarts_, options_.within_);
  recent_.push_back(now);
  ++stats_.restarts;
}

duration supervisor::crew::next_wait(supervised& which, duration lived) {
  if (options_.first_ <= duration::zero()) return duration::zero();
  duration& longest = which.longest_wait;
  if (longest == duration::zero() || lived > options_.within_) {
    longest = std::min(options_.first_, options_.most_);
  } else {
    longest = longest > options_.most_ / 2 ? options_.most_ : 2 * longest;
  }
  std::uniform_real_distribution<double> share(0, 1);
  return duration(static_cast<duration::rep>(static_cast<double>(longest.count()) * share(random_)));
}

void supervisor::crew::forget(supervised& which) noexcept {
  by_name_.erase(which.name());
  which.settle(child_state::ended);
  which.next = supervised::then::go;
  gone_.push(which);
}

void supervisor::crew::sweep() noexcept {
  while (!gone_.empty()) children_.erase(gone_.pop().position);
}

// --- supervisor ---

namespace {

template <class Crew>
bool with_child(Crew& crew, std::string_view name, void (Crew::*what)(supervised&) noexcept) {
  supervised* const found = crew.find(name);
  if (found != nullptr) (crew.*what)(*found);
  return found != nullptr;
}

}  // namespace

supervisor::supervisor(const supervisor_options& options) : crew_(std::make_unique<crew>(options)) {}
supervisor::~supervisor() = default;

bool supervisor::stop(std::string_view name) { return with_child(*crew_, name, &crew::stop); }
bool supervisor::restart(std::string_view name) { return with_child(*crew_, name, &crew::restart); }
bool supervisor::remove(std::string_view name) { return with_child(*crew_, name, &crew::remove); }
void supervisor::stop() noexcept { crew_->stop(); }
std::vector<child_info> supervisor::children() const { return crew_->children(); }
supervisor_stats supervisor::stats() const noexcept { return crew_->stats(); }
task<> supervisor::run() { return crew_->run(); }

void supervisor::add_child(std::string_view name, std::shared_ptr<priv::child_factory> factory,
                           const child_options& options, place at) {
  crew_->add(name, std::move(factory), options, at);
}

void supervisor::listen(std::unique_ptr<priv::child_listener> listener) {
  crew_->listen(std::move(listener));
}

}  // namespace coir
