#include "registry.hpp"

#include <pthread.h>
#include <unistd.h>

#include <algorithm>
#include <mutex>
#include <vector>

namespace coir {

namespace {

// Taken when a loop is made or destroyed, and around fork(2), so that the child finds a whole list.
struct registry {
  std::mutex lock;
  std::vector<loop*> loops;
  std::uint16_t made = 0;
};

registry& all() {
  // Never destroyed: loops may outlive static destructors.
  static registry* const one = new registry;
  return *one;
}

}  // namespace

void loop_registry::add(loop& made) {
  static const int installed = ::pthread_atfork(before_fork, in_parent, in_child);
  static_cast<void>(installed);
  const std::lock_guard held(all().lock);
  all().loops.push_back(&made);
  made.trace_.loop = ++all().made;
}

void loop_registry::remove(loop& gone) noexcept {
  const std::lock_guard held(all().lock);
  std::erase(all().loops, &gone);
}

void loop_registry::close(loop* of, std::uint16_t number, int fd) noexcept {
  const std::lock_guard held(all().lock);
  const auto found = std::find(all().loops.begin(), all().loops.end(), of);
  // Gone, or another one in its place: with it went all that was in flight.
  if (found == all().loops.end() || of->number() != number) {
    ::close(fd);
  } else if (of->is_own_thread()) {
    of->close_soon(fd);
  } else {
    of->post([of, fd] { of->close_soon(fd); });
  }
}

void loop_registry::before_fork() noexcept { all().lock.lock(); }
void loop_registry::in_parent() noexcept { all().lock.unlock(); }

// The child shares the kernel objects of its parent's loops: a byte written to one of them would be the
// parent's. It lets go of them, and every later use of such a loop is refused.
void loop_registry::in_child() noexcept {
  for (loop* const inherited : all().loops) {
    inherited->forked_ = true;
    inherited->backend_->abandon();
  }
  all().loops.clear();
  all().lock.unlock();
}

}  // namespace coir
