// Peer: a thread_pool of Boost.Asio beside an io_context with one thread: a coroutine goes there and back.

#include "../pool_cases.hpp"

#include <boost/asio/awaitable.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/thread_pool.hpp>
#include <boost/asio/use_awaitable.hpp>

#include <vector>

namespace {

namespace asio = boost::asio;
using asio::awaitable;

// A function called by the pool, its result posted back: the coroutine itself stays where it is.
template <class F>
awaitable<std::uint64_t> call(asio::io_context& home, asio::thread_pool& threads, F function) {
  return asio::async_initiate<const asio::use_awaitable_t<>, void(std::uint64_t)>(
      [&home, &threads, function](auto handler) {
        asio::post(threads, [&home, function, handler = std::move(handler)]() mutable {
          const std::uint64_t result = function();
          asio::post(home, [result, handler = std::move(handler)]() mutable { std::move(handler)(result); });
        });
      },
      asio::use_awaitable);
}

awaitable<void> call_often(asio::io_context& home, asio::thread_pool& threads, std::size_t times) {
  for (std::size_t i = 0; i < times; ++i) {
    const std::uint64_t got = co_await call(home, threads, [] { return std::uint64_t{1}; });
    pools::check(got == 1, "a call gave something else than its result");
  }
  home.stop();
}

double round_trip() {
  asio::thread_pool threads(pools::threads);
  return micro::ns_per_iteration([&](std::size_t iterations) {
    asio::io_context home;
    const auto work = asio::make_work_guard(home);
    co_spawn(home, call_often(home, threads, iterations), asio::detached);
    home.run();
    return iterations;
  });
}

awaitable<void> compute(asio::io_context& home, asio::thread_pool& threads, std::uint64_t steps, std::size_t& left) {
  static_cast<void>(co_await call(home, threads, [steps] { return pools::compute(steps); }));
  if (--left == 0) home.stop();
}

double fan_out(const pools::fan_out& how) {
  asio::thread_pool threads(pools::threads);
  const std::uint64_t steps = pools::steps_for(how.microseconds);
  return micro::ns_per_iteration([&](std::size_t) {
    asio::io_context home;
    const auto work = asio::make_work_guard(home);
    std::size_t left = how.jobs;
    for (std::size_t i = 0; i < how.jobs; ++i) co_spawn(home, compute(home, threads, steps, left), asio::detached);
    home.run();
    pools::check(left == 0, "a job was not done");
    return how.jobs;
  });
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<micro::bench_case> cases{{"pool/round-trip", "asio", "ns", round_trip}};
  for (const pools::fan_out& each : pools::fans) {
    cases.push_back({each.name, "asio", "ns", [&each] { return fan_out(each); }});
  }
  return micro::run(argc, argv, cases);
}
