#include "fiber/hand_op.hpp"
#include "support/catch.hpp"
#include "support/jumping.hpp"

#include <coir/coir.hpp>

#include <sys/socket.h>

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

using namespace std::chrono_literals;
using coir::abort_answer;
using coir::fiber_outcome;
using coir::fiber_state;
using support::hand;
using support::hand_op;
using support::jumping;
using support::jumping_on_both;
using support::now;

namespace {

void turns(int count = 3) {
  for (int i = 0; i < count; ++i) coir::await(coir::yield());
}

// Ready at once, always.
class ready_op {
 public:
  static constexpr const char* name = "ready";
  explicit ready_op(int value) noexcept : value_(value) {}
  bool start(coir::waiter&) noexcept { return false; }
  abort_answer abort() noexcept { return abort_answer::now; }
  int take() const noexcept { return value_; }

 private:
  int value_;
};

// Throws when it begins, or when its result is taken.
class failing_op {
 public:
  enum class when { start, take };
  static constexpr const char* name = "failing";
  explicit failing_op(when what) noexcept : when_(what) {}
  bool start(coir::waiter&) const {
    if (when_ == when::start) throw std::out_of_range("start");
    return false;
  }
  abort_answer abort() noexcept { return abort_answer::now; }
  std::string take() { throw std::out_of_range("take"); }

 private:
  when when_;
};

// One that waits and ends with an error.
class broken_op : public hand_op {
 public:
  static constexpr const char* name = "broken";
  using hand_op::hand_op;
  int take() {
    hand_op::take();
    throw std::system_error(std::make_error_code(std::errc::connection_reset));
  }
};

template <class Make>
std::vector<std::size_t> winners(int count, Make&& make) {
  std::vector<std::size_t> all;
  for (int i = 0; i < count; ++i) all.push_back(coir::await(make()).index());
  return all;
}

}  // namespace

// --- who wins, and what there is to see of it ---

TEST_CASE("a select gives what the first op gave, at the place that op has among the arguments") {
  jumping_on_both([](auto wait) {
    hand text;
    hand number;
    auto helper = coir::spawn([&] {
      turns();
      number.complete(7);
    });
    auto got = wait(coir::select(hand_op(text), hand_op(number), coir::sleep_for(1h)));
    CHECK(got.index() == 1);
    CHECK(std::get<1>(got) == 7);
    CHECK(std::holds_alternative<int>(std::variant<int, std::string>(std::get<1>(got))));
    CHECK(std::visit([](const auto& which) { return std::is_same_v<decltype(which), const int&>; }, got));
    static_assert(std::is_same_v<decltype(std::get<2>(got)), std::monostate&>);
  });
}

TEST_CASE("of nothing a select has std::monostate, and of a reference a pointer") {
  jumping_on_both([](auto wait) {
    auto got = wait(coir::select(coir::sleep_for(1s), coir::sleep_for(1h)));
    CHECK(std::get<0>(got) == std::monostate());
    auto fiber = coir::spawn([] { return std::string("page"); });
    const auto end = wait(coir::select(fiber.join(), coir::sleep_for(1h)));
    CHECK(*std::get<0>(end) == "page");
  });
}

TEST_CASE("a select gives what can only be moved") {
  jumping_on_both([](auto wait) {
    auto fiber = coir::spawn([] { return std::make_unique<int>(7); });
    auto got = wait(coir::select(coir::sleep_for(1h), fiber.take()));
    REQUIRE(got.index() == 1);
    CHECK(*std::get<1>(got) == 7);
  });
}

TEST_CASE("a select ends when its time is over, and leaves no timer behind") {
  jumping_on_both([](auto wait) {
    const coir::instant begin = now();
    CHECK(wait(coir::select(coir::sleep_for(1h), coir::sleep_for(1s))).index() == 1);
    CHECK(now() - begin == 1s);
    CHECK(support::loop_here().census().armed == 0);
  });
}

TEST_CASE("a sleep of nothing in a select lets others run first") {
  jumping_on_both([](auto wait) {
    bool ran = false;
    hand never;
    auto other = coir::spawn([&] { ran = true; });
    CHECK(wait(coir::select(coir::sleep_for(0s), hand_op(never))).index() == 0);
    CHECK(ran);
    CHECK_FALSE(never.waiting());
  });
}

// --- losers ---

