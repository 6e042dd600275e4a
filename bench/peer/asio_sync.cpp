// Peer: the experimental channel of Boost.Asio between its coroutines, one thread: the cases of ../sync_cases.hpp that it
// can play. It has no mutex, and no select that keeps what a loser has received: `||` of awaitables, as its documentation
// writes it, loses messages.

#include "../sync_cases.hpp"

#include <boost/asio/awaitable.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/experimental/channel.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/use_awaitable.hpp>

#include <deque>
#include <string>
#include <utility>

namespace {

namespace asio = boost::asio;
using asio::awaitable;
using asio::use_awaitable;
using boost::system::error_code;
using ints = asio::experimental::channel<void(error_code, std::uint64_t)>;

awaitable<void> ping(asio::io_context& context, ints& there, ints& back, std::size_t rounds) {
  for (std::size_t i = 0; i < rounds; ++i) {
    co_await there.async_send(error_code(), i, use_awaitable);
    const std::uint64_t got = co_await back.async_receive(use_awaitable);
    exchange::check(got == i, "a ping came back wrong");
  }
  context.stop();
}
awaitable<void> pong(ints& there, ints& back) {
  for (;;) {
    const std::uint64_t got = co_await there.async_receive(use_awaitable);
    co_await back.async_send(error_code(), got, use_awaitable);
  }
}
double ping_pong() {
  return micro::ns_per_iteration([](std::size_t rounds) {
    asio::io_context context{1};  // the hint that one thread runs it leaves out its locks
    ints there(context);
    ints back(context);
    asio::co_spawn(context, pong(there, back), asio::detached);
    asio::co_spawn(context, ping(context, there, back, rounds), asio::detached);
    context.run();
    return rounds;
  });
}

awaitable<void> send_many(ints& to, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) co_await to.async_send(error_code(), i, use_awaitable);
}
awaitable<void> receive_many(asio::io_context& context, ints& from, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) {
    const std::uint64_t got = co_await from.async_receive(use_awaitable);
    exchange::check(got == i, "a message was lost");
  }
  context.stop();
}
double stream(std::size_t capacity) {
  return micro::ns_per_iteration([capacity](std::size_t count) {
    asio::io_context context{1};
    ints between(context, capacity);
    asio::co_spawn(context, send_many(between, count), asio::detached);
    asio::co_spawn(context, receive_many(context, between, count), asio::detached);
    context.run();
    return count;
  });
}

awaitable<void> pass_on(ints& from, ints& to) {
  for (;;) {
    const std::uint64_t got = co_await from.async_receive(use_awaitable);
    co_await to.async_send(error_code(), got + 1, use_awaitable);
  }
}
awaitable<void> go_round(asio::io_context& context, ints& from, ints& to, std::size_t rounds) {
  for (std::size_t i = 0; i < rounds; ++i) {
    co_await to.async_send(error_code(), 1, use_awaitable);
    const std::uint64_t got = co_await from.async_receive(use_awaitable);
    exchange::check(got == exchange::ring, "a token took another way");
  }
  context.stop();
}
double ring() {
  return micro::ns_per_iteration([](std::size_t iterations) {
    const std::size_t rounds = (iterations + exchange::ring - 1) / exchange::ring;
    asio::io_context context{1};
    std::deque<ints> between;
    for (std::size_t i = 0; i < exchange::ring; ++i) between.emplace_back(context);
    for (std::size_t i = 1; i < exchange::ring; ++i) {
      asio::co_spawn(context, pass_on(between[i - 1], between[i]), asio::detached);
    }
    asio::co_spawn(context, go_round(context, between.back(), between.front(), rounds), asio::detached);
    context.run();
    return rounds * exchange::ring;
  });
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<micro::bench_case> cases;
  cases.push_back({"channel/ping-pong", "asio", "ns", ping_pong});
  for (const std::size_t capacity : exchange::stream_capacities) {
    cases.push_back({"channel/stream/" + std::to_string(capacity), "asio", "ns",
                     [capacity] { return stream(capacity); }});
  }
  // Of the operators' variant with the alternatives of eight awaitables in a row only the index of two is plain.
  cases.push_back({"ring/1000", "asio", "ns", ring});
  return micro::run(argc, argv, cases);
}
