#include "overflow.hpp"

#include <coir/base/config.hpp>
#include <coir/base/error.hpp>
#include <coir/fiber/fiber_base.hpp>
#include <coir/fiber/fiber_home.hpp>
#include <coir/fiber/stack.hpp>

#include <fmt/format.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <mutex>

namespace coir::priv {

namespace {

constexpr std::size_t alternate_stack_bytes = std::size_t{64} << 10;

struct handler {
  std::mutex lock;
  unsigned users = 0;
  struct sigaction before {};
};
handler& shared() {
  static handler one;
  return one;
}

// The stack that the handler runs on, since the fiber's own has just ended.
class alternate_stack {
 public:
  alternate_stack() {
    stack_t current{};
    if (::sigaltstack(nullptr, &current) == 0 && (current.ss_flags & SS_DISABLE) == 0) return;
    memory_ = ::mmap(nullptr, alternate_stack_bytes, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
    if (memory_ == MAP_FAILED) throw_error(errno, "an alternate stack for SIGSEGV");
    stack_t fresh{};
    fresh.ss_sp = memory_;
    fresh.ss_size = alternate_stack_bytes;
    if (::sigaltstack(&fresh, nullptr) < 0) throw_error(errno, "sigaltstack for SIGSEGV");
  }
  alternate_stack(const alternate_stack&) = delete;
  ~alternate_stack() {
    if (memory_ == nullptr) return;
    stack_t off{};
    off.ss_flags = SS_DISABLE;
    ::sigaltstack(&off, nullptr);
    ::munmap(memory_, alternate_stack_bytes);
  }

 private:
  void* memory_ = nullptr;
};

void give_alternate_stack() { thread_local const alternate_stack mine; }

const stack* used_stack() noexcept {
  const fiber_base* const self = current_fiber;
  if (self == nullptr) return nullptr;
  return self->current_stack() != nullptr ? self->current_stack() : self->home().hidden_stack();
}

bool hit_guard(const void* address) noexcept {
  const stack* const used = used_stack();
  if (used == nullptr) return false;
  const auto* const at = static_cast<const std::byte*>(address);
  const std::byte* const low = used->low();
  return at < low && at >= low - ::sysconf(_SC_PAGESIZE);
}

// Only what is allowed in a signal handler: formatting into memory of its own, and write(2).
void say_who() noexcept {
  const fiber_base& self = *current_fiber;
  const place at = self.spawned_at();
  char text[512];
  const auto written = fmt::format_to_n(
      text, sizeof text,
      "coir: stack overflow in fiber {}{}{}: all {} bytes of its stack are used; spawned at {}:{}. "
      "spawn_options::stack_bytes gives it more.\n",
      self.id(), self.name().empty() ? "" : " ", self.name(), used_stack()->bytes(),
      at.file_name(), at.line());
  static_cast<void>(
      ::write(STDERR_FILENO, text, std::min<std::size_t>(written.size, sizeof text)));
}

void on_fault(int, siginfo_t* info, void*) {
  if (hit_guard(info->si_addr)) say_who();
  // Back to what was there before: the instruction faults again and finds it. What somebody sent does not
  // come by itself again.
  ::sigaction(SIGSEGV, &shared().before, nullptr);
  if (info->si_code <= 0) ::raise(SIGSEGV);
}

}  // namespace

void report_stack_overflow() {
  if (COIR_ADDRESS_SANITIZER || COIR_THREAD_SANITIZER) return;
  give_alternate_stack();
  handler& all = shared();
  const std::lock_guard held(all.lock);
  if (all.users++ != 0) return;
  struct sigaction ours {};
  ours.sa_sigaction = on_fault;
  ours.sa_flags = SA_SIGINFO | SA_ONSTACK;
  ::sigemptyset(&ours.sa_mask);
  if (::sigaction(SIGSEGV, &ours, &all.before) < 0) {
    --all.users;
    throw_error(errno, "sigaction for SIGSEGV");
  }
}

void stop_reporting_stack_overflow() noexcept {
  if (COIR_ADDRESS_SANITIZER || COIR_THREAD_SANITIZER) return;
  handler& all = shared();
  const std::lock_guard held(all.lock);
  if (--all.users != 0) return;
  // A handler that the program has installed meanwhile is its own.
  struct sigaction now {};
  ::sigaction(SIGSEGV, nullptr, &now);
  if ((now.sa_flags & SA_SIGINFO) != 0 && now.sa_sigaction == on_fault) {
    ::sigaction(SIGSEGV, &all.before, nullptr);
  }
}

}  // namespace coir::priv
