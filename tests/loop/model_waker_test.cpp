#include "support/catch.hpp"
#include "support/model.hpp"

#include <coir/loop/loop.hpp>

#include <cstdint>
#include <memory>
#include <stdexcept>

namespace {

struct state {
  state() : count(0), woken(on.waker([this](std::uint64_t more) { count += more; })), end(woken.share()) {}
  coir::loop on;
  std::uint64_t count;
  int done = 0;
  coir::waker woken;
  coir::waker_end end;
};

}  // namespace

TEST_CASE("what two threads count reaches the loop, all of it") {
  const auto tried = model::explore([](model::run& now) {
    auto shared = std::make_shared<state>();
    for (const std::uint64_t count : {1u, 2u}) {
      now.thread([shared, count] {
        shared->end.wake(count);
        ++shared->done;
      });
    }
    now.thread([shared] {
      shared->on.run_once();
      model::point("between two looks", nullptr);
      shared->on.run_once();
      model::wait([shared] { return shared->done == 2; });
      shared->on.run_once();
      model::check(shared->count == 3, "a wake was lost, or counted twice");
    });
  });
  CHECK(tried.failure == "");
  CHECK(tried.runs > 10);
}

TEST_CASE("a wake that meets the end of its waker is refused or reaches nobody, and no stranger") {
  const auto tried = model::explore([](model::run& now) {
    auto shared = std::make_shared<state>();
    now.thread([shared] {
      try {
        shared->end.wake();
      } catch (const std::logic_error&) {
      }
    });
    now.thread([shared] {
      shared->woken.reset();
      shared->on.run_once();
    });
    now.after([shared] {
      model::check(shared->count == 0, "what was ended was called");
      model::check(!shared->end, "it has ended");
    });
  }, {.preemptions = 3});
  CHECK(tried.failure == "");
  CHECK(tried.runs > 3);
}
