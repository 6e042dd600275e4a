// What a descriptor is ready for besides what was asked, and what is withdrawn while the kernel tries again for it.
#include "support/loop_tools.hpp"

#include <poll.h>
#include <sys/mman.h>
#include <sys/uio.h>

#include <array>
#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <thread>
#include <vector>

using namespace std::chrono_literals;
using coir::request;
using support::asked;

namespace {

// The peer sends no more and reads nothing, and there is no room for more to it.
struct half_closed {
  half_closed() {
    REQUIRE(::shutdown(ends[1].get(), SHUT_WR) == 0);
    support::fill(near());
  }
  int near() const { return ends[0].get(); }
  void drain() const { support::drain(ends[1].get()); }
  support::fd_pair ends = support::socket_pair();
};

using writes_to_all = std::vector<std::unique_ptr<asked>>;

// Whoever began last has room first, which none of the others may hold up.
void drain_backwards(coir::loop& loop, const std::vector<half_closed>& streams, const writes_to_all& writes) {
  for (std::size_t i = streams.size(); i > 0; --i) {
    CHECK_FALSE(writes[i - 1]->over());
    streams[i - 1].drain();
    support::run_until(loop, [&] { return writes[i - 1]->over(); });
    CHECK(writes[i - 1]->seen.results == std::vector{100});
  }
}

}  // namespace

TEST_CASE("who waits for room to write is not told that the peer sends no more") {
  const half_closed stream;
  coir::loop loop;
  asked room(request::poll(stream.near(), POLLOUT));
  REQUIRE(loop.start(room.request));
  CHECK(support::turns_of_quiet(loop) < 20);
  CHECK_FALSE(room.over());
  stream.drain();
  support::run_until(loop, [&] { return room.over(); });
  CHECK(room.seen.results == std::vector{POLLOUT});
  // Asked for, it is told at once.
  asked end(request::poll(stream.near(), POLLRDHUP));
  CHECK(support::finish(loop, end) == POLLRDHUP);
}

TEST_CASE("a wait for room that was told something else before can be withdrawn, and its descriptor closed") {
  for (const bool by_closing : {false, true}) {
    half_closed stream;
    coir::loop loop;
    asked room(request::poll(stream.near(), POLLOUT));
    REQUIRE(loop.start(room.request));
    support::idle_turns(loop);
    REQUIRE_FALSE(room.over());
    if (by_closing) {
      CHECK(support::finish(loop, request::close(stream.ends[0].release())) == 0);
      CHECK(room.seen.results == std::vector{-ECANCELED});
    } else {
      CHECK(support::give_up(loop, room) == -ECANCELED);
    }
    CHECK(room.over());
  }
}

TEST_CASE("writes of all kinds to peers that send no more wait for room, and hold up nobody") {
  coir::loop loop;
  const std::string text(100, 'x');
  iovec part{const_cast<char*>(text.data()), text.size()};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  const std::vector<half_closed> streams(40);
  writes_to_all writes;
  for (std::size_t i = 0; i < streams.size(); ++i) {
    const int fd = streams[i].near();
    writes.push_back(std::make_unique<asked>(i % 4 == 0   ? request::send(fd, support::bytes_of(text))
                                             : i % 4 == 1 ? request::sendmsg(fd, &message)
                                             : i % 4 == 2 ? request::write(fd, support::bytes_of(text))
                                                          : request::writev(fd, &part, 1)));
    REQUIRE(loop.start(writes.back()->request));
  }
  CHECK(support::turns_of_quiet(loop) < 10 * streams.size());
  drain_backwards(loop, streams, writes);
}

TEST_CASE("more of them than the queues hold wait quietly, too") {
  coir::loop loop(coir::loop_options().submission_entries(8));
  const std::string text(100, 'x');
  const std::vector<half_closed> streams(100);
  const std::size_t threads = support::threads();
  writes_to_all writes;
  for (const half_closed& each : streams) {
    writes.push_back(std::make_unique<asked>(request::send(each.near(), support::bytes_of(text))));
    REQUIRE(loop.start(writes.back()->request));
  }
  CHECK(support::turns_of_quiet(loop) < 10 * streams.size());
  CHECK(support::threads() <= threads);
  drain_backwards(loop, streams, writes);
}

