// A rule of op.hpp is a test of this shape, run for every op of op_list.hpp on both surfaces:
//
//   for_every_op([](scene& on, spy_log& log) {
//     auto who = on.spawn(log);          // a fiber that awaits the op
//     until_waiting(who);
//     on.complete(); ...
//   });
#pragma once

#include "any_op.hpp"
#include "op_list.hpp"
#include "spy_op.hpp"
#include "surfaces.hpp"
#include "until.hpp"

#include "support/catch.hpp"

#include <coir/coir.hpp>
#include <coir/testing/mock_clock.hpp>

#include <cstddef>
#include <functional>
#include <type_traits>
#include <utility>

namespace op_scene {

using support::any_op;
using support::spy_log;

// A case on a surface, without its types: a rule is then compiled once.
class scene {
 public:
  virtual ~scene() = default;
  // A fiber that awaits a fresh op, counts log.user_code, says in right() whether the result was right, and
  // comes to a second suspend point.
  virtual coir::handle_base spawn(spy_log& log) = 0;
  // One that yields, counting log.user_code before, and then awaits an op that need not wait.
  virtual coir::handle_base spawn_late(spy_log& log) = 0;
  // One that awaits `count` ops that need not wait, and counts log.user_code for each result.
  virtual coir::handle_base spawn_many(spy_log& log, unsigned count) = 0;

  // One that awaits a select of a fresh op and of `other`, which writes down the winner's place.
  virtual coir::handle_base spawn_select(spy_log& log, support::hand& other, std::size_t& won) = 0;

  virtual void complete() = 0;
  virtual void stopped() = 0;
  virtual void prepare(unsigned count) = 0;
  virtual unsigned ready_at_most() const = 0;
  virtual coir::abort_answer answer() const = 0;
  // What complete() brings is gone when nobody waited for it.
  virtual bool passes() const = 0;
  bool right() const noexcept { return right_; }

