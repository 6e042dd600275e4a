#include "fiber/counted.hpp"
#include "fiber/hand_op.hpp"
#include "fiber/until.hpp"
#include "surfaces.hpp"

#include "support/catch.hpp"
#include "support/jumping.hpp"

#include <coir/coir.hpp>

#include <chrono>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

using namespace std::chrono_literals;
using support::counted;
using support::hand;
using support::hand_op;
using support::jumping;
using support::now;
using surfaces::on_both;

namespace {

coir::task<> sleep_task(coir::duration wait) { co_await coir::sleep_for(wait); }

}  // namespace

// --- when it is valid to cancel ---

TEST_CASE("a scope catches its own cancellation, and knows it") {
  on_both([](auto s) {
    coir::cancel_scope scope;
    coir::spawn([&] { scope.cancel(); });
    CHECK_FALSE(s.get(scope.run(s.body([&] { s.wait(coir::sleep_for(1h)); }))));
    CHECK(scope.cancelled());
    CHECK(scope.caught());
    CHECK_FALSE(scope.expired());
    s.wait(coir::yield());  // nothing of it is left
  });
}

TEST_CASE("a body that comes to its end gives its result, and the scope has caught nothing") {
  on_both([](auto s) {
    coir::cancel_scope scope;
    CHECK(s.get(scope.run(s.body([&] {
      s.wait(coir::yield());
      return 7;
    }))) == 7);
    CHECK_FALSE(scope.cancelled());
    CHECK_FALSE(scope.caught());
    coir::cancel_scope other;
    CHECK(coir::await(other.run(sleep_task(1s))));
    coir::cancel_scope third;
    CHECK(coir::await(third.run(coir::sleep_for(1s))));
  });
}

TEST_CASE("a scope that was cancelled before it is entered stops its body at the first suspend point") {
  on_both([](auto s) {
    coir::cancel_scope scope;
    scope.cancel();
    CHECK(scope.cancelled());
    bool began = false;
    bool went_on = false;
    CHECK_FALSE(s.get(scope.run(s.body([&] {
      began = true;
      // Also where it would not have to wait.
      s.wait(coir::sleep_until(coir::instant::min()));
      went_on = true;
    }))));
    CHECK(began);
    CHECK_FALSE(went_on);
    CHECK(scope.caught());
  });
}

TEST_CASE("cancelling a scope that was left does nothing") {
  on_both([](auto s) {
    coir::cancel_scope scope;
    std::stop_token token = scope.stop_token();
    CHECK(s.get(scope.run(s.body([&] { s.wait(coir::yield()); }))));
    scope.cancel();
    scope.cancel(1s);
    scope.deadline(now());
    scope.limit(0s);
    CHECK(support::loop_here().census().armed == 0);
    s.wait(coir::sleep_for(1h));
    CHECK_FALSE(scope.cancelled());
    CHECK_FALSE(scope.shutting_down());
    CHECK_FALSE(scope.expired());
    CHECK_FALSE(token.stop_requested());
  });
}

TEST_CASE("a scope is cancelled twice, and from inside") {
  on_both([](auto s) {
    coir::cancel_scope scope;
    int caught = 0;
    CHECK_FALSE(s.get(scope.run(s.body([&] {
      scope.cancel();
      scope.cancel();
      scope.cancel(1h);
      try {
        s.wait(coir::yield());
      } catch (const coir::cancelled&) {
        ++caught;
        scope.cancel();
        throw;
      }
    }))));
    CHECK(caught == 1);
  });
}

TEST_CASE("a child cancels the scope it lives in") {
  on_both([](auto s) {
    coir::cancel_scope scope;
    bool child_went_on = false;
    CHECK_FALSE(s.get(scope.run(s.body([&] {
      coir::spawn(s.child([&] {
        s.wait(coir::sleep_for(1s));
        scope.cancel();
        s.wait(coir::yield());
        child_went_on = true;
      }));
      s.wait(coir::sleep_for(1h));
    }))));
    CHECK_FALSE(child_went_on);
    CHECK(scope.caught());
  });
}

