// A channel against a model of what it promises: deques of values, of senders, of receivers.
#include "support/catch.hpp"

#include <coir/coir.hpp>
#include <coir/testing/dice.hpp>
#include <coir/testing/seeds.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace {

// What became of a fiber that sends or receives: "sent", "closed", "cancelled", "end", or the number received.
using outcome = std::string;

struct actor {
  coir::fiber<void> who;
  std::shared_ptr<outcome> came = std::make_shared<outcome>();
  outcome expected;
};

template <class Wait>
void send_and_tell(Wait wait, coir::channel<std::unique_ptr<int>>& to, int number, outcome& came) {
  auto sending = to.send(std::make_unique<int>(number));
  try {
    wait(sending);
    came = "sent";
  } catch (const coir::closed&) {
    came = *sending.value() == number ? "closed" : "its value is gone";
  } catch (const coir::cancelled&) {
    came = *sending.value() == number ? "cancelled" : "its value is gone";
    throw;
  }
}
coir::task<> send_and_tell_in_task(coir::channel<std::unique_ptr<int>>& to, int number, std::shared_ptr<outcome> came) {
  auto sending = to.send(std::make_unique<int>(number));
  try {
    co_await sending;
    *came = "sent";
  } catch (const coir::closed&) {
    *came = *sending.value() == number ? "closed" : "its value is gone";
  } catch (const coir::cancelled&) {
    *came = *sending.value() == number ? "cancelled" : "its value is gone";
    throw;
  }
}
outcome told(const std::optional<std::unique_ptr<int>>& got) { return got ? std::to_string(**got) : "end"; }
coir::task<> receive_and_tell_in_task(coir::channel<std::unique_ptr<int>>& from, std::shared_ptr<outcome> came) {
  try {
    *came = told(co_await from.receive());
  } catch (const coir::cancelled&) {
    *came = "cancelled";
    throw;
  }
}

class game {
 public:
  explicit game(std::uint64_t seed) : dice_(seed), capacity_(any_capacity()), real_(capacity_) {}

  void play() {
    for (int step = 0; step < 80; ++step) {
      move();
      check_now();
      // Between two moves everybody runs, or nobody does.
      if (dice_.chance(0.6)) run_all();
    }
    run_all();
    for (actor& each : actors_) {
      if (each.expected.empty()) {
        each.who.cancel();
        each.expected = "cancelled";
      }
    }
    run_all();
    for (const actor& each : actors_) REQUIRE(*each.came == each.expected);
  }

 private:
  std::size_t any_capacity() {
    const std::uint64_t drawn = dice_.below(5);
    return drawn == 4 ? coir::unbounded : static_cast<std::size_t>(drawn);
  }
  void run_all() {
    for (int i = 0; i < 3; ++i) coir::await(coir::yield());
  }

  void move() {
    switch (dice_.below(14)) {
      case 0:
      case 1:
      case 2: return send();
      case 3:
      case 4:
      case 5: return receive();
      case 6: return try_send();
      case 7: return try_receive();
      case 8:
      case 9: return cancel();
      case 10: return unshift();
      case 11: return change_capacity();
      case 12:
        if (dice_.chance(0.5)) return remove();
        return clear();
      default:
        if (dice_.chance(0.1)) return close();
        if (dice_.chance(0.3)) return receive_all();
    }
  }

  // --- moves: on the real one, and on the model ---

