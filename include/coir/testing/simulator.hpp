// coir/testing/simulator.hpp: the third backend: streams in memory, and an order of completions drawn from a
// seed, with faults on demand.
//
//   coir::testing::simulator sim(coir::testing::simulator_options().seed(7).faults(0.2));
//   coir::run([&] {
//     auto [client, server] = sim.streams();                 // two coir::net::tcp_stream
//     coir::await(coir::io::write_all(client, bytes_of("ping")));
//     coir::await(coir::sleep_for(1h));                      // takes microseconds
//     ...
//   }, sim.for_run());                                       [tests/testing/simulator_test.cpp]
//
// A request finishes inside start(), or in a later turn, as the seed says. Those of one direction on one
// descriptor stay in order, as on a real kernel; all others are told in an order of the seed. What is withdrawn
// is over now or later, and after `later` may still succeed. On no real kernel does a test see all of this.
//
// Shape    an object to give to loop_options; it has the clock of its loop, which jumps when everything waits.
//          One loop at a time. A stream's end is a number for requests and for net::tcp_stream. The bytes are
//          in memory; behind the number is a real but silent socket, so that it collides with no other, and
//          shutdown(2) and close(2) mean what they always mean. Real descriptors work too, watchers, wakers and
//          posts included, but their order is the kernel's.
// Order    drawn, and the same for the same seed. What other threads and real descriptors bring is not.
// Thread   the loop's. It must outlive the loop.
// Cancel   withdrawing is drawn: now, later, or later with success after all.
// Errors   as on sockets: -ECONNRESET after reset(), -EPIPE, -ENOTSOCK. getsockname(2) knows no IP address,
//          and options of TCP are refused, each with its name: the silent socket is a Unix one. Flags of recv
//          and send beyond MSG_PEEK, MSG_DONTWAIT and MSG_NOSIGNAL, and an offset: as the silent socket
//          answers. std::logic_error for a second loop.
//          When only what others in the loop could do is waited for, that is a deadlock, and coir::run says so.
// Cost     about ten microseconds a request: each in flight is looked at in every turn, with a system call or two.
// See      coir/testing/seeds.hpp, which runs a test for many seeds; lib/testing/NOTE.md
#pragma once

#include <coir/base/fd.hpp>
#include <coir/fiber/run.hpp>
#include <coir/loop/backend.hpp>
#include <coir/loop/loop.hpp>
#include <coir/net/address.hpp>
#include <coir/net/tcp.hpp>
#include <coir/testing/mock_clock.hpp>
#include <coir/testing/shuffle.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>

namespace coir::testing {

// Chances are from 0 to 1, each drawn when the thing could happen.
class simulator_options {
 public:
  simulator_options() noexcept {}

  simulator_options& seed(std::uint64_t number) noexcept { return seed_ = number, *this; }
  // That a request which can be served is served inside start(). epoll: 1; io_uring: 0.
  simulator_options& at_once(double chance) noexcept { return at_once_ = chance, *this; }
  // That one which can be served waits for another turn, 16 times at most. Both of the kernel's backends take EINTR
  // upon themselves, so this is all that is left of it above them.
  simulator_options& late(double chance) noexcept { return late_ = chance, *this; }
  // That a withdrawn request is over at once. epoll: 1; io_uring: 0.
  simulator_options& withdrawn_now(double chance) noexcept { return withdrawn_now_ = chance, *this; }
  // That one which was to be over later, and can be served, is served.
  simulator_options& late_success(double chance) noexcept { return late_success_ = chance, *this; }
  // That fewer bytes are moved than could be, by one call on a byte stream.
  simulator_options& short_transfers(double chance) noexcept { return short_ = chance, *this; }
  // That a multishot request ends although more is to come: with its result, or with -EINTR and none.
  simulator_options& lost_multishots(double chance) noexcept { return lost_ = chance, *this; }
  // That a recv_multi finds no chunk: -ENOBUFS.
  simulator_options& no_chunks(double chance) noexcept { return no_chunks_ = chance, *this; }
  // All the faults: short transfers, lost multishots, no chunks, late success.
  simulator_options& faults(double chance) noexcept {
    return short_transfers(chance).lost_multishots(chance).no_chunks(chance).late_success(chance);
  }
  // What one direction of a stream holds before its writer waits.
  simulator_options& buffer_bytes(std::size_t bytes) noexcept {
    return buffer_bytes_ = bytes == 0 ? 1 : bytes, *this;
  }

 private:
  friend class sim_world;
  friend class sim_backend;
  friend class simulator;
  std::uint64_t seed_ = 0;
  std::size_t buffer_bytes_ = 16384;
  double at_once_ = 0.5;
  double late_ = 0.25;
  double withdrawn_now_ = 0.5;
  double late_success_ = 0;
  double short_ = 0;
  double lost_ = 0;
  double no_chunks_ = 0;
};

class sim_world;

class simulator final : public backend_maker {
 public:
  explicit simulator(const simulator_options& options = {});
  simulator(const simulator&) = delete;
  ~simulator();

  mock_clock& clock() noexcept { return clock_; }
  // For a loop on this simulator and its clock; for_run() also shuffles the fibers that are ready.
  loop_options for_loop() noexcept { return loop_options().backend(this).time(&clock_); }
  run_options for_run() noexcept { return run_options().loop(for_loop()).arrange(&order_); }

  // A connected pair: what is written to one is read from the other.
  std::array<unique_fd, 2> pair();
  // A listener. A connect to `where`, on whatever stream socket, comes here, and is over when there is room for
  // it among the `backlog` connections that are not accepted yet.
  unique_fd listen(const net::address& where, std::size_t backlog = 128);
  // The same as objects of the running fiber's loop.
  std::pair<net::tcp_stream, net::tcp_stream> streams();
  net::tcp_listener listener(const net::address& where, std::size_t backlog = 128);

  // As if the network had cut the connection that `fd` is an end of: what is on its way in both directions is
  // lost, and each end hears -ECONNRESET, all who read there.
  void reset(int fd);
  // Written, and not read yet at this end.
  std::size_t unread(int fd) const;

  // A number made of all that was told so far, in order: the same for the same seed, or the test is not as
  // deterministic as it looks.
  std::uint64_t fingerprint() const noexcept;

  std::unique_ptr<backend> make(const backend_parts& parts) override;

 private:
  std::unique_ptr<sim_world> world_;
  mock_clock clock_;
  shuffle order_;
};

}  // namespace coir::testing
