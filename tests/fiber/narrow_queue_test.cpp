// Far more fibers than the queues between a loop and the kernel hold.
#include "until.hpp"

#include "support/catch.hpp"
#include "support/loop_tools.hpp"

#include <coir/coir.hpp>

#include <sys/eventfd.h>

#include <array>
#include <cstddef>
#include <vector>

using coir::request;
using one_read = coir::request_op<coir::byte_count>;

namespace {

constexpr std::size_t counters = 50;

coir::run_options narrow() {
  return coir::run_options().loop(coir::loop_options().submission_entries(2).completion_entries(4));
}

// Fibers that each wait for one count from one of fifty eventfds.
struct crowd {
  crowd() {
    for (coir::unique_fd& each : sources) {
      each = coir::unique_fd(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC | EFD_SEMAPHORE));
      REQUIRE(each);
    }
  }
  void feed(std::uint64_t each) {
    for (const coir::unique_fd& source : sources) REQUIRE(::eventfd_write(source.get(), each) == 0);
  }
  std::array<coir::unique_fd, counters> sources;
  std::size_t served = 0;
};

coir::task<> wait_for_one(crowd& all, std::size_t number) {
  std::array<std::byte, 8> buffer;
  const std::size_t got = co_await one_read(
      *coir::loop::current(), request::read(all.sources[number % counters].get(), buffer));
  all.served += got == 8 ? 1 : 0;
}

void wait_for_one_on_a_stack(crowd& all, std::size_t number) {
  std::array<std::byte, 8> buffer;
  const std::size_t got = coir::await(one_read(
      *coir::loop::current(), request::read(all.sources[number % counters].get(), buffer)));
  all.served += got == 8 ? 1 : 0;
}

}  // namespace

TEST_CASE("ten thousand fibers wait on a submission queue of two entries, and all are served") {
  // The thread sanitizer takes each stack for a thread, and cannot count to ten thousand.
  constexpr std::size_t fibers = COIR_THREAD_SANITIZER ? 5'000 : 10'000;
  for (const bool stacks : {false, true}) {
    INFO((stacks ? "on stacks" : "coroutines"));
    support::leaves_no_descriptor([&] {
      coir::run(
          [&] {
            coir::loop& here = *coir::loop::current();
            crowd all;
            std::vector<coir::fiber<void>> waiting;
            for (std::size_t i = 0; i < fibers; ++i) {
              waiting.push_back(stacks ? coir::spawn([&all, i] { wait_for_one_on_a_stack(all, i); })
                                       : coir::spawn(wait_for_one(all, i)));
            }
            support::until([&] { return here.in_flight() == fibers; });
            all.feed(fibers / counters);
            for (auto& each : waiting) coir::await(each.join());
            CHECK(all.served == fibers);
            CHECK(here.in_flight() == 0);
            CHECK(here.stats().backend.stale_events == 0);
          },
          narrow());
    });
  }
}

TEST_CASE("of ten thousand fibers on two entries every second can be cancelled, and the others are served") {
  constexpr std::size_t fibers = 10'000;
  for (const bool in_flight : {false, true}) {
    coir::run(
        [&] {
          coir::loop& here = *coir::loop::current();
          crowd all;
          std::vector<coir::fiber<void>> waiting;
          for (std::size_t i = 0; i < fibers; ++i)
            waiting.push_back(coir::spawn(wait_for_one(all, i)));
          if (in_flight) support::until([&] { return here.in_flight() == fibers; });
          for (std::size_t i = 0; i < fibers; ++i) {
            if (i / counters % 2 == 0) waiting[i].cancel();
          }
          support::until([&] { return here.in_flight() == fibers / 2; });
          all.feed(fibers / 2 / counters);
          for (auto& each : waiting) coir::await(coir::end_op(each));
          CHECK(all.served == fibers / 2);
          CHECK(here.in_flight() == 0);
        },
        narrow());
  }
}
