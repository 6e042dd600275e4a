// What only epoll has: registrations that outlive their descriptor, descriptors it does not take,
// and files that go through the blocking hook.
#include "support/descriptor_limit.hpp"
#include "support/loop_tools.hpp"

#include <coir/loop/descriptor.hpp>

#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/uio.h>

#include <deque>
#include <string>
#include <thread>
#include <utility>
#include <vector>

using namespace std::chrono_literals;
using coir::request;

namespace {

coir::loop_options on_epoll() {
  return coir::loop_options().backend(coir::backend_kind::epoll);
}

// A registration that stays in the epoll set and belongs to nobody: its descriptor was closed
// behind the loop's back, a duplicate keeps the open file alive, and the number was given to
// another.
class dead_registration {
 public:
  explicit dead_registration(coir::loop& on) : loop_(on) {
    const int number = first_[0].release();
    on.adopt(number);
    support::asked waits(request::poll(number, POLLIN));
    REQUIRE(on.start(waits.request));
    on.run_for(0ns);  // not run_once(), which also does what is due to a foreign poll
    support::give_up(on, waits);
    keeps_it_alive_ = coir::unique_fd(::dup(number));
    ::close(number);
    REQUIRE(::dup2(later_[0].get(), number) == number);
    on.adopt(number);
    taken_ = number;
  }
  ~dead_registration() { loop_.close_soon(taken_); }

  void fire() { REQUIRE(::write(first_[1].get(), "x", 1) == 1); }
  int number() const { return taken_; }
  int peer() const { return later_[1].get(); }

 private:
  coir::loop& loop_;
  support::fd_pair first_ = support::socket_pair();
  support::fd_pair later_ = support::socket_pair();
  coir::unique_fd keeps_it_alive_;
  int taken_ = -1;
};

// Nothing comes of it, and the loop looks at the kernel once a turn and no more.
void expect_quiet(coir::loop& loop) {
  const auto before = loop.stats().backend.enters;
  for (int i = 0; i < 5; ++i) CHECK(loop.run_once() == 0);
  CHECK(loop.stats().backend.enters == before + 5);
}

// Keeps what may block until it is told to do it.
class slow_hook {
 public:
  explicit slow_hook(coir::loop& on) : loop_(on) { on.install({keep, this}); }
  std::size_t kept() const { return jobs_.size(); }
  void do_one() {
    const auto [what, work] = jobs_.front();
    jobs_.pop_front();
    what->result = work(*what);
    loop_.finish_blocking(*what);
  }

 private:
  static bool keep(void* self, request& what, int (*work)(request&)) {
    static_cast<slow_hook*>(self)->jobs_.emplace_back(&what, work);
    return false;
  }
  coir::loop& loop_;
  std::deque<std::pair<request*, int (*)(request&)>> jobs_;
};

constexpr int some_descriptor = -1;

coir::unique_fd memory_file() {
  coir::unique_fd made(::memfd_create("epoll_test", MFD_CLOEXEC));
  REQUIRE(made);
  return made;
}

}  // namespace

TEST_CASE("a registration that belongs to nobody fires once; then the set is rebuilt, and all is quiet") {
  support::leaves_no_descriptor([] {
    coir::loop loop(on_epoll());
    dead_registration dead(loop);
    expect_quiet(loop);
    dead.fire();
    CHECK(loop.run_once(-1ns) == 1);
    CHECK(loop.stats().backend.stale_events == 1);
    CHECK(loop.stats().backend.rebuilds == 1);
    for (int i = 0; i < 10; ++i) {
      dead.fire();
      expect_quiet(loop);
    }
    CHECK(loop.stats().backend.stale_events == 1);
    CHECK(loop.stats().backend.rebuilds == 1);
  });
}

