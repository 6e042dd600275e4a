// How a runtime ends: asked, failed, destroyed at any moment, left behind by a fork.
#include <coir/thread/runtime.hpp>

#include "support/both.hpp"
#include "support/catch.hpp"
#include "support/child_process.hpp"
#include "support/descriptor_limit.hpp"
#include "support/forbid.hpp"

#include <coir/coir.hpp>
#include <coir/thread/mailbox.hpp>
#include <coir/thread/remote_channel.hpp>

#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstdlib>
#include <exception>
#include <memory>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

// The thread sanitizer ends a child that starts a thread.
#if defined(__SANITIZE_THREAD__)
#define COIR_TEST_NO_THREADS_AFTER_FORK 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define COIR_TEST_NO_THREADS_AFTER_FORK 1
#endif
#endif
#if !defined(COIR_TEST_NO_THREADS_AFTER_FORK)
#define COIR_TEST_NO_THREADS_AFTER_FORK 0
#endif

using namespace std::chrono_literals;
using Catch::Matchers::Contains;
using coir::fiber_outcome;
using coir::runtime_options;

namespace {

// Without a std::string: those of exceptions are counted where the thread sanitizer does not see it.
class crash : public std::exception {
 public:
  explicit crash(const char* text) noexcept : text_(text) {}
  const char* what() const noexcept override { return text_; }

 private:
  const char* text_;
};

// Two threads are made in each.
int rounds(int each_time) { return std::getenv("COIR_TEST_LONG") != nullptr ? 50 * each_time : each_time; }

void for_ever() { coir::await(coir::sleep_until(coir::never)); }

}  // namespace

TEST_CASE("a runtime that is stopped shuts its fibers down") {
  coir::runtime rt(runtime_options().loops(3));
  std::atomic<int> unwound = 0;
  struct guard {
    std::atomic<int>& count;
    ~guard() { ++count; }
  };
  std::atomic<int> begun = 0;
  auto all = rt.spawn_on_all([&] {
    const guard mine{unwound};
    auto child = coir::spawn([&] {
      const guard inner{unwound};
      ++begun;
      for_ever();
    });
    coir::await(child.join());
  });
  while (begun != 3) std::this_thread::yield();
  rt.stop();
  rt.wait();
  CHECK(unwound == 6);
  for (auto& each : all) CHECK(each.outcome() == fiber_outcome::cancelled);
  // Afterwards: what is spawned is cancelled.
  bool ran = false;
  auto late = rt.spawn_on(0, [&] { ran = true; });
  CHECK_THROWS_AS(late.get(), std::system_error);
  CHECK_FALSE(ran);
}

TEST_CASE("stopping with a grace asks first, and those who come to an end by then are not cancelled") {
  coir::runtime rt(runtime_options().loops(2));
  auto polite = rt.spawn_on(0, [] {
    coir::await(coir::wait_shutting_down());
    return 1;
  });
  // One that needs the other loop to end.
  auto asks = rt.spawn_on(1, [polite] {
    coir::await(coir::wait_shutting_down());
    return coir::await(polite.join()) + 1;
  });
  rt.stop(1h);
  rt.wait();
  CHECK(polite.get() == 1);
  CHECK(asks.get() == 2);
}

TEST_CASE("when the grace is over, what is left is cancelled, and the shortest grace counts") {
  coir::runtime rt(runtime_options().loops(2));
  auto deaf = rt.spawn_on(1, for_ever);
  rt.stop(1h);
  rt.stop(2ms);
  rt.stop(1h);
  rt.wait();
  CHECK(deaf.outcome() == fiber_outcome::cancelled);
}

TEST_CASE("a failure that nobody can hear of ends the runtime in order, and is thrown by wait") {
  coir::runtime rt(runtime_options().loops(2));
  auto other = rt.spawn_on(0, for_ever);
  static_cast<void>(rt.spawn_on(1, [] { throw crash("alone"); }));
  CHECK_THROWS_WITH(rt.wait(), "alone");
  CHECK_THROWS_WITH(rt.wait(), "alone");
  CHECK(other.outcome() == fiber_outcome::cancelled);
  CHECK(rt.stopping());
}

