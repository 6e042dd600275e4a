#include "support/catch.hpp"
#include "support/model.hpp"

#include <coir/thread/letter_memory.hpp>

#include <array>
#include <memory>

using coir::priv::letter_block;

namespace {

// A block that came back is the next one that is made; else the next one is another.
struct state {
  letter_block* block = letter_block::make();
  bool came_back() const {
    letter_block* const next = letter_block::make();
    const bool same = next == block;
    next->finish(0);
    return same;
  }
};

}  // namespace

TEST_CASE("a block comes back when the last of three threads is done with it, and not before") {
  const auto tried = model::explore([](model::run& now) {
    auto shared = std::make_shared<state>();
    now.thread([shared] { shared->block->finish(3); });
    now.thread([shared] { shared->block->give_back(1); });
    now.thread([shared] { shared->block->give_back(2); });
    now.after([shared] { model::check(shared->came_back(), "the block was lost"); });
  });
  CHECK(tried.failure == "");
  CHECK(tried.runs > 10);
}

TEST_CASE("of two threads that want a block no two get the same, while others give theirs back") {
  const auto tried = model::explore([](model::run& now) {
    auto shared = std::make_shared<state>();
    auto made = std::make_shared<std::array<letter_block*, 2>>();
    now.thread([shared] { shared->block->finish(0); });
    for (letter_block*& each : *made) now.thread([made, &each] { each = letter_block::make(); });
    now.after([made] {
      model::check((*made)[0] != (*made)[1], "two threads have the same block");
      for (letter_block* each : *made) each->finish(0);
    });
  });
  CHECK(tried.failure == "");
  CHECK(tried.runs > 10);
}
