// Where io_uring is refused, where descriptors are few, and what COIR_BACKEND may say. What a
// process gets is decided once: each test decides in a child.
#include <coir/base/error.hpp>
#include <coir/loop/loop.hpp>

#include "loop/backend_uring.hpp"
#include "support/child_process.hpp"
#include "support/descriptor_limit.hpp"
#include "support/forbid.hpp"
#include "support/loop_tools.hpp"

#include <poll.h>
#include <sys/syscall.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

using Catch::Matchers::Contains;
using Catch::Matchers::StartsWith;
using coir::backend_kind;

namespace {

void choose(const char* backend) {
  if (backend == nullptr) {
    ::unsetenv("COIR_BACKEND");
  } else {
    ::setenv("COIR_BACKEND", backend, 1);
  }
}

const std::vector<long> all_of_uring{SYS_io_uring_setup, SYS_io_uring_enter, SYS_io_uring_register};

void say(const std::string& text) {
  std::fprintf(stderr, "%s\n", text.c_str());
}
void say_choice() {
  say(coir::backend_report().why);
  coir::loop loop;
  say(loop.describe());
}
// That a loop does its work, to be seen by whoever reads standard error.
void say_work(coir::loop& loop) {
  const support::fd_pair ends = support::socket_pair();
  std::array<std::byte, 16> buffer;
  support::asked get(coir::request::recv(ends[0].get(), buffer));
  support::asked put(coir::request::send(ends[1].get(), support::bytes_of("served")));
  loop.start(get.request);
  loop.start(put.request);
  while (loop.in_flight() != 0) loop.run_once(std::chrono::nanoseconds(-1));
  say(support::text_of(std::span(buffer).first(6)));
}
// Makes a loop that must not come to be; says the error.
void say_refusal(const coir::loop_options& options = {}) {
  const std::size_t before = support::open_descriptors();
  try {
    coir::loop loop(options);
    say("a loop was made");
  } catch (const std::system_error& error) {
    say(std::string(error.what()) + "; errno " + std::to_string(error.code().value()));
  }
  if (support::open_descriptors() != before) say("descriptors were left open");
}

// What it was that a loop could not be made for.
void say_starved(const std::system_error& error) {
  say(error.what());
  if (error.code() != std::errc::too_many_files_open) say("another error");
}
// The undefined behaviour sanitizer needs descriptors when it meets a class for the first time. Decides
// nothing.
void meet_classes(bool uring) {
  try {
    if (uring) coir::loop(coir::loop_options().backend(backend_kind::uring));
    coir::loop(coir::loop_options().backend(backend_kind::epoll));
    coir::throw_error(EMFILE, "met");
  } catch (const std::system_error& error) {
    say_starved(error);
  }
}

// True where this machine has no io_uring to be refused.
bool without_uring() {
  const auto made =
      support::in_child([] { coir::loop(coir::loop_options().backend(backend_kind::uring)); });
  if (made.exit_code == 0) return false;
  WARN("skipped: io_uring is not to be had here: " << made.text);
  return true;
}

}  // namespace

TEST_CASE("where nothing forbids it, the choice falls on io_uring, and says so") {
  if (without_uring()) return;
  for (const char* asked : {static_cast<const char*>(nullptr), "", "auto"}) {
    const auto child = support::in_child([&] {
      choose(asked);
      say_choice();
    });
    CHECK(child.exit_code == 0);
    CHECK_THAT(child.text, StartsWith("io_uring: the kernel has it\nio_uring,"));
  }
}

TEST_CASE("where io_uring is refused, whatever the errno, epoll does the work and says why") {
  for (const int error : {EPERM, ENOSYS, EACCES, EOPNOTSUPP, EINVAL, EIO}) {
    const auto child = support::in_child([&] {
      choose(nullptr);
      support::forbid(all_of_uring, error);
      say_choice();
      coir::loop loop;
      say_work(loop);
    });
    CHECK(child.exit_code == 0);
    CHECK_THAT(child.text, StartsWith("epoll: io_uring is refused: ") &&
                               Contains(std::strerror(error)) && Contains("\nepoll,") &&
                               Contains("\nserved\n"));
  }
}

