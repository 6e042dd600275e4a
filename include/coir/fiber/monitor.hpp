// coir/fiber/monitor.hpp: hears of the end of fibers, whoever they are.
//
//   coir::monitor deaths;
//   deaths.watch(worker);   deaths.watch(other);
//   coir::handle_base dead = co_await deaths.next();     // whichever ends first
//   if (dead.outcome() == coir::fiber_outcome::failed) ... dead == worker ...
//                                                             [tests/fiber/monitor_test.cpp]
//
// Shape    an object that any fiber waits at; it lives as long as somebody does. Destroying it leaves nothing behind.
// Order    deaths come in the order in which they happened, each once; fibers that wait here get them in the order
//          in which they came.
// Thread   one loop.
// Cancel   next() aborts at once, and takes no death along.
// Errors   a failure of a watched fiber counts as handled, like that of one that is joined: its region does not get
//          it. std::bad_alloc from watch(). std::logic_error: an empty handle, fibers of two loops.
// Cost     an allocation per watched fiber. A death that is told: a few nanoseconds. Nobody else pays anything.
// See      coir/fiber/fiber.hpp; coir/scope/supervisor.hpp
#pragma once

#include <coir/base/list.hpp>
#include <coir/fiber/fiber.hpp>
#include <coir/fiber/op.hpp>

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>

namespace coir {

class fiber_control;
class monitor;

namespace priv {

// One fiber that a monitor watches hangs in two lists: the fiber's, and the monitor's.
class watched_fiber : public list_node {};
class watch_of_monitor : public list_node {};
class watch;

}  // namespace priv

struct monitor_stats {
  std::size_t watched = 0;    // fibers that live
  std::size_t untold = 0;     // ... that are dead, and nobody has been told
  std::uint64_t told = 0;     // deaths that were taken
};

class [[nodiscard("co_await it, or coir::await(it)")]] death_op : private list_node {
 public:
  static constexpr const char* name = "a death";
  explicit death_op(monitor& of) noexcept : of_(&of) {}
  death_op(death_op&& other) noexcept : of_(other.of_) {}
  ~death_op() {
    if (got_ != nullptr) give_back();
  }

  bool start(waiter& told);
  abort_answer abort() noexcept;
  handle_base take() noexcept;
  void describe(std::string& text) const;

 private:
  friend class list<death_op>;
  friend class monitor;
  void give_back() noexcept;

  monitor* of_;
  waiter* told_ = nullptr;
  priv::watch* got_ = nullptr;  // the death that is this op's
};

class monitor {
 public:
  monitor() noexcept = default;
  monitor(const monitor&) = delete;
  monitor& operator=(const monitor&) = delete;
  ~monitor();

  // The fiber's end will be told, once; that of one that is dead, at once. False: it is watched already, or its
  // death is about to be told.
  bool watch(const handle_base& whom);
  // It will not be told, also if it has happened and nobody was told yet. False: it was not watched.
  bool unwatch(const handle_base& whom) noexcept;

  // The next that is dead.
  death_op next() noexcept { return death_op(*this); }
  // An empty handle while there is none.
  handle_base try_next() noexcept;

  monitor_stats stats() const noexcept { return stats_; }

 private:
  friend class death_op;
  friend class fiber_home;

  // To all that watch the fiber of this control part, which is dead. False: nobody does.
  static bool tell(fiber_control& whose) noexcept;
  priv::watch* find(const handle_base& whom) const noexcept;
  void died(priv::watch& which) noexcept;
  void hand_over(priv::watch& which) noexcept;
  static handle_base end(priv::watch& which) noexcept;

  fiber_home* home_ = nullptr;  // of the first fiber it watched
  list<priv::watch_of_monitor> alive_;
  list<priv::watch_of_monitor> dead_;
  list<death_op> waiting_;
  list<death_op> handed_;  // were told of a death, and have not taken it
  monitor_stats stats_;
};

}  // namespace coir