TEST_CASE("a failure waits for its handles: the last that goes without having asked ends the runtime") {
  coir::runtime rt(runtime_options().loops(2));
  {
    auto f = rt.spawn_on(1, [] { throw crash("unheard"); });
    CHECK(f.wait_for(10s));
    CHECK_FALSE(rt.stopping());
    const auto copy = f;
  }
  CHECK(rt.stopping());
  CHECK_THROWS_WITH(rt.wait(), "unheard");
}

TEST_CASE("a failure that is to be reported touches nobody else") {
  std::atomic<int> reports = 0;
  std::atomic<int> told = 0;
  {
    coir::runtime rt(runtime_options().loops(2).on_failure([&](const coir::fiber_base&, std::exception_ptr why) {
      try {
        std::rethrow_exception(why);
      } catch (const crash& error) {
        if (error.what() == std::string("told")) ++told;
      }
      ++reports;
    }));
    auto f = rt.spawn_on(1, [] { throw crash("told"); }, coir::report_failure);
    CHECK(f.wait_for(10s));
    CHECK_THROWS_AS(f.get(), crash);
    static_cast<void>(rt.spawn_on(0, [] { throw crash("told"); }, coir::report_failure));
    while (reports != 2) std::this_thread::yield();
    CHECK_FALSE(rt.stopping());
  }
  CHECK(told == 2);
}

TEST_CASE("one on the loop of a thread in run() goes to the handler of that loop") {
  coir::runtime rt(runtime_options().loops(1));
  int told = 0;
  rt.run(
      [&] {
        static_cast<void>(rt.spawn_on(rt.this_loop(), [] { throw crash("told"); }, coir::report_failure));
        while (told == 0) coir::await(coir::yield());
      },
      coir::run_options().on_failure([&](const coir::fiber_base&, std::exception_ptr) { ++told; }));
  CHECK_FALSE(rt.stopping());
}

TEST_CASE("neither does one for which the system has no memory: joining throws, or it is a line on standard error") {
  constexpr std::size_t too_much = std::size_t{1} << 50;
  coir::runtime rt(runtime_options().loops(1));
  auto joined = rt.spawn_on(0, [] {}, coir::remote_options().stack_bytes(too_much));
  CHECK_THROWS_AS(joined.get(), std::system_error);
  CHECK(joined.outcome() == fiber_outcome::failed);
  CHECK_FALSE(rt.stopping());
#if !COIR_TEST_NO_THREADS_AFTER_FORK
  const auto ended = support::in_child([] {
    coir::runtime own(runtime_options().loops(1));
    auto f = own.spawn_on(0, [] {}, coir::remote_options().name("big").stack_bytes(too_much).report_failure());
    f.wait_for(10s);
    if (own.stopping()) throw std::runtime_error("it touched others");
  });
  CHECK(ended.exit_code == 0);
  CHECK_THAT(ended.text, Catch::Matchers::StartsWith("coir: a remote fiber big of loop 0 could not begin: ") &&
                             Contains("Cannot allocate memory"));
#endif
}

TEST_CASE("what leaves a loop by another way ends the runtime too, and the body in run() hears of it") {
  coir::runtime rt(runtime_options().loops(2));
  CHECK_THROWS_WITH(rt.run([&] {
    auto f = rt.spawn_on(1, [] { coir::running_fiber().home().on().post([] { throw crash("posted"); }); });
    for (;;) coir::await(coir::sleep_for(1s));
  }),
                    "posted");
  CHECK_THROWS_WITH(rt.wait(), "posted");
}

TEST_CASE("a runtime may be destroyed at any moment") {
  for (int round = 0; round < rounds(100); ++round) {
    std::vector<coir::remote<int>> kept;
    std::atomic<int> ran = 0;
    {
      coir::runtime rt(runtime_options().loops(2));
      for (std::size_t i = 0; i < 8; ++i) {
        kept.push_back(rt.spawn_on(i % 2, [&, i] {
          auto other = rt.spawn_on((i + 1) % 2, [&] {
            coir::await(coir::yield());
            ++ran;
            return 1;
          });
          return coir::await(other.join());
        }));
      }
      for (int turn = 0; turn < round % 20; ++turn) std::this_thread::yield();
    }
    for (auto& each : kept) {
      CHECK(each.state() == coir::remote_state::dead);
      if (each.outcome() == fiber_outcome::returned) CHECK(each.get() == 1);
    }
  }
}

