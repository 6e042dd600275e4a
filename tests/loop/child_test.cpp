#include "support/child_process.hpp"
#include "support/counted_heap.hpp"
#include "support/descriptor_limit.hpp"
#include "support/loop_tools.hpp"

#include <coir/loop/loop.hpp>

#include <poll.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <memory>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

using namespace std::chrono_literals;
using Catch::Matchers::Contains;
using coir::child_status;
using coir::reap;

namespace {

// A child that waits until it is told to go on, and then does this.
class child {
 public:
  template <class Work>
  explicit child(Work&& work) : ends_(support::pipe_pair()) {
    pid_ = ::fork();
    REQUIRE(pid_ >= 0);
    if (pid_ != 0) {
      ends_[0].reset();
      return;
    }
    for (const int number : {SIGABRT, SIGSEGV, SIGTERM}) std::signal(number, SIG_DFL);
    const rlimit no_core{0, 0};
    ::setrlimit(RLIMIT_CORE, &no_core);
    ::alarm(30);
    ends_[1].reset();
    pollfd end{ends_[0].get(), POLLIN, 0};
    ::poll(&end, 1, -1);
    work();
    ::_exit(0);
  }
  child(const child&) = delete;
  ~child() {
    if (!ours_) return;
    go_on();
    while (::waitpid(pid_, nullptr, 0) < 0 && errno == EINTR) {
    }
  }

  pid_t pid() const { return pid_; }
  // By a byte: later children have the pipe open too.
  void go_on() {
    static_cast<void>(::write(ends_[1].get(), "x", 1));
    ends_[1].reset();
  }
  // Whether it is there to be reaped; it is over when this returns.
  bool wait_over() const {
    siginfo_t info{};
    return ::waitid(P_PID, static_cast<id_t>(pid_), &info, WEXITED | WNOWAIT) == 0;
  }
  bool is_reaped() const {
    siginfo_t info{};
    const int options = WEXITED | WNOWAIT | WNOHANG;
    return ::waitid(P_PID, static_cast<id_t>(pid_), &info, options) < 0 && errno == ECHILD;
  }
  void leave() { ours_ = false; }

 private:
  support::fd_pair ends_;
  pid_t pid_ = -1;
  bool ours_ = true;
};

auto exits_with(int code) {
  return [code] { ::_exit(code); };
}

std::errc refusal_of(coir::loop& loop, pid_t pid, reap how = reap::yes) {
  try {
    static_cast<void>(loop.child_exit(pid, [] {}, how));
  } catch (const std::system_error& error) {
    CHECK_THAT(error.what(), Contains(std::to_string(pid)));
    return static_cast<std::errc>(error.code().value());
  }
  return std::errc();
}

// A grandchild, which is no child of ours and ends when the pipe to it is closed.
class stranger {
 public:
  stranger() : life_(support::pipe_pair()) {
    const support::fd_pair name = support::pipe_pair();
    const pid_t parent = ::fork();
    REQUIRE(parent >= 0);
    if (parent == 0) {
      ::alarm(30);
      const pid_t made = ::fork();
      if (made != 0) {
        if (::write(name[1].get(), &made, sizeof made) != sizeof made) ::_exit(1);
        // Reaps it as soon as it is over.
        life_[1].reset();
        ::waitpid(made, nullptr, 0);
        ::_exit(0);
      }
      ::alarm(30);
      life_[1].reset();
      pollfd end{life_[0].get(), POLLIN, 0};
      ::poll(&end, 1, -1);
      ::_exit(3);
    }
    parent_ = parent;
    pollfd come{name[0].get(), POLLIN, 0};
    REQUIRE(::poll(&come, 1, -1) == 1);
    REQUIRE(::read(name[0].get(), &pid_, sizeof pid_) == sizeof pid_);
  }
  stranger(const stranger&) = delete;
  ~stranger() {
    go_on();
    ::waitpid(parent_, nullptr, 0);
  }
  pid_t pid() const { return pid_; }
  void go_on() { life_[1].reset(); }

 private:
  support::fd_pair life_;
  pid_t parent_ = -1;
  pid_t pid_ = -1;
};

void say(const char* text) { std::fprintf(stderr, "%s\n", text); }

}  // namespace

// --- what is told ---

