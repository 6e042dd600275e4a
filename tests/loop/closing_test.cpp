// The one closing path: no new requests, what is in flight is withdrawn and waited for, then it is
// closed.
#include "loop/contract.hpp"

#include <coir/loop/descriptor.hpp>

#include <poll.h>

#include <algorithm>
#include <climits>
#include <deque>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

using namespace std::chrono_literals;
using coir::request;
using tests::row;
using tests::stage;

namespace {

bool is_open(int fd) {
  return ::fcntl(fd, F_GETFD) >= 0;
}

// The stage's owner of this number lets go of it, for the loop to close.
int released(stage& on) {
  const int fd = on.what.request.fd;
  for (coir::unique_fd* each : {&on.ends[0], &on.ends[1], &on.pipe[0], &on.pipe[1], &on.listener}) {
    if (each->get() == fd) return each->release();
  }
  FAIL("nobody owns the descriptor");
  return -1;
}

template <class Test>
void for_each_that_waits(Test&& test) {
  for (const row& kind : tests::rows()) {
    INFO(kind.name);
    if (kind.waits) support::leaves_no_descriptor([&] { test(kind); });
  }
}

// A TCP connection that is the loop's to close.
struct connection {
  explicit connection(coir::loop& on) : connection(on, support::tcp_pair()) {}
  connection(coir::loop& on, support::fd_pair made)
      : mine(on, made[0].release()), peer(std::move(made[1])) {}
  coir::descriptor mine;
  coir::unique_fd peer;
};

// Everything at once that can wait on a connection, and nobody else's bytes to wait for.
class busy {
 public:
  explicit busy(coir::loop& on, int fd) {
    support::fill(fd);
    const auto add = [&](request what) {
      REQUIRE(on.start(all.emplace_back(std::move(what)).request));
    };
    for (int i = 0; i < 3; ++i) {
      add(request::recv(fd, buffer));
      add(request::send(fd, buffer));
      add(request::recv_multi(fd));
      add(request::poll(fd, POLLIN));
      add(request::poll(fd, POLLOUT));
      add(request::readv(fd, &part, 1));
      add(request::writev(fd, &part, 1));
    }
  }
  // TCP may have found room in the meantime, and served who wanted to write.
  bool each_was_told_once() const {
    return std::all_of(all.begin(), all.end(), [](const support::asked& one) {
      if (!one.over() || one.seen.count() != 1) return false;
      const coir::request_kind kind = one.request.kind;
      const bool writes = kind == coir::request_kind::send || kind == coir::request_kind::writev ||
                          (kind == coir::request_kind::poll && one.request.flags == POLLOUT);
      return one.seen.last() == -ECANCELED || (writes && one.seen.last() > 0);
    });
  }

  std::array<std::byte, 64> buffer{};
  iovec part{buffer.data(), buffer.size()};
  std::deque<support::asked> all;
};

// Runs what may block on a thread of its own, as a pool would.
class one_thread {
 public:
  explicit one_thread(coir::loop& on) : loop_(on) { on.install({run, this}); }
  ~one_thread() {
    for (std::thread& each : threads_) each.join();
  }

 private:
  static bool run(void* self, request& what, int (*work)(request&)) {
    auto& mine = *static_cast<one_thread*>(self);
    mine.threads_.emplace_back([&mine, &what, work] {
      const int result = work(what);
      mine.loop_.post([&mine, &what, result] {
        what.result = result;
        mine.loop_.finish_blocking(what);
      });
    });
    return false;
  }
  coir::loop& loop_;
  std::deque<std::thread> threads_;
};

// A socket whose close(2) may block until the peer has read, for at most ten seconds.
struct lingering : connection {
  explicit lingering(coir::loop& on) : connection(on) {
    const struct ::linger wanted { 1, 10 };
    REQUIRE(::setsockopt(mine.get(), SOL_SOCKET, SO_LINGER, &wanted, sizeof wanted) == 0);
    on.lingers(mine.get());
    sent = support::fill(mine.get());
  }
  std::size_t sent = 0;
};

// Receives until it is told for the first time, and frees itself.
class one_of_many : public coir::waiter {
 public:
  one_of_many(coir::loop& its_loop, int fd, bool& gone)
      : waiter(kind), what(request::recv_multi(fd)), loop(its_loop), is_gone(gone) {
    what.told = this;
  }
  request what;

