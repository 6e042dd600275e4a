// fork(2) while a loop lives: the child may make loops of its own, cannot touch its parent's, and
// the parent notices nothing.
#include "loop/timers.hpp"
#include "support/child_process.hpp"
#include "support/loop_tools.hpp"

#include <coir/coir.hpp>
#include <coir/loop/descriptor.hpp>

#include <poll.h>

#include <cstdio>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

using namespace std::chrono_literals;
using Catch::Matchers::Contains;
using coir::request;

namespace {

// A loop in the middle of its work.
class parent {
 public:
  parent() {
    loop.adopt(ends[0].get());
    multi.seen.then = [this](request& told) {
      if (told.result <= 0) return;
      const auto size = static_cast<std::size_t>(told.result);
      text += support::text_of(loop.chunks().claim(told.chunk(), size).bytes());
    };
    accept.seen.then = [this](request& told) {
      if (told.result >= 0) accepted.emplace_back(told.result);
    };
    for (support::asked* each : {&get, &multi, &accept}) REQUIRE(loop.start(each->request));
    loop.arm(later, loop.time() + 1h);
    loop.run_once();
  }
  ~parent() {
    loop.disarm(later);
    for (support::asked* each : {&get, &multi, &accept}) {
      if (!each->over()) support::give_up(loop, *each);
    }
  }

  // That all which was in flight still is, and is served. REQUIRE, so that it is also heard from a
  // child.
  void expect_undisturbed() {
    support::idle_turns(loop);
    REQUIRE(get.seen.count() == 0);
    REQUIRE(loop.in_flight() == 3);
    REQUIRE(fired.empty());
    REQUIRE(::write(ends[1].get(), "abc", 3) == 3);
    REQUIRE(::write(more[1].get(), "chunk", 5) == 5);
    const coir::unique_fd client = support::tcp_client(support::own_address(listener.get()));
    bool posted = false;
    std::thread other([&] { loop.post([&] { posted = true; }); });
    loop.arm(later, loop.time() + 1ms);
    support::run_until(loop, [&] {
      return posted && get.over() && text == "chunk" && accepted.size() == 1 && fired.size() == 1;
    });
    other.join();
    REQUIRE(get.seen.results == std::vector{3});
    REQUIRE(loop.stats().backend.stale_events == 0);
    REQUIRE(loop.stats().backend.rebuilds == 0);
  }

  coir::loop loop;
  support::fd_pair ends = support::socket_pair();
  support::fd_pair more = support::socket_pair();
  coir::unique_fd listener = support::tcp_listener();
  std::array<std::byte, 8> buffer{};
  support::asked get{request::recv(ends[0].get(), buffer)};
  support::asked multi{request::recv_multi(more[0].get())};
  support::asked accept{request::accept_multi(listener.get())};
  std::vector<int> fired;
  tests::ringer later{fired, 1};
  std::string text;
  std::vector<coir::unique_fd> accepted;
};

void say(const char* text) {
  std::fprintf(stderr, "%s\n", text);
}

// What a child does with a loop of its own.
void work() {
  coir::loop loop;
  const support::fd_pair ends = support::socket_pair();
  std::array<std::byte, 8> buffer;
  support::asked get(request::recv(ends[0].get(), buffer));
  if (!loop.start(get.request)) throw std::runtime_error("nothing to wait for");
  std::thread other([&] {
    loop.post([&] {
      if (::write(ends[1].get(), "x", 1) != 1) throw std::runtime_error("no write");
    });
  });
  support::run_until(loop, [&] { return get.over(); });
  other.join();
  say("worked");
}

void say_refusal(const std::function<void()>& use) {
  try {
    use();
    say("not refused");
  } catch (const std::logic_error& error) {
    say(error.what());
  }
}

// The loop as seen by a child, which does not destroy it: that is its parent's.
template <class Use>
support::ended in_child_of(parent& of, Use use) {
  return support::in_child([&] { use(of); });
}

}  // namespace

TEST_CASE("a child may make a loop of its own while its parent's is at work, and the parent goes on") {
  support::leaves_no_descriptor([] {
    parent mine;
    for (int i = 0; i < 3; ++i) {
      const auto child = in_child_of(mine, [](parent&) {
        work();
        work();
      });
      CHECK(child.exit_code == 0);
      CHECK(child.text == "worked\nworked\n");
    }
    mine.expect_undisturbed();
  });
}

