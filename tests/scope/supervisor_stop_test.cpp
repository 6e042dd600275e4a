// How a supervisor ends, and how it stops a child.
#include "actors.hpp"

using namespace actors;
using coir::child_options;
using coir::supervisor;
using coir::supervisor_options;

namespace {

const child_options patient = child_options().shutdown(5s);

}  // namespace

TEST_CASE("a cancelled supervisor stops its children in reverse order, each with its time, then throws cancelled") {
  on_both([](auto surface) {
    actor a("a"), b("b"), c("c"), d("d");
    a.listens(1s);
    c.listens(1h);
    auto all = surface.spawn({}, [&](supervisor& s) {
      surface.add(s, a, patient);
      surface.add(s, b);
      surface.add(s, c, patient);
      surface.add(s, d, patient);
    });
    coir::await(coir::sleep_for(1s));
    all.cancel();
    const coir::instant begin = now();
    coir::await(coir::end_op(all));
    CHECK(all.outcome() == coir::fiber_outcome::cancelled);
    // d does not listen, c takes too long, b gets no time, a returns.
    CHECK(journal() == "+a +b +c +d ~d ~c ~b -a");
    CHECK(now() - begin == 11s);
  });
}

TEST_CASE("a supervisor that is asked to end stops its children and returns") {
  on_both([](auto surface) {
    actor a("a"), b("b");
    a.listens(1s);
    b.listens(2s);
    coir::cancel_scope scope;
    bool returned = false;
    coir::spawn([&] {
      coir::await(coir::sleep_for(1s));
      scope.cancel(1min);
    });
    CHECK(scope.run([&] {
      coir::await(coir::supervise({}, [&](supervisor& s) {
        surface.add(s, a, patient);
        surface.add(s, b, patient);
      }));
      returned = true;
    }));
    CHECK(returned);
    CHECK(journal() == "+a +b -b -a");
  });
}

TEST_CASE("when the grace is over children get no more time, and still end in reverse order") {
  on_both([](auto surface) {
    actor a("a"), b("b"), c("c");
    for (actor* each : {&a, &b, &c}) each->listens(1h);
    coir::cancel_scope scope;
    coir::instant asked{};
    coir::spawn([&] {
      coir::await(coir::sleep_for(1s));
      asked = now();
      scope.cancel(7s);
    });
    CHECK_FALSE(scope.run([&] {
      coir::await(coir::supervise({}, [&](supervisor& s) {
        for (actor* each : {&a, &b, &c}) surface.add(s, *each, patient);
      }));
    }));
    CHECK(now() - asked == 7s);
    CHECK(journal() == "+a +b +c ~c ~b ~a");
  });
}

TEST_CASE("a limit in time around a supervisor stops it in order") {
  on_both([](auto surface) {
    actor a("a"), b("b");
    CHECK_FALSE(coir::await(coir::move_on_after(1min, coir::supervise({}, [&](supervisor& s) {
                                                  surface.add(s, a);
                                                  surface.add(s, b);
                                                }))));
    CHECK(journal() == "+a +b ~b ~a");
  });
}

TEST_CASE("stop() ends a supervisor normally") {
  on_both([](auto surface) {
    actor a("a"), b("b");
    supervisor* those = nullptr;
    auto all = surface.spawn({}, [&](supervisor& s) {
      those = &s;
      surface.add(s, a);
      surface.add(s, b);
    });
    coir::await(coir::sleep_for(1s));
    those->stop();
    // It takes nobody any more.
    CHECK_THROWS_AS(surface.add(*those, a), std::system_error);
    coir::await(all.join());
    CHECK(journal() == "+a +b ~b ~a");
  });
}

TEST_CASE("a child that swallows its cancellation is waited for") {
  on_both([](auto surface) {
    actor b("b");
    bool over = false;
    auto all = surface.spawn({}, [&](supervisor& s) {
      s.add("stubborn", [&] {
        try {
          coir::await(coir::sleep_for(1h));
        } catch (const coir::cancelled&) {
        }
        coir::cancel_scope shield;
        shield.shield();
        shield.run([] { coir::await(coir::sleep_for(1min)); });
        over = true;
      });
      surface.add(s, b);
    });
    coir::await(coir::sleep_for(1s));
    all.cancel();
    coir::await(coir::end_op(all));
    CHECK(over);
  });
}

TEST_CASE("an endless shutdown time is one") {
  on_both([](auto surface) {
    actor a("a");
    a.listens(100h);
    auto all = surface.spawn({}, [&](supervisor& s) {
      surface.add(s, a, child_options().shutdown(coir::duration::max()));
    });
    coir::await(coir::sleep_for(1s));
    all.cancel();
    coir::await(coir::end_op(all));
    CHECK(journal() == "+a -a");
  });
}

TEST_CASE("a supervisor that is cancelled before it runs starts nobody") {
  on_both([](auto surface) {
    actor a("a");
    coir::cancel_scope scope;
    scope.cancel();
    CHECK_FALSE(scope.run([&] {
      coir::await(coir::supervise({}, [&](supervisor& s) { surface.add(s, a); }));
    }));
    CHECK(journal().empty());
  });
}

