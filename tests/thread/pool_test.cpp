// The pool itself: its threads, its queue, its end.
#include "turnstile.hpp"

#include "support/catch.hpp"
#include "support/child_process.hpp"

#include <coir/base/config.hpp>
#include <coir/coir.hpp>

#include <pthread.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <csignal>
#include <fstream>
#include <memory>
#include <mutex>
#include <set>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

using Catch::Matchers::Contains;
using coir::pool;
using coir::pool_options;
using support::opened_at_end;
using support::turnstile;
using namespace std::chrono_literals;

namespace {

// What is under way on other threads.
template <class Condition>
void until(Condition&& holds) {
  const coir::instant limit = coir::after(coir::steady_now(), 20s);
  while (!holds()) {
    if (coir::steady_now() > limit) FAIL("what was waited for does not happen");
    std::this_thread::yield();
  }
}

std::string name_of_this_thread() {
  char name[16];
  ::pthread_getname_np(::pthread_self(), name, sizeof name);
  return name;
}

// What a job brings back without a fiber.
template <class F>
auto ask(pool& threads, F function) {
  turnstile done;
  done.close();
  std::invoke_result_t<F> result{};
  threads.post([&] {
    result = function();
    done.open();
  });
  done.pass();
  return result;
}

}  // namespace

TEST_CASE("a pool has no thread before its first job") {
  pool threads;
  CHECK(threads.stats().threads_started == 0);
  CHECK(ask(threads, [] { return 7; }) == 7);
  CHECK(threads.stats().threads_started == 1);
}

TEST_CASE("a thread begins for each job that finds none free, up to the limit") {
  turnstile gate;
  pool threads(pool_options().threads(3));
  const opened_at_end open(gate);
  for (unsigned i = 1; i <= 5; ++i) {
    threads.post([&] { gate.pass(); });
    CHECK(threads.stats().threads == std::min(i, 3U));
  }
  gate.until_inside(3);
  CHECK(threads.stats().queued == 2);
  CHECK(threads.stats().begun == 3);
}

TEST_CASE("a thread is free before anybody hears that its job is done: jobs in turn need one") {
  pool threads(pool_options().threads(8));
  coir::run([&] {
    for (int i = 0; i < 1000; ++i) coir::await(coir::offload(threads, [] {}));
  });
  CHECK(threads.stats().threads_started == 1);
  CHECK(threads.stats().done == 1000);
}

TEST_CASE("jobs begin in the order in which they were given") {
  turnstile gate;
  std::vector<int> order;
  {
    pool threads(pool_options().threads(1));
    const opened_at_end open(gate);
    threads.post([&] { gate.pass(); });
    gate.until_inside(1);
    for (int i = 0; i < 100; ++i) {
      threads.post([&order, i] { order.push_back(i); });
    }
    gate.open();
    until([&] { return threads.stats().done == 101; });
  }
  REQUIRE(order.size() == 100);
  CHECK(std::is_sorted(order.begin(), order.end()));
}

TEST_CASE("a thread that looks for a job is called without being woken; a pool ends while one looks") {
  pool threads(pool_options().threads(1).spin(1h));
  for (int i = 0; i < 10; ++i) {
    CHECK(ask(threads, [i] { return i; }) == i);
    until([&] { return threads.stats().idle == 1; });
  }
  CHECK(threads.stats().spins_helped == 9);
  CHECK(threads.stats().spins_in_vain == 0);
  CHECK(threads.stats().threads_started == 1);
}

TEST_CASE("a thread that has looked in vain lies down, and is woken as any other") {
  pool threads(pool_options().threads(1).spin(1us));
  CHECK(ask(threads, [] { return 1; }) == 1);
  until([&] { return threads.stats().spins_in_vain == 1; });
  CHECK(threads.stats().idle == 1);
  CHECK(ask(threads, [] { return 2; }) == 2);
}

