// Threads of the library: no signal is theirs, and they have names. Private to lib/thread.
#pragma once

#include <pthread.h>

#include <csignal>
#include <cstddef>
#include <string>

namespace coir::priv {

// While one of these lives this thread has all signals blocked but those that come of what a thread does itself, and the
// debugger's; threads that it starts inherit that. Signals are the loops' business: none that somebody waits for may come
// to a thread that cannot take it.
class all_signals_blocked {
 public:
  all_signals_blocked() noexcept {
    sigset_t all;
    ::sigfillset(&all);
    for (const int own : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGSYS, SIGTRAP}) ::sigdelset(&all, own);
    ::pthread_sigmask(SIG_SETMASK, &all, &before_);
  }
  all_signals_blocked(const all_signals_blocked&) = delete;
  ~all_signals_blocked() { ::pthread_sigmask(SIG_SETMASK, &before_, nullptr); }

 private:
  sigset_t before_;
};

inline constexpr std::size_t thread_name_bytes = 15;  // what the kernel keeps

inline void name_this_thread(const std::string& name) noexcept {
  ::pthread_setname_np(::pthread_self(), name.substr(0, thread_name_bytes).c_str());
}

}  // namespace coir::priv
