// A signal goes to any thread that leaves it open: registering finds out which does.
#include "support/child_process.hpp"
#include "support/loop_tools.hpp"

#include <coir/loop/loop.hpp>

#include <sys/syscall.h>

#include <atomic>
#include <csignal>
#include <cstdint>
#include <fstream>
#include <future>
#include <initializer_list>
#include <memory>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

using Catch::Matchers::Contains;

namespace {

void block(std::initializer_list<int> numbers) {
  sigset_t set;
  ::sigemptyset(&set);
  for (const int number : numbers) ::sigaddset(&set, number);
  ::pthread_sigmask(SIG_BLOCK, &set, nullptr);
}

void open_all() {
  sigset_t none;
  ::sigemptyset(&none);
  ::pthread_sigmask(SIG_SETMASK, &none, nullptr);
}

bool blocked(int number) {
  sigset_t mask;
  ::pthread_sigmask(SIG_BLOCK, nullptr, &mask);
  return ::sigismember(&mask, number) == 1;
}

// A thread that has these numbers blocked, and all others open.
class bystander {
 public:
  bystander(std::string name, std::initializer_list<int> numbers)
      : thread_([this, name = std::move(name), set = std::vector<int>(numbers)] {
          sigset_t mask;
          ::sigemptyset(&mask);
          for (const int number : set) ::sigaddset(&mask, number);
          ::pthread_sigmask(SIG_SETMASK, &mask, nullptr);
          ::pthread_setname_np(::pthread_self(), name.c_str());
          id_.set_value(::gettid());
          leave_.get_future().wait();
        }) {
    number_ = id_.get_future().get();
  }
  bystander(const bystander&) = delete;
  ~bystander() {
    leave_.set_value();
    thread_.join();
  }
  pid_t id() const { return number_; }

 private:
  std::promise<pid_t> id_;
  pid_t number_ = 0;
  std::promise<void> leave_;
  std::thread thread_;
};

// Starts a thread after the other.
class restless {
 public:
  restless() = default;
  restless(const restless&) = delete;
  ~restless() {
    enough_ = true;
    thread_.join();
  }

 private:
  std::atomic<bool> enough_ = false;
  std::thread thread_{[this] {
    while (!enough_) std::thread([] {}).join();
  }};
};

}  // namespace

TEST_CASE("a thread that has everything blocked, and stays so, is believed") {
  std::promise<void> ready;
  std::promise<void> leave;
  std::thread other([&] {
    // The C library's own numbers too, which pthread_sigmask(3) leaves open.
    const std::uint64_t all = ~std::uint64_t{0};
    ::syscall(SYS_rt_sigprocmask, SIG_SETMASK, &all, nullptr, sizeof all);
    ready.set_value();
    leave.get_future().wait();
  });
  ready.get_future().wait();
  {
    coir::loop loop;
    CHECK_NOTHROW(loop.signal(SIGUSR1, [] {}));
  }
  leave.set_value();
  other.join();
}

TEST_CASE("registering is refused while another thread leaves the signal open, and the error names both") {
  coir::loop loop;
  {
    bystander other("careless", {SIGUSR1});
    try {
      static_cast<void>(loop.signal({SIGUSR1, SIGUSR2}, [] {}));
      FAIL("it was not refused");
    } catch (const std::logic_error& error) {
      CHECK_THAT(error.what(), Contains("SIGUSR2") && Contains("thread " + std::to_string(other.id())) &&
                                   Contains("\"careless\"") && !Contains("SIGUSR1"));
    }
    CHECK_FALSE(blocked(SIGUSR1));
    CHECK_FALSE(blocked(SIGUSR2));
    CHECK(loop.census().signals == 0);
    // Nor is it bound to this thread.
    std::thread([&] { CHECK(loop.is_own_thread()); }).join();
    // Only what is asked for matters.
    auto watch = loop.signal(SIGUSR1, [] {});
  }
  auto watch = loop.signal({SIGUSR1, SIGUSR2}, [] {});
}

TEST_CASE("a second subscriber is refused too when a thread has been started that leaves the signal open") {
  coir::loop loop;
  int calls = 0;
  auto first = loop.signal(SIGUSR1, [&] { ++calls; });
  {
    bystander other("late", {});
    CHECK_THROWS_WITH(loop.signal(SIGUSR1, [] {}), Contains("late"));
  }
  CHECK(blocked(SIGUSR1));
  REQUIRE(::kill(::getpid(), SIGUSR1) == 0);
  support::run_until(loop, [&] { return calls == 1; });
}

TEST_CASE("a signal that all threads have blocked comes to the loop, and threads it starts have it blocked") {
  coir::loop loop;
  bystander other("careful", {SIGUSR1});
  int calls = 0;
  auto watch = loop.signal(SIGUSR1, [&] { ++calls; });
  std::thread([] { CHECK(blocked(SIGUSR1)); }).join();
  for (int i = 1; i <= 20; ++i) {
    REQUIRE(::kill(::getpid(), SIGUSR1) == 0);
    support::run_until(loop, [&] { return calls == i; });
  }
}

TEST_CASE("a signal sent by another thread wakes the loop that sleeps") {
  coir::loop loop;
  std::atomic<int> calls = 0;
  auto watch = loop.signal(SIGUSR1, [&] { ++calls; });
  std::thread other([&] {
    for (int i = 0; i < 100; ++i) {
      ::kill(::getpid(), SIGUSR1);
      // So that the next is not merged with it, and comes when the loop may be asleep.
      while (calls <= i) std::this_thread::yield();
    }
    loop.post([&] { loop.stop(); });
  });
  loop.run();
  other.join();
  CHECK(calls == 100);
}

