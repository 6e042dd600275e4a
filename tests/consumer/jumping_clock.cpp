// A consumer of the testing kit: an hour passes in no time, in an order that it forces.
//
// OUTPUT
//   first
//   second, an hour later

#include <coir/coir.hpp>
#include <coir/testing/mock_clock.hpp>
#include <coir/testing/sequencer.hpp>

#include <chrono>
#include <cstdio>

coir::task<> first(coir::testing::sequencer& order) {
  co_await coir::sleep_for(std::chrono::hours(1));
  auto turn = co_await order.turn(0);
  std::puts("first");
}

coir::task<> second(coir::testing::sequencer& order) {
  auto turn = co_await order.turn(1);
  std::puts("second, an hour later");
}

coir::task<int> both() {
  coir::testing::sequencer order;
  auto two = coir::spawn(second(order));
  auto one = coir::spawn(first(order));
  co_await one.join();
  co_await two.join();
  co_return 0;
}

int main() {
  coir::testing::mock_clock clock;
  return coir::run(both(), coir::run_options().loop(coir::loop_options().time(&clock)));
}
