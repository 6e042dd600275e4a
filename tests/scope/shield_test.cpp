#include "fiber/hand_op.hpp"
#include "surfaces.hpp"

#include "support/catch.hpp"
#include "support/jumping.hpp"

#include <coir/coir.hpp>

#include <chrono>
#include <stdexcept>
#include <string>
#include <vector>

using namespace std::chrono_literals;
using support::hand;
using support::hand_op;
using support::now;
using surfaces::on_both;

TEST_CASE("a shield keeps a cancellation out, until its own deadline") {
  on_both([](auto s) {
    coir::cancel_scope outer;
    coir::cancel_scope guard;
    guard.shield();
    guard.limit(3s);
    CHECK(guard.shielded());
    bool shielded_done = false;
    bool after_shield = false;
    const coir::instant begin = now();
    CHECK_FALSE(s.get(outer.run(s.body([&] {
      coir::spawn([&] { outer.cancel(); });
      CHECK_FALSE(s.get(guard.run(s.body([&] {
        s.wait(coir::sleep_for(1s));
        shielded_done = true;
        s.wait(coir::sleep_for(1h));
      }))));
      CHECK(guard.expired());
      CHECK(guard.caught());
      s.wait(coir::yield());
      after_shield = true;
    }))));
    CHECK(shielded_done);
    CHECK_FALSE(after_shield);
    CHECK(now() - begin == 3s);
  });
}

TEST_CASE("a shielded scope that is entered when all is cancelled already works") {
  on_both([](auto s) {
    coir::cancel_scope outer;
    outer.cancel();
    bool done = false;
    CHECK_FALSE(s.get(outer.run(s.body([&] {
      coir::cancel_scope guard;
      guard.shield();
      CHECK(s.get(guard.run(s.body([&] {
        coir::spawn(s.child([&] {
          s.wait(coir::yield());
          done = true;
        }));
        s.wait(coir::sleep_for(1s));
      }))));
      CHECK_FALSE(guard.cancelled());
    }))) == false);
    CHECK(done);
    CHECK_FALSE(outer.caught());
  });
}

TEST_CASE("of nested scopes each is reached as far as the shields between let it") {
  on_both([](auto s) {
    // Which of three nested scopes is shielded, and which is cancelled: the body stops, or not, and who caught it.
    struct expectation {
      int shield;
      int cancel;
      int catches;  // -1: nobody
    };
    for (const expectation each : {expectation{0, 0, 0}, {0, 1, 1}, {0, 2, 2}, {1, 0, -1}, {1, 1, 1}, {1, 2, 2},
                                   {2, 0, -1}, {2, 1, -1}, {2, 2, 2}}) {
      INFO("shield " << each.shield << ", cancelled " << each.cancel);
      coir::cancel_scope scopes[3];
      scopes[each.shield].shield();
      bool to_the_end = false;
      s.get(scopes[0].run(s.body([&] {
        s.get(scopes[1].run(s.body([&] {
          s.get(scopes[2].run(s.body([&] {
            coir::spawn([&] { scopes[each.cancel].cancel(); });
            s.wait(coir::sleep_for(1s));
            to_the_end = true;
          })));
        })));
      })));
      CHECK(to_the_end == (each.catches < 0));
      for (int i = 0; i < 3; ++i) CHECK(scopes[i].caught() == (i == each.catches));
    }
  });
}

TEST_CASE("a shield that is lifted lets the cancellation in at once") {
  on_both([](auto s) {
    coir::cancel_scope outer;
    coir::cancel_scope guard;
    guard.shield();
    bool child_ended = false;
    coir::spawn([&] {
      outer.cancel();
      coir::await(coir::sleep_for(1s));
      guard.shield(false);
    });
    const coir::instant begin = now();
    CHECK_FALSE(s.get(outer.run(s.body([&] {
      s.get(guard.run(s.body([&] {
        coir::spawn(s.child([&] {
          try {
            s.wait(coir::sleep_for(1h));
          } catch (const coir::cancelled&) {
            child_ended = true;
            throw;
          }
        }));
        s.wait(coir::sleep_for(1h));
      })));
    }))));
    CHECK(now() - begin == 1s);
    CHECK(child_ended);
    CHECK_FALSE(guard.caught());
    CHECK(outer.caught());
  });
}

