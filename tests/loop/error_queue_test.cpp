// Sockets with a message in the error queue that nobody takes, or with an error that stays: the kernel shows both to
// whoever waits, whatever for.
#include "support/loop_tools.hpp"

#include <netinet/in.h>
#include <poll.h>
#include <sys/uio.h>

#include <array>
#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

using namespace std::chrono_literals;
using coir::request;
using support::asked;

namespace {

// A datagram of it was refused, and the refusal is in the queue. Non-blocking.
struct refused_socket {
  refused_socket() {
    const int on = 1;
    REQUIRE(::setsockopt(fd(), IPPROTO_IP, IP_RECVERR, &on, sizeof on) == 0);
    refuse_another();
    take_error();
  }
  int fd() const { return socket_.get(); }
  // To a port that nobody has any more.
  void refuse_another() const {
    const sockaddr_in nobody = support::own_address(support::bound_socket(SOCK_DGRAM).get());
    REQUIRE(::sendto(fd(), "x", 1, 0, support::generic(nobody), sizeof nobody) == 1);
    pollfd told{fd(), 0, 0};
    REQUIRE(::poll(&told, 1, 5000) == 1);
    REQUIRE(told.revents == POLLERR);
  }
  // What is in the queue stays.
  void take_error() const {
    int error = 0;
    socklen_t size = sizeof error;
    REQUIRE(::getsockopt(fd(), SOL_SOCKET, SO_ERROR, &error, &size) == 0);
    REQUIRE(error == ECONNREFUSED);
    pollfd still{fd(), POLLIN, 0};
    REQUIRE(::poll(&still, 1, 0) == 1);
    REQUIRE(still.revents == POLLERR);
  }
  void tell(const char* text, std::size_t size) const {
    const sockaddr_in here = support::own_address(fd());
    const coir::unique_fd from = support::bound_socket(SOCK_DGRAM);
    REQUIRE(::sendto(from.get(), text, size, 0, support::generic(here), sizeof here) == static_cast<ssize_t>(size));
  }

 private:
  coir::unique_fd socket_ = support::bound_socket(SOCK_DGRAM);
};

// The ways to receive something. Those that cost no thread of the kernel's come first: it keeps threads for a while.
enum class way { never_in_the_kernel, both, message, plain, poll_first, read };
constexpr std::array ways{way::never_in_the_kernel, way::both, way::message, way::plain, way::poll_first, way::read};

struct receive {
  receive(const refused_socket& from, way how) {
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    const int flags = how == way::never_in_the_kernel || how == way::both ? MSG_DONTWAIT : 0;
    op = std::make_unique<asked>(how == way::message ? request::recvmsg(from.fd(), &message)
                                 : how == way::read  ? request::read(from.fd(), bytes)
                                                     : request::recv(from.fd(), bytes, flags));
    op->request.expect_wait = how == way::poll_first || how == way::both;
  }
  receive(receive&&) = delete;

  std::array<std::byte, 16> bytes{};
  iovec part{bytes.data(), bytes.size()};
  msghdr message{};
  std::unique_ptr<asked> op;
};

}  // namespace

TEST_CASE("who receives is not held up by others that wait with a message in the error queue") {
  for (const way how : ways) {
    INFO("way " << static_cast<int>(how));
    coir::loop loop;
    const std::size_t threads = support::threads();
    // More than the kernel has threads for files.
    const std::vector<refused_socket> sockets(12);
    std::vector<std::unique_ptr<receive>> all;
    for (const refused_socket& each : sockets) {
      all.push_back(std::make_unique<receive>(each, how));
      REQUIRE(loop.start(all.back()->op->request));
    }
    CHECK(support::turns_of_quiet(loop) < 10 * sockets.size());
    if (how <= way::message) CHECK(support::threads() <= threads);
    for (std::size_t i = sockets.size(); i > 0; --i) {
      asked& last = *all[i - 1]->op;
      CHECK_FALSE(last.over());
      if (i % 3 == 0) {
        CHECK(support::give_up(loop, last) == -ECANCELED);
      } else {
        sockets[i - 1].tell("hello", 5);
        support::run_until(loop, [&] { return last.over(); });
        CHECK(last.seen.results == std::vector{5});
      }
    }
  }
}

