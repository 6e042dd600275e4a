// For each kind of request a stage on which it waits, or can be served, as a test likes.
#pragma once

#include "support/loop_tools.hpp"

#include <poll.h>
#include <sys/mman.h>
#include <sys/uio.h>

#include <string>
#include <vector>

namespace tests {

inline constexpr int a_descriptor = -1;

class stage;

struct row {
  coir::request_kind kind;
  const char* name;
  bool waits;      // it can be made to wait
  bool multishot;  // it is not over when it has told of a result
  int yields;      // the result when it is served
  coir::request (*make)(stage&);
  void (*block)(stage&);        // before it is started: now it must wait
  void (*ready)(stage&);        // now it can be served
  bool (*untouched)(stage&);    // it can be served, and was not
};

class stage {
 public:
  explicit stage(const row& of) : kind(of), what(on_its_way(*this)) {
    what.seen.then = [this](coir::request& told) { keep(told); };
  }
  ~stage() {
    if (!what.over()) support::give_up(loop, what);
  }

  void make_ready() { kind.ready(*this); }
  // Waits for the first result, or the only one.
  int serve() {
    if (!loop.start(what.request)) {
      keep(what.request);
      return what.request.result;
    }
    support::run_until(loop, [&] { return what.seen.count() != 0; });
    return what.seen.results.front();
  }
  bool is_good(int result) const {
    return kind.yields == a_descriptor ? result >= 0 : result == kind.yields;
  }
  // Another one like it is served.
  bool serves_another() {
    support::asked next(kind.make(*this));
    next.seen.then = [this](coir::request& told) { keep(told); };
    if (loop.start(next.request)) {
      support::run_until(loop, [&] { return next.seen.count() != 0; });
    } else {
      keep(next.request);
    }
    const int result = next.seen.count() != 0 ? next.seen.results.front() : next.request.result;
    if (!next.over()) support::give_up(loop, next);
    return is_good(result);
  }

  const row& kind;
  coir::loop loop;
  support::fd_pair ends = support::socket_pair();
  support::fd_pair pipe = support::pipe_pair();
  coir::unique_fd listener = support::tcp_listener();
  coir::unique_fd socket = support::tcp_socket();
  coir::unique_fd file{::memfd_create("stage", MFD_CLOEXEC)};
  sockaddr_in where = support::own_address(listener.get());
  std::vector<coir::unique_fd> clients;
  std::string text = "twelve bytes";
  std::array<std::byte, 64> buffer{};
  iovec in{buffer.data(), buffer.size()};
  iovec out{text.data(), text.size()};
  msghdr message_in{};
  msghdr message_out{};
  support::asked what;

