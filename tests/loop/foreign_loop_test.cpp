// A loop inside somebody else's poll(2) or epoll: a descriptor, and run_once() when it is readable.
#include "loop/foreign_host.hpp"
#include "loop/timers.hpp"
#include "support/loop_tools.hpp"

#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>

#include <atomic>
#include <thread>

using namespace std::chrono_literals;
using tests::host;
using tests::readable;
using tests::ringer;

namespace {

class ready_things final : public coir::ready_hook {
 public:
  std::size_t run_ready() override { return --left, 1; }
  bool has_ready() const noexcept override { return left != 0; }
  int left = 0;
};

}  // namespace

TEST_CASE("the descriptor stays the same, and is not readable while there is nothing to do") {
  coir::loop loop;
  const int fd = loop.pollable_fd();
  CHECK(loop.pollable_fd() == fd);
  host foreign(loop);
  foreign.expect_quiet();
  loop.run_once();
  foreign.expect_quiet();
  CHECK(loop.pollable_fd() == fd);
}

TEST_CASE("a loop with only timers wakes a foreign poll for each, on time, and for nothing else") {
  coir::loop loop;
  host foreign(loop);
  std::vector<int> order;
  ringer one(order, 1), two(order, 2), three(order, 3), far(order, 4);
  const coir::instant now = loop.time();
  loop.arm(two, now + 4ms);
  loop.arm(one, now + 2ms);
  loop.arm(three, now + 6ms);
  loop.arm(far, now + 1h);
  loop.run_once();
  foreign.run_until([&] { return order.size() == 3; });
  CHECK(order == std::vector{1, 2, 3});
  CHECK(loop.time() >= now + 6ms);
  CHECK(foreign.woken <= 5);
  foreign.expect_quiet();
  loop.disarm(far);
}

TEST_CASE("a deadline that is moved earlier wakes earlier, and one that is gone wakes nobody") {
  coir::loop loop;
  host foreign(loop);
  std::vector<int> order;
  ringer far(order, 1), gone(order, 2);
  loop.arm(far, loop.time() + 1h);
  loop.arm(gone, loop.time());
  loop.run_once(1ns);
  loop.arm(gone, loop.time() + 1ms);
  loop.run_once();
  loop.disarm(gone);
  loop.arm(far, loop.time() + 2ms);
  loop.run_once();
  order.clear();
  foreign.run_until([&] { return !order.empty(); });
  CHECK(order == std::vector{1});
  foreign.expect_quiet();
}

TEST_CASE("a million nanoseconds into the past or the end of time are deadlines like others") {
  coir::loop loop;
  host foreign(loop);
  std::vector<int> order;
  ringer past(order, 1), never(order, 2);
  loop.arm(never, coir::never - 1ns);
  loop.run_once();
  foreign.expect_quiet();
  loop.post([&] { loop.arm(past, coir::instant::min() + 1ns); });
  foreign.run_until([&] { return !order.empty(); });
  CHECK(order == std::vector{1});
  foreign.expect_quiet();
  loop.disarm(never);
}

TEST_CASE("a loop with only posts wakes a foreign poll, from any thread, and then is quiet") {
  coir::loop loop;
  host foreign(loop);
  std::atomic<int> ran = 0;
  std::thread other([&] {
    for (int i = 1; i <= 2000; ++i) {
      loop.post([&] { ++ran; });
      while (ran < i - i % 2) std::this_thread::yield();
    }
  });
  foreign.run_until([&] { return ran == 2000; });
  other.join();
  loop.post([&] { ++ran; });
  foreign.run_until([&] { return ran == 2001; });
  foreign.expect_quiet();
}

TEST_CASE("a post from before the descriptor was asked for makes it readable") {
  coir::loop loop;
  bool ran = false;
  loop.post([&] { ran = true; });
  host foreign(loop);
  foreign.run_until([&] { return ran; });
  foreign.expect_quiet();
}

TEST_CASE("a stop makes it readable, and is used up by one turn") {
  coir::loop loop;
  host foreign(loop);
  foreign.expect_quiet();
  loop.stop();
  CHECK(readable(loop.pollable_fd()));
  loop.run_once();
  foreign.expect_quiet();
}

TEST_CASE("a loop with only requests wakes a foreign poll when one is over, and then is quiet") {
  coir::loop loop;
  host foreign(loop);
  const support::fd_pair ends = support::socket_pair();
  for (int i = 0; i < 100; ++i) {
    std::array<std::byte, 8> buffer;
    support::asked get(coir::request::recv(ends[0].get(), buffer));
    REQUIRE(loop.start(get.request));
    loop.run_once();
    foreign.expect_quiet();
    REQUIRE(::write(ends[1].get(), "x", 1) == 1);
    foreign.run_until([&] { return get.over(); });
    CHECK(get.seen.last() == 1);
  }
  foreign.expect_quiet();
  CHECK(foreign.woken <= 200);
}

