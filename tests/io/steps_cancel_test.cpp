// A cancellation at every step of an op that is made of steps.
#include "io/scripted_stream.hpp"

#include "support/both.hpp"
#include "support/catch.hpp"
#include "support/loop_tools.hpp"

#include "fiber/until.hpp"

#include <array>
#include <chrono>
#include <optional>
#include <string>

using namespace std::chrono_literals;
using coir::abort_answer;
using support::again;
using support::moment;
using support::scripted_stream;
using support::when;

namespace {

constexpr unsigned steps = 5;
constexpr std::size_t bytes_a_step = 3;
const std::string text = support::pattern(steps * bytes_a_step);

// How a step that is asked to stop ends.
enum class ending { now, later_stopped, later_done };

struct outcome {
  bool returned = false;
  std::optional<std::size_t> stopped_after;  // cancelled.transferred()
  bool next_point_cancelled = false;
};

// How `op` ends in the running fiber, and whether a cancellation is still there afterwards.
template <class Op>
void see_end(outcome& seen, Op& op) {
  try {
    op();
    seen.returned = true;
  } catch (const coir::cancelled& stop) {
    seen.stopped_after = stop.transferred();
  }
  try {
    coir::await(coir::yield());
  } catch (const coir::cancelled&) {
    seen.next_point_cancelled = true;
    throw;
  }
}

// Runs `op` in a fiber that is cancelled while step number `at` waits. (Not inside a CHECK: that catches
// everything, cancellations too.)
template <class Op>
outcome cancel_at(scripted_stream& stream, unsigned at, ending how, Op&& op) {
  stream.steps.assign(steps, {static_cast<int>(bytes_a_step), when::later});
  stream.answer = how == ending::now ? abort_answer::now : abort_answer::later;
  outcome seen;
  auto whom = coir::spawn([&] { see_end(seen, op); }, coir::report_failure);
  for (unsigned i = 0; i < at; ++i) {
    support::until([&] { return stream.waits(); });
    stream.finish();
  }
  support::until([&] { return stream.waits(); });
  whom.cancel();
  whom.cancel();
  if (how == ending::later_done) stream.finish();
  if (how == ending::later_stopped) stream.finish_stopped();
  support::until([&] { return whom.state() == coir::fiber_state::dead; });
  CHECK(stream.aborts == 1);
  CHECK(stream.started == at + 1);
  CHECK(seen.next_point_cancelled);
  return seen;
}

// `moved` bytes are accounted for: in the exception, or by all being done.
void check(const outcome& seen, unsigned at, ending how) {
  const unsigned done = how == ending::later_done ? at + 1 : at;
  if (done == steps) {
    CHECK(seen.returned);
  } else {
    CHECK(!seen.returned);
    REQUIRE(seen.stopped_after.has_value());
    CHECK(*seen.stopped_after == done * bytes_a_step);
  }
}

template <class Test>
void sweep(Test&& test) {
  support::on_both_surfaces([&](auto wait) {
    for (const ending how : {ending::now, ending::later_stopped, ending::later_done}) {
      for (unsigned at = 0; at < steps; ++at) {
        INFO("step " << at << ", ending " << static_cast<int>(how));
        test(wait, at, how);
      }
    }
  });
}

}  // namespace

TEST_CASE("write_all that is cancelled at any step says how many bytes had moved") {
  sweep([](auto wait, unsigned at, ending how) {
    scripted_stream stream;
    const outcome seen =
        cancel_at(stream, at, how, [&] { wait(coir::io::write_all(stream, text)); });
    check(seen, at, how);
    CHECK(stream.sunk == text.substr(0, seen.returned ? text.size() : *seen.stopped_after));
  });
}

TEST_CASE("read_exactly that is cancelled at any step says how many bytes had moved") {
  sweep([](auto wait, unsigned at, ending how) {
    scripted_stream stream;
    stream.source = text;
    std::string got(text.size(), '-');
    const outcome seen = cancel_at(stream, at, how, [&] {
      const std::size_t count =
          wait(coir::io::read_exactly(stream, std::as_writable_bytes(std::span(got))));
      CHECK(count == text.size());
    });
    check(seen, at, how);
    const std::size_t moved = seen.returned ? text.size() : *seen.stopped_after;
    CHECK(got.substr(0, moved) == text.substr(0, moved));
    CHECK(stream.source == text.substr(moved));
  });
}

