// Scopes and stop tokens, in one thread and in several. Worth a run under the thread sanitizer.
#include "surfaces.hpp"

#include "support/catch.hpp"
#include "support/jumping.hpp"

#include <coir/coir.hpp>

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <stdexcept>
#include <stop_token>
#include <string>
#include <thread>
#include <vector>

using namespace std::chrono_literals;
using surfaces::on_both;

namespace {

// What a test that waits for another thread has: a real clock.
template <class Test>
void on_both_in_real_time(Test&& test) {
  coir::run([&] { test(surfaces::functions()); });
  coir::run([&] { test(surfaces::coroutines()); });
}

coir::sleep_op for_ever() { return coir::sleep_until(coir::never); }

}  // namespace

TEST_CASE("a scope and a stop token stop each other") {
  on_both_in_real_time([](auto s) {
    std::stop_source source;
    coir::cancel_scope scope;
    scope.link(source.get_token());
    std::stop_token mine = scope.stop_token();
    std::atomic<bool> waits = false;
    std::thread other([&] {
      while (!waits) std::this_thread::yield();
      source.request_stop();
    });
    CHECK_FALSE(s.get(scope.run(s.body([&] {
      waits = true;
      s.wait(for_ever());
    }))));
    CHECK(mine.stop_requested());
    other.join();
  });
}

TEST_CASE("a token that is stopped before the scope is entered cancels it") {
  on_both([](auto s) {
    std::stop_source source;
    source.request_stop();
    coir::cancel_scope early;
    early.link(source.get_token());
    CHECK_FALSE(s.get(early.run(s.body([&] { s.wait(for_ever()); }))));
    // Linked while the body runs.
    coir::cancel_scope late;
    CHECK_FALSE(s.get(late.run(s.body([&] {
      late.link(source.get_token());
      CHECK(late.cancelled());
      s.wait(for_ever());
    }))));
    // Between the two.
    std::stop_source other;
    coir::cancel_scope between;
    between.link(other.get_token());
    other.request_stop();
    CHECK_FALSE(s.get(between.run(s.body([&] { s.wait(for_ever()); }))));
  });
}

TEST_CASE("a token that is stopped by a fiber of the same loop cancels") {
  on_both([](auto s) {
    std::stop_source source;
    coir::cancel_scope scope;
    scope.link(source.get_token());
    coir::spawn([&] { source.request_stop(); });
    CHECK_FALSE(s.get(scope.run(s.body([&] { s.wait(for_ever()); }))));
    CHECK(scope.caught());
  });
}

TEST_CASE("a token that nobody can stop, and one that is stopped too late, do nothing") {
  on_both([](auto s) {
    std::stop_source source;
    {
      coir::cancel_scope scope;
      scope.link(std::stop_token());
      scope.link(source.get_token());
      // Time stands still on a clock that jumps: another thread might do something.
      CHECK(s.get(scope.run(s.body([&] { s.wait(coir::yield()); }))));
      source.request_stop();
      s.wait(coir::yield());
      CHECK_FALSE(scope.cancelled());
    }
    s.wait(coir::sleep_for(1s));
    coir::cancel_scope never_run;
    never_run.link(source.get_token());
  });
}

TEST_CASE("a stop that was posted finds no scope any more") {
  on_both([](auto s) {
    std::stop_source source;
    {
      coir::cancel_scope scope;
      scope.link(source.get_token());
      CHECK(s.get(scope.run(s.body([&] {
        s.wait(coir::yield());
        source.request_stop();
      }))));
      CHECK_FALSE(scope.cancelled());
    }
    s.wait(coir::sleep_for(1s));
  });
}

TEST_CASE("any of several tokens stops a scope, and one token several scopes") {
  on_both([](auto s) {
    for (int which = 0; which < 3; ++which) {
      std::stop_source sources[3];
      coir::cancel_scope outer;
      coir::cancel_scope inner;
      for (const auto& each : sources) inner.link(each.get_token());
      outer.link(sources[0].get_token());
      coir::spawn([&] { sources[which].request_stop(); });
      bool after_inner = false;
      const bool whole = s.get(outer.run(s.body([&] {
        s.get(inner.run(s.body([&] { s.wait(for_ever()); })));
        after_inner = true;
      })));
      // The posts come one by one, in one turn: then it is the outer one's.
      CHECK(whole == (which != 0));
      CHECK(after_inner == (which != 0));
    }
  });
}