TEST_CASE("a sandbox that refuses only one of io_uring's system calls refuses io_uring") {
  for (const long call : all_of_uring) {
    INFO("system call " << call);
    const auto child = support::in_child([&] {
      choose(nullptr);
      support::forbid({call}, EPERM);
      const std::size_t before = support::open_descriptors();
      static_cast<void>(coir::backend_report());
      if (support::open_descriptors() != before) say("descriptors were left open");
      say_choice();
      coir::loop loop;
      say_work(loop);
    });
    CHECK(child.exit_code == 0);
    CHECK_THAT(child.text, StartsWith("epoll: io_uring is refused: ") && Contains("\nserved\n"));
  }
}

TEST_CASE("io_uring that was asked for, by the program or the environment, is not replaced in silence") {
  for (const long call : all_of_uring) {
    for (const bool by_program : {false, true}) {
      const auto child = support::in_child([&] {
        choose(by_program ? nullptr : "uring");
        support::forbid({call}, EPERM);
        say_refusal(by_program ? coir::loop_options().backend(backend_kind::uring)
                               : coir::loop_options());
      });
      CHECK(child.exit_code == 0);
      CHECK_THAT(child.text,
                 Contains("io_uring was asked for and is refused") && !Contains("descriptors"));
      if (call != SYS_io_uring_register) {
        CHECK_THAT(child.text, Contains("Operation not permitted") && Contains("errno 1\n"));
      }
    }
  }
}

TEST_CASE("where epoll cannot wait for nanoseconds, it waits for milliseconds, and nothing fires early") {
  // ENOSYS is an old kernel's, EPERM that of a sandbox which does not know the call.
  for (const int error : {ENOSYS, EPERM}) {
    const auto child = support::in_child([&] {
      choose("epoll");
      support::forbid({SYS_epoll_pwait2}, error);
      coir::loop loop;
      say_work(loop);
      say(loop.describe());
      for (const auto limit : {std::chrono::microseconds(1), std::chrono::microseconds(1500)}) {
        const coir::instant began = loop.time();
        loop.run_for(limit);
        if (loop.time() - began < limit) say("early");
      }
    });
    CHECK(child.exit_code == 0);
    CHECK_THAT(child.text,
               StartsWith("served\nepoll, ") && Contains("milliseconds") && !Contains("early"));
  }
}

TEST_CASE("epoll can be asked for, by the program or the environment, and io_uring is not even tried") {
  for (const bool by_program : {false, true}) {
    const auto child = support::in_child([&] {
      choose(by_program ? "uring" : "epoll");
      coir::loop loop(by_program ? coir::loop_options().backend(backend_kind::epoll)
                                 : coir::loop_options());
      say(loop.describe());
      if (!by_program) say(coir::backend_report().why);
      say_work(loop);
    });
    CHECK(child.exit_code == 0);
    CHECK_THAT(child.text, StartsWith("epoll, ") && Contains("\nserved\n"));
    if (!by_program) CHECK_THAT(child.text, Contains("epoll: COIR_BACKEND asks for it"));
  }
}

TEST_CASE("a COIR_BACKEND that is none is an error that quotes it, until it is right") {
  for (const std::string wrong : {"io_uring", "EPOLL", "epoll ", "1", "a value\nof two lines"}) {
    const auto child = support::in_child([&] {
      choose(wrong.c_str());
      for (int i = 0; i < 2; ++i) {
        try {
          coir::loop loop;
          say("a loop was made");
        } catch (const std::invalid_argument& error) {
          say(error.what());
        }
      }
      // A program that chose for itself does not look there.
      coir::loop chosen(coir::loop_options().backend(backend_kind::epoll));
      choose("epoll");
      say_choice();
    });
    CHECK(child.exit_code == 0);
    const std::string refusal =
        "COIR_BACKEND is \"" + wrong + "\"; it can be auto, uring or epoll\n";
    CHECK_THAT(child.text, StartsWith(refusal + refusal + "epoll: COIR_BACKEND asks for it\n"));
  }
}

