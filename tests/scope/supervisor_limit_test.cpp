// How often a supervisor restarts, how soon, and what it says when it gives up.
#include "actors.hpp"

#include <algorithm>

using namespace actors;
using Catch::Matchers::Contains;
using coir::child_options;
using coir::supervisor;
using coir::supervisor_options;

namespace {

// The waits between the deaths of a child that lives so long, and its next start.
std::vector<coir::duration> waits(const supervisor_options& options, coir::duration life, std::size_t count) {
  std::vector<coir::duration> found;
  support::jumping([&] {
    std::vector<act> acts(count, act{life, fails});
    acts.push_back({life, returns});
    actor a("a", acts);
    coir::await(coir::supervise(options, [&](supervisor& s) { coroutines::add(s, a, coir::transient); }));
    for (std::size_t i = 1; i < a.births().size(); ++i) {
      found.push_back(a.births()[i] - a.births()[i - 1] - life);
    }
  });
  return found;
}

}  // namespace

TEST_CASE("one restart more than the intensity allows, and the supervisor gives up, with all that matters in its text") {
  on_both([](auto surface) {
    actor a("worker", {{1s, fails}}), b("bystander"), c("last");
    try {
      surface.supervise(supervisor_options().intensity(5, 10s), [&](supervisor& s) {
        surface.add(s, b);
        surface.add(s, a);
        surface.add(s, c);
      });
      FAIL("it went on");
    } catch (const coir::restart_limit_exceeded& error) {
      CHECK_THAT(error.what(), Contains("\"worker\"") && Contains("5 times") && Contains("10s") &&
                                   Contains("worker failed"));
      CHECK_THROWS_WITH(std::rethrow_if_nested(error), "worker failed");
    }
    CHECK(a.lives() == 6);
    // The others were stopped, the last one first.
    CHECK_THAT(journal(), Catch::Matchers::EndsWith("!worker ~last ~bystander"));
  });
}

TEST_CASE("what gives up because a child returned has nothing nested in it") {
  on_both([](auto surface) {
    actor a("a", {{1s, returns}});
    try {
      surface.supervise(supervisor_options().intensity(0, 10s), [&](supervisor& s) { surface.add(s, a); });
      FAIL("it went on");
    } catch (const coir::restart_limit_exceeded& error) {
      CHECK_THAT(error.what(), Contains("\"a\" returned"));
      CHECK_NOTHROW(std::rethrow_if_nested(error));
    }
  });
}

TEST_CASE("restarts that are far enough apart go on for ever") {
  on_both([](auto surface) {
    // Two within two seconds are allowed, and a third comes a nanosecond later.
    std::vector<act> acts(1000, act{1s + 1ns, fails});
    acts.push_back({1s, returns});
    actor a("a", acts);
    surface.supervise(supervisor_options().intensity(2, 2s),
                      [&](supervisor& s) { surface.add(s, a, coir::transient); });
    CHECK(a.lives() == 1001);
  });
}

TEST_CASE("a restart exactly at the window's edge counts") {
  on_both([](auto surface) {
    actor a("a", {{1s, fails}});
    CHECK_THROWS_AS(surface.supervise(supervisor_options().intensity(2, 2s),
                                      [&](supervisor& s) { surface.add(s, a); }),
                    coir::restart_limit_exceeded);
    CHECK(a.lives() == 3);
  });
}

TEST_CASE("a supervisor that gives up is a failure to the region around it") {
  on_both([](auto surface) {
    actor a("a", {{1s, fails}});
    CHECK_THROWS_AS(coir::with_nursery([&](coir::nursery& n) {
                      n.spawn([&] {
                        surface.supervise(supervisor_options().intensity(1, 1min),
                                          [&](supervisor& s) { surface.add(s, a); });
                      });
                      coir::await(coir::sleep_for(1h));
                    }),
                    coir::restart_limit_exceeded);
  });
}

