#include <coir/testing/sequencer.hpp>

#include "support/both.hpp"
#include "support/catch.hpp"

#include <coir/coir.hpp>

#include <vector>

using coir::testing::sequencer;

TEST_CASE("turns come in their order, whatever the order of the fibers") {
  std::vector<unsigned> order;
  coir::run([&] {
    sequencer turns;
    const auto taker = [&](unsigned position) {
      return [&, position] {
        const auto turn = coir::await(turns.turn(position));
        coir::await(coir::yield());
        order.push_back(position);
      };
    };
    auto last = coir::spawn(taker(2));
    coir::spawn(taker(1));
    coir::spawn(taker(0));
    coir::await(last.join());
  });
  CHECK(order == std::vector<unsigned>{0, 1, 2});
}

TEST_CASE("a turn is taken once") {
  support::on_both_surfaces([](auto wait) {
    sequencer turns;
    { const auto turn = wait(turns.turn(0)); }
    CHECK_THROWS_AS(wait(turns.turn(0)), std::logic_error);
  });
}

TEST_CASE("two cannot wait for one turn") {
  coir::run([] {
    sequencer turns;
    const auto first = coir::await(turns.turn(0));
    auto waits = coir::spawn([&] { const auto turn = coir::await(turns.turn(1)); });
    coir::await(coir::yield());
    CHECK_THROWS_AS(coir::await(turns.turn(1)), std::logic_error);
    waits.cancel();
    coir::await(coir::as_result(waits.join()));
  });
}

TEST_CASE("who waits for two turns in a select gets the first, and can ask for the other again") {
  support::on_both_surfaces([](auto wait) {
    sequencer turns;
    std::vector<std::size_t> taken;
    auto both = coir::spawn([&] {
      taken.push_back(wait(coir::select(turns.turn(1), turns.turn(2))).index());
      { const auto turn = wait(turns.turn(2)); }
      taken.push_back(2);
    });
    {
      const auto turn = wait(turns.turn(0));
      coir::await(coir::yield());
    }
    coir::await(both.join());
    CHECK(taken == std::vector<std::size_t>{0, 2});
  });
}