TEST_CASE("threads that begin and end while the others are asked do no harm") {
  block({SIGUSR1});
  {
    const restless maker;
    coir::loop loop;
    for (int i = 0; i < 300; ++i) {
      auto watch = loop.signal(SIGUSR1, [] {});
    }
  }
  CHECK(blocked(SIGUSR1));
  open_all();
}

TEST_CASE("a thread is found out also while it starts others, when it has everything blocked for a moment") {
  coir::loop loop;
  {
    const restless maker;
    for (int i = 0; i < 300; ++i) {
      CHECK_THROWS_AS(loop.signal(SIGUSR1, [] {}), std::logic_error);
    }
  }
  auto watch = loop.signal(SIGUSR1, [] {});
}

TEST_CASE("threads that the kernel makes for io_uring are in nobody's way") {
  coir::loop loop;
  // On io_uring such a thread does it, and waits for more.
  support::asked open(coir::request::open("/proc/self/status", O_RDONLY | O_CLOEXEC, 0));
  const coir::unique_fd file(support::finish(loop, open));
  CHECK(file);
  int calls = 0;
  for (int i = 1; i <= 10; ++i) {
    auto watch = loop.signal(SIGUSR1, [&] { ++calls; });
    REQUIRE(::kill(::getpid(), SIGUSR1) == 0);
    support::run_until(loop, [&] { return calls == i; });
  }
}

TEST_CASE("a first thread that has ended, and is there until the process ends, is not asked") {
  const auto child = support::in_child([] {
    std::thread([] {
      const auto state = [] {
        std::ifstream status("/proc/self/task/" + std::to_string(::getpid()) + "/status");
        std::string line;
        while (std::getline(status, line) && !line.starts_with("State:")) {
        }
        return line;
      };
      while (state().find("\tZ") == std::string::npos) std::this_thread::yield();
      try {
        coir::loop loop;
        int calls = 0;
        auto watch = loop.signal(SIGUSR1, [&] { ++calls; });
        ::kill(::getpid(), SIGUSR1);
        support::run_until(loop, [&] { return calls == 1; });
        ::_exit(0);
      } catch (const std::exception& error) {
        std::fprintf(stderr, "%s\n", error.what());
        ::_exit(1);
      }
    }).detach();
    ::syscall(SYS_exit, 0);
  });
  CHECK(child.text.empty());
  CHECK(child.exit_code == 0);
}

TEST_CASE("loops on several threads have a number each, and one is refused what another has") {
  block({SIGUSR1, SIGUSR2});
  coir::loop here;
  int calls = 0;
  auto mine = here.signal(SIGUSR1, [&] { ++calls; });
  std::promise<void> ready;
  std::promise<void> told;
  std::thread other([&] {
    coir::loop there;
    CHECK_THROWS_AS(there.signal(SIGUSR1, [] {}), std::system_error);
    int heard = 0;
    auto watch = there.signal(SIGUSR2, [&] { ++heard; });
    ready.set_value();
    support::run_until(there, [&] { return heard == 1; });
    told.set_value();
  });
  ready.get_future().wait();
  REQUIRE(::kill(::getpid(), SIGUSR2) == 0);
  told.get_future().wait();
  other.join();
  CHECK(calls == 0);
  REQUIRE(::kill(::getpid(), SIGUSR1) == 0);
  support::run_until(here, [&] { return calls == 1; });
  auto both = here.signal(SIGUSR2, [] {});
  mine.reset();
  both.reset();
  open_all();
}

TEST_CASE("a loop that ends on another thread than its own lets its numbers go") {
  block({SIGUSR1});
  std::unique_ptr<coir::loop> loop;
  std::thread([&] {
    loop = std::make_unique<coir::loop>();
    loop->signal(SIGUSR1, [] {}).keep();
  }).join();
  coir::loop next;
  CHECK_THROWS_AS(next.signal(SIGUSR1, [] {}), std::system_error);
  loop.reset();
  int calls = 0;
  auto watch = next.signal(SIGUSR1, [&] { ++calls; });
  REQUIRE(::kill(::getpid(), SIGUSR1) == 0);
  support::run_until(next, [&] { return calls == 1; });
  watch.reset();
  open_all();
}

TEST_CASE("one who waits again and again looks at the threads once, but for numbers that are open in between") {
  struct deaf : coir::signal_subscriber {
    explicit deaf(int number) : signal_subscriber(number, [](signal_subscriber&, const coir::signal_event&) {}) {}
  };
  block({SIGUSR1});
  coir::loop loop;
  deaf one(SIGUSR1);
  deaf two(SIGUSR2);
  one.attach(loop);
  one.detach();
  two.attach(loop);
  two.detach();
  {
    bystander other("late", {});
    one.attach(loop);
    one.detach();
    CHECK_THROWS_WITH(two.attach(loop), Contains("late"));
    // A registration looks each time.
    CHECK_THROWS_WITH(loop.signal(SIGUSR1, [] {}), Contains("late"));
    // As whoever waits does when the number was open meanwhile.
    open_all();
    CHECK_THROWS_WITH(one.attach(loop), Contains("late"));
  }
  CHECK_FALSE(one.attached());
  CHECK_FALSE(blocked(SIGUSR1));
  CHECK_FALSE(blocked(SIGUSR2));
}