TEST_CASE("a scope that never runs is nothing, and one that was made to run and is not awaited is still to run") {
  jumping([] {
    coir::cancel_scope unused;
    unused.deadline(now() + 1s);
    unused.cancel();
    coir::cancel_scope scope;
    {
      auto never_awaited = scope.run(sleep_task(1s));
    }
    CHECK(coir::await(scope.run(sleep_task(1s))));
  });
}

TEST_CASE("a scope is for one piece of code, once") {
  on_both([](auto s) {
    coir::cancel_scope scope;
    CHECK(s.get(scope.run(s.body([&] {
      CHECK_THROWS_AS(s.get(scope.run(s.body([] {}))), std::logic_error);
      s.wait(coir::yield());
    }))));
    bool ran = false;
    CHECK_THROWS_AS(s.get(scope.run(s.body([&] { ran = true; }))), std::logic_error);
    CHECK_FALSE(ran);
  });
}

TEST_CASE("a plain function in a fiber without a stack is misuse") {
  jumping([] {
    auto child = coir::spawn([]() -> coir::task<bool> {
      coir::cancel_scope scope;
      try {
        scope.run([] {});
      } catch (const std::logic_error&) {
        co_return true;
      }
      co_return false;
    });
    CHECK(coir::await(child.take()));
  });
}

// --- what it reaches, and in which order ---

TEST_CASE("a cancellation reaches fibers that wait, that are ready, that are on another stack, that have not begun") {
  on_both([](auto s) {
    coir::cancel_scope scope;
    std::vector<std::string> ended;
    struct note {
      std::vector<std::string>& in;
      const char* what;
      ~note() { in.emplace_back(what); }
    };
    bool fresh_ran = false;
    CHECK_FALSE(s.get(scope.run(s.body([&] {
      coir::spawn(s.child([&] {
        note one{ended, "waits"};
        s.wait(coir::sleep_for(1h));
      }));
      coir::spawn([](std::vector<std::string>& in) -> coir::task<> {
        note one{in, "ready"};
        for (;;) co_await coir::yield();
      }(ended));
      coir::spawn([](std::vector<std::string>& in) -> coir::task<> {
        note one{in, "borrows a stack"};
        co_await coir::on_stack([] { coir::await(coir::sleep_for(1h)); });
      }(ended));
      coir::spawn([](std::vector<std::string>& in) -> coir::task<> {
        note one{in, "in a task"};
        co_await sleep_task(1h);
      }(ended));
      s.wait(coir::yield());
      s.wait(coir::yield());
      coir::spawn(s.child([&] { fresh_ran = true; }));
      scope.cancel();
      s.wait(coir::yield());
    }))));
    CHECK(ended.size() == 4);
    CHECK_FALSE(fresh_ran);
  });
}

TEST_CASE("cancel runs no code of the fibers that it stops") {
  on_both([](auto s) {
    coir::cancel_scope scope;
    bool unwound = false;
    coir::spawn([&] {
      scope.cancel();
      CHECK_FALSE(unwound);
    });
    CHECK_FALSE(s.get(scope.run(s.body([&] {
      try {
        s.wait(coir::sleep_for(1h));
      } catch (const coir::cancelled&) {
        unwound = true;
        throw;
      }
    }))));
    CHECK(unwound);
  });
}

TEST_CASE("fibers are cancelled from the innermost region outwards, and children in the order of their birth") {
  on_both([](auto s) {
    std::vector<int> order;
    const auto noting = [&](int number) {
      return s.child([&order, s, number] {
        try {
          s.wait(coir::sleep_for(1h));
        } catch (const coir::cancelled&) {
          order.push_back(number);
          throw;
        }
      });
    };
    coir::cancel_scope outer;
    coir::cancel_scope inner;
    CHECK_FALSE(s.get(outer.run(s.body([&] {
      coir::spawn(noting(3));
      coir::spawn(noting(4));
      s.get(inner.run(s.body([&] {
        coir::spawn(noting(1));
        coir::spawn(noting(2));
        s.wait(coir::yield());
        outer.cancel();
        s.wait(coir::yield());
      })));
    }))));
    CHECK(order == std::vector{1, 2, 3, 4});
  });
}

