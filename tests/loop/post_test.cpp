#include <coir/loop/post.hpp>

#include "support/loop_tools.hpp"

#include <array>
#include <memory>
#include <thread>

TEST_CASE("a post is never inline, also when it is made on the loop's own thread") {
  coir::loop loop;
  bool ran = false;
  loop.post([&] { ran = true; });
  CHECK_FALSE(ran);
  loop.run();
  CHECK(ran);
}

TEST_CASE("posts run in their order") {
  coir::loop loop;
  std::vector<int> order;
  std::vector<int> expected;
  for (int i = 0; i < 1000; ++i) {
    loop.post([&order, i] { order.push_back(i); });
    expected.push_back(i);
  }
  CHECK(loop.run_once() == 1000);
  CHECK(order == expected);
}

TEST_CASE("what can only be moved can be posted, and is destroyed on the loop's thread once it ran") {
  coir::loop loop;
  auto value = std::make_unique<int>(7);
  int got = 0;
  std::thread::id destroyed_by;
  struct last_words {
    std::thread::id* by;
    void operator()(int*) const { *by = std::this_thread::get_id(); }
  };
  std::thread([&, value = std::move(value)]() mutable {
    loop.post([&got, value = std::move(value),
               guard = std::unique_ptr<int, last_words>(&got, {&destroyed_by})] { got = *value; });
  }).join();
  CHECK(destroyed_by == std::thread::id());
  loop.run();
  CHECK(got == 7);
  CHECK(destroyed_by == std::this_thread::get_id());
}

TEST_CASE("what is still posted when the loop dies is destroyed and does not run") {
  const auto alive = std::make_shared<int>();
  bool ran = false;
  {
    coir::loop loop;
    for (int i = 0; i < 3; ++i) {
      loop.post([&ran, alive] { ran = true; });
    }
    CHECK(alive.use_count() == 4);
  }
  CHECK(alive.use_count() == 1);
  {
    // The same for those that were taken from the inbox already, when one before them threw.
    coir::loop loop;
    loop.post([alive] { throw 1; });
    loop.post([&ran, alive] { ran = true; });
    CHECK_THROWS_AS(loop.run(), int);
    loop.post([&ran, alive] { ran = true; });
    CHECK(alive.use_count() == 3);
  }
  CHECK(alive.use_count() == 1);
  CHECK_FALSE(ran);
}

TEST_CASE("what a dying loop still holds may post to it once more") {
  const auto alive = std::make_shared<int>();
  struct last_post {
    coir::loop* to;
    std::shared_ptr<int> kept;
    last_post(coir::loop& loop, std::shared_ptr<int> what) : to(&loop), kept(std::move(what)) {}
    last_post(last_post&& other) noexcept : to(std::exchange(other.to, nullptr)), kept(std::move(other.kept)) {}
    ~last_post() {
      if (to != nullptr) to->post([kept = kept] {});
    }
    void operator()() const {}
  };
  {
    coir::loop loop;
    loop.post(last_post(loop, alive));
  }
  CHECK(alive.use_count() == 1);
}

TEST_CASE("a stop is not a post: it wakes and leaves the inbox empty") {
  coir::inbox inbox;
  CHECK(inbox.empty());
  CHECK(inbox.take() == nullptr);
  REQUIRE(inbox.fall_asleep());
  inbox.stop();
  CHECK(inbox.empty());
  CHECK(inbox.stop_requested());
  CHECK_FALSE(inbox.fall_asleep());
  inbox.clear_stop();
  CHECK(inbox.fall_asleep());
  CHECK(inbox.empty());
  inbox.awake();
}

TEST_CASE("an inbox with a post in it does not fall asleep, and one that sleeps is woken once") {
  struct nothing final : coir::post_node {
    void run() override {}
  };
  coir::inbox inbox;
  nothing one, two;
  inbox.push(one);
  CHECK_FALSE(inbox.fall_asleep());
  CHECK(inbox.take() == &one);
  std::uint64_t rung = 0;
  CHECK(::read(inbox.fd(), &rung, sizeof rung) < 0);
  REQUIRE(inbox.fall_asleep());
  inbox.push(one);
  inbox.push(two);
  inbox.stop();
  CHECK(::read(inbox.fd(), &rung, sizeof rung) == sizeof rung);
  CHECK(rung == 1);
  CHECK(inbox.take() == &one);
  CHECK(inbox.empty());
}

TEST_CASE("a post that is part of something else is over once, after it ran or when its loop ends, and not deleted") {
  struct part final : coir::post_node {
    int runs = 0;
    int ends = 0;
    void run() override { ++runs; }
    void over() noexcept override { ++ends; }
  };
  part ran, taken, left;
  {
    coir::loop loop;
    CHECK(loop.port()->push(ran));
    CHECK(ran.runs == 0);
    loop.run();
    CHECK(ran.runs == 1);
    CHECK(ran.ends == 1);
    // What throws leaves those behind it with the loop.
    loop.post([] { throw std::runtime_error("here"); });
    CHECK(loop.port()->push(taken));
    CHECK_THROWS_WITH(loop.run(), "here");
    CHECK(loop.port()->push(left));
  }
  CHECK(ran.ends == 1);
  for (const part* each : {&taken, &left}) {
    CHECK(each->runs == 0);
    CHECK(each->ends == 1);
  }
}

TEST_CASE("a loop may end with what a post brings, while its poster is still about to wake it") {
  struct last final : coir::post_node {
    void run() override {}
    void over() noexcept override {}
  };
  for (int i = 0; i < 300; ++i) {
    last word;
    auto loop = std::make_unique<coir::loop>();
    std::thread poster([&word, to = loop->port()] { to->push(word); });
    while (loop->stats().posts == 0) loop->run_once(std::chrono::nanoseconds(-1));
    loop.reset();
    poster.join();
  }
}
