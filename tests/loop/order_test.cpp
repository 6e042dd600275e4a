// The order of a turn, as loop.hpp publishes it.
#include "loop/timers.hpp"
#include "support/loop_tools.hpp"

#include <poll.h>

#include <string>

using namespace std::chrono_literals;
using tests::ringer;

namespace {

// What fibers are to a loop: something that is ready, a bounded number at a time.
class ready_things final : public coir::ready_hook {
 public:
  std::size_t run_ready() override {
    std::size_t ran = 0;
    for (std::vector<std::function<void()>> now; ran < bound && !waiting.empty(); ++ran) {
      const std::function<void()> first = waiting.front();
      waiting.erase(waiting.begin());
      first();
    }
    return ran;
  }
  bool has_ready() const noexcept override { return !waiting.empty(); }

  std::size_t bound = 1000;
  std::vector<std::function<void()>> waiting;
};

}  // namespace

TEST_CASE("in a turn come the kernel's results, then timers, then posts, then what is ready") {
  coir::loop loop;
  ready_things fibers;
  loop.install(&fibers);
  CHECK(loop.installed() == &fibers);
  std::vector<int> order;
  const support::fd_pair ends = support::pipe_pair();
  support::asked readable(coir::request::poll(ends[0].get(), POLLIN));
  readable.seen.then = [&](coir::request&) { order.push_back(2); };
  REQUIRE(loop.start(readable.request));
  loop.run_once();

  // Everything is made ready at once, in an order that is not that of the turn.
  ringer due(order, 3);
  fibers.waiting.push_back([&] { order.push_back(5); });
  loop.post([&] { order.push_back(4); });
  loop.arm(due, loop.time());
  REQUIRE(::write(ends[1].get(), "x", 1) == 1);
  loop.run_once();
  CHECK(order == std::vector{2, 3, 4, 5});
}

TEST_CASE("what a step makes ready for a later step is done in the same turn, for an earlier one in the next") {
  coir::loop loop;
  ready_things fibers;
  loop.install(&fibers);
  std::vector<int> order;
  ringer late(order, 9);
  ringer first(order, 1, [&] {
    loop.post([&] {
      order.push_back(2);
      fibers.waiting.push_back([&] {
        order.push_back(3);
        loop.post([&] { order.push_back(8); });
        loop.arm(late, loop.time());
      });
    });
  });
  loop.arm(first, loop.time());
  loop.run_once();
  CHECK(order == std::vector{1, 2, 3});
  loop.run_once();
  CHECK(order == std::vector{1, 2, 3, 9, 8});
}

TEST_CASE("a post made by a post waits for the next turn") {
  coir::loop loop;
  std::vector<int> order;
  loop.post([&] {
    order.push_back(1);
    loop.post([&] { order.push_back(3); });
  });
  loop.post([&] { order.push_back(2); });
  CHECK(loop.run_once() == 2);
  CHECK(order == std::vector{1, 2});
  CHECK(loop.run_once() == 1);
  CHECK(order == std::vector{1, 2, 3});
}

TEST_CASE("what is left ready keeps the loop from sleeping, and the kernel is looked at in between") {
  coir::loop loop;
  ready_things fibers;
  fibers.bound = 1;
  loop.install(&fibers);
  std::vector<int> order;
  const support::fd_pair ends = support::pipe_pair();
  support::asked readable(coir::request::poll(ends[0].get(), POLLIN));
  readable.seen.then = [&](coir::request&) { order.push_back(-1); };
  REQUIRE(loop.start(readable.request));
  fibers.waiting.push_back([&] {
    order.push_back(1);
    REQUIRE(::write(ends[1].get(), "x", 1) == 1);
  });
  fibers.waiting.push_back([&] { order.push_back(2); });
  fibers.waiting.push_back([&] { order.push_back(3); });
  loop.run();
  CHECK(order == std::vector{1, -1, 2, 3});
}

TEST_CASE("a turn counts what it did") {
  coir::loop loop;
  ready_things fibers;
  loop.install(&fibers);
  std::vector<int> order;
  ringer due(order, 1);
  loop.arm(due, loop.time());
  loop.post([] {});
  loop.post([] {});
  fibers.waiting.push_back([] {});
  CHECK(loop.run_once() == 4);
  CHECK(loop.stats().timers == 1);
  CHECK(loop.stats().posts == 2);
  CHECK(loop.run_once() == 0);
}

TEST_CASE("what the last step of a turn asks for is in the kernel when run_once returns") {
  coir::loop loop;
  ready_things fibers;
  loop.install(&fibers);
  const support::fd_pair ends = support::pipe_pair();
  const std::string text = "sent";
  support::asked put(coir::request::write(ends[1].get(), support::bytes_of(text)));
  fibers.waiting.push_back([&] { loop.start(put.request); });
  loop.run_once();
  std::array<char, 8> got;
  CHECK(::read(ends[0].get(), got.data(), got.size()) == 4);
  support::run_until(loop, [&] { return put.over(); });
}
