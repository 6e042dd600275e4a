#include "told.hpp"

#include "support/catch.hpp"
#include "support/jumping.hpp"

#include <coir/coir.hpp>

#include <memory>
#include <optional>
#include <string>
#include <type_traits>

using namespace std::chrono_literals;
using Catch::Matchers::Contains;
using coir::fiber_outcome;
using coir::fiber_state;
using coir::shared_mutex;
using told::deadlock_of;
using told::has_line;
using told::is;
using told::let_run;
using told::refusal_of;

static_assert(!std::is_copy_constructible_v<shared_mutex::held> &&
              std::is_nothrow_move_constructible_v<shared_mutex::held> &&
              !std::is_convertible_v<shared_mutex::held_shared, shared_mutex::held>);

namespace {

// Fibers that take the lock, note it, and have it until they are told.
template <class Wait>
class crowd {
 public:
  explicit crowd(Wait wait) : wait_(wait) {}
  coir::fiber<void> reader(char who) {
    return coir::spawn([this, who] {
      auto held = wait_(m.lock_shared());
      in += who;
      wait_(go.wait());
    });
  }
  coir::fiber<void> writer(char who) {
    return coir::spawn([this, who] {
      auto held = wait_(m.lock());
      in += who;
      wait_(go.wait());
    });
  }
  shared_mutex m;
  coir::event go;
  std::string in;

 private:
  Wait wait_;
};

}  // namespace

TEST_CASE("readers are in together, and a writer alone") {
  support::on_both_surfaces([](auto wait) {
    shared_mutex m;
    int readers = 0;
    int writers = 0;
    int most = 0;
    coir::with_nursery([&](coir::nursery& n) {
      for (int i = 0; i < 12; ++i) {
        n.spawn([&, i] {
          for (int round = 0; round < 5; ++round) {
            if ((i + round) % 4 == 0) {
              auto held = wait(m.lock());
              CHECK(++writers == 1);
              CHECK(readers == 0);
              CHECK(m.locked());
              wait(coir::yield());
              --writers;
            } else {
              auto held = wait(m.lock_shared());
              most = std::max(most, ++readers);
              CHECK(writers == 0);
              CHECK(m.readers() != 0);
              wait(coir::yield());
              --readers;
            }
          }
        });
      }
    });
    CHECK(most > 1);
    CHECK_FALSE(m.locked());
    CHECK(m.readers() == 0);
    CHECK(m.stats().taken == 15);
    CHECK(m.stats().taken_shared == 45);
    CHECK(m.stats().holding == 0);
  });
}

TEST_CASE("a writer that waits holds back the readers that come after it, and those next to each other go together") {
  support::on_both_surfaces([](auto wait) {
    crowd all(wait);
    auto first = all.reader('a');
    wait(coir::yield());
    all.writer('W');
    all.reader('b');
    all.reader('c');
    all.writer('X');
    all.reader('d');
    let_run();
    CHECK(all.in == "a");
    CHECK(all.m.stats().waiting == 5);
    all.go.set();
    let_run();
    CHECK(all.in.substr(0, 4) == "aWbc");
    let_run();
    CHECK(all.in == "aWbcXd");
  });
}

TEST_CASE("a cancelled writer lets the readers behind it go at once") {
  support::on_both_surfaces([](auto wait) {
    crowd all(wait);
    all.reader('a');
    wait(coir::yield());
    auto writer = all.writer('W');
    all.reader('b');
    all.reader('c');
    all.writer('X');
    let_run();
    CHECK(all.in == "a");
    writer.cancel();
    let_run();
    CHECK(all.in == "abc");
    CHECK(is(writer, fiber_outcome::cancelled));
    all.go.set();
    let_run();
    CHECK(all.in == "abcX");
  });
}

TEST_CASE("a cancelled reader gives up its place, and does not hold back the writer behind it") {
  support::on_both_surfaces([](auto wait) {
    crowd all(wait);
    auto held = wait(all.m.lock());
    auto reader = all.reader('a');
    all.writer('W');
    let_run();
    reader.cancel();
    held.unlock();
    let_run();
    CHECK(all.in == "W");
    CHECK(all.m.stats().cancelled == 1);
    all.go.set();
    let_run();
  });
}

TEST_CASE("readers or a writer that were handed the lock and are cancelled before they run have it, and hand it on") {
  support::on_both_surfaces([](auto wait) {
    for (const bool shared : {true, false}) {
      crowd all(wait);
      auto held = wait(all.m.lock());
      auto first = shared ? all.reader('a') : all.writer('W');
      auto last = all.writer('X');
      let_run();
      held.unlock();
      first.cancel();
      let_run();
      CHECK(all.in == (shared ? "aX" : "WX"));
      CHECK(is(first, fiber_outcome::cancelled));
      all.go.set();
      wait(last.join());
      CHECK_FALSE(all.m.locked());
    }
  });
}