TEST_CASE("the back-off doubles from the first to the most, with full jitter") {
  const auto options = supervisor_options().intensity(1000, 1s).backoff(100ms, 10s);
  coir::duration longest[12] = {};
  coir::duration shortest[12];
  std::fill(std::begin(shortest), std::end(shortest), 1h);
  for (std::uint32_t seed = 1; seed <= 200; ++seed) {
    const auto found = waits(supervisor_options(options).seed(seed), 1ms, 12);
    REQUIRE(found.size() == 12);
    for (std::size_t i = 0; i < 12; ++i) {
      longest[i] = std::max(longest[i], found[i]);
      shortest[i] = std::min(shortest[i], found[i]);
    }
  }
  coir::duration limit = 100ms;
  for (std::size_t i = 0; i < 12; ++i) {
    INFO("wait " << i);
    CHECK(longest[i] <= limit);
    CHECK(longest[i] > limit * 9 / 10);
    CHECK(shortest[i] < limit / 10);
    limit = std::min<coir::duration>(2 * limit, 10s);
  }
}

TEST_CASE("the same seed gives the same back-off, another one another") {
  const auto options = supervisor_options().intensity(1000, 1s).backoff(100ms, 10s);
  const auto first = waits(supervisor_options(options).seed(42), 1ms, 8);
  CHECK(waits(supervisor_options(options).seed(42), 1ms, 8) == first);
  CHECK(waits(supervisor_options(options).seed(43), 1ms, 8) != first);
}

TEST_CASE("a child that has lived longer than the window begins again with the first back-off") {
  for (std::uint32_t seed = 1; seed <= 20; ++seed) {
    const auto found =
        waits(supervisor_options().intensity(1000, 1s).backoff(100ms, 1h).seed(seed), 1s + 1ns, 20);
    for (const coir::duration each : found) CHECK(each <= 100ms);
  }
}

TEST_CASE("without a back-off a child is started again at once") {
  for (const coir::duration each : waits(supervisor_options().intensity(1000, 1h), 1s, 20)) CHECK(each == 0s);
}

TEST_CASE("a back-off whose most is less than its first, or endless, is no trouble") {
  const auto options = supervisor_options().intensity(1000, 1ns);
  for (const coir::duration each : waits(supervisor_options(options).backoff(1h, 1s), 1ns, 20)) CHECK(each <= 1s);
  for (const coir::duration each :
       waits(supervisor_options(options).backoff(1s, coir::duration::max()).seed(3), 1ns, 20)) {
    CHECK(each >= 0s);
  }
}

TEST_CASE("while a child waits for its back-off it can be seen when it starts, started by hand, and removed") {
  on_both([](auto surface) {
    actor a("a", {{1s, fails}, {1s, fails}, {}});
    supervisor* those = nullptr;
    auto all = surface.spawn(supervisor_options().intensity(9, 1h).backoff(1h, 1h).seed(1), [&](supervisor& s) {
      those = &s;
      surface.add(s, a);
    });
    coir::await(coir::sleep_for(2s));
    REQUIRE(a.lives() == 1);
    coir::child_info seen = those->children().at(0);
    CHECK(seen.state == coir::child_state::waiting);
    CHECK(seen.next_start > now());
    CHECK(seen.next_start <= now() + 1h);
    CHECK_THROWS_WITH(std::rethrow_exception(seen.last_failure), "a failed");
    those->restart("a");
    coir::await(coir::sleep_for(500ms));
    CHECK(a.lives() == 2);
    CHECK(those->children().at(0).state == coir::child_state::running);
    coir::await(coir::sleep_for(1s));
    CHECK(those->children().at(0).state == coir::child_state::waiting);
    // With its only child it has nothing to do.
    CHECK(those->remove("a"));
    coir::await(all.join());
    CHECK(a.lives() == 2);
  });
}

