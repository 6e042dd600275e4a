#include "support/catch.hpp"

#include <coir/sync/value_ring.hpp>
#include <coir/testing/dice.hpp>

#include <cstdint>
#include <deque>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace {

template <class T>
std::vector<T> drained(coir::value_ring<T>& row) {
  std::vector<T> all;
  while (!row.empty()) all.push_back(row.pop_front());
  return all;
}

}  // namespace

TEST_CASE("a row gives its values in order, whichever end they came in at") {
  coir::value_ring<int> row;
  for (int i = 0; i < 10; ++i) row.push_back(int(i));
  for (int i = 1; i < 10; ++i) row.push_front(-i);
  CHECK(row.size() == 19);
  for (int i = -9; i < 10; ++i) CHECK(row.pop_front() == i);
  CHECK(row.empty());
}

TEST_CASE("a row does what a deque does, 1,000 times over") {
  for (std::uint64_t seed = 1; seed <= 1'000; ++seed) {
    INFO("seed " << seed);
    coir::testing::dice dice(seed);
    coir::value_ring<std::unique_ptr<std::uint64_t>> row;
    std::deque<std::uint64_t> model;
    for (int step = 0; step < 60; ++step) {
      const std::uint64_t value = dice.below(10);
      switch (dice.below(8)) {
        case 0:
        case 1:
        case 2:
          row.push_back(std::make_unique<std::uint64_t>(value));
          model.push_back(value);
          break;
        case 3:
          row.push_front(std::make_unique<std::uint64_t>(value));
          model.push_front(value);
          break;
        case 4:
        case 5:
          if (model.empty()) break;
          REQUIRE(*row.pop_front() == model.front());
          model.pop_front();
          break;
        case 6: {
          const std::size_t gone = row.remove_if([&](const auto& each) { return *each == value; });
          REQUIRE(gone == std::erase(model, value));
          break;
        }
        default:
          if (dice.chance(0.1)) {
            row.reset();
            model.clear();
          } else {
            auto moved = std::move(row);
            row = std::move(moved);
          }
      }
      REQUIRE(row.size() == model.size());
      for (std::size_t i = 0; i < model.size(); ++i) REQUIRE(*row[i] == model[i]);
    }
  }
}

TEST_CASE("what removes and throws leaves the row in order, without those it wanted gone before") {
  coir::value_ring<std::string> row;
  for (const char* text : {"a", "b", "c", "d", "e"}) row.push_back(text);
  CHECK_THROWS_AS(row.remove_if([](const std::string& each) {
    if (each == "d") throw std::runtime_error("d");
    return each != "b";
  }),
                  std::runtime_error);
  CHECK(drained(row) == std::vector<std::string>{"b", "d", "e"});
}