TEST_CASE("a line that is cancelled at any step loses no byte") {
  sweep([](auto wait, unsigned at, ending how) {
    scripted_stream stream;
    stream.source = "0123456789abc\nrest";
    coir::io::buffered_reader reader(stream, 16);
    const outcome seen = cancel_at(stream, at, how, [&] {
      const auto line = wait(reader.read_line());
      CHECK(line == "0123456789abc");
    });
    const unsigned done = how == ending::later_done ? at + 1 : at;
    CHECK(seen.returned == (done == steps));
    stream.steps.clear();
    if (!seen.returned) CHECK(wait(reader.read_line()) == "0123456789abc");
    CHECK(wait(reader.read_line()) == "rest");
    CHECK(!wait(reader.read_line()).has_value());
  });
}

// Runs the op in a fiber that is interrupted while step number `at` waits, and awaits it again.
template <class Op>
auto interrupt_at(scripted_stream& stream, unsigned at, ending how, Op op) {
  stream.steps.assign(steps, {static_cast<int>(bytes_a_step), when::later});
  stream.answer = how == ending::now ? abort_answer::now : abort_answer::later;
  struct given_up {};
  unsigned times_given_up = 0;
  auto whom = coir::spawn([&] {
    for (;;) {
      try {
        auto result = op();
        coir::await(coir::yield());
        return result;
      } catch (const given_up&) {
        ++times_given_up;
      }
    }
  });
  for (unsigned i = 0; i < at; ++i) {
    support::until([&] { return stream.waits(); });
    stream.finish();
  }
  support::until([&] { return stream.waits(); });
  whom.interrupt(given_up());
  stream.steps.clear();
  if (how == ending::later_done) stream.finish();
  if (how == ending::later_stopped) stream.finish_stopped();
  auto result = coir::await(whom.take());
  CHECK(times_given_up == 1);
  return result;
}

TEST_CASE("an op of several steps that is given up at any of them goes on there when it is awaited again") {
  sweep([](auto wait, unsigned at, ending how) {
    scripted_stream stream;
    auto write = coir::io::write_all(stream, text);
    interrupt_at(stream, at, how, [&] { return wait(again(write)), true; });
    CHECK(stream.sunk == text);

    stream.source = text;
    std::string got(text.size(), '-');
    auto read = coir::io::read_exactly(stream, std::as_writable_bytes(std::span(got)));
    CHECK(interrupt_at(stream, at, how, [&] { return wait(again(read)); }) == text.size());
    CHECK(got == text);
  });
}

TEST_CASE("a line that is given up at any step is read when it is awaited again, and the next one then") {
  support::on_both_surfaces([](auto wait) {
    for (const ending how : {ending::now, ending::later_stopped}) {
      for (unsigned at = 0; at < steps; ++at) {
        scripted_stream stream;
        stream.source = "0123456789abc\nnext\nlast\n";
        coir::io::buffered_reader reader(stream, 16);
        auto line = reader.read_line();
        CHECK(interrupt_at(stream, at, how, [&] { return wait(again(line)); }) == "0123456789abc");
        CHECK(wait(again(line)) == "next");
        // What others take meanwhile is not looked for again.
        CHECK(wait(reader.peek(2)).size() == 2);
        reader.consume(2);
        CHECK(wait(again(line)) == "st");
        CHECK_FALSE(wait(again(line)).has_value());

        stream.source = "0123456789";
        std::array<std::byte, 4> into{};
        auto some = reader.read_some(into);
        CHECK(wait(again(some)) == 4);
        CHECK(wait(again(some)) == 4);
        CHECK(wait(again(some)) == 2);
        CHECK(wait(again(some)) == 0);
      }
    }
  });
}

TEST_CASE("as_result throws a cancellation all the same") {
  sweep([](auto wait, unsigned at, ending how) {
    scripted_stream stream;
    const outcome seen = cancel_at(stream, at, how, [&] {
      const auto wrote = wait(coir::as_result(coir::io::write_all(stream, text)));
      CHECK(wrote.has_value());
    });
    check(seen, at, how);
  });
}

