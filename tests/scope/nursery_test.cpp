#include "fiber/hand_op.hpp"
#include "surfaces.hpp"

#include "support/catch.hpp"
#include "support/jumping.hpp"

#include <coir/coir.hpp>

#include <algorithm>
#include <chrono>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <system_error>
#include <vector>

using namespace std::chrono_literals;
using support::hand;
using support::hand_op;
using support::jumping;
using support::now;
using surfaces::on_both;

namespace {

coir::task<> append_after(coir::duration wait, std::vector<int>& to, int what) {
  co_await coir::sleep_for(wait);
  to.push_back(what);
}
coir::task<> fail_after_sleep(coir::duration wait, const char* what = "failed") {
  co_await coir::sleep_for(wait);
  throw std::runtime_error(what);
}
coir::task<> fail_when_stopped(const char* what) {
  bool stopped = false;
  try {
    co_await coir::sleep_for(1000h);
  } catch (const coir::cancelled&) {
    stopped = true;
  }
  if (stopped) throw std::runtime_error(what);
}
std::vector<std::string> texts(const std::vector<std::exception_ptr>& failures) {
  std::vector<std::string> all;
  for (const auto& each : failures) {
    try {
      std::rethrow_exception(each);
    } catch (const std::exception& error) {
      all.emplace_back(error.what());
    }
  }
  return all;
}
// with_nursery on a surface.
template <class Surface, class Body>
decltype(auto) with(Surface s, Body body) {
  return surfaces::get(s, [&] { return coir::with_nursery(s.body(body)); });
}

}  // namespace

TEST_CASE("a nursery ends after its children") {
  on_both([](auto s) {
    std::vector<int> seen;
    with(s, [&](coir::nursery& n) {
      n.spawn(append_after(2s, seen, 2));
      n.spawn(s.child([&] {
        s.wait(coir::sleep_for(1s));
        seen.push_back(1);
      }));
    });
    CHECK(seen == std::vector{1, 2});
    CHECK(with(s, [](coir::nursery&) { return 7; }) == 7);
  });
}

TEST_CASE("in a coroutine without a stack too") {
  jumping([] {
    auto child = coir::spawn([]() -> coir::task<std::vector<int>> {
      std::vector<int> seen;
      const auto body = [&](coir::nursery& n) -> coir::task<> {
        n.spawn(append_after(2s, seen, 2));
        n.spawn(append_after(1s, seen, 1));
        co_return;
      };
      co_await coir::with_nursery(body);
      coir::nursery again;
      const auto accept = [&]() -> coir::task<int> {
        again.spawn(append_after(1s, seen, 3));
        co_return 5;
      };
      const std::optional<int> got = co_await again.run(accept());
      seen.push_back(got.value_or(0));
      co_return seen;
    });
    CHECK(coir::await(child.take()) == std::vector{1, 2, 3, 5});
  });
}

TEST_CASE("children begin in the order in which they were spawned, and are cancelled in it") {
  on_both([](auto s) {
    std::vector<int> order;
    with(s, [&](coir::nursery& n) {
      for (int i = 0; i < 3; ++i) {
        n.spawn(s.child([&order, s, i] {
          order.push_back(i);
          try {
            s.wait(coir::sleep_for(1h));
          } catch (const coir::cancelled&) {
            order.push_back(10 + i);
            throw;
          }
        }));
      }
      s.wait(coir::yield());
      n.cancel();
    });
    CHECK(order == std::vector{0, 1, 2, 10, 11, 12});
  });
}

// --- failures ---

TEST_CASE("the first failure cancels the siblings and is thrown after they ended") {
  on_both([](auto s) {
    std::vector<int> seen;
    const coir::instant begin = now();
    CHECK_THROWS_WITH(with(s,
                           [&](coir::nursery& n) {
                             n.spawn(append_after(1h, seen, 1));
                             n.spawn(fail_after_sleep(1s));
                             s.wait(coir::sleep_for(2h));
                           }),
                      "failed");
    CHECK(now() - begin == 1s);
    CHECK(seen.empty());
    // While the nursery waits for its children.
    CHECK_THROWS_WITH(with(s,
                           [&](coir::nursery& n) {
                             n.spawn(append_after(1h, seen, 1));
                             n.spawn(fail_after_sleep(1s));
                           }),
                      "failed");
    CHECK(now() - begin == 2s);
    CHECK(seen.empty());
  });
}

