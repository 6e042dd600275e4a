// Fibers that do this and that with locks, drawn from a seed, in an order drawn from it, some with limits in time, some
// cancelled: what must always hold is looked at in every step, and at the end nothing is held and nobody waits.
#include "support/catch.hpp"
#include "support/jumping.hpp"

#include <coir/coir.hpp>
#include <coir/testing/dice.hpp>
#include <coir/testing/seeds.hpp>
#include <coir/testing/shuffle.hpp>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

using namespace std::chrono_literals;

namespace {

constexpr std::size_t permits = 4;
constexpr unsigned workers = 6;
constexpr unsigned steps = 12;

// Cheaper than an assertion of Catch for each of a million looks.
void require(bool holds, const char* what) {
  if (!holds) throw std::logic_error(what);
}

class model {
 public:
  explicit model(std::uint64_t seed) : dice_(seed) {}

  template <class Wait>
  void run(Wait wait) {
    std::vector<coir::fiber<void>> all;
    for (unsigned i = 0; i < workers; ++i) {
      all.push_back(coir::spawn([this, wait] {
        for (unsigned step = 0; step < steps; ++step) one_step(wait);
      }));
    }
    // Some are cancelled, at any time.
    for (unsigned i = 0; i < workers / 2; ++i) {
      coir::await(coir::sleep_for(some_time()));
      const auto& victim = all[dice_.below(all.size())];
      if (dice_.chance(0.5)) victim.cancel();
    }
    // What is missing for those who wait in the condition.
    while (std::any_of(all.begin(), all.end(),
                       [](const auto& each) { return each.state() != coir::fiber_state::dead; })) {
      put(wait);
      coir::await(coir::sleep_for(5ms));
      require(tokens_ == 0 || m_.locked() || changed_.stats().waiting == 0, "a notification was lost");
    }
    for (const auto& each : all) coir::await(coir::end_op(each));
    for (const auto& each : all) {
      if (each.outcome() == coir::fiber_outcome::failed) coir::await(each.join());
    }
    look();
    require(!m_.locked() && m_.stats().waiting == 0, "the mutex is held by nobody");
    require(shared_.stats().holding == 0 && shared_.stats().waiting == 0, "the shared_mutex is held by nobody");
    require(gate_.available() == permits && gate_.stats().waiting == 0, "permits were lost");
    require(changed_.stats().waiting == 0, "somebody waits in the condition");
    require(put_ == taken_ + tokens_, "tokens were lost");
  }

 private:
  coir::duration some_time() { return std::chrono::microseconds(dice_.below(3000)); }
  // The op, under a limit in time or not. Empty: the time was over.
  template <class Wait, class Op>
  auto limited(Wait wait, Op what) {
    const coir::duration limit = dice_.chance(0.3) ? some_time() : coir::duration(1h);
    return wait(coir::move_on_after(limit, std::move(what)));
  }
  template <class Wait>
  void stay(Wait wait) {
    look();
    switch (dice_.below(3)) {
      case 0: wait(coir::yield()); break;
      case 1: wait(coir::sleep_for(some_time())); break;
      default: break;
    }
    look();
  }
  // What holds at any time.
  void look() const {
    require(owners_ <= 1 && (owners_ == 0 || m_.locked()), "a mutex has one owner");
    require(m_.locked() || m_.stats().waiting == 0, "a free mutex has waiters");
    require(writers_ == 0 || (writers_ == 1 && readers_ == 0), "a writer is alone");
    require(shared_.stats().holding != 0 || shared_.stats().waiting == 0, "a free shared_mutex has waiters");
    require(out_ + gate_.available() <= permits, "permits were made");
    require(gate_.available() < permits || gate_.stats().waiting == 0, "a full semaphore has waiters");
  }

  class counted {
   public:
    template <class T>
    counted(T& what, T by) : what_([&what, by] { what -= by; }) {
      what += by;
    }
    counted(const counted&) = delete;
    ~counted() { what_(); }