TEST_CASE("a runtime is destroyed inside a fiber of a loop that its fibers talk to") {
  coir::run([] {
    for (int round = 0; round < rounds(40); ++round) {
      coir::remote_channel<int> numbers(1);
      coir::mailbox<int> box;
      {
        coir::runtime rt(runtime_options().loops(2));
        auto all = rt.spawn_on_all([to = numbers.sender(), also = box.sender()] {
          for (int i = 0;; ++i) {
            also.send(i);
            coir::await(to.send(i));
          }
        });
        for (int i = 0; i < round % 10; ++i) static_cast<void>(coir::await(numbers.receive()));
      }
      CHECK(numbers.stats().senders == 0);
    }
  });
}

TEST_CASE("what stop() asks of a thread in run() comes to nothing when its body is over") {
  coir::runtime rt(runtime_options().loops(1));
  bool has_begun = false;
  bool body_is_over = false;
  std::size_t timers = 1;
  coir::remote<void> shielded;
  rt.run([&] {
    shielded = rt.spawn_on(rt.this_loop(), [&] {
      coir::cancel_scope alone;
      alone.shield();
      alone.run([&] {
        has_begun = true;
        while (!body_is_over) coir::await(coir::yield());
        coir::await(coir::sleep_for(5ms));
        timers = coir::loop::current()->census().timers;
      });
    });
    while (!has_begun) coir::await(coir::yield());
    rt.stop(5s);
    body_is_over = true;
  });
  CHECK(timers == 0);
}

TEST_CASE("stopping at once from many threads and fibers is one end") {
  for (int round = 0; round < 100; ++round) {
    coir::runtime rt(runtime_options().loops(2));
    auto all = rt.spawn_on_all([&] { rt.stop(); });
    std::thread one([&] { rt.stop(1s); });
    std::thread other([&] { rt.stop(); });
    rt.wait();
    one.join();
    other.join();
  }
}

TEST_CASE("a runtime that cannot be made leaves nothing behind, and says why") {
  class no_backend final : public coir::backend_maker {
   public:
    std::unique_ptr<coir::backend> make(const coir::backend_parts&) override {
      if (++made == 3) throw std::runtime_error("no more backends");
      throw std::runtime_error("no backend");
    }
    std::atomic<int> made = 0;
  };
  no_backend none;
  CHECK_THROWS_AS(coir::runtime(runtime_options().loops(4).loop(coir::loop_options().backend(&none))), std::runtime_error);
}

TEST_CASE("a runtime some of whose loops cannot be made ends the others, however far they got") {
  coir::backend_report();  // decided while there are descriptors
  unsigned refused = 0;
  for (int round = 0; round < rounds(5); ++round) {
    for (unsigned spare = 0; spare < 40; spare += 3) {
      const support::descriptor_limit few(spare);
      try {
        coir::runtime rt(runtime_options().loops(6));
      } catch (const std::system_error& error) {
        CHECK(error.code() == std::errc::too_many_files_open);
        ++refused;
      }
    }
  }
  CHECK(refused != 0);
}

// In a child, where the thread sanitizer's own thread would be refused too.
#if !COIR_TEST_NO_THREADS_AFTER_FORK
TEST_CASE("a runtime that gets no thread says which of how many was refused") {
  const auto ended = support::in_child([] {
    support::forbid({SYS_clone, SYS_clone3}, EAGAIN);
    const coir::runtime none(runtime_options().loops(3).names("worker"));
  });
  CHECK(ended.exit_code == 1);
  CHECK(ended.text ==
        "exception: starting thread worker-0 of a runtime of 3 loops: Resource temporarily unavailable\n");
}
#endif

TEST_CASE("wait() in a fiber is a mistake that is named") {
  coir::runtime rt(runtime_options().loops(1));
  coir::run([&] { CHECK_THROWS_AS(rt.wait(), std::logic_error); });
}

TEST_CASE("a failure that nobody asks for, even the runtime, is told on standard error") {
  const auto ended = support::in_child([] {
    const coir::runtime rt(runtime_options().loops(1));
    static_cast<void>(const_cast<coir::runtime&>(rt).spawn_on(0, [] { throw crash("lost"); }));
    while (!rt.stopping()) std::this_thread::yield();
  });
  CHECK(ended.exit_code == 0);
  CHECK(ended.text == "coir: what a runtime ended with was never asked for: lost\n");
}

