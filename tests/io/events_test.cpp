// Signals, children and paths, waited for by fibers.
#include "fiber/until.hpp"
#include "support/both.hpp"
#include "support/catch.hpp"
#include "support/child_process.hpp"
#include "support/counted_heap.hpp"

#include <coir/coir.hpp>

#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <future>
#include <initializer_list>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

using namespace std::chrono_literals;
using Catch::Matchers::Contains;

namespace {

pid_t child_that_exits(int code) {
  const pid_t pid = ::fork();
  REQUIRE(pid >= 0);
  if (pid == 0) ::_exit(code);
  return pid;
}
// Until it is killed.
pid_t child_that_waits() {
  const pid_t pid = ::fork();
  REQUIRE(pid >= 0);
  if (pid == 0) {
    for (;;) ::pause();
  }
  return pid;
}

class blocked_here {
 public:
  blocked_here(std::initializer_list<int> numbers) {
    sigset_t set;
    ::sigemptyset(&set);
    for (const int each : numbers) ::sigaddset(&set, each);
    ::pthread_sigmask(SIG_BLOCK, &set, &before_);
  }
  blocked_here(const blocked_here&) = delete;
  ~blocked_here() { ::pthread_sigmask(SIG_SETMASK, &before_, nullptr); }

 private:
  sigset_t before_;
};

class folder {
 public:
  folder() { REQUIRE(::mkdtemp(path_.data()) != nullptr); }
  ~folder() { std::filesystem::remove_all(path_); }
  const std::string& path() const { return path_; }
  void make(const std::string& name) const { std::ofstream(path_ + "/" + name) << "x"; }

 private:
  std::string path_ = "/tmp/events_test.XXXXXX";
};

}  // namespace

TEST_CASE("wait_signal ends with the first signal of its set, and says which and who sent it") {
  support::on_both_surfaces([](auto wait) {
    coir::signal_event got;
    auto waits = coir::spawn([&] { got = wait(coir::wait_signal({SIGUSR1, SIGUSR2})); });
    support::until([&] { return support::waiting(waits); });
    REQUIRE(::kill(::getpid(), SIGUSR2) == 0);
    coir::await(waits.join());
    CHECK(got.number == SIGUSR2);
    CHECK(got.count == 1);
    CHECK(got.pid == ::getpid());
  });
}

TEST_CASE("all fibers that wait for a signal go on, and one that is cancelled does not stand in their way") {
  support::on_both_surfaces([](auto wait) {
    int heard = 0;
    const auto waiter = [&] {
      wait(coir::wait_signal(SIGUSR1));
      ++heard;
    };
    auto first = coir::spawn(waiter);
    auto second = coir::spawn(waiter);
    auto third = coir::spawn(waiter);
    support::until([&] { return support::waiting(third); });
    first.cancel();
    coir::await(coir::end_op(first));
    REQUIRE(::kill(::getpid(), SIGUSR1) == 0);
    coir::await(second.join());
    coir::await(third.join());
    CHECK(heard == 2);
  });
}

TEST_CASE("between two waits a signal that the program has blocked stays pending, and the next wait has it") {
  const blocked_here mine{SIGUSR1};
  support::on_both_surfaces([](auto wait) {
    for (int i = 0; i < 3; ++i) {
      REQUIRE(::kill(::getpid(), SIGUSR1) == 0);
      CHECK(wait(coir::wait_signal(SIGUSR1)).number == SIGUSR1);
    }
  });
}

TEST_CASE("of two signals that are pending the first ends a wait, and the second the next one, at once or later") {
  const blocked_here both{SIGUSR1, SIGUSR2};
  support::on_both_surfaces([](auto wait) {
    for (const bool at_once : {true, false}) {
      REQUIRE(::kill(::getpid(), SIGUSR2) == 0);
      REQUIRE(::kill(::getpid(), SIGUSR1) == 0);
      CHECK(wait(coir::wait_signal({SIGUSR1, SIGUSR2})).number == SIGUSR1);
      if (!at_once) coir::await(coir::sleep_for(1ms));
      CHECK(wait(coir::wait_signal({SIGUSR1, SIGUSR2})).number == SIGUSR2);
    }
    // Real-time ones come as often as they were sent.
    const blocked_here more{SIGRTMIN};
    for (int i = 0; i < 3; ++i) REQUIRE(::sigqueue(::getpid(), SIGRTMIN, {}) == 0);
    REQUIRE(::kill(::getpid(), SIGUSR1) == 0);
    CHECK(wait(coir::wait_signal({SIGUSR1, SIGRTMIN})).number == SIGUSR1);
    CHECK(wait(coir::wait_signal(SIGRTMIN)).count == 3);
  });
}

TEST_CASE("waiting again for a signal that the program has blocked allocates nothing, whatever threads there are") {
  const blocked_here mine{SIGUSR1};
  std::promise<void> leave;
  std::thread other([&] { leave.get_future().wait(); });
  coir::run([] {
    const auto round = [] {
      REQUIRE(::kill(::getpid(), SIGUSR1) == 0);
      coir::await(coir::wait_signal(SIGUSR1));
    };
    round();
    const long before = support::heap.allocations;
    for (int i = 0; i < 10; ++i) round();
    CHECK(support::heap.allocations == before);
  });
  leave.set_value();
  other.join();
}