TEST_CASE("the try_ of a shared_mutex gives what is free for it, and does not go past those who wait") {
  support::on_both_surfaces([](auto wait) {
    crowd all(wait);
    auto reader = all.reader('a');
    wait(coir::yield());
    CHECK_FALSE(all.m.try_lock().has_value());
    {
      auto also = all.m.try_lock_shared();
      CHECK(also.has_value());
    }
    auto writer = all.writer('W');
    wait(coir::yield());
    CHECK_FALSE(all.m.try_lock_shared().has_value());
    all.go.set();
    wait(writer.join());
    CHECK(all.m.try_lock().has_value());
    CHECK_FALSE(all.m.locked());
  });
}

TEST_CASE("a fiber that would wait for itself in a shared_mutex is told so") {
  support::on_both_surfaces([](auto wait) {
    shared_mutex m;
    {
      auto held = wait(m.lock());
      CHECK_THAT(refusal_of([&] { static_cast<void>(wait(m.lock())); }),
                 Contains("a shared_mutex was locked twice by fiber 1 main, which has held it since "));
      CHECK_THAT(refusal_of([&] { static_cast<void>(wait(m.lock_shared())); }), Contains("locked twice"));
      CHECK_THAT(refusal_of([&] { static_cast<void>(m.try_lock_shared()); }), Contains("locked twice"));
    }
    auto looking = wait(m.lock_shared());
    CHECK_THAT(refusal_of([&] { static_cast<void>(wait(m.lock())); }), Contains("locked twice"));
    // Twice shared is no harm, unless a writer stands between.
    {
      auto again = wait(m.lock_shared());
      CHECK(m.readers() == 2);
    }
    auto writer = coir::spawn([&] { static_cast<void>(wait(m.lock())); });
    wait(coir::yield());
    CHECK_THAT(refusal_of([&] { static_cast<void>(wait(m.lock_shared())); }), Contains("locked twice"));
    looking.unlock();
    wait(writer.join());
  });
}

TEST_CASE("guards of a shared_mutex move, and refuse to unlock what they have not") {
  support::on_both_surfaces([](auto wait) {
    shared_mutex one;
    shared_mutex other;
    auto first = wait(one.lock_shared());
    auto second = std::move(first);
    CHECK_FALSE(first);
    CHECK(one.readers() == 1);
    auto third = wait(other.lock_shared());
    third = std::move(second);
    CHECK(other.readers() == 0);
    CHECK(one.readers() == 1);
    third.unlock();
    CHECK(one.readers() == 0);
    CHECK_THAT(refusal_of([&] { third.unlock(); }), Contains("a guard that has no lock was unlocked"));
    CHECK_THAT(refusal_of([&] { first.unlock(); }), Contains("a guard that has no lock was unlocked"));
  });
}

TEST_CASE("guards that outlive their shared_mutex have nothing to unlock, and who still waits is left to wait") {
  support::on_both_surfaces([](auto wait) {
    auto m = std::make_unique<shared_mutex>();
    auto held = wait(m->lock_shared());
    auto left = coir::spawn([&] { static_cast<void>(wait(m->lock())); });
    wait(coir::yield());
    m.reset();
    CHECK_FALSE(held);
    let_run();
    CHECK(left.state() == fiber_state::waiting);
  });
}

TEST_CASE("a limit in time around a shared lock gives up the place when it is over") {
  support::jumping_on_both([](auto wait) {
    shared_mutex m;
    auto held = wait(m.lock());
    auto other = coir::spawn([&] { return wait(coir::move_on_after(1s, m.lock_shared())).has_value(); });
    CHECK_FALSE(wait(other.join()));
    CHECK(m.stats().waited == 1);
    CHECK(m.stats().cancelled == 1);
    CHECK(m.stats().waiting == 0);
  });
}

TEST_CASE("the deadlock report names all who hold a shared_mutex") {
  const std::string said = deadlock_of([] {
    shared_mutex m;
    coir::event never;
    const auto looks = [&] {
      auto held = coir::await(m.lock_shared());
      coir::await(never.wait());
    };
    coir::spawn(looks, coir::spawn_options().name("one"));
    coir::spawn(looks, coir::spawn_options().name("two"));
    coir::await(coir::yield());
    static_cast<void>(coir::await(m.lock()));
  });
  CHECK_THAT(said, has_line("*fiber 1 main: waiting in shared_mutex held by fiber 2 one since *, "
                            "fiber 3 two since *shared_mutex_test.cpp:[0-9][0-9][0-9] at *"));
}
