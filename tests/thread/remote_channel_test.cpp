#include <coir/thread/remote_channel.hpp>

#include "fiber/until.hpp"
#include "support/both.hpp"
#include "support/catch.hpp"
#include "support/jumping.hpp"

#include <coir/coir.hpp>
#include <coir/thread/runtime.hpp>

#include <atomic>
#include <cstdlib>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

using namespace std::chrono_literals;

namespace {

coir::runtime_options two() { return coir::runtime_options().loops(2); }

bool is_closed(const std::system_error& error) { return error.code() == std::errc::broken_pipe; }

}  // namespace

TEST_CASE("a sender of another loop waits while the channel is full, and goes on when there is room") {
  coir::runtime rt(two());
  support::on_both_surfaces([&](auto wait) {
    coir::remote_channel<int> numbers(2);
    std::atomic<int> sent = 0;
    auto f = rt.spawn_on(1, [&, to = numbers.sender()] {
      for (int i = 0; i < 5; ++i) {
        coir::await(to.send(i));
        ++sent;
      }
    });
    support::until([&] { return numbers.stats().waiting_senders == 1; });
    CHECK(sent == 2);
    CHECK(numbers.stats().pending == 2);
    for (int i = 0; i < 5; ++i) CHECK(wait(numbers.receive()) == i);
    wait(f.join());
    CHECK(sent == 5);
  });
}

TEST_CASE("without room a value goes from hand to hand") {
  coir::runtime rt(two());
  support::on_both_surfaces([&](auto wait) {
    coir::remote_channel<std::unique_ptr<int>> meet(0);
    auto f = rt.spawn_on(0, [to = meet.sender()]() -> coir::task<int> {
      int sent = 0;
      for (int i = 0; i < 3; ++i) {
        auto value = std::make_unique<int>(i);
        co_await to.send(std::move(value));
        ++sent;
      }
      co_return sent;
    });
    for (int i = 0; i < 3; ++i) CHECK(**wait(meet.receive()) == i);
    CHECK(wait(f.join()) == 3);
  });
}

TEST_CASE("a send on the channel's own loop waits and goes on in the same way") {
  support::on_both_surfaces([](auto wait) {
    coir::remote_channel<int> numbers(1);
    auto to = numbers.sender();
    wait(to.send(1));
    bool second = false;
    auto f = coir::spawn([&] {
      wait(to.send(2));
      second = true;
    });
    support::until([&] { return numbers.stats().waiting_senders == 1; });
    CHECK_FALSE(second);
    CHECK(wait(numbers.receive()) == 1);
    wait(f.join());
    CHECK(numbers.try_receive() == 2);
    CHECK_FALSE(numbers.try_receive());
  });
}

TEST_CASE("who waits for room gets it in turn, and nobody who comes later goes ahead") {
  coir::run([] {
    coir::remote_channel<int> numbers(1);
    auto to = numbers.sender();
    coir::with_nursery([&](coir::nursery& n) {
      for (int i = 0; i < 6; ++i) n.spawn([&, i] { coir::await(to.send(i)); });
      for (int i = 0; i < 6; ++i) CHECK(coir::await(numbers.receive()) == i);
    });
  });
}

TEST_CASE("a send that is cancelled sent nothing, and gives up its place") {
  support::on_both_surfaces([](auto wait) {
    coir::remote_channel<int> numbers(1);
    auto to = numbers.sender();
    wait(to.send(0));
    for (int round = 1; round <= 100; ++round) {
      auto f = coir::spawn([&] { wait(to.send(-1)); });
      wait(coir::yield());
      if (round % 2 == 0) support::until([&] { return numbers.stats().waiting_senders != 0; });
      f.cancel();
      CHECK_THROWS_AS(wait(f.join()), std::system_error);
    }
    auto last = coir::spawn([&] { wait(to.send(1)); });
    CHECK(wait(numbers.receive()) == 0);
    CHECK(wait(numbers.receive()) == 1);
    wait(last.join());
    // All places are there again.
    wait(to.send(2));
    CHECK(numbers.stats().waiting_senders <= 16);
    CHECK(wait(numbers.receive()) == 2);
  });
}

