// A timer that does what a test says, and writes down that it did.
#pragma once

#include <coir/loop/timer_heap.hpp>

#include <functional>
#include <utility>
#include <vector>

namespace tests {

struct ringer : coir::timer_node {
  ringer(std::vector<int>& written, int number, std::function<void()> what = {})
      : timer_node(fire), then(std::move(what)), order(written), mine(number) {}

  std::function<void()> then;

 private:
  static void fire(coir::timer_node& which) {
    auto& self = static_cast<ringer&>(which);
    self.order.push_back(self.mine);
    // A copy, because it may destroy the timer.
    if (const std::function<void()> what = self.then; what) what();
  }
  std::vector<int>& order;
  int mine;
};

}  // namespace tests
