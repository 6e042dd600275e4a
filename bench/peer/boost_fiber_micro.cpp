// Peer: switching, spawning and waiting for many on Boost.Fiber, with stacks from its pool.
//
// Boost.Fiber has one kind of body only, so the same figure stands against coroutine fibers and
// against stackful ones: every case exists under both names.

#include "../micro.hpp"

#include <boost/fiber/condition_variable.hpp>
#include <boost/fiber/fiber.hpp>
#include <boost/fiber/fixedsize_stack.hpp>
#include <boost/fiber/mutex.hpp>
#include <boost/fiber/operations.hpp>
#include <boost/fiber/pooled_fixedsize_stack.hpp>

#include <memory>
#include <mutex>

namespace {

namespace fibers = boost::fibers;

constexpr std::size_t stack_bytes = 16 * 1024;

// The measuring fiber is one of the `count`, so that each of its yields is one full round.
double switch_fibers(std::size_t count) {
  fibers::pooled_fixedsize_stack stacks(stack_bytes);
  bool stop = false;
  std::vector<fibers::fiber> others;
  for (std::size_t i = 1; i < count; ++i) {
    others.emplace_back(std::allocator_arg, stacks, [&stop] {
      while (!stop) {
        boost::this_fiber::yield();
      }
    });
  }
  const double result = micro::ns_per_iteration([&](std::size_t iterations) {
    const std::size_t rounds = (iterations + count - 1) / count;
    for (std::size_t i = 0; i < rounds; ++i) {
      boost::this_fiber::yield();
    }
    return rounds * count;
  });
  stop = true;
  for (fibers::fiber& other : others) {
    other.join();
  }
  return result;
}

double spawn_fibers() {
  fibers::pooled_fixedsize_stack stacks(stack_bytes);
  return micro::ns_per_iteration([&](std::size_t iterations) {
    for (std::size_t i = 0; i < iterations; ++i) {
      fibers::fiber(std::allocator_arg, stacks, [] {}).join();
    }
    return iterations;
  });
}

// As nursery/1000 of ../scope_cases.hpp: all are spawned, then all are joined.
double join_many() {
  constexpr std::size_t children = 1000;
  fibers::pooled_fixedsize_stack stacks(stack_bytes);
  std::vector<fibers::fiber> spawned;
  spawned.reserve(children);
  return micro::ns_per_iteration([&](std::size_t iterations) {
    const std::size_t times = iterations / children;
    for (std::size_t i = 0; i < times; ++i) {
      for (std::size_t child = 0; child < children; ++child) {
        spawned.emplace_back(std::allocator_arg, stacks, [] {});
      }
      for (fibers::fiber& each : spawned) {
        each.join();
      }
      spawned.clear();
    }
    return times * children;
  });
}

double park_fibers() {
  constexpr std::size_t parked = 100'000;
  fibers::mutex mutex;
  fibers::condition_variable wake_up;
  bool stop = false;
  std::vector<fibers::fiber> waiting;
  waiting.reserve(parked);
  const std::size_t before = micro::resident_bytes();
  for (std::size_t i = 0; i < parked; ++i) {
    // The pool would put two fibers' ends on one page and touch the pages between; plain
    // stacks are what this peer does best here.
    waiting.emplace_back(std::allocator_arg, fibers::fixedsize_stack(stack_bytes), [&] {
      std::unique_lock lock(mutex);
      wake_up.wait(lock, [&] { return stop; });
    });
    boost::this_fiber::yield();
  }
  const double result = static_cast<double>(micro::resident_bytes() - before) / parked;
  stop = true;
  wake_up.notify_all();
  for (fibers::fiber& one : waiting) {
    one.join();
  }
  return result;
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<micro::bench_case> cases;
  for (const std::string body : {"coroutine", "stack"}) {
    for (const std::size_t count : {2, 100, 10'000}) {
      cases.push_back({"switch/" + body + "/" + std::to_string(count), "boost-fiber", "ns",
                       [count] { return switch_fibers(count); }});
    }
    cases.push_back({"spawn/" + body, "boost-fiber", "ns", spawn_fibers});
    cases.push_back({"spawn/parked-" + body, "boost-fiber", "bytes", park_fibers});
  }
  // Its two always have different code.
  cases.push_back({"switch/stack-mixed/2", "boost-fiber", "ns", [] { return switch_fibers(2); }});
  cases.push_back({"nursery/1000", "boost-fiber", "ns", join_many});
  return micro::run(argc, argv, cases);
}
