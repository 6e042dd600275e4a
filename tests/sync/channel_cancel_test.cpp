// Senders and receivers that are cancelled at every moment there is: nothing is lost, nothing comes twice.
#include "support/catch.hpp"

#include <coir/coir.hpp>
#include <coir/testing/dice.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <utility>
#include <vector>

using coir::fiber_outcome;
using item = std::unique_ptr<int>;

namespace {

// What came of the sends and receives that are cancelled.
struct ledger {
  std::vector<int> sent;      // by a send that returned
  std::vector<int> kept;      // by one that did not, which has its value
  std::vector<int> received;
  int after = 0;              // went on past the op, to be cancelled there
};

coir::task<> send_one(coir::channel<item>& to, int number, ledger& all) {
  auto sending = to.send(std::make_unique<int>(number));
  try {
    co_await sending;
    all.sent.push_back(number);
  } catch (...) {
    all.kept.push_back(*sending.value());
    throw;
  }
  co_await coir::yield();
  ++all.after;
}
void send_one_on_stack(coir::channel<item>& to, int number, ledger& all) {
  auto sending = to.send(std::make_unique<int>(number));
  try {
    coir::await(sending);
    all.sent.push_back(number);
  } catch (...) {
    all.kept.push_back(*sending.value());
    throw;
  }
  coir::await(coir::yield());
  ++all.after;
}
coir::task<> receive_one(coir::channel<item>& from, ledger& all) {
  if (auto got = co_await from.receive()) all.received.push_back(**got);
  co_await coir::yield();
  ++all.after;
}
void receive_one_on_stack(coir::channel<item>& from, ledger& all) {
  if (auto got = coir::await(from.receive())) all.received.push_back(**got);
  coir::await(coir::yield());
  ++all.after;
}

enum class surface { coroutine, stack };

coir::fiber<void> spawn_sender(surface on, coir::channel<item>& to, int number, ledger& all) {
  if (on == surface::coroutine) return coir::spawn(send_one(to, number, all));
  return coir::spawn([&to, number, &all] { send_one_on_stack(to, number, all); });
}
coir::fiber<void> spawn_receiver(surface on, coir::channel<item>& from, ledger& all) {
  if (on == surface::coroutine) return coir::spawn(receive_one(from, all));
  return coir::spawn([&from, &all] { receive_one_on_stack(from, all); });
}

void turns(int count) {
  while (count-- != 0) coir::await(coir::yield());
}
std::vector<int> left_in(coir::channel<item>& channel) {
  std::vector<int> all;
  for (const item& each : channel.receive_all()) all.push_back(*each);
  return all;
}
// 1, 2, 3, ... each once, in whatever order.
void check_complete(std::vector<int> all, std::size_t count) {
  std::sort(all.begin(), all.end());
  REQUIRE(all.size() == count);
  for (std::size_t i = 0; i < count; ++i) CHECK(all[i] == static_cast<int>(i) + 1);
}
std::vector<int> together(std::vector<int> some, const std::vector<int>& others) {
  some.insert(some.end(), others.begin(), others.end());
  return some;
}

constexpr surface surfaces[] = {surface::coroutine, surface::stack};

}  // namespace

// Three receivers and three values; the second receiver is cancelled so many turns after the beginning, before or
// behind what is sent then.
TEST_CASE("a receiver that is cancelled at any moment takes a value or leaves it to the next, in order") {
  for (const surface on : surfaces) {
    for (const std::size_t capacity : {std::size_t{0}, std::size_t{1}, std::size_t{8}}) {
      for (int sent_at = 0; sent_at < 5; ++sent_at) {
        for (int cancelled_at = 0; cancelled_at < 8; ++cancelled_at) {
          for (const bool cancel_first : {false, true}) {
            INFO("capacity " << capacity << ", sent after " << sent_at << " turns, cancelled after " << cancelled_at);
            coir::run([&] {
              coir::channel<item> numbers(capacity);
              ledger all;
              std::vector<coir::fiber<void>> receivers;
              for (int i = 0; i < 3; ++i) receivers.push_back(spawn_receiver(on, numbers, all));
              std::vector<coir::fiber<void>> senders;
              for (int turn = 0; turn < 8; ++turn) {
                if (turn == cancelled_at && cancel_first) receivers[1].cancel();
                if (turn == sent_at) {
                  for (int i = 1; i <= 3; ++i) senders.push_back(spawn_sender(on, numbers, i, all));
                }
                if (turn == cancelled_at && !cancel_first) receivers[1].cancel();
                coir::await(coir::yield());
              }
              turns(4);
              // In the order of sending, whoever got it.
              CHECK(std::is_sorted(all.received.begin(), all.received.end()));
              const std::size_t before = all.received.size();
              CHECK(before >= 2);
              check_complete(together(all.received, left_in(numbers)), 3);
              turns(4);
              CHECK(all.sent.size() == 3);
              CHECK(all.kept.empty());
              CHECK(numbers.stats().receivers_waiting == 0);
              CHECK(numbers.stats().sent == 3);
            });
          }
        }
      }
    }
  }
}