TEST_CASE("the end of a child is told once, with its code, and the child is reaped") {
  coir::loop loop;
  child one(exits_with(7));
  std::vector<child_status> told;
  auto end = loop.child_exit(one.pid(), [&](child_status status) { told.push_back(status); });
  support::idle_turns(loop);
  CHECK(told.empty());
  CHECK(end);
  CHECK(end->pid() == one.pid());
  one.go_on();
  loop.run();
  support::idle_turns(loop);
  REQUIRE(told.size() == 1);
  CHECK(told[0].pid == one.pid());
  CHECK(told[0].known);
  CHECK(told[0].exited);
  CHECK(told[0].exit_code == 7);
  CHECK(told[0].signal == 0);
  CHECK_FALSE(told[0].succeeded());
  CHECK(WIFEXITED(told[0].raw()));
  CHECK(WEXITSTATUS(told[0].raw()) == 7);
  CHECK(one.is_reaped());
  CHECK_FALSE(end);
  one.leave();
}

TEST_CASE("a child that a signal ends is told with the signal, and one that exits with 0 has succeeded") {
  coir::loop loop;
  child killed(exits_with(0));
  child well(exits_with(0));
  child_status first;
  child_status second;
  auto one = loop.child_exit(killed.pid(), [&](const child_status& status) { first = status; });
  auto other = loop.child_exit(well.pid(), [&](const child_status& status) { second = status; });
  REQUIRE(::kill(killed.pid(), SIGKILL) == 0);
  well.go_on();
  loop.run();
  CHECK(first.known);
  CHECK_FALSE(first.exited);
  CHECK(first.signal == SIGKILL);
  CHECK_FALSE(first.core_dumped);
  CHECK_FALSE(first.succeeded());
  CHECK(WIFSIGNALED(first.raw()));
  CHECK(WTERMSIG(first.raw()) == SIGKILL);
  CHECK(second.succeeded());
  CHECK(second.raw() == 0);
  killed.leave();
  well.leave();
}

TEST_CASE("the status is the one that waitpid would have had, for every way to end") {
  const auto dies_of = [](int number) {
    return [number] {
      // Where the system allows a core, and says so.
      const rlimit core{RLIM_INFINITY, RLIM_INFINITY};
      if (number == SIGABRT && ::chdir("/tmp") == 0) ::setrlimit(RLIMIT_CORE, &core);
      std::signal(number, SIG_DFL);
      ::raise(number);
    };
  };
  const auto compare = [](auto work) {
    coir::loop loop;
    child one(work);
    child_status seen;
    auto end = loop.child_exit(one.pid(), [&](child_status status) { seen = status; }, reap::no);
    one.go_on();
    loop.run();
    int status = -1;
    REQUIRE(::waitpid(one.pid(), &status, 0) == one.pid());
    one.leave();
    CHECK(seen.known);
    CHECK(seen.raw() == status);
  };
  compare(exits_with(0));
  compare(exits_with(255));
  compare(dies_of(SIGTERM));
  compare(dies_of(SIGRTMIN));
  compare(dies_of(SIGABRT));
}

TEST_CASE("a child that is over already and not reaped is told in the next turn, never inline") {
  coir::loop loop;
  child one(exits_with(3));
  one.go_on();
  REQUIRE(one.wait_over());
  int code = -1;
  auto end = loop.child_exit(one.pid(), [&](child_status status) { code = status.exit_code; });
  CHECK(code == -1);
  CHECK(end);
  loop.run_once();
  CHECK(code == 3);
  CHECK(one.is_reaped());
  one.leave();
}

TEST_CASE("a child is told while requests are in flight, and makes a foreign loop's descriptor readable") {
  coir::loop loop;
  const support::fd_pair ends = support::socket_pair();
  std::array<std::byte, 8> buffer;
  support::asked get(coir::request::recv(ends[0].get(), buffer));
  REQUIRE(loop.start(get.request));
  child one(exits_with(1));
  int calls = 0;
  auto end = loop.child_exit(one.pid(), [&] { ++calls; });
  one.go_on();
  support::run_until(loop, [&] { return calls == 1; });
  one.leave();
  child other(exits_with(1));
  pollfd shown{loop.pollable_fd(), POLLIN, 0};
  end = loop.child_exit(other.pid(), [&] { ++calls; });
  while (::poll(&shown, 1, 0) != 0) loop.run_once();
  other.go_on();
  CHECK(::poll(&shown, 1, -1) == 1);
  support::run_until(loop, [&] { return calls == 2; });
  other.leave();
  CHECK(support::give_up(loop, get) == -ECANCELED);
}

