// What a stream's multishot receive has brought. Private to lib/net.
#pragma once

#include <coir/loop/chunk.hpp>
#include <coir/loop/loop.hpp>
#include <coir/loop/loop_link.hpp>
#include <coir/net/tcp.hpp>

#include <cstddef>
#include <span>
#include <utility>
#include <vector>

namespace coir::net::priv {

// Lives until the kernel has let go of its request: destroying the stream only says that nobody will read
// any more.
class receiver : public waiter {
 public:
  receiver(loop& on, int fd);

  int fd() const noexcept { return fd_; }

  // The stream is being closed: whoever reads, or will, gets std::errc::bad_file_descriptor.
  void shut() noexcept;
  // The stream is gone, and its descriptor given to the closing path. From any thread.
  void abandon() noexcept;

  // True: `told` will be told when there is something to take. Throws std::logic_error when somebody else
  // waits.
  bool wait(receive_wait& who, waiter& told);
  void stop_waiting() noexcept;

  // For whoever is served: the first chunk, or bytes of it; nothing at the end of the stream.
  chunk take() noexcept {
    chunk taken(std::move(first_));
    if (head_ != queue_.size()) [[unlikely]]
      move_up();
    return taken;
  }
  std::size_t take_into(std::span<std::byte> into) noexcept;

 private:
  ~receiver() = default;

  void arm();
  void begin();
  void handle(int result) noexcept;
  void keep(chunk arrived);
  void keep_behind(chunk arrived);
  void move_up() noexcept;
  void drop_all() noexcept;
  void hold_back() noexcept;
  void fail(int error) noexcept;
  void serve_waiting() noexcept;
  void end(loop* on) noexcept;
  bool has_something() const noexcept { return first_ || ended_ || error_ != 0; }
  void serve(receive_wait& who) noexcept;
  static void on_result(waiter& self) noexcept;
  static constexpr waiter_kind kind{on_result};

  loop_link link_;
  loop& loop_;
  request request_;
  chunk first_;               // of those that wait; without it there is nothing in queue_ either
  std::vector<chunk> queue_;  // those behind it, from head_ on
  std::size_t head_ = 0;
  chunk own_;  // the memory of a plain receive, while the pool has none
  receive_wait* waiting_ = nullptr;
  int fd_;
  int error_ = 0;
  bool ended_ = false;
  bool abandoned_ = false;
  bool held_back_ = false;  // the request in flight was told to stop: enough is in the queue
  bool starved_ = false;    // no chunk was free: plain receives until a quarter of the pool is back
};

}  // namespace coir::net::priv
