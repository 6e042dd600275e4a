// A read that gives less than asked means that a byte stream is empty for now. Here are those that it
// does not hold for: nobody may wait there for an edge that has already been.
#include "support/loop_tools.hpp"

#include <poll.h>
#include <pty.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <termios.h>

#include <cstring>
#include <filesystem>
#include <fstream>

using coir::request;

namespace {

// So that the descriptor is watched: it has waited once.
void wait_once(coir::loop& loop, int fd) {
  support::asked readable(request::poll(fd, POLLIN));
  loop.adopt(fd);
  if (loop.start(readable.request)) {
    loop.run_once();
    support::give_up(loop, readable);
  }
}

struct reader {
  coir::loop loop;
  std::array<std::byte, 64> buffer{};
  std::string read(int fd) { return got(support::finish(loop, request::read(fd, buffer))); }
  std::string recv(int fd, int flags = 0) {
    return got(support::finish(loop, request::recv(fd, buffer, flags)));
  }
  std::string got(int result) {
    REQUIRE(result >= 0);
    return support::text_of(std::span(buffer).first(static_cast<std::size_t>(result)));
  }
};

void put(int fd, std::string_view text) {
  REQUIRE(::write(fd, text.data(), text.size()) == static_cast<ssize_t>(text.size()));
}

}  // namespace

TEST_CASE("bytes that were only peeked at are still there, on any socket") {
  for (const bool tcp : {false, true}) {
    const support::fd_pair ends = tcp ? support::tcp_pair() : support::socket_pair();
    reader on;
    wait_once(on.loop, ends[1].get());
    put(ends[0].get(), "abc");
    CHECK(on.recv(ends[1].get(), MSG_PEEK) == "abc");
    CHECK(on.recv(ends[1].get(), MSG_PEEK) == "abc");
    CHECK(on.recv(ends[1].get()) == "abc");
  }
}

TEST_CASE("behind a datagram shorter than the buffer may be another") {
  for (const int type : {SOCK_DGRAM, SOCK_SEQPACKET}) {
    reader on;
    const support::fd_pair ends = support::socket_pair(type);
    wait_once(on.loop, ends[1].get());
    put(ends[0].get(), "one");
    put(ends[0].get(), "two");
    put(ends[0].get(), "three");
    CHECK(on.recv(ends[1].get()) == "one");
    CHECK(on.read(ends[1].get()) == "two");
    CHECK(on.recv(ends[1].get()) == "three");
  }
}

TEST_CASE("behind a datagram shorter than a chunk may be another") {
  coir::loop loop;
  const coir::unique_fd socket = support::bound_socket(SOCK_DGRAM);
  const coir::unique_fd sender = support::tcp_socket(SOCK_DGRAM);
  const sockaddr_in where = support::own_address(socket.get());
  wait_once(loop, socket.get());
  support::asked all(request::recv_multi(socket.get()));
  all.seen.then = [&](coir::request& told) {
    if (told.result > 0) loop.chunks().claim(told.chunk(), static_cast<std::size_t>(told.result));
  };
  REQUIRE(loop.start(all.request));
  loop.run_once();
  for (const std::size_t size : {3U, 4U, 5U}) {
    REQUIRE(::sendto(sender.get(), "datagram", size, 0, support::generic(where), sizeof where) ==
            static_cast<ssize_t>(size));
  }
  support::run_until(loop, [&] { return all.seen.count() == 3; });
  CHECK(all.seen.results == std::vector{3, 4, 5});
  support::give_up(loop, all);
}

TEST_CASE("a terminal gives a line at a time") {
  int master = -1;
  int slave = -1;
  REQUIRE(::openpty(&master, &slave, nullptr, nullptr, nullptr) == 0);
  const coir::unique_fd near(master);
  const coir::unique_fd far(slave);
  REQUIRE(::fcntl(slave, F_SETFL, O_NONBLOCK) == 0);
  reader on;
  wait_once(on.loop, slave);
  put(master, "first\nsecond\n");
  CHECK(on.read(slave) == "first\n");
  CHECK(on.read(slave) == "second\n");
}

TEST_CASE("a pipe of packets gives one at a time") {
  int ends[2];
  REQUIRE(::pipe2(ends, O_NONBLOCK | O_CLOEXEC | O_DIRECT) == 0);
  const coir::unique_fd out(ends[0]);
  const coir::unique_fd in(ends[1]);
  reader on;
  wait_once(on.loop, ends[0]);
  put(ends[1], "one");
  put(ends[1], "two");
  CHECK(on.read(ends[0]) == "one");
  CHECK(on.read(ends[0]) == "two");
}

