// Programs that are told to end, by real signals.
#include "support/both.hpp"
#include "support/catch.hpp"
#include "support/child_process.hpp"
#include "support/jumping.hpp"

#include <coir/coir.hpp>

#include <csignal>
#include <cstdio>
#include <future>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include <unistd.h>

using namespace std::chrono_literals;
using Catch::Matchers::Contains;
using support::jumping;
using support::now;

namespace {

bool blocked(int number) {
  sigset_t mask;
  REQUIRE(::pthread_sigmask(SIG_BLOCK, nullptr, &mask) == 0);
  return ::sigismember(&mask, number) == 1;
}

void raise_here(int number) { REQUIRE(::kill(::getpid(), number) == 0); }

// The signal comes from the running fiber itself, after so long.
void raise_after(coir::duration wait, int number) {
  coir::spawn([=] {
    coir::await(coir::sleep_for(wait));
    raise_here(number);
  });
}

// It listens, and needs so long to end.
coir::task<int> listens(coir::duration takes) {
  co_await coir::wait_shutting_down();
  co_await coir::sleep_for(takes);
  co_return 7;
}

}  // namespace

TEST_CASE("the first signal asks the body to end, which does so in its grace and gives its result") {
  for (const int number : {SIGINT, SIGTERM}) {
    jumping([&] {
      raise_after(1s, number);
      const coir::instant begin = now();
      CHECK(coir::await(coir::stop_on_signals(5s, listens(3s))) == 7);
      CHECK(now() - begin == 4s);
      raise_after(1s, number);
      CHECK(coir::stop_on_signals(5s, [] { return coir::await(listens(3s)); }) == 7);
      CHECK(now() - begin == 8s);
    });
  }
}

TEST_CASE("when the grace is over the body is cancelled") {
  jumping([] {
    raise_after(1s, SIGTERM);
    const coir::instant begin = now();
    CHECK_FALSE(coir::await(coir::stop_on_signals(5s, listens(1h))).has_value());
    CHECK(now() - begin == 6s);
    raise_after(1s, SIGTERM);
    CHECK_FALSE(coir::stop_on_signals(5s, [] { coir::await(coir::sleep_for(1h)); }));
    CHECK(now() - begin == 12s);
  });
}

TEST_CASE("the second signal cancels the body at once, be it the same number or another") {
  for (const int number : {SIGINT, SIGTERM}) {
    jumping([&] {
      raise_after(1s, SIGINT);
      raise_after(2s, number);
      const coir::instant begin = now();
      CHECK_FALSE(coir::await(coir::stop_on_signals(1h, listens(2h))).has_value());
      CHECK(now() - begin == 2s);
    });
  }
}

TEST_CASE("without a grace the first signal cancels") {
  jumping([] {
    raise_after(1s, SIGTERM);
    const coir::instant begin = now();
    CHECK_FALSE(coir::await(coir::stop_on_signals(0s, listens(1h))).has_value());
    CHECK(now() - begin == 1s);
  });
}

TEST_CASE("the third signal says where all fibers wait, and aborts") {
  const auto ended = support::in_child([] {
    const auto body = [] {
      coir::spawn(
          [] {
            coir::cancel_scope shield;
            shield.shield();
            shield.run([] { coir::await(coir::sleep_for(1h)); });
          },
          coir::spawn_options().name("stubborn"));
      for (const int number : {SIGTERM, SIGINT, SIGTERM}) {
        raise_here(number);
        try {
          coir::await(coir::sleep_for(10ms));
        } catch (const coir::cancelled&) {
        }
      }
      coir::cancel_scope shield;
      shield.shield();
      shield.run([] { coir::await(coir::sleep_for(1h)); });
    };
    coir::run([&] { return coir::stop_on_signals(1h, body); });
  });
  CHECK(ended.signal == SIGABRT);
  CHECK_THAT(ended.text, Contains("SIGTERM is the third signal") && Contains("stubborn") &&
                             Contains("signals_test.cpp"));
}

TEST_CASE("a program that waits for nothing but a signal is no deadlock") {
  jumping([] {
    // From outside of all fibers: of a thread that has the signals blocked as well.
    auto listening = std::make_shared<std::promise<void>>();
    sigset_t all;
    sigset_t before;
    ::sigfillset(&all);
    ::pthread_sigmask(SIG_SETMASK, &all, &before);
    std::thread outside([listening, whom = ::getpid()] {
      listening->get_future().wait();
      ::kill(whom, SIGTERM);
    });
    ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
    CHECK(coir::await(coir::stop_on_signals(5s, [&]() -> coir::task<> {
      listening->set_value();
      co_await coir::wait_shutting_down();
    })));
    outside.join();
  });
}