TEST_CASE("a request from before the descriptor was asked for wakes it") {
  coir::loop loop;
  const support::fd_pair ends = support::socket_pair();
  std::array<std::byte, 8> buffer;
  support::asked get(coir::request::recv(ends[0].get(), buffer));
  REQUIRE(loop.start(get.request));
  host foreign(loop);
  REQUIRE(::write(ends[1].get(), "x", 1) == 1);
  foreign.run_until([&] { return get.over(); });
  foreign.expect_quiet();
}

TEST_CASE("it is woken by every write to an eventfd that a request waits for, the first and the others") {
  coir::loop loop;
  host foreign(loop);
  const coir::unique_fd one(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
  const coir::unique_fd two(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
  std::array<std::byte, 8> buffer_one, buffer_two;
  for (int i = 0; i < 8; ++i) {
    support::asked first(coir::request::read(one.get(), buffer_one));
    support::asked second(coir::request::poll(two.get(), POLLIN));
    support::asked third(coir::request::read(two.get(), buffer_two));
    for (support::asked* each : {&first, &second, &third}) REQUIRE(loop.start(each->request));
    loop.run_once();
    foreign.expect_quiet();
    std::atomic<int> heard = 0;
    std::thread other([&] {
      ::eventfd_write(one.get(), 1);
      while (heard == 0) std::this_thread::yield();
      ::eventfd_write(two.get(), 1);
    });
    foreign.run_until([&] { return first.over(); });
    heard = 1;
    foreign.run_until([&] { return second.over() && third.over(); });
    other.join();
    // A signal that the kernel had put off may come late, and once.
    CHECK(foreign.woken <= 6 * (i + 1));
  }
}

TEST_CASE("between turns that a foreign poll asked for, the loop may also sleep by itself") {
  coir::loop loop;
  host foreign(loop);
  std::atomic<int> ran = 0;
  std::atomic<int> wanted = 0;
  std::thread other([&] {
    for (int i = 1; i <= 20; ++i) {
      while (wanted != i) std::this_thread::yield();
      loop.post([&] { ++ran; });
    }
  });
  for (int i = 1; i <= 20; ++i) {
    wanted = i;
    if (i % 3 == 0) {
      foreign.run_until([&] { return ran == i; });
    } else {
      support::run_until(loop, [&] { return ran == i; });
    }
  }
  other.join();
}

TEST_CASE("after a run of the loop's own the foreign loop is woken as before") {
  for (const bool stopped : {false, true}) {
    INFO((stopped ? "run" : "run_for"));
    coir::loop loop;
    host foreign(loop);
    std::vector<int> order;
    ringer rung(order, 1);
    const support::fd_pair ends = support::socket_pair();
    std::array<std::byte, 8> buffer;
    support::asked get(coir::request::recv(ends[0].get(), buffer));
    loop.post([&] {
      REQUIRE(loop.start(get.request));
      loop.arm(rung, loop.time() + 20ms);
      if (stopped) loop.stop();
    });
    if (stopped) {
      loop.run();
    } else {
      loop.run_for(1ms);
    }
    foreign.expect_quiet();
    bool ran = false;
    std::thread other([&] { loop.post([&] { ran = true; }); });
    foreign.run_until([&] { return ran; });
    other.join();
    foreign.run_until([&] { return !order.empty(); });
    REQUIRE(::write(ends[1].get(), "x", 1) == 1);
    foreign.run_until([&] { return get.over(); });
    foreign.expect_quiet();
  }
}

TEST_CASE("a loop whose time was held up wakes the foreign loop when its time has come") {
  coir::loop loop;
  host foreign(loop);
  std::vector<int> order;
  ringer rung(order, 1);
  loop.arm(rung, loop.time() + 5ms);
  loop.run_once();
  loop.shift_time(40ms);
  foreign.run_until([&] { return !order.empty(); });
  CHECK(foreign.woken <= 3);
  foreign.expect_quiet();
}

TEST_CASE("ready work left over keeps it readable until there is none") {
  coir::loop loop;
  ready_things fibers;
  loop.install(&fibers);
  host foreign(loop);
  foreign.expect_quiet();
  loop.post([&] { fibers.left = 5; });
  foreign.run_until([&] { return fibers.left == 0 && loop.stats().posts == 1; });
  CHECK(foreign.woken <= 6);
  foreign.expect_quiet();
}

TEST_CASE("results that did not fit in a turn keep it readable") {
  coir::loop loop;
  const coir::unique_fd listener = support::tcp_listener();
  support::asked accept(coir::request::accept_multi(listener.get()));
  accept.seen.then = [](coir::request& of) {
    if (of.result >= 0) ::close(of.result);
  };
  REQUIRE(loop.start(accept.request));
  host foreign(loop);
  std::vector<coir::unique_fd> clients;
  for (int i = 0; i < 300; ++i) {
    clients.push_back(support::tcp_client(support::own_address(listener.get())));
  }
  foreign.run_until([&] { return accept.seen.count() == 300; });
  foreign.expect_quiet();
  support::give_up(loop, accept);
}

TEST_CASE("it works nested in the user's own epoll, level and edge") {
  for (const std::uint32_t mode : {std::uint32_t{0}, static_cast<std::uint32_t>(EPOLLET)}) {
    coir::loop loop;
    const coir::unique_fd outer(::epoll_create1(EPOLL_CLOEXEC));
    epoll_event wanted{};
    wanted.events = EPOLLIN | mode;
    REQUIRE(::epoll_ctl(outer.get(), EPOLL_CTL_ADD, loop.pollable_fd(), &wanted) == 0);
    std::vector<int> order;
    ringer soon(order, 1);
    const support::fd_pair ends = support::socket_pair();
    std::array<std::byte, 8> buffer;
    support::asked get(coir::request::recv(ends[0].get(), buffer));
    REQUIRE(loop.start(get.request));
    loop.arm(soon, loop.time() + 2ms);
    loop.run_once();
    REQUIRE(::write(ends[1].get(), "x", 1) == 1);
    std::thread other([&] { loop.post([&] { order.push_back(2); }); });
    while (order.size() != 2 || !get.over()) {
      epoll_event event{};
      // EINTR without a signal: the kernel has something to finish for a ring that was destroyed before.
      const int ready = ::epoll_wait(outer.get(), &event, 1, -1);
      REQUIRE((ready == 1 || errno == EINTR));
      // An edge says it once: the loop is driven until it is quiet.
      do {
        loop.run_once();
      } while (mode != 0 && readable(loop.pollable_fd()));
    }
    other.join();
    host(loop).expect_quiet();
  }
}

TEST_CASE("two loops share one foreign poll") {
  coir::loop one;
  coir::loop two;
  std::vector<int> order;
  ringer first(order, 1), second(order, 2);
  pollfd both[2] = {{one.pollable_fd(), POLLIN, 0}, {two.pollable_fd(), POLLIN, 0}};
  one.arm(first, one.time() + 1ms);
  two.arm(second, two.time() + 2ms);
  one.run_once();
  two.run_once();
  while (order.size() != 2) {
    REQUIRE(::poll(both, 2, -1) >= 1);
    if (both[0].revents != 0) one.run_once();
    if (both[1].revents != 0) two.run_once();
  }
  CHECK(order == std::vector{1, 2});
}

TEST_CASE("asked for inside a turn, the descriptor is right when that turn has ended") {
  coir::loop loop;
  std::vector<int> order;
  ringer soon(order, 1);
  loop.post([&] {
    static_cast<void>(loop.pollable_fd());
    loop.arm(soon, loop.time() + 1ms);
  });
  loop.run_once();
  host foreign(loop);
  foreign.run_until([&] { return !order.empty(); });
  foreign.expect_quiet();
}

TEST_CASE("what is started, withdrawn or closed outside of a turn wakes the foreign loop") {
  coir::loop loop;
  host foreign(loop);
  const support::fd_pair ends = support::tcp_pair();
  foreign.expect_quiet();
  // Otherwise nobody would send it to the kernel.
  support::asked write(coir::request::send(ends[0].get(), support::bytes_of("text")));
  if (loop.start(write.request)) foreign.run_until([&] { return write.over(); });
  std::array<char, 8> text{};
  CHECK(::recv(ends[1].get(), text.data(), text.size(), 0) == 4);
  foreign.expect_quiet();

  std::array<std::byte, 8> bytes{};
  support::asked read(coir::request::recv(ends[0].get(), bytes));
  REQUIRE(loop.start(read.request));
  foreign.expect_quiet();
  if (loop.withdraw(read.request) == coir::abort_answer::later) foreign.run_until([&] { return read.over(); });
  CHECK(read.over());
  foreign.expect_quiet();

  support::fd_pair others = support::tcp_pair();
  loop.adopt(others[0].get());
  support::asked waits(coir::request::recv(others[0].get(), bytes));
  REQUIRE(loop.start(waits.request));
  foreign.expect_quiet();
  loop.close_soon(others[0].release());
  pollfd peer{others[1].get(), POLLIN, 0};
  if (!waits.over()) foreign.run_until([&] { return waits.over(); });
  CHECK(::poll(&peer, 1, 1000) == 1);
  CHECK(::recv(others[1].get(), text.data(), text.size(), 0) == 0);
}
