#include "support/both.hpp"
#include "support/catch.hpp"
#include "support/jumping.hpp"

#include <coir/coir.hpp>

#include <algorithm>
#include <chrono>
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

template <class Wait>
std::vector<int> drained(Wait wait, coir::channel<int>& from) {
  std::vector<int> all;
  while (auto one = wait(from.receive())) all.push_back(*one);
  return all;
}

// Fibers that send so many values, one each, and say when they have.
template <class Wait>
auto senders(Wait wait, coir::channel<int>& to, std::string& done, int count) {
  std::vector<coir::fiber<void>> all;
  for (int i = 0; i < count; ++i) {
    all.push_back(coir::spawn([&to, &done, wait, i] {
      wait(to.send(i));
      done += std::to_string(i);
    }));
  }
  turns(2);
  return all;
}

using ints = std::vector<int>;

}  // namespace

// --- order, capacity ---

TEST_CASE("values come out of a channel in the order in which they went in") {
  support::on_both_surfaces([](auto wait) {
    for (const std::size_t capacity : {std::size_t{0}, std::size_t{1}, std::size_t{7}, coir::unbounded}) {
      coir::channel<int> numbers(capacity);
      auto sender = coir::spawn([&] {
        for (int i = 0; i < 100; ++i) wait(numbers.send(i));
        numbers.close();
      });
      const ints got = drained(wait, numbers);
      REQUIRE(got.size() == 100);
      for (int i = 0; i < 100; ++i) CHECK(got[static_cast<std::size_t>(i)] == i);
      coir::await(sender.join());
    }
  });
}

TEST_CASE("a send waits while the channel is full, and goes on when there is room") {
  support::on_both_surfaces([](auto wait) {
    coir::channel<int> numbers(2);
    std::string done;
    senders(wait, numbers, done, 3);
    CHECK(done == "01");
    CHECK(numbers.size() == 2);
    CHECK(numbers.senders_waiting() == 1);
    CHECK(wait(numbers.receive()) == 0);
    CHECK(numbers.size() == 2);
    turns(2);
    CHECK(done == "012");
    CHECK(numbers.receive_all() == ints{1, 2});
  });
}

TEST_CASE("without capacity a send lasts until somebody receives") {
  support::on_both_surfaces([](auto wait) {
    coir::channel<int> hand;
    std::string done;
    senders(wait, hand, done, 2);
    CHECK(done.empty());
    CHECK(hand.empty());
    CHECK(wait(hand.receive()) == 0);
    turns(1);
    turns(1);
    CHECK(done == "0");
    CHECK(wait(hand.receive()) == 1);
  });
}

TEST_CASE("receivers are served in the order in which they came") {
  support::on_both_surfaces([](auto wait) {
    coir::channel<int> numbers(8);
    std::string order;
    coir::with_nursery([&](coir::nursery& n) {
      for (const char who : {'a', 'b', 'c'}) {
        n.spawn([&, who] { order += who + std::to_string(*wait(numbers.receive())); });
      }
      turns(2);
      CHECK(numbers.receivers_waiting() == 3);
      for (int i = 1; i <= 3; ++i) wait(numbers.send(i));
      CHECK(numbers.receivers_waiting() == 0);
      CHECK(numbers.empty());
    });
    CHECK(order == "a1b2c3");
  });
}

TEST_CASE("senders that wait for the one place send in the order in which they came") {
  support::on_both_surfaces([](auto wait) {
    coir::channel<int> numbers(1);
    std::string done;
    senders(wait, numbers, done, 6);
    ints got;
    for (int i = 0; i < 6; ++i) got.push_back(*wait(numbers.receive()));
    CHECK(got == ints{0, 1, 2, 3, 4, 5});
    turns(2);
    CHECK(done == "012345");
  });
}

