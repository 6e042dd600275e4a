#include "support/both.hpp"
#include "support/catch.hpp"
#include "support/counted_heap.hpp"

#include <coir/coir.hpp>

#include <chrono>

using namespace std::chrono_literals;

TEST_CASE("a select allocates nothing, whether it waits or not") {
  if (!support::heap_is_counted) return;
  support::on_both_surfaces([](auto wait) {
    coir::channel<int> there(1);
    coir::channel<int> back;
    coir::channel<int> stop;
    auto echo = coir::spawn([&] {
      for (;;) {
        auto got = coir::await(coir::select(there.receive(), stop.receive()));
        if (got.index() == 1) return;
        coir::await(coir::select(back.send(*std::get<0>(got)), stop.receive()));
      }
    });
    const auto round = [&](int value) {
      wait(coir::select(stop.receive(), there.send(value), coir::sleep_for(1h)));
      auto got = wait(coir::select(stop.receive(), coir::sleep_for(1h), back.receive()));
      CHECK(std::get<2>(got) == value);
      CHECK(wait(coir::select(stop.receive(), coir::otherwise)).index() == 1);
    };
    for (int i = 0; i < 10; ++i) round(i);
    const long before = support::heap.allocations;
    for (int i = 0; i < 1000; ++i) round(i);
    CHECK(support::heap.allocations == before);
    stop.close();
    coir::await(echo.join());
  });
}
