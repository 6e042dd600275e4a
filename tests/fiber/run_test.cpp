// A program of fibers, and what it says when it cannot go on.
#include "counted.hpp"
#include "hand_op.hpp"
#include "until.hpp"

#include "support/catch.hpp"
#include "support/child_process.hpp"
#include "support/descriptors.hpp"

#include <coir/coir.hpp>
#include <coir/testing/mock_clock.hpp>

#include <unistd.h>

#include <array>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <cstdlib>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

using namespace std::chrono_literals;
using Catch::Matchers::Contains;
using coir::fiber_state;
using support::counted;
using support::hand;
using support::hand_op;

namespace {

coir::loop& loop_here() { return coir::running_fiber().home().on(); }

template <class Body>
std::string deadlock_of(Body&& body, const coir::run_options& options = {}) {
  try {
    coir::run(std::forward<Body>(body), options);
  } catch (const coir::deadlock& error) {
    return error.what();
  }
  return "there was no deadlock";
}
std::string at(unsigned line) { return "run_test.cpp:" + std::to_string(line); }
std::size_t count_of(const std::string& text, const std::string& part) {
  std::size_t count = 0;
  for (std::size_t i = text.find(part); i != std::string::npos; i = text.find(part, i + 1)) ++count;
  return count;
}

}  // namespace

// --- results ---

TEST_CASE("run gives what its body returns: values, what only moves, and nothing") {
  CHECK(coir::run([]() -> coir::task<int> { co_return 7; }()) == 7);
  CHECK(coir::run([] { return 8; }) == 8);
  CHECK(*coir::run([] { return std::make_unique<int>(9); }) == 9);
  CHECK(coir::run([]() -> coir::task<std::string> {
          co_await coir::yield();
          co_return std::string("text");
        }) == "text");
  coir::run([] {});
  CHECK(coir::run([] { return counted(3); }).value == 3);
  CHECK(counted::alive == 0);
}

TEST_CASE("run throws what its body throws, after its children have ended") {
  CHECK_THROWS_WITH(coir::run([]() -> coir::task<int> {
                      auto child = coir::spawn([held = counted(1)] { coir::await(coir::sleep_for(1h)); });
                      co_await coir::yield();
                      throw std::runtime_error("out of main");
                    }),
                    "out of main");
  CHECK(counted::alive == 0);
  CHECK_THROWS_WITH(coir::run([] {
                      coir::spawn([] { throw std::runtime_error("of a child"); });
                      coir::await(coir::sleep_for(1h));
                    }),
                    "of a child");
}

TEST_CASE("the first fiber is called main, and knows where run stands") {
  const unsigned line = __LINE__ + 1;
  coir::run([&] {
    CHECK(coir::running_fiber().name() == "main");
    CHECK(coir::running_fiber().id() == 1);
    CHECK(coir::running_fiber().parent() == nullptr);
    CHECK(coir::running_fiber().spawned_at().line() == line);
  });
}

TEST_CASE("run inside of a fiber is refused, with what to do instead") {
  coir::run([]() -> coir::task<> {
    std::string said;
    try {
      coir::run([] {});
    } catch (const std::logic_error& error) {
      said = error.what();
    }
    CHECK_THAT(said, Contains("await the task there, or spawn it"));
    co_await coir::yield();
  });
}

TEST_CASE("runs come one after the other, and at the same time on several threads; nothing is left of them") {
  static_cast<void>(coir::backend_report());
  const std::size_t descriptors = support::open_descriptors();
  for (int i = 0; i < 20; ++i) coir::run([] { coir::await(coir::sleep_for(1us)); });
  std::vector<std::thread> threads;
  std::vector<int> sums(4);
  for (std::size_t i = 0; i < 4; ++i) {
    threads.emplace_back([&sums, i] {
      sums[i] = coir::run([i] {
        int sum = 0;
        for (int round = 0; round < 100; ++round) {
          auto child = coir::spawn([i] {
            coir::await(coir::sleep_for(1us));
            return static_cast<int>(i);
          });
          sum += coir::await(child.join());
        }
        return sum;
      });
    });
  }
  for (std::thread& each : threads) each.join();
  CHECK(sums == std::vector<int>{0, 100, 200, 300});
  CHECK(support::open_descriptors() == descriptors);
}