TEST_CASE("a sender that is cancelled at any moment has sent its value or has it still, and others move up") {
  for (const surface on : surfaces) {
    for (const std::size_t capacity : {std::size_t{0}, std::size_t{1}, std::size_t{2}}) {
      for (int received_at = 0; received_at < 5; ++received_at) {
        for (int cancelled_at = 0; cancelled_at < 8; ++cancelled_at) {
          for (const bool cancel_first : {false, true}) {
            INFO("capacity " << capacity << ", received after " << received_at << " turns, cancelled after "
                             << cancelled_at);
            coir::run([&] {
              coir::channel<item> numbers(capacity);
              ledger all;
              std::vector<coir::fiber<void>> senders;
              for (int i = 1; i <= 4; ++i) senders.push_back(spawn_sender(on, numbers, i, all));
              for (int turn = 0; turn < 8; ++turn) {
                if (turn == cancelled_at && cancel_first) senders[2].cancel();
                if (turn == received_at) spawn_receiver(on, numbers, all);
                if (turn == cancelled_at && !cancel_first) senders[2].cancel();
                coir::await(coir::yield());
              }
              const std::vector<int> rest = left_in(numbers);
              turns(4);
              const std::vector<int> out = together(all.received, rest);
              CHECK(std::is_sorted(out.begin(), out.end()));
              CHECK(out == all.sent);
              // One that was cancelled before it began has made no value.
              std::vector<int> seen = together(all.sent, all.kept);
              if (std::find(seen.begin(), seen.end(), 3) == seen.end()) {
                CHECK(cancelled_at == 0);
                seen.push_back(3);
              }
              check_complete(seen, 4);
              CHECK(numbers.stats().senders_waiting == 0);
              CHECK(numbers.stats().sent == all.sent.size());
              CHECK(senders[2].outcome() != fiber_outcome::failed);
            });
          }
        }
      }
    }
  }
}

TEST_CASE("a receiver that was given a value and is cancelled before it runs has it, and is cancelled at its next wait") {
  for (const surface on : surfaces) {
    coir::run([&] {
      coir::channel<item> numbers;
      ledger all;
      auto receiver = spawn_receiver(on, numbers, all);
      turns(2);
      CHECK(numbers.try_send(std::make_unique<int>(1)));
      receiver.cancel();
      coir::await(coir::end_op(receiver));
      CHECK(all.received == std::vector<int>{1});
      CHECK(all.after == 0);
      CHECK(receiver.outcome() == fiber_outcome::cancelled);
    });
  }
}

TEST_CASE("a receiver that was given a value and is interrupted before it runs has it too") {
  for (const surface on : surfaces) {
    coir::run([&] {
      coir::channel<item> numbers;
      ledger all;
      auto receiver = spawn_receiver(on, numbers, all);
      turns(2);
      CHECK(numbers.try_send(std::make_unique<int>(1)));
      receiver.interrupt(std::runtime_error("look up"));
      CHECK_THROWS_WITH(coir::await(receiver.join()), "look up");
      CHECK(all.received == std::vector<int>{1});
    });
  }
}

TEST_CASE("a sender whose value was taken and that is cancelled before it runs has sent it") {
  for (const surface on : surfaces) {
    coir::run([&] {
      coir::channel<item> numbers;
      ledger all;
      auto sender = spawn_sender(on, numbers, 1, all);
      turns(2);
      CHECK(**numbers.try_receive() == 1);
      sender.cancel();
      coir::await(coir::end_op(sender));
      CHECK(all.sent == std::vector<int>{1});
      CHECK(all.kept.empty());
      CHECK(all.after == 0);
    });
  }
}

TEST_CASE("of close and cancel in the same turn whichever came first is what a sender and a receiver get") {
  for (const surface on : surfaces) {
    for (const bool cancel_first : {false, true}) {
      coir::run([&] {
        coir::channel<item> full;
        coir::channel<item> empty;
        ledger all;
        auto sender = spawn_sender(on, full, 1, all);
        auto receiver = spawn_receiver(on, empty, all);
        turns(2);
        if (cancel_first) sender.cancel(), receiver.cancel();
        full.close();
        empty.close();
        if (!cancel_first) sender.cancel(), receiver.cancel();
        if (cancel_first) {
          coir::await(coir::end_op(sender));
          CHECK(sender.outcome() == fiber_outcome::cancelled);
        } else {
          CHECK_THROWS_AS(coir::await(sender.join()), coir::closed);
        }
        coir::await(coir::end_op(receiver));
        CHECK(receiver.outcome() == fiber_outcome::cancelled);
        CHECK(all.kept == std::vector<int>{1});
        CHECK(all.after == 0);
      });
    }
  }
}

TEST_CASE("crowds that are cancelled at random lose nothing and get nothing twice") {
  for (std::uint64_t seed = 1; seed <= 200; ++seed) {
    INFO("seed " << seed);
    coir::testing::dice dice(seed);
    coir::run([&] {
      coir::channel<item> numbers(dice.below(4));
      ledger all;
      std::vector<coir::fiber<void>> crowd;
      int made = 0;
      for (int turn = 0; turn < 40; ++turn) {
        const surface on = surfaces[dice.below(2)];
        switch (dice.below(4)) {
          case 0:
          case 1: crowd.push_back(spawn_sender(on, numbers, ++made, all)); break;
          case 2: crowd.push_back(spawn_receiver(on, numbers, all)); break;
          default:
            if (!crowd.empty()) crowd[dice.below(crowd.size())].cancel();
        }
        if (dice.chance(0.5)) coir::await(coir::yield());
      }
      turns(4);
      for (auto& each : crowd) each.cancel();
      turns(4);
      const std::vector<int> rest = left_in(numbers);
      std::vector<int> out = together(all.received, rest);
      std::sort(out.begin(), out.end());
      std::vector<int> in = all.sent;
      std::sort(in.begin(), in.end());
      CHECK(out == in);
      for (const int each : all.kept) CHECK(std::find(in.begin(), in.end(), each) == in.end());
    });
  }
}