  void send() {
    actor& one = begin([&](actor& each) {
      const int number = ++made_;
      sending_[&each] = number;
      if (dice_.chance(0.5)) return coir::spawn(send_and_tell_in_task(real_, number, each.came));
      return coir::spawn([this, number, came = each.came] {
        send_and_tell([](auto& op) { coir::await(op); }, real_, number, *came);
      });
    });
    const int number = sending_[&one];
    if (!receivers_.empty()) {
      hand_to_receiver(number);
      one.expected = "sent";
    } else if (closed_) {
      one.expected = "closed";
    } else if (values_.size() < capacity_) {
      values_.push_back(number);
      one.expected = "sent";
    } else {
      senders_.push_back(&one);
    }
  }
  void receive() {
    actor& one = begin([&](actor& each) {
      if (dice_.chance(0.5)) return coir::spawn(receive_and_tell_in_task(real_, each.came));
      return coir::spawn([this, came = each.came] {
        try {
          *came = told(coir::await(real_.receive()));
        } catch (const coir::cancelled&) {
          *came = "cancelled";
          throw;
        }
      });
    });
    if (const std::optional<int> number = take()) {
      one.expected = std::to_string(*number);
    } else if (closed_) {
      one.expected = "end";
    } else {
      receivers_.push_back(&one);
    }
  }
  void try_send() {
    const int number = ++made_;
    auto value = std::make_unique<int>(number);
    if (!receivers_.empty()) {
      REQUIRE(real_.try_send(std::move(value)));
      hand_to_receiver(number);
    } else if (closed_) {
      REQUIRE_THROWS_AS(real_.try_send(std::move(value)), coir::closed);
      REQUIRE(value != nullptr);
    } else if (values_.size() < capacity_) {
      REQUIRE(real_.try_send(std::move(value)));
      values_.push_back(number);
    } else {
      REQUIRE_FALSE(real_.try_send(std::move(value)));
      REQUIRE(value != nullptr);
    }
  }
  void try_receive() {
    const auto got = real_.try_receive();
    const std::optional<int> number = take();
    REQUIRE(got.has_value() == number.has_value());
    if (got) REQUIRE(**got == *number);
  }
  void receive_all() {
    std::vector<int> got;
    for (const auto& each : real_.receive_all()) got.push_back(*each);
    std::vector<int> expected;
    while (const std::optional<int> number = take()) expected.push_back(*number);
    REQUIRE(got == expected);
  }
  void cancel() {
    if (actors_.empty()) return;
    actor& one = actors_[dice_.below(actors_.size())];
    one.who.cancel();
    if (!one.expected.empty()) return;
    one.expected = "cancelled";
    std::erase(senders_, &one);
    std::erase(receivers_, &one);
  }
  void unshift() {
    const int number = ++made_;
    if (closed_) {
      REQUIRE_THROWS_AS(real_.unshift(std::make_unique<int>(number)), coir::closed);
      return;
    }
    real_.unshift(std::make_unique<int>(number));
    if (!receivers_.empty()) {
      hand_to_receiver(number);
    } else {
      values_.push_front(number);
    }
  }
  void change_capacity() {
    capacity_ = any_capacity();
    real_.set_capacity(capacity_);
    admit();
  }
  void remove() {
    const int modulus = static_cast<int>(2 + dice_.below(3));
    const std::size_t gone = real_.remove_if([&](const auto& each) { return *each % modulus == 0; });
    REQUIRE(gone == std::erase_if(values_, [&](int each) { return each % modulus == 0; }));
    admit();
  }
  void clear() {
    REQUIRE(real_.clear() == values_.size());
    values_.clear();
    admit();
  }
  void close() {
    REQUIRE(real_.close() == !closed_);
    if (std::exchange(closed_, true)) return;
    for (actor* each : std::exchange(senders_, {})) each->expected = "closed";
    for (actor* each : std::exchange(receivers_, {})) each->expected = "end";
  }

  // --- the model ---

  void hand_to_receiver(int number) {
    receivers_.front()->expected = std::to_string(number);
    receivers_.pop_front();
  }
  int take_from_sender() {
    actor& first = *senders_.front();
    senders_.pop_front();
    first.expected = "sent";
    return sending_[&first];
  }
  void admit() {
    while (!closed_ && !senders_.empty() && values_.size() < capacity_) values_.push_back(take_from_sender());
  }
  std::optional<int> take() {
    if (!values_.empty()) {
      const int first = values_.front();
      values_.pop_front();
      admit();
      return first;
    }
    if (!senders_.empty()) return take_from_sender();
    return std::nullopt;
  }
  void check_now() {
    REQUIRE(real_.size() == values_.size());
    REQUIRE(real_.empty() == values_.empty());
    REQUIRE(real_.capacity() == capacity_);
    REQUIRE(real_.is_closed() == closed_);
    REQUIRE(real_.senders_waiting() == senders_.size());
    REQUIRE(real_.receivers_waiting() == receivers_.size());
    const coir::channel_stats stats = real_.stats();
    REQUIRE(stats.sent == stats.received + stats.removed + stats.buffered);
  }

  // The fiber begins at once: the model knows no time between a spawn and a first run.
  template <class Spawn>
  actor& begin(Spawn&& spawn) {
    // All that were woken run first.
    run_all();
    actors_.emplace_back();
    actor& one = actors_.back();
    one.who = spawn(one);
    coir::await(coir::yield());
    return one;
  }

  coir::testing::dice dice_;
  std::size_t capacity_;
  coir::channel<std::unique_ptr<int>> real_;
  std::deque<actor> actors_;  // whose elements stay where they are
  std::map<const actor*, int> sending_;
  std::deque<int> values_;
  std::deque<actor*> senders_;
  std::deque<actor*> receivers_;
  bool closed_ = false;
  int made_ = 0;
};

}  // namespace

TEST_CASE("a channel does what its model says, 1,000 games of chance long") {
  coir::testing::for_each_seed(1'000, [](std::uint64_t seed) {
    coir::run([seed] { game(seed).play(); });
  });
}