TEST_CASE("a body that ends by itself gives its result or its failure, and the signals are open again") {
  jumping([] {
    REQUIRE_FALSE(blocked(SIGTERM));
    CHECK(coir::stop_on_signals(5s, [] {
            CHECK(blocked(SIGINT));
            CHECK(blocked(SIGTERM));
            return 7;
          }) == 7);
    CHECK_FALSE(blocked(SIGINT));
    CHECK_FALSE(blocked(SIGTERM));
    CHECK_THROWS_AS(coir::stop_on_signals(5s, [] { throw std::runtime_error("failed"); }), std::runtime_error);
    CHECK_FALSE(blocked(SIGTERM));
  });
}

TEST_CASE("other numbers may be chosen") {
  jumping([] {
    raise_after(1s, SIGHUP);
    CHECK(coir::await(coir::stop_on_signals(5s, listens(1s), {SIGHUP, SIGUSR1})) == 7);
    CHECK_FALSE(blocked(SIGTERM));
  });
}

TEST_CASE("a thread that leaves the signals open is an error that says so, and the body does not begin") {
  std::promise<void> end;
  std::thread careless([&] { end.get_future().wait(); });
  coir::run([] {
    bool began = false;
    CHECK_THROWS_AS(coir::stop_on_signals(5s, [&] { began = true; }), std::logic_error);
    CHECK_FALSE(began);
  });
  end.set_value();
  careless.join();
}

TEST_CASE("a signal stops supervised children in reverse order, and a second one cuts their time short") {
  for (const bool twice : {false, true}) {
    jumping([&] {
      std::string ends;
      raise_after(1s, SIGTERM);
      if (twice) raise_after(2s, SIGTERM);
      const auto child = [&](const char* name, coir::duration takes) {
        return [&ends, name, takes] {
          try {
            coir::await(coir::wait_shutting_down());
            coir::await(coir::sleep_for(takes));
            ends += std::string(" -") + name;
          } catch (const coir::cancelled&) {
            ends += std::string(" ~") + name;
            throw;
          }
        };
      };
      const auto children = [&](coir::supervisor& s) {
        const auto patient = coir::child_options().shutdown(1h);
        s.add("a", child("a", 3s), patient);
        s.add("b", child("b", 3s), patient);
      };
      const coir::instant begin = now();
      CHECK(coir::await(coir::stop_on_signals(1min, coir::supervise(children))) == !twice);
      CHECK(ends == (twice ? " ~b ~a" : " -b -a"));
      CHECK(now() - begin == (twice ? 2s : 7s));
    });
  }
}

TEST_CASE("when a program ends its fibers are taken down on their own loop, from the inside out, then the loop ends") {
  const auto ended = support::in_child([] {
    // Says where it is when it is destroyed.
    class witness {
     public:
      explicit witness(const char* name) : name_(name) {}
      ~witness() {
        std::fprintf(stderr, "%s%s\n", name_, coir::loop::current() != nullptr ? "" : ", without a loop");
      }

     private:
      const char* name_;
    };
    int ends[2];
    if (::pipe(ends) != 0) throw std::runtime_error("pipe");
    coir::run([&] {
      const auto waits = [](const char* name, int fd) -> coir::task<> {
        witness mine(name);
        // In the kernel's hands, until it has given them back.
        if (fd >= 0) {
          co_await coir::wait_readable(fd);
        } else {
          co_await coir::sleep_for(1h);
        }
      };
      const bool done = coir::stop_on_signals(1ms, [&] {
        witness mine("the body");
        coir::spawn(waits("its first child", -1));
        coir::spawn(waits("its second child", ends[0]));
        coir::await(coir::yield());
        raise_here(SIGTERM);
        coir::await(coir::sleep_for(1h));
      });
      std::fprintf(stderr, "main: %s\n", done ? "done" : "cut short");
    });
    std::fprintf(stderr, "over\n");
  });
  CHECK(ended.exit_code == 0);
  CHECK(ended.text == "the body\nits first child\nits second child\nmain: cut short\nover\n");
}