TEST_CASE("the losers are stopped when the winner is over, and not when the fiber runs") {
  jumping_on_both([](auto wait) {
    hand first;
    hand second;
    hand third;
    auto fiber = coir::spawn([&] { return wait(coir::select(hand_op(first), hand_op(second), hand_op(third))).index(); });
    turns();
    second.complete();
    CHECK_FALSE(first.waiting());
    CHECK_FALSE(third.waiting());
    CHECK(first.aborts() + second.aborts() + third.aborts() == 2);
    CHECK(fiber.state() != fiber_state::dead);
    CHECK(coir::await(fiber.join()) == 1);
  });
}

TEST_CASE("losers that somebody owns are waited for") {
  jumping_on_both([](auto wait) {
    hand winner;
    hand owned(abort_answer::later);
    hand other(abort_answer::later);
    auto fiber = coir::spawn([&] {
      auto got = wait(coir::select(hand_op(owned), hand_op(winner), hand_op(other)));
      CHECK(got.index() == 1);
      CHECK(got.template also<0>() == nullptr);
      CHECK(got.template also<2>() == nullptr);
    });
    turns();
    winner.complete();
    turns();
    CHECK(fiber.state() == fiber_state::waiting);
    owned.give_up();
    turns();
    CHECK(fiber.state() == fiber_state::waiting);
    other.give_up();
    coir::await(fiber.join());
    CHECK(owned.aborts() == 1);
    CHECK(other.aborts() == 1);
  });
}

TEST_CASE("a loser that succeeds all the same has its result in also()") {
  jumping_on_both([](auto wait) {
    hand winner;
    hand owned(abort_answer::later);
    auto fiber = coir::spawn([&] {
      const auto got = wait(coir::select(hand_op(winner), hand_op(owned), coir::sleep_for(1h)));
      CHECK(got.index() == 0);
      CHECK(std::get<0>(got) == 1);
      REQUIRE(got.template also<1>() != nullptr);
      CHECK(*got.template also<1>() == 2);
      CHECK(got.template also<2>() == nullptr);
    });
    turns();
    winner.complete(1);
    turns();
    owned.complete(2);
    coir::await(fiber.join());
  });
}

TEST_CASE("an error of a loser is in the fiber's other_failures(), and does not hide the winner") {
  jumping_on_both([](auto wait) {
    hand winner;
    hand owned(abort_answer::later);
    auto fiber = coir::spawn([&] {
      CHECK(wait(coir::select(hand_op(winner), broken_op(owned))).index() == 0);
      return 1;
    });
    turns();
    winner.complete();
    owned.complete();
    CHECK(coir::await(fiber.join()) == 1);
    REQUIRE(fiber.other_failures().size() == 1);
    CHECK_THROWS_AS(std::rethrow_exception(fiber.other_failures().front()), std::system_error);
  });
}

TEST_CASE("of an op of several steps that lost, the result says how far it came") {
  support::on_both_surfaces([](auto wait) {
    int ends[2];
    REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends) == 0);
    coir::net::tcp_stream mine(support::loop_here(), ends[0]);
    const coir::unique_fd peer(ends[1]);
    REQUIRE(::send(peer.get(), "abc", 3, 0) == 3);
    std::array<std::byte, 8> into{};
    hand stop;
    auto helper = coir::spawn([&] {
      while (into[2] != std::byte{'c'}) coir::await(coir::yield());
      stop.complete();
    });
    auto got = wait(coir::select(coir::io::read_exactly(mine, into), hand_op(stop)));
    CHECK(got.index() == 1);
    CHECK(got.template also<0>() == nullptr);
    CHECK(got.template transferred<0>() == 3);
    CHECK(into[2] == std::byte{'c'});
  });
}

// --- errors ---

TEST_CASE("what the winner throws is thrown when the losers are over") {
  jumping_on_both([](auto wait) {
    hand winner;
    hand owned(abort_answer::later);
    bool threw = false;
    auto fiber = coir::spawn([&] {
      try {
        static_cast<void>(wait(coir::select(hand_op(owned), broken_op(winner))));
      } catch (const std::system_error&) {
        threw = true;
      }
    });
    turns();
    winner.complete();
    turns();
    CHECK_FALSE(threw);
    owned.give_up();
    coir::await(fiber.join());
    CHECK(threw);
    CHECK(fiber.other_failures().empty());
  });
}