 private:
  static void tell(waiter& self) noexcept {
    auto& mine = static_cast<one_of_many&>(self);
    if (mine.what.result > 0) {
      mine.loop.chunks().claim(mine.what.chunk(), static_cast<std::size_t>(mine.what.result));
    }
    if (mine.what.armed() && mine.loop.withdraw(mine.what) == coir::abort_answer::later) return;
    mine.is_gone = true;
    delete &mine;
  }
  static constexpr coir::waiter_kind kind{tell};
  coir::loop& loop;
  bool& is_gone;
};

std::size_t read_to_end(const coir::unique_fd& from) {
  std::vector<std::byte> block(1 << 16);
  if (::fcntl(from.get(), F_SETFL, 0) < 0) return 0;
  std::size_t total = 0;
  for (ssize_t got = 0; (got = ::read(from.get(), block.data(), block.size())) > 0;) {
    total += static_cast<std::size_t>(got);
  }
  return total;
}

}  // namespace

TEST_CASE("closing tells whoever waits on the descriptor, whatever for, and then closes it") {
  for_each_that_waits([](const row& kind) {
    for (const bool known_to_kernel : {false, true}) {
      stage on(kind);
      REQUIRE(on.loop.start(on.what.request));
      if (known_to_kernel) support::idle_turns(on.loop);
      const int fd = released(on);
      bool was_open = false;
      on.what.seen.then = [&](request&) { was_open = is_open(fd); };
      CHECK(support::finish(on.loop, request::close(fd)) == 0);
      CHECK(on.what.over());
      CHECK(on.what.seen.results == std::vector{-ECANCELED});
      CHECK(was_open);
      CHECK_FALSE(is_open(fd));
      CHECK(on.loop.in_flight() == 0);
      CHECK_FALSE(on.loop.can_wake());
    }
  });
}

TEST_CASE("a request that was withdrawn before the close is told of it at most once") {
  for_each_that_waits([](const row& kind) {
    for (const bool known_to_kernel : {false, true}) {
      stage on(kind);
      REQUIRE(on.loop.start(on.what.request));
      if (known_to_kernel) support::idle_turns(on.loop);
      const bool told = on.loop.withdraw(on.what.request) == coir::abort_answer::later;
      CHECK(support::finish(on.loop, request::close(released(on))) == 0);
      CHECK(on.what.over());
      CHECK(on.what.seen.count() == (told ? 1 : 0));
    }
  });
}

TEST_CASE("a request that can be served just as its descriptor is closed is told once") {
  for_each_that_waits([](const row& kind) {
    for (int round = 0; round < 10; ++round) {
      stage on(kind);
      REQUIRE(on.loop.start(on.what.request));
      if (round % 2 != 0) on.loop.run_once();
      on.make_ready();
      CHECK(support::finish(on.loop, request::close(released(on))) == 0);
      CHECK(on.what.over());
      // A multishot request has its results, and then its end.
      CHECK(on.what.seen.last() <= (kind.multishot ? 0 : INT_MAX));
      CHECK(on.what.seen.count() <= (kind.multishot ? 2 : 1));
      CHECK(
          (on.what.seen.results.front() == -ECANCELED || on.is_good(on.what.seen.results.front())));
    }
  });
}

TEST_CASE("both directions and every kind at once: each is told once, and the closer last") {
  support::leaves_no_descriptor([] {
    for (const bool known_to_kernel : {false, true}) {
      coir::loop loop;
      connection ends(loop);
      busy waiting(loop, ends.mine.get());
      if (known_to_kernel) support::idle_turns(loop);
      support::asked closing(request::close(ends.mine.hand_to_close()));
      bool all_before = false;
      closing.seen.then = [&](request&) { all_before = waiting.each_was_told_once(); };
      if (loop.start(closing.request)) {
        CHECK(is_open(closing.request.fd));
        support::run_until(loop, [&] { return closing.over(); });
        CHECK(all_before);
      }
      CHECK(closing.request.result == 0);
      CHECK(waiting.each_was_told_once());
      CHECK_FALSE(is_open(closing.request.fd));
      CHECK(loop.chunks().free() == loop.chunks().count());
      CHECK(loop.in_flight() == 0);
    }
  });
}

TEST_CASE("a descriptor that is being closed takes no request of any kind") {
  for (const row& kind : tests::rows()) {
    INFO(kind.name);
    if (kind.kind == coir::request_kind::open) continue;
    coir::loop loop;
    connection ends(loop);
    busy waiting(loop, ends.mine.get());
    loop.run_once();
    stage other(kind);  // before, so that it gets none of the numbers that become free
    support::asked closing(request::close(ends.mine.hand_to_close()));
    const bool waits = loop.start(closing.request);
    CHECK(waits != support::on_epoll(loop));
    const coir::unique_fd owner(kind.kind == coir::request_kind::close ? other.what.request.fd
                                                                       : -1);
    other.what.request.fd = closing.request.fd;
    CHECK(support::finish(loop, other.what) == -EBADF);
    support::run_until(loop, [&] { return closing.over(); });
    CHECK(closing.request.result == 0);
  }
}