TEST_CASE("so is one that comes when wait() has returned, of the last handle that goes") {
  const auto ended = support::in_child([] {
    coir::runtime rt(runtime_options().loops(1));
    const auto f = rt.spawn_on(0, [] { throw crash("late"); });
    f.wait_for(10s);
    rt.stop();
    rt.wait();
  });
  CHECK(ended.exit_code == 0);
  CHECK(ended.text == "coir: what a runtime ended with was never asked for: late\n");
}

TEST_CASE("a child process has no threads of its parent's runtime, and is told so") {
  auto rt = std::make_unique<coir::runtime>(runtime_options().loops(2));
  auto f = rt->spawn_on(0, for_ever);
  const auto ended = support::in_child([&] {
    try {
      static_cast<void>(rt->spawn_on(1, [] {}));
    } catch (const std::logic_error& error) {
      std::fprintf(stderr, "%s", error.what());
    }
    rt->stop();
    f.cancel();
    rt.reset();
#if !COIR_TEST_NO_THREADS_AFTER_FORK
    // One of its own.
    coir::runtime own(runtime_options().loops(2));
    if (own.spawn_on(1, [] { return 7; }).get() != 7) throw std::runtime_error("it does not work");
#endif
  });
  CHECK(ended.exit_code == 0);
  CHECK_THAT(ended.text, Contains("in a child process (fork)"));
  CHECK(f.state() != coir::remote_state::dead);
}

TEST_CASE("a child that a fiber of a runtime forks, and that goes on there, ends with a word") {
  coir::runtime rt(runtime_options().loops(2));
  int out[2];
  REQUIRE(::pipe(out) == 0);
  auto f = rt.spawn_on(0, [&] {
    const pid_t child = ::fork();
    if (child == 0) {
      ::signal(SIGABRT, SIG_DFL);  // Catch2 would tell of it as of a failure
      ::dup2(out[1], 2);
      ::close(out[1]);
      coir::await(coir::yield());
      coir::await(coir::sleep_for(1ms));
      ::_exit(0);
    }
    return child;
  });
  const pid_t child = f.get();
  ::close(out[1]);
  std::string said;
  char some[256];
  for (ssize_t n = 0; (n = ::read(out[0], some, sizeof some)) > 0;) said.append(some, static_cast<std::size_t>(n));
  ::close(out[0]);
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  CHECK((WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT));
  CHECK_THAT(said, Contains("a fiber of a runtime forked, and the child came back from it"));
}

TEST_CASE("in a child process nobody waits for a fiber of its parent's that had not ended") {
  coir::runtime rt(runtime_options().loops(1));
  auto lives = rt.spawn_on(0, for_ever);
  auto dead = rt.spawn_on(0, [] { return 3; });
  CHECK(dead.get() == 3);
  const auto ended = support::in_child([&] {
    const auto refused = [](auto&& wait) {
      try {
        wait();
      } catch (const std::logic_error& error) {
        if (std::string(error.what()).find("in a child process (fork)") != std::string::npos) return;
      }
      throw std::runtime_error("it was not refused");
    };
    refused([&] { lives.get(); });
    refused([&] { lives.wait_for(1h); });
    coir::run([&] { refused([&] { coir::await(lives.join()); }); });
    if (dead.get() != 3) throw std::runtime_error("what had ended is not there");
  });
  CHECK(ended.exit_code == 0);
  CHECK(ended.text.empty());
}

TEST_CASE("a runtime that is destroyed by its own fiber ends the program, and says so") {
  const bool in_run = GENERATE(false, true);
  const auto ended = support::in_child([&] {
    auto rt = std::make_unique<coir::runtime>(runtime_options().loops(1));
    if (in_run) {
      coir::runtime& entered = *rt;
      entered.run([&] { rt.reset(); });
    } else {
      auto f = rt->spawn_on(0, [&] { rt.reset(); });
      f.get();
    }
  });
  CHECK(ended.signal == SIGABRT);
  CHECK(ended.text == "coir: a runtime was destroyed by one of its own fibers\n");
}