TEST_CASE("who receives with a message in the error queue is told of the next error") {
  for (const way how : ways) {
    INFO("way " << static_cast<int>(how));
    coir::loop loop;
    const refused_socket socket;
    receive next(socket, how);
    REQUIRE(loop.start(next.op->request));
    CHECK(support::turns_of_quiet(loop) < 50);
    CHECK_FALSE(next.op->over());
    socket.refuse_another();
    support::run_until(loop, [&] { return next.op->over(); });
    CHECK(next.op->seen.results == std::vector{-ECONNREFUSED});
  }
}

TEST_CASE("who waits for the error queue of a connection that is over waits quietly") {
  for (const bool by_reset : {false, true}) {
    INFO("by reset: " << by_reset);
    coir::loop loop;
    support::fd_pair ends = support::tcp_pair();
    std::array<std::byte, 64> bytes{};
    iovec part{bytes.data(), bytes.size()};
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    asked errors(request::recvmsg(ends[0].get(), &message, MSG_ERRQUEUE));
    REQUIRE(loop.start(errors.request));
    support::idle_turns(loop);
    if (by_reset) {
      support::reset(ends[1]);
    } else {
      REQUIRE(::shutdown(ends[0].get(), SHUT_WR) == 0);
      REQUIRE(::shutdown(ends[1].get(), SHUT_WR) == 0);
    }
    CHECK(support::turns_of_quiet(loop) < 50);
    CHECK_FALSE(errors.over());
    CHECK(support::give_up(loop, errors) == -ECANCELED);
  }
}

TEST_CASE("who waits for the error queue takes what comes into it, after an error that stays, too") {
  coir::loop loop;
  const refused_socket socket;
  std::array<std::byte, 64> bytes{};
  iovec part{bytes.data(), bytes.size()};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  // What is there already.
  CHECK(support::finish(loop, request::recvmsg(socket.fd(), &message, MSG_ERRQUEUE)) == 1);
  asked errors(request::recvmsg(socket.fd(), &message, MSG_ERRQUEUE));
  REQUIRE(loop.start(errors.request));
  CHECK(support::turns_of_quiet(loop) < 50);
  CHECK_FALSE(errors.over());
  socket.refuse_another();
  support::run_until(loop, [&] { return errors.over(); });
  CHECK(errors.seen.results == std::vector{1});
}

TEST_CASE("what is in the error queue of a connection that was reset is told, however little it is") {
  coir::loop loop;
  support::fd_pair ends = support::tcp_pair();
  const int on = 1;
  if (::setsockopt(ends[0].get(), SOL_SOCKET, SO_ZEROCOPY, &on, sizeof on) < 0) {
    WARN("skipped: this kernel has no MSG_ZEROCOPY");
    return;
  }
  const int fd = ends[0].release();
  loop.adopt(fd);
  REQUIRE(::send(fd, "x", 1, MSG_ZEROCOPY) == 1);
  REQUIRE(support::drain(ends[1].get()) == 1);
  pollfd sent{fd, 0, 0};
  REQUIRE(::poll(&sent, 1, 5000) == 1);
  support::reset(ends[1]);
  std::array<std::byte, 8> bytes{};
  CHECK(support::finish(loop, request::recv(fd, bytes)) == -ECONNRESET);
  // It says which buffers are free again, and has no bytes.
  std::array<std::byte, 128> control{};
  iovec part{bytes.data(), bytes.size()};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  CHECK(support::finish(loop, request::recvmsg(fd, &message, MSG_ERRQUEUE)) == 0);
  CHECK(message.msg_controllen > 0);
  loop.close_soon(fd);
}