TEST_CASE("a fiber spawned into a cancelled scope does not run") {
  on_both([](auto s) {
    coir::cancel_scope scope;
    bool ran = false;
    CHECK_FALSE(s.get(scope.run(s.body([&] {
      scope.cancel();
      coir::spawn(s.child([&] { ran = true; }));
      s.wait(coir::yield());
    }))));
    CHECK_FALSE(ran);
  });
}

TEST_CASE("what is left in a scope when its body is over is cancelled and awaited, and the scope is not cancelled") {
  on_both([](auto s) {
    coir::cancel_scope scope;
    bool ended = false;
    CHECK(s.get(scope.run(s.body([&] {
      coir::spawn(s.child([&] {
        try {
          s.wait(coir::sleep_for(1h));
        } catch (const coir::cancelled&) {
          ended = true;
          throw;
        }
      }));
      s.wait(coir::yield());
      return 5;
    }))) == 5);
    CHECK(ended);
    CHECK_FALSE(scope.cancelled());
    CHECK_FALSE(scope.caught());
  });
}

// --- whose cancellation it is ---

TEST_CASE("a scope lets the cancellation of another pass") {
  on_both([](auto s) {
    coir::cancel_scope outer;
    coir::cancel_scope inner;
    bool went_on = false;
    CHECK_FALSE(s.get(outer.run(s.body([&] {
      coir::spawn([&] { outer.cancel(); });
      s.get(inner.run(s.body([&] { s.wait(coir::sleep_for(1h)); })));
      went_on = true;
    }))));
    CHECK_FALSE(went_on);
    CHECK(inner.cancelled());
    CHECK_FALSE(inner.caught());
    CHECK(outer.caught());
  });
}

TEST_CASE("of two scopes that are cancelled at once the outer one has its way") {
  on_both([](auto s) {
    for (const bool outer_first : {true, false}) {
      coir::cancel_scope outer;
      coir::cancel_scope inner;
      bool went_on = false;
      CHECK_FALSE(s.get(outer.run(s.body([&] {
        coir::spawn([&] {
          (outer_first ? outer : inner).cancel();
          (outer_first ? inner : outer).cancel();
        });
        s.get(inner.run(s.body([&] { s.wait(coir::sleep_for(1h)); })));
        went_on = true;
      }))));
      CHECK_FALSE(went_on);
      CHECK_FALSE(inner.caught());
      CHECK(outer.caught());
    }
  });
}

TEST_CASE("a cancellation of the fiber goes through all its scopes") {
  on_both([](auto s) {
    coir::cancel_scope outer;
    coir::cancel_scope inner;
    bool went_on = false;
    auto child = coir::spawn([&] {
      s.get(outer.run(s.body([&] {
        s.get(inner.run(s.body([&] { s.wait(coir::sleep_for(1h)); })));
        went_on = true;
      })));
      went_on = true;
    });
    s.wait(coir::yield());
    child.cancel();
    s.wait(coir::end_op(child));
    CHECK(child.outcome() == coir::fiber_outcome::cancelled);
    CHECK_FALSE(went_on);
    CHECK_FALSE(outer.caught());
    CHECK(outer.cancelled());
  });
}

TEST_CASE("a `throw coir::cancelled()` of the user's goes through scopes that are not cancelled, and that are") {
  on_both([](auto s) {
    coir::cancel_scope calm;
    CHECK_THROWS_AS(s.get(calm.run(s.body([] { throw coir::cancelled(); }))), coir::cancelled);
    CHECK_FALSE(calm.cancelled());
    CHECK_FALSE(calm.caught());
    coir::cancel_scope stopped;
    stopped.cancel();
    CHECK_THROWS_AS(s.get(stopped.run(s.body([] { throw coir::cancelled(); }))), coir::cancelled);
  });
}