TEST_CASE("whoever comes later does not overtake a sender that was given a place") {
  support::on_both_surfaces([](auto wait) {
    coir::channel<int> numbers(1);
    std::string done;
    senders(wait, numbers, done, 2);
    CHECK(wait(numbers.receive()) == 0);
    // The place is that of sender 1, which has not run yet.
    CHECK_FALSE(numbers.try_send(9));
    CHECK(wait(numbers.receive()) == 1);
    CHECK(numbers.try_send(9));
    CHECK(numbers.receive_all() == ints{9});
  });
}

// --- without waiting ---

TEST_CASE("trying to send leaves the value untouched where there is no room") {
  support::on_both_surfaces([](auto wait) {
    coir::channel<std::unique_ptr<int>> hand;
    auto value = std::make_unique<int>(7);
    CHECK_FALSE(hand.try_send(std::move(value)));
    REQUIRE(value != nullptr);
    auto receiver = coir::spawn([&] { return **wait(hand.receive()); });
    turns(2);
    CHECK(hand.try_send(std::move(value)));
    CHECK(value == nullptr);
    CHECK(coir::await(receiver.join()) == 7);
    hand.close();
    value = std::make_unique<int>(8);
    CHECK_THROWS_AS(hand.try_send(std::move(value)), coir::closed);
    CHECK_THROWS_AS(hand.unshift(std::move(value)), coir::closed);
    CHECK(value != nullptr);
  });
}

TEST_CASE("trying to receive gives what is there, takes it from a sender that waits, and is empty else") {
  support::on_both_surfaces([](auto wait) {
    coir::channel<int> hand;
    CHECK_FALSE(hand.try_receive());
    std::string done;
    senders(wait, hand, done, 1);
    CHECK(hand.try_receive() == 0);
    CHECK_FALSE(hand.try_receive());
    turns(2);
    CHECK(done == "0");
    hand.close(std::make_exception_ptr(std::runtime_error("over")));
    CHECK_FALSE(hand.try_receive());
  });
}

TEST_CASE("all that is there can be taken at once, with what senders wait to send, and then nothing") {
  support::on_both_surfaces([](auto wait) {
    for (const std::size_t capacity : {std::size_t{0}, std::size_t{2}}) {
      coir::channel<int> numbers(capacity);
      std::string done;
      senders(wait, numbers, done, 4);
      CHECK(numbers.receive_all() == ints{0, 1, 2, 3});
      CHECK(numbers.receive_all().empty());
      turns(2);
      CHECK(done == "0123");
    }
  });
}

// --- those who wait are released exactly ---

TEST_CASE("a greater capacity releases exactly the senders that now fit, in order") {
  support::on_both_surfaces([](auto wait) {
    coir::channel<int> numbers;
    std::string done;
    senders(wait, numbers, done, 6);
    numbers.set_capacity(2);
    CHECK(numbers.senders_waiting() == 4);
    turns(2);
    CHECK(done == "01");
    numbers.set_capacity(5);
    CHECK(numbers.senders_waiting() == 1);
    turns(2);
    CHECK(done == "01234");
    numbers.set_capacity(coir::unbounded);
    CHECK(numbers.senders_waiting() == 0);
    CHECK(numbers.receive_all() == ints{0, 1, 2, 3, 4, 5});
  });
}

TEST_CASE("a smaller capacity throws nothing away, and who sends waits until there is room again") {
  support::on_both_surfaces([](auto wait) {
    coir::channel<int> numbers(3);
    for (int i = 0; i < 3; ++i) wait(numbers.send(10 + i));
    numbers.set_capacity(0);
    CHECK(numbers.capacity() == 0);
    std::string done;
    senders(wait, numbers, done, 2);
    CHECK(numbers.size() == 3);
    CHECK(numbers.senders_waiting() == 2);
    ints got;
    for (int i = 0; i < 5; ++i) got.push_back(*wait(numbers.receive()));
    CHECK(got == ints{10, 11, 12, 0, 1});
  });
}

