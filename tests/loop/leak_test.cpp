// Nothing stays behind: no descriptor, no memory, no mapping, no request, however often things come
// and go.
#include "loop/contract.hpp"
#include "loop/timers.hpp"
#include "support/counted_heap.hpp"

#include <coir/loop/descriptor.hpp>

#include <array>
#include <fstream>
#include <limits>
#include <memory>
#include <string>
#include <vector>

using namespace std::chrono_literals;
using coir::request;
using tests::ringer;
using tests::row;
using tests::stage;

namespace {

std::size_t mappings() {
  std::ifstream maps("/proc/self/maps");
  std::size_t count = 0;
  for (std::string line; std::getline(maps, line);) ++count;
  return count;
}

// What `body` takes it gives back. It runs once before: what is made on first use is made then.
template <class Body>
void leaves_nothing(Body&& body) {
  body(1);
  const std::size_t descriptors = support::open_descriptors();
  const std::size_t maps = mappings();
  const long blocks = support::heap.blocks;
  body(1000);
  CHECK(support::heap.blocks == blocks);
  CHECK(support::open_descriptors() == descriptors);
  // malloc has its own mind about mappings, but not a thousand times.
  CHECK(mappings() < maps + 100);
}

// A loop with everything in flight that there is.
void live_and_die(int how) {
  support::fd_pair ends = support::socket_pair();
  support::fd_pair more = support::socket_pair();
  const coir::unique_fd listener = support::tcp_listener();
  std::array<std::byte, 8> buffer;
  std::vector<int> fired;
  ringer later(fired, 1);
  support::asked get(request::recv(ends[0].get(), buffer));
  support::asked multi(request::recv_multi(more[0].get()));
  support::asked accept(request::accept_multi(listener.get()));
  support::asked poll(request::poll(ends[1].get(), POLLIN));
  support::asked closing(request::close(-1));
  coir::descriptor orphan;
  {
    coir::loop loop;
    if (how % 5 == 0) static_cast<void>(loop.pollable_fd());
    orphan = coir::descriptor(loop, ends[0].release());
    for (support::asked* each : {&get, &multi, &accept, &poll}) REQUIRE(loop.start(each->request));
    loop.arm(later, loop.time() + 1h);
    if (how % 2 == 0) loop.run_once();
    loop.post([text = std::string(100, 'x')] {});
    if (how % 3 == 0) {
      closing.request.fd = orphan.release();
      loop.start(closing.request);
    } else if (how % 3 == 1) {
      orphan.reset();
    }
    multi.seen.then = [&](request& told) {
      if (told.result > 0) loop.chunks().claim(told.chunk(), static_cast<std::size_t>(told.result));
    };
    if (how % 7 == 0) {
      REQUIRE(::write(more[1].get(), "bytes", 5) == 5);
      if (how % 2 == 0) loop.run_once();
    }
  }
  for (support::asked* each : {&get, &multi, &accept, &poll, &closing}) REQUIRE(each->over());
}

}  // namespace

TEST_CASE("a thousand loops that die with everything in flight leave nothing behind") {
  leaves_nothing([](int count) {
    for (int how = 0; how < count; ++how) live_and_die(how);
  });
}

TEST_CASE("ten thousand requests of every kind, served or withdrawn, leave nothing behind") {
  for (const row& kind : tests::rows()) {
    INFO(kind.name);
    stage on(kind);
    coir::loop& loop = on.loop;
    const auto again = [&] {
      if (kind.kind == coir::request_kind::close)
        on.file = coir::unique_fd(::dup(on.pipe[0].get()));
      if (kind.kind == coir::request_kind::connect) on.socket = support::tcp_socket();
      on.what.request = kind.make(on);
      on.what.request.told = &on.what.seen;
      on.what.seen.results.clear();
    };
    leaves_nothing([&](int count) {
      for (int i = 0; i < count * 5; ++i) {
        again();
        on.make_ready();
        REQUIRE(on.is_good(on.serve()));
        if (!on.what.over()) support::give_up(loop, on.what);
        if (kind.kind == coir::request_kind::poll) support::drain(on.ends[0].get());
        if (kind.kind == coir::request_kind::connect) {
          const coir::unique_fd met(::accept(on.listener.get(), nullptr, nullptr));
        }
        on.clients.clear();
      }
      if (!kind.waits) return;
      if (kind.block != nullptr) kind.block(on);
      for (int i = 0; i < count * 5; ++i) {
        again();
        REQUIRE(loop.start(on.what.request));
        if (i % 2 == 0) loop.run_once();
        support::give_up(loop, on.what);
      }
      support::drain(on.pipe[0].get());
      support::drain(on.ends[1].get());
    });
    CHECK(loop.in_flight() == 0);
    CHECK_FALSE(loop.can_wake());
    CHECK(loop.chunks().free() == loop.chunks().count());
    CHECK(loop.stats().backend.stale_events == 0);
  }
}

TEST_CASE("a hundred thousand posts and timers leave nothing behind") {
  coir::loop loop;
  std::vector<int> fired;
  leaves_nothing([&](int count) {
    fired.clear();
    fired.shrink_to_fit();
    std::vector<std::unique_ptr<ringer>> timers;
    for (int i = 0; i < 100; ++i) timers.push_back(std::make_unique<ringer>(fired, i));
    for (int round = 0; round < count; ++round) {
      for (auto& each : timers) {
        loop.post([text = std::string(50, 'x')] {});
        loop.arm(*each, loop.turn_time());
      }
      for (std::size_t i = 0; i < timers.size(); i += 2) loop.disarm(*timers[i]);
      loop.run_once();
    }
    fired.clear();
    fired.shrink_to_fit();
  });
  CHECK(loop.timers() == 0);
}

TEST_CASE("a burst of requests costs memory once, and not with every burst") {
  coir::loop loop;
  const support::fd_pair ends = support::socket_pair();
  const auto burst = [&](int size) {
    std::vector<std::unique_ptr<support::asked>> all;
    for (int i = 0; i < size; ++i) {
      all.push_back(std::make_unique<support::asked>(request::poll(ends[0].get(), POLLIN)));
      REQUIRE(loop.start(all.back()->request));
    }
    for (auto& each : all) loop.withdraw(each->request);
    support::run_until(loop, [&] { return loop.in_flight() == 0; });
  };
  burst(5000);
  leaves_nothing([&](int count) {
    for (int i = 0; i < count / 200; ++i) burst(5000);
  });
}

TEST_CASE("a number that is no descriptor costs no memory, however large it is") {
  coir::loop loop;
  std::array<std::byte, 4> buffer;
  const long before = support::heap.bytes;
  for (const int number : {100'000, std::numeric_limits<int>::max()}) {
    request get = request::recv(number, buffer);
    CHECK_FALSE(loop.start(get));
    CHECK(get.result == -EBADF);
  }
  CHECK(support::heap.bytes == before);
}