TEST_CASE("too little memory or too few descriptors is no refusal of io_uring") {
  if (without_uring()) return;
  for (const int error : {ENOMEM, EMFILE, ENFILE}) {
    const auto child = support::in_child([&] {
      choose(nullptr);
      coir::priv::uring_setup_error = error;
      say_refusal();
      coir::priv::uring_setup_error = 0;
      say_choice();
    });
    CHECK(child.exit_code == 0);
    CHECK_THAT(child.text, StartsWith("io_uring_setup for a loop, 8 entries: ") &&
                               Contains(std::strerror(error)) &&
                               Contains("\nio_uring: the kernel has it\n"));
  }
}

TEST_CASE("a process without free descriptors gets an error for a loop, leaves none open, and may try again") {
  const bool uring = !without_uring();
  for (const char* asked : {static_cast<const char*>(nullptr), "uring", "epoll"}) {
    if (asked != nullptr && std::string(asked) == "uring" && !uring) continue;
    INFO((asked == nullptr ? "auto" : asked));
    const auto child = support::in_child([&] {
      choose(asked);
      meet_classes(uring);
      // A listing of what is open needs a descriptor itself, so it is made outside of the limit.
      const std::size_t before = support::open_descriptors();
      for (unsigned spare = 0;; ++spare) {
        support::descriptor_limit few(spare);
        try {
          coir::loop loop;
          few.lift();
          say_work(loop);
          break;
        } catch (const std::system_error& error) {
          say_starved(error);
        }
        few.lift();
        if (support::open_descriptors() != before) say("descriptors were left open");
      }
    });
    CHECK(child.exit_code == 0);
    CHECK_THAT(child.text, StartsWith("met: Too many open files\n"
                                      "eventfd for the loop's inbox: Too many open files\n") &&
                               Contains("served") && !Contains("left open") &&
                               !Contains("another error"));
  }
}

TEST_CASE("a pollable descriptor that could not be made can be asked for again") {
  CHECK_THROWS_AS(coir::throw_error(EMFILE, "met"), std::system_error);  // see meet_classes()
  for (const backend_kind kind : {backend_kind::uring, backend_kind::epoll}) {
    if (kind == backend_kind::uring && without_uring()) continue;
    coir::loop loop(coir::loop_options().backend(kind));
    loop.run_once();
    bool posted = false;
    loop.post([&] { posted = true; });
    const std::size_t before = support::open_descriptors();
    // An epoll set and a timerfd; on io_uring also an eventfd.
    const std::size_t made_at_last = kind == backend_kind::uring ? 3 : 2;
    unsigned refused = 0;
    int shown = -1;
    for (unsigned spare = 0; shown < 0; ++spare) {
      std::exception_ptr why;
      {
        const support::descriptor_limit few(spare);
        try {
          shown = loop.pollable_fd();
        } catch (...) {
          why = std::current_exception();
        }
      }
      CHECK(support::open_descriptors() == before + (why ? 0 : made_at_last));
      if (!why) break;
      ++refused;
      try {
        std::rethrow_exception(why);
      } catch (const std::system_error& error) {
        CHECK(error.code() == std::errc::too_many_files_open);
      }
    }
    CHECK(refused > 1);
    pollfd one{shown, POLLIN, 0};
    CHECK(::poll(&one, 1, 0) == 1);
    loop.run_once();
    CHECK(posted);
    support::idle_turns(loop);
    CHECK(::poll(&one, 1, 0) == 0);
    std::thread other([&] { loop.post([&] { posted = false; }); });
    // EINTR without a signal: the kernel may have to finish a ring that was destroyed before.
    while (::poll(&one, 1, -1) < 0) REQUIRE(errno == EINTR);
    other.join();
    loop.run_once();
    CHECK_FALSE(posted);
  }
}
