#include "structured_program.hpp"

#include "support/catch.hpp"
#include "support/jumping.hpp"

#include <coir/coir.hpp>
#include <coir/testing/seeds.hpp>
#include <coir/testing/simulator.hpp>

#include <cstdint>
#include <cstdlib>
#include <functional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

using structured::how;
using structured::kind;
using structured::node;
using structured::outcome;

namespace {

struct failed {
  int id;
};

// A program as coir runs it, and what became of it.
class execution {
 public:
  explicit execution(const node& program) : program_(program) {}

  void run(const coir::run_options& options) {
    begin_ = {};
    outcome end;
    try {
      if (program_.on_stack) {
        coir::run([this] { begin_here(); exec_here(program_); }, options);
      } else {
        auto main = [this]() -> coir::task<> {
          begin_here();
          co_await exec(program_);
        };
        coir::run(main, options);
      }
    } catch (const failed& why) {
      end = {how::failed, why.id};
    }
    for (const auto& [id, child] : fibers_) {
      outcome of_child;
      if (child.outcome() == coir::fiber_outcome::cancelled) of_child.what = how::cancelled;
      if (child.outcome() == coir::fiber_outcome::failed) of_child.what = how::failed;
      seen_[-id] = {0, 0, of_child};
    }
    root_ = end;
  }

  const structured::record& seen() const { return seen_; }
  const outcome& root() const { return root_; }
  // In the order in which it happened.
  const std::vector<std::pair<int, structured::nanoseconds>>& events() const { return events_; }
  int alive() const { return alive_; }
  // What coir takes for a mistake, of which these programs have none: they catch failures only.
  std::uint64_t swallowed() const { return swallowed_; }

 private:
  void begin_here() { begin_ = support::now(); }
  structured::nanoseconds now() const { return (support::now() - begin_).count(); }

  // Notes when a node begins and how it ends.
  class watch {
   public:
    watch(execution& of, const node& what) : of_(of), id_(what.id) {
      ++of_.alive_;
      of_.seen_[id_].begin = of_.now();
      of_.events_.emplace_back(id_, of_.now());
    }
    watch(const watch&) = delete;
    ~watch() {
      --of_.alive_;
      of_.swallowed_ = coir::running_fiber().home().stats().swallowed;
    }
    void end(outcome result) {
      of_.seen_[id_].end = of_.now();
      of_.seen_[id_].result = result;
      of_.events_.emplace_back(-id_, of_.now());
    }

   private:
    execution& of_;
    int id_;
  };

  coir::task<> exec(const node& what) {
    watch noted(*this, what);
    try {
      co_await exec_unwatched(what);
      noted.end({});
    } catch (const coir::cancelled&) {
      noted.end({how::cancelled, 0});
      throw;
    } catch (const failed& why) {
      noted.end({how::failed, why.id});
      throw;
    }
  }
  void exec_here(const node& what) {
    watch noted(*this, what);
    try {
      exec_here_unwatched(what);
      noted.end({});
    } catch (const coir::cancelled&) {
      noted.end({how::cancelled, 0});
      throw;
    } catch (const failed& why) {
      noted.end({how::failed, why.id});
      throw;
    }
  }

  template <class Spawn>
  void spawn_child(const node& what, Spawn&& spawn) {
    if (what.on_stack) {
      fibers_[what.id] = spawn([this, &what] { exec_here(what); });
    } else {
      fibers_[what.id] = spawn(exec(what));
    }
  }

  void set_up(coir::cancel_scope& scope, const node& what) {
    if (what.shield) scope.shield();
    if (what.time != 0) scope.limit(std::chrono::nanoseconds(what.time));
    cancel_[what.id] = [&scope] { scope.cancel(); };
  }

