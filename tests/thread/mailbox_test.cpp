#include <coir/thread/mailbox.hpp>

#include "fiber/until.hpp"
#include "support/both.hpp"
#include "support/catch.hpp"
#include "support/child_process.hpp"

#include <coir/coir.hpp>

#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

using namespace std::chrono_literals;
using coir::delivery;

namespace {

bool refused(const std::error_code& code, std::errc as) { return code == as; }

struct nobody : coir::waiter {
  nobody() : waiter(kind) {}
  static constexpr coir::waiter_kind kind{[](coir::waiter&) noexcept {}};
};

}  // namespace

TEST_CASE("a message of another thread reaches the fiber that waits for it") {
  support::on_both_surfaces([](auto wait) {
    coir::mailbox<std::string> box;
    std::thread other([to = box.sender()] {
      to.send("hello");
      to.close();
    });
    CHECK(wait(box.receive()) == "hello");
    CHECK_FALSE(wait(box.receive()));
    other.join();
  });
}

TEST_CASE("messages of one sender come in their order, also to several fibers, which are served in turn") {
  support::on_both_surfaces([](auto wait) {
    coir::mailbox<int> box;
    auto to = box.sender();
    std::vector<std::pair<char, int>> got;
    coir::with_nursery([&](coir::nursery& n) {
      for (const char who : {'a', 'b', 'c'}) {
        n.spawn([&, who] {
          while (auto m = wait(box.receive())) got.emplace_back(who, *m);
        });
      }
      wait(coir::yield());
      CHECK(box.stats().waiting == 3);
      for (int i = 0; i < 3; ++i) to.send(i);
      wait(coir::sleep_for(1ms));
      to.close();
    });
    CHECK(got == std::vector<std::pair<char, int>>{{'a', 0}, {'b', 1}, {'c', 2}});
  });
}

TEST_CASE("what was sent before the end is received, and after it nothing is taken") {
  support::on_both_surfaces([](auto wait) {
    coir::mailbox<std::unique_ptr<int>> box;
    auto to = box.sender();
    to.send(std::make_unique<int>(1));
    to.send(std::make_unique<int>(2));
    box.close();
    to.close();
    auto kept = std::make_unique<int>(3);
    CHECK(to.try_send(kept) == delivery::closed);
    CHECK(*kept == 3);
    CHECK(to.closed());
    CHECK(**wait(box.receive()) == 1);
    CHECK(**box.try_receive() == 2);
    CHECK_FALSE(box.try_receive());
    CHECK_FALSE(wait(box.receive()));
    try {
      to.send(nullptr);
      FAIL("it was sent");
    } catch (const std::system_error& error) {
      CHECK(refused(error.code(), std::errc::broken_pipe));
    }
  });
}

TEST_CASE("a message to a mailbox that is gone is refused, and what was not received goes with it") {
  const auto alive = std::make_shared<int>();
  coir::mailbox_sender<std::shared_ptr<int>> late;
  coir::run([&] {
    {
      coir::mailbox<std::shared_ptr<int>> box;
      late = box.sender();
      late.send(alive);
      coir::await(coir::sleep_for(1ms));
      late.send(alive);  // still on its way
      CHECK(alive.use_count() == 3);
    }
    CHECK(alive.use_count() == 1);
    CHECK(late.try_send(std::shared_ptr<int>(alive)) == delivery::closed);
  });
  CHECK(late.try_send(std::shared_ptr<int>(alive)) == delivery::closed);
}

TEST_CASE("a message to a loop that has ended is refused, though its mailbox is still there") {
  const auto alive = std::make_shared<int>();
  std::unique_ptr<coir::mailbox<std::shared_ptr<int>>> box;
  coir::mailbox_sender<std::shared_ptr<int>> to;
  {
    coir::loop loop;
    box = std::make_unique<coir::mailbox<std::shared_ptr<int>>>(loop);
    to = box->sender();
    SECTION("nothing was on its way") {}
    SECTION("something was") { to.send(alive); }
  }
  CHECK(alive.use_count() == 1);
  // The first one finds out, and has its message back.
  for (int i = 0; i < 2; ++i) {
    auto kept = alive;
    CHECK(to.try_send(kept) == delivery::closed);
    CHECK(kept == alive);
  }
  CHECK(alive.use_count() == 1);
}

TEST_CASE("a mailbox that outlives its loop is closed for those who receive from it on the next") {
  const bool in_one_place = GENERATE(false, true);
  std::optional<coir::loop> there(std::in_place);
  coir::mailbox<int> box(*there);
  const auto to = box.sender();
  if (in_one_place) {
    there.emplace();
    coir::scheduler fibers(*there);
    bool empty = false;
    fibers.spawn([&] { empty = !coir::await(box.receive()); });
    there->run_once();
    CHECK(empty);
  } else {
    there.reset();
    coir::run([&] { CHECK_FALSE(coir::await(box.receive())); });
  }
  CHECK(to.closed());
}

