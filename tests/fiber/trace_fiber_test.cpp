// What a fiber leaves behind in the trace, and what can be asked of one that waits.
#include "hand_op.hpp"
#include "until.hpp"

#include "support/catch.hpp"

#include <coir/coir.hpp>
#include <coir/testing/mock_clock.hpp>

#include <chrono>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

using namespace std::chrono_literals;
using Catch::Matchers::Contains;
using coir::fiber_state;
using coir::trace::point;
using support::hand;
using support::hand_op;

namespace {

constexpr std::uint32_t of_fibers = coir::trace::bit(point::spawn) | coir::trace::bit(point::ready) |
                                    coir::trace::bit(point::resume) | coir::trace::bit(point::park) |
                                    coir::trace::bit(point::end);

// Records what `work` does; from the turn after the one in which it is asked for.
template <class Work>
std::vector<coir::trace::record> record_of(Work&& work) {
  coir::trace::control& control = coir::running_fiber().home().on().trace();
  control.record(of_fibers);
  // Into the next turn.
  coir::await(coir::sleep_for(1ns));
  coir::trace::forget();
  work();
  control.record(0);
  return coir::trace::recorded();
}
std::vector<coir::trace::record> only(const std::vector<coir::trace::record>& all, std::uint64_t id) {
  std::vector<coir::trace::record> found;
  for (const auto& each : all) {
    if (each.fiber == id) found.push_back(each);
  }
  return found;
}
std::string points_of(const std::vector<coir::trace::record>& records) {
  std::string text;
  for (const auto& each : records) text += std::string(text.empty() ? "" : " ") + coir::trace::name_of(each.what);
  return text;
}

}  // namespace

TEST_CASE("the life of a fiber is recorded in order: spawn, resume, park, ready, resume, end") {
  coir::run([] {
    for (const int body : {0, 1, 2}) {
      INFO("body " << body);
      unsigned spawned = 0;
      unsigned waits = 0;
      std::uint64_t id = 0;
      hand hold;
      const auto all = record_of([&] {
        coir::fiber<void> child;
        if (body == 0) {
          spawned = __LINE__ + 1;
          child = coir::spawn([](hand& on, unsigned& line) -> coir::task<> {
            line = __LINE__ + 1;
            co_await hand_op(on);
          }(hold, waits));
        } else if (body == 1) {
          spawned = __LINE__ + 1;
          child = coir::spawn([&] {
            waits = __LINE__ + 1;
            coir::await(hand_op(hold));
          });
        } else {
          spawned = __LINE__ + 1;
          child = coir::spawn([](hand& on, unsigned& line) -> coir::task<> {
            co_await coir::on_stack([&] {
              line = __LINE__ + 1;
              coir::await(hand_op(on));
            });
          }(hold, waits));
        }
        id = child.id();
        support::until([&] { return hold.waiting(); });
        hold.complete();
        coir::await(child.join());
      });
      const auto mine = only(all, id);
      INFO(coir::trace::text(all));
      REQUIRE(points_of(mine) == "spawn resume park ready resume end");
      CHECK(mine[0].a == coir::running_fiber().id());
      CHECK(coir::place::unpacked(mine[0].b).line() == spawned);
      CHECK_THAT(coir::place::unpacked(mine[0].b).file_name(), Contains("trace_fiber_test.cpp"));
      CHECK(std::string(reinterpret_cast<const char*>(mine[2].a)) == "hand");
      CHECK(coir::place::unpacked(mine[2].b).line() == waits);
      CHECK(mine[5].a == 0);
      for (const auto& each : mine) CHECK(each.loop == coir::running_fiber().home().on().number());
      // As text, for people.
      const std::string text = coir::trace::text(mine);
      CHECK_THAT(text, Contains("park on hand at trace_fiber_test.cpp:" + std::to_string(waits)));
      CHECK_THAT(text, Contains("spawn parent=" + std::to_string(coir::running_fiber().id())));
    }
  });
}