TEST_CASE("when the winner throws and a loser succeeds, the loser has won and the error is kept") {
  jumping_on_both([](auto wait) {
    hand winner;
    hand owned(abort_answer::later);
    auto fiber = coir::spawn([&] {
      auto got = wait(coir::select(hand_op(owned), broken_op(winner)));
      CHECK(got.index() == 0);
      CHECK(std::get<0>(got) == 5);
    });
    turns();
    winner.complete();
    owned.complete(5);
    coir::await(fiber.join());
    CHECK(fiber.other_failures().size() == 1);
  });
}

TEST_CASE("an op that throws when it begins has won: what has begun is stopped, and then it is thrown") {
  jumping_on_both([](auto wait) {
    for (const auto answer : {abort_answer::now, abort_answer::later}) {
      unsigned begun = 0;
      for (int i = 0; i < 40; ++i) {
        hand other(answer);
        auto fiber = coir::spawn([&] {
          CHECK_THROWS_AS(wait(coir::select(failing_op(failing_op::when::start), hand_op(other))), std::out_of_range);
        });
        turns();
        begun += other.aborts();
        if (answer == abort_answer::later && other.aborts() == 1) {
          CHECK(fiber.state() == fiber_state::waiting);
          other.give_up();
        }
        coir::await(fiber.join());
        CHECK_FALSE(other.waiting());
      }
      // Whether the other one has begun is drawn.
      CHECK(begun > 5);
      CHECK(begun < 35);
    }
  });
}

TEST_CASE("a winner that is ready at once may throw as well") {
  jumping_on_both([](auto wait) {
    hand other;
    CHECK_THROWS_AS(wait(coir::select(failing_op(failing_op::when::take), hand_op(other))), std::out_of_range);
    CHECK_FALSE(other.waiting());
  });
}

TEST_CASE("as_result() of a select gives the winner's error as a code, and a select of results has it in place") {
  jumping_on_both([](auto wait) {
    hand end;
    hand other;
    end.complete();
    const auto outside = wait(coir::as_result(coir::select(broken_op(end), hand_op(other))));
    REQUIRE_FALSE(outside.has_value());
    CHECK(outside.error() == std::errc::connection_reset);
    end.complete();
    const auto inside = wait(coir::select(coir::as_result(broken_op(end)), hand_op(other)));
    REQUIRE(inside.index() == 0);
    CHECK(std::get<0>(inside).error() == std::errc::connection_reset);
  });
}

// --- otherwise ---

TEST_CASE("coir::otherwise is taken when nothing is ready at once, and does not wait") {
  jumping_on_both([](auto wait) {
    hand first;
    hand second;
    bool ran = false;
    auto other = coir::spawn([&] { ran = true; });
    CHECK(coir::await(coir::select(hand_op(first), coir::otherwise)).index() == 1);
    CHECK(coir::await(coir::select(hand_op(first), hand_op(second), coir::otherwise)).index() == 2);
    CHECK_FALSE(ran);
    CHECK_FALSE(first.waiting());
    CHECK_FALSE(second.waiting());
    second.complete(7);
    auto got = wait(coir::select(hand_op(first), hand_op(second), coir::otherwise));
    REQUIRE(got.index() == 1);
    CHECK(std::get<1>(got) == 7);
    static_assert(std::is_same_v<decltype(std::get<2>(got)), std::monostate&>);
  });
}

TEST_CASE("a sleep that is over is ready, also for a select with coir::otherwise") {
  jumping_on_both([](auto wait) {
    CHECK(wait(coir::select(coir::sleep_for(0s), coir::otherwise)).index() == 0);
    CHECK(wait(coir::select(coir::sleep_for(1s), coir::otherwise)).index() == 1);
  });
}

TEST_CASE("with coir::otherwise an op is waited for until its owner gives it back, and may have won by then") {
  jumping_on_both([](auto wait) {
    for (const bool succeeds : {true, false}) {
      hand owned(abort_answer::later);
      auto fiber = coir::spawn([&] { return wait(coir::select(hand_op(owned), coir::otherwise)).index(); });
      turns();
      CHECK(owned.aborts() == 1);
      CHECK(fiber.state() == fiber_state::waiting);
      if (succeeds) {
        owned.complete();
      } else {
        owned.give_up();
      }
      CHECK(coir::await(fiber.join()) == (succeeds ? 0 : 1));
    }
  });
}