TEST_CASE("a bounded mailbox takes as many as fit, and says when it is full") {
  support::on_both_surfaces([](auto wait) {
    coir::mailbox<int> box(2);
    auto to = box.sender();
    CHECK(to.try_send(1) == delivery::sent);
    CHECK(to.try_send(2) == delivery::sent);
    int kept = 3;
    CHECK(to.try_send(kept) == delivery::full);
    try {
      to.send(3);
      FAIL("it was sent");
    } catch (const std::system_error& error) {
      CHECK(refused(error.code(), std::errc::no_buffer_space));
    }
    CHECK(wait(box.receive()) == 1);
    CHECK(to.try_send(3) == delivery::sent);
    CHECK(to.try_send(4) == delivery::full);
    CHECK(box.receive_all_pending() == std::vector{2, 3});
    CHECK(to.try_send(4) == delivery::sent);
  });
}

TEST_CASE("a receiver that was handed a message and is cancelled has it, and nobody else gets it") {
  support::on_both_surfaces([](auto wait) {
    coir::mailbox<int> box;
    auto to = box.sender();
    std::vector<int> got;
    auto first = coir::spawn([&] {
      got.push_back(*wait(box.receive()));
      wait(box.receive());
      got.push_back(-1);
    });
    support::until([&] { return box.stats().waiting == 1; });
    to.send(1);
    support::until([&] { return box.stats().waiting == 0; });
    first.cancel();
    support::until([&] { return support::dead(first); });
    CHECK(got == std::vector{1});
    to.send(2);
    CHECK(wait(box.receive()) == 2);
  });
}

TEST_CASE("an op that was handed a message and goes without taking it gives it back, ahead of the others") {
  coir::run([] {
    coir::mailbox<int> box;
    auto to = box.sender();
    for (int i = 0; i < 3; ++i) to.send(i);
    nobody told;
    {
      auto unused = box.receive();
      CHECK_FALSE(unused.start(told));
    }
    CHECK(box.receive_all_pending() == std::vector{0, 1, 2});
    // Beyond the end of the mailbox too.
    auto other = std::make_unique<coir::mailbox<int>>();
    other->sender().send(7);
    auto late = other->receive();
    CHECK_FALSE(late.start(told));
    other.reset();
    CHECK(late.take() == 7);
  });
}

TEST_CASE("who waits at a mailbox that goes waits until it is cancelled") {
  coir::run([] {
    auto box = std::make_unique<coir::mailbox<int>>();
    auto to = box->sender();
    auto left = coir::spawn([&] { coir::await(box->receive()); });
    coir::await(coir::yield());
    box.reset();
    coir::await(coir::yield());
    CHECK(support::waiting(left));
    left.cancel();
    CHECK_THROWS_AS(coir::await(left.join()), std::system_error);
  });
}

TEST_CASE("waiting is no deadlock while a sender lives, and is one when the last is gone") {
  std::string report;
  try {
    coir::run([] {
      coir::mailbox<int> box;
      std::thread other([to = box.sender()]() mutable {
        to.send(1);
        const auto last = std::move(to);
        std::this_thread::yield();
      });
      struct joined {
        std::thread& what;
        ~joined() { what.join(); }
      };
      const joined end{other};
      CHECK(coir::await(box.receive()) == 1);
      coir::await(box.receive());
    });
  } catch (const coir::deadlock& found) {
    report = found.what();
  }
  CHECK_THAT(report, Catch::Matchers::Contains("main: waiting in mail (0 senders) at "));
}

TEST_CASE("a sender that nobody waits for keeps no deadlock from being found") {
  coir::mailbox_sender<int> to;
  CHECK_THROWS_AS(coir::run([&] {
                    coir::mailbox<int> box;
                    to = box.sender();
                    coir::await(coir::sleep_until(coir::never));
                  }),
                  coir::deadlock);
}

TEST_CASE("a batch of messages is one post to the loop") {
  coir::run([] {
    coir::mailbox<int> box;
    auto to = box.sender();
    for (int i = 0; i < 1000; ++i) to.send(i);
    coir::await(coir::yield());
    support::until([&] { return box.stats().pending == 1000; });
    CHECK(box.stats().batches == 1);
    CHECK(box.receive_all_pending().size() == 1000);
    CHECK(box.stats().received == 1000);
  });
}

TEST_CASE("an empty sender, and a mailbox without a loop or without any room, are mistakes that are named") {
  const coir::mailbox_sender<int> none;
  CHECK_FALSE(none);
  CHECK_THROWS_AS(none.send(1), std::logic_error);
  CHECK_THROWS_AS(coir::mailbox<int>(), std::logic_error);
  coir::run([] { CHECK_THROWS_AS(coir::mailbox<int>(0), std::logic_error); });
}

#if !defined(NDEBUG)
TEST_CASE("a mailbox of one loop that is first used on another is an assertion that names both") {
  const auto ended = support::in_child([] {
    coir::loop first;
    coir::mailbox<int> box(first);
    coir::run([&] { coir::await(box.receive()); });
  });
  CHECK(ended.signal == SIGABRT);
  CHECK_THAT(ended.text, Catch::Matchers::Matches("coir: what belongs to loop [0-9]+ was used on loop [0-9]+:.*\n"));
}
#endif
