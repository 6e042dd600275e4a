// A listening socket and what it has accepted. Private to lib/net.
#pragma once

#include <coir/loop/descriptor.hpp>
#include <coir/loop/loop.hpp>
#include <coir/loop/loop_link.hpp>
#include <coir/loop/timer_heap.hpp>
#include <coir/net/tcp.hpp>

#include <deque>

namespace coir::net::priv {

// Lives until the kernel has let go of its request: destroying the listener only says that nobody will
// come any more.
class acceptor : public waiter {
 public:
  // `lingering`: so are the streams that are accepted.
  acceptor(loop& on, descriptor socket, bool lingering);

  // The listener is gone. From any thread.
  void abandon() noexcept;

  // True: `who` will be told. False: it has its connection, or its error.
  bool wait(accept_op& who, waiter& told);
  // True: it gave up its place. False: it has been told.
  bool stop_waiting(accept_op& who) noexcept;

  int fd() const noexcept { return socket_.get(); }
  tcp_listener_stats stats() const noexcept { return stats_; }

 private:
  ~acceptor() = default;

  void arm();
  void go_on() noexcept;
  void handle(int result) noexcept;
  void give(int fd) noexcept;
  void fail_all(int error) noexcept;
  void hold_back() noexcept;
  void pause() noexcept;
  accept_op* pop() noexcept;
  void end(loop* on) noexcept;
  static void on_result(waiter& self) noexcept;
  static void resume(timer_node& which);
  static constexpr waiter_kind kind{on_result};

  // The pause of a starved listener ends here.
  struct pause_timer : timer_node {
    explicit pause_timer(acceptor* owner) noexcept : timer_node(resume), whose(owner) {}
    acceptor* whose;
  };

  loop_link link_;
  loop& loop_;
  descriptor socket_;
  request request_;
  std::deque<descriptor> ready_;  // accepted, and nobody's yet
  accept_op* first_ = nullptr;    // who waits, the oldest
  accept_op* last_ = nullptr;
  pause_timer paused_{this};
  tcp_listener_stats stats_;
  bool multishot_;
  bool lingering_;
  bool abandoned_ = false;
  bool held_back_ = false;  // withdrawn: enough are ready, or nobody waits
  bool lost_ = false;       // ended by others: by now the number may be somebody else's
};

}  // namespace coir::net::priv