TEST_CASE("removing values releases as many senders as values went") {
  support::on_both_surfaces([](auto wait) {
    coir::channel<int> numbers(4);
    for (const int i : {7, 8, 7, 9}) wait(numbers.send(i));
    std::string done;
    senders(wait, numbers, done, 3);
    CHECK(numbers.remove(7) == 2);
    CHECK(numbers.senders_waiting() == 1);
    turns(2);
    CHECK(done == "01");
    CHECK(numbers.remove(6) == 0);
    CHECK(numbers.remove_if([](int each) { return each >= 8; }) == 2);
    CHECK(numbers.receive_all() == ints{0, 1, 2});
  });
}

TEST_CASE("what throws while it compares removes what it wanted gone before, and senders take the places") {
  support::on_both_surfaces([](auto wait) {
    coir::channel<int> numbers(3);
    for (const int i : {7, 8, 9}) wait(numbers.send(i));
    std::string done;
    senders(wait, numbers, done, 2);
    const auto seven_until_nine = [](int each) {
      if (each == 9) throw std::runtime_error("9");
      return each == 7;
    };
    CHECK_THROWS_AS(numbers.remove_if(seven_until_nine), std::runtime_error);
    CHECK(numbers.stats().removed == 1);
    CHECK(numbers.receive_all() == ints{8, 9, 0, 1});
  });
}

TEST_CASE("clearing a channel releases exactly the senders that now fit") {
  support::on_both_surfaces([](auto wait) {
    coir::channel<int> numbers(2);
    wait(numbers.send(7));
    wait(numbers.send(8));
    std::string done;
    senders(wait, numbers, done, 3);
    CHECK(numbers.clear() == 2);
    CHECK(numbers.senders_waiting() == 1);
    turns(2);
    CHECK(done == "01");
    CHECK(numbers.receive_all() == ints{0, 1, 2});
  });
}

TEST_CASE("a value that uses its channel when it is destroyed finds it in order") {
  struct noisy {
    explicit noisy(coir::channel<noisy>* channel) noexcept : into(channel) {}
    noisy(noisy&& other) noexcept : into(std::exchange(other.into, nullptr)) {}
    ~noisy() {
      if (into != nullptr) into->try_send(noisy(nullptr));
    }
    coir::channel<noisy>* into;
  };
  coir::run([] {
    coir::channel<noisy> loud(3);
    for (int i = 0; i < 3; ++i) coir::await(loud.send(noisy(&loud)));
    CHECK(loud.clear() == 3);
    CHECK(loud.size() == 3);
    CHECK(loud.clear() == 3);
    CHECK(loud.empty());
  });
}

TEST_CASE("what is put in front is received first, also where there is no room") {
  support::on_both_surfaces([](auto wait) {
    coir::channel<int> numbers(1);
    wait(numbers.send(1));
    std::string done;
    senders(wait, numbers, done, 1);
    numbers.unshift(5);
    CHECK(numbers.size() == 2);
    CHECK(wait(numbers.receive()) == 5);
    CHECK(numbers.senders_waiting() == 1);
    CHECK(wait(numbers.receive()) == 1);
    CHECK(numbers.senders_waiting() == 0);
    CHECK(wait(numbers.receive()) == 0);

    auto receiver = coir::spawn([&] { return *wait(numbers.receive()); });
    turns(2);
    numbers.unshift(6);
    CHECK(numbers.empty());
    CHECK(coir::await(receiver.join()) == 6);
  });
}

// --- close ---

TEST_CASE("a closed channel gives what is left, and then an end that lasts") {
  support::on_both_surfaces([](auto wait) {
    coir::channel<int> numbers(3);
    wait(numbers.send(1));
    wait(numbers.send(2));
    CHECK_FALSE(numbers.is_closed());
    CHECK(numbers.close());
    CHECK(numbers.is_closed());
    CHECK_THROWS_AS(wait(numbers.send(3)), coir::closed);
    CHECK(wait(numbers.receive()) == 1);
    CHECK(wait(numbers.receive()) == 2);
    CHECK_FALSE(wait(numbers.receive()));
    CHECK_FALSE(wait(numbers.receive()));
  });
}

