// The streams and listeners of a simulator, and its dice. Private to lib/testing.
#pragma once

#include <coir/base/fd.hpp>
#include <coir/loop/request.hpp>
#include <coir/testing/dice.hpp>
#include <coir/testing/simulator.hpp>

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <vector>

namespace coir::testing {

class sim_world {
 public:
  explicit sim_world(const simulator_options& chosen) : options(chosen), draws(chosen.seed_) {}

  std::array<unique_fd, 2> pair();
  unique_fd listen(const net::address& where, std::size_t backlog);
  void reset(int fd);
  std::size_t unread(int fd);
  // Nobody tells when a listener is closed; those who wait there are to hear of it.
  void close_backlogs();

  // The request is this world's to serve, and not the kernel's.
  bool has(const request& what);
  // It would be over: with a result, or an error.
  bool is_ready(const request& what);
  // Its result, or -EAGAIN.
  int attempt(request& what);
  // How many of `possible` bytes are moved.
  std::size_t share_of(std::size_t possible) noexcept;

  void note(std::uint64_t number, int result) noexcept;

  const simulator_options options;
  dice draws;
  std::uint64_t fingerprint = 0xcbf2'9ce4'8422'2325;
  bool has_loop = false;

 private:
  // One direction of a stream.
  struct channel {
    std::vector<std::byte> bytes;
    bool cut = false;  // the connection was reset
  };
  // Whether a direction was ended, by shutdown(2) or close(2) of either side, the silent socket knows.
  struct end {
    ino_t number;  // of the silent socket: another one behind the same descriptor is not this end
    std::shared_ptr<channel> in;   // null: a listener
    std::shared_ptr<channel> out;
    bool heard_reset = false;
    std::size_t backlog = 0;  // of a listener: how many may wait
    std::deque<unique_fd> waiting;
    net::address where;
  };

  end* find(int fd);
  end* listener_at(const request& what);
  end& add(int fd);
  std::array<unique_fd, 2> silent_pair() const;
  static int hear_reset(end& of);
  int receive(const request& what, end& of);
  int send(const request& what, end& of);
  int accept(end& of);
  int connect(const request& what);
  int poll(const request& what, end& of);

  std::map<int, end> ends_;
};

}  // namespace coir::testing