TEST_CASE("a cancelled supervisor does not restart who dies meanwhile, nor who waits for his back-off") {
  on_both([](auto surface) {
    actor a("a", {{1min, fails}, {}}), b("b"), c("c", {{1s, fails}, {}});
    b.listens(2min);
    auto all = surface.spawn(supervisor_options().backoff(1h, 1h).seed(1), [&](supervisor& s) {
      surface.add(s, a);
      surface.add(s, b, child_options().shutdown(1h));
      surface.add(s, c);
    });
    coir::await(coir::sleep_for(2s));
    all.cancel();
    coir::await(coir::end_op(all));
    CHECK(journal() == "+a +b +c !c !a -b");
    // What nobody was told of is not lost.
    REQUIRE(all.other_failures().size() == 1);
    CHECK_THROWS_WITH(std::rethrow_exception(all.other_failures()[0]), "a failed");
  });
}

TEST_CASE("a cancellation that comes while a group is being stopped ends the supervisor in order") {
  on_both([](auto surface) {
    actor a("a"), b("b", {{1s, fails}}), c("c");
    c.listens(1h);
    auto all = surface.spawn(supervisor_options().strategy(coir::one_for_all), [&](supervisor& s) {
      surface.add(s, a);
      surface.add(s, b);
      surface.add(s, c, child_options().shutdown(10s));
    });
    coir::await(coir::sleep_for(2s));
    all.cancel();
    const coir::instant begin = now();
    coir::await(coir::end_op(all));
    CHECK(now() - begin == 9s);
    CHECK(journal() == "+a +b +c !b ~c ~a");
  });
}

TEST_CASE("an exception given to the supervisor's fiber is thrown when its children have ended") {
  on_both([](auto surface) {
    actor a("a"), b("b");
    b.listens(1s);
    coir::fiber_base* self = nullptr;
    auto all = surface.spawn({}, [&](supervisor& s) {
      self = &coir::running_fiber();
      surface.add(s, a);
      surface.add(s, b, patient);
    });
    coir::await(coir::sleep_for(1s));
    CHECK(self->interrupt(std::make_exception_ptr(std::runtime_error("given"))));
    CHECK_THROWS_WITH(coir::await(all.join()), "given");
    CHECK(journal() == "+a +b -b ~a");
  });
}

TEST_CASE("interrupted again while it stops its children, a supervisor cancels all that are left") {
  on_both([](auto surface) {
    actor a("a"), b("b");
    for (actor* each : {&a, &b}) each->listens(1h);
    coir::fiber_base* self = nullptr;
    auto all = surface.spawn({}, [&](supervisor& s) {
      self = &coir::running_fiber();
      for (actor* each : {&a, &b}) surface.add(s, *each, child_options().shutdown(1h));
    });
    coir::await(coir::sleep_for(1s));
    self->interrupt(std::make_exception_ptr(std::runtime_error("first")));
    coir::await(coir::sleep_for(1s));
    CHECK(journal() == "+a +b");
    self->interrupt(std::make_exception_ptr(std::runtime_error("second")));
    const coir::instant begin = now();
    CHECK_THROWS_WITH(coir::await(all.join()), "second");
    CHECK(now() == begin);
    CHECK(journal() == "+a +b ~a ~b");
    REQUIRE(all.other_failures().size() == 1);
    CHECK_THROWS_WITH(std::rethrow_exception(all.other_failures()[0]), "first");
  });
}

TEST_CASE("nested supervisors stop from the inside out, each in its order") {
  on_both([](auto surface) {
    actor a("a"), b("b"), c("c"), d("d");
    auto all = surface.spawn({}, [&](supervisor& s) {
      surface.add(s, a);
      s.add("inner", [&, surface] {
        return coir::supervise({}, [&, surface](supervisor& inner) {
          surface.add(inner, b);
          surface.add(inner, c);
        });
      });
      surface.add(s, d);
    });
    coir::await(coir::sleep_for(1s));
    all.cancel();
    coir::await(coir::end_op(all));
    CHECK(journal() == "+a +d +b +c ~d ~c ~b ~a");
  });
}

TEST_CASE("what setup throws is thrown, and nobody was started") {
  on_both([](auto surface) {
    actor a("a");
    CHECK_THROWS_WITH(surface.supervise({},
                                        [&](supervisor& s) {
                                          surface.add(s, a);
                                          throw std::runtime_error("no");
                                        }),
                      "no");
    CHECK(journal().empty());
  });
}

TEST_CASE("a child that was moved elsewhere may outlive a supervisor that was interrupted") {
  support::jumping_on_both([](auto wait) {
    int runs = 0;
    bool ended = false;
    const auto kept = std::make_shared<int>(7);
    const auto setup = [&](supervisor& s) {
      s.add("wanderer", [&wait, &runs, &ended, kept] {
        ++runs;
        coir::fiber_base& self = coir::running_fiber();
        self.move_to(self.home().root());
        coir::cancel_scope undisturbed;
        undisturbed.shield();
        undisturbed.run([&] { wait(coir::sleep_for(1h)); });
        ended = *kept == 7;
      });
    };
    auto all = coir::spawn([&] { coir::await(coir::supervise(setup)); });
    wait(coir::sleep_for(5s));
    all.interrupt(std::runtime_error("first"));
    wait(coir::sleep_for(1s));
    all.interrupt(std::runtime_error("second"));
    CHECK_THROWS_WITH(wait(all.join()), "second");
    CHECK_FALSE(ended);
    all = {};
    wait(coir::sleep_for(2h));
    CHECK(ended);
    CHECK(runs == 1);
    CHECK(kept.use_count() == 1);
  });
}
