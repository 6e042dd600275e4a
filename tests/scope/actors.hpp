// Children of a supervisor that do as they are told and write down what they do, on both surfaces.
//
//   actors::on_both([](auto surface) {
//     actors::actor a("a", {{1s, actors::fails}, {}});      // the first one fails after 1 s, the next stays
//     surface.supervise(options, [&](coir::supervisor& s) { surface.add(s, a); });
//     CHECK(a.log() == "+a !a +a ~a");                      // +: begins, !: fails, -: returns, ~: is cancelled
//   });
#pragma once

#include "support/catch.hpp"
#include "support/jumping.hpp"

#include <coir/coir.hpp>

#include <cstddef>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace actors {

using namespace std::chrono_literals;
using support::loop_here;
using support::now;

inline std::string& journal() {
  static std::string text;
  return text;
}
inline void note(const std::string& word) { journal() += (journal().empty() ? "" : " ") + word; }

enum class end { returns, fails, is_cancelled };
inline constexpr end returns = end::returns;
inline constexpr end fails = end::fails;

// How long one incarnation lives, and how it ends.
struct act {
  coir::duration life = 1000h;
  end how = end::returns;
};

// Asked to end, one that listens takes its time and returns; another goes on until it is cancelled.
class actor {
 public:
  explicit actor(std::string name, std::vector<act> acts = {{}}) : name_(std::move(name)), acts_(std::move(acts)) {}
  actor(const actor&) = delete;

  actor& listens(coir::duration takes = 0s) { return listens_ = true, takes_ = takes, *this; }

  const std::string& name() const { return name_; }
  std::size_t lives() const { return next_; }
  const std::vector<coir::instant>& births() const { return births_; }

  coir::task<> play() {
    const act mine = begin();
    try {
      if (listens_) {
        if (!co_await coir::move_on_after(mine.life, coir::wait_shutting_down())) {
          finish(mine);
          co_return;
        }
        co_await coir::sleep_for(takes_);
      } else {
        co_await coir::sleep_for(mine.life);
      }
      finish(mine);
    } catch (const coir::cancelled&) {
      note("~" + name_);
      throw;
    }
  }
  void play_on_stack() {
    const act mine = begin();
    try {
      if (listens_) {
        if (!coir::await(coir::move_on_after(mine.life, coir::wait_shutting_down()))) return finish(mine);
        coir::await(coir::sleep_for(takes_));
      } else {
        coir::await(coir::sleep_for(mine.life));
      }
      finish(mine);
    } catch (const coir::cancelled&) {
      note("~" + name_);
      throw;
    }
  }

 private:
  act begin() {
    note("+" + name_);
    births_.push_back(now());
    const act mine = acts_[std::min(next_, acts_.size() - 1)];
    ++next_;
    return mine;
  }
  void finish(const act& mine) {
    note((mine.how == end::fails ? "!" : "-") + name_);
    if (mine.how == end::fails) throw std::runtime_error(name_ + " failed");
    if (mine.how == end::is_cancelled) throw coir::cancelled();
  }

  std::string name_;
  std::vector<act> acts_;
  std::vector<coir::instant> births_;
  std::size_t next_ = 0;
  bool listens_ = false;
  coir::duration takes_{};
};

// Children are tasks, and so is what supervises them.
struct coroutines {
  static constexpr const char* name = "coroutines";
  static void add(coir::supervisor& s, actor& who, const coir::child_options& options = {}) {
    s.add(who.name(), [&who] { return who.play(); }, options);
  }
  template <class Setup>
  static auto spawn(const coir::supervisor_options& options, Setup&& setup) {
    return coir::spawn(coir::supervise(options, setup));
  }
  template <class Setup>
  static void supervise(const coir::supervisor_options& options, Setup&& setup) {
    auto fiber = spawn(options, setup);
    coir::await(fiber.join());
  }
};

// Children are functions on stacks, and so is what supervises them.
struct stacks {
  static constexpr const char* name = "stacks";
  static void add(coir::supervisor& s, actor& who, const coir::child_options& options = {}) {
    s.add(who.name(), [&who] { who.play_on_stack(); }, options);
  }
  template <class Setup>
  static auto spawn(const coir::supervisor_options& options, Setup setup) {
    return coir::spawn([options, setup] { coir::await(coir::supervise(options, setup)); });
  }
  template <class Setup>
  static void supervise(const coir::supervisor_options& options, Setup&& setup) {
    coir::await(coir::supervise(options, setup));
  }
};

// In a fiber on a stack, on a clock that jumps; the journal is empty at the beginning.
template <class Test>
void on_both(Test&& test) {
  const auto run = [&](auto surface) {
    INFO("surface: " << surface.name);
    journal().clear();
    support::jumping([&] { test(surface); });
  };
  run(coroutines());
  run(stacks());
}

}  // namespace actors