TEST_CASE("the end says how: returned, failed, or cancelled, also before the first run") {
  coir::run([] {
    std::uint64_t ids[4] = {};
    const auto all = record_of([&] {
      auto returns = coir::spawn([] { return 1; });
      auto fails = coir::spawn([] { throw std::runtime_error("it broke"); },
                               coir::spawn_options().report_failure());
      auto waits = coir::spawn([] { coir::await(coir::sleep_until(coir::never)); });
      auto never_ran = coir::spawn([] {});
      never_ran.cancel();
      coir::await(coir::yield());
      waits.cancel();
      const coir::handle_base all_of_them[] = {returns, fails, waits, never_ran};
      for (std::size_t i = 0; i < 4; ++i) {
        ids[i] = all_of_them[i].id();
        try {
          coir::await(coir::end_op(all_of_them[i]));
        } catch (const std::exception&) {
        }
      }
    });
    CHECK(points_of(only(all, ids[0])) == "spawn resume end");
    CHECK(only(all, ids[0]).back().a == 0);
    CHECK(points_of(only(all, ids[1])) == "spawn resume end");
    CHECK(only(all, ids[1]).back().a == 1);
    CHECK(points_of(only(all, ids[2])) == "spawn resume park ready resume end");
    CHECK(only(all, ids[2]).back().a == 2);
    CHECK(points_of(only(all, ids[3])) == "spawn end");
    CHECK(only(all, ids[3]).back().a == 2);
  });
}

TEST_CASE("a yield is ready and resume, without a park; so is an op that is done at once after 64") {
  coir::run([] {
    std::uint64_t id = 0;
    const auto all = record_of([&] {
      auto child = coir::spawn([] { coir::await(coir::yield()); });
      id = child.id();
      coir::await(child.join());
    });
    CHECK(points_of(only(all, id)) == "spawn resume ready resume end");
  });
}

TEST_CASE("with nobody looking nothing is recorded, and what is not in the mask is not either") {
  coir::run([] {
    coir::trace::forget();
    auto child = coir::spawn([] { coir::await(coir::yield()); });
    coir::await(child.join());
    CHECK(coir::trace::recorded().empty());
    coir::trace::control& control = coir::running_fiber().home().on().trace();
    control.record(coir::trace::bit(point::end));
    coir::await(coir::sleep_for(1ns));
    auto second = coir::spawn([] { coir::await(coir::yield()); });
    coir::await(second.join());
    control.record(0);
    const auto records = coir::trace::recorded();
    REQUIRE(records.size() == 1);
    CHECK(records[0].what == point::end);
    CHECK(records[0].fiber == second.id());
  });
}

TEST_CASE("fibers do the same whether somebody looks or not") {
  const auto order_of = [](bool recorded) {
    std::vector<int> order;
    coir::run([&] {
      if (recorded) coir::running_fiber().home().on().trace().record(coir::trace::all);
      coir::await(coir::sleep_for(1ns));
      std::vector<coir::handle_base> children;
      for (int i = 0; i < 20; ++i) {
        if (i % 3 == 0) {
          children.emplace_back(coir::spawn([](std::vector<int>& to, int me) -> coir::task<> {
            for (int round = 0; round < 3; ++round) {
              to.push_back(me);
              co_await coir::yield();
            }
          }(order, i)));
        } else {
          children.emplace_back(coir::spawn([&order, i] {
            for (int round = 0; round < 3; ++round) {
              order.push_back(i);
              coir::await(coir::yield());
            }
          }));
        }
      }
      for (const auto& each : children) coir::await(coir::end_op(each));
      coir::running_fiber().home().on().trace().record(0);
    });
    return order;
  };
  CHECK(order_of(true) == order_of(false));
}

// --- what a debugger asks ---

namespace {

coir::task<> nested(int depth, hand& hold, std::vector<unsigned>& lines) {
  if (depth == 0) {
    lines.push_back(__LINE__ + 1);
    co_await hand_op(hold);
  } else {
    lines.push_back(__LINE__ + 1);
    co_await nested(depth - 1, hold, lines);
  }
}

}  // namespace