TEST_CASE("a full pool takes nothing: try_post says no, post throws and says which pool and how many") {
  turnstile gate;
  std::atomic<int> ran = 0;
  pool threads(pool_options().threads(1).queue(2).name("narrow"));
  const opened_at_end open(gate);
  threads.post([&] { gate.pass(); });
  gate.until_inside(1);
  CHECK(threads.try_post([&] { ++ran; }));
  CHECK(threads.try_post([&] { ++ran; }));
  CHECK_FALSE(threads.try_post([&] { ++ran; }));
  CHECK_THROWS_WITH(threads.post([&] { ++ran; }), Contains("pool narrow") && Contains("2 wait"));
  try {
    threads.post([&] { ++ran; });
    FAIL("it was taken");
  } catch (const std::system_error& error) {
    CHECK(error.code() == std::errc::resource_unavailable_try_again);
  }
  CHECK(threads.stats().refused == 3);
  gate.open();
  until([&] { return ran == 2; });
  CHECK(threads.try_post([&] { ++ran; }));
  until([&] { return ran == 3; });
}

TEST_CASE("threads that have nothing to do leave, but for those that are to be kept; others begin when jobs come") {
  turnstile gate;
  pool threads(pool_options().threads(4).keep(1).idle(1ms));
  for (unsigned round = 1; round <= 3; ++round) {
    gate.close();
    const opened_at_end open(gate);
    for (int i = 0; i < 4; ++i) threads.post([&] { gate.pass(); });
    gate.until_inside(4);
    CHECK(threads.stats().threads == 4);
    gate.open();
    until([&] { return threads.stats().threads == 1 && threads.stats().idle == 1; });
    CHECK(threads.stats().threads_left == 3 * round);
  }
  CHECK(threads.stats().threads_at_most == 4);
  CHECK(threads.stats().threads_started == 10);
}

TEST_CASE("without a number to be kept all threads leave") {
  pool threads(pool_options().idle(1ms));
  for (unsigned i = 1; i <= 20; ++i) {
    CHECK(ask(threads, [] { return 7; }) == 7);
    until([&] { return threads.stats().threads == 0; });
    CHECK(threads.stats().threads_left == i);
  }
}

TEST_CASE("a thread that leaves holds nobody up, and what its jobs kept for it may use the pool to the last") {
  struct kept {
    pool* of = nullptr;
    turnstile* gate = nullptr;
    ~kept() {
      if (of == nullptr) return;
      gate->pass();
      of->post([] {});
    }
  };
  turnstile gate;
  pool threads(pool_options().threads(1).idle(0ms));
  const opened_at_end open(gate);
  threads.post([&] {
    static thread_local kept until_it_goes;
    until_it_goes.of = &threads;
    until_it_goes.gate = &gate;
  });
  gate.until_inside(1);
  CHECK(threads.stats().threads_left == 1);
  threads.post([] {});
  gate.open();
  until([&] { return threads.stats().done == 3; });
}

TEST_CASE("threads are named after their pool, and numbered") {
  pool threads(pool_options().threads(1));
  CHECK(ask(threads, name_of_this_thread) == "coir-pool-1");
  pool named(pool_options().threads(1).name("a-name-that-is-too-long"));
  CHECK(ask(named, name_of_this_thread) == "a-name-that-i-1");
  pool short_one(pool_options().threads(1).name("io"));
  CHECK(ask(short_one, name_of_this_thread) == "io-1");
}

TEST_CASE("threads of a pool have all signals blocked but SIGTRAP and those that a thread brings upon itself") {
  sigset_t before;
  ::pthread_sigmask(SIG_SETMASK, nullptr, &before);
  pool threads;
  const std::set<int> open_there = ask(threads, [] {
    sigset_t now;
    ::pthread_sigmask(SIG_SETMASK, nullptr, &now);
    std::set<int> open;
    for (int number = 1; number <= SIGRTMAX; ++number) {
      // The C library keeps its own open, and the kernel these two.
      if ((number > SIGSYS && number < SIGRTMIN) || number == SIGKILL || number == SIGSTOP) continue;
      if (::sigismember(&now, number) == 0) open.insert(number);
    }
    return open;
  });
  CHECK(open_there == std::set<int>{SIGTRAP, SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGSYS});
  // Whoever gave the job has its own mask.
  sigset_t after;
  ::pthread_sigmask(SIG_SETMASK, nullptr, &after);
  for (int number = 1; number < SIGSYS; ++number) {
    CHECK(::sigismember(&before, number) == ::sigismember(&after, number));
  }
}

TEST_CASE("what a posted job throws goes to the pool's handler") {
  std::string heard;
  {
    pool threads(pool_options().on_failure([&](std::exception_ptr why) {
      try {
        std::rethrow_exception(std::move(why));
      } catch (const std::exception& error) {
        heard = error.what();
      }
    }));
    threads.post([] { throw std::runtime_error("no such file"); });
    until([&] { return threads.stats().done == 1; });
    // The end of the pool waits for whoever is telling.
  }
  CHECK(heard == "no such file");
}

