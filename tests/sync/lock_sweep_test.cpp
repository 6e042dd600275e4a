// One of several who contend is cancelled at every moment of its life: the others get all there is.
#include "told.hpp"

#include "support/catch.hpp"
#include "support/jumping.hpp"

#include <coir/coir.hpp>

#include <array>
#include <functional>
#include <optional>
#include <string>

using coir::fiber_outcome;

namespace {

constexpr int contenders = 4;
constexpr int rounds = 3;

// For every victim and moment; at least so many are cut short. check() is called when all are dead.
template <class World>
void sweep(std::size_t least) {
  support::on_both_surfaces([&](auto wait) {
    std::size_t cancelled = 0;
    for (int victim = 0; victim < contenders; ++victim) {
      bool reached = true;
      for (int look = 0; reached; ++look) {
        INFO(World::name << ", victim " << victim << ", look " << look);
        World world;
        std::array<coir::fiber<void>, contenders> all;
        for (int i = 0; i < contenders; ++i) {
          all[static_cast<std::size_t>(i)] = coir::spawn([&world, wait, i] { world.work(wait, i); });
        }
        auto& who = all[static_cast<std::size_t>(victim)];
        for (int i = 0; i < look && who.state() != coir::fiber_state::dead; ++i) coir::await(coir::yield());
        reached = who.state() != coir::fiber_state::dead;
        who.cancel();
        world.after_cancel();
        for (const auto& each : all) coir::await(coir::end_op(each));
        for (const auto& each : all) {
          if (each.id() != who.id()) CHECK(told::is(each, fiber_outcome::returned));
        }
        // Behind its last suspend point nothing stops it.
        const bool cut_short = told::is(who, fiber_outcome::cancelled);
        CHECK((cut_short ? reached : told::is(who, fiber_outcome::returned)));
        if (cut_short) ++cancelled;
        world.check();
        REQUIRE(coir::running_fiber().home().stats().swallowed == 0);
      }
    }
    CHECK(cancelled >= least);
  });
}

// In a critical section: never more than may be.
struct section {
  int inside = 0;
  template <class Wait>
  void stay(Wait wait, int limit) {
    struct leave {
      int& inside;
      ~leave() { --inside; }
    };
    CHECK(++inside <= limit);
    const leave at_the_end{inside};
    wait(coir::yield());
    wait(coir::yield());
  }
  void after_cancel() {}
};

struct with_mutex : section {
  static constexpr const char* name = "mutex";
  template <class Wait>
  void work(Wait wait, int) {
    for (int i = 0; i < rounds; ++i) {
      auto held = wait(m.lock());
      CHECK(m.owned());
      stay(wait, 1);
    }
  }
  void check() const {
    CHECK_FALSE(m.locked());
    CHECK(m.stats().waiting == 0);
  }
  coir::mutex m;
};

struct with_shared_mutex : section {
  static constexpr const char* name = "shared_mutex";
  template <class Wait>
  void work(Wait wait, int who) {
    for (int i = 0; i < rounds; ++i) {
      if ((who + i) % 2 == 0) {
        auto held = wait(m.lock());
        stay(wait, 1);
      } else {
        auto held = wait(m.lock_shared());
        stay(wait, contenders);
      }
    }
  }
  void check() const {
    CHECK(m.stats().holding == 0);
    CHECK(m.stats().waiting == 0);
  }
  coir::shared_mutex m;
};

struct with_semaphore : section {
  static constexpr const char* name = "semaphore";
  template <class Wait>
  void work(Wait wait, int who) {
    for (int i = 0; i < rounds; ++i) {
      auto permit = wait(gate.acquire(1 + static_cast<std::size_t>(who % 3)));
      stay(wait, 3);
    }
  }
  void check() const {
    CHECK(gate.available() == 3);
    CHECK(gate.stats().waiting == 0);
  }
  coir::semaphore gate{3};
};

struct with_pool : section {
  static constexpr const char* name = "resource_pool";
  template <class Wait>
  void work(Wait, int who) {
    for (int i = 0; i < rounds; ++i) {
      auto mine = coir::await(numbers.acquire());
      stay(support::on_stack(), 2);
      if (who == i) mine.discard();
    }
  }
  void check() const {
    CHECK(numbers.available() == numbers.size());
    CHECK(numbers.waiting() == 0);
  }
  coir::resource_pool<int> numbers{2, []() -> coir::task<int> {
                                     co_await coir::yield();
                                     co_return 1;
                                   }};
};

struct with_once : section {
  static constexpr const char* name = "once";
  template <class Wait>
  void work(Wait wait, int) {
    for (auto& each : loaded) {
      each.call([&] {
        stay(wait, contenders);
        ++done;
      });
    }
  }
  void check() const {
    CHECK(done == rounds);
    for (const auto& each : loaded) {
      CHECK(each.is_done());
      CHECK(each.stats().waiting == 0);
    }
  }
  std::array<coir::once, rounds> loaded;
  int done = 0;
};

// Somebody else comes for the one that is cancelled, as often as it takes.
struct with_barrier : section {
  static constexpr const char* name = "barrier";
  template <class Wait>
  void work(Wait wait, int) {
    for (int i = 0; i < rounds; ++i) {
      if (wait(all.arrive_and_wait())) ++lasts;
    }
  }
  void after_cancel() {
    stand_in = coir::spawn([this] {
      while (all.stats().rounds < rounds) {
        if (coir::await(all.arrive_and_wait())) ++lasts;
      }
    });
  }
  void check() {
    // One who came too often waits for ever.
    stand_in.cancel();
    coir::await(coir::end_op(stand_in));
    CHECK(all.stats().waiting == 0);
    CHECK(lasts >= rounds);
  }
  coir::barrier all{contenders};
  coir::fiber<void> stand_in;
  int lasts = 0;
};

// Everybody takes as many tokens as there are rounds; each comes with one notification.
struct with_condition : section {
  static constexpr const char* name = "condition";
  template <class Wait>
  void work(Wait wait, int) {
    for (int i = 0; i < rounds; ++i) {
      auto held = wait(m.lock());
      while (tokens == 0) {
        try {
          wait(changed.wait(held));
        } catch (const coir::cancelled&) {
          CHECK(m.owned());
          throw;
        }
        CHECK(m.owned());
      }
      --tokens;
      ++taken;
      wait(coir::yield());
    }
  }
  coir::fiber<void> producer = coir::spawn([this] {
    for (int i = 0; i < contenders * rounds; ++i) {
      auto held = coir::await(m.lock());
      ++tokens;
      changed.notify_one();
      held.unlock();
      for (int turn = 0; turn < i % 4; ++turn) coir::await(coir::yield());
    }
  });
  void check() {
    coir::await(producer.join());
    CHECK(tokens + taken == contenders * rounds);
    CHECK(changed.stats().waiting == 0);
    CHECK_FALSE(m.locked());
  }
  coir::mutex m;
  coir::condition changed;
  int tokens = 0;
  int taken = 0;
};

}  // namespace

TEST_CASE("one of several who want a mutex is cancelled at any moment: the others have it in turn") {
  sweep<with_mutex>(20);
}
TEST_CASE("one of several who want a shared_mutex is cancelled at any moment: the others have it") {
  sweep<with_shared_mutex>(20);
}
TEST_CASE("one of several who want permits is cancelled at any moment: none is lost") {
  sweep<with_semaphore>(20);
}
TEST_CASE("one of several who want a resource is cancelled at any moment: no place is lost") {
  sweep<with_pool>(20);
}
TEST_CASE("one of several who call a once is cancelled at any moment: it is done once") {
  sweep<with_once>(20);
}
TEST_CASE("one of several at a barrier is cancelled at any moment: another comes for it, and the rounds are complete") {
  sweep<with_barrier>(10);
}
TEST_CASE("one of several who wait in a condition is cancelled at any moment: no notification is lost") {
  sweep<with_condition>(20);
}
