// Peer: channels of Boost.Fiber between fibers of two threads, each with its own scheduler: the cases of
// ../thread_cases.hpp.
//
// A buffered channel of 2 holds 1, and one of 1024 holds 1023.

#include "../thread_cases.hpp"

#include <boost/fiber/buffered_channel.hpp>
#include <boost/fiber/fiber.hpp>
#include <boost/fiber/unbuffered_channel.hpp>

#include <cstdint>
#include <string>
#include <thread>

namespace {

namespace fibers = boost::fibers;
using unbuffered = fibers::unbuffered_channel<std::uint64_t>;
using buffered = fibers::buffered_channel<std::uint64_t>;

template <class Here, class There>
void run_both(const Here& here, const There& there) {
  std::thread other([&] { fibers::fiber(there).join(); });
  fibers::fiber(here).join();
  other.join();
}

double ping_pong() {
  return micro::ns_per_iteration([](std::size_t rounds) {
    unbuffered there;
    unbuffered back;
    run_both(
        [&] {
          for (std::size_t i = 0; i < rounds; ++i) {
            there.push(i);
            crossing::check(back.value_pop() == i, "a ping came back wrong");
          }
        },
        [&] {
          for (std::size_t i = 0; i < rounds; ++i) back.push(there.value_pop());
        });
    return rounds;
  });
}

double stream(std::size_t capacity) {
  return micro::ns_per_iteration([capacity](std::size_t count) {
    buffered between(capacity < 2 ? 2 : capacity);
    run_both(
        [&] {
          for (std::size_t i = 0; i < count; ++i) crossing::check(between.value_pop() == i, "a message was lost");
        },
        [&] {
          for (std::size_t i = 0; i < count; ++i) between.push(i);
        });
    return count;
  });
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<micro::bench_case> cases{{"threads/ping-pong", "boost-fiber", "ns", ping_pong}};
  for (const std::size_t capacity : crossing::stream_capacities) {
    cases.push_back(
        {"threads/stream/" + std::to_string(capacity), "boost-fiber", "ns", [capacity] { return stream(capacity); }});
  }
  cases.push_back({"threads/stream/mailbox", "boost-fiber", "ns", [] { return stream(crossing::no_limit); }});
  return micro::run(argc, argv, cases);
}