TEST_CASE("all who wait go on waiting in the rebuilt set, and are served") {
  support::leaves_no_descriptor([] {
    coir::loop loop(on_epoll());
    dead_registration dead(loop);
    std::deque<support::fd_pair> pairs;
    std::deque<std::array<std::byte, 8>> buffers;
    std::deque<support::asked> all;
    for (int i = 0; i < 200; ++i) {
      auto& ends = pairs.emplace_back(support::socket_pair());
      if (i % 2 == 0) loop.adopt(ends[0].get());
      all.emplace_back(request::recv(ends[0].get(), buffers.emplace_back()));
      REQUIRE(loop.start(all.back().request));
    }
    support::asked on_taken(request::recv(dead.number(), buffers.emplace_back()));
    REQUIRE(loop.start(on_taken.request));
    const support::fd_pair many = support::socket_pair();
    support::asked multi(request::recv_multi(many[0].get()));
    multi.seen.then = [&](request& told) {
      if (told.result > 0) loop.chunks().claim(told.chunk(), static_cast<std::size_t>(told.result));
    };
    REQUIRE(loop.start(multi.request));
    loop.run_once();
    dead.fire();
    support::run_until(loop, [&] { return loop.stats().backend.rebuilds == 1; });
    CHECK(loop.in_flight() == 202);
    bool posted = false;
    std::thread other([&] { loop.post([&] { posted = true; }); });
    support::run_until(loop, [&] { return posted; });
    other.join();
    for (const auto& ends : pairs) REQUIRE(::write(ends[1].get(), "x", 1) == 1);
    REQUIRE(::write(dead.peer(), "xy", 2) == 2);
    REQUIRE(::write(many[1].get(), "xyz", 3) == 3);
    support::run_until(loop, [&] { return loop.in_flight() == 1 && multi.seen.count() == 1; });
    for (const auto& each : all) CHECK(each.seen.results == std::vector{1});
    CHECK(on_taken.seen.results == std::vector{2});
    CHECK(multi.seen.results == std::vector{3});
    support::give_up(loop, multi);
    expect_quiet(loop);
  });
}

TEST_CASE("without a descriptor for a new set the old one serves on, and nothing spins") {
  coir::loop loop(on_epoll());
  dead_registration dead(loop);
  const support::fd_pair ends = support::socket_pair();
  std::array<std::byte, 8> buffer;
  support::asked get(request::recv(ends[0].get(), buffer));
  REQUIRE(loop.start(get.request));
  loop.run_once();
  for (int i = 0; i < 3; ++i) {
    dead.fire();
    std::size_t events = 0;
    {
      const support::descriptor_limit none(0);
      events = loop.run_once(-1ns);
    }
    CHECK(events == 1);
    expect_quiet(loop);
  }
  CHECK(loop.stats().backend.stale_events == 3);
  CHECK(loop.stats().backend.rebuilds == 0);
  REQUIRE(::write(ends[1].get(), "x", 1) == 1);
  support::run_until(loop, [&] { return get.over(); });
  dead.fire();
  support::run_until(loop, [&] { return loop.stats().backend.rebuilds == 1; });
  dead.fire();
  expect_quiet(loop);
}

TEST_CASE("a foreign poll sees through every rebuilt set, however many there were in between") {
  coir::loop loop(on_epoll());
  for (int rebuilds = 1; rebuilds <= 3; ++rebuilds) {
    INFO(rebuilds << " at once");
    pollfd outside{loop.pollable_fd(), POLLIN, 0};
    loop.run_once();
    auto expected = loop.stats().backend.rebuilds;
    std::deque<dead_registration> dead;
    for (int i = 0; i < rebuilds; ++i) {
      // So that a set gets the number of the one before the last.
      coir::unique_fd place(::dup(outside.fd));
      dead.emplace_back(loop);
      place.reset();
      dead.back().fire();
      for (++expected; loop.stats().backend.rebuilds != expected;) loop.run_for(0ns);
    }
    const support::fd_pair ends = support::socket_pair();
    std::array<std::byte, 8> buffer;
    support::asked get(request::recv(ends[0].get(), buffer));
    REQUIRE(loop.start(get.request));
    loop.run_once();
    CHECK(::poll(&outside, 1, 0) == 0);
    REQUIRE(::write(ends[1].get(), "x", 1) == 1);
    CHECK(::poll(&outside, 1, 0) == 1);
    loop.run_once();
    CHECK(get.over());
  }
}

TEST_CASE("a foreign descriptor that its owner closed while a duplicate lives on wakes the loop twice at most") {
  support::leaves_no_descriptor([] {
    coir::loop loop(on_epoll());
    support::fd_pair ends = support::socket_pair();
    std::array<std::byte, 8> buffer;
    support::asked get(request::recv(ends[0].get(), buffer));
    REQUIRE(loop.start(get.request));
    loop.run_once();
    const coir::unique_fd duplicate(::dup(ends[0].get()));
    ends[0].reset();
    REQUIRE(::write(ends[1].get(), "x", 1) == 1);
    support::run_until(loop, [&] { return get.over(); });
    CHECK(get.seen.results == std::vector{-EBADF});
    REQUIRE(::write(ends[1].get(), "x", 1) == 1);
    loop.run_once();
    CHECK(loop.stats().backend.rebuilds == 1);
    for (int i = 0; i < 10; ++i) {
      REQUIRE(::write(ends[1].get(), "x", 1) == 1);
      expect_quiet(loop);
    }
  });
}