TEST_CASE("a group waits for the back-off of the child that died, and for nobody's who leaves meanwhile") {
  for (const bool removed : {false, true}) {
    on_both([removed](auto surface) {
      actor a("a"), b("b", {{1s, fails}, {}}), c("c");
      supervisor* those = nullptr;
      auto all = surface.spawn(
          supervisor_options().strategy(coir::one_for_all).backoff(1h, 1h).seed(1), [&](supervisor& s) {
            those = &s;
            for (actor* each : {&a, &b, &c}) surface.add(s, *each);
          });
      coir::await(coir::sleep_for(2s));
      CHECK(journal() == "+a +b +c !b ~c ~a");
      if (removed) {
        CHECK(those->remove("b"));
        coir::await(coir::sleep_for(1s));
        CHECK(journal() == "+a +b +c !b ~c ~a +a +c");
        CHECK(those->children().size() == 2);
      } else {
        coir::await(coir::sleep_for(1h));
        CHECK(journal() == "+a +b +c !b ~c ~a +a +b +c");
      }
      all.cancel();
      coir::await(coir::end_op(all));
    });
  }
}

TEST_CASE("with rest_for_one nobody begins before one further up that waits for its back-off") {
  on_both([](auto surface) {
    // Which of two back-offs is over first hangs on the seed.
    bool sooner[2] = {};
    for (std::uint32_t seed = 1; seed <= 20; ++seed) {
      INFO("seed " << seed);
      journal().clear();
      actor a("a", {{1s, fails}, {}}), b("b", {{}, {1ns, fails}, {}}), c("c");
      supervisor* those = nullptr;
      auto all = surface.spawn(
          supervisor_options().strategy(coir::rest_for_one).backoff(1h, 1h).seed(seed), [&](supervisor& s) {
            those = &s;
            for (actor* each : {&a, &b, &c}) surface.add(s, *each);
          });
      coir::await(coir::sleep_for(1s + 1ns));
      REQUIRE(journal() == "+a +b +c !a ~c ~b");
      // By hand, out of its turn: it dies, and has a back-off of its own.
      those->restart("b");
      coir::await(coir::sleep_for(2h));
      const bool a_first = a.births().back() < b.births().back();
      sooner[a_first] = true;
      CHECK(c.births().back() >= b.births().back());
      CHECK(journal() == (a_first ? "+a +b +c !a ~c ~b +b !b +a +b +c" : "+a +b +c !a ~c ~b +b !b +b +c +a"));
      all.cancel();
      coir::await(coir::end_op(all));
    }
    CHECK(sooner[false]);
    CHECK(sooner[true]);
  });
}

TEST_CASE("a group does not begin because another that waited for it is gone") {
  on_both([](auto surface) {
    actor a("a", {{1s, fails}, {}}), b("b"), c("c", {{1s, fails}, {}});
    supervisor* those = nullptr;
    auto all = surface.spawn(
        supervisor_options().strategy(coir::one_for_all).backoff(1h, 1h).seed(1), [&](supervisor& s) {
          those = &s;
          for (actor* each : {&a, &b}) surface.add(s, *each);
        });
    coir::await(coir::sleep_for(1s + 1ns));
    REQUIRE(journal() == "+a +b !a ~b");
    surface.add(*those, c);
    // When c has just died, and nobody has looked.
    coir::await(coir::sleep_for(1s));
    coir::await(coir::yield());
    REQUIRE(journal() == "+a +b !a ~b +c !c");
    those->remove("a");
    coir::await(coir::sleep_for(1ns));
    const coir::instant due = those->children().at(1).next_start;
    CHECK(due > now());
    CHECK(journal() == "+a +b !a ~b +c !c");
    coir::await(coir::sleep_until(due));
    coir::await(coir::sleep_for(1ns));
    CHECK(journal() == "+a +b !a ~b +c !c +b +c");
    all.cancel();
    coir::await(coir::end_op(all));
  });
}