TEST_CASE("a step that fails after it was asked to stop is an error, with its bytes") {
  support::on_both_surfaces([](auto wait) {
    scripted_stream stream;
    stream.answer = abort_answer::later;
    stream.steps = {{2}, {-ECONNRESET, when::later}};
    std::optional<std::size_t> moved;
    auto whom = coir::spawn([&] {
      try {
        wait(coir::io::write_all(stream, "12345"));
      } catch (const coir::io::partial_error& error) {
        moved = error.transferred();
      }
    });
    support::until([&] { return stream.waits(); });
    whom.cancel();
    stream.finish();
    support::until([&] { return whom.state() == coir::fiber_state::dead; });
    CHECK(moved == std::size_t{2});
  });
}

TEST_CASE("a cancellation between two shares of steps stops at once") {
  support::on_both_surfaces([](auto wait) {
    scripted_stream stream;
    const std::string long_text = support::pattern(1000);
    stream.steps.assign(long_text.size(), {1});
    std::optional<std::size_t> moved;
    auto whom = coir::spawn([&] {
      try {
        wait(coir::io::write_all(stream, long_text));
      } catch (const coir::cancelled& stop) {
        moved = stop.transferred();
        throw;
      }
    });
    support::until([&] { return stream.started > 0; });
    const unsigned started = stream.started;
    whom.cancel();
    support::until([&] { return whom.state() == coir::fiber_state::dead; });
    CHECK(stream.started == started);
    CHECK(stream.aborts == 0);
    CHECK(moved == std::size_t{started});
  });
}

// --- by the stream itself ---

namespace {

// A cancellation by what the stream does for step number `at`, of whoever waits for all of them.
struct own_goal {
  moment what;
  unsigned at;
  when finishes;
  ending how;  // of a step that waits when it is asked to stop

  bool meets_waiting_step() const { return what == moment::starts && finishes == when::later; }
  // So many steps have moved their bytes.
  unsigned done() const {
    const bool dropped = what == moment::asked || (meets_waiting_step() && how != ending::later_done);
    return dropped ? at : at + 1;
  }
};

template <class Op>
outcome cancel_by_stream(scripted_stream& stream, const own_goal& goal, Op&& op) {
  stream.steps.assign(steps, {static_cast<int>(bytes_a_step), goal.finishes});
  stream.answer = goal.how == ending::now ? abort_answer::now : abort_answer::later;
  coir::cancel_scope scope;
  stream.during = [&](moment what, unsigned number) {
    if (what == goal.what && number == goal.at) scope.cancel();
  };
  outcome seen;
  auto whom = coir::spawn([&] {
    scope.run([&] { see_end(seen, op); });
  });
  support::until([&] {
    if (stream.waits()) {
      if (stream.aborts != 0 && goal.how == ending::later_stopped) {
        stream.finish_stopped();
      } else {
        stream.finish();
      }
    }
    return whom.state() == coir::fiber_state::dead;
  });
  stream.during = [](moment, unsigned) {};
  CHECK(whom.outcome() == coir::fiber_outcome::returned);
  CHECK(scope.caught());
  CHECK(seen.next_point_cancelled);
  CHECK(stream.started == (goal.what == moment::asked ? goal.at : goal.at + 1));
  CHECK(stream.aborts == (goal.meets_waiting_step() ? 1 : 0));
  CHECK(seen.returned == (goal.done() == steps));
  if (!seen.returned) CHECK(seen.stopped_after.has_value());
  return seen;
}

template <class Test>
void sweep_own_goals(Test&& test) {
  support::on_both_surfaces([&](auto wait) {
    for (const moment what : {moment::asked, moment::starts, moment::gives}) {
      for (const when finishes : {when::at_once, when::told_at_once, when::later}) {
        for (const ending how : {ending::now, ending::later_stopped, ending::later_done}) {
          for (unsigned at = 0; at < steps; ++at) {
            INFO("moment " << static_cast<int>(what) << ", step " << at << ", finishes " << static_cast<int>(finishes)
                           << ", ending " << static_cast<int>(how));
            test(wait, own_goal{what, at, finishes, how});
          }
        }
      }
    }
  });
}

}  // namespace

