// The way to a loop for those who may outlive it.
#include <coir/loop/post.hpp>

#include "support/child_process.hpp"
#include "support/loop_tools.hpp"

#include <array>
#include <atomic>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <stdexcept>
#include <thread>
#include <vector>

namespace {

// Part of its owner: never deleted by the loop.
struct letter final : coir::post_node {
  void run() override {
    ++runs;
    if (then) then();
  }
  void over() noexcept override { ++ends; }
  void lost() noexcept override {
    ++losses;
    if (then) then();
  }
  std::function<void()> then;
  int runs = 0;
  int ends = 0;
  int losses = 0;
};

// What a thread pushes, and what it was told of each.
struct sender {
  std::deque<letter> letters;
  std::vector<bool> taken;
};

}  // namespace

TEST_CASE("a port refuses what comes after its loop's end, and it is still the sender's") {
  std::shared_ptr<coir::loop_port> port;
  letter one;
  {
    coir::loop loop;
    port = loop.port();
    CHECK(port == loop.port());
    CHECK(port->open());
  }
  CHECK_FALSE(port->open());
  for (int i = 0; i < 3; ++i) CHECK_FALSE(port->push(one));
  CHECK(one.runs + one.ends + one.losses == 0);
  // For another loop it is as good as new.
  coir::loop other;
  CHECK(other.port()->push(one));
  other.run();
  CHECK(one.runs == 1);
  CHECK(one.ends == 1);
}

TEST_CASE("what was on its way to a loop that ends is told that it is lost, and nothing else") {
  letter ran, thrower, taken, left;
  std::optional<coir::loop> loop(std::in_place);
  CHECK(loop->port()->push(ran));
  loop->run();
  thrower.then = [] { throw std::runtime_error("here"); };
  for (letter* each : {&thrower, &taken}) CHECK(loop->port()->push(*each));
  CHECK_THROWS_WITH(loop->run(), "here");
  CHECK(loop->port()->push(left));
  loop.reset();
  for (const letter* each : {&ran, &thrower}) {
    CHECK(each->runs == 1);
    CHECK(each->ends == 1);
    CHECK(each->losses == 0);
  }
  for (const letter* each : {&taken, &left}) {
    CHECK(each->runs == 0);
    CHECK(each->ends == 0);
    CHECK(each->losses == 1);
  }
}

TEST_CASE("who is told that it is lost may post again, and is answered again") {
  // Taken by the loop already when it ends, or still in its inbox.
  for (const bool was_taken : {true, false}) {
    letter first, again;
    std::optional<bool> reached;
    std::optional<coir::loop> loop(std::in_place);
    const std::shared_ptr<coir::loop_port> port = loop->port();
    first.then = [&] { reached = port->push(again); };
    if (was_taken) {
      loop->post([] { throw std::runtime_error("here"); });
      REQUIRE(port->push(first));
      CHECK_THROWS_WITH(loop->run(), "here");
    } else {
      REQUIRE(port->push(first));
    }
    loop.reset();
    CHECK(first.losses == 1);
    REQUIRE(reached.has_value());
    CHECK(again.losses == (*reached ? 1 : 0));
    CHECK(again.runs == 0);
  }
}

TEST_CASE("what comes through a port stands in one row with the other posts, and wakes the loop") {
  coir::loop loop;
  const coir::loop::hold more(loop);
  std::vector<int> order;
  std::array<letter, 100> letters;
  for (int i = 0; i < 100; ++i) letters[static_cast<std::size_t>(i)].then = [&order, i] { order.push_back(2 * i); };
  std::thread other([&] {
    for (int i = 0; i < 100; ++i) {
      loop.port()->push(letters[static_cast<std::size_t>(i)]);
      loop.post([&order, i] { order.push_back(2 * i + 1); });
    }
    loop.post([&] { loop.stop(); });
  });
  loop.run();
  other.join();
  std::vector<int> expected(200);
  for (int i = 0; i < 200; ++i) expected[static_cast<std::size_t>(i)] = i;
  CHECK(order == expected);
}

TEST_CASE("a loop that ends while four threads post answers each post once") {
  constexpr std::size_t threads = 4;
  constexpr int rounds = 25;
  int wrong = 0;
  int refused = 0;
  for (int round = 0; round < rounds; ++round) {
    auto loop = std::make_unique<coir::loop>();
    std::array<sender, threads> senders;
    std::vector<std::thread> posting;
    std::atomic<std::size_t> begun = 0;
    for (sender& each : senders) {
      posting.emplace_back([&each, &begun, to = loop->port()] {
        begun.fetch_add(1);
        // Some more after the end, which all learn of then.
        for (int late = 0; late < 3;) {
          each.taken.push_back(to->push(each.letters.emplace_back()));
          if (!each.taken.back()) ++late;
          // Where there are few processors the loop comes to its end meanwhile.
          if (each.letters.size() % 16 == 0) std::this_thread::yield();
        }
      });
    }
    while (begun.load() != threads) loop->run_once();
    for (int turn = 0; turn < round % 8; ++turn) loop->run_once();
    letter last;
    REQUIRE(loop->port()->push(last));
    loop.reset();
    wrong += last.runs != 0 || last.losses != 1;
    for (std::thread& each : posting) each.join();
    for (const sender& each : senders) {
      for (std::size_t i = 0; i < each.letters.size(); ++i) {
        const letter& one = each.letters[i];
        wrong += one.runs != one.ends || one.runs + one.losses != (each.taken[i] ? 1 : 0);
        refused += !each.taken[i];
      }
    }
  }
  CHECK(wrong == 0);
  CHECK(refused == rounds * 3 * static_cast<int>(threads));
}

TEST_CASE("a forked child is refused by the ports of its parent's loops, which stay as they are") {
  coir::loop loop;
  const std::shared_ptr<coir::loop_port> port = loop.port();
  letter before;
  REQUIRE(port->push(before));
  const auto ended = support::in_child([&] {
    letter one;
    if (port->open() || port->push(one) || one.losses != 0) throw std::runtime_error("not refused");
    coir::loop own;
    if (!own.port()->push(one)) throw std::runtime_error("refused by the child's own");
    own.run();
    if (one.runs != 1) throw std::runtime_error("not run");
  });
  CHECK(ended.text == "");
  CHECK(ended.exit_code == 0);
  CHECK(port->open());
  loop.run();
  CHECK(before.runs == 1);
}
