// A stack that is too small: the guard page, and the handler that says whose it was.
#include "stacks.hpp"

#include "support/catch.hpp"
#include "support/child_process.hpp"
#include "support/forbid.hpp"

#include <coir/coir.hpp>

#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <memory>
#include <stdexcept>
#include <stop_token>
#include <string>
#include <thread>

using Catch::Matchers::Contains;
using support::dive;
using support::in_child;

namespace {

// Sanitizers have a handler of their own, and coir's is off.
constexpr bool reports = !support::sanitized;

coir::run_options reporting() { return coir::run_options().report_stack_overflow(); }

void say_stack_bytes() {
  std::fprintf(stderr, "bytes: %zu\n", coir::running_fiber().current_stack()->bytes());
}
// What say_stack_bytes() said, as the report must have it.
std::string all_of(const std::string& text) {
  const std::size_t at = text.find("bytes: ");
  if (at == std::string::npos) return "bytes were not said";
  return "all " + text.substr(at + 7, text.find('\n', at) - at - 7) + " bytes";
}

// More than any stack here has.
[[gnu::noinline]] void overflow() { dive(std::size_t{16} << 20); }

constexpr unsigned spawn_line = __LINE__ + 2;
void overflows_in_named_child() {
  auto child = coir::spawn([] { say_stack_bytes(); overflow(); }, coir::spawn_options().name("diver"));
  coir::await(child.join());
}

}  // namespace

TEST_CASE("a fiber that uses up its stack dies of SIGSEGV, on the guard page") {
  const auto ended = in_child([] { coir::run([] { overflow(); }); });
  CHECK(ended.signal == SIGSEGV);
  CHECK(ended.text.find("coir") == std::string::npos);
}

TEST_CASE("where the kernel knows no guard pages of its own, mprotect makes them") {
  const auto ended = in_child([] {
    support::forbid({SYS_madvise}, EINVAL);
    coir::run([] { overflows_in_named_child(); }, reporting());
  });
  CHECK(ended.signal == SIGSEGV);
  if (reports) CHECK_THAT(ended.text, Contains("stack overflow in fiber 2 diver"));
}

TEST_CASE("with the handler it is said which fiber it was, where it was spawned, and how large its stack is") {
  const auto ended = in_child([] { coir::run([] { overflows_in_named_child(); }, reporting()); });
  CHECK(ended.signal == SIGSEGV);
  if (!reports) return;
  CHECK_THAT(ended.text, Contains("stack overflow in fiber 2 diver"));
  CHECK_THAT(ended.text, Contains("overflow_test.cpp:" + std::to_string(spawn_line)));
  CHECK_THAT(ended.text, Contains(all_of(ended.text)));
  CHECK_THAT(ended.text, Contains("spawn_options::stack_bytes"));
}