TEST_CASE("a write to a peer that sends no more can be withdrawn at every moment") {
  const std::string text(100, 'x');
  for (int turns = 0; turns < 6; ++turns) {
    INFO(turns << " turns before");
    const half_closed stream;
    coir::loop loop;
    asked write(request::send(stream.near(), support::bytes_of(text)));
    REQUIRE(loop.start(write.request));
    support::idle_turns(loop, turns);
    CHECK(support::give_up(loop, write) == -ECANCELED);
    CHECK(write.over());
  }
}

TEST_CASE("a send moves what there is room for, and does not wait for the rest") {
  coir::loop loop;
  const support::fd_pair ends = support::tcp_pair();
  const std::vector<std::byte> much(64 << 20);
  const int sent = support::finish(loop, request::send(ends[0].get(), much));
  CHECK(sent > 0);
  CHECK(sent < static_cast<int>(much.size()));
}

TEST_CASE("a receive that was ready when it began to wait, and is not any more, can be withdrawn at every moment") {
  for (int turns = 0; turns < 4; ++turns) {
    INFO(turns << " turns before");
    const support::fd_pair ends = support::socket_pair();
    coir::loop loop;
    REQUIRE(::write(ends[1].get(), "x", 1) == 1);
    std::array<std::byte, 8> first_bytes{}, second_bytes{};
    asked first(request::recv(ends[0].get(), first_bytes));
    asked second(request::recv(ends[0].get(), second_bytes));
    first.request.expect_wait = second.request.expect_wait = true;
    const bool waits = loop.start(first.request);
    REQUIRE(loop.start(second.request));
    support::idle_turns(loop, turns);
    // One of them has the byte, or will.
    if (!second.over()) {
      const int result = support::give_up(loop, second);
      CHECK((result == -ECANCELED || result == 1));
    }
    CHECK(second.over());
    if (waits && !first.over()) CHECK(support::give_up(loop, first) != 0);
  }
}

