#include "actors.hpp"

using namespace actors;
using Catch::Matchers::Contains;
using coir::child_event;
using coir::child_options;
using coir::supervisor;
using coir::supervisor_options;

namespace {

const child_options watched = child_options(coir::transient).heartbeat(10s);

}  // namespace

TEST_CASE("a child that does not say in time that it lives is cancelled, and counts as failed because it hung") {
  on_both([](auto surface) {
    actor a("a", {{1h, returns}, {5s, returns}});
    std::string told;
    surface.supervise({}, [&](supervisor& s) {
      s.on_event([&](const child_event& e) {
        if (!e.failed()) return;
        CHECK(s.stats().hangs == 1);
        CHECK_THROWS_AS(std::rethrow_exception(e.failure), coir::child_hung);
        CHECK_THROWS_WITH(std::rethrow_exception(e.failure), Contains("\"a\"") && Contains("10s"));
        told += "hung";
      });
      surface.add(s, a, watched);
    });
    CHECK(told == "hung");
    CHECK(journal() == "+a ~a +a -a");
    CHECK(a.births()[1] - a.births()[0] == 10s);
  });
}

TEST_CASE("a child that says often enough that it lives goes on") {
  support::jumping([] {
    for (const bool on_stack : {false, true}) {
      int lives = 0;
      const coir::instant begin = now();
      coir::await(coir::supervise([&](supervisor& s) {
        if (on_stack) {
          s.add("child", [&] {
            ++lives;
            for (int i = 0; i < 100; ++i) {
              coir::heartbeat();
              coir::await(coir::sleep_for(9s));
            }
          }, watched);
        } else {
          s.add("child", [&]() -> coir::task<> {
            ++lives;
            for (int i = 0; i < 100; ++i) {
              coir::heartbeat();
              co_await coir::sleep_for(9s);
            }
          }, watched);
        }
      }));
      CHECK(lives == 1);
      CHECK(now() - begin == 900s);
    }
  });
}

TEST_CASE("the interval is counted from the last heartbeat, to the nanosecond") {
  support::jumping([] {
    coir::instant last{};
    coir::instant cut{};
    CHECK_THROWS_AS(coir::await(coir::supervise(supervisor_options().intensity(0, 1s),
                                                [&](supervisor& s) {
                                                  s.add("child", [&] {
                                                    coir::await(coir::sleep_for(7s));
                                                    last = now();
                                                    coir::heartbeat();
                                                    try {
                                                      coir::await(coir::sleep_for(1h));
                                                    } catch (const coir::cancelled&) {
                                                      cut = now();
                                                      throw;
                                                    }
                                                  }, watched);
                                                })),
                    coir::restart_limit_exceeded);
    CHECK(cut - last == 10s);
  });
}

TEST_CASE("the fibers of a child speak for it, but not for the one that comes after it") {
  support::jumping([] {
    coir::with_nursery([](coir::nursery& n) {
      int lives = 0;
      coir::await(coir::supervise([&](supervisor& s) {
        s.add("child", [&] {
          if (++lives == 3) return;
          if (lives == 1) {
            // It outlives this child, and goes on speaking for it.
            n.spawn([] {
              for (int i = 0; i < 20; ++i) {
                coir::await(coir::sleep_for(3s));
                coir::heartbeat();
              }
            });
          }
          coir::spawn([] {
            for (int i = 0; i < 5; ++i) {
              coir::await(coir::sleep_for(9s));
              coir::heartbeat();
            }
          });
          coir::await(coir::sleep_for(1h));
        }, watched);
      }));
      CHECK(lives == 3);
    });
  });
}

TEST_CASE("a child that hangs and returns all the same has returned") {
  support::jumping([] {
    int lives = 0;
    coir::await(coir::supervise([&](supervisor& s) {
      s.add("child", [&] {
        ++lives;
        try {
          coir::await(coir::sleep_for(1h));
        } catch (const coir::cancelled&) {
        }
      }, watched);
    }));
    CHECK(lives == 1);
  });
}

TEST_CASE("a heartbeat that nobody waits for does nothing, and outside of a fiber it is an error") {
  CHECK_THROWS_AS(coir::heartbeat(), std::logic_error);
  coir::run([] { coir::heartbeat(); });
  support::jumping([] {
    coir::await(coir::supervise([&](supervisor& s) { s.add("child", [] { coir::heartbeat(); }, coir::transient); }));
  });
}

TEST_CASE("a child that is being stopped need not say that it lives") {
  on_both([](auto surface) {
    actor a("a");
    a.listens(1min);
    auto all = surface.spawn({}, [&](supervisor& s) {
      surface.add(s, a, child_options().heartbeat(10s).shutdown(1h));
    });
    coir::await(coir::sleep_for(1s));
    all.cancel();
    coir::await(coir::end_op(all));
    CHECK(journal() == "+a -a");
  });
}