TEST_CASE("a cancellation that was kept is not taken for that of a scope that lies where the old one lay") {
  jumping([] {
    std::exception_ptr kept;
    const auto run_with = [&](bool first) {
      coir::cancel_scope scope;  // at the same address both times
      return scope.run([&] {
        if (!first) std::rethrow_exception(kept);
        scope.cancel();
        try {
          coir::await(coir::yield());
        } catch (const coir::cancelled&) {
          kept = std::current_exception();
          throw;
        }
      });
    };
    CHECK_FALSE(run_with(true));
    CHECK_THROWS_AS(run_with(false), coir::cancelled);
  });
}

// --- races with what is waited for ---

TEST_CASE("an op that completes in the turn of the cancellation is delivered, and the next one throws") {
  on_both([](auto s) {
    hand hold;
    coir::cancel_scope scope;
    coir::spawn([&] {
      hold.complete(7);
      scope.cancel();
    });
    int got = 0;
    bool went_on = false;
    CHECK_FALSE(s.get(scope.run(s.body([&] {
      got = s.wait(hand_op(hold));
      s.wait(coir::yield());
      went_on = true;
    }))));
    CHECK(got == 7);
    CHECK_FALSE(went_on);
    CHECK(hold.aborts() == 0);
  });
}

TEST_CASE("an op that is stopped by its scope stays stopped, whatever completes in the same turn") {
  on_both([](auto s) {
    hand hold;
    coir::cancel_scope scope;
    coir::spawn([&] {
      scope.cancel();
      hold.complete(7);
    });
    int got = 0;
    CHECK_FALSE(s.get(scope.run(s.body([&] { got = s.wait(hand_op(hold)); }))));
    CHECK(got == 0);
    CHECK(hold.aborts() == 1);
    // What it would have brought is there for the next one.
    CHECK(s.wait(hand_op(hold)) == 7);
  });
}

TEST_CASE("a late result may be the scope's: then it was not cut short") {
  on_both([](auto s) {
    hand slow(coir::abort_answer::later);
    coir::cancel_scope scope;
    coir::spawn([&] {
      scope.cancel();
      slow.complete(7);
    });
    CHECK(s.get(scope.run(s.body([&] { return s.wait(hand_op(slow)); }))) == 7);
    CHECK(scope.cancelled());
    CHECK_FALSE(scope.caught());
  });
}

TEST_CASE("a cancellation that is swallowed comes back and is counted") {
  on_both([](auto s) {
    coir::cancel_scope scope;
    int caught = 0;
    CHECK_FALSE(s.get(scope.run(s.body([&] {
      scope.cancel();
      for (int i = 0; i < 3; ++i) {
        try {
          s.wait(coir::yield());
        } catch (const coir::cancelled&) {
          ++caught;
        }
      }
      s.wait(coir::yield());
    }))));
    CHECK(caught == 3);
    CHECK(coir::running_fiber().home().stats().swallowed == 3);
  });
}

TEST_CASE("a cancellation in whose place a region throws a failure comes back, and was not swallowed") {
  on_both([](auto s) {
    const auto stubborn = [&] {
      try {
        s.wait(coir::sleep_until(coir::never));
      } catch (const coir::cancelled&) {
        throw std::runtime_error("when stopped");
      }
    };
    const auto child_fails = [&] {
      const auto body = [&](coir::nursery& n) {
        n.spawn(s.child(stubborn));
        s.wait(coir::yield());
        s.wait(coir::sleep_until(coir::never));
      };
      surfaces::get(s, [&] { return coir::with_nursery(s.body(body)); });
    };
    const auto cleanup_fails = [&] {
      const auto waits = [&] { s.wait(coir::sleep_until(coir::never)); };
      const auto fails = [] { throw std::runtime_error("cleanup"); };
      surfaces::get(s, [&] {
        auto body = s.body(waits);
        auto cleanup = s.body(fails);
        return coir::with_cleanup(body, cleanup);
      });
    };
    int failures = 0;
    for (const bool in_cleanup : {false, true}) {
      coir::cancel_scope scope;
      coir::spawn([&] {
        s.wait(coir::yield());
        s.wait(coir::yield());
        scope.cancel();
      });
      CHECK_FALSE(s.get(scope.run(s.body([&] {
        try {
          in_cleanup ? cleanup_fails() : child_fails();
        } catch (const std::runtime_error&) {
          ++failures;
        }
        s.wait(coir::yield());
      }))));
    }
    CHECK(failures == 2);
    CHECK(coir::running_fiber().home().stats().swallowed == 0);
    // Code that turns one into a failure, and goes on, has swallowed it all the same; one that ends with it has not.
    auto ends = coir::spawn(s.child(stubborn));
    auto goes_on = coir::spawn(s.child([&] {
      try {
        stubborn();
      } catch (const std::runtime_error&) {
      }
      s.wait(coir::yield());
    }));
    support::until([&] { return support::waiting(ends) && support::waiting(goes_on); });
    for (auto* each : {&ends, &goes_on}) each->cancel();
    CHECK_THROWS_WITH(s.wait(ends.join()), "when stopped");
    CHECK_THROWS_AS(s.wait(goes_on.join()), std::system_error);
    CHECK(coir::running_fiber().home().stats().swallowed == 1);
  });
}