TEST_CASE("without a handler it is a line on standard error, and the thread goes on") {
  const auto ended = support::in_child([] {
    pool threads(pool_options().threads(1).name("files"));
    threads.post([] { throw std::runtime_error("no such file"); });
    threads.post([] { throw 7; });
    while (threads.stats().done != 2) std::this_thread::yield();
  });
  CHECK(ended.exit_code == 0);
  CHECK_THAT(ended.text, Contains("a job that was posted to pool files failed: no such file\n") &&
                             Contains("failed: an exception that is not a std::exception\n"));
}

TEST_CASE("at a pool's end jobs that run are waited for, and those that have not begun never do") {
  turnstile gate;
  std::atomic<int> ran = 0;
  std::atomic<int> ran_by_then = -1;
  std::atomic<bool> last = false;
  const auto alive = std::make_shared<int>();
  auto threads = std::make_unique<pool>(pool_options().threads(2));
  for (int i = 0; i < 2; ++i) {
    threads->post([&] {
      gate.pass();
      ++ran;
    });
  }
  gate.until_inside(2);
  threads->post([&, alive] { last = true; });
  CHECK(alive.use_count() == 2);
  std::thread opener([&] {
    // It is dropped while the others run.
    while (alive.use_count() != 1) std::this_thread::yield();
    ran_by_then = ran.load();
    gate.open();
  });
  threads.reset();
  CHECK(ran_by_then == 0);
  CHECK(ran == 2);
  CHECK_FALSE(last);
  opener.join();
}

TEST_CASE("a job may give others; a pool that is ending takes none") {
  turnstile gate;
  turnstile ending;
  std::atomic<int> refused = 0;
  {
    auto threads = std::make_unique<pool>(pool_options().threads(2));
    pool& them = *threads;
    const auto dropped = std::make_shared<int>();
    them.post([&] { gate.pass(); });
    them.post([&] {
      ending.pass();
      try {
        them.post([] {});
      } catch (const std::system_error& error) {
        if (error.code() == std::errc::operation_canceled) ++refused;
      }
      gate.open();
    });
    gate.until_inside(1);
    ending.until_inside(1);
    them.post([dropped] {});
    std::thread waits([&] {
      while (dropped.use_count() != 1) std::this_thread::yield();
      ending.open();
    });
    threads.reset();
    waits.join();
  }
  CHECK(refused == 1);
}

TEST_CASE("a job that destroys its own pool ends the program, which says so") {
  const auto ended = support::in_child([] {
    auto* const threads = new pool(pool_options().name("mine"));
    threads->post([&] { delete threads; });
    for (;;) std::this_thread::yield();
  });
  CHECK(ended.signal == SIGABRT);
  CHECK_THAT(ended.text, Contains("a job of pool mine destroys that pool"));
}

TEST_CASE("options that make no sense are refused") {
  CHECK_THROWS_WITH(pool(pool_options().threads(2).keep(3)), Contains("3 threads are to be kept, of at most 2"));
  CHECK_THROWS_WITH(pool(pool_options().queue(0).name("none")), Contains("pool none: a queue for no job at all"));
  CHECK_THROWS_AS(pool(pool_options().queue(0)), std::logic_error);
}

#if !COIR_ADDRESS_SANITIZER && !COIR_THREAD_SANITIZER
// Those need address space without end.
namespace {

// From here on no thread's stack can be had. The C library keeps some of threads that have ended: those are used up.
void forbid_threads() {
  std::size_t pages = 0;
  std::ifstream("/proc/self/statm") >> pages;
  const rlim_t now = pages * 4096 + (1 << 20);
  const rlimit limit{now, now};
  ::setrlimit(RLIMIT_AS, &limit);
  try {
    for (;;) std::thread([] { ::pause(); }).detach();
  } catch (const std::system_error&) {
  }
}

}  // namespace