  // The sender is in a coroutine when the receiver is on a stack, and the other way round.
  static coir::task<> send(coir::channel<int>& to, const node& what) {
    if (what.through == structured::wait::receive) co_await coir::sleep_for(std::chrono::nanoseconds(what.time));
    co_await to.send(what.id);
  }
  static void send_here(coir::channel<int>& to, const node& what) {
    if (what.through == structured::wait::receive) coir::await(coir::sleep_for(std::chrono::nanoseconds(what.time)));
    coir::await(to.send(what.id));
  }
  coir::task<> receive(const node& what) {
    coir::channel<int> values;
    const auto body = [&values, &what](coir::nursery& n) -> coir::task<> {
      n.spawn([&] { send_here(values, what); });
      if (what.through == structured::wait::late_receive) co_await coir::sleep_for(std::chrono::nanoseconds(what.time));
      const auto got = co_await values.receive();
      if (got != what.id) throw std::logic_error("another value came");
    };
    co_await coir::with_nursery(body);
  }
  void receive_here(const node& what) {
    coir::channel<int> values;
    coir::with_nursery([&](coir::nursery& n) {
      n.spawn(send(values, what));
      if (what.through == structured::wait::late_receive) coir::await(coir::sleep_for(std::chrono::nanoseconds(what.time)));
      const auto got = coir::await(values.receive());
      if (got != what.id) throw std::logic_error("another value came");
    });
  }

  coir::task<> exec_unwatched(const node& what) {
    switch (what.what) {
      case kind::sleep:
        if (what.through != structured::wait::timer) {
          co_await receive(what);
        } else if (what.limit == 0) {
          co_await coir::sleep_for(std::chrono::nanoseconds(what.time));
        } else {
          co_await coir::move_on_after(std::chrono::nanoseconds(what.limit),
                                       coir::sleep_for(std::chrono::nanoseconds(what.time)));
        }
        break;
      case kind::fail: throw failed{what.id};
      case kind::cancel: cancel_[what.target](); break;
      case kind::spawn:
        spawn_child(*what.inner[0], [](auto&& body) { return coir::spawn(std::forward<decltype(body)>(body)); });
        break;
      case kind::sequence:
        for (const auto& each : what.inner) co_await exec(*each);
        break;
      case kind::attempt:
        try {
          co_await exec(*what.inner[0]);
        } catch (const failed&) {
        }
        break;
      case kind::scope: {
        coir::cancel_scope scope;
        set_up(scope, what);
        co_await scope.run(exec(*what.inner[0]));
        break;
      }
      case kind::strict:
        co_await coir::fail_after(std::chrono::nanoseconds(what.time), exec(*what.inner[0]), failed{what.id});
        break;
      case kind::move: move(what); break;
      case kind::cleanup:
        try {
          co_await coir::with_cleanup(exec(*what.inner[0]), exec(*what.inner[1]), std::chrono::nanoseconds(what.time));
        } catch (const coir::timed_out&) {
          throw failed{what.id};
        }
        break;
      case kind::nursery: {
        auto body = [this, &what](coir::nursery& n) -> coir::task<> { return in_nursery(what, n); };
        co_await coir::with_nursery(body);
        break;
      }
    }
  }
  coir::task<> in_nursery(const node& what, coir::nursery& n) {
    set_up_nursery(what, n);
    co_await exec(*what.inner.back());
  }
  void move(const node& what) { adopt_[what.target](fibers_[what.source]); }
  void set_up_nursery(const node& what, coir::nursery& n) {
    cancel_[what.id] = [&n] { n.cancel(); };
    adopt_[what.id] = [&n](const coir::fiber<void>& child) { n.adopt(child); };
    for (std::size_t i = 0; i + 1 < what.inner.size(); ++i) {
      spawn_child(*what.inner[i], [&](auto&& body) { return n.spawn(std::forward<decltype(body)>(body)); });
    }
  }

  void exec_here_unwatched(const node& what) {
    switch (what.what) {
      case kind::sleep:
        if (what.through != structured::wait::timer) {
          receive_here(what);
        } else if (what.limit == 0) {
          coir::await(coir::sleep_for(std::chrono::nanoseconds(what.time)));
        } else {
          coir::await(coir::move_on_after(std::chrono::nanoseconds(what.limit),
                                          coir::sleep_for(std::chrono::nanoseconds(what.time))));
        }
        break;
      case kind::fail: throw failed{what.id};
      case kind::cancel: cancel_[what.target](); break;
      case kind::spawn:
        spawn_child(*what.inner[0], [](auto&& body) { return coir::spawn(std::forward<decltype(body)>(body)); });
        break;
      case kind::sequence:
        for (const auto& each : what.inner) {
          if (each->on_stack) {
            exec_here(*each);
          } else {
            coir::await(exec(*each));
          }
        }
        break;
      case kind::attempt:
        try {
          exec_here(*what.inner[0]);
        } catch (const failed&) {
        }
        break;
      case kind::scope: {
        coir::cancel_scope scope;
        set_up(scope, what);
        scope.run([&] { exec_here(*what.inner[0]); });
        break;
      }
      case kind::strict:
        coir::fail_after(std::chrono::nanoseconds(what.time), [&] { exec_here(*what.inner[0]); }, failed{what.id});
        break;
      case kind::move: move(what); break;
      case kind::cleanup:
        try {
          coir::with_cleanup([&] { exec_here(*what.inner[0]); }, [&] { exec_here(*what.inner[1]); },
                             std::chrono::nanoseconds(what.time));
        } catch (const coir::timed_out&) {
          throw failed{what.id};
        }
        break;
      case kind::nursery:
        coir::with_nursery([&](coir::nursery& n) {
          set_up_nursery(what, n);
          exec_here(*what.inner.back());
        });
        break;
    }
  }

