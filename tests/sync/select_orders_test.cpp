// Every order in which two ops of a select can be done, given up and cancelled: what was brought about is seen once.
#include "fiber/hand_op.hpp"
#include "support/both.hpp"
#include "support/catch.hpp"

#include <coir/coir.hpp>

#include <array>
#include <cstddef>
#include <optional>
#include <string>
#include <vector>

using coir::abort_answer;
using coir::fiber_outcome;
using support::hand;
using support::hand_op;

namespace {

enum class event { done_first, done_second, give_up_first, give_up_second, cancel, turn, count };
constexpr const char* names[] = {"first done", "second done", "first given up", "second given up", "cancel", "turn"};

struct history {
  std::array<int, 2> brought{};  // completed while somebody waited
  std::array<int, 2> seen{};
  std::size_t winner = 2;
  unsigned results = 0;
};

template <class Wait>
void play(Wait wait, std::array<abort_answer, 2> answers, const std::vector<event>& events) {
  std::string text;
  for (const event each : events) text += std::string(names[static_cast<std::size_t>(each)]) + ", ";
  INFO(text << (answers[0] == abort_answer::now ? "now " : "later ") << (answers[1] == abort_answer::now ? "now" : "later"));

  std::array<hand, 2> ends{hand(answers[0]), hand(answers[1])};
  history all;
  auto fiber = coir::spawn([&] {
    auto got = wait(coir::select(hand_op(ends[0]), hand_op(ends[1])));
    ++all.results;
    all.winner = got.index();
    all.seen[got.index()] = got.index() == 0 ? std::get<0>(got) : std::get<1>(got);
    if (const int* const late = got.template also<0>(); late != nullptr) all.seen[0] += *late;
    if (const int* const late = got.template also<1>(); late != nullptr) all.seen[1] += *late;
    wait(coir::yield());
  });
  while (!ends[0].waiting() || !ends[1].waiting()) coir::await(coir::yield());

  std::optional<std::size_t> first_done;
  bool cancelled = false;
  const auto complete = [&](std::size_t which) {
    if (!ends[which].waiting()) return;
    if (!first_done && !cancelled) first_done = which;
    all.brought[which] = 7 + static_cast<int>(which);
    ends[which].complete(all.brought[which]);
  };
  const auto give_up = [&](std::size_t which) {
    if (ends[which].waiting() && ends[which].aborts() != 0) ends[which].give_up();
  };
  for (const event each : events) {
    switch (each) {
      case event::done_first: complete(0); break;
      case event::done_second: complete(1); break;
      case event::give_up_first: give_up(0); break;
      case event::give_up_second: give_up(1); break;
      case event::cancel:
        fiber.cancel();
        cancelled = true;
        break;
      case event::turn:
      case event::count: coir::await(coir::yield()); break;
    }
  }
  fiber.cancel();
  for (std::size_t i = 0; i < 2; ++i) give_up(i);
  while (fiber.state() != coir::fiber_state::dead) coir::await(coir::yield());

  const bool any = all.brought[0] + all.brought[1] != 0;
  CHECK(all.results == (any ? 1 : 0));
  CHECK(all.seen == all.brought);
  if (first_done) CHECK(all.winner == *first_done);
  CHECK(ends[0].aborts() <= 1);
  CHECK(ends[1].aborts() <= 1);
  CHECK_FALSE(ends[0].waiting());
  CHECK_FALSE(ends[1].waiting());
}

}  // namespace

TEST_CASE("whatever happens to the ops of a select and in whichever order, all that came is seen, and once") {
  constexpr std::size_t length = 4;
  constexpr auto kinds = static_cast<std::size_t>(event::count);
  support::on_both_surfaces([](auto wait) {
    std::size_t count = 1;
    for (std::size_t i = 0; i < length; ++i) count *= kinds;
    for (const auto first : {abort_answer::now, abort_answer::later}) {
      for (const auto second : {abort_answer::now, abort_answer::later}) {
        for (std::size_t number = 0; number < count; ++number) {
          std::vector<event> events;
          for (std::size_t i = 0, rest = number; i < length; ++i, rest /= kinds) {
            events.push_back(static_cast<event>(rest % kinds));
          }
          play(wait, {first, second}, events);
        }
      }
    }
  });
}
