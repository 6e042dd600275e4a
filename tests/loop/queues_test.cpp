// Queues far smaller than what is asked of them in one turn. On epoll there are none, and the same
// holds.
#include "loop/uring_only.hpp"

#include <poll.h>
#include <sys/eventfd.h>

#include <algorithm>
#include <chrono>
#include <deque>
#include <memory>
#include <string>
#include <thread>
#include <utility>

using namespace std::chrono_literals;
using Catch::Matchers::Contains;
using coir::request;
using tests::without_uring;

namespace {

coir::loop_options narrow(unsigned submissions = 2, unsigned completions = 4) {
  return coir::loop_options().submission_entries(submissions).completion_entries(completions);
}

// Ten thousand requests that each read one count from one of fifty eventfds.
class crowd {
 public:
  static constexpr std::size_t size = 10'000;
  static constexpr std::size_t each = 200;  // readers of one eventfd

  crowd() {
    for (std::size_t i = 0; i < size / each; ++i) {
      counters_.emplace_back(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC | EFD_SEMAPHORE));
      REQUIRE(counters_.back());
    }
    for (std::size_t i = 0; i < size; ++i) {
      all.emplace_back(request::read(counters_[i / each].get(), buffers_[i]));
    }
  }
  void start(coir::loop& on) {
    for (support::asked& one : all) REQUIRE(on.start(one.request));
  }
  void feed() {
    for (const coir::unique_fd& counter : counters_)
      REQUIRE(::eventfd_write(counter.get(), each) == 0);
  }
  // How many were told of this result.
  std::size_t told(int result) const {
    return static_cast<std::size_t>(std::count_if(all.begin(), all.end(), [&](const auto& one) {
      return one.over() && one.seen.count() == 1 && one.seen.last() == result;
    }));
  }

  std::deque<support::asked> all;

 private:
  std::vector<coir::unique_fd> counters_;
  std::vector<std::array<std::byte, 8>> buffers_{size};
};

bool all_over(const coir::loop& loop) {
  return loop.in_flight() == 0;
}

}  // namespace

TEST_CASE("ten thousand requests of one turn go through a submission queue of two entries") {
  for (const bool ran_before : {false, true}) {
    coir::loop loop(narrow(2, 0));
    if (support::on_uring(loop)) CHECK_THAT(loop.describe(), Contains("2 submission"));
    if (ran_before) loop.run_once();
    crowd requests;
    requests.start(loop);
    CHECK(loop.in_flight() == crowd::size);
    loop.run_once();
    requests.feed();
    support::run_until(loop, [&] { return all_over(loop); });
    CHECK(requests.told(8) == crowd::size);
    CHECK(loop.stats().backend.completed == crowd::size);
    CHECK(loop.stats().backend.stale_events == 0);
  }
}

TEST_CASE("of ten thousand requests on two entries every second can be withdrawn in the same turn") {
  for (const bool ran_before : {false, true}) {
    coir::loop loop(narrow());
    if (ran_before) loop.run_once();
    crowd requests;
    requests.start(loop);
    std::size_t silent = 0;
    for (std::size_t i = 0; i < crowd::size; i += 2) {
      silent += loop.withdraw(requests.all[i].request) == coir::abort_answer::now;
    }
    const std::size_t half = crowd::size / 2;
    support::run_until(loop, [&] { return loop.in_flight() == half; });
    requests.feed();
    support::run_until(loop, [&] { return all_over(loop); });
    CHECK(requests.told(8) == half);
    CHECK(requests.told(-ECANCELED) + silent == half);
    CHECK(loop.stats().backend.stale_events == 0);
  }
}

TEST_CASE("ten thousand requests on two entries are told of when their loop dies, run or not") {
  for (const bool run : {false, true}) {
    crowd requests;
    {
      coir::loop loop(narrow());
      requests.start(loop);
      if (run) loop.run_once();
    }
    CHECK(requests.told(-ECANCELED) == crowd::size);
  }
}

TEST_CASE("a chain of requests, each started by the end of the last, needs no room in the queue") {
  coir::loop loop(narrow());
  const support::fd_pair ends = support::pipe_pair();
  int left = 10'000;
  support::asked put(request::poll(ends[1].get(), POLLOUT));
  put.seen.then = [&](request& again) {
    // On epoll it is over at once; there the chain is a loop.
    while (--left > 0 && !loop.start(again)) {
    }
  };
  if (!loop.start(put.request)) put.seen.then(put.request);
  support::run_until(loop, [&] { return put.over(); });
  CHECK(left == 0);
}