TEST_CASE("the first fiber, a small stack, and a borrowed stack are reported the same way") {
  const auto first = in_child([] { coir::run([] { overflow(); }, reporting()); });
  CHECK(first.signal == SIGSEGV);
  const auto small = in_child([] {
    coir::run(
        [] {
          auto child = coir::spawn([] { dive(64'000); }, coir::spawn_options().name("small").stack_bytes(32'768));
          coir::await(child.join());
        },
        reporting());
  });
  CHECK(small.signal == SIGSEGV);
  const auto borrowed = in_child([] {
    coir::run(
        []() -> coir::task<> {
          co_await coir::on_stack([] {
            say_stack_bytes();
            overflow();
          });
        },
        reporting());
  });
  CHECK(borrowed.signal == SIGSEGV);
  if (!reports) return;
  CHECK_THAT(first.text, Contains("stack overflow in fiber 1 main"));
  CHECK_THAT(small.text, Contains("stack overflow in fiber 2 small"));
  CHECK_THAT(borrowed.text, Contains("stack overflow in fiber 1 main"));
  CHECK_THAT(borrowed.text, Contains(all_of(borrowed.text)));
}

TEST_CASE("with spawn_options::stack_bytes the same fiber has enough") {
  const auto ended = in_child([] {
    coir::run(
        [] {
          auto child = coir::spawn([] { overflow(); },
                                   coir::spawn_options().stack_bytes(std::size_t{64} << 20));
          coir::await(child.join());
        },
        reporting());
  });
  CHECK(ended.exit_code == 0);
  CHECK(ended.text.empty());
}

TEST_CASE("another fault in a fiber is not called a stack overflow") {
  const auto ended = in_child([] {
    coir::run(
        [] {
          void* const nothing = ::mmap(nullptr, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
          *static_cast<volatile char*>(nothing) = 1;
        },
        reporting());
  });
  CHECK(ended.signal == SIGSEGV);
  CHECK(ended.text.find("coir") == std::string::npos);
}

TEST_CASE("an overflow of the thread's own stack is not taken for a fiber's") {
  if (!reports) return;
  const auto ended = in_child([] {
    coir::run(
        []() -> coir::task<> {
          dive(std::size_t{256} << 20);
          co_return;
        },
        reporting());
  });
  CHECK(ended.signal == SIGSEGV);
  CHECK(ended.text.find("coir") == std::string::npos);
}

TEST_CASE("the handler that was there before gets the signal next") {
  if (!reports) return;
  const auto ended = in_child([] {
    struct sigaction theirs {};
    theirs.sa_handler = [](int) {
      static_cast<void>(!::write(STDERR_FILENO, "theirs\n", 7));
      ::_exit(42);
    };
    theirs.sa_flags = SA_ONSTACK;
    ::sigaction(SIGSEGV, &theirs, nullptr);
    coir::run([] { overflow(); }, reporting());
  });
  CHECK(ended.exit_code == 42);
  CHECK_THAT(ended.text, Contains("stack overflow in fiber 1 main"));
  CHECK_THAT(ended.text, Contains("theirs"));
  CHECK(ended.text.find("coir") < ended.text.find("theirs"));
}

TEST_CASE("after the run the handler that was there before is back, also when the run throws") {
  const auto current = [] {
    struct sigaction now {};
    ::sigaction(SIGSEGV, nullptr, &now);
    return now.sa_flags & SA_SIGINFO ? reinterpret_cast<void*>(now.sa_sigaction)
                                     : reinterpret_cast<void*>(now.sa_handler);
  };
  void* const before = current();
  coir::run(
      [&] {
        if (reports) CHECK(current() != before);
      },
      reporting());
  CHECK(current() == before);
  CHECK_THROWS_WITH(coir::run([] { throw std::runtime_error("out"); }, reporting()), "out");
  CHECK(current() == before);
  // Without the option nobody touches it.
  coir::run([&] { CHECK(current() == before); });
}

TEST_CASE("runs on two threads share the handler, and the last one puts the old one back") {
  if (!reports) return;
  const auto ended = in_child([] {
    std::thread other([] {
      coir::run([] {}, reporting());
      coir::run([] { coir::await(coir::sleep_for(std::chrono::milliseconds(1))); }, reporting());
    });
    coir::run(
        [&] {
          other.join();
          overflow();
        },
        reporting());
  });
  CHECK(ended.signal == SIGSEGV);
  CHECK_THAT(ended.text, Contains("stack overflow in fiber 1 main"));
}

TEST_CASE("a SIGSEGV that somebody sends is not swallowed") {
  const auto ended = in_child([] { coir::run([] { ::raise(SIGSEGV); }, reporting()); });
  CHECK(ended.signal == SIGSEGV);
}

TEST_CASE("a handler that the program installs during the run is left alone at its end") {
  if (!reports) return;
  const auto ended = in_child([] {
    coir::run([] { std::signal(SIGSEGV, [](int) { ::_exit(42); }); }, reporting());
    ::raise(SIGSEGV);
  });
  CHECK(ended.exit_code == 42);
}

TEST_CASE("a fiber that uses up its stack where it cannot wait is named all the same") {
  const auto in_callback = in_child([] {
    coir::run(
        [] {
          coir::cancel_scope scope;
          const std::stop_callback told(scope.stop_token(), [] { overflow(); });
          scope.cancel();
        },
        reporting());
  });
  const auto at_end = in_child([] {
    coir::run(
        [] {
          struct diving {
            ~diving() { overflow(); }
          };
          auto child = coir::spawn([last = std::make_unique<diving>()] { say_stack_bytes(); },
                                   coir::spawn_options().name("diver"));
          coir::await(child.join());
        },
        reporting());
  });
  CHECK(in_callback.signal == SIGSEGV);
  CHECK(at_end.signal == SIGSEGV);
  if (!reports) return;
  CHECK_THAT(in_callback.text, Contains("stack overflow in fiber 1 main"));
  CHECK_THAT(at_end.text, Contains("stack overflow in fiber 2 diver"));
}