TEST_CASE("a stream that cancels its own writer, at any moment of any step, is asked for nothing more") {
  sweep_own_goals([](auto wait, const own_goal& goal) {
    scripted_stream stream;
    const outcome seen = cancel_by_stream(stream, goal, [&] { wait(coir::io::write_all(stream, text)); });
    const std::size_t moved = goal.done() * bytes_a_step;
    if (!seen.returned) CHECK(seen.stopped_after == moved);
    CHECK(stream.sunk == text.substr(0, moved));
  });
}

TEST_CASE("a stream that cancels its own reader, at any moment of any step, loses no byte") {
  sweep_own_goals([](auto wait, const own_goal& goal) {
    scripted_stream stream;
    stream.source = text;
    std::string got(text.size(), '-');
    const outcome seen = cancel_by_stream(stream, goal, [&] {
      const std::size_t count = wait(coir::io::read_exactly(stream, std::as_writable_bytes(std::span(got))));
      CHECK(count == text.size());
    });
    const std::size_t moved = goal.done() * bytes_a_step;
    if (!seen.returned) CHECK(seen.stopped_after == moved);
    CHECK(got.substr(0, moved) == text.substr(0, moved));
    CHECK(stream.source == text.substr(moved));
  });
}

TEST_CASE("a stream that cancels who reads a line from it, at any moment of any step, loses no byte") {
  sweep_own_goals([](auto wait, const own_goal& goal) {
    scripted_stream stream;
    stream.source = "0123456789abc\nrest";
    coir::io::buffered_reader reader(stream, 16);
    const outcome seen = cancel_by_stream(stream, goal, [&] {
      const auto line = wait(reader.read_line());
      CHECK(line == "0123456789abc");
    });
    stream.steps.clear();
    if (!seen.returned) CHECK(wait(reader.read_line()) == "0123456789abc");
    CHECK(wait(reader.read_line()) == "rest");
    CHECK(!wait(reader.read_line()).has_value());
  });
}

TEST_CASE("what a stream has cancelled in the middle goes on there when it is awaited again") {
  sweep_own_goals([](auto wait, const own_goal& goal) {
    scripted_stream stream;
    auto write = coir::io::write_all(stream, text);
    const outcome seen = cancel_by_stream(stream, goal, [&] { wait(again(write)); });
    stream.steps.clear();
    if (!seen.returned) wait(again(write));
    CHECK(stream.sunk == text);
  });
}

TEST_CASE("a stream that cancels who waits for it among other things is asked to stop once, and all of them end") {
  support::on_both_surfaces([](auto wait) {
    for (const abort_answer answer : {abort_answer::now, abort_answer::later}) {
      for (const when finishes : {when::at_once, when::told_at_once, when::later}) {
        for (const bool limited : {false, true}) {
          // Which of a select begins first is drawn.
          for (int round = 0; round < 8; ++round) {
            coir::event others;
            INFO("answer " << static_cast<int>(answer) << ", finishes " << static_cast<int>(finishes) << ", limited "
                           << limited);
            scripted_stream stream;
            stream.answer = answer;
            stream.steps = {{3, finishes}};
            coir::cancel_scope scope;
            stream.during = [&](moment what, unsigned) {
              if (what == moment::starts) scope.cancel();
            };
            auto whom = coir::spawn([&] {
              scope.run([&] {
                if (limited) {
                  wait(coir::move_on_after(1ms, coir::io::write_all(stream, text)));
                } else {
                  wait(coir::select(others.wait(), coir::io::write_all(stream, text), coir::sleep_until(coir::never)));
                }
                wait(coir::sleep_until(coir::never));
              });
            });
            coir::await(coir::sleep_for(3ms));
            CHECK(stream.aborts == (finishes == when::later ? 1 : 0));
            CHECK(stream.waits() == (finishes == when::later && answer == abort_answer::later));
            if (stream.waits()) stream.finish_stopped();
            coir::await(whom.join());
            CHECK(scope.caught());
            CHECK(stream.started == 1);
            // Who was first in line has left it, and it is known.
            CHECK(others.stats().waiting == 0);
            CHECK(others.stats().waited == others.stats().cancelled);
          }
        }
      }
    }
  });
}
