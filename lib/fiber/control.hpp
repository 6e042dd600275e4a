// What few fibers need to be controlled from outside: a part of the cold block, made on first use and gone with the
// fiber; and how code of others runs as a part of a fiber. Private to lib/fiber.
#pragma once

#include <coir/base/callback.hpp>
#include <coir/base/list.hpp>
#include <coir/base/time.hpp>
#include <coir/fiber/fiber_base.hpp>
#include <coir/fiber/fiber_home.hpp>
#include <coir/fiber/monitor.hpp>
#include <coir/loop/timer_heap.hpp>

#include <utility>
#include <vector>

namespace coir {

// The timer of its grace is a base, so that the way from there to the fiber is a cast.
class fiber_control : public timer_node {
 public:
  explicit fiber_control(fiber_base& of) noexcept : timer_node(grace_over), whose(of) {}

  fiber_base& whose;
  instant grace_end = never;
  std::vector<callback<>> visits;  // interjected, and not called yet
  bool visiting = false;           // one of them runs
  bool to_be_visited = false;      // the home's list has the fiber
  list<priv::watched_fiber> watches;

 private:
  static void grace_over(timer_node& mine);
};

// What is interjected, or runs when the body is over, is code of users that must not wait: the fiber waits already,
// or its stack is about to be another's. Without a stack every wait says so, behind a shield too.
class fiber_base::without_stack {
 public:
  explicit without_stack(fiber_base& which) noexcept
      : which_(which), own_(std::exchange(which.stack_, nullptr)), outer_(which.home_->hidden_) {
    if (own_ != nullptr) which.home_->hidden_ = own_;
  }
  without_stack(const without_stack&) = delete;
  ~without_stack() {
    which_.stack_ = own_;
    which_.home_->hidden_ = outer_;
  }

 private:
  fiber_base& which_;
  stack* own_;
  const stack* outer_;
};

}  // namespace coir
