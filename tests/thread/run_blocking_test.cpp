// What may block on a loop with epoll is done by a pool: the hook run_blocking.
#include "turnstile.hpp"

#include "support/both.hpp"
#include "support/catch.hpp"
#include "support/child_process.hpp"
#include "support/descriptors.hpp"

#include <coir/base/config.hpp>
#include <coir/coir.hpp>

#include <fcntl.h>
#include <netinet/in.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdlib>
#include <deque>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

using coir::await;
using coir::fiber_state;
using coir::pool;
using coir::pool_options;
using coir::request;
using support::opened_at_end;
using support::turnstile;
using namespace std::chrono_literals;

namespace {

coir::loop_options on_epoll() { return coir::loop_options().backend(coir::backend_kind::epoll); }
coir::run_options run_on_epoll() { return coir::run_options().loop(on_epoll()); }
coir::loop& loop_here() { return coir::running_fiber().home().on(); }

using bytes_op = coir::request_op<coir::byte_count>;
using open_op = coir::request_op<coir::readiness>;  // its result is a number as well
using done_op = coir::request_op<coir::nothing>;

template <class Condition>
void until(Condition&& holds) {
  const coir::instant limit = coir::after(coir::steady_now(), 20s);
  while (!holds()) {
    if (coir::steady_now() > limit) FAIL("what was waited for does not happen");
    await(coir::yield());
  }
}

// A thread is at the first job, which is not taken back any more.
void until_begun(const pool& threads) {
  while (threads.stats().begun == 0) std::this_thread::yield();
}

// Opening it blocks until the other end is opened too.
struct fifo {
  fifo() {
    std::string made = "/tmp/coir-run-blocking-XXXXXX";
    if (::mkdtemp(made.data()) == nullptr) throw std::runtime_error("mkdtemp");
    folder = made;
    path = folder + "/fifo";
    if (::mkfifo(path.c_str(), 0600) != 0) throw std::runtime_error("mkfifo");
  }
  ~fifo() {
    ::unlink(path.c_str());
    ::rmdir(folder.c_str());
  }
  open_op open(int flags) const { return {loop_here(), request::open(path.c_str(), flags, 0)}; }
  std::string folder;
  std::string path;
};

coir::unique_fd memory_file(std::string_view text) {
  coir::unique_fd made(::memfd_create("run_blocking_test", MFD_CLOEXEC));
  REQUIRE(made);
  REQUIRE(::write(made.get(), text.data(), text.size()) == static_cast<ssize_t>(text.size()));
  return made;
}

// A request that notes that it is over.
struct asked : coir::waiter {
  explicit asked(const request& of) : waiter(kind), what(of) { what.told = this; }
  static void finished(waiter& self) noexcept { ++static_cast<asked&>(self).told; }
  static constexpr coir::waiter_kind kind{finished};
  request what;
  int told = 0;
};

}  // namespace

TEST_CASE("opening what blocks does not block the loop: other fibers go on, one of which opens the other end") {
  const fifo between;
  support::on_both_surfaces(
      [&](auto wait) {
        coir::unique_fd reading;
        auto reader = coir::spawn([&] { reading.reset(wait(between.open(O_RDONLY))); });
        until([&] { return reader.state() == fiber_state::waiting; });
        for (int i = 0; i < 100; ++i) await(coir::yield());
        CHECK(reader.state() == fiber_state::waiting);
        const coir::unique_fd writing(wait(between.open(O_WRONLY)));
        await(reader.join());
        CHECK(::write(writing.get(), "x", 1) == 1);
        char got = 0;
        CHECK(::read(reading.get(), &got, 1) == 1);
        CHECK(got == 'x');
      },
      run_on_epoll());
}