TEST_CASE("a scope's token is stopped by whatever cancels it, once") {
  on_both([](auto s) {
    const auto stopped_by = [&](auto prepare, auto during) {
      coir::cancel_scope outer;
      coir::cancel_scope scope;
      int calls = 0;
      std::optional<std::stop_callback<std::function<void()>>> callback;
      prepare(scope);
      coir::spawn([&] { during(scope, outer); });
      s.get(outer.run(s.body([&] {
        s.get(scope.run(s.body([&] {
          callback.emplace(scope.stop_token(), [&] {
            ++calls;
            CHECK(scope.cancelled());
          });
          s.wait(coir::sleep_for(1h));
        })));
      })));
      CHECK(calls <= 1);
      return calls == 1;
    };
    const auto nothing = [](auto&...) {};
    CHECK(stopped_by(nothing, [](auto& scope, auto&) { scope.cancel(), scope.cancel(); }));
    CHECK(stopped_by(nothing, [](auto&, auto& outer) { outer.cancel(); }));
    CHECK(stopped_by([](auto& scope) { scope.limit(1s); }, nothing));
    CHECK(stopped_by([](auto& scope) { scope.cancel(); }, nothing));
    CHECK(stopped_by(nothing, [](auto& scope, auto&) { scope.cancel(1s); }));
    CHECK_FALSE(stopped_by(nothing, nothing));
  });
}

TEST_CASE("a failure inside stops the token, and an end with something left behind does not") {
  on_both([](auto s) {
    coir::cancel_scope fails;
    const std::stop_token of_failed = fails.stop_token();
    CHECK_THROWS(s.get(fails.run(s.body([&] {
      coir::spawn(s.child([] { throw std::runtime_error("child"); }));
      s.wait(for_ever());
    }))));
    CHECK(of_failed.stop_requested());
    coir::cancel_scope ends;
    const std::stop_token of_ended = ends.stop_token();
    CHECK(s.get(ends.run(s.body([&] {
      coir::spawn(s.child([&] { s.wait(for_ever()); }));
      s.wait(coir::yield());
    }))));
    CHECK_FALSE(of_ended.stop_requested());
  });
}

TEST_CASE("when a callback of the token runs, everybody inside has been told") {
  on_both([](auto s) {
    coir::cancel_scope outer;
    coir::cancel_scope inner;
    coir::fiber<void> children[2];
    int told = 0;
    std::stop_callback callback(outer.stop_token(), [&] {
      for (const auto& each : children) told += each.control().cancelled() ? 1 : 0;
    });
    coir::spawn([&] {
      coir::await(coir::sleep_for(1s));
      outer.cancel();
    });
    CHECK_FALSE(s.get(outer.run(s.body([&] {
      children[0] = coir::spawn(s.child([&] { s.wait(for_ever()); }));
      s.get(inner.run(s.body([&] {
        children[1] = coir::spawn(s.child([&] { s.wait(for_ever()); }));
        s.wait(for_ever());
      })));
    }))));
    CHECK(told == 2);
  });
}

TEST_CASE("a callback of the token may cancel another scope") {
  on_both([](auto s) {
    coir::cancel_scope one;
    coir::cancel_scope two;
    std::stop_callback callback(one.stop_token(), [&] { two.cancel(); });
    coir::spawn([&] { one.cancel(); });
    auto other = coir::spawn([&] { return s.get(two.run(s.body([&] { s.wait(for_ever()); }))); });
    CHECK_FALSE(s.get(one.run(s.body([&] { s.wait(for_ever()); }))));
    CHECK_FALSE(s.wait(other.take()));
  });
}

TEST_CASE("a jthread that works for a scope stops with it") {
  on_both_in_real_time([](auto s) {
    std::atomic<bool> stopped = false;
    coir::cancel_scope scope;
    std::jthread worker(
        [&](std::stop_token, std::stop_token of_scope) {
          while (!of_scope.stop_requested()) std::this_thread::yield();
          stopped = true;
        },
        scope.stop_token());
    coir::spawn([&] { scope.cancel(); });
    CHECK_FALSE(s.get(scope.run(s.body([&] { s.wait(for_ever()); }))));
    worker.join();
    CHECK(stopped);
  });
}

TEST_CASE("a token is stopped by another thread before, while and after the scope runs, and when it is destroyed") {
  on_both_in_real_time([](auto s) {
    int cut_short = 0;
    for (int round = 0; round < 400; ++round) {
      std::stop_source source;
      std::atomic<bool> go = false;
      std::thread other([&, round] {
        while (!go) {
        }
        // A little later each time.
        for (int i = 0; i < round; ++i) static_cast<void>(go.load());
        source.request_stop();
      });
      {
        coir::cancel_scope scope;
        scope.link(source.get_token());
        std::stop_token mine = scope.stop_token();
        go = true;
        const bool whole = s.get(scope.run(s.body([&] {
          for (int i = 0; i < 20; ++i) s.wait(coir::yield());
        })));
        CHECK(whole != scope.caught());
        CHECK(scope.cancelled() == mine.stop_requested());
        cut_short += whole ? 0 : 1;
      }
      other.join();
      s.wait(coir::yield());
    }
    CHECK(cut_short <= 400);
  });
}

