#include <coir/loop/child.hpp>

#include <coir/base/error.hpp>
#include <coir/loop/loop.hpp>

#include "child_table.hpp"
#include "watch_set.hpp"

#include <fmt/format.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <stdexcept>
#include <utility>

namespace coir {

namespace {

// glibc 2.36 declares pidfd_open(2) and pidfd_send_signal(2) for C only.
unique_fd open_process(pid_t pid) {
  if (pid <= 0) throw std::invalid_argument(fmt::format("{} is no process: their numbers begin with 1", pid));
  unique_fd made(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  if (!made) {
    throw_error(errno, errno == ESRCH ? fmt::format("there is no process {}", pid)
                                      : fmt::format("watching process {}", pid));
  }
  return made;
}

}  // namespace

// --- child_table ---

void child_table::remove(child_watch& which) noexcept {
  for (auto [at, end] = watches_.equal_range(which.pid()); at != end; ++at) {
    if (at->second != &which) continue;
    watches_.erase(at);
    return;
  }
}

bool child_table::is_reaped(pid_t pid) noexcept {
  for (auto [at, end] = watches_.equal_range(pid); at != end; ++at) {
    if (at->second->how_ == reap::yes && at->second->can_reap()) return true;
  }
  return false;
}

void child_table::look_before(child_watch& reaper) noexcept {
  for (auto [at, end] = watches_.equal_range(reaper.pid()); at != end; ++at) {
    if (at->second != &reaper) at->second->look();
  }
}

// --- child_watch ---

child_watch::child_watch(loop& of, pid_t pid, callback<const child_status&>&& then, reap how)
    : registration(of, registration_kind::child),
      pidfd_(open_process(pid)),
      then_(std::move(then)),
      how_(how) {
  status_.pid = pid;
  child_table& known = of.children();
  if (how == reap::yes) {
    if (!can_reap()) {
      throw_error(ECHILD, fmt::format("process {} is no child of this process, and cannot be reaped by it; "
                                      "coir::reap::no only waits for its end", pid));
    }
    if (known.is_reaped(pid)) {
      throw_error(EEXIST, fmt::format("the end of process {} is waited for already by this loop, which reaps "
                                      "it; say coir::reap::no for a second time", pid));
    }
  }
  // By edges: while somebody traces it, an end is readable before it can be asked for.
  watch_options options{.read = [this] { on_readable(); }, .edge_triggered = true};
  part_ = owned<watcher>(of.watches().add(of, pidfd_.get(), std::move(options), registration_kind::part));
  known.add(*this);
}

void child_watch::leave() noexcept {
  on().children_->remove(*this);
  part_.reset();
  pidfd_.reset();
}

// An errno, or 0 with status_ filled when it is over.
int child_watch::ask(int options) noexcept {
  siginfo_t info{};
  // __WALL: also a child made by clone(2) that sends no SIGCHLD.
  options |= WEXITED | WNOHANG | __WALL;
  while (::waitid(P_PIDFD, static_cast<id_t>(pidfd_.get()), &info, options) < 0) {
    if (errno != EINTR) return errno;
  }
  if (info.si_pid == 0) return EAGAIN;
  status_.known = true;
  status_.exited = info.si_code == CLD_EXITED;
  (status_.exited ? status_.exit_code : status_.signal) = info.si_status;
  status_.core_dumped = info.si_code == CLD_DUMPED;
  return 0;
}

void child_watch::look() noexcept { static_cast<void>(ask(WNOWAIT)); }

bool child_watch::can_reap() noexcept {
  const int error = ask(WNOWAIT);
  return error == 0 || error == EAGAIN;
}

void child_watch::on_readable() {
  if (how_ == reap::yes) on().children_->look_before(*this);
  // Another error than this one means that nobody can say more than that it is over.
  if (ask(how_ == reap::yes ? 0 : WNOWAIT) == EAGAIN) return;
  const call during(*this);
  over_ = true;
  cancel();
  then_(status_);
}

void child_watch::send_signal(int number) {
  if (over_) throw_error(ESRCH, fmt::format("a signal to process {}, which is over", pid()));
  checked();
  if (::syscall(SYS_pidfd_send_signal, pidfd_.get(), number, nullptr, 0) < 0) {
    throw_error(errno, fmt::format("sending signal {} to process {}", number, pid()));
  }
}

std::string child_watch::describe() const {
  return fmt::format("end of process {}{}", pid(), how_ == reap::yes ? "" : ", not to be reaped");
}

}  // namespace coir
