#include "registry.hpp"

#include <coir/base/atomic.hpp>
#include <coir/base/error.hpp>

#include "signal_hub.hpp"
#include "path_hub.hpp"
#include "watch_set.hpp"

#include <fmt/format.h>
#include <pthread.h>

#include <algorithm>
#include <cerrno>
#include <limits>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace coir {

namespace {

// Taken when a loop is made or destroyed, and around fork(2), so that the child finds a whole list.
struct registry {
  std::mutex lock;
  std::vector<loop*> loops;
  std::uint16_t last = 0;  // number that was given
};

registry& all() {
  // Never destroyed: loops may outlive static destructors.
  static registry* const one = new registry;
  return *one;
}

// For the end of another thread's visit, which closes something and is over.
void pause(std::unique_lock<std::mutex>& held) noexcept {
  held.unlock();
  std::this_thread::yield();
  held.lock();
}

// The lock, when no thread is in a visit to a loop that nobody had run.
std::unique_lock<std::mutex> when_none(const unsigned& visits) noexcept {
  std::unique_lock held(all().lock);
  while (visits != 0) pause(held);
  return held;
}

// A visit on its way to a loop. One that is lost ends where the loop does: in the middle of that, or behind it.
class posted_visit final : public post_node {
 public:
  posted_visit(loop* on, loop_link::work visiting, void* what) noexcept
      : on_(on), visiting_(visiting), what_(what) {}
  void run() override { visiting_(what_, on_); }
  void lost() noexcept override {
    visiting_(what_, loop_registry::number_of(on_) != 0 ? on_ : nullptr);
    over();
  }

 private:
  loop* on_;
  loop_link::work visiting_;
  void* what_;
};

}  // namespace

void loop_registry::add(loop& made) {
  static const int installed = ::pthread_atfork(before_fork, in_parent, in_child);
  static_cast<void>(installed);
  const std::lock_guard held(all().lock);
  made.trace_.loop = free_number();
  all().loops.push_back(&made);
}

// With the lock. The one that was given longest ago, none that a living loop has: 0 is that of none.
std::uint16_t loop_registry::free_number() {
  constexpr std::size_t numbers = std::numeric_limits<std::uint16_t>::max();
  std::vector<loop*>& loops = all().loops;
  if (loops.size() >= numbers) {
    throw_error(EAGAIN, fmt::format("making a loop: there are {} in this process, and no number is free", loops.size()));
  }
  std::uint16_t& last = all().last;
  do {
    ++last;
  } while (last == 0 || std::any_of(loops.begin(), loops.end(), [&](const loop* each) { return each->number() == last; }));
  return last;
}

void loop_registry::remove(loop& gone) noexcept {
  const std::unique_lock held = when_none(gone.visits_);
  std::erase(all().loops, &gone);
}

void loop_registry::settle(loop& found) noexcept {
  const std::unique_lock held = when_none(found.visits_);
  found.owner_ = loop::this_thread();
}

unsigned loop_registry::number_of(const loop* which) noexcept {
  const std::lock_guard held(all().lock);
  const auto found = std::find(all().loops.begin(), all().loops.end(), which);
  return found == all().loops.end() ? 0 : which->number();
}

std::uint64_t loop::this_thread() noexcept {
  static constinit atomic<std::uint64_t> last = 0;
  constinit thread_local static std::uint64_t mine = 0;
  if (mine == 0) mine = last.fetch_add(1, std::memory_order_relaxed) + 1;
  return mine;
}

unsigned loop::number_of_living(const loop* which) noexcept { return loop_registry::number_of(which); }

void loop_registry::visit(loop* which, std::uint16_t number, loop_link::work visiting,
                          void* what) noexcept {
  const std::uint64_t me = loop::this_thread();
  std::unique_lock held(all().lock);
  for (;;) {
    const auto found = std::find(all().loops.begin(), all().loops.end(), which);
    // Gone, or another one in its place: with it went all that was in flight.
    const bool gone = found == all().loops.end() || which->number() != number;
    if (!gone && !which->is_own_thread()) {
      // Under the lock, so that it cannot end meanwhile.
      which->post_made(std::make_unique<posted_visit>(which, visiting, what));
      return;
    }
    // Not under the lock: the work may lead to another visit. What runs or ends the loop is on this thread too, or waits.
    if (gone || which->owner_ == me) {
      held.unlock();
      visiting(what, gone ? nullptr : which);
      return;
    }
    // Nobody's: one thread at a time.
    if (which->visits_ == 0 || which->visitor_ == me) break;
    pause(held);
  }
  which->visitor_ = me;
  ++which->visits_;
  held.unlock();
  visiting(what, which);
  held.lock();
  --which->visits_;
}

void loop_link::visit_elsewhere(work visiting, void* what) const noexcept {
  loop_registry::visit(loop_, number_, visiting, what);
}

void loop_registry::before_fork() noexcept { all().lock.lock(); }
void loop_registry::in_parent() noexcept { all().lock.unlock(); }

// The child shares the kernel objects of its parent's loops: a byte written to one of them would be the
// parent's. It lets go of them, and every later use of such a loop is refused.
void loop_registry::in_child() noexcept {
  for (loop* const inherited : all().loops) {
    inherited->forked_ = true;
    // A thread that is not here ends no visit.
    if (inherited->visitor_ != loop::this_thread()) inherited->visits_ = 0;
    inherited->port_.ours->abandon();
    inherited->backend_->abandon();
    if (inherited->watches_ != nullptr) inherited->watches_->abandon();
    // What the child executes would inherit a blocked signal.
    if (inherited->signals_ != nullptr) inherited->signals_->abandon();
    if (inherited->paths_ != nullptr) inherited->paths_->abandon();
    if (inherited->fibers_ != nullptr) inherited->fibers_->abandon();
  }
  all().loops.clear();
  signal_owners::forget();
  loop::forget_sigpipe();
  all().lock.unlock();
}

}  // namespace coir