TEST_CASE("an op that gives error codes throws a cancellation all the same") {
  on_both([](auto s) {
    coir::cancel_scope scope;
    coir::spawn([&] { scope.cancel(); });
    bool went_on = false;
    CHECK_FALSE(s.get(scope.run(s.body([&] {
      auto never_ends = coir::spawn([] { coir::await(coir::sleep_until(coir::never)); });
      static_cast<void>(s.wait(coir::as_result(never_ends.join())));
      went_on = true;
    }))));
    CHECK_FALSE(went_on);
  });
}

// --- what it throws, and what it gives ---

TEST_CASE("what the body throws comes first, then the first failure of what it spawned") {
  on_both([](auto s) {
    coir::cancel_scope scope;
    CHECK_THROWS_WITH(s.get(scope.run(s.body([&] {
                        coir::spawn(s.child([&] {
                          try {
                            s.wait(coir::sleep_for(1h));
                          } catch (const coir::cancelled&) {
                            throw std::runtime_error("child");
                          }
                        }));
                        s.wait(coir::yield());
                        throw std::runtime_error("body");
                      }))),
                      "body");
    CHECK_FALSE(scope.caught());
    coir::cancel_scope other;
    CHECK_THROWS_WITH(s.get(other.run(s.body([&] {
                        coir::spawn(s.child([] { throw std::runtime_error("child"); }));
                        s.wait(coir::sleep_for(1h));
                      }))),
                      "child");
  });
}

TEST_CASE("a failure weighs more than the cancellation that it meets") {
  on_both([](auto s) {
    coir::cancel_scope scope;
    CHECK_THROWS_WITH(s.get(scope.run(s.body([&] {
                        scope.cancel();
                        try {
                          s.wait(coir::yield());
                        } catch (const coir::cancelled&) {
                          throw std::runtime_error("cleanup");
                        }
                      }))),
                      "cleanup");
  });
}

TEST_CASE("results that only move, references and results that cannot be moved into place") {
  on_both([](auto s) {
    coir::cancel_scope moves;
    auto got = s.get(moves.run(s.body([] { return std::make_unique<int>(3); })));
    REQUIRE(got);
    CHECK(**got == 3);
    int mine = 1;
    coir::cancel_scope refers;
    CHECK(s.get(refers.run(s.body([&]() -> int& { return mine; }))) == &mine);

    struct stubborn {
      explicit stubborn(int when) : left(when) {}
      stubborn(stubborn&& other) : left(other.left - 1), held(std::move(other.held)) {
        if (left == 0) throw std::runtime_error("does not move");
      }
      int left;
      counted held;
    };
    for (int when = 1; when <= 6; ++when) {
      coir::cancel_scope scope;
      try {
        static_cast<void>(s.get(scope.run(s.body([&] { return stubborn(when); }))));
      } catch (const std::runtime_error& error) {
        CHECK(std::string(error.what()) == "does not move");
      }
      CHECK_FALSE(scope.caught());
      CHECK(counted::alive == 0);
    }
    s.wait(coir::yield());
  });
}