TEST_CASE("a child that uses its parent's loop gets an error that says what to do, and the parent goes on") {
  parent mine;
  const auto child = in_child_of(mine, [](parent& its) {
    support::asked another(request::recv(its.ends[0].get(), its.buffer));
    say_refusal([&] { its.loop.run(); });
    say_refusal([&] { its.loop.run_once(); });
    say_refusal([&] { its.loop.run_for(1ms); });
    say_refusal([&] { its.loop.start(another.request); });
    say_refusal([&] { static_cast<void>(its.loop.pollable_fd()); });
    say_refusal([&] { its.loop.post([] {}); });
    if (its.loop.usable()) say("usable");
    work();
  });
  CHECK(child.exit_code == 0);
  const std::string refusal =
      "a loop was used in a child process (fork) of the one that made it; make a new loop there\n";
  CHECK(child.text == refusal + refusal + refusal + refusal + refusal + refusal + "worked\n");
  CHECK(mine.loop.usable());
  mine.expect_undisturbed();
}

TEST_CASE("a child that stops, posts to or withdraws from its parent's loop reaches nobody") {
  parent mine;
  const auto child = in_child_of(mine, [](parent& its) {
    its.loop.stop();
    say_refusal([&] { its.loop.post([] { say("ran"); }); });
    its.loop.withdraw(its.get.request);
    its.loop.close_soon(its.more[0].release());
    if (its.get.seen.count() != 0) say("told");
    if (its.multi.seen.results != std::vector{-ECANCELED}) say("not told");
  });
  CHECK_THAT(child.text, Contains("child process") && !Contains("told"));
  CHECK(child.exit_code == 0);
  CHECK(mine.loop.run_once() == 0);
  mine.expect_undisturbed();
}

TEST_CASE("what becomes ready in a child is not shown to the foreign loop of its parent") {
  coir::loop mine;
  pollfd shown{mine.pollable_fd(), POLLIN, 0};
  do {
    mine.run_once();
  } while (::poll(&shown, 1, 0) != 0);
  const auto child = support::in_child([&] { mine.work_appeared(); });
  CHECK(child.exit_code == 0);
  CHECK(::poll(&shown, 1, 0) == 0);
  mine.work_appeared();
  CHECK(::poll(&shown, 1, 0) == 1);
}

TEST_CASE("a child may destroy what it inherited, loop and descriptors, in any order") {
  for (const bool loop_first : {false, true}) {
    INFO("loop first: " << loop_first);
    auto mine = std::make_unique<coir::loop>();
    support::fd_pair ends = support::socket_pair();
    support::fd_pair more = support::socket_pair();
    std::array<std::byte, 8> buffer;
    coir::descriptor one(*mine, ends[0].release());
    coir::descriptor other(*mine, more[0].release());
    const int number = one.get();
    support::asked get(request::recv(number, buffer));
    support::asked multi(request::recv_multi(other.get()));
    REQUIRE(mine->start(get.request));
    REQUIRE(mine->start(multi.request));
    mine->run_once();
    const auto child = support::in_child([&] {
      if (loop_first) mine.reset();
      one.reset();
      other.reset();
      mine.reset();
      if (::fcntl(number, F_GETFD) >= 0) say("still open");
      for (const support::asked* each : {&get, &multi}) {
        if (each->seen.results != std::vector{-ECANCELED}) say("not told");
      }
      work();
    });
    CHECK(child.exit_code == 0);
    CHECK(child.text == "worked\n");
    support::idle_turns(*mine);
    CHECK_FALSE(get.over());
    REQUIRE(::write(ends[1].get(), "x", 1) == 1);
    support::run_until(*mine, [&] { return get.over(); });
    CHECK(get.seen.results == std::vector{1});
    CHECK(support::give_up(*mine, multi) == -ECANCELED);
  }
}

TEST_CASE("a post that cannot fail is lost in a child, and its parent's loop sleeps on") {
  struct note final : coir::post_node {
    void run() override { say("run"); }
    void lost() noexcept override {
      say("lost");
      delete this;
    }
  };
  coir::loop loop;
  pollfd shown{loop.pollable_fd(), POLLIN, 0};
  support::run_until(loop, [&] { return ::poll(&shown, 1, 0) == 0; });
  const auto child = support::in_child([&] { loop.post_made(std::make_unique<note>()); });
  CHECK(child.exit_code == 0);
  CHECK(child.text == "lost\n");
  CHECK(::poll(&shown, 1, 0) == 0);
}