TEST_CASE("a second wait for a child says that it does not reap, and both end") {
  support::on_both_surfaces([](auto wait) {
    const pid_t pid = child_that_waits();
    int heard = 0;
    auto first = coir::spawn([&] { heard += wait(coir::wait_child(pid)).signal; });
    support::until([&] { return support::waiting(first); });
    CHECK_THROWS_AS(wait(coir::wait_child(pid)), std::system_error);
    auto second = coir::spawn([&] { heard += wait(coir::wait_child(pid, coir::reap::no)).signal; });
    support::until([&] { return support::waiting(second); });
    REQUIRE(::kill(pid, SIGKILL) == 0);
    coir::await(first.join());
    coir::await(second.join());
    CHECK(heard == 2 * SIGKILL);
  });
}

TEST_CASE("a fiber that waits for a signal is no deadlock, and says what it waits for") {
  const auto ended = support::in_child([] {
    coir::run([] {
      auto waits = coir::spawn([] { coir::await(coir::wait_signal(SIGTERM)); });
      support::until([&] { return support::waiting(waits); });
      ::kill(::getpid(), SIGTERM);
      coir::await(waits.join());
    });
  });
  INFO(ended.text);
  CHECK(ended.exit_code == 0);
}

TEST_CASE("wait_child ends with the child, whether it ends before or meanwhile") {
  support::on_both_surfaces([](auto wait) {
    const coir::child_status early = wait(coir::wait_child(child_that_exits(3)));
    CHECK(early.known);
    CHECK(early.exited);
    CHECK(early.exit_code == 3);
    const pid_t pid = child_that_waits();
    coir::child_status late;
    auto waits = coir::spawn([&] { late = wait(coir::wait_child(pid)); });
    support::until([&] { return support::waiting(waits); });
    REQUIRE(::kill(pid, SIGKILL) == 0);
    coir::await(waits.join());
    CHECK_FALSE(late.exited);
    CHECK(late.signal == SIGKILL);
  });
}

TEST_CASE("a cancelled wait for a child leaves it to the next, which reaps it") {
  support::on_both_surfaces([](auto wait) {
    const pid_t pid = child_that_waits();
    auto waits = coir::spawn([&] { wait(coir::wait_child(pid)); });
    support::until([&] { return support::waiting(waits); });
    waits.cancel();
    coir::await(coir::end_op(waits));
    REQUIRE(::kill(pid, SIGKILL) == 0);
    CHECK(wait(coir::wait_child(pid)).signal == SIGKILL);
    CHECK(::kill(pid, 0) != 0);
  });
}

TEST_CASE("what is no child is an error of the wait, as an exception and as a result") {
  support::on_both_surfaces([](auto wait) {
    try {
      wait(coir::wait_child(1));
      FAIL("it waited for process 1");
    } catch (const std::system_error& error) {
      CHECK(error.code().value() == ECHILD);
      CHECK_THAT(error.what(), Contains("process 1"));
    }
    const auto result = wait(coir::as_result(coir::wait_child(1)));
    REQUIRE_FALSE(result.has_value());
    CHECK(result.error().value() == ECHILD);
  });
}

TEST_CASE("wait_path ends with the first change of its kind, and keeps the name") {
  support::on_both_surfaces([](auto wait) {
    const folder where;
    coir::fs_change got;
    auto waits = coir::spawn([&] { got = wait(coir::wait_path(where.path(), coir::fs_mask::create)); });
    support::until([&] { return support::waiting(waits); });
    where.make("a file with a name that is too long for a short string");
    coir::await(waits.join());
    CHECK(got.is(coir::fs_mask::create));
    CHECK(got.name == "a file with a name that is too long for a short string");
    CHECK_FALSE(got.is_directory);
  });
}

TEST_CASE("a path that is not there is an error of the wait, and a cancelled wait leaves nothing behind") {
  support::on_both_surfaces([](auto wait) {
    const auto result = wait(coir::as_result(coir::wait_path("/tmp/no such folder", coir::fs_mask::create)));
    REQUIRE_FALSE(result.has_value());
    CHECK(result.error() == std::errc::no_such_file_or_directory);
    const folder where;
    auto waits = coir::spawn([&] { wait(coir::wait_path(where.path(), coir::fs_mask::create)); });
    support::until([&] { return support::waiting(waits); });
    waits.cancel();
    coir::await(coir::end_op(waits));
    CHECK(coir::loop::current()->census().paths == 0);
  });
}

TEST_CASE("a wait for a path that was not there can be awaited again when it is") {
  support::on_both_surfaces([](auto wait) {
    const folder where;
    const std::string path = where.path() + "/later";
    auto op = coir::wait_path(path, coir::fs_mask::create);
    CHECK_THROWS_AS(wait(support::again(op)), std::system_error);
    std::filesystem::create_directory(path);
    coir::fs_change got;
    auto waits = coir::spawn([&] { got = wait(support::again(op)); });
    support::until([&] { return support::waiting(waits); });
    std::filesystem::create_directory(path + "/inside");
    coir::await(waits.join());
    CHECK(got.name == "inside");
  });
}

TEST_CASE("a signal that another loop has is an error of the wait, as an exception and as a result") {
  coir::loop other;
  const auto has_it = other.signal(SIGUSR1, [] {});
  support::on_both_surfaces([](auto wait) {
    CHECK_THROWS_AS(wait(coir::wait_signal(SIGUSR1)), std::system_error);
    const auto result = wait(coir::as_result(coir::wait_signal(SIGUSR1)));
    REQUIRE_FALSE(result.has_value());
    CHECK(result.error() == std::errc::device_or_resource_busy);
  });
}

TEST_CASE("fibers that wait for a signal keep the loop alive, and it says so") {
  support::on_both_surfaces([](auto wait) {
    auto waits = coir::spawn([&] { wait(coir::wait_signal(SIGUSR1)); });
    support::until([&] { return support::waiting(waits); });
    CHECK(coir::loop::current()->why_alive() == std::vector<std::string>{"1 fibers that wait for signals"});
    waits.cancel();
  });
}