TEST_CASE("a send that was given up has its value when it is awaited again, and sends it once") {
  coir::run([] {
    coir::remote_channel<std::string> texts(1);
    const auto to = texts.sender();
    const std::string text(100, 'x');
    coir::await(to.send("first"));
    auto sending = to.send(text);
    for (int i = 0; i < 3; ++i) {
      const auto got = coir::await(coir::select(sending, coir::sleep_for(1ms)));
      CHECK(got.index() == 1);
    }
    CHECK(coir::await(texts.receive()) == "first");
    coir::await(support::again(sending));
    CHECK(coir::await(texts.receive()) == text);
    CHECK_THROWS_AS(coir::await(support::again(sending)), std::logic_error);
    CHECK_FALSE(texts.try_receive());
  });
}

namespace {
// Moving it back into a send that is given up might throw.
struct risky {
  int value = 0;
  explicit risky(int of) : value(of) {}
  risky(risky&& other) noexcept(false) : value(other.value) {}
};
}  // namespace

TEST_CASE("a send that was given up and cannot have its value back says so when it is awaited again") {
  coir::run([] {
    coir::remote_channel<risky> numbers(1);
    const auto to = numbers.sender();
    coir::await(to.send(risky(1)));
    auto sending = to.send(risky(2));
    CHECK(coir::await(coir::select(sending, coir::sleep_for(1ms))).index() == 1);
    CHECK_THROWS_AS(coir::await(support::again(sending)), std::logic_error);
    CHECK(coir::await(numbers.receive())->value == 1);
    CHECK_FALSE(numbers.try_receive());
  });
}

TEST_CASE("whoever waits for room goes on when there is some, though the receiver takes no more") {
  coir::runtime rt(two());
  support::on_both_surfaces([&](auto wait) {
    coir::remote_channel<int> numbers(1024);
    std::atomic<int> sent = 0;
    auto f = rt.spawn_on(1, [&, to = numbers.sender()] {
      for (int i = 0; i < 1025; ++i) {
        coir::await(to.send(i));
        ++sent;
      }
    });
    support::until([&] { return numbers.stats().waiting_senders == 1; });
    CHECK(sent == 1024);
    CHECK(wait(numbers.receive()) == 0);
    wait(f.join());
    CHECK(sent == 1025);
  });
}

TEST_CASE("a place that is free is there for who comes later, though nobody waited for it") {
  support::on_both_surfaces([&](auto wait) {
    coir::remote_channel<int> numbers(1024);
    const auto to = numbers.sender();
    for (int i = 0; i < 1024; ++i) wait(to.send(i));
    CHECK(wait(numbers.receive()) == 0);
    auto late = coir::spawn([&] { coir::await(to.send(1024)); });
    wait(late.join());
    CHECK(numbers.stats().pending == 1024);
  });
}

TEST_CASE("closing refuses those who wait for room, and what was taken is received") {
  const bool by_sender = GENERATE(false, true);
  coir::runtime rt(two());
  support::on_both_surfaces([&](auto wait) {
    coir::remote_channel<int> numbers(1);
    auto f = rt.spawn_on(1, [to = numbers.sender()] {
      coir::await(to.send(1));
      try {
        coir::await(to.send(2));
      } catch (const std::system_error& error) {
        return is_closed(error);
      }
      return false;
    });
    support::until([&] { return numbers.stats().waiting_senders == 1; });
    if (by_sender) {
      numbers.sender().close();
    } else {
      numbers.close();
    }
    CHECK(wait(f.join()));
    CHECK(wait(numbers.receive()) == 1);
    CHECK_FALSE(wait(numbers.receive()));
    auto late = numbers.sender();
    CHECK_THROWS_AS(wait(late.send(3)), std::system_error);
  });
}

TEST_CASE("a channel that goes refuses those who wait for room in it") {
  coir::runtime rt(two());
  coir::run([&] {
    auto numbers = std::make_unique<coir::remote_channel<int>>(0);
    auto f = rt.spawn_on(1, [to = numbers->sender()] { coir::await(to.send(2)); });
    support::until([&] { return numbers->stats().waiting_senders == 1; });
    numbers.reset();
    CHECK_THROWS_AS(coir::await(f.join()), std::system_error);
  });
}

TEST_CASE("a send to a loop that has ended is refused, with and without room, though the channel is still there") {
  const std::size_t capacity = GENERATE(0U, 1U);
  std::optional<coir::remote_channel<int>> numbers;
  coir::remote_sender<int> to;
  {
    coir::loop loop;
    numbers.emplace(loop, capacity);
    to = numbers->sender();
  }
  support::on_both_surfaces([&](auto wait) { CHECK_THROWS_AS(wait(to.send(1)), std::system_error); });
}

