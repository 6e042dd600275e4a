// Found by the fuzz of the watchers: what armed a oneshot watcher while its event was taken from the kernel,
// and not yet delivered, made one event into two.
#include "support/loop_tools.hpp"

#include <coir/loop/loop.hpp>

#include <functional>
#include <optional>

using coir::watch_options;
using coir::watcher;

namespace {

// Two sockets that are readable: the callback of the first does something to the second, which is oneshot.
void batch_of_two(const std::function<void(watcher& second)>& first_does) {
  coir::loop loop;
  const support::fd_pair one = support::socket_pair();
  const support::fd_pair two = support::socket_pair();
  int calls = 0;
  std::optional<coir::owned<watcher>> second;
  auto first = loop.watch(one[0].get(), watch_options{.read = [&](watcher& w) {
                            support::drain(w.fd());
                            first_does(**second);
                          }});
  second = loop.watch(two[0].get(), watch_options{.read = [&] { ++calls; }, .oneshot = true});
  REQUIRE(::write(one[1].get(), "x", 1) == 1);
  REQUIRE(::write(two[1].get(), "x", 1) == 1);
  support::idle_turns(loop);
  CHECK(calls == 1);
  CHECK_FALSE((*second)->listens());
  CHECK_FALSE(loop.stats().watchers.largest_batch < 2);
}

// An entry that a duplicate keeps alive, and that nobody owns: the next turn finds it, the one after that
// makes the set anew.
struct stray_entry {
  explicit stray_entry(coir::loop& of) {
    of.watch(ends[0].get(), watch_options{.read = [] {}, .edge_triggered = true}).keep();
    const int number = ends[0].get();
    ends[0].reset();
    of.unwatch(number);
  }
  void tell() { REQUIRE(::write(ends[1].get(), "x", 1) == 1); }
  support::fd_pair ends = support::socket_pair();
  coir::unique_fd duplicate{::fcntl(ends[0].get(), F_DUPFD_CLOEXEC, 0)};
};

}  // namespace

TEST_CASE("a oneshot watcher that is armed while its event waits in the batch hears once") {
  batch_of_two([](watcher& second) { second.rearm(); });
  batch_of_two([](watcher& second) { second.enable_read(); });
}

TEST_CASE("a oneshot event left over from a stop is delivered once, also when the set is made anew") {
  coir::loop loop;
  const support::fd_pair one = support::socket_pair();
  const support::fd_pair two = support::socket_pair();
  stray_entry stray(loop);
  int calls = 0;
  auto first = loop.watch(one[0].get(), watch_options{.read = [&](watcher& w) {
                            support::drain(w.fd());
                            loop.stop();
                          }});
  auto second = loop.watch(two[0].get(), watch_options{.read = [&] { ++calls; }, .oneshot = true});
  // The stray entry is found and the oneshot event is left over in one and the same turn.
  stray.tell();
  REQUIRE(::write(one[1].get(), "x", 1) == 1);
  REQUIRE(::write(two[1].get(), "x", 1) == 1);
  loop.run_once();
  CHECK(calls == 0);
  support::idle_turns(loop);
  CHECK(loop.stats().watchers.rebuilds == 1);
  CHECK(calls == 1);
  CHECK_FALSE(second->listens());
}