   private:
    coir::callback<> what_;
  };

  template <class Wait>
  void one_step(Wait wait) {
    switch (dice_.below(6)) {
      case 0: lock(wait); break;
      case 1: acquire(wait); break;
      case 2: write(wait); break;
      case 3: read(wait); break;
      case 4: take(wait); break;
      default: put(wait); break;
    }
  }
  template <class Wait>
  void lock(Wait wait) {
    if (dice_.chance(0.1)) {
      if (auto held = m_.try_lock()) {
        const counted one(owners_, 1U);
        stay(wait);
      }
      return;
    }
    const std::uint64_t ticket = ++last_ticket_;
    auto held = limited(wait, m_.lock());
    if (!held) return;
    require(ticket > last_locked_, "somebody barged in");
    last_locked_ = ticket;
    const counted one(owners_, 1U);
    require(m_.owned(), "the one who locked it owns it");
    stay(wait);
  }
  template <class Wait>
  void acquire(Wait wait) {
    const std::size_t count = 1 + static_cast<std::size_t>(dice_.below(permits));
    auto permit = limited(wait, gate_.acquire(count));
    if (!permit) return;
    require(permit->count() == count, "as many as were wanted");
    const counted those(out_, count);
    stay(wait);
  }
  template <class Wait>
  void write(Wait wait) {
    const std::uint64_t ticket = ++last_ticket_;
    auto held = limited(wait, shared_.lock());
    if (!held) return;
    require(ticket > last_written_ && ticket > last_read_, "a writer was overtaken");
    last_written_ = ticket;
    const counted one(writers_, 1U);
    stay(wait);
  }
  template <class Wait>
  void read(Wait wait) {
    const std::uint64_t ticket = ++last_ticket_;
    auto held = limited(wait, shared_.lock_shared());
    if (!held) return;
    require(ticket > last_written_, "a reader was overtaken");
    last_read_ = std::max(last_read_, ticket);
    const counted one(readers_, 1U);
    stay(wait);
  }
  template <class Wait>
  void take(Wait wait) {
    auto held = wait(m_.lock());
    while (tokens_ == 0) {
      bool told = false;
      try {
        told = limited(wait, changed_.wait(held));
      } catch (const coir::cancelled&) {
        require(m_.owned() && held, "the mutex is held when `cancelled` leaves a wait");
        throw;
      }
      require(m_.owned() && held, "the mutex is held after a wait");
      require(owners_ == 0, "and by nobody else");
      if (!told) break;
    }
    if (tokens_ == 0) return;
    --tokens_;
    ++taken_;
    const counted one(owners_, 1U);
    stay(wait);
  }
  template <class Wait>
  void put(Wait wait) {
    auto held = wait(m_.lock());
    ++tokens_;
    ++put_;
    changed_.notify_one();
  }

  coir::testing::dice dice_;
  coir::mutex m_;
  coir::shared_mutex shared_;
  coir::semaphore gate_{permits};
  coir::condition changed_;
  unsigned owners_ = 0;
  unsigned writers_ = 0;
  unsigned readers_ = 0;
  std::size_t out_ = 0;
  unsigned tokens_ = 0;
  unsigned taken_ = 0;
  unsigned put_ = 0;
  std::uint64_t last_ticket_ = 0;
  std::uint64_t last_locked_ = 0;
  std::uint64_t last_written_ = 0;
  std::uint64_t last_read_ = 0;
};

}  // namespace

TEST_CASE("whatever fibers do with locks, in whatever order they run: what a lock promises holds") {
  coir::testing::for_each_seed(1000, [](std::uint64_t seed) {
    coir::testing::mock_clock clock;
    coir::testing::shuffle order(seed);
    const auto program = [seed] {
      model one(seed);
      if (seed % 2 == 0) {
        one.run(support::on_stack());
      } else {
        one.run(support::in_coroutine());
      }
    };
    coir::run(program, support::on(clock).arrange(&order));
  });
}