 private:
  static coir::request on_its_way(stage& self) {
    self.message_in.msg_iov = &self.in;
    self.message_out.msg_iov = &self.out;
    self.message_in.msg_iovlen = self.message_out.msg_iovlen = 1;
    coir::request made = self.kind.make(self);
    if (self.kind.block != nullptr) self.kind.block(self);
    return made;
  }
  // What was received belongs to whoever was told.
  void keep(coir::request& told) {
    if (told.result < 0) return;
    if (kind.yields == a_descriptor) ::close(told.result);
    if (kind.kind == coir::request_kind::recv_multi && told.result > 0) {
      loop.chunks().claim(told.chunk(), static_cast<std::size_t>(told.result));
    }
  }
};

// The table of lib/loop/request.cpp, row by row.
inline const std::vector<row>& rows() {
  using coir::request;
  using coir::request_kind;
  using support::bytes_of;
  constexpr auto fill_pipe = [](stage& on) { support::fill(on.pipe[1].get()); };
  constexpr auto empty_pipe = [](stage& on) { support::drain(on.pipe[0].get()); };
  constexpr auto pipe_is_empty = [](stage& on) { return support::drain(on.pipe[0].get()) == 0; };
  constexpr auto feed_pipe = [](stage& on) {
    REQUIRE(::write(on.pipe[1].get(), on.text.data(), on.text.size()) == 12);
  };
  constexpr auto fill_socket = [](stage& on) { support::fill(on.ends[0].get()); };
  constexpr auto empty_socket = [](stage& on) { support::drain(on.ends[1].get()); };
  constexpr auto socket_is_empty = [](stage& on) { return support::drain(on.ends[1].get()) == 0; };
  constexpr auto feed_socket = [](stage& on) {
    REQUIRE(::write(on.ends[1].get(), on.text.data(), on.text.size()) == 12);
  };
  constexpr auto knock = [](stage& on) { on.clients.push_back(support::tcp_client(on.where)); };
  constexpr auto nothing = [](stage&) {};
  constexpr auto another = [](stage& on) { return on.serves_another(); };
  static const std::vector<row> all{
      {request_kind::read, "read", true, false, 12,
       [](stage& on) { return request::read(on.pipe[0].get(), on.buffer); }, nullptr, feed_pipe, another},
      {request_kind::write, "write", true, false, 12,
       [](stage& on) { return request::write(on.pipe[1].get(), bytes_of(on.text)); }, fill_pipe,
       empty_pipe, pipe_is_empty},
      {request_kind::readv, "readv", true, false, 12,
       [](stage& on) { return request::readv(on.pipe[0].get(), &on.in, 1); }, nullptr, feed_pipe, another},
      {request_kind::writev, "writev", true, false, 12,
       [](stage& on) { return request::writev(on.pipe[1].get(), &on.out, 1); }, fill_pipe, empty_pipe,
       pipe_is_empty},
      {request_kind::recv, "recv", true, false, 12,
       [](stage& on) { return request::recv(on.ends[0].get(), on.buffer); }, nullptr, feed_socket,
       another},
      {request_kind::recv_multi, "recv_multi", true, true, 12,
       [](stage& on) { return request::recv_multi(on.ends[0].get()); }, nullptr, feed_socket, another},
      {request_kind::send, "send", true, false, 12,
       [](stage& on) { return request::send(on.ends[0].get(), bytes_of(on.text)); }, fill_socket,
       empty_socket, socket_is_empty},
      {request_kind::recvmsg, "recvmsg", true, false, 12,
       [](stage& on) { return request::recvmsg(on.ends[0].get(), &on.message_in); }, nullptr,
       feed_socket, another},
      {request_kind::sendmsg, "sendmsg", true, false, 12,
       [](stage& on) { return request::sendmsg(on.ends[0].get(), &on.message_out); }, fill_socket,
       empty_socket, socket_is_empty},
      {request_kind::accept, "accept", true, false, a_descriptor,
       [](stage& on) { return request::accept(on.listener.get()); }, nullptr, knock, another},
      {request_kind::accept_multi, "accept_multi", true, true, a_descriptor,
       [](stage& on) { return request::accept_multi(on.listener.get()); }, nullptr, knock, another},
      // How one waits needs a peer that does not answer: connect_test.cpp.
      {request_kind::connect, "connect", false, false, 0,
       [](stage& on) { return support::connect_to(on.socket.get(), on.where); }, nullptr, nothing,
       nullptr},
      {request_kind::poll, "poll", true, false, POLLIN,
       [](stage& on) { return request::poll(on.ends[0].get(), POLLIN); }, nullptr, feed_socket, another},
      {request_kind::open, "open", false, false, a_descriptor,
       [](stage&) { return request::open("/dev/null", O_RDONLY, 0); }, nullptr, nothing, nullptr},
      {request_kind::close, "close", false, false, 0,
       [](stage& on) { return request::close(on.file.release()); }, nullptr, nothing, nullptr},
      {request_kind::fsync, "fsync", false, false, 0,
       [](stage& on) { return request::fsync(on.file.get()); }, nullptr, nothing, nullptr},
  };
  return all;
}

}  // namespace tests