TEST_CASE("an op that failed before it was given back is no reason for otherwise") {
  jumping_on_both([](auto wait) {
    hand owned(abort_answer::later);
    auto fiber = coir::spawn([&] {
      CHECK_THROWS_AS(wait(coir::select(broken_op(owned), coir::otherwise)), std::system_error);
    });
    turns();
    owned.complete();
    coir::await(fiber.join());
  });
}

// --- cancelling ---

TEST_CASE("a cancelled select stops all its ops at once when they can be") {
  jumping_on_both([](auto wait) {
    hand first;
    hand second;
    auto fiber = coir::spawn([&] { wait(coir::select(hand_op(first), hand_op(second))); });
    turns();
    fiber.cancel();
    CHECK(fiber.state() == fiber_state::ready);
    CHECK_FALSE(first.waiting());
    CHECK_FALSE(second.waiting());
    turns();
    CHECK(fiber.outcome() == fiber_outcome::cancelled);
  });
}

TEST_CASE("a cancelled select waits for those that somebody owns, and what succeeds by then is delivered") {
  jumping_on_both([](auto wait) {
    for (const unsigned succeed : {0U, 1U, 2U, 3U}) {
      hand first(abort_answer::later);
      hand second(abort_answer::later);
      hand third;
      int sum = 0;
      bool went_on = false;
      auto fiber = coir::spawn([&] {
        auto got = wait(coir::select(hand_op(first), hand_op(third), hand_op(second)));
        CHECK(got.index() == ((succeed & 1U) != 0 ? 0 : 2));
        sum += got.index() == 0 ? std::get<0>(got) : std::get<2>(got);
        if (got.template also<2>() != nullptr) sum += *got.template also<2>();
        CHECK(got.template also<0>() == nullptr);
        wait(coir::yield());
        went_on = true;
      });
      turns();
      fiber.cancel();
      CHECK(fiber.state() == fiber_state::waiting);
      CHECK_FALSE(third.waiting());
      (succeed & 1U) != 0 ? first.complete(1) : first.give_up();
      turns();
      CHECK(fiber.state() == fiber_state::waiting);
      (succeed & 2U) != 0 ? second.complete(2) : second.give_up();
      turns();
      CHECK(fiber.outcome() == fiber_outcome::cancelled);
      CHECK(sum == static_cast<int>(succeed));
      CHECK_FALSE(went_on);
    }
  });
}

TEST_CASE("a select whose losers are being stopped is not asked again when it is cancelled") {
  jumping_on_both([](auto wait) {
    hand winner;
    hand owned(abort_answer::later);
    int got = 0;
    bool went_on = false;
    auto fiber = coir::spawn([&] {
      got = std::get<0>(wait(coir::select(hand_op(winner), hand_op(owned))));
      wait(coir::yield());
      went_on = true;
    });
    turns();
    winner.complete(7);
    fiber.cancel();
    CHECK(owned.aborts() == 1);
    CHECK(fiber.state() == fiber_state::waiting);
    owned.give_up();
    turns();
    CHECK(got == 7);
    CHECK(fiber.outcome() == fiber_outcome::cancelled);
    CHECK_FALSE(went_on);
  });
}

TEST_CASE("a select under a limit ends with it") {
  jumping_on_both([](auto wait) {
    hand first;
    const coir::instant begin = now();
    CHECK_FALSE(wait(coir::move_on_after(1s, coir::select(hand_op(first), coir::sleep_for(1h)))));
    CHECK(now() - begin == 1s);
    CHECK_FALSE(first.waiting());
    CHECK_THROWS_AS(wait(coir::fail_after(1s, coir::select(hand_op(first), coir::sleep_for(1h)))), coir::timed_out);
    auto got = wait(coir::move_on_after(1h, coir::select(hand_op(first), coir::sleep_for(1s))));
    REQUIRE(got);
    CHECK(got->index() == 1);
    CHECK(support::loop_here().census().armed == 0);
  });
}

TEST_CASE("an op with a limit may be one of several") {
  jumping_on_both([](auto wait) {
    hand first;
    hand second;
    auto got = wait(coir::select(coir::move_on_after(1s, hand_op(first)), hand_op(second)));
    REQUIRE(got.index() == 0);
    CHECK_FALSE(std::get<0>(got));
    CHECK_FALSE(second.waiting());
    CHECK_THROWS_AS(wait(coir::select(coir::fail_after(1s, hand_op(first)), hand_op(second))), coir::timed_out);
    second.complete(3);
    CHECK(wait(coir::select(coir::fail_after(1s, hand_op(first)), hand_op(second))).index() == 1);
    CHECK(support::loop_here().census().armed == 0);
  });
}

