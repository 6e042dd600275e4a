#include <coir/testing/seeds.hpp>
#include <coir/testing/simulator.hpp>

#include "support/catch.hpp"
#include "support/child_process.hpp"

#include <coir/coir.hpp>

#include <cstdlib>
#include <vector>

using namespace std::chrono_literals;
using coir::testing::for_each_seed;
using coir::testing::seed_failure;

namespace {

// The test may itself be run with a seed.
class seed_of_environment {
 public:
  explicit seed_of_environment(const char* value) {
    if (const char* const old = std::getenv("COIR_SEED"); old != nullptr) before_ = old;
    value == nullptr ? ::unsetenv("COIR_SEED") : ::setenv("COIR_SEED", value, 1);
  }
  seed_of_environment(const seed_of_environment&) = delete;
  ~seed_of_environment() {
    before_.empty() ? ::unsetenv("COIR_SEED") : ::setenv("COIR_SEED", before_.c_str(), 1);
  }

 private:
  std::string before_;
};

std::vector<std::uint64_t> seeds_run(const char* chosen) {
  const seed_of_environment now(chosen);
  std::vector<std::uint64_t> seen;
  for_each_seed(3, [&](std::uint64_t seed) { seen.push_back(seed); });
  return seen;
}

}  // namespace

TEST_CASE("a test runs for the seeds from 1 on, or for the one in COIR_SEED") {
  CHECK(seeds_run(nullptr) == std::vector<std::uint64_t>{1, 2, 3});
  CHECK(seeds_run("") == std::vector<std::uint64_t>{1, 2, 3});
  CHECK(seeds_run("17") == std::vector<std::uint64_t>{17});
  CHECK_THROWS_AS(seeds_run("x"), std::invalid_argument);
  CHECK_THROWS_AS(seeds_run("17x"), std::invalid_argument);
}

TEST_CASE("a failure says its seed, and has what the test threw in it") {
  const seed_of_environment none(nullptr);
  int runs = 0;
  try {
    for_each_seed(10, [&](std::uint64_t seed) {
      ++runs;
      if (seed == 4) throw std::out_of_range("no such fiber");
    });
    FAIL("nothing was thrown");
  } catch (const seed_failure& failure) {
    CHECK(runs == 4);
    CHECK(failure.seed() == 4);
    CHECK(std::string(failure.what()) == "seed 4: no such fiber (COIR_SEED=4 repeats it)");
    CHECK_THROWS_AS(std::rethrow_if_nested(failure), std::out_of_range);
  }
}

TEST_CASE("what is no std::exception goes on as it is, and the seed is told") {
  const auto ended = support::in_child([] {
    const seed_of_environment none(nullptr);
    for_each_seed(10, [](std::uint64_t seed) {
      if (seed == 2) throw 5;
    });
  });
  CHECK(ended.exit_code == 2);
  CHECK_THAT(ended.text, Catch::Contains("failed with seed 2; COIR_SEED=2"));
}

// What seeds are for: an error that needs an order which the run queue seldom has.
TEST_CASE("a race that hides in the usual order is found by some seed, and comes again with it") {
  const seed_of_environment none(nullptr);
  const auto test = [](std::uint64_t seed) {
    coir::testing::simulator sim(coir::testing::simulator_options().seed(seed));
    coir::run(
        [] {
          bool opened = false;
          auto user = coir::spawn([&] {
            coir::await(coir::yield());
            if (!opened) throw std::runtime_error("used before it was opened");
          });
          auto opener = coir::spawn([&] { opened = true; });
          coir::await(user.join());
          coir::await(opener.join());
        },
        sim.for_run());
  };
  const auto racy = [](std::uint64_t seed) {
    coir::testing::simulator sim(coir::testing::simulator_options().seed(seed));
    coir::run(
        [] {
          bool opened = false;
          auto opener = coir::spawn([&] { opened = true; });
          auto user = coir::spawn([&] {
            if (!opened) throw std::runtime_error("used before it was opened");
          });
          coir::await(user.join());
          coir::await(opener.join());
        },
        sim.for_run());
  };
  CHECK_NOTHROW(for_each_seed(50, test));
  std::uint64_t found = 0;
  try {
    for_each_seed(50, racy);
  } catch (const seed_failure& failure) {
    found = failure.seed();
  }
  REQUIRE(found != 0);
  CHECK_THROWS_WITH(racy(found), Catch::Contains("used before"));
}