TEST_CASE("run_options::on_failure hears of failures that nobody else takes") {
  std::vector<std::string> heard;
  coir::run(
      [] {
        auto child = coir::spawn([] { throw std::runtime_error("it broke"); },
                                 coir::spawn_options().name("reporting").report_failure());
        // Not joined, which would be taking it.
        support::until([&] { return child.state() == fiber_state::dead; });
      },
      coir::run_options().on_failure([&](const coir::fiber_base& who, std::exception_ptr) {
        heard.emplace_back(who.name());
      }));
  CHECK(heard == std::vector<std::string>{"reporting"});
}

// --- stop ---

TEST_CASE("stop() cancels main, and run throws operation_canceled") {
  bool unwound = false;
  try {
    coir::run([&] {
      auto child = coir::spawn([held = counted(1)] { coir::await(coir::sleep_for(1h)); });
      coir::await(coir::yield());
      loop_here().stop();
      try {
        coir::await(coir::sleep_for(1h));
      } catch (const coir::cancelled&) {
        unwound = true;
        throw;
      }
    });
    CHECK(false);
  } catch (const std::system_error& error) {
    CHECK(error.code() == std::errc::operation_canceled);
    CHECK_THAT(error.what(), Contains("main"));
  }
  CHECK(unwound);
  CHECK(counted::alive == 0);
}

TEST_CASE("main may take its time after stop(), and return a result all the same") {
  const int got = coir::run([] {
    loop_here().stop();
    for (int i = 0; i < 3; ++i) {
      try {
        coir::await(coir::sleep_for(1h));
      } catch (const coir::cancelled&) {
      }
    }
    return 5;
  });
  CHECK(got == 5);
}

TEST_CASE("stop() from another thread ends a run that waits for ever") {
  CHECK_THROWS_AS(coir::run([&] {
                    coir::loop& loop = loop_here();
                    const coir::loop::hold expected(loop);
                    // Joined while the loop is still there: stop() may touch it after it has had its effect.
                    const std::jthread other([&loop] { loop.stop(); });
                    coir::await(coir::sleep_until(coir::never));
                  }),
                  std::system_error);
}

// --- deadlock ---

TEST_CASE("a program in which nothing can wake anybody says who waits where for what") {
  unsigned line = 0;
  const unsigned spawn_line = __LINE__ + 2;
  const std::string said = deadlock_of([&] {
    auto child = coir::spawn([&] { coir::await(coir::sleep_until(coir::never)); },
                             coir::spawn_options().name("sleeper"));
    line = __LINE__ + 1;
    coir::await(child.join());
  });
  CHECK_THAT(said, Contains("deadlock: 2 fibers wait and nothing can wake them"));
  CHECK_THAT(said, Contains("fiber 1 main: waiting in join of fiber 2 sleeper at "));
  CHECK_THAT(said, Contains(at(line)));
  CHECK_THAT(said, Contains("fiber 2 sleeper: waiting in sleep for ever at "));
  CHECK_THAT(said, Contains(at(spawn_line)));
  CHECK(count_of(said, "\n") == 3);
}

TEST_CASE("fibers that join each other are a deadlock, whatever their bodies") {
  const std::string said = deadlock_of([]() -> coir::task<> {
    coir::fiber<void> one;
    coir::fiber<void> other;
    one = coir::spawn([&] { coir::await(other.join()); }, coir::spawn_options().name("one"));
    other = coir::spawn([](coir::fiber<void>& whom) -> coir::task<> { co_await whom.join(); }(one),
                        coir::spawn_options().name("other"));
    co_await coir::sleep_for(1us);
    co_await one.join();
  });
  CHECK_THAT(said, Contains("3 fibers wait"));
  CHECK_THAT(said, Contains("one: waiting in join of fiber 3 other"));
  CHECK_THAT(said, Contains("other: waiting in join of fiber 2 one"));
}

