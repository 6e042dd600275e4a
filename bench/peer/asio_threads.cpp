// Peer: the concurrent channel of Boost.Asio between coroutines on two threads, each with a context of its own: the cases of
// ../thread_cases.hpp.

#include "../thread_cases.hpp"

#include <boost/asio/awaitable.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/experimental/concurrent_channel.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/use_awaitable.hpp>

#include <cstdint>
#include <string>
#include <thread>

namespace {

namespace asio = boost::asio;
using asio::awaitable;
using asio::use_awaitable;
using boost::system::error_code;
using numbers = asio::experimental::concurrent_channel<void(error_code, std::uint64_t)>;

// Two contexts, each run by a thread until its coroutine has ended.
template <class Here, class There>
void run_both(const Here& here, const There& there) {
  asio::io_context mine;
  asio::io_context its;
  asio::co_spawn(its, there(mine, its), asio::detached);
  asio::co_spawn(mine, here(mine, its), asio::detached);
  auto more = asio::make_work_guard(its);
  std::thread other([&] { its.run(); });
  auto wait = asio::make_work_guard(mine);
  mine.run();
  more.reset();
  other.join();
}

awaitable<void> ping(asio::io_context& context, numbers& there, numbers& back, std::size_t rounds) {
  for (std::size_t i = 0; i < rounds; ++i) {
    co_await there.async_send(error_code(), i, use_awaitable);
    const std::uint64_t got = co_await back.async_receive(use_awaitable);
    crossing::check(got == i, "a ping came back wrong");
  }
  context.stop();
}
awaitable<void> pong(numbers& there, numbers& back, std::size_t rounds) {
  for (std::size_t i = 0; i < rounds; ++i) {
    const std::uint64_t got = co_await there.async_receive(use_awaitable);
    co_await back.async_send(error_code(), got, use_awaitable);
  }
}

awaitable<void> send_many(numbers& to, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) co_await to.async_send(error_code(), i, use_awaitable);
}
awaitable<void> receive_many(asio::io_context& context, numbers& from, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) {
    const std::uint64_t got = co_await from.async_receive(use_awaitable);
    crossing::check(got == i, "a message was lost");
  }
  context.stop();
}

// A context with two channels of its own, whose ends both threads use.
double ping_pong() {
  return micro::ns_per_iteration([](std::size_t rounds) {
    asio::io_context home;
    numbers there(home);
    numbers back(home);
    run_both([&](asio::io_context& mine, asio::io_context&) { return ping(mine, there, back, rounds); },
             [&](asio::io_context&, asio::io_context&) { return pong(there, back, rounds); });
    return rounds;
  });
}
double stream(std::size_t capacity) {
  return micro::ns_per_iteration([capacity](std::size_t count) {
    asio::io_context home;
    numbers between(home, capacity);
    run_both([&](asio::io_context& mine, asio::io_context&) { return receive_many(mine, between, count); },
             [&](asio::io_context&, asio::io_context&) { return send_many(between, count); });
    return count;
  });
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<micro::bench_case> cases{{"threads/ping-pong", "asio", "ns", ping_pong}};
  for (const std::size_t capacity : crossing::stream_capacities) {
    cases.push_back({"threads/stream/" + std::to_string(capacity), "asio", "ns", [capacity] { return stream(capacity); }});
  }
  cases.push_back({"threads/stream/mailbox", "asio", "ns", [] { return stream(crossing::no_limit); }});
  return micro::run(argc, argv, cases);
}
