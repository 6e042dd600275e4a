#include "fiber/counted.hpp"
#include "surfaces.hpp"

#include "support/catch.hpp"
#include "support/jumping.hpp"

#include <coir/coir.hpp>

#include <chrono>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

using namespace std::chrono_literals;
using support::counted;
using support::jumping;
using support::now;
using surfaces::on_both;

namespace {

coir::task<int> value_after(coir::duration wait, int value) {
  co_await coir::sleep_for(wait);
  co_return value;
}
coir::task<> note_after(coir::duration wait, std::vector<std::string>& in, const char* what) {
  co_await coir::sleep_for(wait);
  in.emplace_back(what);
}
std::vector<std::string> texts(const std::vector<std::exception_ptr>& failures) {
  std::vector<std::string> all;
  for (const auto& each : failures) {
    try {
      std::rethrow_exception(each);
    } catch (const coir::timed_out&) {
      all.emplace_back("timed_out");
    } catch (const std::exception& error) {
      all.emplace_back(error.what());
    }
  }
  return all;
}
// How a call ended, and what else the fiber knows of.
struct ending {
  std::string thrown;
  std::vector<std::string> others;
};
template <class Surface, class Body, class Cleanup>
ending ending_of(Surface s, Body body, Cleanup cleanup, coir::duration limit = 10s) {
  ending seen;
  auto child = coir::spawn([&] {
    const auto call = [&] { return coir::with_cleanup(s.body(body), s.body(cleanup), limit); };
    try {
      surfaces::get(s, call);
    } catch (const coir::timed_out&) {
      seen.thrown = "timed_out";
    } catch (const std::exception& error) {
      seen.thrown = error.what();
    } catch (const coir::cancelled&) {
      seen.thrown = "cancelled";
      throw;
    }
  });
  coir::await(coir::end_op(child));
  seen.others = texts(child.other_failures());
  return seen;
}

}  // namespace

TEST_CASE("the cleanup runs after the body, and the result is the body's") {
  on_both([](auto s) {
    std::vector<std::string> seen;
    const int result = s.get(coir::with_cleanup(s.body([&] {
                                                  s.wait(coir::sleep_for(1s));
                                                  seen.emplace_back("body");
                                                  return 7;
                                                }),
                                                s.body([&] {
                                                  s.wait(coir::sleep_for(1s));
                                                  seen.emplace_back("cleanup");
                                                })));
    CHECK(result == 7);
    CHECK(seen == std::vector<std::string>{"body", "cleanup"});
  });
}

TEST_CASE("body and cleanup may be tasks, ops and functions that make tasks") {
  jumping([] {
    std::vector<std::string> seen;
    const coir::instant begin = now();
    coir::await(coir::with_cleanup(note_after(1s, seen, "body"), note_after(1s, seen, "cleanup")));
    CHECK(coir::await(coir::with_cleanup(value_after(1s, 7), coir::sleep_for(1s))) == 7);
    coir::await(coir::with_cleanup(coir::sleep_for(1s), [&] { return note_after(1s, seen, "made"); }));
    CHECK(coir::await(coir::with_cleanup([&] { return value_after(1s, 8); }, value_after(1s, 0))) == 8);
    CHECK(seen == std::vector<std::string>{"body", "cleanup", "made"});
    CHECK(now() - begin == 8s);
    auto in_coroutine = coir::spawn([]() -> coir::task<int> {
      std::vector<std::string> notes;
      int got = co_await coir::with_cleanup(value_after(1s, 3), note_after(1s, notes, "x"), 2s);
      co_return got + static_cast<int>(notes.size());
    });
    CHECK(coir::await(in_coroutine.join()) == 4);
  });
}

TEST_CASE("results of all kinds go through") {
  on_both([](auto s) {
    int mine = 1;
    const auto nothing = s.body([] {});
    CHECK(&s.get(coir::with_cleanup(s.body([&]() -> int& { return mine; }), nothing)) == &mine);
    CHECK(*s.get(coir::with_cleanup(s.body([] { return std::make_unique<int>(5); }), nothing)) == 5);
  });
}

TEST_CASE("the cleanup runs when the body throws, and then its failure goes on") {
  on_both([](auto s) {
    bool cleaned = false;
    const ending seen = ending_of(
        s, [] { throw std::runtime_error("body"); },
        [&] {
          s.wait(coir::sleep_for(1s));
          cleaned = true;
        });
    CHECK(seen.thrown == "body");
    CHECK(seen.others.empty());
    CHECK(cleaned);
  });
}