TEST_CASE("a hundred children are each told once") {
  coir::loop loop;
  std::vector<std::unique_ptr<child>> all;
  std::vector<int> codes;
  for (int i = 0; i < 100; ++i) {
    all.push_back(std::make_unique<child>(exits_with(i)));
    const auto note = [&](child_status status) { codes.push_back(status.exit_code); };
    loop.child_exit(all.back()->pid(), note).keep();
  }
  CHECK(loop.census().children == 100);
  for (const auto& each : all) each->go_on();
  loop.run();
  std::sort(codes.begin(), codes.end());
  REQUIRE(codes.size() == 100);
  for (int i = 0; i < 100; ++i) CHECK(codes[static_cast<std::size_t>(i)] == i);
  CHECK(loop.census().children == 0);
  for (const auto& each : all) each->leave();
}

// --- not to be reaped, and not ours ---

TEST_CASE("without reaping the status is told, and the child is left to be reaped") {
  coir::loop loop;
  child one(exits_with(9));
  child_status seen;
  auto end = loop.child_exit(one.pid(), [&](child_status status) { seen = status; }, reap::no);
  one.go_on();
  loop.run();
  CHECK(seen.known);
  CHECK(seen.exit_code == 9);
  CHECK_FALSE(one.is_reaped());
}

TEST_CASE("a process that is no child of ours is refused where it is to be reaped, else its end is seen") {
  coir::loop loop;
  stranger other;
  CHECK(refusal_of(loop, other.pid()) == std::errc::no_child_process);
  CHECK(loop.census().children == 0);
  std::vector<child_status> told;
  auto end = loop.child_exit(other.pid(), [&](child_status status) { told.push_back(status); }, reap::no);
  support::idle_turns(loop);
  CHECK(told.empty());
  other.go_on();
  loop.run();
  REQUIRE(told.size() == 1);
  CHECK(told[0].pid == other.pid());
  CHECK_FALSE(told[0].known);
  CHECK_FALSE(told[0].succeeded());
}

TEST_CASE("a child that somebody else reaps meanwhile is told with an unknown status, once") {
  coir::loop loop;
  child one(exits_with(5));
  std::vector<child_status> told;
  auto end = loop.child_exit(one.pid(), [&](child_status status) { told.push_back(status); });
  loop.run_once();
  one.go_on();
  REQUIRE(::waitpid(one.pid(), nullptr, 0) == one.pid());
  one.leave();
  loop.run();
  support::idle_turns(loop);
  REQUIRE(told.size() == 1);
  CHECK_FALSE(told[0].known);
  CHECK_FALSE(told[0].succeeded());
}

TEST_CASE("where SIGCHLD is ignored the kernel reaps, and the end is told with an unknown status") {
  const auto before = std::signal(SIGCHLD, SIG_IGN);
  coir::loop loop;
  child one(exits_with(5));
  std::vector<child_status> told;
  auto end = loop.child_exit(one.pid(), [&](child_status status) { told.push_back(status); });
  one.go_on();
  loop.run();
  REQUIRE(told.size() == 1);
  CHECK_FALSE(told[0].known);
  one.leave();
  std::signal(SIGCHLD, before);
}

TEST_CASE("several of one loop for a child all hear the status, whether who reaps comes first or last") {
  for (const bool reaper_first : {true, false}) {
    coir::loop loop;
    child one(exits_with(4));
    std::vector<child_status> told;
    const auto add = [&](reap how) {
      return loop.child_exit(one.pid(), [&](child_status status) { told.push_back(status); }, how);
    };
    auto first = add(reaper_first ? reap::yes : reap::no);
    auto second = add(reap::no);
    auto third = add(reaper_first ? reap::no : reap::yes);
    one.go_on();
    loop.run();
    REQUIRE(told.size() == 3);
    for (const child_status& each : told) {
      CHECK(each.known);
      CHECK(each.exit_code == 4);
    }
    CHECK(one.is_reaped());
    one.leave();
  }
}

TEST_CASE("a second registration that would reap is refused until the first has ended") {
  coir::loop loop;
  child one(exits_with(0));
  auto first = loop.child_exit(one.pid(), [] {});
  CHECK(refusal_of(loop, one.pid()) == std::errc::file_exists);
  CHECK(loop.census().children == 1);
  auto beside = loop.child_exit(one.pid(), [] {}, reap::no);
  first.reset();
  int calls = 0;
  first = loop.child_exit(one.pid(), [&] { ++calls; });
  one.go_on();
  loop.run();
  CHECK(calls == 1);
  one.leave();
}

// --- what is refused ---

