#include "support/child_process.hpp"
#include "support/loop_tools.hpp"

#include <poll.h>

#include <atomic>
#include <csignal>
#include <memory>
#include <stdexcept>
#include <thread>

using namespace std::chrono_literals;
using Catch::Matchers::Contains;

namespace {

template <class Body>
void in_thread(Body&& body) {
  std::thread(std::forward<Body>(body)).join();
}

}  // namespace

TEST_CASE("a loop that is run from inside itself says so, and goes on") {
  coir::loop loop;
  int refused = 0;
  const auto refuse = [&](auto run) {
    loop.post([&refused, run] {
      try {
        run();
      } catch (const std::logic_error& error) {
        CHECK_THAT(error.what(), Contains("inside itself"));
        ++refused;
      }
    });
  };
  refuse([&] { loop.run(); });
  refuse([&] { loop.run_once(); });
  refuse([&] { loop.run_for(1ms); });
  loop.run();
  CHECK(refused == 3);
  CHECK(loop.run_once() == 0);
}

TEST_CASE("a loop belongs to the thread that first ran it, and another is refused") {
  coir::loop loop;
  CHECK(loop.is_own_thread());
  loop.run();
  CHECK(loop.is_own_thread());
  in_thread([&] {
    CHECK_FALSE(loop.is_own_thread());
    CHECK_THROWS_AS(loop.run(), std::logic_error);
    CHECK_THROWS_AS(loop.run_once(), std::logic_error);
    CHECK_THROWS_WITH(loop.run_for(1ms), Contains("another thread"));
  });
  CHECK(loop.run_once() == 0);
}

TEST_CASE("a loop belongs to the thread that asks for its descriptor") {
  coir::loop loop;
  in_thread([&] { static_cast<void>(loop.pollable_fd()); });
  CHECK_FALSE(loop.is_own_thread());
  CHECK_THROWS_AS(loop.pollable_fd(), std::logic_error);
  CHECK_THROWS_AS(loop.run_once(), std::logic_error);
}

TEST_CASE("a loop can be made, and given work, by one thread and run by another") {
  auto loop = std::make_unique<coir::loop>();
  const support::fd_pair ends = support::socket_pair();
  std::array<std::byte, 8> one;
  support::asked get(coir::request::recv(ends[0].get(), one));
  support::asked multi(coir::request::recv_multi(ends[1].get()));
  multi.seen.then = [&](coir::request& of) {
    if (of.result > 0) loop->chunks().claim(of.chunk(), static_cast<std::size_t>(of.result));
  };
  REQUIRE(loop->start(get.request));
  REQUIRE(loop->start(multi.request));
  REQUIRE(::write(ends[0].get(), "abc", 3) == 3);
  REQUIRE(::write(ends[1].get(), "xy", 2) == 2);
  bool posted = false;
  loop->post([&] { posted = true; });
  in_thread([&] {
    support::run_until(*loop, [&] { return get.over() && multi.seen.count() == 1; });
    CHECK(get.seen.last() == 2);
    CHECK(multi.seen.last() == 3);
    CHECK(posted);
    loop.reset();
  });
  CHECK(multi.over());
}

TEST_CASE("several loops live on one thread, and one may be run inside a callback of another") {
  coir::loop outer;
  coir::loop inner;
  std::vector<int> order;
  CHECK(coir::loop::current() == nullptr);
  inner.post([&] {
    CHECK(coir::loop::current() == &inner);
    CHECK_THROWS_AS(outer.run(), std::logic_error);
    order.push_back(2);
  });
  outer.post([&] {
    CHECK(coir::loop::current() == &outer);
    order.push_back(1);
    inner.run();
    CHECK(coir::loop::current() == &outer);
    order.push_back(3);
  });
  outer.run();
  CHECK(coir::loop::current() == nullptr);
  CHECK(order == std::vector{1, 2, 3});
}

TEST_CASE("more loops live on one thread than the kernel registers rings for") {
  std::vector<std::unique_ptr<coir::loop>> loops;
  for (int i = 0; i < 40; ++i) loops.push_back(std::make_unique<coir::loop>());
  int ran = 0;
  for (int round = 0; round < 2; ++round) {
    for (auto& each : loops) {
      each->post([&] { ++ran; });
      each->run_once(-1ns);
      each->run_once(1ns);
    }
    loops.erase(loops.begin() + 7, loops.begin() + 20);
  }
  CHECK(ran == 40 + 27);
}

TEST_CASE("a loop that is destroyed by another thread takes nothing from that thread's own loops") {
  auto gone = std::make_unique<coir::loop>();
  in_thread([&] { gone->run_once(1ns); });
  coir::loop mine;
  mine.run_once(1ns);
  gone.reset();
  bool ran = false;
  mine.post([&] { ran = true; });
  mine.run_once(1ns);
  mine.run_once(1ns);
  CHECK(ran);
}

TEST_CASE("a loop that another thread destroys with something in flight says so, and ends the program") {
  // A thread that comes later may have all that one which has ended had, its std::thread::id too.
  for (const bool by_a_later_one : {false, true}) {
    const auto child = support::in_child([&] {
      const support::fd_pair ends = support::pipe_pair();
      support::asked waiting(coir::request::poll(ends[0].get(), POLLIN));
      auto loop = std::make_unique<coir::loop>();
      in_thread([&] {
        REQUIRE(loop->start(waiting.request));
        loop->run_once(0ns);
      });
      const auto destroy = [&] {
        coir::loop mine;
        mine.run_once(0ns);
        loop.reset();
      };
      by_a_later_one ? in_thread(destroy) : destroy();
    });
    CHECK(child.signal == SIGABRT);
    CHECK_THAT(child.text, Contains("destroyed by another thread than the one it belongs to, with requests in flight"));
  }
}

TEST_CASE("loops on many threads are made, run and destroyed at the same time") {
  std::vector<std::thread> threads;
  std::atomic<int> ran = 0;
  for (int i = 0; i < 8; ++i) {
    threads.emplace_back([&] {
      for (int k = 0; k < 20; ++k) {
        coir::loop loop;
        loop.post([&] { ++ran; });
        loop.run();
      }
    });
  }
  for (std::thread& each : threads) each.join();
  CHECK(ran == 160);
}

TEST_CASE("a loop destroyed with all kinds of things in flight tells of each request, and calls nothing else") {
  support::leaves_no_descriptor([] {
    const support::fd_pair ends = support::socket_pair();
    const coir::unique_fd listener = support::tcp_listener();
    std::array<std::byte, 8> buffer;
    bool ran = false;
    support::asked get(coir::request::recv(ends[0].get(), buffer));
    support::asked multi(coir::request::recv_multi(ends[1].get()));
    support::asked accept(coir::request::accept_multi(listener.get()));
    {
      coir::loop loop;
      loop.run_once();
      for (support::asked* each : {&get, &multi, &accept}) REQUIRE(loop.start(each->request));
      loop.run_once();
      loop.post([&] { ran = true; });
    }
    for (support::asked* each : {&get, &multi, &accept}) {
      CHECK(each->over());
      CHECK(each->seen.results == std::vector{-ECANCELED});
    }
    CHECK_FALSE(ran);
  });
}
