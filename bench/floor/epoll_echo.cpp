// Floor: TCP echo on bare epoll, the least a readiness loop can cost.
//
// One thread, one receive buffer for all connections (it stays in the first-level cache), and two
// system calls a request beside a shared epoll_wait. A connection owns memory only while the peer
// does not take its echo fast enough.
//
// Why edge-triggered is the default: a level-triggered socket goes back to the ready list after
// every event, so each epoll_wait asks it again and finds it empty. The price of edges is that a
// receive must either empty the socket or be known to have: a receive that does not fill the
// buffer has emptied it.

#include "../command_line.hpp"
#include "../echo_listener.hpp"

#include <sys/epoll.h>

#include <vector>

namespace {

struct connection {
  std::vector<char> unsent;  // what the kernel refused; while it is not empty nothing is read
  std::size_t unsent_begin = 0;
};

class server {
 public:
  server(int port, bool edge_triggered, std::size_t buffer_bytes, std::size_t events_at_once)
      : triggering_(edge_triggered ? static_cast<unsigned>(EPOLLET) : 0u),
        connections_(echo::raise_file_limit()),
        buffer_(buffer_bytes),
        events_(events_at_once),
        epoll_(epoll_create1(EPOLL_CLOEXEC)),
        listener_(echo::listen_on_loopback(port, SOCK_NONBLOCK)) {
    if (epoll_ < 0) {
      echo::fail("epoll_create1", errno);
    }
    // Level-triggered: what one round of accepts leaves behind shows up again by itself.
    watch(EPOLL_CTL_ADD, listener_, EPOLLIN);
  }

  [[noreturn]] void run() {
    echo::announce(listener_);
    for (;;) {
      const int ready = epoll_wait(epoll_, events_.data(), static_cast<int>(events_.size()), -1);
      if (ready < 0 && errno != EINTR) {
        echo::fail("epoll_wait", errno);
      }
      for (int i = 0; i < ready; ++i) {
        if (events_[i].data.fd == listener_) {
          accept_all();
        } else {
          serve(events_[i].data.fd, events_[i].events);
        }
      }
    }
  }

 private:
  void watch(int operation, int fd, unsigned interest) {
    epoll_event event{};
    event.events = interest;
    event.data.fd = fd;
    if (epoll_ctl(epoll_, operation, fd, &event) != 0) {
      echo::fail("epoll_ctl", errno);
    }
  }

  void accept_all() {
    for (;;) {
      const int fd = accept4(listener_, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
      if (fd < 0) {
        if (errno == EAGAIN || errno == ECONNABORTED || errno == EINTR) {
          return;
        }
        echo::fail("accept4", errno);
      }
      // With edges, asking for EPOLLOUT once and for all costs nothing until a send fails.
      watch(EPOLL_CTL_ADD, fd,
            triggering_ ? EPOLLIN | EPOLLOUT | EPOLLRDHUP | triggering_
                        : static_cast<unsigned>(EPOLLIN));
    }
  }

  void serve(int fd, unsigned events) {
    // An end of stream that came with the last bytes has no edge of its own: read on for it.
    const bool ending = (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0;
    connection& peer = connections_[fd];
    if (!peer.unsent.empty() && !send_rest(fd, peer)) {
      return;
    }
    for (;;) {
      const ssize_t received = recv(fd, buffer_.data(), buffer_.size(), 0);
      if (received <= 0) {
        if (received == 0 || errno != EAGAIN) {
          close(fd);
        }
        return;
      }
      const ssize_t sent = send(fd, buffer_.data(), received, MSG_NOSIGNAL);
      if (sent < 0 && errno != EAGAIN) {
        close(fd);
        return;
      }
      if (sent < received) {
        const std::size_t done = sent < 0 ? 0 : sent;
        peer.unsent.assign(buffer_.data() + done, buffer_.data() + received);
        peer.unsent_begin = 0;
        if (triggering_ == 0) {
          watch(EPOLL_CTL_MOD, fd, EPOLLOUT);
        }
        return;
      }
      const bool emptied = static_cast<std::size_t>(received) < buffer_.size();
      if (triggering_ == 0 || (emptied && !ending)) {
        return;
      }
    }
  }

  // True when everything left has gone and reading may go on.
  bool send_rest(int fd, connection& peer) {
    const std::size_t left = peer.unsent.size() - peer.unsent_begin;
    const ssize_t sent = send(fd, peer.unsent.data() + peer.unsent_begin, left, MSG_NOSIGNAL);
    if (sent < 0) {
      if (errno != EAGAIN) {
        peer.unsent.clear();
        close(fd);
      }
      return false;
    }
    peer.unsent_begin += sent;
    if (peer.unsent_begin < peer.unsent.size()) {
      return false;
    }
    peer.unsent.clear();
    if (triggering_ == 0) {
      watch(EPOLL_CTL_MOD, fd, EPOLLIN);
    }
    return true;
  }

  const unsigned triggering_;
  std::vector<connection> connections_;  // by file descriptor
  std::vector<char> buffer_;
  std::vector<epoll_event> events_;
  const int epoll_;
  const int listener_;
};

}  // namespace

int main(int argc, char** argv) {
  command_line arguments(argc, argv);
  const int port = arguments.number("--port", 0, 0, 65535);
  const bool edge_triggered = arguments.choice("--trigger", {"edge", "level"}) == "edge";
  const auto buffer_bytes = arguments.number<std::size_t>("--buffer-bytes", 65536, 1, 1u << 30);
  const auto events_at_once = arguments.number<std::size_t>("--events", 256, 1, 65536);
  arguments.finish();
  server(port, edge_triggered, buffer_bytes, events_at_once).run();
}