namespace {

coir::task<> waits_deep(int depth, std::vector<unsigned>& lines) {
  if (depth == 0) {
    lines.push_back(__LINE__ + 1);
    co_await coir::sleep_until(coir::never);
  } else if (depth == 2) {
    auto function = [&] {
      lines.push_back(__LINE__ + 1);
      coir::await(waits_deep(1, lines));
    };
    lines.push_back(__LINE__ + 1);
    co_await coir::on_stack(function);
  } else {
    lines.push_back(__LINE__ + 1);
    co_await waits_deep(depth - 1, lines);
  }
}

}  // namespace

TEST_CASE("the report follows the awaiting tasks outwards, through stacks that were borrowed") {
  std::vector<unsigned> lines;
  const std::string said = deadlock_of(waits_deep(4, lines));
  REQUIRE(lines.size() == 6);
  std::string expected;
  std::size_t last = 0;
  for (auto line = lines.rbegin(); line != lines.rend(); ++line) {
    const std::size_t found = said.find(at(*line), last);
    INFO(said << "line " << *line);
    REQUIRE(found != std::string::npos);
    last = found + 1;
  }
  CHECK(count_of(said, "awaited at") == 5);
}

TEST_CASE("a fiber that waits on a stack which it borrowed is reported with that line") {
  unsigned line = 0;
  unsigned outer = 0;
  const std::string said = deadlock_of([](unsigned& inner, unsigned& borrows) -> coir::task<> {
    auto function = [&] {
      inner = __LINE__ + 1;
      coir::await(coir::sleep_until(coir::never));
    };
    borrows = __LINE__ + 1;
    co_await coir::on_stack(function);
  }(line, outer));
  CHECK_THAT(said, Contains("in sleep for ever at "));
  CHECK(said.find(at(line)) < said.find("awaited at"));
  CHECK(said.find(at(outer)) > said.find("awaited at"));
}

TEST_CASE("the report says since when") {
  coir::testing::mock_clock clock;
  const std::string said = deadlock_of(
      [&] {
        auto child = coir::spawn([] { coir::await(coir::sleep_until(coir::never)); },
                                 coir::spawn_options().name("early"));
        coir::await(coir::sleep_for(90s));
        coir::await(child.join());
      },
      coir::run_options().loop(coir::loop_options().time(&clock)));
  CHECK_THAT(said, Contains("since 90.000 s"));
  CHECK_THAT(said, Contains("since 0.000 s"));
}

TEST_CASE("after a deadlock all fibers are cancelled and unwound before it is thrown") {
  static_cast<void>(coir::backend_report());
  const std::size_t descriptors = support::open_descriptors();
  int told = 0;
  const std::string said = deadlock_of([&] {
    const counted mine(1);
    for (int i = 0; i < 10; ++i) {
      coir::spawn([&told, held = counted(i)] {
        try {
          coir::await(coir::sleep_until(coir::never));
        } catch (const coir::cancelled&) {
          ++told;
          throw;
        }
      });
      coir::spawn([](int& count, counted) -> coir::task<> {
        try {
          co_await coir::sleep_until(coir::never);
        } catch (const coir::cancelled&) {
          ++count;
          throw;
        }
      }(told, counted(i)));
    }
    coir::await(coir::sleep_until(coir::never));
  });
  CHECK_THAT(said, Contains("21 fibers"));
  CHECK(told == 20);
  CHECK(counted::alive == 0);
  CHECK(support::open_descriptors() == descriptors);
}