TEST_CASE("a number that is no process's, and one below 1, is refused with an error that says so") {
  coir::loop loop;
  CHECK_THROWS_AS(loop.child_exit(0, [] {}), std::invalid_argument);
  CHECK_THROWS_WITH(loop.child_exit(-7, [] {}), Contains("-7"));
  CHECK_THROWS_AS(loop.child_exit(-1, [] {}, reap::no), std::invalid_argument);
  CHECK_THROWS_AS(loop.child_exit(::getpid(), nullptr), std::logic_error);
  // One that has been ours, and is reaped.
  pid_t gone = -1;
  {
    child one(exits_with(0));
    gone = one.pid();
  }
  CHECK(refusal_of(loop, gone) == std::errc::no_such_process);
  CHECK(refusal_of(loop, gone, reap::no) == std::errc::no_such_process);
  CHECK(refusal_of(loop, ::getpid()) == std::errc::no_child_process);
  CHECK(loop.census().children == 0);
}

TEST_CASE("without a descriptor to spare nothing is begun, and later it goes well") {
  coir::loop loop;
  child one(exits_with(2));
  {
    const support::descriptor_limit none(0);
    CHECK(refusal_of(loop, one.pid()) == std::errc::too_many_files_open);
  }
  CHECK(loop.census().children == 0);
  int code = 0;
  auto end = loop.child_exit(one.pid(), [&](child_status status) { code = status.exit_code; });
  one.go_on();
  loop.run();
  CHECK(code == 2);
  one.leave();
}

// --- signals to it ---

TEST_CASE("a signal is sent to the process, and refused when it is over or the registration is") {
  coir::loop loop;
  child one(exits_with(0));
  child_status seen;
  auto end = loop.child_exit(one.pid(), [&](child_status status) { seen = status; });
  end->send_signal(0);
  CHECK_THROWS_AS(end->send_signal(1000), std::system_error);
  end->send_signal(SIGUSR2);
  loop.run();
  CHECK(seen.signal == SIGUSR2);
  try {
    end->send_signal(SIGKILL);
    FAIL("it was sent");
  } catch (const std::system_error& error) {
    CHECK(error.code() == std::errc::no_such_process);
  }
  one.leave();
  child other(exits_with(0));
  end = loop.child_exit(other.pid(), [] {});
  end->cancel();
  CHECK_THROWS_AS(end->send_signal(SIGKILL), std::logic_error);
  CHECK_FALSE(other.is_reaped());
}

TEST_CASE("a signal is sent by the loop's own thread only") {
  coir::loop loop;
  child one(exits_with(0));
  auto end = loop.child_exit(one.pid(), [] {});
  loop.run_once();
  std::thread([&] { CHECK_THROWS_AS(end->send_signal(SIGKILL), std::logic_error); }).join();
  end.reset();
  CHECK_FALSE(one.is_reaped());
}

// --- callbacks that do things ---

TEST_CASE("in its callback a registration is over already, and may be destroyed") {
  coir::loop loop;
  child one(exits_with(6));
  coir::owned<coir::child_watch> end;
  auto token = std::make_shared<int>(5);
  const std::weak_ptr<int> alive = token;
  int seen = 0;
  std::size_t left = 1;
  end = loop.child_exit(one.pid(), [&, token = std::move(token)](const child_status& status) {
    CHECK_FALSE(end);
    left = loop.census().children;
    end.reset();
    seen = *token + status.exit_code;
  });
  one.go_on();
  loop.run();
  CHECK(seen == 11);
  CHECK(left == 0);
  CHECK(alive.expired());
  one.leave();
}

TEST_CASE("what a callback throws leaves the run, and the others are told in the next one") {
  coir::loop loop;
  child one(exits_with(1));
  child other(exits_with(2));
  std::vector<int> codes;
  const auto then = [&](child_status status) {
    codes.push_back(status.exit_code);
    throw std::runtime_error("told");
  };
  auto first = loop.child_exit(one.pid(), then);
  auto second = loop.child_exit(other.pid(), then);
  for (child* each : {&one, &other}) {
    each->go_on();
    REQUIRE(each->wait_over());
  }
  CHECK_THROWS_WITH(loop.run(), "told");
  CHECK(codes.size() == 1);
  CHECK_THROWS_WITH(loop.run(), "told");
  CHECK(codes.size() == 2);
  CHECK_FALSE(first);
  CHECK_FALSE(second);
  support::idle_turns(loop);
  CHECK(codes.size() == 2);
  one.leave();
  other.leave();
}

TEST_CASE("after a stop in a callback the other child is told in the next run") {
  coir::loop loop;
  child one(exits_with(1));
  child other(exits_with(2));
  int calls = 0;
  const auto then = [&] {
    ++calls;
    loop.stop();
  };
  auto first = loop.child_exit(one.pid(), then);
  auto second = loop.child_exit(other.pid(), then);
  for (child* each : {&one, &other}) {
    each->go_on();
    REQUIRE(each->wait_over());
  }
  loop.run();
  CHECK(calls == 1);
  loop.run();
  CHECK(calls == 2);
  one.leave();
  other.leave();
}