TEST_CASE("a channel that is closed with an error gives what is left, and then the error to all") {
  support::on_both_surfaces([](auto wait) {
    coir::channel<int> numbers(3);
    wait(numbers.send(1));
    numbers.close(std::make_exception_ptr(std::runtime_error("the disk is full")));
    CHECK(wait(numbers.receive()) == 1);
    for (int i = 0; i < 2; ++i) CHECK_THROWS_WITH(wait(numbers.receive()), "the disk is full");
    CHECK_THROWS_AS(wait(numbers.send(3)), coir::closed);
  });
}

TEST_CASE("the first close counts") {
  support::on_both_surfaces([](auto wait) {
    coir::channel<int> numbers;
    CHECK(numbers.close());
    CHECK_FALSE(numbers.close());
    CHECK_FALSE(numbers.close(std::make_exception_ptr(std::runtime_error("late"))));
    CHECK_FALSE(wait(numbers.receive()));
    CHECK_THROWS_AS(numbers.close(nullptr), std::logic_error);
  });
}

TEST_CASE("senders that wait when a channel is closed get closed, each with its value back") {
  support::on_both_surfaces([](auto) {
    coir::channel<std::unique_ptr<int>> hand;
    int kept = 0;
    coir::with_nursery([&](coir::nursery& n) {
      for (int i = 1; i <= 3; ++i) {
        n.spawn([](coir::channel<std::unique_ptr<int>>& to, int number, int& sum) -> coir::task<> {
          auto sending = to.send(std::make_unique<int>(number));
          try {
            co_await sending;
          } catch (const coir::closed&) {
            const std::unique_ptr<int> back = sending.value();
            sum += *back;
          }
        }(hand, i, kept));
        n.spawn([&hand, i, &kept] {
          auto sending = hand.send(std::make_unique<int>(10 * i));
          try {
            coir::await(sending);
          } catch (const coir::closed&) {
            const std::unique_ptr<int> back = sending.value();
            kept += *back;
          }
        });
      }
      turns(2);
      CHECK(hand.senders_waiting() == 6);
      hand.close();
      CHECK(hand.senders_waiting() == 0);
    });
    CHECK(kept == 66);
  });
}

TEST_CASE("receivers that wait when a channel is closed get the end, or the error") {
  support::on_both_surfaces([](auto wait) {
    for (const bool with_error : {false, true}) {
      coir::channel<int> numbers;
      int ends = 0;
      int errors = 0;
      coir::with_nursery([&](coir::nursery& n) {
        for (int i = 0; i < 3; ++i) {
          n.spawn([&] {
            try {
              ends += !wait(numbers.receive());
            } catch (const std::runtime_error&) {
              ++errors;
            }
          });
        }
        turns(2);
        if (with_error) {
          numbers.close(std::make_exception_ptr(std::runtime_error("over")));
        } else {
          numbers.close();
        }
      });
      CHECK(ends == (with_error ? 0 : 3));
      CHECK(errors == (with_error ? 3 : 0));
    }
  });
}

TEST_CASE("closed is a system error, which as_result gives as a code") {
  support::on_both_surfaces([](auto wait) {
    coir::channel<int> numbers;
    numbers.close();
    const auto sent = wait(coir::as_result(numbers.send(1)));
    REQUIRE_FALSE(sent.has_value());
    CHECK(sent.error() == std::errc::broken_pipe);
    const auto got = wait(coir::as_result(numbers.receive()));
    REQUIRE(got.has_value());
    CHECK_FALSE(got->has_value());
  });
}

// --- values, ops ---

TEST_CASE("values that can only be moved pass through channels of every capacity") {
  support::on_both_surfaces([](auto wait) {
    for (const std::size_t capacity : {std::size_t{0}, std::size_t{2}, coir::unbounded}) {
      coir::channel<std::unique_ptr<int>> pointers(capacity);
      auto sender = coir::spawn([&] {
        for (int i = 0; i < 10; ++i) wait(pointers.send(std::make_unique<int>(i)));
        pointers.close();
      });
      int next = 0;
      while (auto got = wait(pointers.receive())) CHECK(**got == next++);
      CHECK(next == 10);
      coir::await(sender.join());
    }
  });
}

