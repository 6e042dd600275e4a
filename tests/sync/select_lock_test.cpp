#include "support/catch.hpp"
#include "support/jumping.hpp"

#include <coir/coir.hpp>

#include <chrono>
#include <cstddef>
#include <optional>
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

TEST_CASE("a select that wants a shared_mutex in either mode gets what is free") {
  jumping_on_both([](auto wait) {
    coir::shared_mutex m;
    coir::event over;
    auto reader = coir::spawn([&] {
      auto looking = wait(m.lock_shared());
      wait(over.wait());
    });
    turns();
    for (int i = 0; i < 30; ++i) {
      CHECK(wait(coir::select(m.lock(), m.lock_shared(), coir::sleep_for(1s))).index() == 1);
      CHECK(m.readers() == 1);
      CHECK(m.stats().waiting == 0);
    }
    over.set();
    coir::await(reader.join());
  });
}

namespace {

// All of them wait with two ops at the same thing. What they get they keep until `over`.
template <class Make, class GiveAll>
void serve_many(Make&& make, GiveAll&& give_all) {
  constexpr int many = 20'000;
  coir::run([&] {
    int served = 0;
    coir::event over;
    const auto one = [](auto& make_op, int& count, coir::event& end) -> coir::task<> {
      auto got = co_await coir::select(make_op(), make_op());
      ++count;
      co_await end.wait();
    };
    coir::with_nursery([&](coir::nursery& n) {
      for (int i = 0; i < many; ++i) n.spawn(one(make, served, over));
      turns(2 * many / 64);
      CHECK(served == 0);
      give_all(many);
      turns(2 * many / 64);
      CHECK(served == many);
      over.set();
    });
  });
}

}  // namespace

TEST_CASE("many selects are served one after the other, and not one inside the other") {
  coir::semaphore gate(0);
  serve_many([&] { return gate.acquire(); }, [&](int many) { gate.release(static_cast<std::size_t>(many)); });
  CHECK(gate.stats().waiting == 0);
  coir::shared_mutex m;
  std::optional<coir::shared_mutex::held> held;
  coir::run([&] { held = m.try_lock(); });
  serve_many([&] { return m.lock_shared(); }, [&](int) { held->unlock(); });
  CHECK(m.stats().holding == 0);
}