TEST_CASE("a body that swallows its cancellation and returns does not hide the deadlock") {
  CHECK_THAT(deadlock_of([] {
               try {
                 coir::await(coir::sleep_until(coir::never));
               } catch (const coir::cancelled&) {
               }
             }),
             Contains("1 fibers wait"));
  // Nor does a failure on the way out.
  CHECK_THAT(deadlock_of([] {
               try {
                 coir::await(coir::sleep_until(coir::never));
               } catch (const coir::cancelled&) {
                 throw std::runtime_error("on the way out");
               }
             }),
             Contains("1 fibers wait"));
}

TEST_CASE("fibers that wait for somebody who never answers end the process, with the report") {
  const auto ended = support::in_child([] {
    hand hold(coir::abort_answer::later);
    coir::run([&] { coir::await(hand_op(hold)); });
  });
  CHECK(ended.signal == SIGABRT);
  CHECK_THAT(ended.text, Contains("after a deadlock these fibers do not end"));
  CHECK_THAT(ended.text, Contains("fiber 1 main: waiting in hand"));
}

TEST_CASE("a fiber of nobody's that nothing seems to wake behind main's end is named, and waited for") {
  const auto ended = support::in_child([] {
    int told[2];
    if (::pipe(told) < 0) std::abort();
    const int out = ::dup(STDERR_FILENO);
    ::dup2(told[1], STDERR_FILENO);
    std::thread other;
    bool heard = false;
    coir::run([&] {
      // By a thread that does not hold the loop, some time.
      auto late = std::make_shared<coir::event>();
      auto child = coir::spawn(
          [late, &heard] {
            coir::cancel_scope unheard;
            unheard.shield();
            unheard.run([&] { coir::await(late->wait()); });
            heard = true;
          },
          coir::spawn_options().name("shielded"));
      // One that hears of the end, right before the loop has nothing more to do.
      auto ends = coir::spawn([&other, late, from = told[0], out] {
        try {
          coir::await(coir::sleep_until(coir::never));
        } catch (const coir::cancelled&) {
          other = std::thread([&loop = *coir::loop::current(), late, from, out] {
            // Only what it says shows that the loop has asked what could wake it.
            std::string text;
            std::array<char, 256> part;
            while (text.find("shielded: waiting in event") == std::string::npos) {
              const ssize_t got = ::read(from, part.data(), part.size());
              if (got <= 0) break;
              text.append(part.data(), static_cast<std::size_t>(got));
            }
            ::dup2(out, STDERR_FILENO);
            if (::write(out, text.data(), text.size()) < 0) std::abort();
            loop.post([late] { late->set(); });
          });
          throw;
        }
      });
      coir::await(coir::yield());
      child.detach();
      ends.detach();
    });
    other.join();
    if (!heard) throw std::runtime_error("it was not waited for");
  });
  INFO(ended.text);
  CHECK(ended.exit_code == 0);
  CHECK_THAT(ended.text, Contains("a loop ends and waits for these fibers"));
  CHECK_THAT(ended.text, Contains("shielded: waiting in event"));
}

TEST_CASE("what can still wake somebody is no deadlock: a timer, a request, a hold, a post") {
  coir::run([] { coir::await(coir::sleep_for(1ms)); });
  coir::run([] {
    coir::net::tcp_listener listener(coir::net::address("127.0.0.1", 0));
    const coir::net::address where = listener.local_address();
    std::thread client([where] {
      coir::run([&] { static_cast<void>(coir::await(coir::net::tcp_stream::connect(where))); });
    });
    CHECK(static_cast<bool>(coir::await(listener.accept())));
    client.join();
  });
  coir::run([] {
    hand hold;
    coir::loop& loop = loop_here();
    std::optional<coir::loop::hold> expected(loop);
    std::thread other([&] { loop.post([&] { hold.complete(3); }); });
    CHECK(coir::await(hand_op(hold)) == 3);
    other.join();
  });
  coir::run([] {
    hand hold;
    loop_here().post([&] { hold.complete(4); });
    CHECK(coir::await(hand_op(hold)) == 4);
  });
}

