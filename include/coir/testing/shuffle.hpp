// coir/testing/shuffle.hpp: fibers that are ready at the same time run in an order drawn from a seed.
//
//   coir::testing::shuffle order(seed);
//   coir::run(test(), coir::run_options().arrange(&order));      [tests/testing/shuffle_test.cpp]
//
// What holds in every order does not hang on the one the run queue happens to have.
//
// Shape    an object that outlives the run. scheduler.home().arrange(&order) for a scheduler by hand.
// Order    those ready at the beginning of a turn, at most 256, in any order; those that become ready meanwhile
//          wait for the next turn. So one yield() no longer lets all others run first: two do. What promises an
//          order by itself (a sequencer) keeps it.
// Thread   the loop's.
// Errors   none.
// Cost     a draw a fiber and turn. Without it, one test a turn.
// See      coir/testing/dice.hpp, coir/testing/seeds.hpp
#pragma once

#include <coir/fiber/fiber_home.hpp>
#include <coir/testing/dice.hpp>

#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>

namespace coir::testing {

class shuffle final : public ready_order {
 public:
  explicit shuffle(std::uint64_t seed) noexcept : dice_(seed) {}

  void arrange(std::span<fiber_base*> batch) noexcept override {
    for (std::size_t left = batch.size(); left > 1; --left) {
      std::swap(batch[left - 1], batch[static_cast<std::size_t>(dice_.below(left))]);
    }
  }

 private:
  dice dice_;
};

}  // namespace coir::testing