// As a select does: who is told withdraws what it lost, on the same descriptor and on others.
TEST_CASE("whoever is told may withdraw the other requests of his descriptor") {
  enum class event { served, closed, taken_over };
  for (const event what : {event::served, event::closed, event::taken_over}) {
    support::leaves_no_descriptor([&] {
      coir::loop loop;
      std::optional<connection> ends(std::in_place, loop);
      const int fd = ends->mine.get();
      support::fill(fd);
      std::array<std::byte, 8> buffer;
      std::deque<support::asked> all;
      all.emplace_back(request::poll(fd, POLLIN));
      all.emplace_back(request::recv(fd, buffer));
      all.emplace_back(request::send(fd, buffer));
      all.emplace_back(request::poll(fd, POLLIN));
      const std::size_t count = all.size();
      std::size_t told = 0;
      for (support::asked& each : all) {
        each.seen.then = [&](request&) {
          if (++told > 1) return;
          for (support::asked& other : all) {
            if (!other.over()) static_cast<void>(loop.withdraw(other.request));
          }
        };
        REQUIRE(loop.start(each.request));
      }
      support::idle_turns(loop);
      if (what == event::served) REQUIRE(::write(ends->peer.get(), "abc", 3) == 3);
      if (what == event::closed) ends->mine.reset();
      if (what == event::taken_over) loop.adopt(fd);
      support::run_until(loop, [&] { return loop.in_flight() == 0; });
      CHECK(told >= 1);
      CHECK(told <= count);
      for (const support::asked& each : all) {
        CHECK(each.over());
        CHECK(each.seen.count() <= 1);
      }
    });
  }
}

TEST_CASE("whoever is told one of several results may withdraw that request, and free it as soon as it is over") {
  support::leaves_no_descriptor([] {
    coir::loop loop;
    const connection ends(loop);
    for (int round = 0; round < 3; ++round) {
      bool gone = false;
      one_of_many* const many = new one_of_many(loop, ends.mine.get(), gone);
      REQUIRE(loop.start(many->what));
      REQUIRE(::write(ends.peer.get(), "abc", 3) == 3);
      support::run_until(loop, [&] { return gone; });
    }
    CHECK(loop.in_flight() == 0);
  });
}

TEST_CASE("a close that has begun is not stopped") {
  coir::loop loop;
  connection ends(loop);
  busy waiting(loop, ends.mine.get());
  loop.run_once();
  support::asked closing(request::close(ends.mine.hand_to_close()));
  if (!loop.start(closing.request)) return;  // epoll: it was over at once
  CHECK(loop.withdraw(closing.request) == coir::abort_answer::later);
  CHECK(loop.withdraw(closing.request) == coir::abort_answer::later);
  support::run_until(loop, [&] { return closing.over(); });
  CHECK(closing.seen.results == std::vector{0});
  CHECK_FALSE(is_open(closing.request.fd));
}

TEST_CASE("closing what is not open gives -EBADF, and so does closing twice") {
  coir::loop loop;
  connection ends(loop);
  const int fd = ends.mine.release();
  CHECK(support::finish(loop, request::close(fd)) == 0);
  CHECK(support::finish(loop, request::close(fd)) == -EBADF);
  loop.close_soon(fd);
  CHECK(support::finish(loop, request::close(-1)) == -EBADF);
}

TEST_CASE("closing is no shutdown: a duplicate goes on, be it of a stream or of a listener") {
  support::leaves_no_descriptor([] {
    coir::loop loop;
    connection ends(loop);
    const coir::unique_fd kept(::dup(ends.mine.get()));
    std::array<std::byte, 16> buffer;
    support::asked get(request::recv(ends.mine.get(), buffer));
    REQUIRE(loop.start(get.request));
    loop.run_once();
    CHECK(support::finish(loop, request::close(ends.mine.hand_to_close())) == 0);
    CHECK(support::finish(loop, request::send(kept.get(), support::bytes_of("there"))) == 5);
    CHECK(support::finish(loop, request::recv(ends.peer.get(), buffer)) == 5);
    CHECK(support::finish(loop, request::send(ends.peer.get(), support::bytes_of("back"))) == 4);
    CHECK(support::finish(loop, request::recv(kept.get(), buffer)) == 4);

    coir::descriptor listener(loop, support::tcp_listener().release());
    const coir::unique_fd shared(::dup(listener.get()));
    support::asked all(request::accept_multi(listener.get()));
    REQUIRE(loop.start(all.request));
    loop.run_once();
    CHECK(support::finish(loop, request::close(listener.hand_to_close())) == 0);
    CHECK(all.seen.results == std::vector{-ECANCELED});
    const coir::unique_fd client = support::tcp_client(support::own_address(shared.get()));
    const coir::unique_fd accepted(support::finish(loop, request::accept(shared.get())));
    CHECK(accepted);
  });
}

