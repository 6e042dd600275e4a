#include <coir/loop/loop.hpp>

#include "loop/timers.hpp"
#include "support/child_process.hpp"
#include "support/loop_tools.hpp"

#include <array>
#include <csignal>
#include <memory>
#include <stdexcept>
#include <thread>
#include <vector>

using namespace std::chrono_literals;
using tests::ringer;

TEST_CASE("a loop runs what is posted, and stops when it is told to") {
  coir::loop loop;
  loop.post([&] { loop.stop(); });
  const coir::loop::hold more(loop);
  loop.run();
}

TEST_CASE("run returns when nothing is left that could wake it") {
  coir::loop loop;
  loop.run();
  std::vector<int> order;
  ringer soon(order, 1);
  loop.post([&] {
    order.push_back(0);
    loop.arm(soon, loop.time() + 1ms);
  });
  CHECK(loop.can_wake());
  loop.run();
  CHECK(order == std::vector{0, 1});
  CHECK_FALSE(loop.can_wake());
}

TEST_CASE("run waits for a request, but not for one in the background unless somebody expects more") {
  coir::loop loop;
  const support::fd_pair ends = support::socket_pair();
  std::array<std::byte, 8> buffer;
  support::asked get(coir::request::recv(ends[0].get(), buffer));
  get.request.background = true;
  REQUIRE(loop.start(get.request));
  loop.run();
  CHECK_FALSE(get.over());
  CHECK(loop.in_flight() == 1);

  loop.expect_more();
  get.seen.then = [&](coir::request&) { loop.expect_less(); };
  REQUIRE(::write(ends[1].get(), "x", 1) == 1);
  loop.run();
  CHECK(get.over());
  CHECK(loop.in_flight() == 0);
}

TEST_CASE("run waits for a request to be over") {
  coir::loop loop;
  const support::fd_pair ends = support::socket_pair();
  std::array<std::byte, 8> buffer;
  support::asked get(coir::request::recv(ends[0].get(), buffer));
  REQUIRE(loop.start(get.request));
  std::vector<int> order;
  ringer later(order, 1, [&] { REQUIRE(::write(ends[1].get(), "x", 1) == 1); });
  loop.arm(later, loop.time() + 2ms);
  loop.run();
  CHECK(get.over());
  CHECK(order == std::vector{1});
}

TEST_CASE("while a hold lives, run waits for what the loop cannot see") {
  coir::loop loop;
  auto hold = std::make_unique<coir::loop::hold>(loop);
  bool ran = false;
  std::thread other([&] {
    loop.post([&] {
      ran = true;
      hold.reset();
    });
  });
  loop.run();
  CHECK(ran);
  other.join();
  coir::loop::hold first(loop);
  {
    const coir::loop::hold moved(std::move(first));
    CHECK(loop.can_wake());
  }
  CHECK_FALSE(loop.can_wake());
}

TEST_CASE("one turn of nothing does nothing and does not wait") {
  coir::loop loop;
  CHECK(loop.run_once() == 0);
  CHECK(loop.stats().turns == 1);
}

TEST_CASE("one turn waits as long as it is told, and no longer than until something happens") {
  coir::loop loop;
  coir::instant began = loop.time();
  CHECK(loop.run_once(5ms) == 0);
  CHECK(loop.time() >= began + 5ms);
  CHECK(loop.stats().turns == 1);

  std::vector<int> order;
  ringer soon(order, 1);
  loop.arm(soon, loop.time() + 1ms);
  CHECK(loop.run_once(1h) == 1);
  loop.arm(soon, loop.time() + 1ms);
  CHECK(loop.run_once(-1ns) == 1);
  loop.post([] {});
  CHECK(loop.run_once(coir::duration::max()) == 1);
  CHECK(loop.stats().turns == 4);
}

TEST_CASE("run_for waits its time, also when there is nothing to do, and works meanwhile") {
  coir::loop loop;
  const coir::instant began = loop.time();
  std::vector<int> order;
  ringer soon(order, 1), far(order, 2);
  loop.arm(soon, began + 1ms);
  loop.arm(far, began + 1h);
  loop.run_for(5ms);
  CHECK(loop.time() >= began + 5ms);
  CHECK(order == std::vector{1});
  loop.disarm(far);
}