TEST_CASE("of a waiting fiber the op, the line, and the chain of awaiting tasks can be read") {
  coir::run([] {
    hand hold;
    std::vector<unsigned> lines;
    auto child = coir::spawn(nested(5, hold, lines));
    support::until([&] { return hold.waiting(); });
    const coir::fiber_base& block = child.control();
    CHECK(std::string(block.waits_for()) == "hand");
    CHECK(block.suspended());
    CHECK(block.waits_at().line() == lines.back());
    std::vector<unsigned> chain;
    for (const coir::promise_base* each = block.innermost(); each != nullptr; each = each->caller()) {
      chain.push_back(each->waits_at().line());
    }
    CHECK(chain == std::vector<unsigned>(lines.rbegin(), lines.rend()));
    hold.complete();
    coir::await(child.join());
    CHECK(std::string(block.waits_for()).empty());
  });
}

TEST_CASE("the innermost coroutine of a running fiber is known, and that it is not suspended") {
  coir::run([]() -> coir::task<> {
    const coir::fiber_base& self = coir::running_fiber();
    const coir::promise_base* const outer = self.innermost();
    REQUIRE(outer != nullptr);
    CHECK(outer->caller() == nullptr);
    CHECK_FALSE(self.suspended());
    co_await [](const coir::fiber_base& mine, const coir::promise_base* caller) -> coir::task<> {
      CHECK(mine.innermost() != caller);
      CHECK(mine.innermost()->caller() == caller);
      CHECK_FALSE(mine.suspended());
      co_await coir::yield();
      CHECK(mine.innermost()->caller() == caller);
      CHECK_FALSE(mine.suspended());
    }(self, outer);
    CHECK(self.innermost() == outer);
    CHECK_FALSE(self.suspended());
    co_await coir::on_stack([&] {
      // The coroutine is suspended, and its function runs.
      CHECK(self.innermost() == outer);
      CHECK(self.suspended());
      CHECK(self.current_stack()->borrower() == outer);
    });
    CHECK_FALSE(self.suspended());
  });
}

TEST_CASE("a fiber knows since when it waits, to the millisecond, for longer than 32 bits of them") {
  coir::testing::mock_clock clock;
  coir::run(
      [&] {
        auto child = coir::spawn([] { coir::await(coir::sleep_until(coir::never)); });
        coir::await(coir::yield());
        const coir::instant parked = clock.now();
        for (const auto length : {coir::duration(1ms), coir::duration(1h), coir::duration(24h * 40)}) {
          coir::await(coir::sleep_for(length));
          const coir::duration off = child.control().since() - parked;
          CHECK(off <= 1ms);
          CHECK(off >= -1ms);
        }
        child.cancel();
      },
      coir::run_options().loop(coir::loop_options().time(&clock)));
}

TEST_CASE("all fibers can be visited, parents before children, and described") {
  coir::run([] {
    hand hold;
    auto child = coir::spawn(
        [&] {
          auto grandchild = coir::spawn([&] { coir::await(hand_op(hold)); }, coir::spawn_options().name("c"));
          coir::await(coir::end_op(grandchild));
        },
        coir::spawn_options().name("b"));
    auto other = coir::spawn([] {}, coir::spawn_options().name("d"));
    support::until([&] { return hold.waiting(); });
    auto fresh = coir::spawn([] {}, coir::spawn_options().name("e"));
    std::string names;
    coir::running_fiber().home().for_each([&](const coir::fiber_base& each) {
      names += std::string(names.empty() ? "" : " ") + std::string(each.name());
    });
    CHECK(names == "main b c e");
    const std::string text = coir::describe(coir::running_fiber().home());
    CHECK_THAT(text, Contains("main: running"));
    CHECK_THAT(text, Contains("c: waiting in hand"));
    CHECK_THAT(text, Contains("e: fresh"));
    hold.complete();
    coir::await(child.join());
  });
}
