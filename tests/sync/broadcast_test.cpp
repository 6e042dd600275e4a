#include "support/both.hpp"
#include "support/catch.hpp"
#include "support/jumping.hpp"

#include <coir/coir.hpp>
#include <coir/testing/dice.hpp>
#include <coir/testing/seeds.hpp>

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

using namespace std::chrono_literals;
using Catch::Matchers::Contains;

namespace {

void turns(int count) {
  while (count-- != 0) coir::await(coir::yield());
}

using ints = std::vector<int>;

}  // namespace

TEST_CASE("every subscriber gets every value from its subscription on, in order") {
  support::on_both_surfaces([](auto wait) {
    coir::broadcast<int> numbers(100);
    std::vector<ints> heard(3);
    coir::with_nursery([&](coir::nursery& n) {
      for (int i = 0; i < 3; ++i) {
        n.spawn([&, i] {
          coir::subscription<int> mine = numbers.subscribe();
          while (auto got = wait(mine.receive())) {
            CHECK(got->missed() == 0);
            heard[static_cast<std::size_t>(i)].push_back(got->value());
          }
        });
        turns(2);
        numbers.publish(10 * i);
        numbers.publish(10 * i + 1);
      }
      numbers.close();
    });
    CHECK(heard == std::vector<ints>{{0, 1, 10, 11, 20, 21}, {10, 11, 20, 21}, {20, 21}});
  });
}

TEST_CASE("a subscriber that is slower than the history is told how many it missed, and goes on with the oldest") {
  support::on_both_surfaces([](auto wait) {
    coir::broadcast<int> numbers(3);
    coir::subscription<int> slow = numbers.subscribe();
    coir::subscription<int> quick = numbers.subscribe();
    for (int i = 0; i < 10; ++i) {
      numbers.publish(i);
      CHECK(wait(quick.receive())->value() == i);
    }
    CHECK(slow.pending() == 3);
    auto got = wait(slow.receive());
    CHECK(got->value() == 7);
    CHECK(got->missed() == 7);
    got = wait(slow.receive());
    CHECK(got->value() == 8);
    CHECK(got->missed() == 0);
    CHECK(slow.missed() == 7);
    CHECK(quick.missed() == 0);
    CHECK(numbers.stats().missed == 7);
  });
}

TEST_CASE("a closed broadcast gives each subscriber what it has not heard, and then the end, or the error") {
  support::on_both_surfaces([](auto wait) {
    for (const bool with_error : {false, true}) {
      coir::broadcast<int> numbers(5);
      coir::subscription<int> mine = numbers.subscribe();
      auto waiting = coir::spawn([&] {
        coir::subscription<int> own = numbers.subscribe();
        CHECK(wait(own.receive())->value() == 1);
        if (with_error) {
          CHECK_THROWS_WITH(wait(own.receive()), "no more");
        } else {
          CHECK_FALSE(wait(own.receive()));
        }
      });
      turns(2);
      numbers.publish(1);
      turns(3);
      if (with_error) {
        CHECK(numbers.close(std::make_exception_ptr(std::runtime_error("no more"))));
      } else {
        CHECK(numbers.close());
      }
      CHECK_FALSE(numbers.close());
      CHECK_THROWS_AS(numbers.publish(2), coir::closed);
      CHECK(wait(mine.receive())->value() == 1);
      for (int i = 0; i < 2; ++i) {
        if (with_error) {
          CHECK_THROWS_WITH(wait(mine.receive()), "no more");
        } else {
          CHECK_FALSE(wait(mine.receive()));
        }
      }
      CHECK_FALSE(mine.try_receive());
      coir::await(waiting.join());
    }
  });
}

TEST_CASE("a subscription ends when it is destroyed, and what nobody can hear is not kept") {
  coir::run([] {
    auto value = std::make_shared<int>(1);
    coir::broadcast<std::shared_ptr<int>> news(10);
    news.publish(value);
    CHECK(value.use_count() == 1);
    {
      auto first = news.subscribe();
      auto second = news.subscribe();
      CHECK(news.subscribers() == 2);
      news.publish(value);
      CHECK(value.use_count() == 2);
      auto moved = std::move(first);
      CHECK(news.subscribers() == 2);
      CHECK(moved.pending() == 1);
      CHECK(first.pending() == 0);
      CHECK_FALSE(first.try_receive());
      second = std::move(moved);
      CHECK(news.subscribers() == 1);
      CHECK(*coir::await(second.receive())->value() == 1);
    }
    CHECK(news.subscribers() == 0);
    CHECK(value.use_count() == 1);
    CHECK(news.stats().published == 2);
  });
}

