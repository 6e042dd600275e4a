// Runs something in a forked child, because it ends the process or changes it for good.
//
//   const auto ended = support::in_child([] { std::abort(); });
//   CHECK(ended.signal == SIGABRT);   CHECK_THAT(ended.text, Contains("..."));
#pragma once

#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <string>

namespace support {

struct ended {
  int exit_code = -1;  // -1: by a signal
  int signal = 0;
  std::string text;  // what it wrote to standard error
};

// Fork inside a fiber only to see what that does. `work` returns normally for exit code 0.
template <class Work>
ended in_child(Work&& work) {
  int ends[2];
  if (::pipe(ends) != 0) std::abort();
  std::fflush(nullptr);
  const pid_t child = ::fork();
  if (child < 0) std::abort();
  if (child == 0) {
    ::close(ends[0]);
    ::dup2(ends[1], STDERR_FILENO);
    ::close(ends[1]);
    const rlimit no_core{0, 0};
    ::setrlimit(RLIMIT_CORE, &no_core);
    // The test runner's own handlers would report a failed test.
    for (const int number : {SIGABRT, SIGSEGV, SIGTERM, SIGFPE, SIGILL}) std::signal(number, SIG_DFL);
    ::alarm(30);
    int code = 0;
    try {
      work();
    } catch (const std::exception& error) {
      std::fprintf(stderr, "exception: %s\n", error.what());
      code = 1;
    } catch (...) {
      code = 2;
    }
    std::fflush(nullptr);
    ::_exit(code);
  }
  ::close(ends[1]);
  ended result;
  char some[4096];
  ssize_t got = 0;
  while ((got = ::read(ends[0], some, sizeof some)) > 0) {
    result.text.append(some, static_cast<std::size_t>(got));
  }
  ::close(ends[0]);
  int status = 0;
  while (::waitpid(child, &status, 0) < 0) {
  }
  if (WIFEXITED(status)) {
    result.exit_code = WEXITSTATUS(status);
  } else if (WIFSIGNALED(status)) {
    result.signal = WTERMSIG(status);
  }
  return result;
}

}  // namespace support