#if !COIR_THREAD_SANITIZER
// Which ends a child with threads of its own when the parent had any.
TEST_CASE("coir::run uses the default pool where the backend is epoll, which has no thread before the first file") {
  const auto ended = support::in_child([] {
    const auto threads_started = [] { return coir::default_pool().stats().threads_started; };
    for (const auto kind : {coir::backend_kind::uring, coir::backend_kind::epoll}) {
      if (kind == coir::backend_kind::uring && coir::backend_report().kind != kind) continue;
      coir::run(
          [&] {
            const coir::unique_fd file = memory_file("some text");
            std::array<std::byte, 4> into;
            await(coir::sleep_for(1ms));
            if (threads_started() != 0) std::fprintf(stderr, "a thread for nothing\n");
            const std::size_t got = await(bytes_op(loop_here(), request::read(file.get(), into, 5)));
            if (got != 4 || into[0] != std::byte{'t'}) std::fprintf(stderr, "read %zu\n", got);
            const bool used = threads_started() != 0;
            if (used != (kind == coir::backend_kind::epoll)) std::fprintf(stderr, "on the wrong backend\n");
          },
          coir::run_options().loop(coir::loop_options().backend(kind)));
    }
    coir::run([] { static_cast<void>(await(coir::as_result(done_op(loop_here(), request::fsync(0))))); });
  });
  CHECK(ended.exit_code == 0);
  CHECK(ended.text.empty());
}
#endif

TEST_CASE("a loop of a runtime gives what blocks to the default pool, as one of coir::run does") {
  const fifo between;
  const coir::unique_fd file = memory_file("some text");
  const auto begun = [] { return coir::default_pool().stats().begun; };
  const auto try_it = [&](auto wait) {
    coir::runtime rt(coir::runtime_options().loops(1).loop(on_epoll()));
    REQUIRE(rt.spawn_on(0, [&] {
                const auto before = begun();
                std::array<std::byte, 4> into;
                return wait(bytes_op(loop_here(), request::read(file.get(), into, 5))) == 4 && begun() == before + 1;
              }).get());
    // Either end would block the thread of the one loop, until the other were opened.
    CHECK(rt.spawn_on(0, [&] {
              auto reader = coir::spawn([&] { return coir::unique_fd(wait(between.open(O_RDONLY))); });
              const coir::unique_fd writing(wait(between.open(O_WRONLY)));
              const coir::unique_fd reading = await(reader.take());
              char got = 0;
              return ::write(writing.get(), "x", 1) == 1 && ::read(reading.get(), &got, 1) == 1 && got == 'x';
            }).get());
  };
  try_it(support::on_stack());
  try_it(support::in_coroutine());
}

TEST_CASE("a loop without fibers does such things itself until it is given a pool") {
  pool threads(pool_options().threads(1));
  coir::loop loop(on_epoll());
  const coir::unique_fd file = memory_file("some text");
  std::array<std::byte, 4> into;
  asked first(request::read(file.get(), into, 0));
  CHECK_FALSE(loop.start(first.what));
  CHECK(first.what.result == 4);
  CHECK(threads.stats().begun == 0);

  coir::use_pool(loop, threads);
  CHECK(threads.stats().threads_started == 0);
  asked second(request::read(file.get(), into, 5));
  REQUIRE(loop.start(second.what));
  loop.run();
  CHECK(second.told == 1);
  CHECK(second.what.result == 4);
  CHECK(threads.stats().done == 1);
}

TEST_CASE("a file operation that has not begun is taken back at once; one that has is waited for") {
  turnstile gate;
  pool threads(pool_options().threads(1));
  support::on_both_surfaces(
      [&](auto wait) {
        const fifo between;
        const coir::unique_fd file = memory_file("some text");
        coir::use_pool(loop_here(), threads);
        std::array<std::byte, 4> into{};
        auto opener = coir::spawn([&] { coir::unique_fd made(wait(between.open(O_RDONLY))); });
        until([&] { return threads.stats().begun - threads.stats().done == 1; });
        std::vector<coir::fiber<void>> readers;
        for (int i = 0; i < 10; ++i) {
          readers.push_back(coir::spawn([&] {
            static_cast<void>(wait(bytes_op(loop_here(), request::read(file.get(), into, 0))));
          }));
        }
        until([&] { return readers.back().state() == fiber_state::waiting; });
        CHECK(threads.stats().queued == 10);
        for (auto& each : readers) {
          each.cancel();
          CHECK(each.state() == fiber_state::ready);
        }
        CHECK(threads.stats().queued == 0);
        opener.cancel();
        for (int i = 0; i < 100; ++i) await(coir::yield());
        CHECK(opener.state() == fiber_state::waiting);
        // It blocks the only thread.
        const coir::unique_fd writing(::open(between.path.c_str(), O_WRONLY | O_CLOEXEC));
        until([&] { return opener.state() == fiber_state::dead; });
        CHECK(into[0] == std::byte{});
      },
      run_on_epoll());
}