TEST_CASE("a deadlock of some is none while others can go on, and is reported when those are done") {
  const std::string said = deadlock_of([] {
    auto stuck = coir::spawn([] { coir::await(coir::sleep_until(coir::never)); },
                             coir::spawn_options().name("stuck"));
    for (int i = 0; i < 10; ++i) coir::await(coir::sleep_for(10us));
    CHECK(stuck.state() == fiber_state::waiting);
    coir::await(stuck.join());
  });
  CHECK_THAT(said, Contains("stuck"));
  // Its parent ends: it is cancelled, and nobody hears of it.
  coir::run([] {
    coir::spawn([] { coir::await(coir::sleep_until(coir::never)); });
    coir::await(coir::sleep_for(10us));
  });
}

// --- fork ---

TEST_CASE("a process forked by a fiber cannot go on with the parent's fibers, and the parent can") {
  const pid_t parent = ::getpid();
  int told[2];
  REQUIRE(::pipe(told) == 0);
  int status = -1;
  try {
    coir::run([&] {
      auto other = coir::spawn([held = counted(1)] { coir::await(coir::sleep_for(1ms)); });
      auto third = coir::spawn([](counted) -> coir::task<> {
        co_await coir::sleep_for(1ms);
      }(counted(2)));
      coir::await(coir::yield());
      const pid_t child = ::fork();
      if (child == 0) ::alarm(20);
      coir::await(coir::sleep_for(1ms));
      coir::await(other.join());
      coir::await(third.join());
      if (::getpid() != parent) ::_exit(99);
      while (::waitpid(child, &status, 0) < 0) {
      }
    });
  } catch (const std::logic_error& error) {
    // Never back into the runner of these tests.
    if (::getpid() == parent) throw;
    static_cast<void>(!::write(told[1], error.what(), std::string(error.what()).size()));
    ::_exit(3);
  } catch (...) {
    if (::getpid() == parent) throw;
    ::_exit(98);
  }
  CHECK(counted::alive == 0);
  ::close(told[1]);
  std::string said(1000, '\0');
  const ssize_t got = ::read(told[0], said.data(), said.size());
  ::close(told[0]);
  REQUIRE(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == 3);
  REQUIRE(got > 0);
  CHECK_THAT(said, Contains("child process"));
}

TEST_CASE("a process forked by a fiber may run fibers of its own, and leave") {
  coir::run([] {
    const auto ended = support::in_child([] {
      std::string said;
      const auto body = [&said](const char* text) -> coir::task<> {
        co_await coir::sleep_for(1ms);
        said += text;
      };
      const coir::fiber_base* const forked = coir::current_fiber;
      {
        coir::loop loop;
        coir::scheduler fibers(loop);
        coir::event rung;
        const auto waits = [&]() -> coir::task<> {
          co_await rung.wait();
          co_await body("a");
        };
        fibers.spawn(waits);
        // By a callback of the loop, which belongs to no fiber.
        const auto rings = loop.after(1ms, [&](coir::timer&) { rung.set(); });
        loop.run();
        fibers.spawn([&] { coir::await(body("b")); });
        loop.run();
        auto left = fibers.spawn([&] { coir::await(coir::sleep_until(coir::never)); });
        loop.run_once();
      }
      coir::run([&]() -> coir::task<> {
        co_await body("c");
        co_await coir::on_stack([&] { coir::await(body("d")); });
      });
      if (said != "abcd") throw std::runtime_error("the fibers of a forked process have said " + said);
      if (coir::current_fiber != forked) throw std::runtime_error("they have taken the place of the one that forked");
    });
    INFO(ended.text);
    CHECK(ended.exit_code == 0);
  });
}

