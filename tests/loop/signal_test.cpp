#include "support/child_process.hpp"
#include "support/counted_heap.hpp"
#include "support/descriptor_limit.hpp"
#include "support/loop_tools.hpp"

#include <coir/loop/loop.hpp>

#include <poll.h>
#include <sys/time.h>
#include <sys/wait.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <memory>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <type_traits>
#include <vector>

using namespace std::chrono_literals;
using Catch::Matchers::Contains;
using coir::signal_event;

namespace {

bool blocked(int number) {
  sigset_t mask;
  REQUIRE(::pthread_sigmask(SIG_BLOCK, nullptr, &mask) == 0);
  return ::sigismember(&mask, number) == 1;
}

std::vector<int> all_blocked() {
  std::vector<int> numbers;
  for (int number = 1; number <= SIGRTMAX; ++number) {
    if (blocked(number)) numbers.push_back(number);
  }
  return numbers;
}

void set_blocked(int number, bool wanted) {
  sigset_t set;
  ::sigemptyset(&set);
  ::sigaddset(&set, number);
  REQUIRE(::pthread_sigmask(wanted ? SIG_BLOCK : SIG_UNBLOCK, &set, nullptr) == 0);
}

void raise_here(int number) { REQUIRE(::kill(::getpid(), number) == 0); }

void queue_here(int number, int value) {
  sigval with{};
  with.sival_int = value;
  REQUIRE(::sigqueue(::getpid(), number, with) == 0);
}

// Whoever a handler called: in case no loop has the number.
int handled = 0;

class own_handler {
 public:
  explicit own_handler(int number) : number_(number) {
    handled = 0;
    struct sigaction action {};
    action.sa_handler = [](int) { ++handled; };
    ::sigaction(number_, &action, &before_);
  }
  own_handler(const own_handler&) = delete;
  ~own_handler() { ::sigaction(number_, &before_, nullptr); }

 private:
  int number_;
  struct sigaction before_ {};
};

void say(const char* text) { std::fprintf(stderr, "%s\n", text); }

}  // namespace

// --- what is told ---

TEST_CASE("a signal is called back with its number and who sent it, and no handler is called") {
  const own_handler mine(SIGUSR1);
  coir::loop loop;
  std::vector<signal_event> heard;
  auto watch = loop.signal(SIGUSR1, [&](const signal_event& event) { heard.push_back(event); });
  raise_here(SIGUSR1);
  CHECK(heard.empty());
  support::run_until(loop, [&] { return !heard.empty(); });
  support::idle_turns(loop);
  REQUIRE(heard.size() == 1);
  CHECK(heard[0].number == SIGUSR1);
  CHECK(heard[0].count == 1);
  CHECK(heard[0].code == SI_USER);
  CHECK(heard[0].pid == ::getpid());
  CHECK(heard[0].uid == ::getuid());
  CHECK(handled == 0);
}

TEST_CASE("the callback of a signal takes the event by value, by reference, or not at all") {
  coir::loop loop;
  int calls = 0;
  auto by_value = loop.signal(SIGUSR1, [&](signal_event event) { calls += event.number == SIGUSR1 ? 1 : 0; });
  auto by_reference = loop.signal(SIGUSR1, [&](const signal_event& event) { calls += event.code == SI_USER; });
  auto without = loop.signal(SIGUSR1, [&] { ++calls; });
  raise_here(SIGUSR1);
  support::run_until(loop, [&] { return calls == 3; });
}

TEST_CASE("what is queued with a value tells the last one's, and real-time signals are counted exactly") {
  coir::loop loop;
  std::uint64_t count = 0;
  signal_event last;
  auto watch = loop.signal(SIGRTMIN + 3, [&](signal_event event) {
    count += event.count;
    last = event;
  });
  for (int i = 1; i <= 20; ++i) queue_here(SIGRTMIN + 3, i);
  support::run_until(loop, [&] { return count == 20; });
  CHECK(last.count == 20);
  CHECK(last.value == 20);
  CHECK(last.code == SI_QUEUE);
  support::idle_turns(loop);
  CHECK(count == 20);
}

TEST_CASE("ordinary signals that come before they are read are one") {
  coir::loop loop;
  std::vector<std::uint64_t> counts;
  auto watch = loop.signal(SIGUSR1, [&](signal_event event) { counts.push_back(event.count); });
  for (int i = 0; i < 10; ++i) raise_here(SIGUSR1);
  support::run_until(loop, [&] { return !counts.empty(); });
  support::idle_turns(loop);
  CHECK(counts == std::vector<std::uint64_t>{1});
}

TEST_CASE("a signal for this thread alone is heard as well") {
  coir::loop loop;
  std::vector<int> codes;
  auto watch = loop.signal(SIGUSR1, [&](signal_event event) { codes.push_back(event.code); });
  loop.run_once();
  REQUIRE(::pthread_kill(::pthread_self(), SIGUSR1) == 0);
  support::run_until(loop, [&] { return !codes.empty(); });
  CHECK(codes == std::vector<int>{SI_TKILL});
}

