// What holds for every kind of request, on both backends: one row here for each row of the table in
// lib/loop/request.cpp. What a kind does beyond this is in the file named after it.
#include "loop/contract.hpp"

#include <sys/un.h>
#include <unistd.h>

#include <limits>
#include <memory>
#include <string>

using coir::request;
using tests::row;
using tests::stage;

namespace {

// Calls `test` for each kind that can be made to wait.
template <class Test>
void for_each_that_waits(Test&& test) {
  for (const row& kind : tests::rows()) {
    INFO(kind.name);
    if (kind.waits) support::leaves_no_descriptor([&] { test(kind); });
  }
}

int on_descriptor(const row& kind, int number) {
  stage on(kind);
  if (kind.kind == coir::request_kind::close) ::close(on.what.request.fd);
  on.what.request.fd = number;
  return on.serve();
}

}  // namespace

TEST_CASE("every kind has a row here, and a name of its own") {
  REQUIRE(tests::rows().size() == coir::request_kinds);
  for (unsigned i = 0; i < coir::request_kinds; ++i) {
    CHECK(tests::rows()[i].kind == coir::request_kind(i));
    CHECK(std::string(name_of(coir::request_kind(i))) == tests::rows()[i].name);
  }
}

TEST_CASE("a request that can be served is served, and told of when it was not over at once") {
  for (const row& kind : tests::rows()) {
    INFO(kind.name);
    support::leaves_no_descriptor([&] {
      stage on(kind);
      on.make_ready();
      CHECK(on.is_good(on.serve()));
      CHECK(on.what.over() != kind.multishot);
      CHECK(on.loop.in_flight() == (kind.multishot ? 1 : 0));
    });
  }
}

TEST_CASE("a request that must wait waits, and is served when what it waits for has come") {
  for_each_that_waits([](const row& kind) {
    stage on(kind);
    REQUIRE(on.loop.start(on.what.request));
    support::idle_turns(on.loop);
    CHECK_FALSE(on.what.over());
    CHECK(on.what.seen.count() == 0);
    CHECK(on.loop.in_flight() == 1);
    CHECK(on.loop.can_wake());
    on.make_ready();
    support::run_until(on.loop, [&] { return on.what.seen.count() != 0; });
    support::idle_turns(on.loop);
    REQUIRE(on.what.seen.count() == 1);
    CHECK(on.is_good(on.what.seen.last()));
    CHECK(on.what.over() != kind.multishot);
  });
}

TEST_CASE("a descriptor that is not open gives -EBADF, whatever its number") {
  for (const row& kind : tests::rows()) {
    INFO(kind.name);
    if (kind.kind == coir::request_kind::open) continue;
    support::leaves_no_descriptor([&] {
      CHECK(on_descriptor(kind, -1) == -EBADF);
      CHECK(on_descriptor(kind, std::numeric_limits<int>::min()) == -EBADF);
      CHECK(on_descriptor(kind, 9999) == -EBADF);
      CHECK(on_descriptor(kind, 1'000'000) == -EBADF);
    });
  }
}

TEST_CASE("a descriptor of the wrong sort gives the kernel's error") {
  coir::loop loop;
  const support::fd_pair ends = support::pipe_pair();
  std::array<std::byte, 8> buffer{};
  msghdr message{};
  using coir::request;
  CHECK(support::finish(loop, request::recv(ends[0].get(), buffer)) == -ENOTSOCK);
  CHECK(support::finish(loop, request::send(ends[1].get(), buffer)) == -ENOTSOCK);
  CHECK(support::finish(loop, request::recvmsg(ends[0].get(), &message)) == -ENOTSOCK);
  CHECK(support::finish(loop, request::sendmsg(ends[1].get(), &message)) == -ENOTSOCK);
  CHECK(support::finish(loop, request::accept(ends[0].get())) == -ENOTSOCK);
  CHECK(support::finish(loop, request::accept_multi(ends[0].get())) == -ENOTSOCK);
  CHECK(support::finish(loop, request::recv_multi(ends[0].get())) == -ENOTSOCK);
  CHECK(support::finish(loop, request::read(ends[1].get(), buffer)) == -EBADF);
  CHECK(support::finish(loop, request::write(ends[0].get(), buffer)) == -EBADF);
  CHECK(support::finish(loop, request::fsync(ends[0].get())) == -EINVAL);
  CHECK(loop.chunks().free() == loop.chunks().count());
  CHECK(loop.in_flight() == 0);
}