TEST_CASE("of body, children and their cleanup the first failure is thrown, and the others are kept in order") {
  on_both([](auto s) {
    coir::nursery n;
    auto fiber = coir::spawn([&] {
      s.get(n.run(s.body([&] {
        n.spawn(fail_when_stopped("child one"));
        n.spawn(fail_when_stopped("child two"));
        s.wait(coir::yield());
        try {
          n.spawn(fail_after_sleep(1s, "first"));
          s.wait(coir::sleep_for(1h));
        } catch (const coir::cancelled&) {
          throw std::runtime_error("body");
        }
      })));
    });
    s.wait(coir::end_op(fiber));
    CHECK_THROWS_WITH(s.wait(fiber.join()), "first");
    auto others = texts(n.other_failures());
    CHECK(others.size() == 3);
    CHECK(others == texts(fiber.other_failures()));
    CHECK(std::find(others.begin(), others.end(), "body") != others.end());
  });
}

TEST_CASE("a failure of the body cancels the children, and comes first") {
  on_both([](auto s) {
    coir::nursery n;
    auto fiber = coir::spawn([&] {
      s.get(n.run(s.body([&] {
        n.spawn(fail_when_stopped("child"));
        s.wait(coir::yield());
        throw std::runtime_error("body");
      })));
    });
    s.wait(coir::end_op(fiber));
    CHECK_THROWS_WITH(s.wait(fiber.join()), "body");
    CHECK(texts(fiber.other_failures()) == std::vector<std::string>{"child"});
  });
}

TEST_CASE("a child that somebody joins fails towards him alone") {
  on_both([](auto s) {
    std::vector<int> seen;
    with(s, [&](coir::nursery& n) {
      n.spawn(append_after(2s, seen, 1));
      auto fails = n.spawn(fail_after_sleep(1s, "joined"));
      CHECK_THROWS_WITH(s.wait(fails.join()), "joined");
    });
    CHECK(seen == std::vector{1});
  });
}

TEST_CASE("a child that reports its failure leaves the nursery alone") {
  on_both([](auto s) {
    int reported = 0;
    coir::running_fiber().home().on_failure([&](const coir::fiber_base&, std::exception_ptr) { ++reported; });
    std::vector<int> seen;
    with(s, [&](coir::nursery& n) {
      n.spawn(append_after(2s, seen, 1));
      n.spawn(fail_after_sleep(1s), coir::report_failure);
    });
    CHECK(seen == std::vector{1});
    CHECK(reported == 1);
  });
}

TEST_CASE("a nursery in a child of a nursery: failures go up one by one") {
  on_both([](auto s) {
    std::vector<int> seen;
    const coir::instant begin = now();
    CHECK_THROWS_WITH(with(s,
                           [&](coir::nursery& outer) {
                             outer.spawn(append_after(1h, seen, 1));
                             outer.spawn(s.child([&] {
                               with(s, [&](coir::nursery& inner) {
                                 inner.spawn(append_after(1h, seen, 2));
                                 inner.spawn(s.child([&] {
                                   with(s, [&](coir::nursery& innermost) { innermost.spawn(fail_after_sleep(1s, "deep")); });
                                 }));
                               });
                             }));
                           }),
                      "deep");
    CHECK(seen.empty());
    CHECK(now() - begin == 1s);
    CHECK(coir::running_fiber().home().alive() == 1);
  });
}

// --- cancellation ---

