// A million timers against a model: an ordered set of (deadline, sequence).
#include <coir/base/config.hpp>
#include <coir/loop/timer_heap.hpp>

#include "support/catch.hpp"

#include <algorithm>
#include <memory>
#include <random>
#include <set>
#include <utility>
#include <vector>

namespace {

using key = std::pair<coir::instant, std::uint64_t>;

struct numbered : coir::timer_node {
  numbered() : timer_node(fire) {}
  static void fire(coir::timer_node& which) { fired->push_back(static_cast<numbered*>(&which)); }
  static inline std::vector<numbered*>* fired = nullptr;
  key due;
};

// The model and the heap side by side. A fixed seed: what fails once fails always.
class trial {
 public:
  explicit trial(std::size_t count) : timers_(count) { numbered::fired = &fired_; }
  ~trial() {
    for (numbered& each : timers_) heap_.disarm(each);
  }

  std::mt19937_64 random{20'240'607};
  std::size_t size() const { return timers_.size(); }
  numbered& any() { return timers_[random() % timers_.size()]; }

  void arm(numbered& which, coir::instant deadline) {
    if (which.armed()) model_.erase({which.due, &which});
    which.due = {deadline, sequence_++};
    model_.insert({which.due, &which});
    heap_.arm(which, deadline);
  }
  void disarm(numbered& which) {
    const bool was = which.armed();
    REQUIRE((model_.erase({which.due, &which}) != 0) == was);
    REQUIRE(heap_.disarm(which) == was);
    REQUIRE_FALSE(which.armed());
  }
  void fire(coir::instant now, std::size_t limit) {
    fired_.clear();
    heap_.collect(now, limit);
    std::size_t count = 0;
    while (heap_.fire_next()) ++count;
    REQUIRE(count == fired_.size());
    bool same = true;
    for (numbered* each : fired_) {
      same &= model_.begin()->second == each && each->due.first <= now;
      model_.erase(model_.begin());
    }
    REQUIRE(same);
    REQUIRE((count == limit || model_.empty() || model_.begin()->first.first > now));
    check();
  }
  void check() const {
    REQUIRE(heap_.size() == model_.size());
    REQUIRE(heap_.empty() == model_.empty());
    REQUIRE(heap_.next() == (model_.empty() ? coir::never : model_.begin()->first.first));
  }

  std::vector<numbered>& timers() { return timers_; }

 private:
  std::vector<numbered> timers_;
  std::set<std::pair<key, numbered*>> model_;
  coir::timer_heap heap_;
  std::vector<numbered*> fired_;
  std::uint64_t sequence_ = 0;
};

coir::instant at(std::uint64_t nanoseconds) {
  return coir::instant(std::chrono::nanoseconds(static_cast<std::int64_t>(nanoseconds)));
}

}  // namespace

TEST_CASE("a heap does what an ordered set would do, through any series of arm, move, disarm and fire") {
  trial all(300);
  std::uint64_t now = 0;
  for (int step = 0; step < 200'000; ++step) {
    switch (all.random() % 8) {
      case 0:
      case 1:
      case 2:
      case 3: all.arm(all.any(), at(now + all.random() % 500)); break;
      case 4:
      case 5: all.disarm(all.any()); break;
      case 6: all.arm(all.any(), at(now)); break;
      default:
        now += all.random() % 20;
        all.fire(at(now), all.random() % 4 == 0 ? 3 : 1024);
    }
  }
  all.fire(coir::never, 1024);
}

TEST_CASE("a million timers are cancelled, moved and fired as a model says") {
  // The address sanitizer makes the model's nodes ten times as slow, and sees no more in a million than in this.
  constexpr std::size_t count = COIR_ADDRESS_SANITIZER ? 100'000 : 1'000'000;
  trial all(count);
  constexpr std::uint64_t horizon = 50'000'000;
  for (numbered& each : all.timers()) all.arm(each, at(all.random() % horizon));
  all.check();
  for (std::size_t i = 0; i < count / 4; ++i) {
    all.disarm(all.any());
    all.arm(all.any(), at(all.random() % horizon));
  }
  all.check();
  // One in ten moves once more while the clock goes on; few of equal deadlines, many of different ones.
  std::uint64_t now = 0;
  while (now < horizon) {
    now += horizon / 500;
    all.fire(at(now), count);
    for (std::size_t i = 0; i < count / 5000; ++i) {
      if (numbered& which = all.any(); which.armed()) all.arm(which, at(now + all.random() % 1000));
    }
  }
  all.fire(coir::never, count);
  CHECK(std::none_of(all.timers().begin(), all.timers().end(),
                     [](const numbered& each) { return each.armed(); }));
}