TEST_CASE("who waits on a descriptor that was closed behind the loop's back hears of it with the next rebuild") {
  support::leaves_no_descriptor([] {
    coir::loop loop(on_epoll());
    support::fd_pair low = support::socket_pair();
    dead_registration dead(loop);
    support::fd_pair high = support::socket_pair();
    std::array<std::byte, 8> buffer;
    support::asked lost(request::recv(high[0].get(), buffer));
    support::asked next(request::recv(low[0].get(), buffer));
    // What is begun while the set is rebuilt belongs in the new one.
    lost.seen.then = [&](request&) { CHECK(loop.start(next.request)); };
    REQUIRE(loop.start(lost.request));
    loop.run_once();
    high[0].reset();
    dead.fire();
    support::run_until(loop, [&] { return lost.over(); });
    CHECK(lost.seen.results == std::vector{-EBADF});
    loop.run_once();
    REQUIRE(::write(low[1].get(), "xyz", 3) == 3);
    loop.run_once();
    CHECK(next.seen.results == std::vector{3});
  });
}

TEST_CASE("a foreign descriptor may be closed, and its number used again, whenever nobody waits on it") {
  coir::loop loop;
  std::array<std::byte, 8> buffer;
  for (int round = 0; round < 50; ++round) {
    support::fd_pair ends = round % 2 == 0 ? support::socket_pair() : support::pipe_pair();
    const int number = ends[0].get();
    support::asked get(request::read(number, buffer));
    REQUIRE(loop.start(get.request));
    loop.run_once();
    if (round % 3 == 0) {
      support::give_up(loop, get);
    } else {
      REQUIRE(::write(ends[1].get(), "x", 1) == 1);
      support::run_until(loop, [&] { return get.over(); });
      CHECK(get.seen.results == std::vector{1});
    }
    // Its number is the next pair's.
  }
  CHECK(loop.stats().backend.stale_events == 0);
  CHECK(loop.stats().backend.rebuilds == 0);
}

