// Peer: channels and mutexes on Boost.Fiber, with stacks from its pool: the cases of ../sync_cases.hpp that it can play.
//
// It has no select. A buffered channel of 2 holds 1, and one of 1024 holds 1023. A million of its stacks are no program, so
// there is no skynet.

#include "../sync_cases.hpp"

#include <boost/fiber/buffered_channel.hpp>
#include <boost/fiber/fiber.hpp>
#include <boost/fiber/mutex.hpp>
#include <boost/fiber/operations.hpp>
#include <boost/fiber/pooled_fixedsize_stack.hpp>
#include <boost/fiber/unbuffered_channel.hpp>

#include <deque>
#include <functional>
#include <mutex>
#include <string>

namespace {

namespace fibers = boost::fibers;
using unbuffered = fibers::unbuffered_channel<std::uint64_t>;
using buffered = fibers::buffered_channel<std::uint64_t>;

constexpr std::size_t stack_bytes = 16 * 1024;

class program {
 public:
  template <class Body>
  void spawn(Body&& body) {
    all_.emplace_back(std::allocator_arg, stacks_, std::forward<Body>(body));
  }
  void join() {
    for (fibers::fiber& each : all_) each.join();
  }

 private:
  fibers::pooled_fixedsize_stack stacks_{stack_bytes};
  std::deque<fibers::fiber> all_;
};

double ping_pong() {
  return micro::ns_per_iteration([](std::size_t rounds) {
    unbuffered there;
    unbuffered back;
    program here;
    here.spawn([&] {
      for (std::size_t i = 0; i < rounds; ++i) back.push(there.value_pop());
    });
    here.spawn([&] {
      for (std::size_t i = 0; i < rounds; ++i) {
        there.push(i);
        exchange::check(back.value_pop() == i, "a ping came back wrong");
      }
    });
    here.join();
    return rounds;
  });
}

template <class Channel>
std::size_t stream_through(Channel& between, std::size_t count) {
  program here;
  here.spawn([&] {
    for (std::size_t i = 0; i < count; ++i) between.push(i);
  });
  here.spawn([&] {
    for (std::size_t i = 0; i < count; ++i) exchange::check(between.value_pop() == i, "a message was lost");
  });
  here.join();
  return count;
}
double stream(std::size_t capacity) {
  return micro::ns_per_iteration([capacity](std::size_t count) {
    if (capacity == 0) {
      unbuffered between;
      return stream_through(between, count);
    }
    buffered between(capacity < 2 ? 2 : capacity);
    return stream_through(between, count);
  });
}

double hand_over() {
  return micro::ns_per_iteration([](std::size_t times) {
    fibers::mutex one;
    program here;
    for (int i = 0; i < 2; ++i) {
      here.spawn([&] {
        for (std::size_t round = 0; round < times / 2; ++round) {
          const std::unique_lock held(one);
          boost::this_fiber::yield();
        }
      });
    }
    here.join();
    return times;
  });
}

double ring() {
  return micro::ns_per_iteration([](std::size_t iterations) {
    const std::size_t rounds = (iterations + exchange::ring - 1) / exchange::ring;
    std::deque<unbuffered> between(exchange::ring);
    program here;
    for (std::size_t i = 1; i < exchange::ring; ++i) {
      here.spawn([&from = between[i - 1], &to = between[i], rounds] {
        for (std::size_t round = 0; round < rounds; ++round) to.push(from.value_pop() + 1);
      });
    }
    here.spawn([&] {
      for (std::size_t i = 0; i < rounds; ++i) {
        between.front().push(1);
        exchange::check(between.back().value_pop() == exchange::ring, "a token took another way");
      }
    });
    here.join();
    return rounds * exchange::ring;
  });
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<micro::bench_case> cases;
  cases.push_back({"channel/ping-pong", "boost-fiber", "ns", ping_pong});
  for (const std::size_t capacity : exchange::stream_capacities) {
    cases.push_back({"channel/stream/" + std::to_string(capacity), "boost-fiber", "ns",
                     [capacity] { return stream(capacity); }});
  }
  cases.push_back({"mutex/hand-over", "boost-fiber", "ns", hand_over});
  cases.push_back({"ring/1000", "boost-fiber", "ns", ring});
  return micro::run(argc, argv, cases);
}