TEST_CASE("a nursery cancels itself: body and children feel it, and it returns as cut short") {
  on_both([](auto s) {
    std::vector<int> seen;
    coir::nursery n;
    CHECK_FALSE(s.get(n.run(s.body([&] {
      n.spawn(append_after(1h, seen, 1));
      s.wait(coir::yield());
      n.cancel();
      CHECK(n.cancelled());
      s.wait(coir::sleep_for(1h));
    }))));
    CHECK(seen.empty());
    // The body was over: nothing was cut short of it.
    coir::nursery waits;
    coir::spawn([&] {
      coir::await(coir::sleep_for(1s));
      waits.cancel();
    });
    CHECK(s.get(waits.run(s.body([&] {
      waits.spawn(append_after(1h, seen, 1));
      return 3;
    }))) == 3);
    CHECK(seen.empty());
    with(s, [&](coir::nursery& plain) {
      plain.cancel();
      s.wait(coir::yield());
    });
    CHECK_THROWS_AS(with(s,
                         [&](coir::nursery& due) {
                           due.cancel();
                           s.wait(coir::yield());
                           return 1;
                         }),
                    std::system_error);
  });
}

TEST_CASE("a nursery with grace asks its children first") {
  on_both([](auto s) {
    std::vector<int> asked;
    const coir::instant begin = now();
    with(s, [&](coir::nursery& n) {
      for (int i = 0; i < 2; ++i) {
        n.spawn(s.child([&asked, s, i] {
          s.wait(coir::wait_shutting_down());
          asked.push_back(i);
          s.wait(coir::sleep_for(i * 1h));
          asked.push_back(10 + i);
        }));
      }
      s.wait(coir::yield());
      n.cancel(5s);
    });
    CHECK(asked == std::vector{0, 1, 10});
    CHECK(now() - begin == 5s);
  });
}

TEST_CASE("a nursery that is cancelled from further out when its body is over throws, unless its children came to their end") {
  on_both([](auto s) {
    for (const bool insist : {false, true}) {
      coir::cancel_scope scope;
      coir::spawn([&] {
        coir::await(coir::sleep_for(1s));
        scope.cancel();
      });
      bool went_on = false;
      const bool whole = s.get(scope.run(s.body([&] {
        const int got = with(s, [&](coir::nursery& n) {
          n.spawn(s.child([&] {
            coir::cancel_scope guard;
            if (insist) guard.shield();
            s.get(guard.run(s.body([&] { s.wait(coir::sleep_for(2s)); })));
          }));
          return 5;
        });
        went_on = got == 5;
      })));
      CHECK(whole == insist);
      CHECK(went_on == insist);
    }
  });
}

TEST_CASE("a child that was cancelled by itself is meant, also when the nursery is cancelled afterwards") {
  on_both([](auto s) {
    with(s, [&](coir::nursery& n) {
      auto child = n.spawn([] { coir::await(coir::sleep_for(1h)); });
      s.wait(coir::yield());
      child.cancel();
    });
    hand slow(coir::abort_answer::later);
    coir::cancel_scope scope;
    coir::spawn([&] {
      coir::await(coir::sleep_for(1s));
      scope.cancel();
      slow.complete();
    });
    CHECK(s.get(scope.run(s.body([&] {
      return with(s, [&](coir::nursery& n) {
        auto child = n.spawn([] { coir::await(coir::sleep_for(1h)); });
        n.spawn([&] { coir::await(hand_op(slow)); });
        s.wait(coir::yield());
        child.cancel();
        return 5;
      });
    }))) == 5);
  });
}

TEST_CASE("waiting for the children cannot be cancelled: they are") {
  on_both([](auto s) {
    hand slow(coir::abort_answer::later);
    auto owner = coir::spawn([&] {
      with(s, [&](coir::nursery& n) { n.spawn([&] { coir::await(hand_op(slow)); }); });
    });
    s.wait(coir::yield());
    s.wait(coir::yield());
    owner.cancel();
    for (int i = 0; i < 5; ++i) s.wait(coir::yield());
    CHECK(owner.state() == coir::fiber_state::waiting);
    CHECK(slow.aborts() == 1);
    slow.give_up();
    s.wait(coir::end_op(owner));
    CHECK(owner.outcome() == coir::fiber_outcome::cancelled);
  });
}