  const node& program_;
  coir::instant begin_;
  structured::record seen_;
  std::vector<std::pair<int, structured::nanoseconds>> events_;
  std::map<int, coir::fiber<void>> fibers_;
  std::map<int, std::function<void()>> cancel_;
  std::map<int, std::function<void(const coir::fiber<void>&)>> adopt_;
  outcome root_;
  int alive_ = 0;
  std::uint64_t swallowed_ = 0;
};

std::string difference(const structured::record& expected, const structured::record& seen) {
  std::string text;
  const auto line = [](const structured::record& in, int id) {
    const auto found = in.find(id);
    if (found == in.end()) return std::string("not reached");
    return std::to_string(found->second.begin) + " to " + std::to_string(found->second.end) + ", " +
           structured::text(found->second.result);
  };
  std::set<int> ids;
  for (const auto& each : expected) ids.insert(each.first);
  for (const auto& each : seen) ids.insert(each.first);
  for (const int id : ids) {
    const std::string wanted = line(expected, id);
    const std::string got = line(seen, id);
    if (wanted != got) text += "\n  " + std::to_string(id) + ": expected " + wanted + "; got " + got;
  }
  return text;
}

std::string text_of(const node& what, std::string indent = "\n  ") {
  static const char* const names[] = {"sleep", "fail", "sequence", "attempt", "scope", "strict", "nursery", "spawn", "cancel", "cleanup", "move"};
  std::string text = indent + std::to_string(what.id) + " " + names[static_cast<int>(what.what)];
  if (what.time != 0) text += " " + std::to_string(what.time);
  if (what.limit != 0) text += " within " + std::to_string(what.limit);
  if (what.shield) text += " shielded";
  if (what.source != 0) text += " of " + std::to_string(what.source);
  if (what.target != 0) text += (what.what == kind::cancel ? " of " : " to ") + std::to_string(what.target);
  for (const auto& each : what.inner) text += text_of(*each, indent + "  ");
  return text;
}

std::uint64_t count() { return std::getenv("COIR_TEST_LONG") != nullptr ? 100'000 : 2'000; }

}  // namespace

TEST_CASE("random trees of regions, cleanups, failures and moves end as the rules say, in any order of ready fibers") {
  coir::testing::for_each_seed(count(), [](std::uint64_t seed) {
    const auto program = structured::drawing(seed).program();
    structured::record expected = structured::model::of(*program);
    const outcome root = expected[0].result;
    expected.erase(0);
    coir::testing::simulator sim(coir::testing::simulator_options().seed(seed));
    execution run(*program);
    run.run(sim.for_run());
    const std::string wrong = difference(expected, run.seen());
    if (!wrong.empty()) throw std::runtime_error(wrong + text_of(*program));
    if (run.root() != root) {
      throw std::runtime_error("ended as " + structured::text(run.root()) + ", expected " + structured::text(root));
    }
    if (run.alive() != 0) throw std::runtime_error("something outlived the run");
    if (run.swallowed() != 0) throw std::runtime_error("a cancellation counts as swallowed" + text_of(*program));
  });
}

TEST_CASE("the same seed gives the same run") {
  coir::testing::for_each_seed(100, [](std::uint64_t seed) {
    const auto program = structured::drawing(seed).program();
    std::vector<std::pair<int, structured::nanoseconds>> events[2];
    for (auto& each : events) {
      coir::testing::simulator sim(coir::testing::simulator_options().seed(seed));
      execution run(*program);
      run.run(sim.for_run());
      each = run.events();
    }
    if (events[0] != events[1]) throw std::runtime_error("two runs differ");
  });
}