TEST_CASE("many threads stop many tokens of one scope at once") {
  on_both_in_real_time([](auto s) {
    for (int round = 0; round < 50; ++round) {
      std::stop_source sources[4];
      std::atomic<bool> go = false;
      std::vector<std::thread> others;
      for (auto& each : sources) {
        others.emplace_back([&] {
          while (!go) std::this_thread::yield();
          each.request_stop();
        });
      }
      coir::cancel_scope scope;
      for (const auto& each : sources) scope.link(each.get_token());
      CHECK_FALSE(s.get(scope.run(s.body([&] {
        go = true;
        s.wait(for_ever());
      }))));
      for (auto& each : others) each.join();
    }
  });
}

TEST_CASE("who waits for a linked token is no deadlock, and who waits after that is") {
  CHECK_THROWS_AS(coir::run([] {
                    std::stop_source source;
                    coir::cancel_scope scope;
                    scope.link(source.get_token());
                    scope.run([] { coir::await(coir::sleep_for(1us)); });
                    coir::await(for_ever());
                  }),
                  coir::deadlock);
}

TEST_CASE("who waits for a token that was stopped already, or that nobody can stop any more, is a deadlock") {
  for (const bool stopped : {true, false}) {
    for (const bool jumps : {true, false}) {
      INFO("stopped: " << stopped << ", on a clock that jumps: " << jumps);
      coir::testing::mock_clock clock;
      const auto wait_in_vain = [&] {
        auto nobody = coir::spawn([] { coir::await(for_ever()); });
        auto source = std::make_unique<std::stop_source>();
        coir::cancel_scope scope;
        scope.link(source->get_token());
        scope.run([&] {
          if (stopped) source->request_stop();
          source.reset();
          coir::cancel_scope undisturbed;
          undisturbed.shield();
          undisturbed.run([&] {
            // As long as the token may bring something, time stands still.
            coir::await(coir::sleep_for(1ms));
            coir::await(coir::end_op(nobody));
          });
        });
      };
      CHECK_THROWS_AS(coir::run(wait_in_vain, jumps ? support::on(clock) : coir::run_options()), coir::deadlock);
    }
  }
}

TEST_CASE("the last source goes in another thread, and a token that was never stopped holds nobody any more") {
  on_both_in_real_time([](auto s) {
    auto source = std::make_unique<std::stop_source>();
    coir::cancel_scope scope;
    scope.link(source->get_token());
    CHECK(s.get(scope.run(s.body([&] {
      CHECK(support::loop_here().census().holds == 1);
      CHECK(support::loop_here().can_wake());
      std::thread([&] { source.reset(); }).join();
      CHECK(support::loop_here().census().holds == 0);
    }))));
  });
}

TEST_CASE("what is due is done although a token may be stopped, and time stands still for it") {
  on_both([](auto s) {
    std::stop_source source;
    coir::cancel_scope scope;
    scope.link(source.get_token());
    const coir::instant before = support::now();
    CHECK(s.get(scope.run(s.body([&] {
      CHECK_FALSE(s.wait(coir::move_on_after(0s, for_ever())));
      coir::throttler limit(1s);
      s.wait(limit.wait());
    }))));
    CHECK(support::now() == before);
  });
}

TEST_CASE("a callback on a stop token cannot wait, by whomever it is called") {
  coir::run([] {
    for (const bool from_inside : {false, true}) {
      auto outer = std::make_unique<coir::cancel_scope>();
      std::string refusal;
      unsigned told = 0;
      auto child = coir::spawn([&] {
        // Gone as soon as the child goes on.
        auto middle = std::make_unique<coir::cancel_scope>();
        auto inner = std::make_unique<coir::cancel_scope>();
        const std::stop_callback last(middle->stop_token(), [&] { ++told; });
        const std::stop_callback first(inner->stop_token(), [&] {
          ++told;
          try {
            coir::await(coir::sleep_for(1ms));
          } catch (const std::logic_error& error) {
            refusal = error.what();
          }
        });
        outer->run([&] {
          middle->run([&] {
            inner->run([&] {
              if (from_inside) outer->cancel();
              coir::await(for_ever());
            });
          });
        });
      });
      coir::await(coir::yield());
      if (!from_inside) outer->cancel();
      CHECK(told == 2);
      CHECK(refusal.find("callback on a stop token") != std::string::npos);
      // It has its stack again.
      coir::await(child.join());
    }
  });
}

TEST_CASE("a callback on a stop token cannot wait before its scope is entered, or while it is") {
  coir::run([] {
    const auto refused = [](auto&& cancel) {
      coir::cancel_scope scope;
      std::string refusal;
      const std::stop_callback told(scope.stop_token(), [&] {
        try {
          coir::cancel_scope shield;
          shield.shield();
          shield.run([] { coir::await(coir::sleep_for(1ms)); });
        } catch (const std::logic_error& error) {
          refusal = error.what();
        }
      });
      cancel(scope);
      return refusal.find("callback on a stop token") != std::string::npos;
    };
    CHECK(refused([](coir::cancel_scope& scope) { scope.cancel(); }));
    CHECK(refused([](coir::cancel_scope& scope) {
      coir::cancel_scope around;
      around.run([&] {
        around.cancel();
        scope.run([] {});
      });
    }));
    coir::await(coir::sleep_for(1ms));
  });
}