TEST_CASE("what epoll does not take because it is always ready is served at once") {
  coir::loop loop;
  const coir::unique_fd file = memory_file();
  std::array<std::byte, 8> buffer;
  CHECK(support::finish(loop, request::poll(file.get(), POLLIN)) == POLLIN);
  CHECK(support::finish(loop, request::poll(file.get(), POLLOUT)) == POLLOUT);
  CHECK(support::finish(loop, request::write(file.get(), support::bytes_of("abc"))) == 3);
  CHECK(support::finish(loop, request::read(file.get(), buffer)) == 0);
  CHECK(::lseek(file.get(), 1, SEEK_SET) == 1);
  iovec part{buffer.data(), buffer.size()};
  CHECK(support::finish(loop, request::readv(file.get(), &part, 1)) == 2);
  const coir::unique_fd folder(::open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  CHECK(support::finish(loop, request::read(folder.get(), buffer)) == -EISDIR);
  CHECK(loop.in_flight() == 0);
}

TEST_CASE("a wait for what a file never is ends with the kernel's refusal") {
  coir::loop loop(on_epoll());
  const coir::unique_fd file = memory_file();
  CHECK(support::finish(loop, request::poll(file.get(), POLLPRI)) == -EPERM);
  CHECK(loop.in_flight() == 0);
}

TEST_CASE("what may block goes through the hook, and nothing else does") {
  support::leaves_no_descriptor([] {
    coir::loop loop(on_epoll());
    slow_hook hook(loop);
    const coir::unique_fd file = memory_file();
    const support::fd_pair ends = support::socket_pair();
    std::string text = "twelve bytes";
    std::array<std::byte, 64> buffer;
    iovec in{buffer.data(), buffer.size()};
    iovec out{text.data(), text.size()};
    // In this order they also depend on each other.
    for (auto& [what, expected] :
         {std::pair{request::write(file.get(), support::bytes_of(text), 0), 12},
          {request::writev(file.get(), &out, 1, 12), 12},
          {request::fsync(file.get()), 0},
          {request::fsync(file.get(), true), 0},
          {request::read(file.get(), buffer, 20), 4},
          {request::readv(file.get(), &in, 1, 6), 18},
          {request::open("/dev/null", O_RDONLY, 0), some_descriptor}}) {
      support::asked one(what);
      REQUIRE(loop.start(one.request));
      CHECK(hook.kept() == 1);
      CHECK(loop.in_flight() == 1);
      CHECK(loop.can_wake());
      // It cannot be stopped, and keeps its result.
      CHECK(loop.withdraw(one.request) == coir::abort_answer::later);
      support::idle_turns(loop);
      CHECK_FALSE(one.over());
      hook.do_one();
      REQUIRE(one.over());
      if (expected == some_descriptor) {
        CHECK(coir::unique_fd(one.seen.last()));
      } else {
        CHECK(one.seen.results == std::vector{expected});
      }
    }
    CHECK(support::finish(loop, request::write(file.get(), support::bytes_of(text))) == 12);
    CHECK(support::finish(loop, request::send(ends[0].get(), support::bytes_of(text))) == 12);
    CHECK(support::finish(loop, request::read(ends[1].get(), buffer)) == 12);
    CHECK(hook.kept() == 0);
  });
}

TEST_CASE("a file is not closed under the hook's hands") {
  coir::loop loop(on_epoll());
  slow_hook hook(loop);
  const int file = memory_file().release();
  std::array<std::byte, 8> buffer;
  support::asked first(request::write(file, support::bytes_of("abc"), 0));
  support::asked second(request::read(file, buffer, 1));
  support::asked closing(request::close(file));
  REQUIRE(loop.start(first.request));
  REQUIRE(loop.start(second.request));
  REQUIRE(loop.start(closing.request));
  support::asked refused(request::fsync(file));
  CHECK_FALSE(loop.start(refused.request));
  CHECK(refused.request.result == -EBADF);
  hook.do_one();
  CHECK(first.seen.results == std::vector{3});
  CHECK_FALSE(closing.over());
  CHECK(::fcntl(file, F_GETFD) >= 0);
  hook.do_one();
  CHECK(second.seen.results == std::vector{2});
  CHECK(closing.seen.results == std::vector{0});
  CHECK(::fcntl(file, F_GETFD) < 0);
}

TEST_CASE("files are read and written at offsets on both backends, to the end and beyond") {
  support::leaves_no_descriptor([] {
    coir::loop loop;
    const coir::unique_fd file = memory_file();
    const std::string text(100'000, 'x');
    std::array<std::byte, 16> buffer;
    CHECK(support::finish(loop, request::write(file.get(), support::bytes_of(text), 5)) == 100'000);
    CHECK(support::finish(loop, request::read(file.get(), buffer, 3)) == 16);
    CHECK(support::text_of(buffer) == std::string("\0\0", 2).append(14, 'x'));
    CHECK(support::finish(loop, request::read(file.get(), buffer, 100'000)) == 5);
    CHECK(support::finish(loop, request::read(file.get(), buffer, 100'005)) == 0);
    CHECK(support::finish(loop, request::read(file.get(), buffer, 1ULL << 40)) == 0);
    CHECK(support::finish(loop, request::open("/no/such/folder", O_RDONLY, 0)) == -ENOENT);

    std::string some = "some", more = " more";
    const std::array<iovec, 2> from{iovec{some.data(), some.size()}, iovec{more.data(), more.size()}};
    CHECK(support::finish(loop, request::writev(file.get(), from.data(), 2, 50'000)) == 9);
    std::string head(3, '-'), rest(10, '-');
    const std::array<iovec, 2> into{iovec{head.data(), head.size()}, iovec{rest.data(), rest.size()}};
    CHECK(support::finish(loop, request::readv(file.get(), into.data(), 2, 49'999)) == 13);
    CHECK(head + rest == "xsome morexxx");
    CHECK(support::finish(loop, request::readv(file.get(), into.data(), 2, 100'005)) == 0);
    CHECK(support::finish(loop, request::fsync(file.get())) == 0);
    CHECK(support::finish(loop, request::fsync(file.get(), true)) == 0);
    // Without an offset they go on where the descriptor is, which the others have not moved.
    CHECK(support::finish(loop, request::readv(file.get(), into.data(), 1)) == 3);
    CHECK(head == std::string("\0\0\0", 3));
  });
}

TEST_CASE("a poll that waits for something else leaves a read what it can have") {
  coir::loop loop;
  const support::fd_pair ends = support::tcp_pair();
  loop.adopt(ends[1].get());
  support::asked hang_up(request::poll(ends[1].get(), POLLRDHUP));
  REQUIRE(loop.start(hang_up.request));
  loop.run_once();
  REQUIRE(::send(ends[0].get(), "12345678", 8, 0) == 8);
  loop.run_once();
  std::array<std::byte, 4> half;
  CHECK(support::finish(loop, request::recv(ends[1].get(), half)) == 4);
  CHECK(support::finish(loop, request::recv(ends[1].get(), half)) == 4);
  CHECK_FALSE(hang_up.over());
  support::give_up(loop, hang_up);
}

TEST_CASE("a descriptor that was given away is nobody's: its number can live again") {
  coir::loop loop;
  support::fd_pair ends = support::socket_pair();
  std::array<std::byte, 4> buffer;
  coir::descriptor mine(loop, ends[1].release());
  const int number = mine.get();
  support::asked waits(request::recv(number, buffer));
  REQUIRE(loop.start(waits.request));
  loop.run_once();
  support::give_up(loop, waits);
  const support::fd_pair others = support::socket_pair();
  REQUIRE(::close(mine.release()) == 0);
  REQUIRE(::dup2(others[1].get(), number) == number);
  const coir::unique_fd later(number);
  REQUIRE(::send(others[0].get(), "abc", 3, 0) == 3);
  CHECK(support::finish(loop, request::recv(number, buffer)) == 3);
}

TEST_CASE("who waits on a number that was closed and made anew is told, and takes nothing from it") {
  coir::loop loop;
  support::fd_pair ends = support::socket_pair();
  const int number = ends[1].get();
  std::array<std::byte, 4> buffer;
  support::asked waits(request::recv(number, buffer));
  REQUIRE(loop.start(waits.request));
  loop.run_once();
  const support::fd_pair others = support::socket_pair();
  REQUIRE(::dup2(others[1].get(), number) == number);
  coir::descriptor mine(loop, ends[1].release());
  REQUIRE(::send(others[0].get(), "abc", 3, 0) == 3);
  // The earlier peer hangs up, which ends what still waits for it on io_uring.
  ends[0].reset();
  support::run_until(loop, [&] { return waits.over(); });
  CHECK(waits.seen.results.front() <= 0);
  CHECK(support::finish(loop, request::recv(number, buffer)) == 3);
}

TEST_CASE("who waits on a number that was closed and opened anew under another's wait is told of what comes") {
  coir::loop loop;
  support::fd_pair ends = support::socket_pair();
  const int number = ends[1].get();
  std::array<std::byte, 4> buffer;
  support::asked early(request::poll(number, POLLIN));
  REQUIRE(loop.start(early.request));
  loop.run_once();
  const support::fd_pair others = support::socket_pair();
  REQUIRE(::dup2(others[1].get(), number) == number);
  // For the one direction and for the other.
  support::fill(number);
  support::asked late(request::recv(number, buffer));
  support::asked write(request::send(number, support::bytes_of("x")));
  REQUIRE(loop.start(late.request));
  REQUIRE(loop.start(write.request));
  support::idle_turns(loop);
  REQUIRE_FALSE(late.over());
  REQUIRE(::send(others[0].get(), "abc", 3, 0) == 3);
  support::run_until(loop, [&] { return late.over(); });
  CHECK(late.seen.results == std::vector{3});
  support::drain(others[0].get());
  support::run_until(loop, [&] { return write.over(); });
  CHECK(write.seen.results == std::vector{1});
  if (!early.over()) support::give_up(loop, early);
}

TEST_CASE("what is with the blocking hook is left alone when its descriptor becomes ready") {
  coir::loop loop(on_epoll());
  slow_hook hook(loop);
  const support::fd_pair ends = support::socket_pair();
  std::array<std::byte, 8> buffer;
  // A position means nothing to a socket, and sends the request to the hook all the same.
  support::asked placed(request::read(ends[0].get(), buffer, 0));
  support::asked plain(request::recv(ends[0].get(), buffer));
  REQUIRE(loop.start(placed.request));
  REQUIRE(loop.start(plain.request));
  loop.run_once();
  REQUIRE(::write(ends[1].get(), "x", 1) == 1);
  support::run_until(loop, [&] { return plain.over(); });
  CHECK(plain.seen.results == std::vector{1});
  CHECK_FALSE(placed.over());
  REQUIRE(hook.kept() == 1);
  hook.do_one();
  CHECK(placed.seen.results == std::vector{-ESPIPE});
}