TEST_CASE("a value whose copy throws is not sent, and the channel goes on") {
  struct fragile {
    explicit fragile(int number) : number_(number) {}
    fragile(const fragile& other) : number_(other.number_) {
      if (number_ < 0) throw std::runtime_error("no copy");
    }
    fragile(fragile&&) noexcept = default;
    int number_;
  };
  support::on_both_surfaces([](auto wait) {
    coir::channel<fragile> values(1);
    const fragile bad(-1);
    CHECK_THROWS_AS(wait(values.send(bad)), std::runtime_error);
    CHECK_THROWS_AS(values.try_send(bad), std::runtime_error);
    CHECK_THROWS_AS(values.unshift(bad), std::runtime_error);
    CHECK(values.empty());
    const fragile good(1);
    wait(values.send(good));
    CHECK(wait(values.receive())->number_ == 1);
    CHECK(values.stats().sent == 1);
  });
}

TEST_CASE("a send that was cancelled has its value, and sends it when it is awaited again") {
  coir::run([] {
    coir::channel<std::string> hand;
    auto sending = hand.send(std::string("a long text that lies on the heap"));
    CHECK_FALSE(coir::move_on_after(0s, [&] { coir::await(sending); }));
    auto receiver = coir::spawn([&] { return *coir::await(hand.receive()); });
    coir::await(sending);
    CHECK(coir::await(receiver.join()) == "a long text that lies on the heap");
    CHECK_THROWS_AS(sending.value(), std::logic_error);
  });
}

TEST_CASE("a send that has sent is refused when it is awaited again, and nothing is sent without its value") {
  coir::run([] {
    coir::channel<std::string> texts(2);
    auto sending = texts.send(std::string("a long text that lies on the heap"));
    coir::await(sending);
    CHECK_THROWS_WITH(coir::await(sending), Contains("awaited again after it had sent"));
    CHECK_THROWS_AS(coir::await(coir::select(sending, coir::otherwise)), std::logic_error);
    CHECK(texts.stats().sent == 1);
    CHECK(texts.try_receive() == "a long text that lies on the heap");
    CHECK(texts.empty());
  });
}

TEST_CASE("a receive that was given a value and is never finished puts it back in front") {
  coir::run([] {
    coir::channel<int> numbers(2);
    coir::await(numbers.send(1));
    coir::await(numbers.send(2));
    {
      auto receiving = numbers.receive();
      CHECK_FALSE(receiving.start(coir::running_fiber()));
      CHECK(numbers.size() == 1);
    }
    CHECK(numbers.size() == 2);
    CHECK(numbers.stats().received == 0);
    CHECK(coir::await(numbers.receive()) == 1);
    // To whoever waits by now.
    std::optional<coir::channel_receive_op<int>> receiving(numbers.receive());
    CHECK_FALSE(receiving->start(coir::running_fiber()));
    auto other = coir::spawn([&] { return *coir::await(numbers.receive()); });
    turns(1);
    CHECK(numbers.receivers_waiting() == 1);
    receiving.reset();
    CHECK(numbers.empty());
    CHECK(coir::await(other.join()) == 2);
  });
}

TEST_CASE("who waits at a channel that goes waits until it is cancelled") {
  bool went_on = false;
  coir::run([&] {
    auto gone = std::make_unique<coir::channel<int>>();
    auto full = std::make_unique<coir::channel<int>>();
    auto receiver = coir::spawn([&] {
      coir::await(gone->receive());
      went_on = true;
    });
    auto sender = coir::spawn([&] {
      coir::await(full->send(1));
      went_on = true;
    });
    turns(1);
    gone.reset();
    full.reset();
    turns(2);
    CHECK(receiver.state() == coir::fiber_state::waiting);
    CHECK(sender.state() == coir::fiber_state::waiting);
  });
  CHECK_FALSE(went_on);
}