TEST_CASE("a pool that can have no thread at all says so, and keeps nothing") {
  const auto ended = support::in_child([] {
    pool threads(pool_options().name("none"));
    auto job = [alive = std::make_shared<int>()] {};
    forbid_threads();
    try {
      threads.post(job);
    } catch (const std::system_error& error) {
      std::fprintf(stderr, "%s (%d)\n", error.what(), error.code() == std::errc::resource_unavailable_try_again);
    }
    if (threads.stats().threads != 0 || threads.stats().queued != 0 || threads.stats().threads_refused != 1) {
      std::fprintf(stderr, "something is left\n");
    }
  });
  CHECK(ended.exit_code == 0);
  CHECK_THAT(ended.text, Contains("starting the first thread of pool none") && Contains("(1)"));
  CHECK_THAT(ended.text, !Contains("something is left"));
}

TEST_CASE("a pool that can have no more threads goes on with those it has") {
  const auto ended = support::in_child([] {
    pool threads(pool_options().threads(8));
    ask(threads, [] { return 1; });
    // The one that is there must not be free, or no other is asked for.
    turnstile gate;
    threads.post([&] { gate.pass(); });
    gate.until_inside(1);
    forbid_threads();
    for (int i = 0; i < 100; ++i) threads.post([] {});
    gate.open();
    while (threads.stats().done != 102) std::this_thread::yield();
    const coir::pool_stats now = threads.stats();
    if (now.threads == 8 || now.threads_refused == 0) std::fprintf(stderr, "none was refused\n");
  });
  CHECK(ended.exit_code == 0);
  CHECK(ended.text.empty());
}
#endif

TEST_CASE("a child process cannot use its parent's pool, and destroys it without waiting") {
  turnstile gate;
  pool threads(pool_options().name("parents"));
  const opened_at_end open(gate);
  threads.post([&] { gate.pass(); });
  gate.until_inside(1);
  const auto ended = support::in_child([&] {
    try {
      threads.post([] {});
    } catch (const std::logic_error& error) {
      std::fprintf(stderr, "%s\n", error.what());
    }
    coir::loop loop;
    try {
      coir::use_pool(loop, threads);
    } catch (const std::logic_error&) {
      std::fprintf(stderr, "nor use_pool\n");
    }
    if (threads.stats().threads != 0) std::fprintf(stderr, "it has threads\n");
    threads.~pool();
  });
  CHECK(ended.exit_code == 0);
  CHECK_THAT(ended.text, Contains("pool parents was used in a child process") && Contains("nor use_pool"));
  CHECK_THAT(ended.text, !Contains("it has threads"));
}

#if !COIR_THREAD_SANITIZER
// Which ends a child with threads of its own when the parent had any.

TEST_CASE("the default pool is one for the process, and another one in a child") {
  pool& mine = coir::default_pool();
  CHECK(&coir::default_pool() == &mine);
  CHECK(mine.name() == "coir-pool");
  CHECK(ask(mine, [] { return 7; }) == 7);
  const auto ended = support::in_child([&] {
    if (&coir::default_pool() == &mine) std::fprintf(stderr, "it is the parent's\n");
    if (ask(coir::default_pool(), [] { return 7; }) != 7) std::fprintf(stderr, "it does not work\n");
    const int v = coir::run([] { return coir::await(coir::offload(coir::default_pool(), [] { return 8; })); });
    if (v != 8) std::fprintf(stderr, "nor for fibers\n");
  });
  CHECK(ended.exit_code == 0);
  CHECK(ended.text.empty());
  CHECK(ask(mine, [] { return 7; }) == 7);
}

TEST_CASE("a program that ends does not wait for jobs of the default pool") {
  const auto ended = support::in_child([] {
    // Behind the pool's end, and before anybody looks for leaks: what the parent's threads had at the fork is nobody's here.
    std::atexit([] { ::_exit(3); });
    // Not destroyed: somebody waits there.
    turnstile& never_opens = *new turnstile;
    coir::default_pool().post([&] { never_opens.pass(); });
    never_opens.until_inside(1);
    std::exit(0);
  });
  INFO(ended.text);
  CHECK(ended.exit_code == 3);
}

TEST_CASE("a child that comes back from the job that forked it is ended, and told why") {
  const auto ended = support::in_child([] {
    pool threads(pool_options().name("forks"));
    int status = 0;
    ask(threads, [&] {
      const pid_t child = ::fork();
      if (child > 0) ::waitpid(child, &status, 0);
      return 0;
    });
    if (WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT) std::fprintf(stderr, "it was\n");
  });
  CHECK(ended.exit_code == 0);
  CHECK_THAT(ended.text, Contains("a job of pool forks forked, and the child came back from it") && Contains("it was"));
}
#endif