TEST_CASE("run_for of no time, or less, is one turn") {
  coir::loop loop;
  int ran = 0;
  for (const coir::duration limit : {0ns, coir::duration(-1ns), coir::duration::min()}) {
    loop.post([&] {
      ++ran;
      loop.post([&] { ++ran; });
    });
    const auto turns = loop.stats().turns;
    loop.run_for(limit);
    CHECK(loop.stats().turns == turns + 1);
    CHECK(ran == 1);
    loop.run();
    ran = 0;
  }
}

TEST_CASE("run_for of all time ends with a stop") {
  coir::loop loop;
  std::vector<int> order;
  ringer soon(order, 1, [&] { loop.stop(); });
  loop.arm(soon, loop.time() + 1ms);
  loop.run_for(coir::duration::max());
  CHECK(order == std::vector{1});
}

TEST_CASE("an exception from a post leaves run and loses none of the other posts") {
  coir::loop loop;
  std::vector<int> order;
  for (int i = 0; i < 10; ++i) {
    loop.post([&order, i] {
      order.push_back(i);
      if (i == 3 || i == 4) throw std::runtime_error("post " + std::to_string(i));
    });
  }
  CHECK_THROWS_WITH(loop.run(), "post 3");
  CHECK(order == std::vector{0, 1, 2, 3});
  CHECK(loop.can_wake());
  CHECK(coir::loop::current() == nullptr);
  CHECK_THROWS_WITH(loop.run_once(), "post 4");
  loop.post([&] { order.push_back(10); });
  loop.run();
  CHECK(order == std::vector{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10});
}

TEST_CASE("a loop says which backend it has, and what it was chosen for") {
  coir::loop loop;
  CHECK(loop.kind() == coir::backend_report().kind);
  CHECK_FALSE(coir::backend_report().why.empty());
  const std::string text = loop.describe();
  const std::string name = support::on_uring(loop) ? "io_uring" : support::on_epoll(loop) ? "epoll" : "simulator";
  CHECK(text.substr(0, name.size()) == name);
}

TEST_CASE("many loops are made and destroyed without leaving a descriptor") {
  support::leaves_no_descriptor([] {
    for (int i = 0; i < 50; ++i) {
      coir::loop loop;
      static_cast<void>(loop.pollable_fd());
      loop.post([] {});
      loop.run();
    }
  });
}

TEST_CASE("SIGPIPE stays blocked until the last loop of the thread has ended, and not in a child") {
  const auto blocked = [] {
    sigset_t mask;
    ::pthread_sigmask(SIG_BLOCK, nullptr, &mask);
    return ::sigismember(&mask, SIGPIPE) == 1;
  };
  std::thread([&] {
    CHECK_FALSE(blocked());
    auto first = std::make_unique<coir::loop>();
    auto second = std::make_unique<coir::loop>();
    first->run_once();
    second->run_once();
    CHECK(blocked());
    CHECK(support::in_child([&] {
            if (blocked()) throw std::runtime_error("it is blocked in the child");
          }).exit_code == 0);
    first.reset();
    CHECK(blocked());
    second.reset();
    CHECK_FALSE(blocked());
  }).join();
}

TEST_CASE("the time of a turn never goes back, with timers and without") {
  coir::loop loop;
  std::vector<int> order;
  coir::instant last = loop.turn_time();
  for (int i = 0; i < 200; ++i) {
    ringer soon(order, i);
    if (i % 2 == 0) loop.arm(soon, loop.time() + 1h);
    loop.run_once();
    CHECK(loop.turn_time() >= last);
    last = loop.turn_time();
    loop.disarm(soon);
  }
}

TEST_CASE("a loop that ends takes nothing new from those whom it tells so") {
  const support::fd_pair ends = support::socket_pair();
  std::array<std::byte, 8> buffer;
  support::asked get(coir::request::recv(ends[0].get(), buffer));
  support::asked again(coir::request::recv(ends[0].get(), buffer));
  {
    coir::loop loop;
    get.seen.then = [&](coir::request&) { CHECK_FALSE(loop.start(again.request)); };
    REQUIRE(loop.start(get.request));
    loop.run_once();
  }
  CHECK(get.seen.results == std::vector{-ECANCELED});
  CHECK(again.request.result == -ECANCELED);
  CHECK(again.seen.count() == 0);
}
