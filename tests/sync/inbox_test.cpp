#include "support/both.hpp"
#include "support/catch.hpp"
#include "support/jumping.hpp"

#include <coir/coir.hpp>

#include <chrono>
#include <exception>
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

TEST_CASE("messages that were sent before the fiber first ran are all received, in order") {
  support::on_both_surfaces([](auto wait) {
    ints got;
    coir::fiber<void> worker = coir::spawn([&] {
      while (got.size() < 5) got.push_back(wait(coir::receive<int>()));
    });
    for (int i = 0; i < 5; ++i) CHECK(worker.send(i));
    CHECK(worker.state() == coir::fiber_state::fresh);
    coir::await(worker.join());
    CHECK(got == ints{0, 1, 2, 3, 4});
  });
}

TEST_CASE("sending to a fiber never waits and never switches") {
  support::on_both_surfaces([](auto wait) {
    int got = 0;
    coir::fiber<void> worker = coir::spawn([&] {
      while (got < 1'000) got += wait(coir::receive<int>());
    });
    turns(2);
    for (int i = 0; i < 1'000; ++i) worker.send(1);
    CHECK(got == 0);
    coir::await(worker.join());
    CHECK(got == 1'000);
  });
}

TEST_CASE("a fiber that waits for a message goes on with it") {
  support::on_both_surfaces([](auto wait) {
    coir::fiber<std::unique_ptr<int>> worker = coir::spawn([&] { return wait(coir::receive<std::unique_ptr<int>>()); });
    turns(2);
    CHECK(worker.state() == coir::fiber_state::waiting);
    worker.send(std::make_unique<int>(7));
    CHECK(*coir::await(worker.take()) == 7);
  });
}

TEST_CASE("all messages that are there can be taken without waiting, and then there are none") {
  support::on_both_surfaces([](auto wait) {
    coir::fiber<void> worker = coir::spawn([&] {
      CHECK(coir::receive_all_pending<int>() == ints{1, 2, 3});
      CHECK(coir::receive_all_pending<int>().empty());
      wait(coir::yield());
    });
    for (int i = 1; i <= 3; ++i) worker.send(i);
    coir::await(worker.join());
  });
}

TEST_CASE("messages of different types lie in different inboxes") {
  support::on_both_surfaces([](auto wait) {
    coir::fiber<void> worker = coir::spawn([&] {
      CHECK(wait(coir::receive<std::string>()) == "a text");
      CHECK(wait(coir::receive<int>()) == 1);
      CHECK(wait(coir::receive<int>()) == 2);
    });
    const int one = 1;
    worker.send(one);
    worker.send<std::string>("a text");
    worker.send(2);
    coir::await(worker.join());
  });
}

TEST_CASE("an exception that is sent is a message, and one that interrupts is thrown") {
  support::on_both_surfaces([](auto wait) {
    coir::fiber<void> worker = coir::spawn([&] {
      const std::exception_ptr got = wait(coir::receive<std::exception_ptr>());
      CHECK_THROWS_WITH(std::rethrow_exception(got), "as a value");
      CHECK_THROWS_WITH(wait(coir::receive<std::exception_ptr>()), "thrown");
    });
    worker.send(std::make_exception_ptr(std::runtime_error("as a value")));
    turns(3);
    worker.interrupt(std::runtime_error("thrown"));
    coir::await(worker.join());
  });
}

TEST_CASE("an inbox with a capacity makes who sends through the channel wait, and refuses others") {
  support::on_both_surfaces([](auto wait) {
    bool open = false;
    ints got;
    coir::fiber<void> worker = coir::spawn([&] {
      while (!open) wait(coir::yield());
      while (got.size() < 3) got.push_back(wait(coir::receive<int>()));
    });
    worker.inbox<int>().set_capacity(1);
    worker.send(1);
    try {
      worker.send(9);
      FAIL("it was sent");
    } catch (const std::system_error& error) {
      CHECK(error.code() == std::errc::no_buffer_space);
      CHECK_THAT(error.what(), Contains("its inbox of int has a capacity of 1, and is full"));
    }
    bool sent = false;
    auto sender = coir::spawn([&] {
      wait(worker.inbox<int>().send(2));
      wait(worker.inbox<int>().send(3));
      sent = true;
    });
    turns(4);
    CHECK_FALSE(sent);
    CHECK(worker.inbox<int>().senders_waiting() == 1);
    open = true;
    coir::await(sender.join());
    coir::await(worker.join());
    CHECK(got == ints{1, 2, 3});
  });
}

TEST_CASE("a receive_loop gets messages until its body leaves, and the rest stays there") {
  coir::run([] {
    ints got;
    auto on_stack = coir::spawn([&] {
      coir::receive_loop<int>([&](int message) {
        got.push_back(message);
        // It may wait.
        coir::await(coir::yield());
        return message == 2 ? coir::flow::leave : coir::flow::go_on;
      });
      CHECK(coir::receive_all_pending<int>() == ints{3});
    });
    auto in_task = coir::spawn([](ints& into) -> coir::task<> {
      co_await coir::receive_loop<int>([&into](int message) -> coir::task<coir::flow> {
        into.push_back(10 * message);
        co_await coir::yield();
        co_return message == 2 ? coir::flow::leave : coir::flow::go_on;
      });
      CHECK(coir::receive_all_pending<int>() == ints{3});
    }(got));
    for (const int i : {1, 2, 3}) on_stack.send(i), in_task.send(i);
    coir::await(on_stack.join());
    coir::await(in_task.join());
    CHECK(got == ints{1, 10, 2, 20});
  });
}

TEST_CASE("a receive_loop without a word about its end goes on until it throws, is cancelled, or its inbox is closed") {
  coir::run([] {
    int sum = 0;
    const auto add = [&] {
      coir::receive_loop<int>([&](int message) {
        if (message < 0) throw std::runtime_error("negative");
        sum += message;
      });
      sum += 1'000;
    };
    auto failing = coir::spawn(add);
    auto endless = coir::spawn(add);
    auto ended = coir::spawn([](int& into) -> coir::task<> {
      const auto body = [&into](int message) -> coir::task<> {
        into += message;
        co_return;
      };
      co_await coir::receive_loop<int>(body);
      into += 1'000;
    }(sum));
    turns(1);
    for (auto* each : {&failing, &endless, &ended}) each->send(1);
    turns(2);
    failing.send(-1);
    endless.cancel();
    ended.inbox<int>().close();
    CHECK_THROWS_WITH(coir::await(failing.join()), "negative");
    coir::await(coir::end_op(endless));
    coir::await(ended.join());
    CHECK(sum == 1'003);
    CHECK_FALSE(ended.send(1));
  });
}

TEST_CASE("who sends to a fiber that has ended is told so, and who waits to send to one that ends gets closed") {
  support::on_both_surfaces([](auto wait) {
    bool go = false;
    coir::fiber<void> worker = coir::spawn([&] {
      while (!go) wait(coir::yield());
    });
    worker.inbox<int>().set_capacity(1);
    worker.send(1);
    auto sender = coir::spawn([&] { CHECK_THROWS_AS(wait(worker.inbox<int>().send(2)), coir::closed); });
    turns(3);
    CHECK(worker.inbox<int>().senders_waiting() == 1);
    go = true;
    coir::await(worker.join());
    coir::await(sender.join());
    CHECK_FALSE(worker.send(3));
    CHECK(worker.inbox<int>().is_closed());
    CHECK(worker.inbox<int>().empty());
    CHECK_THROWS_AS(wait(worker.inbox<int>().send(4)), coir::closed);
    // Of a type it never had.
    CHECK_FALSE(worker.send<std::string>("late"));
    CHECK_THROWS_AS(wait(worker.inbox<std::string>().send("late")), coir::closed);
  });
}

TEST_CASE("messages that nobody received are destroyed with the body, not with the last handle") {
  coir::run([] {
    auto message = std::make_shared<int>(1);
    auto worker = coir::spawn([] { coir::await(coir::yield()); });
    worker.send(message);
    CHECK(message.use_count() == 2);
    coir::await(worker.join());
    CHECK(message.use_count() == 1);
  });
}

TEST_CASE("children that a fiber leaves behind do not wait for its inbox") {
  support::on_both_surfaces([](auto wait) {
    bool refused = false;
    coir::fiber<void> worker;
    worker = coir::spawn([&] {
      coir::own_inbox<int>().set_capacity(0);
      coir::spawn([&] {
        coir::with_cleanup([&] { wait(coir::sleep_for(1h)); },
                           [&] {
                             try {
                               wait(worker.inbox<int>().send(1));
                             } catch (const coir::closed&) {
                               refused = true;
                             }
                           });
      });
      wait(coir::yield());
      wait(coir::yield());
    });
    coir::await(worker.join());
    CHECK(refused);
  });
}

TEST_CASE("a restart empties the inbox, and what is sent after it is for the next run") {
  support::on_both_surfaces([](auto wait) {
    std::vector<ints> runs;
    coir::fiber<void> worker = coir::spawn([&] {
      runs.emplace_back();
      const std::size_t mine = runs.size() - 1;
      if (mine == 0) wait(coir::sleep_for(1h));
      for (;;) runs[mine].push_back(wait(coir::receive<int>()));
    });
    turns(3);
    worker.inbox<int>().set_capacity(1);
    worker.send(1);
    auto sender = coir::spawn([&] { wait(worker.inbox<int>().send(2)); });
    turns(3);
    CHECK(worker.restart());
    CHECK(worker.inbox<int>().capacity() == coir::unbounded);
    CHECK(worker.send(3));
    CHECK(worker.send(4));
    CHECK_THROWS_AS(coir::await(sender.join()), coir::closed);
    turns(6);
    CHECK(runs == std::vector<ints>{{}, {3, 4}});
    worker.cancel();
  });
}

TEST_CASE("a fiber that was woken with a message and is cancelled before it runs has it") {
  support::on_both_surfaces([](auto wait) {
    int got = 0;
    coir::fiber<void> worker = coir::spawn([&] {
      got = wait(coir::receive<int>());
      wait(coir::yield());
      got = -1;
    });
    turns(2);
    worker.send(7);
    worker.cancel();
    coir::await(coir::end_op(worker));
    CHECK(got == 7);
  });
}

TEST_CASE("an inbox that its fiber closes gives what is left, and then closed or the error") {
  support::on_both_surfaces([](auto wait) {
    coir::fiber<void> worker = coir::spawn([&] {
      coir::own_inbox<int>().close();
      CHECK(wait(coir::receive<int>()) == 1);
      CHECK_THROWS_AS(wait(coir::receive<int>()), coir::closed);
    });
    worker.send(1);
    coir::await(worker.join());
  });
}

TEST_CASE("a limit in time ends the wait for a message") {
  support::jumping_on_both([](auto wait) {
    CHECK_FALSE(wait(coir::move_on_after(1h, coir::receive<int>())));
    CHECK_THROWS_AS(wait(coir::fail_after(1h, coir::receive<int>())), coir::timed_out);
  });
}

TEST_CASE("the deadlock report says who waits for which message") {
  try {
    coir::run([] {
      coir::with_nursery([](coir::nursery& n) {
        n.spawn([] { static_cast<void>(coir::await(coir::receive<std::vector<int>>())); },
                coir::spawn_options().name("worker"));
      });
    });
    FAIL("it ended");
  } catch (const coir::deadlock& error) {
    CHECK_THAT(error.what(), Contains("receive of std::vector<int"));
    CHECK_THAT(error.what(), Contains("inbox of fiber 2 worker, 0 there"));
  }
}

TEST_CASE("an inbox belongs to a fiber: there is none outside of fibers") {
  CHECK_THROWS_AS(coir::own_inbox<int>(), std::logic_error);
  CHECK_THROWS_AS(coir::receive<int>(), std::logic_error);
}