TEST_CASE("a subscriber that is cancelled at any moment has heard a value or will hear it") {
  for (const bool on_stack : {false, true}) {
    for (int published_at = 0; published_at < 5; ++published_at) {
      for (int cancelled_at = 0; cancelled_at < 7; ++cancelled_at) {
        for (const bool cancel_first : {false, true}) {
          INFO("published after " << published_at << ", cancelled after " << cancelled_at);
          coir::run([&] {
            coir::broadcast<int> numbers(5);
            coir::subscription<int> mine = numbers.subscribe();
            ints heard;
            auto who = on_stack ? coir::spawn([&] {
              for (;;) heard.push_back(coir::await(mine.receive())->value());
            })
                                : coir::spawn([](coir::subscription<int>& from, ints& into) -> coir::task<> {
                                    for (;;) {
                                      auto got = co_await from.receive();
                                      into.push_back(got->value());
                                    }
                                  }(mine, heard));
            for (int turn = 0; turn < 7; ++turn) {
              if (turn == cancelled_at && cancel_first) who.cancel();
              if (turn == published_at) numbers.publish(1), numbers.publish(2);
              if (turn == cancelled_at && !cancel_first) who.cancel();
              turns(1);
            }
            turns(2);
            while (auto got = mine.try_receive()) {
              CHECK(got->missed() == 0);
              heard.push_back(got->value());
            }
            CHECK(heard == ints{1, 2});
            CHECK(numbers.stats().waiting == 0);
          });
        }
      }
    }
  }
}

TEST_CASE("a subscription is one fiber's: a second receive at the same time is refused") {
  support::on_both_surfaces([](auto wait) {
    coir::broadcast<int> numbers(5);
    coir::subscription<int> mine = numbers.subscribe();
    auto first = coir::spawn([&] { return wait(mine.receive())->value(); });
    turns(2);
    CHECK_THROWS_AS(wait(mine.receive()), std::logic_error);
    CHECK_THROWS_AS(mine.try_receive(), std::logic_error);
    numbers.publish(1);
    // It was woken, and has not run.
    CHECK_THROWS_AS(mine.try_receive(), std::logic_error);
    CHECK(coir::await(first.join()) == 1);
    CHECK_FALSE(mine.try_receive());
  });
  CHECK_THROWS_AS(coir::broadcast<int>(0), std::logic_error);
}

TEST_CASE("a broadcast is not closed with an error that is none") {
  coir::broadcast<int> numbers(1);
  CHECK_THROWS_AS(numbers.close(nullptr), std::logic_error);
  CHECK_FALSE(numbers.is_closed());
}

TEST_CASE("a copy that throws takes nothing from the subscription") {
  struct fragile {
    explicit fragile(bool& broken) : broken_(&broken) {}
    fragile(const fragile& other) : broken_(other.broken_) {
      if (*broken_) throw std::runtime_error("no copy");
    }
    fragile(fragile&&) noexcept = default;
    bool* broken_;
  };
  support::on_both_surfaces([](auto wait) {
    bool broken = false;
    coir::broadcast<fragile> values(5);
    coir::subscription<fragile> mine = values.subscribe();
    values.publish(fragile(broken));
    broken = true;
    CHECK_THROWS_WITH(wait(mine.receive()), "no copy");
    CHECK(mine.pending() == 1);
    broken = false;
    CHECK(wait(mine.receive()));
  });
}

TEST_CASE("subscriptions outlive their broadcast, at their end; who waits then waits until it is cancelled") {
  bool went_on = false;
  coir::run([&] {
    auto news = std::make_unique<coir::broadcast<int>>(5);
    coir::subscription<int> mine = news->subscribe();
    auto waiting = coir::spawn([&, own = news->subscribe()]() mutable {
      coir::await(own.receive());
      went_on = true;
    });
    turns(2);
    auto woken_late = news->subscribe();
    news.reset();
    CHECK_FALSE(coir::await(mine.receive()));
    CHECK_FALSE(mine.try_receive());
    turns(2);
    CHECK(waiting.state() == coir::fiber_state::waiting);
  });
  CHECK_FALSE(went_on);
}

TEST_CASE("the deadlock report says who waits for which news") {
  try {
    coir::run([] {
      coir::broadcast<int> numbers(5);
      auto mine = numbers.subscribe();
      numbers.publish(1);
      for (;;) coir::await(mine.receive());
    });
    FAIL("it ended");
  } catch (const coir::deadlock& error) {
    CHECK_THAT(error.what(), Contains("broadcast receive of int, after 1 that were published"));
  }
}

TEST_CASE("subscribers of any speed hear everything or are told what they missed") {
  coir::testing::for_each_seed(200, [](std::uint64_t seed) {
    coir::run([&] {
      coir::testing::dice dice(seed);
      coir::broadcast<std::uint64_t> numbers(1 + dice.below(6));
      std::uint64_t published = 0;
      std::uint64_t total_missed = 0;
      coir::with_nursery([&](coir::nursery& n) {
        for (int i = 0; i < 5; ++i) {
          n.spawn([&] {
            coir::subscription<std::uint64_t> mine = numbers.subscribe();
            std::uint64_t next = published;
            while (auto got = coir::await(mine.receive())) {
              next += got->missed();
              REQUIRE(got->value() == next);
              ++next;
              for (auto rest = dice.below(6); rest != 0; --rest) coir::await(coir::yield());
            }
            REQUIRE(next == published);
            total_missed += mine.missed();
          });
        }
        for (int i = 0; i < 60; ++i) {
          numbers.publish(published);
          ++published;
          if (dice.chance(0.6)) coir::await(coir::yield());
        }
        numbers.close();
      });
      REQUIRE(numbers.stats().missed == total_missed);
      REQUIRE(numbers.stats().published == 60);
    });
  });
}