TEST_CASE("posts and timers reach a loop whose submission queue is always full") {
  coir::loop loop(narrow(2, 2));
  const support::fd_pair ends = support::socket_pair();
  std::deque<support::asked> polls;
  for (int i = 0; i < 100; ++i) polls.emplace_back(request::poll(ends[0].get(), POLLIN));
  bool posted = false;
  for (support::asked& one : polls) REQUIRE(loop.start(one.request));
  std::thread other([&] { loop.post([&] { posted = true; }); });
  support::run_until(loop, [&] { return posted; });
  other.join();
  REQUIRE(::write(ends[1].get(), "x", 1) == 1);
  support::run_until(loop, [&] { return all_over(loop); });
}

TEST_CASE("a completion queue of four entries loses none of ten thousand results") {
  coir::loop loop(narrow(4, 4));
  crowd requests;
  requests.start(loop);
  loop.run_once();
  requests.feed();
  support::run_until(loop, [&] { return all_over(loop); });
  CHECK(requests.told(8) == crowd::size);
  if (without_uring()) return;
  CHECK(loop.stats().backend.overflows > 0);
}

TEST_CASE("accept_multi goes on through overflows, and loses no connection") {
  support::leaves_no_descriptor([] {
    coir::loop loop(narrow());
    crowd noise;
    const coir::unique_fd listener = support::tcp_listener();
    std::vector<coir::unique_fd> accepted;
    int ended = 0;
    support::asked all(request::accept_multi(listener.get()));
    all.seen.then = [&](request& told) {
      if (told.result >= 0) accepted.emplace_back(told.result);
      if (told.armed() || told.result == -ECANCELED) return;
      ++ended;
      CHECK(loop.start(told));
    };
    REQUIRE(loop.start(all.request));
    noise.start(loop);
    loop.run_once();
    std::vector<coir::unique_fd> clients;
    for (int i = 0; i < 500; ++i) {
      clients.push_back(support::tcp_client(support::own_address(listener.get())));
    }
    noise.feed();
    support::run_until(loop,
                       [&] { return accepted.size() == 500 && noise.told(8) == crowd::size; });
    support::idle_turns(loop);
    CHECK(accepted.size() == 500);
    CHECK(support::give_up(loop, all) == -ECANCELED);
    if (!support::on_uring(loop)) return;
    CHECK(loop.stats().backend.overflows > 0);
    // What an overflow does to a multishot request, and what `armed` is there to say.
    CHECK(ended > 0);
  });
}

TEST_CASE("recv_multi goes on through overflows, and every byte arrives once and in order") {
  constexpr int streams = 50;
  constexpr int pieces = 40;
  // Fewer chunks than what may arrive at once: it also runs out of them.
  coir::loop loop(narrow().chunks(64));
  struct stream {
    explicit stream(support::fd_pair made)
        : ends(std::move(made)), all(request::recv_multi(ends[1].get())) {}
    support::fd_pair ends;
    support::asked all;
    std::string text;
  };
  std::deque<stream> many;
  int ended = 0;
  int starved = 0;
  std::vector<stream*> stopped;
  for (int i = 0; i < streams; ++i) {
    stream& one = many.emplace_back(support::socket_pair(SOCK_SEQPACKET));
    one.all.seen.then = [&](request& told) {
      if (told.result > 0) {
        one.text += support::text_of(
            loop.chunks().claim(told.chunk(), static_cast<std::size_t>(told.result)).bytes());
      }
      starved += told.result == -ENOBUFS;
      if (told.armed() || told.result == -ECANCELED) return;
      ++ended;
      stopped.push_back(&one);
    };
    REQUIRE(loop.start(one.all.request));
  }
  crowd noise;
  noise.start(loop);
  loop.run_once();
  std::string expected;
  for (int i = 0; i < pieces; ++i) {
    const std::string piece = std::to_string(i) + ",";
    expected += piece;
    for (stream& one : many) {
      REQUIRE(::send(one.ends[0].get(), piece.data(), piece.size(), 0) ==
              static_cast<ssize_t>(piece.size()));
    }
  }
  noise.feed();
  support::run_until(loop, [&] {
    for (stream* one : std::exchange(stopped, {})) {
      if (one->all.over()) REQUIRE(loop.start(one->all.request));
    }
    return noise.told(8) == crowd::size &&
           std::all_of(many.begin(), many.end(),
                       [&](const stream& one) { return one.text.size() == expected.size(); });
  });
  for (stream& one : many) {
    CHECK(one.text == expected);
    if (!one.all.over()) support::give_up(loop, one.all);
  }
  CHECK(loop.chunks().free() == loop.chunks().count());
  if (!support::on_uring(loop)) return;
  CHECK(loop.stats().backend.overflows > 0);
  CHECK(ended > starved);
}