 protected:
  bool right_ = false;
};

// What a fiber does with its result.
template <class Case>
struct receive {
  Case* world;
  spy_log* log;
  bool* right;
  template <class... Result>
  void operator()(Result&&... result) const {
    ++log->user_code;
    *right = world->right(std::forward<Result>(result)...);
  }
};

namespace bodies {

template <class Op, class Then>
coir::task<> wait(Op what, Then then) {
  if constexpr (std::is_void_v<coir::result_of<Op>>) {
    co_await what;
    then();
  } else {
    auto result = co_await what;
    then(std::move(result));
  }
  co_await coir::yield();
}
template <class Op, class Then>
auto spawn(surfaces::coroutine, Op what, Then then) {
  return coir::spawn(wait(std::move(what), then));
}
template <class Op, class Then>
auto spawn(surfaces::stack, Op what, Then then) {
  return coir::spawn([what = std::move(what), then]() mutable {
    if constexpr (std::is_void_v<coir::result_of<Op>>) {
      coir::await(what);
      then();
    } else {
      then(coir::await(what));
    }
    coir::await(coir::yield());
  });
}

template <class Op>
coir::task<> wait_late(Op what, spy_log& log) {
  ++log.user_code;
  co_await coir::yield();
  static_cast<void>(co_await what);
}
template <class Op>
auto spawn_late(surfaces::coroutine, Op what, spy_log& log) {
  return coir::spawn(wait_late(std::move(what), log));
}
template <class Op>
auto spawn_late(surfaces::stack, Op what, spy_log& log) {
  return coir::spawn([what = std::move(what), &log]() mutable {
    ++log.user_code;
    coir::await(coir::yield());
    static_cast<void>(coir::await(what));
  });
}

template <class Case>
coir::task<> wait_many(Case& world, spy_log& log, unsigned count) {
  for (unsigned i = 0; i < count; ++i) {
    auto what = support::spy(world.make_ready(), log);
    static_cast<void>(co_await what);
    ++log.user_code;
  }
}
template <class Case>
auto spawn_many(surfaces::coroutine, Case& world, spy_log& log, unsigned count) {
  return coir::spawn(wait_many(world, log, count));
}
template <class Case>
auto spawn_many(surfaces::stack, Case& world, spy_log& log, unsigned count) {
  return coir::spawn([&world, &log, count] {
    for (unsigned i = 0; i < count; ++i) {
      static_cast<void>(coir::await(support::spy(world.make_ready(), log)));
      ++log.user_code;
    }
  });
}

inline coir::task<> wait_select(any_op what, support::hand& other, std::size_t& won) {
  auto got = co_await coir::select(std::move(what), support::hand_op(other));
  won = got.index();
}
inline auto spawn_select(surfaces::coroutine, any_op what, support::hand& other, std::size_t& won) {
  return coir::spawn(wait_select(std::move(what), other, won));
}
inline auto spawn_select(surfaces::stack, any_op what, support::hand& other, std::size_t& won) {
  return coir::spawn([what = std::move(what), &other, &won]() mutable {
    won = coir::await(coir::select(std::move(what), support::hand_op(other))).index();
  });
}

}  // namespace bodies

template <class Case, class Surface>
class scene_of final : public scene {
 public:
  coir::handle_base spawn(spy_log& log) override {
    return bodies::spawn(Surface(), support::spy(world_.make(), log),
                         receive<Case>{&world_, &log, &right_});
  }
  coir::handle_base spawn_late(spy_log& log) override {
    return bodies::spawn_late(Surface(), support::spy(world_.make_ready(), log), log);
  }
  coir::handle_base spawn_many(spy_log& log, unsigned count) override {
    return bodies::spawn_many(Surface(), world_, log, count);
  }
  coir::handle_base spawn_select(spy_log& log, support::hand& other, std::size_t& won) override {
    return bodies::spawn_select(
        Surface(), any_op(support::spy(world_.make(), log), receive<Case>{&world_, &log, &right_}), other, won);
  }
  void complete() override { world_.complete(); }
  void stopped() override {
    if constexpr (requires { world_.stopped(); }) world_.stopped();
  }
  void prepare(unsigned count) override { world_.prepare(count); }
  unsigned ready_at_most() const override {
    if constexpr (requires { Case::ready_at_most; }) {
      return Case::ready_at_most;
    } else {
      return ~0U;
    }
  }
  coir::abort_answer answer() const override { return Case::answer(); }
  bool passes() const override { return std::is_base_of_v<op_list::sleeping, Case>; }

 private:
  Case world_;
};

using rule = std::function<void(scene&, spy_log&)>;

// The rule's own fibers end before the scene and the log.
template <class Case, class Surface>
void play(const rule& test) {
  INFO("op: " << Case::name << ", surface: " << Surface::name);
  coir::testing::mock_clock time(coir::testing::mock_clock::mode::by_hand);
  op_list::clock = &time;
  coir::run(
      [&] {
        scene_of<Case, Surface> on;
        spy_log log;
        auto inner = coir::spawn([&] { test(on, log); });
        coir::await(inner.join());
      },
      coir::run_options().loop(coir::loop_options().time(&time)));
}

template <class... Cases>
void play_all(const rule& test, std::tuple<Cases...>*) {
  (play<Cases, surfaces::coroutine>(test), ...);
  ((requires { Cases::is_slow; } ? void() : play<Cases, surfaces::stack>(test)), ...);
}
inline void for_every_op(const rule& test) {
  play_all(test, static_cast<op_list::all*>(nullptr));
}

inline bool dead(const coir::handle_base& who) { return who.state() == coir::fiber_state::dead; }
// In the kernel too: a request of this turn has not been sent yet.
inline void until_waiting(const coir::handle_base& who) {
  support::until([&] { return who.state() == coir::fiber_state::waiting; });
  support::until([turns = 0]() mutable { return ++turns == 300; });
}
inline void until_dead(const coir::handle_base& who) {
  support::until([&] { return dead(who); });
}

}  // namespace op_scene
