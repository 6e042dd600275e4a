// Floor of threads/*: two threads that never sleep, and the cache lines that go to and fro between them.

#include "../thread_cases.hpp"

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <thread>

namespace {

constexpr std::size_t cache_line = 64;

void relax() { __builtin_ia32_pause(); }

struct alignas(cache_line) word {
  std::atomic<std::uint64_t> value{0};

  void await(std::uint64_t wanted) const {
    while (value.load(std::memory_order_acquire) != wanted) relax();
  }
};

double ping_pong() {
  return micro::ns_per_iteration([](std::size_t rounds) {
    word there;
    word back;
    std::thread other([&] {
      for (std::uint64_t i = 1; i <= rounds; ++i) {
        there.await(i);
        back.value.store(i, std::memory_order_release);
      }
    });
    for (std::uint64_t i = 1; i <= rounds; ++i) {
      there.value.store(i, std::memory_order_release);
      back.await(i);
    }
    other.join();
    return rounds;
  });
}

// One producer, one consumer, each of whom remembers how far the other one was when it last looked.
class ring {
 public:
  explicit ring(std::size_t capacity) : slots_(std::make_unique<std::uint64_t[]>(capacity)), capacity_(capacity) {}

  void send(std::uint64_t value) {
    while (sent_ - received_seen_ == capacity_) {
      received_seen_ = received_.load(std::memory_order_acquire);
      if (sent_ - received_seen_ == capacity_) relax();
    }
    slots_[sent_ % capacity_] = value;
    sent_word_.store(++sent_, std::memory_order_release);
  }
  std::uint64_t receive() {
    while (sent_seen_ == taken_) {
      sent_seen_ = sent_word_.load(std::memory_order_acquire);
      if (sent_seen_ == taken_) relax();
    }
    const std::uint64_t got = slots_[taken_ % capacity_];
    received_.store(++taken_, std::memory_order_release);
    return got;
  }

 private:
  const std::unique_ptr<std::uint64_t[]> slots_;
  const std::size_t capacity_;
  alignas(cache_line) std::uint64_t sent_ = 0;
  std::uint64_t received_seen_ = 0;
  alignas(cache_line) std::uint64_t taken_ = 0;
  std::uint64_t sent_seen_ = 0;
  alignas(cache_line) std::atomic<std::uint64_t> sent_word_{0};
  alignas(cache_line) std::atomic<std::uint64_t> received_{0};
};

double stream(std::size_t capacity) {
  return micro::ns_per_iteration([capacity](std::size_t count) {
    ring between(capacity);
    std::thread other([&] {
      for (std::uint64_t i = 0; i < count; ++i) between.send(i);
    });
    for (std::uint64_t i = 0; i < count; ++i) crossing::check(between.receive() == i, "a message was lost");
    other.join();
    return count;
  });
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<micro::bench_case> cases{{"threads/ping-pong", "floor-cache-line", "ns", ping_pong}};
  for (const std::size_t capacity : crossing::stream_capacities) {
    cases.push_back({"threads/stream/" + std::to_string(capacity), "floor-cache-line", "ns",
                     [capacity] { return stream(capacity); }});
  }
  cases.push_back({"threads/stream/mailbox", "floor-cache-line", "ns", [] { return stream(crossing::no_limit); }});
  return micro::run(argc, argv, cases);
}
