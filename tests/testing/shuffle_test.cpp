#include <coir/testing/sequencer.hpp>
#include <coir/testing/shuffle.hpp>

#include "support/both.hpp"
#include "support/catch.hpp"

#include <coir/coir.hpp>

#include <algorithm>
#include <numeric>
#include <set>
#include <vector>

using coir::testing::shuffle;

namespace {

coir::task<> note(std::vector<int>& order, int number) {
  order.push_back(number);
  co_return;
}

std::vector<int> order_of(std::uint64_t seed, int fibers) {
  shuffle order(seed);
  std::vector<int> seen;
  coir::run(
      [&] {
        for (int i = 0; i < fibers; ++i) {
          // Both bodies, so that hand-overs from stack to stack are among them.
          if (i % 2 == 0) {
            coir::spawn([&seen, i] { seen.push_back(i); });
          } else {
            coir::spawn(note(seen, i));
          }
        }
        coir::await(coir::yield());
        coir::await(coir::yield());
      },
      coir::run_options().arrange(&order));
  return seen;
}

}  // namespace

TEST_CASE("fibers that are ready together run in an order of the seed, each once") {
  std::set<std::vector<int>> orders;
  for (std::uint64_t seed = 1; seed <= 50; ++seed) {
    std::vector<int> order = order_of(seed, 10);
    CHECK(order == order_of(seed, 10));
    orders.insert(order);
    std::sort(order.begin(), order.end());
    std::vector<int> all(10);
    std::iota(all.begin(), all.end(), 0);
    CHECK(order == all);
  }
  CHECK(orders.size() > 45);
}

TEST_CASE("more than a turn's worth are all run, those that came first in the first turn") {
  const std::vector<int> order = order_of(3, 700);
  REQUIRE(order.size() == 700);
  // Without the main fiber, which was in the first batch too.
  CHECK(*std::max_element(order.begin(), order.begin() + 250) < 260);
  CHECK_FALSE(std::is_sorted(order.begin(), order.end()));
}

TEST_CASE("two yields let all that are ready run before the fiber goes on, in every order") {
  for (std::uint64_t seed = 1; seed <= 50; ++seed) {
    INFO("seed " << seed);
    shuffle order(seed);
    support::on_both_surfaces(
        [](auto wait) {
          for (int round = 0; round < 5; ++round) {
            int ran = 0;
            for (int i = 0; i < 5; ++i) coir::spawn([&ran] { ++ran; });
            wait(coir::yield());
            wait(coir::yield());
            CHECK(ran == 5);
          }
        },
        coir::run_options().arrange(&order));
  }
}

TEST_CASE("what promises an order keeps it") {
  for (std::uint64_t seed = 1; seed <= 50; ++seed) {
    INFO("seed " << seed);
    shuffle order(seed);
    std::vector<unsigned> seen;
    coir::run(
        [&] {
          coir::testing::sequencer turns;
          std::vector<coir::fiber<void>> all;
          for (unsigned i = 0; i < 5; ++i) {
            all.push_back(coir::spawn([&, i] {
              const auto turn = coir::await(turns.turn(i));
              coir::await(coir::yield());
              seen.push_back(i);
            }));
          }
          for (auto& each : all) coir::await(each.join());
        },
        coir::run_options().arrange(&order));
    CHECK(seen == std::vector<unsigned>{0, 1, 2, 3, 4});
  }
}

TEST_CASE("a scheduler made by hand can be shuffled, and no longer") {
  coir::loop loop;
  coir::scheduler fibers(loop);
  std::vector<int> seen;
  const auto spawn_some = [&] {
    seen.clear();
    for (int i = 0; i < 20; ++i) fibers.spawn([&seen, i] { seen.push_back(i); });
    loop.run();
  };
  shuffle order(1);
  fibers.home().arrange(&order);
  spawn_some();
  CHECK_FALSE(std::is_sorted(seen.begin(), seen.end()));
  fibers.home().arrange(nullptr);
  spawn_some();
  CHECK(std::is_sorted(seen.begin(), seen.end()));
}