TEST_CASE("a channel may go at any moment, with senders of other loops in the middle") {
  coir::runtime rt(two());
  const auto alive = std::make_shared<int>();
  coir::run([&] {
    for (int round = 0; round < 1'000; ++round) {
      auto box = std::make_unique<coir::remote_channel<std::shared_ptr<int>>>(static_cast<std::size_t>(round) % 3);
      auto all = rt.spawn_on_all([to = box->sender(), alive] {
        try {
          for (;;) coir::await(to.send(alive));
        } catch (const std::system_error& error) {
          if (!is_closed(error)) throw;
        }
      });
      for (int i = 0; i < round % 7; ++i) {
        if (round % 2 == 0) {
          coir::await(coir::yield());
        } else {
          static_cast<void>(coir::await(box->receive()));
        }
      }
      box.reset();
      for (auto& each : all) coir::await(each.join());
    }
  });
  rt.stop();
  rt.wait();
  CHECK(alive.use_count() == 1);
}

TEST_CASE("nothing is lost or comes twice while senders and receivers are cancelled") {
  const int rounds = std::getenv("COIR_TEST_LONG") != nullptr ? 200'000 : 5'000;
  for (const std::size_t capacity : {0U, 1U, 7U}) {
    coir::runtime rt(two());
    coir::run([&] {
      coir::remote_channel<int> numbers(capacity);
      // Each sends numbers, with a limit that often cuts it short, and says which were sent.
      auto senders = rt.spawn_on_all([&, to = numbers.sender(), rounds](std::size_t loop) {
        std::vector<int> sent;
        for (int i = 0; i < rounds; ++i) {
          const int value = i * 2 + static_cast<int>(loop);
          bool done = false;
          auto one = coir::spawn([&] {
            coir::await(to.send(value));
            done = true;
          });
          for (int turn = 0; turn < i % 3; ++turn) coir::await(coir::yield());
          one.cancel();
          coir::await(coir::end_op(one));
          if (done) sent.push_back(value);
        }
        return sent;
      });
      std::vector<int> got;
      auto collector = coir::spawn([&] {
        for (;;) {
          auto one = coir::spawn([&] { got.push_back(*coir::await(numbers.receive())); });
          coir::await(coir::yield());
          one.cancel();
          coir::await(coir::end_op(one));
        }
      });
      std::vector<std::vector<int>> sent(2);
      for (auto& each : senders) {
        for (const int value : coir::await(each.join())) sent[static_cast<std::size_t>(value) % 2].push_back(value);
      }
      collector.cancel();
      coir::await(coir::end_op(collector));
      while (auto rest = numbers.try_receive()) got.push_back(*rest);
      for (int loop = 0; loop < 2; ++loop) {
        std::vector<int> received;
        for (const int value : got) {
          if (value % 2 == loop) received.push_back(value);
        }
        CHECK(received == sent[static_cast<std::size_t>(loop)]);
      }
    });
  }
}

TEST_CASE("who waits for room is no deadlock on its own loop, while the channel's loop may still answer") {
  coir::runtime rt(two());
  // The channel lives on a loop of the runtime; the sender is a coir::run.
  coir::mailbox_sender<int> go;
  std::optional<coir::remote_sender<int>> to;
  std::atomic<bool> ready = false;
  auto owner = rt.spawn_on(0, [&] {
    coir::remote_channel<int> numbers(0);
    coir::mailbox<int> start;
    go = start.sender();
    to = numbers.sender();
    ready = true;
    coir::await(start.receive());
    return *coir::await(numbers.receive());
  });
  while (!ready) std::this_thread::yield();
  coir::run([&] {
    coir::spawn([&] { go.send(1); });
    coir::await(to->send(5));
  });
  to.reset();
  CHECK(owner.get() == 5);
}

TEST_CASE("who waits for room in a channel of its own loop is found when nobody there can make any") {
  std::string report;
  try {
    coir::run([] {
      coir::remote_channel<int> numbers(0);
      auto to = numbers.sender();
      coir::await(to.send(1));
    });
  } catch (const coir::deadlock& found) {
    report = found.what();
  }
  CHECK_THAT(report, Catch::Matchers::Contains("main: waiting in remote send (the channel is full) at "));
}

TEST_CASE("a clock that jumps when everything waits does so while a fiber waits for room on its own loop") {
  support::jumping_on_both([](auto wait) {
    coir::remote_channel<int> numbers(0);
    auto late = coir::spawn([&] {
      wait(coir::sleep_for(1h));
      return *wait(numbers.receive());
    });
    auto to = numbers.sender();
    wait(to.send(1));
    CHECK(wait(late.join()) == 1);
  });
}