TEST_CASE("many files at once, on few threads: each operation gets its own bytes") {
  pool threads(pool_options().threads(3));
  coir::run(
      [&] {
        coir::use_pool(loop_here(), threads);
        std::string text;
        for (int i = 0; i < 1000; ++i) text += std::to_string(1000 + i);
        const coir::unique_fd file = memory_file(text);
        int right = 0;
        std::vector<coir::fiber<void>> readers;
        for (int i = 0; i < 1000; ++i) {
          readers.push_back(coir::spawn([&, i]() -> coir::task<> {
            std::array<std::byte, 4> into{};
            const auto at = static_cast<std::uint64_t>(i) * 4;
            const std::size_t got = co_await bytes_op(loop_here(), request::read(file.get(), into, at));
            const std::string_view seen(reinterpret_cast<const char*>(into.data()), got);
            if (seen == std::to_string(1000 + i)) ++right;
          }));
        }
        for (auto& each : readers) await(each.join());
        CHECK(right == 1000);
        CHECK(threads.stats().done == 1000);
        CHECK(loop_here().census().holds == 0);
      },
      run_on_epoll());
}

TEST_CASE("a loop ends also when what a pool has done waits behind a post that threw") {
  const std::size_t descriptors = support::open_descriptors();
  {
    const fifo between;
    pool threads(pool_options().threads(1));
    asked opening(request::open(between.path.c_str(), O_RDONLY, 0));
    {
      coir::loop loop(on_epoll());
      coir::use_pool(loop, threads);
      REQUIRE(loop.start(opening.what));
      until_begun(threads);
      loop.post([] { throw std::runtime_error("from a post"); });
      const coir::unique_fd writing(::open(between.path.c_str(), O_WRONLY | O_CLOEXEC));
      // The only thread begins the next job when it has said that this one is done.
      std::atomic<bool> said = false;
      threads.post([&] { said = true; });
      while (!said) std::this_thread::yield();
      CHECK_THROWS_WITH(loop.run_once(), "from a post");
      CHECK(opening.told == 0);
    }
    CHECK(opening.told == 1);
    CHECK(opening.what.result >= 0);
    ::close(opening.what.result);
  }
  CHECK(support::open_descriptors() == descriptors);
}

TEST_CASE("a loop that ends waits for what a pool does for it, and takes back what has not begun") {
  const std::size_t descriptors = support::open_descriptors();
  {
    const fifo between;
    const coir::unique_fd file = memory_file("some text");
    pool threads(pool_options().threads(1));
    std::array<std::byte, 4> into;
    asked opening(request::open(between.path.c_str(), O_RDONLY, 0));
    asked reading(request::read(file.get(), into, 0));
    asked opening_too(request::open(between.path.c_str(), O_RDONLY, 0));
    std::thread opener;
    {
      coir::loop loop(on_epoll());
      coir::use_pool(loop, threads);
      REQUIRE(loop.start(opening.what));
      until_begun(threads);
      REQUIRE(loop.start(reading.what));
      REQUIRE(loop.start(opening_too.what));
      loop.run_once();
      opener = std::thread([&] {
        while (threads.stats().withdrawn < 2) std::this_thread::yield();
        const coir::unique_fd writing(::open(between.path.c_str(), O_WRONLY | O_CLOEXEC));
      });
    }
    opener.join();
    CHECK(opening.told == 1);
    CHECK(opening.what.result >= 0);
    ::close(opening.what.result);
    for (const asked* const each : {&reading, &opening_too}) {
      CHECK(each->told == 1);
      CHECK(each->what.result == -ECANCELED);
    }
  }
  CHECK(support::open_descriptors() == descriptors);
}

TEST_CASE("a loop that was asked to stop, and ends, sleeps while it waits for a pool") {
  const auto processor_time = [] {
    timespec used{};
    ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &used);
    return std::chrono::seconds(used.tv_sec) + std::chrono::nanoseconds(used.tv_nsec);
  };
  const fifo between;
  pool threads(pool_options().threads(1));
  asked opening(request::open(between.path.c_str(), O_RDONLY, 0));
  std::thread opener;
  std::chrono::nanoseconds before{};
  {
    coir::loop loop(on_epoll());
    coir::use_pool(loop, threads);
    REQUIRE(loop.start(opening.what));
    until_begun(threads);
    loop.run_once();
    loop.stop();
    opener = std::thread([&] {
      // What the loop would use up meanwhile, if it did not sleep.
      std::this_thread::sleep_for(200ms);
      const coir::unique_fd writing(::open(between.path.c_str(), O_WRONLY | O_CLOEXEC));
    });
    before = processor_time();
  }
  CHECK(processor_time() - before < 50ms);
  opener.join();
  CHECK(opening.what.result >= 0);
  ::close(opening.what.result);
}

