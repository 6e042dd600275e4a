// Regions themselves: what scopes, limits and nurseries have in common, and how deep and how small they are.
#include "fiber/hand_op.hpp"
#include "surfaces.hpp"

#include "support/catch.hpp"
#include "support/counted_heap.hpp"
#include "support/jumping.hpp"

#include <coir/coir.hpp>

#include <chrono>
#include <deque>
#include <memory>
#include <new>
#include <optional>
#include <stdexcept>
#include <vector>

using namespace std::chrono_literals;
using support::jumping;
using support::now;
using surfaces::on_both;

namespace {

// A region of the user's own: children are awaited, and the steps are the library's.
template <class T>
coir::task<coir::maybe<T>> in(coir::entered_region& where, coir::task<T> body) {
  co_return co_await coir::priv::run_awaited<coir::priv::region_of_another, coir::priv::as_maybe>(
      where, coir::inside::rest::is_awaited, coir::priv::as_maybe(), std::move(body));
}

coir::task<int> value_after(coir::duration wait, int value) {
  co_await coir::sleep_for(wait);
  co_return value;
}
coir::task<> spawns_and_returns(bool& child_done) {
  coir::spawn([](bool& done) -> coir::task<> {
    co_await coir::sleep_for(1s);
    done = true;
  }(child_done));
  co_return;
}

}  // namespace

TEST_CASE("another kind of region is made of the same steps") {
  jumping([] {
    coir::entered_region where;
    CHECK(coir::await(in(where, value_after(1s, 7))) == 7);
    CHECK_FALSE(where.entered());
    coir::entered_region waits;
    bool child_done = false;
    CHECK(coir::await(in(waits, spawns_and_returns(child_done))));
    CHECK(child_done);
    coir::entered_region stopped;
    coir::spawn([&] { stopped.cancel(); });
    CHECK_FALSE(coir::await(in(stopped, value_after(1h, 7))));
    CHECK_THROWS_AS(coir::await(in(stopped, value_after(1h, 7))), std::logic_error);
  });
}

TEST_CASE("a region knows where it stands") {
  on_both([](auto s) {
    coir::fiber_base& self = coir::running_fiber();
    CHECK(&self.innermost_region() == &self.body());
    coir::cancel_scope outer;
    s.get(outer.run(s.body([&] {
      const coir::region* const outside = &self.innermost_region();
      CHECK(outside != &self.body());
      CHECK(outside->parent() == &self.body());
      coir::cancel_scope inner;
      s.get(inner.run(s.body([&] {
        CHECK(self.innermost_region().parent() == outside);
        CHECK(self.innermost_region().fiber() == &self);
        CHECK(self.innermost_region().empty());
        auto child = coir::spawn(s.child([] {}));
        CHECK(self.innermost_region().first_child() == &child.control());
        CHECK(child.control().parent() == &self);
        s.wait(child.join());
        CHECK(self.innermost_region().empty());
      })));
      CHECK(&self.innermost_region() == outside);
    })));
    CHECK(&self.innermost_region() == &self.body());
  });
}

TEST_CASE("a fiber with a name and values in scopes is found by all that look for its regions") {
  on_both([](auto s) {
    // A cold block before the scope, and one that is made in it.
    auto named = coir::spawn([&] { return s.get(coir::move_on_after(1s, s.body([&] { s.wait(coir::sleep_for(1h)); }))); },
                             coir::spawn_options().name("named"));
    CHECK_FALSE(s.wait(named.take()));
    auto failing = coir::spawn([&] {
      coir::cancel_scope scope;
      const bool whole = s.get(scope.run(s.body([&] {
        static_cast<coir::fiber_base&>(coir::running_fiber()).interrupt(std::make_exception_ptr(std::runtime_error("x")));
        CHECK_THROWS_AS(s.wait(coir::yield()), std::runtime_error);
        scope.cancel();
        s.wait(coir::yield());
      })));
      return whole;
    });
    CHECK_FALSE(s.wait(failing.take()));
  });
}

// --- deep ---

