#include "support/catch.hpp"
#include "support/model.hpp"
#include "support/model_lock.hpp"

#include <coir/base/atomic.hpp>

#include <chrono>
#include <memory>
#include <mutex>
#include <set>
#include <string>

namespace {

using Catch::Matchers::Contains;

struct counter {
  coir::atomic<int> value{0};
};

void count_to_two(model::run& now, void (*increment)(counter&)) {
  auto shared = std::make_shared<counter>();
  for (int i = 0; i < 2; ++i) now.thread([shared, increment] { increment(*shared); });
  now.after([shared] { model::check(shared->value.load() == 2, "an increment was lost"); });
}

}  // namespace

TEST_CASE("the model finds an update that is lost between two threads") {
  const auto found = model::explore([](model::run& now) {
    count_to_two(now, [](counter& shared) { shared.value.store(shared.value.load() + 1); });
  });
  CHECK_THAT(found.failure, Contains("an increment was lost"));
  CHECK_THAT(found.failure, Contains("thread 1: store"));
}

TEST_CASE("the model finds nothing where nothing is lost") {
  const auto found = model::explore([](model::run& now) {
    count_to_two(now, [](counter& shared) { shared.value.fetch_add(1); });
  });
  CHECK(found.failure == "");
  CHECK(found.runs > 2);
}

TEST_CASE("without preemptions each thread runs to its end") {
  const auto found = model::explore(
      [](model::run& now) {
        count_to_two(now, [](counter& shared) { shared.value.store(shared.value.load() + 1); });
      },
      {.preemptions = 0});
  CHECK(found.failure == "");
  CHECK(found.runs == 2);
}

TEST_CASE("the model tries every order of three threads") {
  std::set<std::string> orders;
  const auto found = model::explore([&](model::run& now) {
    auto order = std::make_shared<std::string>();
    for (const char who : {'a', 'b', 'c'}) now.thread([order, who] { *order += who; });
    now.after([order, &orders] { orders.insert(*order); });
  });
  CHECK(found.failure == "");
  CHECK(orders.size() == 6);
}

TEST_CASE("the model finds a wake-up that comes between the look and the sleep") {
  struct naive {
    coir::atomic<bool> work{false};
    coir::atomic<bool> asleep{false};
    bool rung = false;
  };
  const auto found = model::explore([](model::run& now) {
    auto shared = std::make_shared<naive>();
    now.thread([shared] {
      shared->work.store(true);
      if (shared->asleep.load()) shared->rung = true;
    });
    now.thread([shared] {
      if (shared->work.load()) return;
      shared->asleep.store(true);
      model::wait([shared] { return shared->rung; });
    });
  });
  CHECK_THAT(found.failure, Contains("a wake-up was lost"));
}

TEST_CASE("the model finds what is done between two locks that should be done in one") {
  struct guarded {
    coir::thread_mutex lock;
    int value = 0;
  };
  const auto tried = [](bool in_one) {
    return model::explore([in_one](model::run& now) {
      auto shared = std::make_shared<guarded>();
      for (int i = 0; i < 2; ++i) {
        now.thread([shared, in_one] {
          std::unique_lock held(shared->lock);
          const int before = shared->value;
          if (!in_one) {
            held.unlock();
            held.lock();
          }
          shared->value = before + 1;
        });
      }
      now.after([shared] { model::check(shared->value == 2, "an increment was lost"); });
    });
  };
  CHECK(tried(true).failure == "");
  CHECK_THAT(tried(false).failure, Contains("an increment was lost"));
}

TEST_CASE("a wait with a limit is called, and where that is allowed its time is over too, before and after the call") {
  struct sleeper {
    coir::thread_mutex lock;
    coir::thread_condition called;
    bool awake = false;
  };
  std::set<std::string> ends;
  const auto tried = [&ends](unsigned timeouts, bool is_called) {
    ends.clear();
    return model::explore(
        [&ends, is_called](model::run& now) {
          auto shared = std::make_shared<sleeper>();
          now.thread([shared, &ends] {
            std::unique_lock held(shared->lock);
            const bool awake = shared->called.wait_for(held, std::chrono::seconds(1), [&] { return shared->awake; });
            ends.insert(awake ? "awake" : "over");
            model::check(awake == shared->awake, "what it says is so");
          });
          now.thread([shared, is_called] {
            {
              const std::lock_guard held(shared->lock);
              shared->awake = true;
            }
            if (is_called) shared->called.notify_one();
          });
        },
        {.timeouts = timeouts});
  };
  CHECK(tried(0, true).failure == "");
  CHECK(ends == std::set<std::string>{"awake"});
  CHECK(tried(1, true).failure == "");
  CHECK(ends == std::set<std::string>{"awake", "over"});
  CHECK_THAT(tried(0, false).failure, Contains("a wake-up was lost"));
  CHECK(tried(1, false).failure == "");
}

TEST_CASE("what a thread throws is a failure of the run") {
  const auto found = model::explore([](model::run& now) { now.thread([] { throw 1; }); });
  CHECK_THAT(found.failure, Contains("a thread threw"));
}