TEST_CASE("a limit in time ends a wait at a channel, and takes nothing") {
  support::jumping_on_both([](auto wait) {
    coir::channel<int> numbers(1);
    CHECK_FALSE(wait(coir::move_on_after(1h, numbers.receive())));
    wait(numbers.send(1));
    CHECK_FALSE(wait(coir::move_on_after(1h, numbers.send(2))));
    CHECK(numbers.receive_all() == ints{1});
    CHECK(numbers.receivers_waiting() + numbers.senders_waiting() == 0);
  });
}

// --- what is told ---

TEST_CASE("a channel counts exactly what went through it, and who waits") {
  support::on_both_surfaces([](auto wait) {
    coir::channel<int> numbers(2);
    std::string done;
    auto waiting = senders(wait, numbers, done, 4);
    coir::channel_stats now = numbers.stats();
    CHECK(now.sent == 2);
    CHECK(now.received == 0);
    CHECK(now.buffered == 2);
    CHECK(now.senders_waiting == 2);
    waiting.back().cancel();
    CHECK(wait(numbers.receive()) == 0);
    numbers.remove(1);
    now = numbers.stats();
    CHECK(now.sent == 3);
    CHECK(now.received == 1);
    CHECK(now.removed == 1);
    CHECK(now.buffered == 1);
    CHECK(now.senders_waiting == 0);
    auto receivers = coir::spawn([&] {
      for (;;) wait(numbers.receive());
    });
    turns(3);
    now = numbers.stats();
    CHECK(now.received == 2);
    CHECK(now.receivers_waiting == 1);
    receivers.cancel();
    CHECK(numbers.stats().receivers_waiting == 0);
  });
}

TEST_CASE("the deadlock report says what is waited for at which channel") {
  try {
    coir::run([] {
      coir::channel<std::string> texts;
      coir::channel<int> full(2);
      CHECK(full.try_send(1));
      CHECK(full.try_send(2));
      coir::with_nursery([&](coir::nursery& n) {
        n.spawn([&] { coir::await(full.send(3)); });
        n.spawn([&] { coir::await(full.send(4)); });
        coir::await(texts.receive());
      });
    });
    FAIL("it ended");
  } catch (const coir::deadlock& error) {
    CHECK_THAT(error.what(), Contains("channel receive of std::"));
    CHECK_THAT(error.what(), Contains(", 0 of 0 there"));
    CHECK_THAT(error.what(), Contains("channel send of int, 2 of 2 there"));
    CHECK_THAT(error.what(), Contains("channel send of int, 2 of 2 there, behind 1"));
  }
}

// --- Go ---

