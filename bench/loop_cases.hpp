// The cases of the event loops, and the work that every subject does alike:
//
//   watch/1, watch/100     so many pipes, each of which has a byte in it: a callback reads it and writes it back.
//                          The figure is one callback, with the two system calls in it.
//   watch/100-of-10100     the same, with 10,000 further descriptors that stay idle.
//   timers/million         a million timers in random order of their deadlines are set, every second one is
//                          cancelled, the rest fires. The figure is one timer.
//
// A subject derives from loop_subject and is handed to run_cases.
#pragma once

#include "micro.hpp"

#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

namespace loops {

inline void fail(const char* what) {
  std::perror(what);
  std::exit(1);
}

// One pipe, and the answer that every subject gives when it is readable.
struct ping {
  ping() {
    if (::pipe2(ends, O_NONBLOCK | O_CLOEXEC) != 0) fail("pipe2");
    if (::write(ends[1], "x", 1) != 1) fail("write");
  }
  ping(const ping&) = delete;
  ~ping() {
    ::close(ends[0]);
    ::close(ends[1]);
  }
  void answer() {
    char byte;
    if (::read(ends[0], &byte, 1) != 1 || ::write(ends[1], &byte, 1) != 1) fail("ping");
  }
  int ends[2];
};

class loop_subject {
 public:
  virtual ~loop_subject() = default;
  // From here on, whenever the pipe is readable: answer it and call count().
  virtual void watch(ping& one) = 0;
  // Readable it will never be.
  virtual void watch_idle(int fd) = 0;
  virtual void run() = 0;
  // From a callback: run() is to return.
  virtual void stop() = 0;
  // Sets one timer per entry, so many nanoseconds from now, and cancels every second one.
  virtual void set_timers(const std::vector<std::uint64_t>& waits) = 0;

  void count() {
    if (--left == 0) stop();
  }
  std::size_t left = 0;
};

using maker = std::unique_ptr<loop_subject> (*)();

inline double time_pings(maker make, std::size_t busy, std::size_t idle) {
  std::vector<std::unique_ptr<ping>> pings;
  std::vector<int> quiet;
  const std::unique_ptr<loop_subject> subject = make();
  for (std::size_t i = 0; i < idle; ++i) {
    quiet.push_back(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
    if (quiet.back() < 0) fail("eventfd");
    subject->watch_idle(quiet.back());
  }
  for (std::size_t i = 0; i < busy; ++i) {
    pings.push_back(std::make_unique<ping>());
    subject->watch(*pings.back());
  }
  const double figure = micro::ns_per_iteration([&](std::size_t iterations) {
    subject->left = iterations;
    subject->run();
    return iterations;
  });
  for (const int fd : quiet) ::close(fd);
  return figure;
}

inline double time_timers(maker make) {
  constexpr std::size_t count = 1'000'000;
  std::vector<std::uint64_t> waits(count);
  std::uint64_t state = 1;
  for (std::uint64_t& wait : waits) {
    state = state * 6364136223846793005U + 1442695040888963407U;
    wait = (state >> 33) % 1'000'000;  // within a millisecond: when the last is set, the first are due
  }
  const std::unique_ptr<loop_subject> subject = make();
  using clock = std::chrono::steady_clock;
  const auto begin = clock::now();
  subject->left = count / 2;
  subject->set_timers(waits);
  subject->run();
  const double elapsed = std::chrono::duration<double, std::nano>(clock::now() - begin).count();
  return elapsed / count;
}

inline int run_cases(int argc, char** argv, const std::string& name, maker make, bool has_timers = true) {
  rlimit files{};
  ::getrlimit(RLIMIT_NOFILE, &files);
  files.rlim_cur = files.rlim_max;
  ::setrlimit(RLIMIT_NOFILE, &files);
  std::vector<micro::bench_case> cases;
  cases.push_back({"watch/1", name, "ns", [=] { return time_pings(make, 1, 0); }});
  cases.push_back({"watch/100", name, "ns", [=] { return time_pings(make, 100, 0); }});
  cases.push_back({"watch/100-of-10100", name, "ns", [=] { return time_pings(make, 100, 10'000); }});
  if (has_timers) cases.push_back({"timers/million", name, "ns", [=] { return time_timers(make); }});
  return micro::run(argc, argv, cases);
}

}  // namespace loops