TEST_CASE("a request that waits can be withdrawn, and what comes afterwards is left to the next") {
  for_each_that_waits([](const row& kind) {
    stage on(kind);
    REQUIRE(on.loop.start(on.what.request));
    support::idle_turns(on.loop);
    CHECK(support::give_up(on.loop, on.what) == -ECANCELED);
    CHECK(on.loop.in_flight() == 0);
    CHECK_FALSE(on.loop.can_wake());
    on.make_ready();
    support::idle_turns(on.loop);
    CHECK(kind.untouched(on));
  });
}

TEST_CASE("a request can be withdrawn in the turn in which it was started") {
  for_each_that_waits([](const row& kind) {
    stage on(kind);
    REQUIRE(on.loop.start(on.what.request));
    CHECK(support::give_up(on.loop, on.what) == -ECANCELED);
    CHECK(on.loop.in_flight() == 0);
  });
}

TEST_CASE("a request withdrawn just when it can be served either was, or left everything as it is") {
  for_each_that_waits([](const row& kind) {
    for (int round = 0; round < 20; ++round) {
      stage on(kind);
      REQUIRE(on.loop.start(on.what.request));
      // Before the kernel has heard of it, or while it waits.
      if (round % 2 != 0) on.loop.run_once();
      on.make_ready();
      support::give_up(on.loop, on.what);
      CHECK(on.loop.in_flight() == 0);
      if (on.what.seen.count() == 0 || on.what.seen.results.front() == -ECANCELED) {
        CHECK(kind.untouched(on));
      } else {
        CHECK(on.is_good(on.what.seen.results.front()));
      }
    }
  });
}

TEST_CASE("a withdrawal that is asked for again changes nothing") {
  for_each_that_waits([](const row& kind) {
    stage on(kind);
    REQUIRE(on.loop.start(on.what.request));
    support::idle_turns(on.loop);
    if (on.loop.withdraw(on.what.request) == coir::abort_answer::now) return;
    CHECK(on.loop.withdraw(on.what.request) == coir::abort_answer::later);
    support::run_until(on.loop, [&] { return on.what.over(); });
    CHECK(on.what.seen.results == std::vector{-ECANCELED});
  });
}

TEST_CASE("a request that is over can be started again, as often as one likes") {
  for_each_that_waits([](const row& kind) {
    stage on(kind);
    for (int round = 0; round < 5; ++round) {
      REQUIRE(on.loop.start(on.what.request));
      if (round % 2 != 0) on.loop.run_once();
      support::give_up(on.loop, on.what);
    }
    on.what.seen.results.clear();
    on.make_ready();
    CHECK(on.is_good(on.serve()));
  });
}

TEST_CASE("hundreds of one kind on one descriptor are all over when they are withdrawn") {
  for_each_that_waits([](const row& kind) {
    stage on(kind);
    std::vector<std::unique_ptr<support::asked>> many;
    for (int i = 0; i < 300; ++i) {
      many.push_back(std::make_unique<support::asked>(kind.make(on)));
      REQUIRE(on.loop.start(many.back()->request));
    }
    on.loop.run_once();
    for (auto& each : many) on.loop.withdraw(each->request);
    support::run_until(on.loop, [&] { return on.loop.in_flight() == 0; });
    for (auto& each : many) REQUIRE((each->over() && each->seen.count() <= 1));
  });
}

TEST_CASE("what moves nothing waits for nothing") {
  for (const bool owned : {false, true}) {
    coir::loop loop;
    support::fd_pair ends = support::socket_pair();
    const int fd = ends[0].get();
    if (owned) loop.adopt(ends[0].release());
    support::fill(fd);
    std::array<std::byte, 4> buffer;
    // Others know that there is neither room nor data.
    support::asked write(request::send(fd, support::bytes_of("more")));
    support::asked read(request::recv(fd, buffer));
    REQUIRE(loop.start(write.request));
    REQUIRE(loop.start(read.request));
    support::idle_turns(loop);
    CHECK(support::finish(loop, request::send(fd, {})) == 0);
    CHECK(support::finish(loop, request::write(fd, {})) == 0);
    CHECK(support::finish(loop, request::read(fd, {})) == 0);
    CHECK_FALSE(write.over());
    CHECK_FALSE(read.over());
    support::give_up(loop, write);
    support::give_up(loop, read);
    if (owned) loop.close_soon(fd);
  }
}