TEST_CASE("a receive loop that finds more than the kernel takes at a time can be withdrawn at every moment") {
  for (int turns = 0; turns < 4; ++turns) {
    INFO(turns << " turns before");
    const support::fd_pair ends = support::tcp_pair();
    coir::loop loop(coir::loop_options().chunk_bytes(64).chunks(1024));
    std::vector<std::byte> much(40'000);
    REQUIRE(::send(ends[1].get(), much.data(), much.size(), 0) == static_cast<ssize_t>(much.size()));
    asked all(request::recv_multi(ends[0].get()));
    std::size_t arrived = 0;
    all.seen.then = [&](request& told) {
      if (told.result <= 0) return;
      arrived += static_cast<std::size_t>(told.result);
      loop.chunks().claim(told.chunk(), static_cast<std::size_t>(told.result));
    };
    REQUIRE(loop.start(all.request));
    support::idle_turns(loop, turns);
    if (!all.over()) support::give_up(loop, all);
    CHECK(all.over());
    CHECK(arrived + support::drain(ends[0].get()) == much.size());
  }
}

TEST_CASE("who receives an urgent byte that is only announced waits quietly, also for the end of the stream") {
  for (const bool comes : {true, false}) {
    INFO((comes ? "it comes" : "it does not"));
    // Of so many bytes the last one is the urgent one, and the window is small.
    const coir::unique_fd listener = support::tcp_listener();
    const int small = 8192;
    REQUIRE(::setsockopt(listener.get(), SOL_SOCKET, SO_RCVBUF, &small, sizeof small) == 0);
    const coir::unique_fd far(::socket(AF_INET, SOCK_STREAM, 0));
    const sockaddr_in where = support::own_address(listener.get());
    const int roomy = 100'000;
    REQUIRE(::setsockopt(far.get(), SOL_SOCKET, SO_SNDBUF, &roomy, sizeof roomy) == 0);
    REQUIRE(::connect(far.get(), reinterpret_cast<const sockaddr*>(&where), sizeof where) == 0);
    const coir::unique_fd near(::accept4(listener.get(), nullptr, nullptr, SOCK_NONBLOCK));
    const std::string much(60'000, 'x');
    REQUIRE(::send(far.get(), much.data(), much.size(), MSG_OOB | MSG_DONTWAIT) == 60'000);
    std::byte byte{};
    errno = 0;
    while (::recv(near.get(), &byte, 1, MSG_OOB) >= 0 || errno != EAGAIN) std::this_thread::yield();
    coir::loop loop;
    asked urgent(request::recv(near.get(), std::span(&byte, 1), MSG_OOB));
    REQUIRE(loop.start(urgent.request));
    CHECK(support::turns_of_quiet(loop) < 50);
    CHECK_FALSE(urgent.over());
    if (!comes) REQUIRE(::shutdown(near.get(), SHUT_RD) == 0);
    std::vector<char> others(much.size() - 1);
    for (std::size_t read = 0; !urgent.over(); loop.run_once(1ms)) {
      if (!comes) continue;
      const ssize_t got = ::recv(near.get(), others.data(), others.size() - read, 0);
      if (got > 0) read += static_cast<std::size_t>(got);
    }
    CHECK(urgent.seen.results == std::vector{comes ? 1 : 0});
  }
}

TEST_CASE("who waits for an urgent byte is told of it, and of nothing else") {
  const support::fd_pair ends = support::tcp_pair();
  coir::loop loop;
  for (const bool unread : {false, true}) {
    INFO((unread ? "with" : "without") << " unread data");
    if (unread) REQUIRE(::send(ends[1].get(), "a", 1, 0) == 1);
    asked urgent(request::poll(ends[0].get(), POLLPRI));
    REQUIRE(loop.start(urgent.request));
    support::idle_turns(loop);
    REQUIRE(::send(ends[1].get(), "b", 1, 0) == 1);
    CHECK(support::turns_of_quiet(loop) < 20);
    CHECK_FALSE(urgent.over());
    REQUIRE(::send(ends[1].get(), "!", 1, MSG_OOB) == 1);
    support::run_until(loop, [&] { return urgent.over(); });
    CHECK(urgent.seen.results == std::vector{POLLPRI});
    char read = 0;
    CHECK(::recv(ends[0].get(), &read, 1, MSG_OOB) == 1);
    CHECK(read == '!');
    support::drain(ends[0].get());
  }
  // Nothing urgent is there any more.
  REQUIRE(::send(ends[1].get(), "c", 1, 0) == 1);
  asked either(request::poll(ends[0].get(), POLLIN | POLLPRI));
  CHECK(support::finish(loop, either) == POLLIN);
}

TEST_CASE("a wait for what a file never has is refused, and asked for once") {
  const coir::unique_fd file(::memfd_create("nothing urgent", MFD_CLOEXEC));
  coir::loop loop;
  asked urgent(request::poll(file.get(), POLLPRI));
  CHECK(support::finish(loop, urgent) < 0);
  // By a receive that is to poll first, too.
  std::array<std::byte, 8> bytes{};
  asked message(request::recv(file.get(), bytes));
  message.request.expect_wait = true;
  CHECK(support::finish(loop, message) == -ENOTSOCK);
}

TEST_CASE("hints and flags that say how to wait change nothing of what is sent and received") {
  const support::fd_pair ends = support::socket_pair();
  coir::loop loop;
  asked send(request::send(ends[0].get(), support::bytes_of("text"), MSG_DONTWAIT));
  send.request.expect_wait = true;
  CHECK(support::finish(loop, send) == 4);
  std::array<std::byte, 8> bytes{};
  for (const bool there : {true, false}) {
    asked read(request::recv(ends[1].get(), bytes, MSG_DONTWAIT));
    read.request.expect_wait = true;
    const bool waits = loop.start(read.request);
    if (waits) {
      CHECK(support::turns_of_quiet(loop) < 20);
      CHECK(read.over() == there);
      if (!there) REQUIRE(::send(ends[0].get(), "more", 4, 0) == 4);
      support::run_until(loop, [&] { return read.over(); });
    }
    CHECK(read.request.result == 4);
  }
}

TEST_CASE("a message in the error queue that nobody takes does not keep a send from waiting for room") {
  const support::fd_pair ends = support::tcp_pair();
  const int fd = ends[0].get();
  const int on = 1;
  if (::setsockopt(fd, SOL_SOCKET, SO_ZEROCOPY, &on, sizeof on) < 0) {
    WARN("skipped: this kernel has no MSG_ZEROCOPY");
    return;
  }
  REQUIRE(::send(fd, "x", 1, MSG_ZEROCOPY) == 1);
  support::drain(ends[1].get());
  pollfd sent{fd, 0, 0};
  REQUIRE(::poll(&sent, 1, 5000) == 1);
  REQUIRE(sent.revents == POLLERR);
  coir::loop loop;
  // The kernel may find more room by itself.
  support::fill(fd);
  asked send(request::send(fd, support::bytes_of("text")));
  if (loop.start(send.request)) {
    CHECK(support::turns_of_quiet(loop) < 20);
    support::drain(ends[1].get());
    support::run_until(loop, [&] {
      support::drain(ends[1].get());
      return send.over();
    });
  }
  CHECK(send.request.result == 4);
}