TEST_CASE("a registration that another child's callback ends hears nothing, and its child is not reaped") {
  coir::loop loop;
  child one(exits_with(1));
  child other(exits_with(2));
  std::array<coir::owned<coir::child_watch>, 2> ends;
  int calls = 0;
  const auto then = [&] {
    ++calls;
    for (auto& each : ends) each.reset();
  };
  ends[0] = loop.child_exit(one.pid(), then);
  ends[1] = loop.child_exit(other.pid(), then);
  for (child* each : {&one, &other}) {
    each->go_on();
    REQUIRE(each->wait_over());
  }
  loop.run();
  CHECK(calls == 1);
  CHECK(one.is_reaped() != other.is_reaped());
  (one.is_reaped() ? one : other).leave();
}

// --- what is left ---

TEST_CASE("every way to an end closes the descriptor of the process, and nothing here kills") {
  support::leaves_no_descriptor([] {
    child one(exits_with(0));
    child_status seen;
    {
      coir::loop loop;
      loop.run_once();
      const std::size_t before = support::open_descriptors();
      auto end = loop.child_exit(one.pid(), [] {});
      CHECK(refusal_of(loop, one.pid()) == std::errc::file_exists);
      CHECK(refusal_of(loop, ::getppid()) == std::errc::no_child_process);
      // The watchers' set, and the process.
      CHECK(support::open_descriptors() == before + 2);
      end.reset();
      CHECK(support::open_descriptors() == before + 1);
      end = loop.child_exit(one.pid(), [&](child_status status) { seen = status; });
      loop.child_exit(one.pid(), [] {}, reap::no).keep();
    }
    CHECK(::kill(one.pid(), 0) == 0);
    coir::loop loop;
    auto end = loop.child_exit(one.pid(), [&](child_status status) { seen = status; });
    one.go_on();
    loop.run();
    CHECK(seen.succeeded());
    one.leave();
  });
}

TEST_CASE("ten thousand registrations leave neither memory nor descriptors behind") {
  support::leaves_no_descriptor([] {
    coir::loop loop;
    child one(exits_with(0));
    child other(exits_with(0));
    auto kept = loop.child_exit(other.pid(), [] {});
    const auto cycle = [&] {
      auto end = loop.child_exit(one.pid(), [&loop] { loop.stop(); });
      auto beside = loop.child_exit(one.pid(), [] {}, reap::no);
    };
    for (int i = 0; i < 10; ++i) cycle();
    const long blocks = support::heap.blocks;
    const long bytes = support::heap.bytes;
    for (int i = 0; i < 10'000; ++i) cycle();
    CHECK(support::heap.blocks == blocks);
    CHECK(support::heap.bytes == bytes);
  });
}

TEST_CASE("a loop says which processes it is alive for") {
  coir::loop loop;
  child one(exits_with(0));
  const std::string number = std::to_string(one.pid());
  auto end = loop.child_exit(one.pid(), [] {});
  auto beside = loop.child_exit(one.pid(), [] {}, reap::no);
  CHECK(loop.census().children == 2);
  CHECK(loop.census().watchers == 0);
  CHECK(loop.why_alive() == std::vector<std::string>{"end of process " + number,
                                                     "end of process " + number + ", not to be reaped"});
  end.reset();
  beside.reset();
  CHECK(loop.why_alive().empty());
  CHECK_FALSE(loop.can_wake());
}

TEST_CASE("a forked child may end what it inherited, not use it, and the parent is told all the same") {
  for (const bool loop_first : {false, true}) {
    auto loop = std::make_unique<coir::loop>();
    child one(exits_with(8));
    int code = -1;
    auto end = loop->child_exit(one.pid(), [&](child_status status) { code = status.exit_code; });
    const auto forked = support::in_child([&] {
      try {
        end->send_signal(SIGKILL);
        say("sent");
      } catch (const std::logic_error&) {
      }
      if (loop_first) loop.reset();
      end.reset();
      loop.reset();
      coir::loop own;
      try {
        static_cast<void>(own.child_exit(one.pid(), [] {}));
        say("not refused");
      } catch (const std::system_error& error) {
        if (error.code() != std::errc::no_child_process) say(error.what());
      }
    });
    CHECK(forked.text.empty());
    CHECK(forked.exit_code == 0);
    one.go_on();
    loop->run();
    CHECK(code == 8);
    one.leave();
  }
}