TEST_CASE("a process forked outside of fibers runs fibers of its own, and leaves the parent's alone") {
  coir::loop loop;
  coir::scheduler fibers(loop);
  auto waiting = fibers.spawn([] { coir::await(coir::sleep_for(1h)); });
  loop.run_once();
  const auto ended = support::in_child([&] {
    const int got = coir::run([]() -> coir::task<int> {
      auto child = coir::spawn([] {
        coir::await(coir::sleep_for(1ms));
        return 4;
      });
      co_return co_await child.join();
    });
    if (got != 4) throw std::runtime_error("the child's own fibers do not run");
    try {
      loop.run_once();
    } catch (const std::logic_error&) {
      return;
    }
    throw std::runtime_error("the parent's loop was run in the child");
  });
  INFO(ended.text);
  CHECK(ended.exit_code == 0);
  CHECK(waiting.state() == fiber_state::waiting);
  waiting.cancel();
  loop.run_once();
  CHECK(waiting.state() == fiber_state::dead);
}

TEST_CASE("what a post throws leaves run, after the main fiber was cancelled and has ended") {
  bool ended = false;
  CHECK_THROWS_AS(coir::run([&] {
                    struct at_end {
                      bool& flag;
                      ~at_end() { flag = true; }
                    } const mark{ended};
                    coir::loop::current()->post([] { throw std::domain_error("from a post"); });
                    coir::await(coir::sleep_for(1h));
                  }),
                  std::domain_error);
  CHECK(ended);
}

namespace {

// What run threw, as a text.
template <class Body>
std::string thrown_by_run(Body&& body) {
  try {
    coir::run(std::forward<Body>(body));
  } catch (const std::exception& error) {
    return error.what();
  }
  return "nothing was thrown";
}
// In the child, where Catch is not: what is wrong ends it with a text.
void expect(bool holds, const char* what) {
  if (!holds) throw std::logic_error(what);
}

}  // namespace

TEST_CASE("a watcher that throws in each turn, and belongs to main, does not keep run from its end") {
  const auto ended = support::in_child([] {
    int ends[2];
    expect(::pipe(ends) == 0 && ::write(ends[1], "x", 1) == 1, "a pipe");
    int calls = 0;
    const std::string said = thrown_by_run([&] {
      const counted local(1);
      const auto always = loop_here().watch(ends[0], coir::watch_options{.read = [&](coir::watcher&) {
        throw std::domain_error("call " + std::to_string(++calls));
      }});
      auto child = coir::spawn([held = counted(2)] { coir::await(coir::sleep_for(1h)); });
      // Its end takes more than one turn: what is thrown meanwhile reaches nobody.
      try {
        coir::await(coir::sleep_for(1h));
      } catch (const coir::cancelled&) {
        coir::cancel_scope scope;
        scope.shield();
        scope.run([] {
          for (int i = 0; i < 3; ++i) coir::await(coir::yield());
        });
        throw;
      }
    });
    expect(said == "call 1", "not the first that was thrown left run");
    expect(counted::alive == 0, "not all was destroyed");
    expect(calls >= 2, "the watcher did not throw again");
  });
  INFO(ended.text);
  CHECK(ended.exit_code == 0);
  CHECK_THAT(ended.text, Contains("threw while the loop's fibers came to their end: call 2\n"));
}

TEST_CASE("of posts that throw the first leaves run, the second is told when all ends, and the others are counted") {
  for (const int posts : {2, 5}) {
    const auto ended = support::in_child([posts] {
      bool destroyed = false;
      const std::string said = thrown_by_run([&] {
        struct at_end {
          bool& flag;
          ~at_end() { flag = true; }
        } const mark{destroyed};
        int ran = 0;
        for (int i = 1; i <= posts; ++i) {
          loop_here().post([&ran, i] {
            ++ran;
            throw std::domain_error("number " + std::to_string(i));
          });
        }
        // Main lives until all have been run.
        coir::with_cleanup([] { coir::await(coir::sleep_for(1h)); },
                           [&] {
                             while (ran < posts) coir::await(coir::yield());
                           });
      });
      expect(said == "number 1", "not the first that was thrown left run");
      expect(destroyed, "main did not end");
    });
    INFO(ended.text);
    CHECK(ended.exit_code == 0);
    CHECK_THAT(ended.text, Contains("number 2\n"));
    CHECK((posts == 5) == (ended.text.find("3 more times") != std::string::npos));
    CHECK(count_of(ended.text, "\n") == (posts == 2 ? 1 : 2));
  }
}