TEST_CASE("the cleanup of a cancelled body waits undisturbed, and then the cancellation goes on") {
  on_both([](auto s) {
    const coir::instant begin = now();
    bool cleaned = false;
    bool went_on = false;
    CHECK_FALSE(s.get(coir::move_on_after(1s, s.body([&] {
      surfaces::get(s, [&] {
        return coir::with_cleanup(s.body([&] { s.wait(coir::sleep_for(1h)); }), s.body([&] {
                                    s.wait(coir::sleep_for(2s));
                                    CHECK_FALSE(coir::running_fiber().cancelled());
                                    cleaned = true;
                                  }));
      });
      went_on = true;
    }))));
    CHECK(cleaned);
    CHECK_FALSE(went_on);
    CHECK(now() - begin == 3s);
  });
}

TEST_CASE("a cancellation that comes while the cleanup runs waits for it, and the body's result is delivered") {
  on_both([](auto s) {
    coir::cancel_scope scope;
    coir::spawn([&] {
      coir::await(coir::sleep_for(1s));
      scope.cancel();
    });
    bool cleaned = false;
    CHECK(s.get(scope.run(s.body([&] {
      return s.get(coir::with_cleanup(s.body([] { return 7; }), s.body([&] {
                                        s.wait(coir::sleep_for(2s));
                                        cleaned = true;
                                      })));
    }))) == 7);
    CHECK(cleaned);
    CHECK(scope.cancelled());
    CHECK_FALSE(scope.caught());
  });
}

TEST_CASE("a fiber that is cancelled before it comes to with_cleanup cleans up what the body began") {
  on_both([](auto s) {
    coir::cancel_scope scope;
    scope.cancel();
    std::vector<std::string> seen;
    CHECK_FALSE(s.get(scope.run(s.body([&] {
      surfaces::get(s, [&] {
        return coir::with_cleanup(s.body([&] {
                                    seen.emplace_back("began");
                                    s.wait(coir::yield());
                                    seen.emplace_back("never");
                                  }),
                                  s.body([&] {
                                    s.wait(coir::yield());
                                    seen.emplace_back("cleaned");
                                  }));
      });
    }))));
    CHECK(seen == std::vector<std::string>{"began", "cleaned"});
  });
}

TEST_CASE("a failure of the cleanup is thrown when the body did not fail, and kept when it did") {
  on_both([](auto s) {
    const auto cleanup = [s] {
      s.wait(coir::sleep_for(1s));
      throw std::runtime_error("cleanup");
    };
    ending seen = ending_of(s, [] {}, cleanup);
    CHECK(seen.thrown == "cleanup");
    CHECK(seen.others.empty());
    seen = ending_of(s, [] { throw std::runtime_error("body"); }, cleanup);
    CHECK(seen.thrown == "body");
    CHECK(seen.others == std::vector<std::string>{"cleanup"});
    seen = ending_of(s, [] { throw coir::cancelled(); }, cleanup);
    CHECK(seen.thrown == "cleanup");
    CHECK(seen.others.empty());
  });
}

TEST_CASE("a cleanup that runs out of time is cancelled, and has failed") {
  on_both([](auto s) {
    const coir::instant begin = now();
    bool told = false;
    const auto cleanup = [&told, s] {
      try {
        s.wait(coir::sleep_for(1h));
      } catch (const coir::cancelled&) {
        told = true;
        throw;
      }
    };
    ending seen = ending_of(s, [] {}, cleanup);
    CHECK(seen.thrown == "timed_out");
    CHECK(told);
    CHECK(now() - begin == 10s);
    seen = ending_of(s, [] { throw std::runtime_error("body"); }, cleanup, 2s);
    CHECK(seen.thrown == "body");
    CHECK(seen.others == std::vector<std::string>{"timed_out"});
    CHECK(now() - begin == 12s);
    seen = ending_of(s, [] { throw coir::cancelled(); }, cleanup, 2s);
    CHECK(seen.thrown == "timed_out");
    // What is ready at once is done without any time, and without a limit there is time enough.
    CHECK(ending_of(s, [] {}, [] {}, 0s).thrown.empty());
    CHECK(ending_of(s, [] {}, [s] { s.wait(coir::sleep_for(1s)); }, coir::duration::max()).thrown.empty());
    CHECK(ending_of(s, [] {}, [s] { s.wait(coir::sleep_for(1s)); }, 0s).thrown == "timed_out");
  });
}

TEST_CASE("a cleanup that ran out of time says where it stands") {
  jumping([] {
    try {
      coir::with_cleanup([] {}, [] { coir::await(coir::sleep_for(1h)); });
      FAIL("it was in time");
    } catch (const coir::timed_out& error) {
      CHECK(std::string(error.what()).find("cleanup_test.cpp:" + std::to_string(__LINE__ - 3)) != std::string::npos);
    }
  });
}