TEST_CASE("a descriptor that is destroyed is closed, in whatever state it is") {
  support::leaves_no_descriptor([] {
    for (const int state : {0, 1, 2, 3}) {
      INFO("state " << state);
      coir::loop loop;
      loop.run_once();
      connection ends(loop);
      const int fd = ends.mine.get();
      std::optional<busy> waiting;
      if (state > 0) waiting.emplace(loop, fd);
      if (state > 1) support::idle_turns(loop);
      if (state > 2) {
        for (support::asked& each : waiting->all) loop.withdraw(each.request);
      }
      ends.mine.reset();
      CHECK_FALSE(ends.mine);
      support::run_until(loop, [&] { return loop.in_flight() == 0; });
      CHECK_FALSE(is_open(fd));
      if (state == 1 || state == 2) CHECK(waiting->each_was_told_once());
      ends.mine.reset();
    }
  });
}

TEST_CASE("a descriptor moves, and closes what it held before") {
  support::leaves_no_descriptor([] {
    coir::loop loop;
    loop.run_once();
    connection one(loop);
    connection two(loop);
    const int first = one.mine.get();
    const int second = two.mine.get();
    one.mine = std::move(two.mine);
    CHECK_FALSE(is_open(first));
    CHECK(one.mine.get() == second);
    CHECK(&one.mine.on() == &loop);
    coir::descriptor third(std::move(one.mine));
    CHECK_FALSE(one.mine);
    coir::descriptor& itself = third;
    third = std::move(itself);
    CHECK(third.get() == second);
    CHECK(is_open(second));
    CHECK_THROWS_AS(coir::descriptor(loop, -1), std::invalid_argument);
  });
}

TEST_CASE("a descriptor may be destroyed by another thread, and is closed on the loop's") {
  support::leaves_no_descriptor([] {
    coir::loop loop;
    loop.run_once();
    connection ends(loop);
    const int fd = ends.mine.get();
    busy waiting(loop, fd);
    std::thread::id told_by;
    waiting.all.front().seen.then = [&](request&) { told_by = std::this_thread::get_id(); };
    std::thread other([gone = std::move(ends.mine)] {});
    support::run_until(loop, [&] { return waiting.each_was_told_once(); });
    other.join();
    CHECK(told_by == std::this_thread::get_id());
    CHECK_FALSE(is_open(fd));
  });
}

TEST_CASE("descriptors of a loop that nobody has run may be destroyed by several threads at once") {
  support::leaves_no_descriptor([] {
    coir::loop loop;
    std::array<std::vector<coir::descriptor>, 2> halves;
    for (int i = 0; i < 200; ++i) {
      support::fd_pair both = support::socket_pair();
      for (const std::size_t half : {0U, 1U}) {
        loop.lingers(both[half].get());
        halves[half].emplace_back(loop, both[half].release());
      }
    }
    std::thread other([&] { halves[0].clear(); });
    halves[1].clear();
    other.join();
    support::run_until(loop, [&] { return loop.in_flight() == 0; });
  });
}

TEST_CASE("descriptors that other threads let go of while the loop runs, and ends, are all closed") {
  support::leaves_no_descriptor([] {
    for (int round = 0; round < 20; ++round) {
      auto loop = std::make_unique<coir::loop>();
      loop->run_once();
      std::deque<connection> all;
      for (int i = 0; i < 20; ++i) all.emplace_back(*loop);
      std::thread other([&] {
        for (connection& each : all) each.mine.reset();
      });
      loop->run_once();
      loop.reset();
      other.join();
    }
  });
}