TEST_CASE("shields are lifted in any order: the cancellation comes through with the last one") {
  on_both([](auto s) {
    for (const bool inner_first : {true, false}) {
      coir::cancel_scope outer;
      coir::cancel_scope one;
      coir::cancel_scope two;
      one.shield();
      two.shield();
      coir::spawn([&] {
        outer.cancel();
        coir::await(coir::sleep_for(1s));
        (inner_first ? two : one).shield(false);
        coir::await(coir::sleep_for(1s));
        (inner_first ? one : two).shield(false);
      });
      const coir::instant begin = now();
      CHECK_FALSE(s.get(outer.run(s.body([&] {
        s.get(one.run(s.body([&] { s.get(two.run(s.body([&] { s.wait(coir::sleep_for(1h)); }))); })));
      }))));
      CHECK(now() - begin == 2s);
      CHECK(outer.caught());
      CHECK_FALSE(one.caught());
      CHECK_FALSE(two.caught());
    }
  });
}

TEST_CASE("a shield that goes up before the fiber has seen its cancellation keeps it out from the next op on") {
  on_both([](auto s) {
    coir::cancel_scope outer;
    coir::cancel_scope guard;
    coir::spawn([&] {
      outer.cancel();
      guard.shield();
    });
    // The op was stopped, which is for the outer scope to account for.
    bool went_on = false;
    CHECK_FALSE(s.get(outer.run(s.body([&] {
      s.get(guard.run(s.body([&] {
        try {
          s.wait(coir::sleep_for(1h));
        } catch (const coir::cancelled&) {
          s.wait(coir::sleep_for(1s));
          went_on = true;
          throw;
        }
      })));
    }))));
    CHECK(went_on);
    CHECK(outer.caught());
    CHECK_FALSE(guard.caught());
    CHECK_FALSE(guard.cancelled());
  });
}

TEST_CASE("a shield that goes up over an op that stops later belongs to the same story") {
  on_both([](auto s) {
    for (const bool completes : {true, false}) {
      hand slow(coir::abort_answer::later);
      coir::cancel_scope outer;
      coir::cancel_scope guard;
      coir::spawn([&] {
        outer.cancel();
        guard.shield();
        completes ? slow.complete(7) : slow.give_up();
      });
      const auto got = s.get(outer.run(s.body([&] {
        const auto inner = s.get(guard.run(s.body([&] {
          const int result = s.wait(hand_op(slow));
          s.wait(coir::yield());
          return result;
        })));
        return inner.value_or(0);
      })));
      CHECK(got.has_value() == completes);
      if (completes) CHECK(got == 7);
      CHECK(outer.caught() == !completes);
    }
  });
}

TEST_CASE("a shield goes up and down while its fiber waits") {
  on_both([](auto s) {
    coir::cancel_scope outer;
    coir::cancel_scope guard;
    coir::spawn([&] {
      for (int i = 0; i < 10; ++i) {
        guard.shield();
        guard.shield();
        guard.shield(false);
      }
      guard.shield();
      outer.cancel();
      guard.shield();
    });
    bool whole = false;
    CHECK(s.get(outer.run(s.body([&] {
      whole = s.get(guard.run(s.body([&] { s.wait(coir::sleep_for(1s)); })));
    }))));
    CHECK(whole);
  });
}

TEST_CASE("a shielded scope cancels itself, and what it lets in later does not count as its own") {
  on_both([](auto s) {
    coir::cancel_scope outer;
    coir::cancel_scope guard;
    guard.shield();
    coir::spawn([&] {
      outer.cancel();
      guard.cancel();
    });
    bool after = false;
    CHECK_FALSE(s.get(outer.run(s.body([&] {
      CHECK_FALSE(s.get(guard.run(s.body([&] { s.wait(coir::sleep_for(1h)); }))));
      after = true;
      s.wait(coir::yield());
      after = false;
    }))));
    CHECK(guard.caught());
    CHECK(after);
    CHECK(outer.caught());
  });
}

TEST_CASE("cancelling a fiber does not reach what it has shielded, and reaches its children outside of it") {
  on_both([](auto s) {
    std::vector<std::string> seen;
    auto child = coir::spawn([&] {
      coir::spawn(s.child([&] {
        try {
          s.wait(coir::sleep_for(1h));
        } catch (const coir::cancelled&) {
          seen.emplace_back("outside stopped");
          throw;
        }
      }));
      coir::cancel_scope guard;
      guard.shield();
      s.get(guard.run(s.body([&] {
        coir::spawn(s.child([&] {
          s.wait(coir::sleep_for(1s));
          seen.emplace_back("inside done");
        }));
        s.wait(coir::sleep_for(2s));
      })));
      seen.emplace_back("guard left");
      s.wait(coir::yield());
      seen.emplace_back("never");
    });
    s.wait(coir::sleep_for(1ms));
    child.cancel();
    s.wait(coir::end_op(child));
    CHECK(seen == std::vector<std::string>{"outside stopped", "inside done", "guard left"});
  });
}