TEST_CASE("a cancellation of the cleanup's own comes last") {
  on_both([](auto s) {
    const auto cleanup = [] { throw coir::cancelled(); };
    CHECK(ending_of(s, [] {}, cleanup).thrown == "cancelled");
    const ending seen = ending_of(s, [] { throw std::runtime_error("body"); }, cleanup);
    CHECK(seen.thrown == "body");
    CHECK(seen.others.empty());
  });
}

TEST_CASE("what the body spawned has ended when the cleanup begins, and what the cleanup spawned ends with it") {
  on_both([](auto s) {
    std::vector<std::string> seen;
    const auto lingers = [&](const char* name) {
      return s.child([&seen, s, name] {
        try {
          s.wait(coir::sleep_for(1h));
        } catch (const coir::cancelled&) {
          seen.emplace_back(name);
          throw;
        }
      });
    };
    surfaces::get(s, [&] {
      return coir::with_cleanup(s.body([&] {
                                  coir::spawn(lingers("of the body"));
                                  s.wait(coir::yield());
                                }),
                                s.body([&] {
                                  seen.emplace_back("cleanup");
                                  coir::spawn(lingers("of the cleanup"));
                                  s.wait(coir::yield());
                                }));
    });
    seen.emplace_back("over");
    CHECK(seen == std::vector<std::string>{"of the body", "cleanup", "of the cleanup", "over"});
  });
}

TEST_CASE("a failing child of the body is a failure of the body") {
  on_both([](auto s) {
    bool cleaned = false;
    const ending seen = ending_of(
        s,
        [s] {
          coir::spawn(s.child([] { throw std::runtime_error("child"); }));
          s.wait(coir::sleep_for(1h));
        },
        [&] { cleaned = true; });
    CHECK(seen.thrown == "child");
    CHECK(cleaned);
  });
}

TEST_CASE("cleanups in cleanups, and in the order of their bodies") {
  on_both([](auto s) {
    std::vector<int> order;
    const auto note = [&](int number) {
      return s.body([&order, s, number] {
        s.wait(coir::sleep_for(1s));
        order.push_back(number);
      });
    };
    CHECK_FALSE(s.get(coir::move_on_after(1s, s.body([&] {
      surfaces::get(s, [&] {
        return coir::with_cleanup(s.body([&] {
                                    surfaces::get(s, [&] {
                                      return coir::with_cleanup(s.body([&] { s.wait(coir::sleep_for(1h)); }), note(1));
                                    });
                                  }),
                                  s.body([&] { surfaces::get(s, [&] { return coir::with_cleanup(note(2), note(3)); }); }));
      });
    }))));
    CHECK(order == std::vector{1, 2, 3});
  });
}

TEST_CASE("on a stack cleanups work in destructors that unwind") {
  jumping([] {
    bool cleaned = false;
    class at_exit {
     public:
      explicit at_exit(bool& cleaned) : cleaned_(cleaned) {}
      at_exit(const at_exit&) = delete;
      ~at_exit() {
        coir::with_cleanup([] {}, [&] {
          coir::await(coir::sleep_for(1s));
          cleaned_ = true;
        });
      }

     private:
      bool& cleaned_;
    };
    CHECK_FALSE(coir::move_on_after(1s, [&] {
      const at_exit guard(cleaned);
      coir::await(coir::sleep_for(1h));
    }));
    CHECK(cleaned);
  });
}

TEST_CASE("neither body nor cleanup runs of a task that nobody awaits, and both are destroyed") {
  jumping([] {
    bool ran = false;
    const auto sets = [](bool& what, counted) -> coir::task<> {
      what = true;
      co_return;
    };
    {
      auto never = coir::with_cleanup(sets(ran, counted()), sets(ran, counted()));
    }
    auto cancelled = coir::spawn(coir::with_cleanup(sets(ran, counted()), sets(ran, counted())));
    cancelled.cancel();
    coir::await(coir::end_op(cancelled));
    CHECK_FALSE(ran);
    CHECK(counted::alive == 0);
  });
}

TEST_CASE("plain functions in a fiber without a stack are misuse, and neither runs") {
  jumping([] {
    auto child = coir::spawn([]() -> coir::task<bool> {
      bool ran = false;
      bool refused = false;
      try {
        coir::with_cleanup([&] { ran = true; }, [&] { ran = true; });
      } catch (const std::logic_error&) {
        refused = true;
      }
      co_return refused && !ran;
    });
    CHECK(coir::await(child.take()));
  });
}
