// Teaches: waiting for whichever is first. One fiber serves several channels and a clock with coir::select; the ops
// that were not first are stopped before it goes on, and nobody hands them anything.
//
// Try it:  build/test/examples/desk
//
// OUTPUT
//   order 1 of 3 pieces
//   order 2 of 5 pieces
//   urgent: tell the king
//   order 3 of 1 pieces
//   nobody came for a while
//   the desk is closed: 9 pieces

#include <coir/coir.hpp>

#include <chrono>
#include <cstdio>
#include <string>
#include <variant>

using namespace std::chrono_literals;

// README: select
coir::task<int> serve(coir::channel<int>& orders, coir::channel<std::string>& urgent) {
  int number = 0;
  int pieces = 0;
  for (;;) {
    auto got = co_await coir::select(orders.receive(), urgent.receive(), coir::sleep_for(200ms));
    if (got.index() == 0) {
      const std::optional<int>& order = std::get<0>(got);
      if (!order) co_return pieces;  // closed, and nothing left
      std::printf("order %d of %d pieces\n", ++number, *order);
      pieces += *order;
    } else if (got.index() == 1) {
      std::printf("urgent: %s\n", std::get<1>(got)->c_str());
    } else {
      std::puts("nobody came for a while");
    }
  }
}
// README end

coir::task<int> open_for_a_day() {
  coir::channel<int> orders;
  coir::channel<std::string> urgent;
  auto desk = coir::spawn(serve(orders, urgent));
  for (const int pieces : {3, 5}) co_await orders.send(pieces);
  co_await urgent.send("tell the king");
  co_await orders.send(1);
  co_await coir::sleep_for(300ms);
  orders.close();
  std::printf("the desk is closed: %d pieces\n", co_await desk.join());
  co_return 0;
}

int main() { return coir::run(open_for_a_day()); }