// What Go's language says of channels (but for nil), each against ours. "panics" is an exception here.
TEST_CASE("what Go promises of channels is true of ours") {
  support::on_both_surfaces([](auto wait) {
    const auto sends_at_once = [&](coir::channel<int>& to, int value) {
      auto sender = coir::spawn([&, value] { wait(to.send(value)); });
      turns(3);
      const bool sent = sender.state() == coir::fiber_state::dead;
      sender.cancel();
      turns(3);
      return sent;
    };
    {
      INFO("make(chan T) blocks each send until it is received");
      coir::channel<int> ch;
      CHECK_FALSE(sends_at_once(ch, 1));
      CHECK_FALSE(ch.try_receive());
    }
    {
      INFO("make(chan T, n) blocks a send only when the buffer is full");
      coir::channel<int> ch(2);
      CHECK(sends_at_once(ch, 1));
      CHECK(sends_at_once(ch, 2));
      CHECK_FALSE(sends_at_once(ch, 3));
    }
    {
      INFO("a receive blocks when the buffer is empty");
      coir::channel<int> ch(2);
      CHECK_FALSE(wait(coir::move_on_after(0s, ch.receive())));
    }
    {
      INFO("len(ch) is what is buffered, cap(ch) the capacity; both are 0 without a buffer");
      coir::channel<int> ch(3);
      wait(ch.send(1));
      CHECK(ch.size() == 1);
      CHECK(ch.capacity() == 3);
      coir::channel<int> hand;
      auto sender = coir::spawn([&] { wait(hand.send(1)); });
      turns(2);
      CHECK(hand.size() == 0);
      CHECK(hand.capacity() == 0);
      sender.cancel();
    }
    {
      INFO("a send on a closed channel panics");
      coir::channel<int> ch(1);
      ch.close();
      CHECK_THROWS_AS(wait(ch.send(1)), coir::closed);
      CHECK_THROWS_AS(ch.try_send(1), coir::closed);
    }
    {
      INFO("a blocked send panics when the channel is closed");
      coir::channel<int> ch;
      bool panicked = false;
      auto sender = coir::spawn([&] {
        try {
          wait(ch.send(1));
        } catch (const coir::closed&) {
          panicked = true;
        }
      });
      turns(2);
      ch.close();
      coir::await(sender.join());
      CHECK(panicked);
    }
    {
      INFO("v, ok := <-ch: ok as long as values are left, then never blocks and is not");
      coir::channel<int> ch(2);
      wait(ch.send(1));
      wait(ch.send(2));
      ch.close();
      CHECK(ch.size() == 2);
      CHECK(wait(ch.receive()) == 1);
      CHECK(wait(ch.receive()) == 2);
      for (int i = 0; i < 3; ++i) CHECK_FALSE(wait(ch.receive()));
    }
    {
      INFO("close of a closed channel panics; ours does nothing and says so");
      coir::channel<int> ch;
      CHECK(ch.close());
      CHECK_FALSE(ch.close());
    }
    {
      INFO("for v := range ch ends when it is closed and drained");
      coir::channel<int> ch(1);
      auto sender = coir::spawn([&] {
        for (int i = 0; i < 5; ++i) wait(ch.send(i));
        ch.close();
      });
      int sum = 0;
      while (auto v = wait(ch.receive())) sum += *v;
      CHECK(sum == 10);
      coir::await(sender.join());
    }
    {
      INFO("each receiver gets what one goroutine sends in order, and each value goes to one of them");
      coir::channel<int> ch(2);
      std::vector<ints> got(3);
      coir::with_nursery([&](coir::nursery& n) {
        for (ints& mine : got) {
          n.spawn([&] {
            while (auto v = wait(ch.receive())) mine.push_back(*v);
          });
        }
        for (int i = 0; i < 20; ++i) wait(ch.send(i));
        ch.close();
      });
      ints all;
      for (const ints& each : got) {
        CHECK(std::is_sorted(each.begin(), each.end()));
        all.insert(all.end(), each.begin(), each.end());
      }
      std::sort(all.begin(), all.end());
      REQUIRE(all.size() == 20);
      for (int i = 0; i < 20; ++i) CHECK(all[static_cast<std::size_t>(i)] == i);
    }
    {
      INFO("close wakes all that receive");
      coir::channel<int> ch;
      int woken = 0;
      coir::with_nursery([&](coir::nursery& n) {
        for (int i = 0; i < 4; ++i) {
          n.spawn([&] {
            wait(ch.receive());
            ++woken;
          });
        }
        turns(2);
        ch.close();
      });
      CHECK(woken == 4);
    }
    {
      INFO("close wakes all that send, and each panics; what was buffered is received, what they had is not");
      coir::channel<int> ch(2);
      wait(ch.send(1));
      wait(ch.send(2));
      int panicked = 0;
      std::vector<coir::fiber<void>> all;
      for (int i = 0; i < 4; ++i) {
        all.push_back(coir::spawn([&] {
          try {
            wait(ch.send(9));
          } catch (const coir::closed&) {
            ++panicked;
          }
        }));
      }
      turns(2);
      CHECK(ch.senders_waiting() == 4);
      ch.close();
      for (auto& each : all) coir::await(each.join());
      CHECK(panicked == 4);
      CHECK(drained(wait, ch) == ints{1, 2});
    }
    {
      INFO("close takes nothing back: who was sent a value just before has it");
      coir::channel<int> ch;
      std::vector<coir::fiber<coir::received<int>>> all;
      for (int i = 0; i < 2; ++i) all.push_back(coir::spawn([&] { return wait(ch.receive()); }));
      turns(2);
      CHECK(ch.try_send(7));
      ch.close();
      CHECK(wait(all[0].take()) == 7);
      CHECK_FALSE(wait(all[1].take()));
    }
    {
      INFO("len(ch) and cap(ch) of a closed channel are what they were; range over an empty one ends at once");
      coir::channel<int> ch(3);
      wait(ch.send(1));
      ch.close();
      CHECK(ch.size() == 1);
      CHECK(ch.capacity() == 3);
      CHECK(drained(wait, ch) == ints{1});
      CHECK(ch.size() == 0);
      CHECK(drained(wait, ch).empty());
    }
    {
      INFO("without a buffer values meet their receivers first come, first served, on both sides");
      coir::channel<int> ch;
      std::string done;
      auto all = senders(wait, ch, done, 4);
      ints got;
      for (int i = 0; i < 4; ++i) got.push_back(*wait(ch.receive()));
      for (auto& each : all) coir::await(each.join());
      CHECK(got == ints{0, 1, 2, 3});
      CHECK(done == "0123");
      std::vector<coir::fiber<coir::received<int>>> receivers;
      for (int i = 0; i < 4; ++i) receivers.push_back(coir::spawn([&] { return wait(ch.receive()); }));
      turns(2);
      for (int i = 0; i < 4; ++i) wait(ch.send(i));
      for (int i = 0; i < 4; ++i) CHECK(wait(receivers[static_cast<std::size_t>(i)].take()) == i);
    }
    {
      INFO("the k-th receive comes before the end of send k + C, C being the capacity");
      for (const std::size_t capacity : {0U, 1U, 3U}) {
        coir::channel<int> ch(capacity);
        std::size_t received = 0;
        std::size_t sent = 0;
        auto sender = coir::spawn([&] {
          for (int i = 0; i < 20; ++i) {
            wait(ch.send(i));
            CHECK(++sent <= received + capacity + 1);
          }
          ch.close();
        });
        for (;;) {
          turns(static_cast<int>(received % 3));
          // What was handed to this fiber while it waited is received already: that is the one more.
          if (!wait(ch.receive())) break;
          ++received;
        }
        coir::await(sender.join());
        CHECK(received == 20);
      }
    }
    {
      INFO("select with a default: a send or receive that would block does not happen");
      coir::channel<int> ch(1);
      CHECK_FALSE(ch.try_receive());
      CHECK(ch.try_send(1));
      CHECK_FALSE(ch.try_send(2));
      CHECK(ch.try_receive() == 1);
    }
    {
      INFO("a channel of channels");
      coir::channel<coir::channel<int>*> requests;
      auto server = coir::spawn([&] {
        while (auto answer = wait(requests.receive())) wait((*answer)->send(42));
      });
      coir::channel<int> answers;
      wait(requests.send(&answers));
      CHECK(wait(answers.receive()) == 42);
      requests.close();
      coir::await(server.join());
    }
    {
      INFO("a semaphore: a buffered channel limits how many work at a time");
      coir::channel<int> places(3);
      int inside = 0;
      int most = 0;
      coir::with_nursery([&](coir::nursery& n) {
        for (int i = 0; i < 10; ++i) {
          n.spawn([&] {
            wait(places.send(0));
            most = std::max(most, ++inside);
            wait(coir::yield());
            --inside;
            wait(places.receive());
          });
        }
      });
      CHECK(most == 3);
    }
  });
}