namespace {

struct depths {
  int begun = 0;
  int unwound = 0;
  std::size_t timers = 0;
};
// A limit in a limit in a limit: the inner ones are the longer ones.
coir::task<> deep(int depth, depths& seen) {
  struct at_exit {
    int& count;
    ~at_exit() { ++count; }
  };
  const at_exit guard{seen.unwound};
  ++seen.begun;
  if (depth == 0) {
    co_await coir::sleep_for(1000h);
  } else {
    co_await coir::fail_after(1h + std::chrono::seconds(10'000 - depth), deep(depth - 1, seen));
  }
}
coir::task<int> deep_value(int depth) {
  if (depth == 0) {
    co_await coir::yield();
    co_return 0;
  }
  coir::cancel_scope scope;
  std::optional<int> got = co_await scope.run(deep_value(depth - 1));
  co_return *got + 1;
}
// A nursery in a child of a nursery, and so on.
coir::task<> deep_nursery(int depth, depths& seen) {
  ++seen.begun;
  if (depth == 0) {
    co_await coir::sleep_for(1h);
  } else {
    const auto body = [&](coir::nursery& n) -> coir::task<> {
      n.spawn(deep_nursery(depth - 1, seen));
      co_return;
    };
    co_await coir::with_nursery(body);
  }
  ++seen.unwound;
}

}  // namespace

TEST_CASE("ten thousand scopes in each other come to their end") {
  jumping([] { CHECK(coir::await(deep_value(10'000)) == 10'000); });
}

TEST_CASE("ten thousand scopes in each other are armed at once, and cancelled from the outermost") {
  jumping([] {
    depths seen;
    coir::cancel_scope scope;
    const coir::instant begin = now();
    coir::spawn([&] {
      coir::await(coir::sleep_for(1s));
      seen.timers = support::loop_here().census().armed;
      scope.cancel();
    });
    CHECK_FALSE(coir::await(scope.run(deep(10'000, seen))));
    CHECK(seen.begun == 10'001);
    CHECK(seen.unwound == 10'001);
    CHECK(seen.timers == 10'001);
    CHECK(now() - begin == 1s);
    CHECK(support::loop_here().census().armed == 0);
  });
}

TEST_CASE("ten thousand limits in each other: the shortest of all is felt where it was set") {
  jumping([] {
    depths seen;
    const coir::instant begin = now();
    CHECK_THROWS_AS(coir::await(deep(10'000, seen)), coir::timed_out);
    CHECK(seen.unwound == 10'001);
    CHECK(now() - begin == 1h);
  });
}

TEST_CASE("ten thousand nurseries in children of each other are cancelled, and come to their end") {
  for (const bool cancel : {true, false}) {
    jumping([&] {
      depths seen;
      coir::cancel_scope scope;
      if (cancel) scope.limit(1s);
      CHECK(coir::await(scope.run(deep_nursery(10'000, seen))) == !cancel);
      CHECK(seen.begun == 10'001);
      CHECK(seen.unwound == (cancel ? 0 : 10'001));
      CHECK(coir::running_fiber().home().alive() == 1);
    });
  }
}

// --- memory ---

TEST_CASE("entering a region and waiting in it allocates nothing but the coroutine") {
  if (!support::heap_is_counted) return;
  on_both([](auto s) {
    const auto round = [&] {
      s.get(coir::move_on_after(1s, s.body([&] { s.wait(coir::yield()); })));
      coir::cancel_scope scope;
      s.get(scope.run(s.body([&] {
        scope.deadline(now() + 1s);
        s.wait(coir::sleep_for(1ms));
        scope.cancel();
      })));
    };
    round();
    const long before = support::heap.allocations;
    for (int i = 0; i < 100; ++i) round();
    CHECK(support::heap.allocations == before);
  });
}

TEST_CASE("a limit that cannot be armed for want of memory ends its scope with bad_alloc") {
  if (!support::heap_is_counted) return;
  jumping([] {
    // As many as it takes for the timers to need more memory.
    int failed = 0;
    const auto nest = [&](auto& self, int depth) -> void {
      if (depth == 0) {
        auto gives_back = coir::spawn([] { support::heap.exhausted = false; });
        support::heap.exhausted = true;
        coir::await(coir::yield());
        coir::await(coir::yield());
        return;
      }
      try {
        coir::move_on_after(1h, [&] { self(self, depth - 1); });
      } catch (const std::bad_alloc&) {
        support::heap.exhausted = false;
        ++failed;
      }
    };
    nest(nest, 300);
    CHECK(failed > 0);
    CHECK(support::loop_here().census().armed == 0);
    coir::await(coir::yield());
  });
}

TEST_CASE("a deadline that cannot be armed for want of memory stays as it was") {
  if (!support::heap_is_counted) return;
  jumping([] {
    std::deque<coir::cancel_scope> scopes(2000);
    for (auto& each : scopes) {
      coir::spawn([&each] { each.run([] { coir::await(coir::sleep_until(coir::never)); }); });
    }
    coir::await(coir::yield());
    const coir::instant end = now() + 1s;
    int refused = 0;
    support::heap.exhausted = true;
    for (auto& each : scopes) {
      bool thrown = false;
      try {
        &each == &scopes.back() ? each.cancel(1s) : each.deadline(end);
      } catch (const std::bad_alloc&) {
        thrown = true;
      }
      if (!thrown) continue;
      ++refused;
      if (each.deadline() != coir::never || each.shutting_down()) refused = -1'000'000;
    }
    support::heap.exhausted = false;
    CHECK(refused > 0);
    coir::await(coir::sleep_for(2s));
    int expired = 0;
    for (auto& each : scopes) expired += each.expired() ? 1 : 0;
    CHECK(expired == 2000 - refused);
    for (auto& each : scopes) each.cancel();
    coir::await(coir::yield());
    coir::await(coir::yield());
  });
}

TEST_CASE("a link that cannot be made for want of memory leaves nothing behind") {
  if (!support::heap_is_counted) return;
  jumping([] {
    std::stop_source source;
    for (const bool twice : {false, true}) {
      coir::cancel_scope scope;
      scope.link(source.get_token());
      if (twice) scope.link(source.get_token());
      auto run = [&] { scope.run([] { coir::await(coir::yield()); }); };
      support::heap.exhausted = true;
      bool thrown = false;
      try {
        run();
      } catch (const std::bad_alloc&) {
        thrown = true;
      }
      support::heap.exhausted = false;
      CHECK(thrown);
      CHECK_FALSE(scope.cancelled());
    }
    source.request_stop();
    coir::await(coir::yield());
  });
}

TEST_CASE("regions are as small as their cards say") {
  CHECK(sizeof(coir::region) <= 24);
  CHECK(sizeof(coir::entered_region) <= 152);
  CHECK(sizeof(coir::cancel_scope) <= 232);
  INFO(sizeof(coir::entered_region) << ' ' << sizeof(coir::cancel_scope) << ' ' << sizeof(coir::nursery));
  CHECK(sizeof(coir::nursery) <= sizeof(coir::entered_region) + 8);
}