TEST_CASE("a unix stream stops where a descriptor was passed") {
  reader on;
  const support::fd_pair ends = support::socket_pair();
  wait_once(on.loop, ends[1].get());
  char byte = 'a';
  iovec part{&byte, 1};
  alignas(cmsghdr) std::array<std::byte, CMSG_SPACE(sizeof(int))> control{};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  cmsghdr* const header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(sizeof(int));
  const int passed = ends[0].get();
  std::memcpy(CMSG_DATA(header), &passed, sizeof passed);
  for (byte = 'a'; byte != 'd'; ++byte) REQUIRE(::sendmsg(ends[0].get(), &message, 0) == 1);
  CHECK(on.recv(ends[1].get()) == "a");
  CHECK(on.recv(ends[1].get()) == "b");
  CHECK(on.recv(ends[1].get()) == "c");
}

TEST_CASE("a TCP stream stops where a byte is urgent") {
  reader on;
  const support::fd_pair ends = support::tcp_pair();
  wait_once(on.loop, ends[1].get());
  put(ends[0].get(), "before");
  REQUIRE(::send(ends[0].get(), "!", 1, MSG_OOB) == 1);
  put(ends[0].get(), "behind");
  CHECK(on.recv(ends[1].get()) == "before");
  CHECK(on.recv(ends[1].get(), MSG_OOB) == "!");
  CHECK(on.recv(ends[1].get()) == "behind");
}

TEST_CASE("an eventfd that counts down gives one at a time") {
  reader on;
  const coir::unique_fd count(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC | EFD_SEMAPHORE));
  wait_once(on.loop, count.get());
  REQUIRE(::eventfd_write(count.get(), 3) == 0);
  for (int i = 0; i < 3; ++i) CHECK(on.read(count.get()).size() == 8);
}

TEST_CASE("inotify gives no part of an event") {
  namespace fs = std::filesystem;
  const fs::path folder = fs::temp_directory_path() / ("coir-short-read-" + std::to_string(::getpid()));
  fs::create_directory(folder);
  {
    reader on;
    const coir::unique_fd watch(::inotify_init1(IN_NONBLOCK | IN_CLOEXEC));
    REQUIRE(::inotify_add_watch(watch.get(), folder.c_str(), IN_CREATE) >= 0);
    wait_once(on.loop, watch.get());
    // 16 bytes and a name of 32 each: one fits in the buffer of 64.
    for (const char* name : {"a-name-of-twenty-one", "b-name-of-twenty-one", "c-name-of-twenty-one"}) {
      std::ofstream(folder / name);
    }
    for (int i = 0; i < 3; ++i) CHECK(on.read(watch.get()).size() == 48);
  }
  fs::remove_all(folder);
}

TEST_CASE("what arrives between a short read and the next request is not waited for twice") {
  for (const bool tcp : {false, true}) {
    const support::fd_pair ends = tcp ? support::tcp_pair() : support::socket_pair();
    reader on;
    wait_once(on.loop, ends[1].get());
    for (int i = 0; i < 100; ++i) {
      put(ends[0].get(), "abc");
      CHECK(on.recv(ends[1].get()) == "abc");
      put(ends[0].get(), "de");
      if (i % 2 != 0) on.loop.run_once();
      CHECK(on.recv(ends[1].get()) == "de");
    }
  }
}

TEST_CASE("the end of the stream is found after a short read, whenever the peer hung up") {
  for (const bool half : {false, true}) {
    for (const bool turn_between : {false, true}) {
      reader on;
      support::fd_pair ends = support::tcp_pair();
      wait_once(on.loop, ends[1].get());
      put(ends[0].get(), "abc");
      if (half) REQUIRE(::shutdown(ends[0].get(), SHUT_WR) == 0);
      CHECK(on.recv(ends[1].get()) == "abc");
      if (!half) ends[0].reset();
      if (turn_between) on.loop.run_once();
      CHECK(on.recv(ends[1].get()).empty());
      CHECK(on.recv(ends[1].get()).empty());
      if (half) {
        CHECK(support::finish(on.loop, request::send(ends[1].get(), support::bytes_of("back"))) == 4);
      }
    }
  }
}

TEST_CASE("a write that took less than asked waits for room, and goes on when there is some") {
  using maker = support::fd_pair (*)();
  for (const maker make : {maker(support::pipe_pair), maker([] { return support::socket_pair(); }),
                           maker(support::tcp_pair)}) {
    coir::loop loop;
    const support::fd_pair ends = make();
    const int from = ends[1].get();
    const int to = ends[0].get();
    loop.adopt(from);
    const std::vector<std::byte> block(1 << 20);
    std::size_t written = 0;
    std::size_t read = 0;
    while (written < 8U << 20) {
      support::asked put_some(request::write(from, block));
      if (loop.start(put_some.request)) {
        while (!put_some.over()) {
          read += support::drain(to);
          loop.run_once();
        }
      }
      REQUIRE(put_some.request.result > 0);
      written += static_cast<std::size_t>(put_some.request.result);
    }
    read += support::drain(to);
    CHECK(read == written);
  }
}
