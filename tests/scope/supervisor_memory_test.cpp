// Restarts cost nothing that stays.
#include "support/catch.hpp"
#include "support/counted_heap.hpp"
#include "support/jumping.hpp"

#include <coir/coir.hpp>

#include <cstdlib>
#include <stdexcept>

using namespace std::chrono_literals;
using coir::child_options;
using coir::supervisor;
using coir::supervisor_options;

namespace {

// A million under tools/test --long.
int restarts() { return std::getenv("COIR_TEST_LONG") != nullptr ? 1'000'000 : 20'000; }

struct seen {
  long blocks;
  long bytes;
};

// What lives on the heap when a child of this kind has been started for the thousandth and for the last time.
template <class Child>
void check_constant(const supervisor_options& options, const child_options& how, Child&& child) {
  support::jumping([&] {
    const int all = restarts();
    seen early{};
    seen late{};
    int starts = 0;
    coir::await(coir::supervise(options, [&](supervisor& s) {
      s.on_event([&](const coir::child_event& e) {
        if (e.ended()) return;
        ++starts;
        if (starts == 1000) early = {support::heap.blocks, support::heap.bytes};
        if (starts == all) {
          late = {support::heap.blocks, support::heap.bytes};
          s.stop();
        }
      });
      s.add("a child whose name is too long for the small string", child, how);
    }));
    CHECK(starts == all);
    // The window of the intensity is kept in chunks.
    CHECK(late.blocks - early.blocks <= 2);
    CHECK(late.bytes - early.bytes <= 2048);
    const coir::scheduler_stats stats = coir::running_fiber().home().stats();
    CHECK(stats.spawned - stats.ended == 1);
  });
}

const auto in_a_window = supervisor_options().intensity(100, 50ms);

}  // namespace

TEST_CASE("any number of restarts of a task that fails takes constant memory") {
  check_constant(in_a_window, {}, []() -> coir::task<> {
    co_await coir::sleep_for(1ms);
    throw std::runtime_error("a text that is too long for the small string, too");
  });
}

TEST_CASE("any number of restarts of a function on a stack takes constant memory") {
  check_constant(in_a_window, {}, [] {
    coir::await(coir::sleep_for(1ms));
    throw 1;
  });
}

TEST_CASE("any number of restarts with a back-off and a heartbeat takes constant memory") {
  check_constant(supervisor_options().intensity(1000, 1ms).backoff(1ms, 1s).seed(1),
                 child_options().heartbeat(1s), []() -> coir::task<> {
                   coir::heartbeat();
                   co_await coir::sleep_for(1ms);
                 });
}

TEST_CASE("any number of temporary children that come and go takes constant memory") {
  support::jumping([] {
    const int all = restarts();
    seen early{};
    seen late{};
    int ends = 0;
    coir::await(coir::supervise([&](supervisor& s) {
      const auto add = [&s](int number) {
        s.add("a temporary child, whose number is " + std::to_string(number),
              []() -> coir::task<> { co_await coir::sleep_for(1ms); }, coir::temporary);
      };
      s.on_event([&, add](const coir::child_event& e) {
        if (!e.ended()) return;
        ++ends;
        if (ends == 1000) early = {support::heap.blocks, support::heap.bytes};
        if (ends == all) late = {support::heap.blocks, support::heap.bytes};
        if (ends < all) add(ends);
      });
      add(0);
    }));
    CHECK(ends == all);
    CHECK(late.blocks - early.blocks <= 2);
    CHECK(late.bytes - early.bytes <= 2048);
  });
}