TEST_CASE("an exception that interrupts the wait for the children cancels them and is thrown then") {
  on_both([](auto s) {
    std::vector<int> seen;
    std::string thrown;
    auto owner = coir::spawn([&] {
      try {
        with(s, [&](coir::nursery& n) { n.spawn(append_after(1h, seen, 1)); });
      } catch (const std::runtime_error& error) {
        thrown = error.what();
      }
      s.wait(coir::yield());  // it is not thrown again
    });
    s.wait(coir::sleep_for(1s));
    const_cast<coir::fiber_base&>(owner.control()).interrupt(std::make_exception_ptr(std::runtime_error("interrupt")));
    s.wait(owner.join());
    CHECK(thrown == "interrupt");
    CHECK(seen.empty());
  });
}

// --- who may spawn ---

TEST_CASE("a nursery that is closing refuses new children") {
  on_both([](auto s) {
    coir::nursery n;
    CHECK_THROWS_AS(n.spawn([] {}), std::logic_error);
    bool first_ran = false;
    CHECK(s.get(n.run(s.body([&] {
      n.spawn([&] { first_ran = true; });
      n.close();
      CHECK(n.closed());
      try {
        n.spawn([] {});
        FAIL("it is closed");
      } catch (const std::system_error& error) {
        CHECK(error.code() == std::errc::operation_canceled);
      }
    }))));
    CHECK(first_ran);
    CHECK_THROWS_AS(n.spawn([] {}), std::logic_error);
  });
}

TEST_CASE("spawning in a cancelled nursery: `cancelled` to who is cancelled himself, an error to others") {
  on_both([](auto s) {
    coir::nursery n;
    std::string seen;
    hand hold;
    coir::spawn([&] {
      coir::await(coir::sleep_for(1s));
      n.cancel();
      try {
        n.spawn([] {});
      } catch (const std::system_error&) {
        seen += "outside ";
      }
    });
    CHECK_FALSE(s.get(n.run(s.body([&] {
      try {
        s.wait(coir::sleep_for(1h));
      } catch (const coir::cancelled&) {
      }
      try {
        n.spawn([] {});
      } catch (const coir::cancelled&) {
        seen += "inside";
        throw;
      }
    }))));
    CHECK(seen == "outside inside");
  });
}

TEST_CASE("children are spawned by children, by others, and from outside of any fiber") {
  on_both([](auto s) {
    std::vector<int> seen;
    coir::nursery n;
    coir::spawn([&] {
      coir::await(coir::sleep_for(1s));
      n.spawn(append_after(1s, seen, 2));
    });
    CHECK(s.get(n.run(s.body([&] {
      n.spawn(s.child([&] {
        s.wait(coir::sleep_for(1s));
        n.spawn(append_after(0s, seen, 1));
        s.wait(coir::sleep_for(5s));
      }));
    }))));
    CHECK(seen == std::vector{1, 2});
  });
}

TEST_CASE("a child that is spawned between the end of the last one and the turn of the nursery is waited for") {
  on_both([](auto s) {
    std::vector<int> seen;
    coir::nursery n;
    hand hold;
    coir::spawn([&] {
      coir::await(coir::sleep_for(1s));
      // The last child runs now, and behind it this one, and behind that the nursery's fiber.
      hold.complete();
      coir::await(coir::yield());
      CHECK(n.empty());
      n.spawn(append_after(1s, seen, 1));
    });
    CHECK(s.get(n.run(s.body([&] { n.spawn([&] { coir::await(hand_op(hold)); }); }))));
    CHECK(seen == std::vector{1});
  });
}