TEST_CASE("a timer that throws each time does not keep a scheduler from its end, and the loop goes on") {
  const auto ended = support::in_child([] {
    coir::loop loop;
    int fired = 0;
    coir::owned<coir::timer> always;
    {
      coir::scheduler fibers(loop);
      fibers.spawn([&] {
        always = loop.every(1us, [&](coir::timer&) { throw std::domain_error("tick " + std::to_string(++fired)); });
        coir::cancel_scope scope;
        scope.shield();
        // Cancelled meanwhile, it wants the timer to have thrown three times.
        scope.run([&] {
          while (fired < 3) coir::await(coir::yield());
        });
      });
      loop.run_once();
    }
    expect(fired >= 3, "the fiber was not waited for");
    always.reset();
    bool posted = false;
    loop.post([&] { posted = true; });
    loop.run_once();
    expect(posted, "the loop does not go on");
  });
  INFO(ended.text);
  CHECK(ended.exit_code == 0);
}

TEST_CASE("a loop that is broken while its fibers end ends the program, which says why") {
  const auto ended = support::in_child([] {
    coir::loop loop(coir::loop_options().backend(coir::backend_kind::epoll));
    coir::scheduler fibers(loop);
    fibers.spawn([&] {
      coir::cancel_scope scope;
      scope.shield();
      scope.run([] { coir::await(coir::sleep_for(1h)); });
    });
    loop.run_once();
    // What the kernel gave the loop.
    ::close_range(3, ~0U, 0);
  });
  CHECK(ended.signal == SIGABRT);
  CHECK_THAT(ended.text, Contains("Bad file descriptor"));
}

TEST_CASE("a scheduler that ends inside its own loop ends the program, as what nothing can come of") {
  const auto ended = support::in_child([] {
    coir::loop loop;
    auto fibers = std::make_unique<coir::scheduler>(loop);
    fibers->spawn([] { coir::await(coir::sleep_until(coir::never)); });
    loop.run_once();
    loop.post([&] { fibers.reset(); });
    loop.run_once();
  });
  CHECK(ended.signal == SIGABRT);
  CHECK_THAT(ended.text, Contains("from inside itself"));
}

TEST_CASE("a failure is told to nobody without harm where standard error is closed") {
  const auto ended = support::in_child([] {
    ::close(STDERR_FILENO);
    coir::run([] {
      auto child = coir::spawn([] { throw std::runtime_error("nobody hears"); }, coir::report_failure);
      coir::await(coir::yield());
      coir::await(coir::yield());
    });
  });
  CHECK(ended.exit_code == 0);
}

TEST_CASE("stop() is no deadlock, however little is left that could wake main") {
  for (const bool by_timer : {true, false}) {
    const int got = coir::run([&] {
      coir::owned<coir::timer> stops;
      coir::fiber<void> child;
      if (by_timer) {
        stops = coir::loop::current()->after(1ms, [] { coir::loop::current()->stop(); });
      } else {
        child = coir::spawn([] { coir::loop::current()->stop(); });
      }
      bool cancelled = false;
      try {
        coir::await(coir::sleep_until(coir::never));
      } catch (const coir::cancelled&) {
        cancelled = true;
      }
      CHECK(cancelled);
      return 5;
    });
    CHECK(got == 5);
  }
}
