// Random supervisors, orders and deaths, and what must be true of all of them. 300 seeds in every run, 20,000 under
// tools/test --long; COIR_FUZZ_SEED runs one.
#include "support/catch.hpp"
#include "support/jumping.hpp"

#include <coir/coir.hpp>

#include <cstdlib>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

using namespace std::chrono_literals;
using coir::child_event;
using coir::child_state;
using coir::supervisor;

namespace {

class scene {
 public:
  explicit scene(std::uint32_t seed) : random_(seed) {}

  void play() {
    auto all = coir::spawn([this] { supervise(); });
    coir::await(coir::yield());
    const std::uint32_t steps = below(30);
    for (std::uint32_t i = 0; i < steps && those_ != nullptr && all.state() != coir::fiber_state::dead; ++i) {
      coir::await(coir::sleep_for(some_time()));
      give_order();
      check_children();
    }
    switch (below(3)) {
      case 0: break;
      case 1: coir::await(coir::sleep_for(some_time())); [[fallthrough]];
      default:
        if (those_ != nullptr) those_->stop();
    }
    all.cancel();
    coir::await(coir::end_op(all));
    CHECK(alive_ == 0);
    for (const auto& [name, child] : children_) {
      INFO(name);
      // Of the ends only those that come with the supervisor's are not told.
      CHECK(child->told_starts == child->starts);
      CHECK(child->told_ends <= child->starts);
      CHECK(child->told_ends + 1 >= child->starts);
    }
  }

 private:
  struct actor {
    bool alive = false;
    int starts = 0;
    int told_starts = 0;
    int told_ends = 0;
  };

  std::uint32_t below(std::uint32_t limit) { return std::uniform_int_distribution<std::uint32_t>(0, limit - 1)(random_); }
  coir::duration some_time() { return std::chrono::milliseconds(below(40)); }

  void supervise() {
    const coir::restart_strategy strategies[] = {coir::one_for_one, coir::one_for_all, coir::rest_for_one};
    coir::supervisor_options options;
    options.strategy(strategies[below(3)]).intensity(below(4) == 0 ? 3 : 1000, 100ms).stay(below(2) == 0);
    if (below(2) == 0) options.backoff(5ms, 50ms).seed(1 + below(1000));
    const auto setup = [this](supervisor& s) {
      those_ = &s;
      s.on_event([this](const child_event& e) { return told(e); });
      for (std::uint32_t i = below(6); i > 0; --i) add();
    };
    // Nobody gives orders to one that is over.
    class over {
     public:
      explicit over(supervisor*& which) : which_(which) {}
      over(const over&) = delete;
      ~over() { which_ = nullptr; }

     private:
      supervisor*& which_;
    } end(those_);
    coir::cancel_scope scope;
    if (below(4) == 0) {
      coir::spawn([this, &scope] {
        coir::await(coir::sleep_for(10 * some_time()));
        scope.cancel(some_time());
      });
    }
    try {
      scope.run([&] { coir::await(coir::supervise(options, setup)); });
    } catch (const coir::restart_limit_exceeded&) {
    }
    CHECK(alive_ == 0);
  }

  void add() {
    const coir::restart_policy policies[] = {coir::permanent, coir::transient, coir::temporary};
    coir::child_options options(policies[below(3)]);
    if (below(2) == 0) options.shutdown(some_time());
    if (below(5) == 0) options.heartbeat(20ms);
    const std::string name = "child " + std::to_string(children_.size());
    actor& mine = *children_.emplace(name, std::make_unique<actor>()).first->second;
    try {
      if (below(2) == 0) {
        those_->add(name, [this, &mine] { return live(mine); }, options);
      } else {
        those_->add(name, [this, &mine] { coir::await(live(mine)); }, options);
      }
    } catch (const std::system_error&) {
      // It is about to end.
    }
  }

  coir::task<> live(actor& mine) {
    // One at a time.
    REQUIRE_FALSE(mine.alive);
    class life {
     public:
      life(bool& alive, int& count) : alive_(alive), count_(count) {
        alive_ = true;
        ++count_;
      }
      life(const life&) = delete;
      ~life() {
        alive_ = false;
        --count_;
      }

     private:
      bool& alive_;
      int& count_;
    } me(mine.alive, alive_);
    const std::uint32_t how = below(8);
    const coir::duration length = some_time();
    if (below(3) == 0) co_await coir::move_on_after(length, coir::wait_shutting_down());
    std::optional<coir::cancelled> swallowed;
    try {
      co_await coir::sleep_for(length);
    } catch (const coir::cancelled& why) {
      swallowed = why;
    }
    if (swallowed && how < 6) throw *swallowed;
    if (how < 3) throw std::runtime_error("failed");
    if (how == 3) throw coir::cancelled();
  }

  coir::task<> told(const child_event& e) {
    actor& mine = *children_.at(std::string(e.name));
    if (e.ended()) {
      ++mine.told_ends;
      CHECK(mine.told_ends == mine.starts);
      CHECK((e.failure != nullptr) == e.failed());
    } else {
      ++mine.starts;
      ++mine.told_starts;
      CHECK(mine.told_ends == mine.starts - 1);
    }
    const std::uint32_t what = below(20);
    if (what < 2) give_order();
    if (what == 3) co_await coir::sleep_for(some_time());
  }

  void give_order() {
    if (those_ == nullptr) return;
    const auto children = those_->children();
    const std::uint32_t what = below(8);
    if (what < 2 || children.empty()) return add();
    const std::string& name = children[below(static_cast<std::uint32_t>(children.size()))].name;
    if (what < 4) {
      CHECK(those_->stop(name));
    } else if (what < 6) {
      CHECK(those_->restart(name));
    } else if (what < 7) {
      CHECK(those_->remove(name));
    }
  }

  void check_children() {
    if (those_ == nullptr) return;
    std::size_t running = 0;
    for (const coir::child_info& each : those_->children()) {
      if (each.fiber == 0) continue;
      ++running;
      CHECK((each.state == child_state::running || each.state == child_state::stopping));
      CHECK(each.next_start == coir::never);
    }
    CHECK(running <= those_->stats().running);
  }

  std::mt19937 random_;
  std::map<std::string, std::unique_ptr<actor>> children_;
  supervisor* those_ = nullptr;
  int alive_ = 0;
};

}  // namespace

TEST_CASE("whatever happens to a supervisor, every child has one life at a time, and all have ended when it has") {
  std::uint32_t first = 1;
  std::uint32_t last = std::getenv("COIR_TEST_LONG") != nullptr ? 20'000 : 300;
  if (const char* const only = std::getenv("COIR_FUZZ_SEED"); only != nullptr) {
    first = last = static_cast<std::uint32_t>(std::atoi(only));
  }
  for (std::uint32_t seed = first; seed <= last; ++seed) {
    INFO("COIR_FUZZ_SEED=" << seed);
    support::jumping([&] {
      scene made(seed);
      made.play();
    });
  }
}