TEST_CASE("who reads hears of a reset that somebody else was told of before, and of the end of what comes after it") {
  coir::loop loop;
  support::fd_pair ends = support::tcp_pair();
  const int fd = ends[0].release();
  loop.adopt(fd);
  std::array<std::byte, 4> buffer;
  support::asked read(request::recv(fd, buffer));
  REQUIRE(loop.start(read.request));
  support::idle_turns(loop);
  support::reset(ends[1]);
  // The one error that the kernel has goes to whoever asks first.
  const int sent = support::finish(loop, request::send(fd, support::bytes_of("x")));
  CHECK((sent == -ECONNRESET || sent == -EPIPE));
  support::run_until(loop, [&] { return read.over(); });
  CHECK(read.seen.results == std::vector{-ECONNRESET});
  CHECK(support::finish(loop, request::recv(fd, buffer)) == -ECONNRESET);
  CHECK(support::finish(loop, request::recv(fd, {})) == 0);
  // The socket connects anew, and its next end is an orderly one.
  const sockaddr apart{AF_UNSPEC, {}};
  REQUIRE(::connect(fd, &apart, sizeof apart) == 0);
  const coir::unique_fd listener = support::tcp_listener();
  const sockaddr_in where = support::own_address(listener.get());
  REQUIRE(support::finish(loop, support::connect_to(fd, where)) == 0);
  coir::unique_fd peer(::accept(listener.get(), nullptr, nullptr));
  peer.reset();
  CHECK(support::finish(loop, request::recv(fd, buffer)) == 0);
  loop.close_soon(fd);
}

TEST_CASE("a call that was wrong is no failure of a connection whose end is to be read yet") {
  coir::loop loop;
  support::fd_pair ends = support::tcp_pair();
  const int fd = ends[0].release();
  loop.adopt(fd);
  REQUIRE(::send(ends[1].get(), "abc", 3, 0) == 3);
  REQUIRE(::shutdown(ends[1].get(), SHUT_WR) == 0);
  pollfd over{fd, POLLRDHUP, 0};
  REQUIRE(::poll(&over, 1, 5000) == 1);
  REQUIRE(::shutdown(fd, SHUT_WR) == 0);
  // Both have said that they send no more: for the kernel the connection is over.
  over.events = 0;
  REQUIRE(::poll(&over, 1, 5000) == 1);
  std::array<std::byte, 4> buffer;
  std::vector<iovec> parts(2000, iovec{buffer.data(), 1});
  msghdr message{};
  message.msg_iov = parts.data();
  message.msg_iovlen = parts.size();
  CHECK(support::finish(loop, request::recvmsg(fd, &message)) == -EMSGSIZE);
  CHECK(support::finish(loop, request::recv(fd, buffer)) == 3);
  CHECK(support::finish(loop, request::recv(fd, buffer)) == 0);
  loop.close_soon(fd);
}

