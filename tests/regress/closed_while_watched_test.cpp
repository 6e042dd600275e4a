// Found by the fuzz of the watchers: descriptors closed without unwatch(), while a duplicate keeps the
// kernel's entry alive.
#include "support/loop_tools.hpp"

#include <coir/loop/loop.hpp>

using coir::watch_options;
using coir::watcher;

namespace {

// A socket whose number is closed, and whose open file lives on.
struct closed_socket {
  void close() { ends[0].reset(); }
  support::fd_pair ends = support::socket_pair();
  int number = ends[0].get();
  coir::unique_fd duplicate{::fcntl(number, F_DUPFD_CLOEXEC, 0)};
};

std::uint64_t events_of_idle_turns(coir::loop& loop) {
  support::idle_turns(loop);
  const std::uint64_t before = loop.stats().watchers.events;
  support::idle_turns(loop);
  return loop.stats().watchers.events - before;
}

}  // namespace

TEST_CASE("a set that is made anew does not hand a watcher to the next user of its number") {
  coir::loop loop;
  support::fd_pair reused = support::socket_pair();
  const int number = reused[0].get();
  int calls = 0;
  auto first = loop.watch(number, watch_options{.read = [&] { ++calls; }});
  closed_socket stray;
  auto second = loop.watch(stray.number, watch_options{.read = [] {}});
  const support::fd_pair other = support::socket_pair();
  REQUIRE(::dup3(other[0].get(), number, O_CLOEXEC) == number);
  REQUIRE(::write(other[1].get(), "x", 1) == 1);
  stray.close();
  second.reset();
  REQUIRE(::write(stray.ends[1].get(), "x", 1) == 1);
  support::idle_turns(loop);
  CHECK(loop.stats().watchers.rebuilds == 1);
  CHECK(calls == 0);
}

TEST_CASE("a closed descriptor that is disabled does not make the loop spin") {
  coir::loop loop;
  closed_socket socket;
  auto in = loop.watch(socket.number, watch_options{.read = [] {}});
  socket.close();
  REQUIRE(::write(socket.ends[1].get(), "x", 1) == 1);
  in->disable_read();
  CHECK(events_of_idle_turns(loop) == 0);
}

TEST_CASE("a hang-up that nobody listens to, of a closed descriptor, does not make the loop spin") {
  coir::loop loop;
  closed_socket socket;
  auto in = loop.watch(socket.number, watch_options{.read = [] {}});
  in->disable_read();
  socket.close();
  socket.ends[1].reset();
  CHECK(events_of_idle_turns(loop) == 0);
  CHECK(loop.stats().watchers.unheard == 1);
  CHECK_FALSE(in->listens());
}

TEST_CASE("a silent watcher is replaced although the kernel has an entry of its number left") {
  coir::loop loop;
  closed_socket socket;
  auto in = loop.watch(socket.number, watch_options{.read = [] {}});
  in->disable_read();
  socket.close();
  socket.ends[1].reset();
  loop.run_once();
  CHECK_FALSE(in->listens());
  // The open file has its number back before the set is made anew.
  REQUIRE(::dup3(socket.duplicate.get(), socket.number, O_CLOEXEC) == socket.number);
  int calls = 0;
  auto again = loop.watch(socket.number, watch_options{.read = [&] { ++calls; }, .replace = true});
  loop.run_once();
  CHECK(calls == 1);
  ::close(socket.number);
}

TEST_CASE("what a stop left of an event is over when the loop finds its descriptor closed") {
  enum class left { write_of_it, all_of_it };
  for (const left what : {left::write_of_it, left::all_of_it}) {
    coir::loop loop;
    const support::fd_pair before = support::socket_pair();
    const support::fd_pair reused = support::socket_pair();
    const support::fd_pair other = support::socket_pair();
    const auto reuse_and_stop = [&] {
      REQUIRE(::dup3(other[0].get(), reused[0].get(), O_CLOEXEC) == reused[0].get());
      loop.stop();
    };
    auto first = loop.watch(before[0].get(), watch_options{.read = reuse_and_stop, .oneshot = true});
    closed_socket stray;
    loop.watch(stray.number, watch_options{.read = [] {}}).keep();
    stray.close();
    loop.unwatch(stray.number);
    // The entry that nobody owns comes first: the set is made anew in the next turn, which finds out who is closed.
    REQUIRE(::write(stray.ends[1].get(), "x", 1) == 1);
    if (what == left::all_of_it) REQUIRE(::write(before[1].get(), "x", 1) == 1);
    REQUIRE(::write(reused[1].get(), "x", 1) == 1);
    int reads = 0;
    int writes = 0;
    auto second = loop.watch(reused[0].get(), watch_options{.read = [&] { ++reads, reuse_and_stop(); },
                                                            .write = [&] { ++writes; },
                                                            .edge_triggered = true,
                                                            .oneshot = true});
    support::idle_turns(loop);
    CHECK(reads == (what == left::write_of_it));
    CHECK(writes == 0);
    CHECK_FALSE(second->listens());
    CHECK(loop.stats().watchers.rebuilds == 1);
  }
}
