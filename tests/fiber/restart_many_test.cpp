// A million restarts of one fiber.
#include "until.hpp"

#include "support/catch.hpp"
#include "support/counted_heap.hpp"

#include <coir/coir.hpp>

namespace {

// Every hundredth run is unwound; the others end by themselves, because a throw costs ten times what the rest does.
constexpr int many = 1'000'000;
constexpr int between_unwindings = 100;

template <class Spawn>
void restart_many_times(Spawn&& spawn_it) {
  coir::run([&] {
    coir::fiber<int> self;
    int runs = 0;
    self = spawn_it(self, runs);
    support::until([&] { return runs > 1000; });
    const long before = support::heap.bytes;
    CHECK(coir::await(self.join()) == many);
    CHECK(support::heap.bytes - before < 4096);
    self = {};
  });
}

}  // namespace

TEST_CASE("a million restarts of a coroutine need constant memory and constant stack") {
  restart_many_times([](coir::fiber<int>& self, int& runs) {
    return coir::spawn([&]() -> coir::task<int> {
      if (++runs < many) {
        self.restart();
        if (runs % between_unwindings == 0) co_await coir::sleep_until(coir::never);
      }
      co_return runs;
    });
  });
}

TEST_CASE("a million restarts of a function need constant memory and constant stack") {
  restart_many_times([](coir::fiber<int>& self, int& runs) {
    return coir::spawn([&] {
      if (++runs < many) {
        self.restart();
        if (runs % between_unwindings == 0) coir::await(coir::sleep_until(coir::never));
      }
      return runs;
    });
  });
}