// --- destructors ---

namespace {

// Waits in its destructor, as a connection that says goodbye might.
template <class Wait>
class farewell {
 public:
  explicit farewell(Wait wait) : wait_(wait) {}
  farewell(const farewell&) = delete;
  ~farewell() { wait_(); }

 private:
  Wait wait_;
};

}  // namespace

TEST_CASE("a cancelled fiber that waits in a destructor while its stack unwinds gets a clear error") {
  support::jumping([] {
    coir::cancel_scope scope;
    std::string text;
    coir::spawn([&] { scope.cancel(); });
    CHECK_FALSE(scope.run([&] {
      const farewell guard([&] {
        try {
          coir::await(coir::sleep_for(1s));
        } catch (const std::logic_error& error) {
          text = error.what();
        }
      });
      coir::await(coir::sleep_for(1h));
    }));
    CHECK(text.find("waits in a destructor") != std::string::npos);
    CHECK(text.find("with_cleanup") != std::string::npos);
    CHECK(text.find("shielded") != std::string::npos);
  });
}

TEST_CASE("so does one that is cancelled while it waits there, because of another exception") {
  for (const auto answer : {coir::abort_answer::now, coir::abort_answer::later}) {
    support::jumping([&] {
      hand hold(answer);
      coir::cancel_scope scope;
      coir::spawn([&] {
        coir::await(coir::sleep_for(1s));
        scope.cancel();
        hold.give_up();
      });
      std::string text;
      CHECK_THROWS_WITH(scope.run([&] {
                          const farewell guard([&] {
                            try {
                              coir::await(hand_op(hold));
                            } catch (const std::logic_error& error) {
                              text = error.what();
                            }
                          });
                          throw std::runtime_error("unwinding");
                        }),
                        "unwinding");
      CHECK(text.find("waits in a destructor") != std::string::npos);
    });
  }
}

TEST_CASE("in a shielded scope a destructor waits while its stack unwinds, and the scope's own limit ends that") {
  support::jumping([] {
    coir::cancel_scope scope;
    coir::spawn([&] { scope.cancel(); });
    const coir::instant begin = now();
    bool slept = false;
    bool went_on = false;
    CHECK_FALSE(scope.run([&] {
      const farewell guard([&] {
        coir::cancel_scope goodbye;
        goodbye.shield();
        goodbye.limit(3s);
        CHECK_FALSE(goodbye.run([&] {
          coir::await(coir::sleep_for(1s));
          slept = true;
          coir::await(coir::sleep_for(1h));
          went_on = true;
        }));
        CHECK(goodbye.expired());
      });
      coir::await(coir::sleep_for(1h));
    }));
    CHECK(slept);
    CHECK_FALSE(went_on);
    CHECK(now() - begin == 3s);
  });
}

TEST_CASE("destructors inside a destructor's shielded scope are no safer than others") {
  support::jumping([] {
    coir::cancel_scope scope;
    scope.cancel();
    std::string text;
    CHECK_FALSE(scope.run([&] {
      const farewell outer([&] {
        coir::cancel_scope goodbye;
        goodbye.shield();
        goodbye.limit(1s);
        CHECK_FALSE(goodbye.run([&] {
          const farewell inner([&] {
            try {
              coir::await(coir::sleep_for(1s));
            } catch (const std::logic_error& error) {
              text = error.what();
            }
          });
          coir::await(coir::sleep_for(1h));
        }));
      });
      coir::await(coir::yield());
    }));
    CHECK(text.find("waits in a destructor") != std::string::npos);
  });
}

TEST_CASE("a destructor that nothing cancels may wait while its stack unwinds") {
  support::jumping([] {
    bool slept = false;
    CHECK_THROWS_WITH(
        [&] {
          const farewell guard([&] {
            coir::await(coir::sleep_for(1s));
            slept = true;
          });
          throw std::runtime_error("unwinding");
        }(),
        "unwinding");
    CHECK(slept);
  });
}