TEST_CASE("a nursery is for one piece of code, once") {
  on_both([](auto s) {
    coir::nursery n;
    CHECK_THROWS_WITH(s.get(n.run(s.body([] { throw std::runtime_error("first run"); }))), "first run");
    CHECK_THROWS_AS(s.get(n.run(s.body([] {}))), std::logic_error);
    CHECK_THROWS_AS(n.spawn([] {}), std::logic_error);
    n.cancel();
    n.cancel(1s);
    CHECK(n.other_failures().empty());
  });
}

// --- how it looks ---

TEST_CASE("a nursery knows its children, and a deadlock report lists them below their owner") {
  jumping([] {
    coir::nursery n;
    CHECK(n.run([&] {
      CHECK(n.empty());
      auto one = n.spawn([] {});
      auto two = n.spawn([] {});
      CHECK(n.first_child() == &one.control());
      CHECK(n.first_child()->next_sibling() == &two.control());
      CHECK(one.control().parent() == &coir::running_fiber());
    }));
    CHECK(n.empty());
  });
  std::string report;
  try {
    coir::run([] {
      coir::with_nursery([](coir::nursery& n) {
        n.spawn([] { coir::await(coir::sleep_until(coir::never)); }, coir::spawn_options().name("first-of-two"));
        n.spawn([] { coir::await(coir::sleep_until(coir::never)); }, coir::spawn_options().name("second-of-two"));
      });
    });
    FAIL("it is a deadlock");
  } catch (const coir::deadlock& error) {
    report = error.what();
  }
  INFO(report);
  CHECK(report.find("3 fibers") != std::string::npos);
  const auto owner = report.find("main: waiting in the end of a region at ");
  const auto where = report.find("tests/scope/nursery_test.cpp", owner);  // the path to it depends on the build directory
  CHECK(owner != std::string::npos);
  CHECK(where < report.find('\n', owner));
  const auto first = report.find("first-of-two: waiting in sleep");
  const auto second = report.find("second-of-two: waiting in sleep");
  CHECK(first != std::string::npos);
  CHECK(second != std::string::npos);
  CHECK(first < second);
}

// --- many ---

TEST_CASE("a hundred thousand children need no deep recursion") {
  on_both([](auto s) {
    int done = 0;
    const auto counts = [](int& count, coir::duration wait) -> coir::task<> {
      co_await coir::sleep_for(wait);
      ++count;
    };
    with(s, [&](coir::nursery& n) {
      for (int i = 0; i < 100'000; ++i) n.spawn(counts(done, 0s));
    });
    CHECK(done == 100'000);
    coir::cancel_scope scope;
    CHECK_FALSE(s.get(scope.run(s.body([&] {
      with(s, [&](coir::nursery& n) {
        for (int i = 0; i < 100'000; ++i) n.spawn(counts(done, 1h));
        s.wait(coir::yield());
        scope.cancel();
      });
    }))));
    CHECK(done == 100'000);
    CHECK(coir::running_fiber().home().alive() == 1);
  });
}

TEST_CASE("what reaches an owner before it waits for its children reaches it there") {
  on_both([](auto s) {
    const auto given = [] { return std::make_exception_ptr(std::runtime_error("given")); };
    for (const bool by_itself : {true, false}) {
      auto owner = coir::spawn([&] {
        with(s, [&](coir::nursery& n) {
          n.spawn([&] { coir::await(coir::sleep_until(coir::never)); });
          s.wait(coir::yield());
          if (by_itself) coir::running_fiber().interrupt(given());
        });
      });
      // Ready, behind its own yield.
      s.wait(coir::yield());
      if (!by_itself) CHECK(owner.interrupt(given()));
      CHECK_THROWS_WITH(s.wait(owner.join()), "given");
    }
  });
  // And what was interjected runs before the wait, which may be for what it does.
  on_both([](auto s) {
    coir::event set;
    auto owner = coir::spawn([&] {
      with(s, [&](coir::nursery& n) {
        n.spawn([&] { coir::await(set.wait()); });
        coir::running_fiber().interject([&] { set.set(); });
      });
    });
    s.wait(owner.join());
    CHECK(owner.outcome() == coir::fiber_outcome::returned);
  });
}