TEST_CASE("an empty message is one: it comes behind those that wait, and is no end after a reset") {
  coir::loop loop;
  std::array<std::byte, 4096> buffer;
  if (!support::on_uring(loop)) {
    // There the kernel decides.
    support::fd_pair ends = support::socket_pair(SOCK_SEQPACKET);
    support::fill(ends[0].get());
    support::asked first(request::send(ends[0].get(), support::bytes_of("abc")));
    REQUIRE(loop.start(first.request));
    support::idle_turns(loop);
    support::drain(ends[1].get());
    support::asked second(request::send(ends[0].get(), {}));
    if (loop.start(second.request)) support::run_until(loop, [&] { return second.over(); });
    CHECK(first.over());
    CHECK(support::finish(loop, request::recv(ends[1].get(), buffer)) == 3);
  }
  // One that hears of a reset, and lives on: its peer drops what it has not read, and connects elsewhere.
  support::fd_pair ends = support::socket_pair(SOCK_DGRAM);
  const coir::unique_fd elsewhere(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  const auto named_by_kernel = [](int fd, sockaddr_un& name) {
    name.sun_family = AF_UNIX;
    auto* const generic = reinterpret_cast<sockaddr*>(&name);
    REQUIRE(::bind(fd, generic, sizeof name.sun_family) == 0);
    socklen_t size = sizeof name;
    REQUIRE(::getsockname(fd, generic, &size) == 0);
    return size;
  };
  sockaddr_un there{}, here{};
  const socklen_t there_bytes = named_by_kernel(elsewhere.get(), there);
  const socklen_t here_bytes = named_by_kernel(ends[1].get(), here);
  REQUIRE(::send(ends[1].get(), "unread", 6, 0) == 6);
  REQUIRE(::connect(ends[0].get(), reinterpret_cast<const sockaddr*>(&there), there_bytes) == 0);
  const int fd = ends[1].release();
  loop.adopt(fd);
  CHECK(support::finish(loop, request::recv(fd, buffer)) == -ECONNRESET);
  REQUIRE(::sendto(ends[0].get(), "", 0, 0, reinterpret_cast<const sockaddr*>(&here), here_bytes) == 0);
  CHECK(support::finish(loop, request::recv(fd, buffer)) == 0);
  loop.close_soon(fd);
}

TEST_CASE("MSG_WAITALL is not heeded: what is there is the result") {
  coir::loop loop;
  const support::fd_pair ends = support::socket_pair();
  REQUIRE(::write(ends[1].get(), "abc", 3) == 3);
  std::array<std::byte, 10> buffer;
  CHECK(support::finish(loop, request::recv(ends[0].get(), buffer, MSG_WAITALL)) == 3);
  REQUIRE(::write(ends[1].get(), "defg", 4) == 4);
  iovec part{buffer.data(), buffer.size()};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  CHECK(support::finish(loop, request::recvmsg(ends[0].get(), &message, MSG_WAITALL)) == 4);
}

TEST_CASE("MSG_WAITALL is not heeded: what there is room for is the result") {
  coir::loop loop;
  std::vector<std::byte> much(std::size_t{16} << 20);
  const int all = static_cast<int>(much.size());
  const support::fd_pair ends = support::socket_pair();
  const int sent = support::finish(loop, request::send(ends[0].get(), much, MSG_WAITALL));
  CHECK((sent > 0 && sent < all));
  const support::fd_pair others = support::socket_pair();
  iovec part{much.data(), much.size()};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  const int sent_as_message = support::finish(loop, request::sendmsg(others[0].get(), &message, MSG_WAITALL));
  CHECK((sent_as_message > 0 && sent_as_message < all));
}

TEST_CASE("who waits for the error queue holds up nobody who waits for data") {
  coir::loop loop;
  const coir::unique_fd mine = support::bound_socket(SOCK_DGRAM);
  const coir::unique_fd other = support::bound_socket(SOCK_DGRAM);
  std::array<char, 8> errors;
  std::array<char, 8> data;
  iovec into_errors{errors.data(), errors.size()};
  iovec into_data{data.data(), data.size()};
  msghdr about_errors{};
  about_errors.msg_iov = &into_errors;
  about_errors.msg_iovlen = 1;
  msghdr about_data{};
  about_data.msg_iov = &into_data;
  about_data.msg_iovlen = 1;
  support::asked first(request::recvmsg(mine.get(), &about_errors, MSG_ERRQUEUE));
  support::asked second(request::recvmsg(mine.get(), &about_data));
  // io_uring does not wait for the error queue, whose like is ready with EPOLLERR only.
  const bool waits = loop.start(first.request);
  REQUIRE(loop.start(second.request));
  loop.run_once();
  const sockaddr_in where = support::own_address(mine.get());
  REQUIRE(::sendto(other.get(), "hi", 2, 0, support::generic(where), sizeof where) == 2);
  support::run_until(loop, [&] { return second.over(); });
  CHECK(second.seen.results == std::vector{2});
  if (waits && !first.over()) CHECK(support::give_up(loop, first) == -ECANCELED);
}