TEST_CASE("a descriptor that outlives its loop is closed all the same, whoever destroys it") {
  support::leaves_no_descriptor([] {
    for (const bool in_thread : {false, true}) {
      auto loop = std::make_unique<coir::loop>();
      loop->run_once();
      connection ends(*loop);
      const int fd = ends.mine.get();
      busy waiting(*loop, fd);
      loop->run_once();
      loop.reset();
      CHECK(waiting.each_was_told_once());
      CHECK(is_open(fd));
      // In the place of the old one: it must not be taken for it.
      coir::loop another;
      if (in_thread) {
        std::thread([gone = std::move(ends.mine)] {}).join();
      } else {
        ends.mine.reset();
      }
      CHECK_FALSE(is_open(fd));
      CHECK(another.run_once() == 0);
    }
  });
}

TEST_CASE("a loop that dies in the middle of closings finishes them") {
  support::leaves_no_descriptor([] {
    for (const bool somebody_waits : {false, true}) {
      int fd = -1;
      std::deque<support::asked> closings;
      std::deque<busy> waiting;
      {
        coir::loop loop;
        loop.run_once();
        for (int i = 0; i < 10; ++i) {
          connection ends(loop);
          fd = ends.mine.get();
          waiting.emplace_back(loop, fd);
          loop.run_once();
          if (!somebody_waits) continue;  // and here the descriptor ends
          loop.start(closings.emplace_back(request::close(ends.mine.hand_to_close())).request);
        }
      }
      for (const busy& each : waiting) CHECK(each.each_was_told_once());
      for (const support::asked& each : closings) CHECK((each.over() && each.request.result == 0));
      CHECK_FALSE(is_open(fd));
    }
  });
}

TEST_CASE("a number that is used again at once hears nothing of its earlier life") {
  for_each_that_waits([](const row& kind) {
    for (int round = 0; round < 10; ++round) {
      stage on(kind);
      const int fd = released(on);
      // Keeps the old open file, and what the kernel knows of it, alive.
      coir::unique_fd kept(::dup(fd));
      on.loop.adopt(fd);
      REQUIRE(on.loop.start(on.what.request));
      if (round % 2 != 0) support::idle_turns(on.loop);
      on.loop.close_soon(fd);
      support::run_until(on.loop, [&] { return on.what.over(); });
      REQUIRE_FALSE(is_open(fd));

      stage later(kind);
      REQUIRE(::dup2(later.what.request.fd, fd) == fd);
      on.loop.adopt(fd);
      support::asked again(later.what.request);
      again.request.fd = fd;
      REQUIRE(on.loop.start(again.request));
      on.make_ready();
      support::idle_turns(on.loop);
      CHECK_FALSE(again.over());
      CHECK(again.seen.count() == 0);
      CHECK(on.loop.stats().backend.stale_events == 0);
      support::give_up(on.loop, again);
      on.loop.close_soon(fd);
    }
  });
}

TEST_CASE("closing a socket that lingers does not hold up the loop") {
  support::leaves_no_descriptor([] {
    for (const bool somebody_waits : {false, true}) {
      coir::loop loop;
      std::optional<one_thread> pool;
      if (!support::on_uring(loop)) pool.emplace(loop);
      loop.run_once();
      lingering ends(loop);
      std::array<std::byte, 8> buffer;
      support::asked get(request::recv(ends.mine.get(), buffer));
      REQUIRE(loop.start(get.request));
      support::asked closing(request::close(ends.mine.get()));
      if (somebody_waits) {
        static_cast<void>(ends.mine.hand_to_close());
        REQUIRE(loop.start(closing.request));
        support::run_until(loop, [&] { return get.over(); });
      } else {
        ends.mine.reset();
      }
      // The kernel is at it; the loop has other things to do.
      for (int i = 0; i < 100; ++i) {
        bool posted = false;
        loop.post([&] { posted = true; });
        support::run_until(loop, [&] { return posted; });
      }
      // io_uring tells of the close when its thread has begun with it.
      if (pool) CHECK(loop.in_flight() == (somebody_waits ? 1 : 0));
      CHECK(get.seen.results == std::vector{-ECANCELED});
      CHECK(read_to_end(ends.peer) == ends.sent);
      support::run_until(loop, [&] { return loop.in_flight() == 0; });
      if (somebody_waits) CHECK(closing.seen.results == std::vector{0});
    }
  });
}

TEST_CASE("a loop that dies with a socket that lingers loses none of its bytes") {
  support::leaves_no_descriptor([] {
    std::size_t sent = 0;
    std::size_t read = 0;
    std::optional<std::thread> reader;
    {
      coir::loop loop;
      loop.run_once();
      lingering ends(loop);
      sent = ends.sent;
      reader.emplace([&read, peer = std::move(ends.peer)] { read = read_to_end(peer); });
    }
    reader->join();
    CHECK(read == sent);
  });
}