TEST_CASE("a signal whose disposition is to be ignored is heard all the same") {
  for (const auto disposition : {SIG_IGN, SIG_DFL}) {
    // SIGCHLD is ignored by default too.
    const auto before = std::signal(SIGCHLD, disposition);
    coir::loop loop;
    int calls = 0;
    auto watch = loop.signal(SIGCHLD, [&] { ++calls; });
    raise_here(SIGCHLD);
    support::run_until(loop, [&] { return calls == 1; });
    watch.reset();
    std::signal(SIGCHLD, before);
  }
}

TEST_CASE("a signal is heard that came before the run, between two runs, and in the middle of the wait") {
  coir::loop loop;
  int calls = 0;
  auto watch = loop.signal(SIGALRM, [&] {
    ++calls;
    loop.stop();
  });
  raise_here(SIGALRM);
  loop.run();
  CHECK(calls == 1);
  raise_here(SIGALRM);
  loop.run();
  CHECK(calls == 2);
  const itimerval soon{{0, 0}, {0, 20'000}};
  REQUIRE(::setitimer(ITIMER_REAL, &soon, nullptr) == 0);
  loop.run();
  CHECK(calls == 3);
}

TEST_CASE("signals come while requests are in flight, and wake the loop then too") {
  coir::loop loop;
  const support::fd_pair ends = support::socket_pair();
  std::array<std::byte, 8> buffer;
  support::asked get(coir::request::recv(ends[0].get(), buffer));
  REQUIRE(loop.start(get.request));
  int calls = 0;
  auto watch = loop.signal(SIGALRM, [&] { ++calls; });
  const itimerval soon{{0, 0}, {0, 20'000}};
  REQUIRE(::setitimer(ITIMER_REAL, &soon, nullptr) == 0);
  support::run_until(loop, [&] { return calls == 1; });
  REQUIRE(::pthread_kill(::pthread_self(), SIGALRM) == 0);
  support::run_until(loop, [&] { return calls == 2; });
  CHECK_FALSE(get.over());
  CHECK(support::give_up(loop, get) == -ECANCELED);
}

TEST_CASE("a signal makes the descriptor readable that a foreign loop polls") {
  coir::loop loop;
  pollfd shown{loop.pollable_fd(), POLLIN, 0};
  int calls = 0;
  auto watch = loop.signal(SIGUSR1, [&] { ++calls; });
  while (::poll(&shown, 1, 0) != 0) loop.run_once();
  raise_here(SIGUSR1);
  CHECK(::poll(&shown, 1, -1) == 1);
  loop.run_once();
  CHECK(calls == 1);
}

// --- order ---

TEST_CASE("signals are told by number, lowest first, and to the subscribers of one in the order of registering") {
  coir::loop loop;
  std::string order;
  const auto note = [&](const char* name) {
    return [&order, name](signal_event event) {
      order += name + std::to_string(event.number == SIGUSR1 ? 1 : event.number == SIGUSR2 ? 2 : 3) + ' ';
    };
  };
  auto first = loop.signal({SIGRTMIN, SIGUSR2, SIGUSR1}, note("a"));
  auto second = loop.signal(SIGUSR2, note("b"));
  auto third = loop.signal({SIGUSR2, SIGUSR1}, note("c"));
  raise_here(SIGRTMIN);
  raise_here(SIGUSR2);
  raise_here(SIGUSR1);
  support::run_until(loop, [&] { return order.size() >= 18; });
  CHECK(order == "a1 c1 a2 b2 c2 a3 ");
}

TEST_CASE("after a subscriber of the middle has ended, the others keep their order") {
  coir::loop loop;
  std::string order;
  auto first = loop.signal(SIGUSR1, [&] { order += 'a'; });
  auto second = loop.signal(SIGUSR1, [&] { order += 'b'; });
  auto third = loop.signal(SIGUSR1, [&] { order += 'c'; });
  raise_here(SIGUSR1);
  support::run_until(loop, [&] { return order.size() == 3; });
  second = loop.signal(SIGUSR1, [&] { order += 'd'; });
  raise_here(SIGUSR1);
  support::run_until(loop, [&] { return order.size() == 6; });
  CHECK(order == "abcacd");
}

TEST_CASE("a flood of signals is taken a bounded number a turn, and descriptors get theirs in between") {
  coir::loop loop;
  const support::fd_pair ends = support::pipe_pair();
  std::vector<std::uint64_t> counts;
  int reads = 0;
  auto in = loop.watch(ends[0].get(), coir::watch_options{.read = [&] { ++reads; }});
  auto watch = loop.signal(SIGRTMAX, [&](signal_event event) { counts.push_back(event.count); });
  REQUIRE(::write(ends[1].get(), "x", 1) == 1);
  for (int i = 0; i < 1000; ++i) queue_here(SIGRTMAX, i);
  for (int i = 0; i < 4; ++i) loop.run_once();
  CHECK(counts == std::vector<std::uint64_t>{256, 256, 256, 232});
  CHECK(reads == 4);
}

TEST_CASE("after a stop the bound of a turn holds too, and each number is one call a turn") {
  coir::loop loop;
  std::vector<std::uint64_t> counts;
  auto first = loop.signal(SIGRTMAX, [&] {
    if (counts.empty()) loop.stop();
  });
  auto second = loop.signal(SIGRTMAX, [&](signal_event event) { counts.push_back(event.count); });
  for (int i = 0; i < 1000; ++i) queue_here(SIGRTMAX, i);
  loop.run_once();
  CHECK(counts.empty());
  for (std::size_t turn = 1; turn <= 4; ++turn) {
    loop.run_once();
    CHECK(counts.size() == turn);
  }
  CHECK(counts == std::vector<std::uint64_t>{256, 256, 256, 232});
}

// --- what happens to subscribers in a delivery ---

TEST_CASE("a subscriber that another one ends in the same delivery hears nothing") {
  const own_handler others(SIGUSR2);
  coir::loop loop;
  std::string order;
  coir::owned<coir::signal_watch> second;
  coir::owned<coir::signal_watch> fourth;
  auto first = loop.signal(SIGUSR1, [&] {
    order += 'a';
    second.reset();
    fourth->cancel();
  });
  second = loop.signal(SIGUSR1, [&] { order += 'b'; });
  auto third = loop.signal(SIGUSR1, [&] { order += 'c'; });
  fourth = loop.signal({SIGUSR1, SIGUSR2}, [&] { order += 'd'; });
  raise_here(SIGUSR1);
  raise_here(SIGUSR2);
  support::idle_turns(loop);
  CHECK(order == "ac");
  CHECK_FALSE(fourth);
  // The number that was nobody's then.
  CHECK(handled == 1);
}

TEST_CASE("a subscriber that registers during a delivery hears later signals only, of any number") {
  coir::loop loop;
  std::string order;
  std::vector<coir::owned<coir::signal_watch>> more;
  auto first = loop.signal({SIGUSR1, SIGUSR2}, [&](signal_event event) {
    order += 'a';
    if (event.number != SIGUSR1) return;
    more.push_back(loop.signal({SIGUSR1, SIGUSR2}, [&] { order += 'b'; }));
  });
  auto second = loop.signal(SIGUSR2, [&] { order += 'c'; });
  raise_here(SIGUSR1);
  raise_here(SIGUSR2);
  support::run_until(loop, [&] { return order.size() == 3; });
  support::idle_turns(loop);
  CHECK(order == "aac");
  raise_here(SIGUSR2);
  support::run_until(loop, [&] { return order.size() == 6; });
  CHECK(order == "aacacb");
}

TEST_CASE("a subscriber may end itself in its callback, and what that has captured lives until it returns") {
  coir::loop loop;
  auto token = std::make_shared<int>(7);
  const std::weak_ptr<int> alive = token;
  coir::owned<coir::signal_watch> watch;
  int seen = 0;
  watch = loop.signal(SIGUSR1, [&, token = std::move(token)] {
    watch.reset();
    seen = *token;
  });
  raise_here(SIGUSR1);
  support::run_until(loop, [&] { return seen != 0; });
  CHECK(seen == 7);
  CHECK(alive.expired());
  CHECK_FALSE(blocked(SIGUSR1));
}

TEST_CASE("the last subscriber may end in a callback and another begin, which hears what comes then") {
  coir::loop loop;
  std::string order;
  coir::owned<coir::signal_watch> watch;
  watch = loop.signal(SIGUSR1, [&] {
    order += 'a';
    watch.reset();
    watch = loop.signal({SIGUSR1, SIGUSR2}, [&] { order += 'b'; });
  });
  raise_here(SIGUSR1);
  support::run_until(loop, [&] { return !order.empty(); });
  support::idle_turns(loop);
  CHECK(order == "a");
  raise_here(SIGUSR2);
  support::run_until(loop, [&] { return order.size() == 2; });
  CHECK(order == "ab");
}

TEST_CASE("what a callback throws leaves the run, and the others hear in the next one, once each") {
  coir::loop loop;
  std::string order;
  auto first = loop.signal(SIGUSR1, [&] { order += 'a'; });
  auto second = loop.signal(SIGUSR1, [&] {
    order += 'b';
    throw std::runtime_error("b");
  });
  auto third = loop.signal({SIGUSR1, SIGUSR2}, [&] { order += 'c'; });
  auto fourth = loop.signal(SIGUSR2, [&] {
    order += 'd';
    throw std::runtime_error("d");
  });
  auto fifth = loop.signal(SIGUSR2, [&] { order += 'e'; });
  raise_here(SIGUSR1);
  raise_here(SIGUSR2);
  CHECK_THROWS_WITH(loop.run(), "b");
  CHECK(order == "ab");
  CHECK_THROWS_WITH(loop.run_once(), "d");
  CHECK(order == "abccd");
  loop.run_once(-1ns);
  CHECK(order == "abccde");
  support::idle_turns(loop);
  CHECK(order == "abccde");
  raise_here(SIGUSR2);
  CHECK_THROWS_WITH(loop.run(), "d");
  loop.run_once(-1ns);
  CHECK(order == "abccdecde");
}

TEST_CASE("after a stop in a callback the other subscribers and numbers hear in the next run") {
  coir::loop loop;
  std::string order;
  auto first = loop.signal(SIGUSR1, [&] {
    order += 'a';
    loop.stop();
  });
  auto second = loop.signal({SIGUSR1, SIGUSR2}, [&] { order += 'b'; });
  auto third = loop.signal(SIGUSR2, [&] {
    order += 'c';
    loop.stop();
  });
  raise_here(SIGUSR1);
  raise_here(SIGUSR2);
  loop.run();
  CHECK(order == "a");
  loop.run();
  CHECK(order == "abbc");
  support::idle_turns(loop);
  CHECK(order == "abbc");
}

TEST_CASE("a stop asked for before the run still lets all signals through that are there") {
  coir::loop loop;
  std::string order;
  auto first = loop.signal({SIGUSR1, SIGUSR2}, [&] { order += 'a'; });
  auto second = loop.signal(SIGUSR1, [&] { order += 'b'; });
  raise_here(SIGUSR1);
  raise_here(SIGUSR2);
  loop.stop();
  loop.run();
  CHECK(order == "aba");
}

TEST_CASE("what was left over after an exception is for those who were there, and goes with them") {
  coir::loop loop;
  std::string order;
  auto first = loop.signal(SIGUSR1, [&] { throw std::runtime_error("first"); });
  auto second = loop.signal(SIGUSR1, [&] { order += 'b'; });
  raise_here(SIGUSR1);
  CHECK_THROWS_WITH(loop.run(), "first");
  SECTION("a new subscriber does not hear of it") {
    auto late = loop.signal(SIGUSR1, [&] { order += 'c'; });
    support::idle_turns(loop);
    CHECK(order == "b");
    first.reset();
    raise_here(SIGUSR1);
    support::run_until(loop, [&] { return order.size() == 3; });
    CHECK(order == "bbc");
  }
  SECTION("nobody does when all have ended meanwhile") {
    first.reset();
    second.reset();
    auto late = loop.signal(SIGUSR1, [&] { order += 'c'; });
    support::idle_turns(loop);
    CHECK(order.empty());
    raise_here(SIGUSR1);
    support::run_until(loop, [&] { return order == "c"; });
  }
  SECTION("the loop ends with it") {}
}

// --- the mask ---

TEST_CASE("registering blocks the number in this thread, and the end of its last subscriber opens it again") {
  coir::loop loop;
  loop.run_once();
  const std::vector<int> before = all_blocked();
  auto first = loop.signal({SIGUSR1, SIGUSR2}, [] {});
  auto second = loop.signal({SIGUSR2, SIGRTMIN}, [] {});
  CHECK(blocked(SIGUSR1));
  CHECK(blocked(SIGUSR2));
  CHECK(blocked(SIGRTMIN));
  first.reset();
  CHECK_FALSE(blocked(SIGUSR1));
  CHECK(blocked(SIGUSR2));
  second->cancel();
  CHECK(all_blocked() == before);
}

TEST_CASE("what the application had blocked before stays blocked") {
  set_blocked(SIGUSR2, true);
  {
    coir::loop loop;
    int calls = 0;
    auto watch = loop.signal({SIGUSR1, SIGUSR2}, [&] { ++calls; });
    raise_here(SIGUSR2);
    support::run_until(loop, [&] { return calls == 1; });
    watch.reset();
    CHECK_FALSE(blocked(SIGUSR1));
    CHECK(blocked(SIGUSR2));
    watch = loop.signal(SIGUSR2, [] {});
  }
  CHECK(blocked(SIGUSR2));
  set_blocked(SIGUSR2, false);
}

TEST_CASE("the end of a loop restores the mask, ends its registrations and destroys what they hold") {
  const std::vector<int> before = all_blocked();
  auto token = std::make_shared<int>(1);
  coir::owned<coir::signal_watch> watch;
  {
    coir::loop loop;
    watch = loop.signal(SIGUSR1, [token] {});
    watch->data = token;
    loop.signal(SIGUSR2, [token] {}).keep();
    loop.run_once();
    CHECK(token.use_count() == 4);
  }
  CHECK_FALSE(watch);
  CHECK(token.use_count() == 1);
  CHECK(all_blocked() == before);
  CHECK_THROWS_AS(watch->on(), std::logic_error);
}

TEST_CASE("what has come and was not read when its last subscriber ends takes its ordinary course") {
  const own_handler mine(SIGUSR1);
  coir::loop loop;
  int calls = 0;
  auto watch = loop.signal(SIGUSR1, [&] { ++calls; });
  raise_here(SIGUSR1);
  CHECK(handled == 0);
  watch.reset();
  CHECK(handled == 1);
  CHECK(calls == 0);
}

TEST_CASE("what was read and nobody has heard of when its last subscriber ends is pending again, as it was") {
  const std::vector<int> numbers{SIGUSR2, SIGRTMIN + 1};
  for (const int number : numbers) set_blocked(number, true);
  for (const bool threw : {false, true}) {
    coir::loop loop;
    coir::owned<coir::signal_watch> rest;
    auto first = loop.signal(SIGUSR1, [&] {
      if (threw) throw std::runtime_error("first");
      rest.reset();
    });
    int calls = 0;
    rest = loop.signal({SIGUSR2, SIGRTMIN + 1}, [&] { ++calls; });
    raise_here(SIGUSR1);
    raise_here(SIGUSR2);
    for (int i = 1; i <= 3; ++i) queue_here(SIGRTMIN + 1, i);
    if (threw) {
      CHECK_THROWS(loop.run());
      rest.reset();
    } else {
      support::run_until(loop, [&] { return !rest; });
    }
    sigset_t pending;
    REQUIRE(::sigpending(&pending) == 0);
    for (const int number : numbers) CHECK(::sigismember(&pending, number) == 1);

    // The next one hears it all, also where it is another loop's.
    coir::loop next;
    std::vector<signal_event> heard;
    auto late = next.signal({SIGUSR2, SIGRTMIN + 1}, [&](signal_event event) { heard.push_back(event); });
    support::run_until(next, [&] { return heard.size() == 2; });
    CHECK(heard[0].count == 1);
    CHECK(heard[0].code == SI_USER);
    CHECK(heard[0].pid == ::getpid());
    CHECK(heard[1].count == 3);
    CHECK(heard[1].code == SI_QUEUE);
    CHECK(heard[1].value == 3);
    support::idle_turns(loop);
    support::idle_turns(next);
    CHECK(heard.size() == 2);
    CHECK(calls == 0);
  }
  for (const int number : numbers) set_blocked(number, false);
}

TEST_CASE("what one subscriber has heard is over when the others end before they hear it") {
  set_blocked(SIGUSR1, true);
  coir::loop loop;
  coir::owned<coir::signal_watch> second;
  int calls = 0;
  coir::owned<coir::signal_watch> first;
  first = loop.signal(SIGUSR1, [&] {
    ++calls;
    second.reset();
    first.reset();
  });
  second = loop.signal(SIGUSR1, [&] { ++calls; });
  raise_here(SIGUSR1);
  support::run_until(loop, [&] { return calls == 1; });
  auto late = loop.signal(SIGUSR1, [&] { ++calls; });
  support::idle_turns(loop);
  CHECK(calls == 1);
  late.reset();
  set_blocked(SIGUSR1, false);
}

TEST_CASE("a loop that waits for no signal any more has nothing to wait for, and hears the next one as before") {
  coir::loop loop;
  auto watch = loop.signal({SIGUSR1, SIGUSR2}, [] {});
  watch.reset();
  CHECK_FALSE(loop.can_wake());
  loop.run();
  for (int i = 1; i <= 3; ++i) {
    int calls = 0;
    watch = loop.signal(SIGUSR1, [&] {
      ++calls;
      watch.reset();
    });
    CHECK(loop.can_wake());
    raise_here(SIGUSR1);
    loop.run();
    CHECK(calls == 1);
    CHECK_FALSE(blocked(SIGUSR1));
  }
}

TEST_CASE("SIGPIPE can be heard, and is the loop's before and afterwards") {
  REQUIRE_FALSE(blocked(SIGPIPE));
  {
    coir::loop loop;
    support::fd_pair ends = support::pipe_pair();
    ends[0].reset();
    int calls = 0;
    auto watch = loop.signal(SIGPIPE, [&] { ++calls; });
    CHECK(::write(ends[1].get(), "x", 1) == -1);
    CHECK(errno == EPIPE);
    support::run_until(loop, [&] { return calls == 1; });
    watch.reset();
    CHECK(blocked(SIGPIPE));
    CHECK(::write(ends[1].get(), "x", 1) == -1);
    loop.run_once();
    CHECK(calls == 1);
  }
  CHECK_FALSE(blocked(SIGPIPE));
}

// --- what is refused ---

TEST_CASE("what cannot be waited for, and what is no signal, is refused by name") {
  coir::loop loop;
  const auto refused = [&](int number, const char* text) {
    INFO(number);
    CHECK_THROWS_AS(loop.signal(number, [] {}), std::invalid_argument);
    CHECK_THROWS_WITH(loop.signal({SIGUSR1, number}, [] {}), Contains(text));
  };
  refused(SIGKILL, "SIGKILL");
  refused(SIGSTOP, "SIGSTOP");
  refused(SIGTRAP, "SIGTRAP");
  refused(SIGSEGV, "SIGSEGV");
  refused(SIGBUS, "SIGBUS");
  refused(SIGFPE, "SIGFPE");
  refused(SIGILL, "SIGILL");
  refused(SIGSYS, "SIGSYS");
  refused(0, "0 is no signal");
  refused(-1, "-1 is no signal");
  refused(SIGRTMAX + 1, "65 is no signal");
  refused(1000, "1000 is no signal");
  refused(32, "signal 32");
  refused(SIGRTMIN - 1, "C library");
  CHECK_FALSE(blocked(SIGUSR1));
  CHECK(loop.census().signals == 0);
  CHECK_FALSE(std::is_constructible_v<coir::signal_set, double>);
  CHECK_FALSE(std::is_constructible_v<coir::signal_set, const char*>);
}

TEST_CASE("a loop that hears every signal there is leaves SIGTRAP open, for debuggers") {
  coir::loop loop;
  int heard = 0;
  for (int number = 1; number <= SIGRTMAX; ++number) {
    try {
      loop.signal(number, [] {}).keep();
      ++heard;
    } catch (const std::invalid_argument&) {
    }
  }
  loop.run_once(0ns);
  CHECK(heard > 40);
  CHECK(blocked(SIGTERM));
  CHECK_FALSE(blocked(SIGTRAP));
}

TEST_CASE("no number at all, and no function to call, is a mistake that is said") {
  coir::loop loop;
  CHECK_THROWS_AS(loop.signal({}, [] {}), std::logic_error);
  CHECK_THROWS_AS(loop.signal(SIGUSR1, nullptr), std::logic_error);
  CHECK_FALSE(blocked(SIGUSR1));
}

TEST_CASE("a number belongs to one loop at a time, and another is refused until that lets it go") {
  coir::loop first;
  coir::loop second;
  auto mine = first.signal({SIGUSR1, SIGUSR2}, [] {});
  auto too = first.signal(SIGUSR2, [] {});
  try {
    // One that is free and lower is not kept.
    static_cast<void>(second.signal({SIGHUP, SIGUSR2}, [] {}));
    FAIL("it was not refused");
  } catch (const std::system_error& error) {
    CHECK(error.code() == std::errc::device_or_resource_busy);
    CHECK_THAT(error.what(), Contains("SIGUSR2") && Contains("loop " + std::to_string(first.number())) &&
                                 Contains("loop " + std::to_string(second.number())));
  }
  CHECK_FALSE(blocked(SIGHUP));
  CHECK(second.census().signals == 0);
  auto other = second.signal(SIGHUP, [] {});
  mine.reset();
  auto one = second.signal(SIGUSR1, [] {});
  CHECK_THROWS_AS(second.signal(SIGUSR2, [] {}), std::system_error);
  too.reset();
  int calls = 0;
  auto two = second.signal(SIGUSR2, [&] { ++calls; });
  raise_here(SIGUSR2);
  support::idle_turns(first);
  CHECK(calls == 0);
  support::run_until(second, [&] { return calls == 1; });
}

TEST_CASE("two loops of a thread have different numbers, and the end of one leaves the other's blocked") {
  auto first = std::make_unique<coir::loop>();
  coir::loop second;
  int calls = 0;
  auto mine = first->signal(SIGUSR1, [] {});
  auto other = second.signal(SIGUSR2, [&] { ++calls; });
  first.reset();
  CHECK_FALSE(blocked(SIGUSR1));
  CHECK(blocked(SIGUSR2));
  raise_here(SIGUSR2);
  support::run_until(second, [&] { return calls == 1; });
}

TEST_CASE("where the kernel gives no descriptor nothing is changed, and later it goes well") {
  coir::loop loop;
  // What the check of the threads opens has gone through, and what the loop keeps has not.
  for (unsigned spare = 0; spare < 2; ++spare) {
    const support::descriptor_limit none(spare);
    CHECK_THROWS_AS(loop.signal(SIGUSR1, [] {}), std::system_error);
  }
  CHECK_FALSE(blocked(SIGUSR1));
  CHECK(loop.census().signals == 0);
  int calls = 0;
  auto watch = loop.signal(SIGUSR1, [&] { ++calls; });
  raise_here(SIGUSR1);
  support::run_until(loop, [&] { return calls == 1; });
}

// --- what it costs, and what is left ---

TEST_CASE("signals of a loop are one descriptor from the first on, and none is left behind") {
  support::leaves_no_descriptor([] {
    coir::loop loop;
    auto first = loop.signal(SIGUSR1, [] {});
    const std::size_t with_one = support::open_descriptors();
    auto second = loop.signal({SIGUSR1, SIGUSR2, SIGHUP}, [] {});
    CHECK(support::open_descriptors() == with_one);
    first.reset();
    second.reset();
    CHECK(support::open_descriptors() == with_one);
    auto third = loop.signal(SIGUSR2, [] {});
    loop.run_once();
  });
}

TEST_CASE("ten thousand registrations leave neither memory nor descriptors nor a mask behind") {
  support::leaves_no_descriptor([] {
    coir::loop loop;
    loop.run_once();
    auto other = loop.signal(SIGHUP, [] {});
    const std::vector<int> before = all_blocked();
    const auto cycle = [&] {
      auto watch = loop.signal({SIGUSR1, SIGRTMIN + 1}, [&loop] { loop.stop(); });
      watch->cancel();
    };
    for (int i = 0; i < 10; ++i) cycle();
    const long blocks = support::heap.blocks;
    const long bytes = support::heap.bytes;
    for (int i = 0; i < 10'000; ++i) cycle();
    CHECK(support::heap.blocks == blocks);
    CHECK(support::heap.bytes == bytes);
    CHECK(all_blocked() == before);
    other.reset();
    for (int i = 0; i < 100; ++i) cycle();
  });
}

TEST_CASE("being told allocates nothing") {
  coir::loop loop;
  int calls = 0;
  auto first = loop.signal({SIGUSR1, SIGUSR2}, [&] { ++calls; });
  auto second = loop.signal(SIGUSR2, [&] { ++calls; });
  const auto round = [&] {
    calls = 0;
    raise_here(SIGUSR1);
    raise_here(SIGUSR2);
    support::run_until(loop, [&] { return calls == 3; });
  };
  round();
  const long before = support::heap.allocations;
  for (int i = 0; i < 100; ++i) round();
  CHECK(support::heap.allocations == before);
}

TEST_CASE("a loop says which signals it is alive for") {
  coir::loop loop;
  auto watch = loop.signal({SIGTERM, SIGINT, SIGRTMIN, SIGRTMIN + 2}, [] {});
  CHECK(loop.census().signals == 1);
  CHECK(loop.census().watchers == 0);
  CHECK(loop.can_wake());
  CHECK(loop.why_alive() == std::vector<std::string>{"signal SIGINT, SIGTERM, SIGRTMIN, SIGRTMIN+2"});
  watch.reset();
  CHECK(loop.census().signals == 0);
  CHECK_FALSE(loop.can_wake());
  CHECK(loop.why_alive().empty());
}

TEST_CASE("a kept registration lives as long as the loop") {
  coir::loop loop;
  int calls = 0;
  loop.signal(SIGUSR1, [&] {
    if (++calls == 2) loop.stop();
  }).keep();
  raise_here(SIGUSR1);
  support::run_until(loop, [&] { return calls == 1; });
  raise_here(SIGUSR1);
  loop.run();
  CHECK(calls == 2);
}

TEST_CASE("a subscriber in a place of his own is told, may detach himself then, and allocates nothing") {
  struct once : coir::signal_subscriber {
    explicit once(const coir::signal_set& numbers) : signal_subscriber(numbers, tell) {}
    static void tell(signal_subscriber& self, const signal_event& event) {
      self.detach();
      static_cast<once&>(self).heard = event;
    }
    signal_event heard;
  };
  coir::loop loop;
  auto other = loop.signal(SIGUSR1, [] {});
  once here({SIGUSR1, SIGUSR2});
  CHECK_FALSE(here.attached());
  here.attach(loop);
  CHECK(here.attached());
  CHECK_THROWS_AS(here.attach(loop), std::logic_error);
  raise_here(SIGUSR2);
  support::run_until(loop, [&] { return here.heard.number != 0; });
  CHECK(here.heard.number == SIGUSR2);
  CHECK_FALSE(here.attached());
  CHECK_FALSE(blocked(SIGUSR2));
  here.attach(loop);
  here.detach();
  here.detach();
  CHECK(loop.census().signals == 1);
}

TEST_CASE("a subscriber that is attached when the loop ends hears no more, and the number is free") {
  struct deaf : coir::signal_subscriber {
    deaf() : signal_subscriber(SIGUSR1, [](signal_subscriber&, const signal_event&) {}) {}
  };
  deaf here;
  {
    coir::loop loop;
    here.attach(loop);
    CHECK(blocked(SIGUSR1));
  }
  CHECK_FALSE(here.attached());
  CHECK_FALSE(blocked(SIGUSR1));
  here.detach();
  coir::loop next;
  here.attach(next);
  CHECK(here.attached());
}

// --- threads ---

TEST_CASE("a loop with signals belongs to the thread that registered them") {
  auto loop = std::make_unique<coir::loop>();
  auto watch = loop->signal(SIGUSR1, [] {});
  std::thread([&] {
    CHECK_FALSE(loop->is_own_thread());
    CHECK_THROWS_WITH(loop->run_once(), Contains("another thread"));
    CHECK_THROWS_WITH(loop->signal(SIGUSR1, [] {}), Contains("another thread"));
  }).join();
  loop->run_once();
}

// --- fork ---

TEST_CASE("a forked child has the numbers open, and a loop of its own may take them") {
  const own_handler mine(SIGUSR1);
  coir::loop loop;
  set_blocked(SIGUSR2, true);
  int calls = 0;
  auto watch = loop.signal({SIGUSR1, SIGUSR2}, [&] { ++calls; });
  const auto child = support::in_child([&] {
    if (blocked(SIGUSR1)) say("blocked");
    if (!blocked(SIGUSR2)) say("the application's was opened");
    ::kill(::getpid(), SIGUSR1);
    if (handled != 1) say("not handled");
    coir::loop own;
    int heard = 0;
    auto again = own.signal(SIGUSR1, [&] { ++heard; });
    ::kill(::getpid(), SIGUSR1);
    support::run_until(own, [&] { return heard == 1; });
    again.reset();
    if (blocked(SIGUSR1)) say("still blocked");
    say("heard");
  });
  CHECK(child.text == "heard\n");
  CHECK(child.exit_code == 0);
  CHECK(calls == 0);
  CHECK(handled == 0);
  raise_here(SIGUSR1);
  support::run_until(loop, [&] { return calls == 1; });
  watch.reset();
  set_blocked(SIGUSR2, false);
}

TEST_CASE("a child that ends what it inherited touches neither its parent's signals nor its own") {
  for (const bool loop_first : {false, true}) {
    auto loop = std::make_unique<coir::loop>();
    const support::fd_pair ends = support::pipe_pair();
    auto in = loop->watch(ends[0].get(), coir::watch_options{.read = [] {}});
    int calls = 0;
    auto watch = loop->signal(SIGUSR1, [&] { ++calls; });
    auto other = loop->signal({SIGUSR1, SIGUSR2}, [&] { ++calls; });
    const auto child = support::in_child([&] {
      coir::loop own;
      own.run_once();
      int heard = 0;
      auto mine = own.signal(SIGUSR1, [&] { ++heard; });
      try {
        static_cast<void>(loop->signal(SIGHUP, [] {}));
        say("not refused");
      } catch (const std::logic_error&) {
      }
      in->disable_read();
      if (loop_first) loop.reset();
      watch->cancel();
      other.reset();
      in.reset();
      loop.reset();
      // All of them are its own loop's.
      if (!blocked(SIGUSR1) || !blocked(SIGPIPE) || blocked(SIGUSR2)) say("another mask");
      ::kill(::getpid(), SIGUSR1);
      support::run_until(own, [&] { return heard == 1; });
    });
    CHECK(child.text.empty());
    CHECK(child.exit_code == 0);
    CHECK(blocked(SIGUSR1));
    raise_here(SIGUSR1);
    support::run_until(*loop, [&] { return calls == 2; });
  }
}

TEST_CASE("a fork in a callback: the child leaves the run with an error, and the parent's others are told") {
  coir::loop loop;
  std::string order;
  support::ended child;
  auto first = loop.signal(SIGUSR1, [&] {
    order += 'a';
    child = support::in_child([&] {
      if (blocked(SIGUSR1)) say("blocked");
      say("ran");
    });
  });
  auto second = loop.signal(SIGUSR1, [&] { order += 'b'; });
  raise_here(SIGUSR1);
  support::run_until(loop, [&] { return order.size() == 2; });
  CHECK(order == "ab");
  CHECK(child.text == "ran\n");
}

TEST_CASE("a program that a child executes has nothing blocked that the loop has") {
  coir::loop loop;
  auto watch = loop.signal({SIGTERM, SIGINT, SIGRTMIN}, [] {});
  loop.run_once();
  const auto child = support::in_child([] {
    ::dup2(STDERR_FILENO, STDOUT_FILENO);
    ::execl("/bin/grep", "grep", "SigBlk", "/proc/self/status", nullptr);
  });
  CHECK(child.text == "SigBlk:\t0000000000000000\n");
}

TEST_CASE("a child that is forked in a callback and comes back into the turn does none of its parent's work") {
  // All of it in a child, which keeps the one that comes back away from the test program.
  const auto outer = support::in_child([] {
    coir::loop loop;
    const pid_t parent = ::getpid();
    pid_t child = -1;
    const auto work = [&](const char* what) {
      if (::getpid() != parent) std::fprintf(stderr, "%s in the child\n", what);
    };
    auto first = loop.signal(SIGUSR1, [&] { child = ::fork(); });
    auto second = loop.signal(SIGUSR1, [&] { work("signal"); });
    auto other = loop.signal(SIGUSR2, [&] { work("other signal"); });
    auto due = loop.at(loop.time() - 1h, [&] { work("timer"); });
    loop.post([&] { work("post"); });
    ::kill(parent, SIGUSR1);
    ::kill(parent, SIGUSR2);
    try {
      loop.run_once(1s);
    } catch (const std::logic_error& error) {
      if (::getpid() == parent) throw;
      std::fprintf(stderr, "%s\n", error.what());
      ::_exit(0);
    }
    while (::waitpid(child, nullptr, 0) < 0) {
    }
  });
  CHECK(outer.exit_code == 0);
  CHECK_THAT(outer.text, Contains("child process") && !Contains("in the child"));
}