TEST_CASE("when the pool ends before the loop, the loop does what is left, and what comes, itself") {
  turnstile gate;
  const coir::unique_fd file = memory_file("some text");
  std::array<std::byte, 4> into;
  coir::loop loop(on_epoll());
  asked first(request::read(file.get(), into, 0));
  {
    pool threads(pool_options().threads(1));
    coir::use_pool(loop, threads);
    threads.post([&] { gate.pass(); });
    gate.until_inside(1);
    REQUIRE(loop.start(first.what));
    gate.open();
    // Whether it has begun or not.
  }
  loop.run();
  CHECK(first.told == 1);
  CHECK(first.what.result == 4);
  asked second(request::read(file.get(), into, 0));
  CHECK_FALSE(loop.start(second.what));
  CHECK(second.what.result == 4);
}

TEST_CASE("a loop can be given another pool while the first still works for it") {
  turnstile gate;
  const coir::unique_fd file = memory_file("some text");
  std::array<std::byte, 4> into;
  std::array<std::byte, 4> others;
  pool first(pool_options().threads(1));
  pool second(pool_options().threads(1));
  coir::loop loop(on_epoll());
  asked slow(request::read(file.get(), into, 0));
  asked fast(request::read(file.get(), others, 5));
  coir::use_pool(loop, first);
  const opened_at_end open(gate);
  first.post([&] { gate.pass(); });
  gate.until_inside(1);
  REQUIRE(loop.start(slow.what));
  coir::use_pool(loop, second);
  REQUIRE(loop.start(fast.what));
  while (fast.told == 0) loop.run_once(-1ns);
  CHECK(slow.told == 0);
  CHECK(second.stats().done == 1);
  gate.open();
  loop.run();
  CHECK(slow.told == 1);
  CHECK(slow.what.result == 4);
}

TEST_CASE("a socket that lingers, and for whose close somebody waits, is closed by the pool") {
  pool threads(pool_options().threads(1));
  coir::loop loop(on_epoll());
  coir::use_pool(loop, threads);
  const coir::unique_fd listening(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in where{};
  where.sin_family = AF_INET;
  where.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t bytes = sizeof where;
  REQUIRE(::bind(listening.get(), reinterpret_cast<sockaddr*>(&where), bytes) == 0);
  REQUIRE(::listen(listening.get(), 1) == 0);
  REQUIRE(::getsockname(listening.get(), reinterpret_cast<sockaddr*>(&where), &bytes) == 0);
  const int mine = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  REQUIRE(::connect(mine, reinterpret_cast<sockaddr*>(&where), bytes) == 0);
  loop.adopt(mine);
  const ::linger wanted{1, 10};
  REQUIRE(::setsockopt(mine, SOL_SOCKET, SO_LINGER, &wanted, sizeof wanted) == 0);
  loop.lingers(mine);
  asked closing(request::close(mine));
  REQUIRE(loop.start(closing.what));
  loop.run();
  CHECK(closing.told == 1);
  CHECK(closing.what.result == 0);
  CHECK(threads.stats().done == 1);
  CHECK(::fcntl(mine, F_GETFD) < 0);
}

TEST_CASE("a child process lets go of a loop whose pool works for it, and tells those who wait") {
  turnstile gate;
  const coir::unique_fd file = memory_file("some text");
  std::array<std::byte, 4> into;
  pool threads(pool_options().threads(1));
  const opened_at_end open(gate);
  threads.post([&] { gate.pass(); });
  gate.until_inside(1);
  auto loop = std::make_unique<coir::loop>(on_epoll());
  coir::use_pool(*loop, threads);
  asked reading(request::read(file.get(), into, 0));
  REQUIRE(loop->start(reading.what));
  const auto ended = support::in_child([&] {
    loop.reset();
    if (reading.told != 1 || reading.what.result != -ECANCELED) std::fprintf(stderr, "not told\n");
  });
  CHECK(ended.exit_code == 0);
  CHECK(ended.text.empty());
  gate.open();
  loop->run();
  CHECK(reading.told == 1);
  CHECK(reading.what.result == 4);
}