TEST_CASE("a child only counts the chunks of its parent's loop that die in it") {
  coir::loop loop;
  coir::chunk_pool& pool = loop.chunks();
  const unsigned all = pool.free();
  std::uint16_t number = 0;
  REQUIRE(pool.take(number));
  coir::chunk kept = pool.claim(number, 4);
  const support::ended child = support::in_child([&] {
    kept = coir::chunk();
    REQUIRE(pool.free() == all - 1);
  });
  CHECK(child.exit_code == 0);
  kept = coir::chunk();
  CHECK(pool.free() == all);
}

TEST_CASE("a fork in the middle of a turn: the child leaves it with an error, or makes a loop of its own") {
  parent mine;
  support::ended child;
  mine.loop.post([&] {
    child = support::in_child([&] {
      say_refusal([&] { mine.loop.run_once(); });
      work();
    });
  });
  mine.loop.run_once();
  CHECK(child.exit_code == 0);
  CHECK_THAT(child.text, Contains("child process") && Contains("worked"));
  mine.expect_undisturbed();
}

TEST_CASE("a child that comes back into the turn it was forked in gets an error, and not its parent's results") {
  // All of it in a child, which keeps the one that comes back away from the test program.
  const auto outer = support::in_child([] {
    for (const bool run_once : {false, true}) {
      parent mine;
      pid_t child = -1;
      mine.loop.post([&] { child = ::fork(); });
      say_refusal([&] {
        run_once ? static_cast<void>(mine.loop.run_once()) : mine.loop.run_for(0ns);
        if (child != 0) throw std::logic_error("the parent went on");
      });
      if (child == 0) ::_exit(0);
      while (::waitpid(child, nullptr, 0) < 0) {
      }
      mine.expect_undisturbed();
    }
  });
  CHECK(outer.exit_code == 0);
  const std::string refusal =
      "a loop was used in a child process (fork) of the one that made it; make a new loop there\n";
  const std::string one_way = refusal + "the parent went on\n";
  const std::string other_way = "the parent went on\n" + refusal;
  for (std::string left = outer.text; !left.empty(); left.erase(0, one_way.size())) {
    const std::string pair = left.substr(0, one_way.size());
    CHECK((pair == one_way || pair == other_way));
  }
  CHECK(outer.text.size() == 2 * one_way.size());
}

TEST_CASE("a child that a fiber forks and that comes back runs none of the fibers that were ready behind it") {
  const auto outer = support::in_child([] {
    const pid_t parent = ::getpid();
    pid_t child = -1;
    const auto work = [&] {
      if (::getpid() != parent) std::fprintf(stderr, "in the child\n");
    };
    const auto task = [&]() -> coir::task<> {
      work();
      co_return;
    };
    try {
      coir::run([&] {
        auto forks = coir::spawn([&] { child = ::fork(); });
        auto next = coir::spawn(work);
        auto last = coir::spawn(task());
        coir::await(forks.join());
        coir::await(next.join());
        coir::await(last.join());
      });
    } catch (const std::logic_error& error) {
      if (::getpid() == parent) throw;
      std::fprintf(stderr, "%s\n", error.what());
      ::_exit(0);
    }
    if (::getpid() != parent) std::fprintf(stderr, "in the child\n");
    while (::waitpid(child, nullptr, 0) < 0) {
    }
  });
  CHECK(outer.exit_code == 0);
  CHECK_THAT(outer.text, Contains("child process") && !Contains("in the child"));
}

TEST_CASE("a fork by another thread while loops sleep disturbs none of them") {
  parent mine;
  std::thread other([&] {
    for (int i = 0; i < 5; ++i) {
      const auto child = support::in_child([] { work(); });
      if (child.exit_code != 0) break;
    }
    mine.loop.post([&] { mine.loop.stop(); });
  });
  mine.loop.run();
  other.join();
  mine.expect_undisturbed();
}

TEST_CASE("a child of a child of a loop's process is refused too, and has loops of its own") {
  parent mine;
  const auto child = in_child_of(mine, [](parent& its) {
    coir::loop own;
    const auto grandchild = support::in_child([&] {
      say_refusal([&] { own.run_once(); });
      say_refusal([&] { its.loop.run_once(); });
      work();
    });
    std::fputs(grandchild.text.c_str(), stderr);
    own.post([] { say("own"); });
    own.run();
  });
  CHECK(child.exit_code == 0);
  const std::string refusal =
      "a loop was used in a child process (fork) of the one that made it; make a new loop there\n";
  CHECK(child.text == refusal + refusal + "worked\nown\n");
  mine.expect_undisturbed();
}