TEST_CASE("a select may be one of several, and all of them are stopped together") {
  jumping_on_both([](auto wait) {
    hand a;
    hand b;
    hand c;
    hand d;
    auto fiber = coir::spawn([&] {
      auto got = wait(coir::select(coir::select(hand_op(a), hand_op(b)), coir::select(hand_op(c), hand_op(d))));
      REQUIRE(got.index() == 1);
      CHECK(std::get<1>(got).index() == 0);
      CHECK(std::get<0>(std::get<1>(got)) == 7);
    });
    turns();
    c.complete(7);
    CHECK_FALSE(a.waiting());
    CHECK_FALSE(b.waiting());
    CHECK_FALSE(d.waiting());
    coir::await(fiber.join());
  });
}

TEST_CASE("a select hears that its region winds down, and of its ops those that listen") {
  jumping_on_both([](auto wait) {
    hand other;
    coir::cancel_scope scope;
    auto helper = coir::spawn([&] {
      turns();
      scope.cancel(1h);
    });
    scope.run([&] {
      CHECK(wait(coir::select(hand_op(other), coir::wait_shutting_down(), coir::sleep_for(1h))).index() == 1);
      CHECK_FALSE(other.waiting());
    });
  });
}

// --- what has a name ---

TEST_CASE("an op with a name stays where it is, and can be waited for again when it has lost") {
  jumping_on_both([](auto wait) {
    hand end;
    hand_op op(end);
    for (int i = 0; i < 3; ++i) {
      CHECK(wait(coir::select(op, coir::sleep_for(1s))).index() == 1);
      CHECK_FALSE(end.waiting());
    }
    end.complete(7);
    auto got = wait(coir::select(coir::sleep_for(1s), op));
    CHECK(std::get<1>(got) == 7);
  });
}

// --- as many as there are ---

TEST_CASE("select_any() says which of many was first, and what it gave") {
  jumping_on_both([](auto wait) {
    std::array<hand, 5> ends;
    std::vector<hand_op> ops;
    for (hand& each : ends) ops.emplace_back(each);
    auto helper = coir::spawn([&] {
      turns();
      ends[3].complete(33);
      for (const hand& each : ends) CHECK_FALSE(each.waiting());
    });
    auto got = wait(coir::select_any(ops));
    CHECK(got.index == 3);
    CHECK(got.value == 33);
    CHECK(got.also.empty());
    CHECK_FALSE(wait(coir::move_on_after(1s, coir::select_any(std::span(ops).first(2)))));
  });
}

TEST_CASE("select_any() gives what losers gave as well, waits for all, and throws what the winner throws") {
  jumping_on_both([](auto wait) {
    std::array<hand, 3> ends{hand(abort_answer::later), hand(abort_answer::later), hand(abort_answer::later)};
    std::vector<hand_op> ops;
    for (hand& each : ends) ops.emplace_back(each);
    auto fiber = coir::spawn([&] {
      auto got = wait(coir::select_any(ops));
      CHECK(got.index == 1);
      REQUIRE(got.also.size() == 1);
      CHECK(got.also[0].index == 2);
      CHECK(got.also[0].value == 8);
    });
    turns();
    ends[1].complete(7);
    ends[2].complete(8);
    turns();
    CHECK(fiber.state() == fiber_state::waiting);
    ends[0].give_up();
    coir::await(fiber.join());

    std::vector<failing_op> failing(1, failing_op(failing_op::when::take));
    CHECK_THROWS_AS(wait(coir::select_any(failing)), std::out_of_range);
  });
}

TEST_CASE("select_any() of no ops is refused") {
  jumping_on_both([](auto wait) {
    std::vector<hand_op> none;
    CHECK_THROWS_AS(wait(coir::select_any(none)), std::logic_error);
  });
}

// --- fairness ---

