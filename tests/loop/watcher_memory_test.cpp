// What watchers and timers cost: nothing that grows, and nothing while they are called.
#include "loop/watch_tools.hpp"
#include "support/counted_heap.hpp"

#include <climits>
#include <cstdlib>

using namespace std::chrono_literals;
using coir::watch_options;
using coir::watcher;
using tests::put;
using tests::take;

namespace {

int cycles() { return std::getenv("COIR_TEST_LONG") == nullptr ? 100'000 : 10'000'000; }

}  // namespace

TEST_CASE("registering and ending, over and over, leaves nothing on the heap") {
  coir::loop loop;
  const support::fd_pair ends = support::socket_pair();
  const auto cycle = [&](int i) {
    const int fd = ends[static_cast<std::size_t>(i % 2)].get();
    auto one = loop.watch(fd, watch_options{.read = [&] {}, .write = [&] {}, .oneshot = i % 3 == 0, .data = i});
    switch (i % 4) {
      case 0: one->cancel(); break;
      case 1: loop.unwatch(fd); break;
      case 2: one = loop.watch(fd, watch_options{.read = [&] {}, .replace = true}); break;
      default: break;
    }
    auto later = loop.after(1h, [] {});
    auto soon = loop.every(1ns, [] {});
    if (i % 64 == 0) loop.run_once();
  };
  for (int i = 0; i < 128; ++i) cycle(i);
  const long blocks = support::heap.blocks;
  const long bytes = support::heap.bytes;
  for (int i = 0; i < cycles(); ++i) cycle(i);
  CHECK(support::heap.blocks == blocks);
  CHECK(support::heap.bytes == bytes);
  CHECK(loop.census().watchers == 0);
  CHECK(loop.census().timers == 0);
  CHECK(loop.timers() == 0);
}

TEST_CASE("numbers that are refused leave nothing on the heap, however high") {
  coir::loop loop;
  const support::fd_pair ends = support::pipe_pair();
  auto one = loop.watch(ends[0].get(), watch_options{.read = [] {}});
  const auto refuse = [&](int fd) {
    CHECK(tests::refusal([&] { static_cast<void>(loop.watch(fd, watch_options{.read = [] {}})); }) != 0);
    loop.unwatch(fd == ends[0].get() ? -1 : fd);
  };
  refuse(INT_MAX);
  const long bytes = support::heap.bytes;
  for (const int bad : {-1, INT_MIN, INT_MAX, INT_MAX - 1'000'000, 1'000'000, ends[0].get()}) refuse(bad);
  CHECK(support::heap.bytes == bytes);
}

TEST_CASE("being called allocates nothing: watchers, timers, their changes, and a stop in between") {
  coir::loop loop;
  const support::fd_pair one = support::pipe_pair();
  const support::fd_pair two = support::socket_pair();
  int calls = 0;
  int turns = 0;
  char byte = 'x';
  auto in = loop.watch(one[0].get(), watch_options{.read = [&](watcher& w) {
                                                     ++calls;
                                                     if (::read(w.fd(), &byte, 1) != 1) ++calls;
                                                     if (++turns % 2 == 0) loop.stop();
                                                   },
                                                   .edge_triggered = true});
  auto both = loop.watch(two[0].get(), watch_options{
      .read = [] {}, .write = [&](watcher& w) { w.rearm(); }, .oneshot = true});
  auto tick = loop.every(1ns, [&] { ++calls; });
  auto again = loop.after(0ns, [&](coir::timer& t) { t.restart(0ns); });
  const auto turn = [&] {
    if (::write(one[1].get(), &byte, 1) != 1) ++calls;
    both->disable_write();
    both->enable_write();
    loop.run_once();
  };
  for (int i = 0; i < 10; ++i) turn();
  const long before = support::heap.allocations;
  const int calls_before = calls;
  for (int i = 0; i < 10'000; ++i) turn();
  CHECK(support::heap.allocations == before);
  CHECK(calls > calls_before + 10'000);
}
