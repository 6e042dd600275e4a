// Readiness of descriptors that coir did not make.
#include "fiber/gate.hpp"
#include "fiber/until.hpp"
#include "support/both.hpp"
#include "support/loop_tools.hpp"

#include <coir/coir.hpp>

#include <sys/mman.h>

#include <chrono>
#include <string>
#include <system_error>

using namespace std::chrono_literals;

TEST_CASE("wait_readable ends when there is something to read, and takes nothing") {
  support::on_both_surfaces([](auto wait) {
    const support::fd_pair ends = support::socket_pair();
    bool ready = false;
    auto waits = coir::spawn([&] {
      wait(coir::wait_readable(ends[0].get()));
      ready = true;
    });
    support::until([&] { return support::waiting(waits); });
    CHECK_FALSE(ready);
    REQUIRE(::write(ends[1].get(), "x", 1) == 1);
    coir::await(waits.join());
    CHECK(support::drain(ends[0].get()) == 1);
  });
}

TEST_CASE("wait_writable ends at once where there is room, and waits where there is none") {
  support::on_both_surfaces([](auto wait) {
    const support::fd_pair ends = support::socket_pair();
    wait(coir::wait_writable(ends[0].get()));
    support::fill(ends[0].get());
    auto waits = coir::spawn([&] { wait(coir::wait_writable(ends[0].get())); });
    support::until([&] { return support::waiting(waits); });
    support::drain(ends[1].get());
    coir::await(waits.join());
  });
}

TEST_CASE("a hang-up counts as ready in both directions, and so does what is always ready") {
  support::on_both_surfaces([](auto wait) {
    support::fd_pair ends = support::socket_pair();
    ends[1].reset();
    wait(coir::wait_readable(ends[0].get()));
    wait(coir::wait_writable(ends[0].get()));
    const coir::unique_fd file(::memfd_create("readiness_test", MFD_CLOEXEC));
    wait(coir::wait_readable(file.get()));
    wait(coir::wait_writable(file.get()));
  });
}

TEST_CASE("what is no descriptor is an error that names it") {
  support::on_both_surfaces([](auto wait) {
    try {
      wait(coir::wait_readable(-1));
      FAIL("waited");
    } catch (const std::system_error& error) {
      CHECK(error.code() == std::errc::bad_file_descriptor);
      CHECK_THAT(error.what(), Catch::Matchers::Contains("descriptor -1"));
    }
  });
}

TEST_CASE("a wait that is cancelled leaves the descriptor to the others") {
  support::on_both_surfaces([](auto wait) {
    const support::fd_pair ends = support::socket_pair();
    const auto waiter = [&] { wait(coir::wait_readable(ends[0].get())); };
    auto first = coir::spawn(waiter);
    auto second = coir::spawn(waiter);
    support::until([&] { return support::waiting(first) && support::waiting(second); });
    first.cancel();
    coir::await(coir::end_op(first));
    CHECK(support::waiting(second));
    REQUIRE(::write(ends[1].get(), "x", 1) == 1);
    coir::await(second.join());
  });
}

TEST_CASE("a watcher and fibers that wait live side by side on one descriptor") {
  coir::run([] {
    coir::loop& loop = *coir::loop::current();
    const support::fd_pair ends = support::socket_pair();
    int calls = 0;
    auto watcher = loop.watch(ends[0].get(), coir::watch_options{.read = [&](coir::watcher& w) {
                                ++calls;
                                w.disable_read();
                              }});
    auto waits = coir::spawn([&] { coir::await(coir::wait_readable(ends[0].get())); });
    support::until([&] { return support::waiting(waits); });
    CHECK(calls == 0);
    REQUIRE(::write(ends[1].get(), "x", 1) == 1);
    coir::await(waits.join());
    support::until([&] { return calls == 1; });
    CHECK(support::drain(ends[0].get()) == 1);
    watcher->enable_read();
    REQUIRE(::write(ends[1].get(), "x", 1) == 1);
    support::until([&] { return calls == 2; });
  });
}
