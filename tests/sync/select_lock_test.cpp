#include "support/catch.hpp"
#include "support/jumping.hpp"

#include <coir/coir.hpp>

#include <chrono>
#include <utility>

using namespace std::chrono_literals;
using support::jumping_on_both;

namespace {

void turns(int count = 3) {
  for (int i = 0; i < count; ++i) coir::await(coir::yield());
}

}  // namespace

TEST_CASE("a select that did not get a lock leaves nothing at it, whichever of its ops began") {
  jumping_on_both([](auto wait) {
    coir::barrier all(2);
    coir::mutex one;
    coir::semaphore gate(1);
    coir::event open;
    auto held = wait(one.lock());
    coir::channel<int> other(1);
    auto keeper = coir::spawn([&] {
      for (int i = 0; i < 30; ++i) {
        CHECK(wait(coir::select(all.arrive_and_wait(), one.lock(), gate.acquire(2), other.receive(), open.wait(),
                                coir::otherwise))
                  .index() == 5);
        coir::await(other.send(i));
        CHECK(wait(coir::select(all.arrive_and_wait(), one.lock(), gate.acquire(2), other.receive(), open.wait())).index() == 3);
      }
    });
    coir::await(keeper.join());
    CHECK(one.stats().waiting == 0);
    CHECK(gate.available() == 1);
    bool passed = false;
    auto first = coir::spawn([&] {
      wait(all.arrive_and_wait());
      passed = true;
    });
    turns();
    CHECK_FALSE(passed);
    wait(all.arrive_and_wait());
    turns();
    CHECK(passed);
  });
}

TEST_CASE("a lock that a select got is its result, and is unlocked with it") {
  jumping_on_both([](auto wait) {
    coir::mutex one;
    coir::mutex other;
    auto busy = wait(one.lock());
    auto first = coir::spawn([&] {
      auto got = wait(coir::select(one.lock(), other.lock(), coir::sleep_for(1h)));
      REQUIRE(got.index() == 1);
      wait(coir::sleep_for(1s));
    });
    auto second = coir::spawn([&] {
      CHECK(wait(coir::select(one.lock(), coir::sleep_for(1h))).index() == 0);
    });
    turns();
    CHECK(one.stats().waiting == 1);
    CHECK_FALSE(other.try_lock());
    busy.unlock();
    coir::await(second.join());
    coir::await(first.join());
    CHECK(one.try_lock());
    CHECK(other.try_lock());
  });
}
