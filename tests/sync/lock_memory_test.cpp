#include "told.hpp"

#include "support/catch.hpp"
#include "support/counted_heap.hpp"

#include <coir/coir.hpp>

TEST_CASE("locking, waiting and handing over allocate nothing") {
  coir::run([] {
    coir::mutex m;
    coir::shared_mutex shared;
    coir::semaphore gate(2);
    coir::condition changed;
    coir::event opened;
    coir::barrier both(2);
    long before = 0;
    const auto rounds = [&](int count) {
      for (int i = 0; i < count; ++i) {
        auto held = coir::await(m.lock());
        changed.notify_one();
        if (i % 2 != 0) changed.notify_all();
        coir::await(coir::yield());
        held.unlock();
        auto looking = coir::await(shared.lock_shared());
        coir::await(coir::yield());
        looking.unlock();
        auto alone = coir::await(shared.lock());
        auto permits = coir::await(gate.acquire(2));
        coir::await(coir::yield());
        permits.release();
        alone.unlock();
        static_cast<void>(coir::await(both.arrive_and_wait()));
        opened.set();
        opened.reset();
      }
    };
    const auto waits = [&] {
      for (;;) {
        auto held = coir::await(m.lock());
        coir::await(changed.wait(held));
        held.unlock();
        coir::await(opened.wait());
      }
    };
    auto one = coir::spawn([&] { rounds(1000); });
    auto waiter = coir::spawn(waits);
    auto other = coir::spawn([&] {
      rounds(10);
      before = support::heap.allocations;
      rounds(990);
      CHECK(support::heap.allocations - before == 0);
    });
    coir::await(one.join());
    coir::await(other.join());
    CHECK(m.stats().waited > 1000);
    waiter.cancel();
  });
}