TEST_CASE("of n ops that are always ready, each wins about every n-th time") {
  jumping([] {
    constexpr int rounds = 24'000;
    const auto check = [](std::size_t count, const std::vector<std::size_t>& all) {
      std::map<std::size_t, std::size_t> wins;
      for (const std::size_t each : all) ++wins[each];
      const std::size_t share = rounds / count;
      for (std::size_t i = 0; i < count; ++i) {
        CHECK(wins[i] > share * 9 / 10);
        CHECK(wins[i] < share * 11 / 10);
      }
    };
    check(2, winners(rounds, [] { return coir::select(ready_op(0), ready_op(1)); }));
    check(3, winners(rounds, [] { return coir::select(ready_op(0), ready_op(1), ready_op(2)); }));
    check(8, winners(rounds, [] {
            return coir::select(ready_op(0), ready_op(1), ready_op(2), ready_op(3), ready_op(4), ready_op(5), ready_op(6),
                                ready_op(7));
          }));
    std::vector<ready_op> many(5, ready_op(0));
    std::vector<std::size_t> any;
    for (int i = 0; i < rounds; ++i) any.push_back(coir::await(coir::select_any(many)).index);
    check(5, any);
  });
}

TEST_CASE("of some that are always ready none waits for ever, whichever they are") {
  jumping([] {
    hand never;
    std::map<std::size_t, int> wins;
    for (int i = 0; i < 8000; ++i) {
      ++wins[coir::await(coir::select(hand_op(never), ready_op(0), ready_op(0), hand_op(never))).index()];
    }
    CHECK(wins[1] > 1800);
    CHECK(wins[2] > 1800);
    CHECK(wins.size() == 2);
  });
}

TEST_CASE("fibers that take turns do not take each other's luck") {
  jumping([] {
    std::array<std::map<std::size_t, int>, 2> wins;
    coir::with_nursery([&](coir::nursery& in) {
      for (auto& mine : wins) {
        in.spawn([&] {
          for (int i = 0; i < 1000; ++i) {
            ++mine[coir::await(coir::select(ready_op(0), ready_op(1))).index()];
            coir::await(coir::yield());
          }
        });
      }
    });
    for (auto& mine : wins) {
      CHECK(mine[0] > 400);
      CHECK(mine[1] > 400);
    }
  });
}

TEST_CASE("the same run draws the same winners") {
  const auto once = [] {
    std::vector<std::size_t> all;
    jumping([&] { all = winners(200, [] { return coir::select(ready_op(0), ready_op(1), ready_op(2)); }); });
    return all;
  };
  CHECK(once() == once());
}

// --- what is seen of it ---

TEST_CASE("the deadlock report says what a select waits for, each of its ops") {
  std::string text;
  try {
    coir::run([] {
      hand first;
      auto fiber = coir::spawn([] { coir::await(coir::sleep_until(coir::never)); });
      coir::await(coir::select(hand_op(first), fiber.join(), coir::sleep_until(coir::never)));
    });
  } catch (const coir::deadlock& why) {
    text = why.what();
  }
  CHECK_THAT(text, Catch::Matchers::Contains("select of hand or join of fiber 2 or sleep for ever"));
}

// --- fibers among what is waited for ---

TEST_CASE("a select of joins gives the first fiber that ended and leaves the others alive") {
  jumping_on_both([](auto wait) {
    auto slow = coir::spawn([] {
      coir::await(coir::sleep_for(1h));
      return 1;
    });
    auto quick = coir::spawn([] {
      coir::await(coir::sleep_for(1s));
      return 2;
    });
    auto got = wait(coir::select(slow.join(), quick.join()));
    CHECK(got.index() == 1);
    CHECK(*std::get<1>(got) == 2);
    CHECK(slow.state() == fiber_state::waiting);
    CHECK(slow.outcome() == fiber_outcome::none);
    CHECK(coir::await(slow.join()) == 1);
  });
}

TEST_CASE("a select of joins that a limit ends leaves nobody behind who would be told") {
  jumping_on_both([](auto wait) {
    auto first = coir::spawn([] { coir::await(coir::sleep_for(1h)); });
    auto second = coir::spawn([] { coir::await(coir::sleep_for(2h)); });
    coir::monitor deaths;
    REQUIRE(deaths.watch(second));
    for (int i = 0; i < 3; ++i) {
      CHECK_FALSE(wait(coir::move_on_after(1s, coir::select(first.join(), second.join(), deaths.next()))));
    }
    coir::await(first.join());
    CHECK(wait(coir::select(coir::sleep_for(2h), deaths.next())).index() == 1);
  });
}

TEST_CASE("two joins of one fiber in one select are both told of, or only one") {
  jumping_on_both([](auto wait) {
    auto whom = coir::spawn([] { coir::await(coir::sleep_for(1s)); });
    auto got = wait(coir::select(whom.join(), whom.join()));
    CHECK(got.index() < 2);
  });
}
