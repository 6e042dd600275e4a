// What travels between threads has memory of its own: that it is right for all that may travel, and comes back.
#include <coir/thread/letter_memory.hpp>

#include "support/both.hpp"
#include "support/catch.hpp"
#include "support/counted_heap.hpp"

#include <coir/coir.hpp>

#include <array>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <thread>

namespace {

template <std::size_t Bytes>
struct sized {
  explicit sized(int number) { bytes.fill(static_cast<unsigned char>(number)); }
  bool is(int number) const {
    for (const unsigned char each : bytes) {
      if (each != static_cast<unsigned char>(number)) return false;
    }
    return true;
  }
  std::array<unsigned char, Bytes> bytes;
};

struct alignas(128) wide {
  explicit wide(int n) : number(n) {}
  bool is(int n) const { return n == number && reinterpret_cast<std::uintptr_t>(this) % alignof(wide) == 0; }
  int number;
};

// Refuses to be moved when it is told to.
struct stubborn {
  explicit stubborn(bool yes) : refuses(yes) {}
  stubborn(stubborn&& other) : refuses(other.refuses) {
    if (refuses) throw std::runtime_error("no");
  }
  stubborn& operator=(stubborn&&) = default;
  bool refuses;
};

template <class M>
void goes_across(int count) {
  coir::run([count] {
    coir::mailbox<M> box;
    std::thread other([to = box.sender(), count] {
      for (int i = 0; i < count; ++i) to.send(M(i % 251));
    });
    for (int i = 0; i < count; ++i) {
      const auto got = coir::await(box.receive());
      if (!got->is(i % 251)) FAIL("message " << i << " is another one");
    }
    other.join();
  });
}

}  // namespace

TEST_CASE("what travels arrives as it was, whatever its size and alignment") {
  goes_across<sized<1>>(10'000);
  goes_across<sized<8>>(10'000);
  goes_across<sized<100>>(10'000);
  goes_across<sized<coir::priv::letter_bytes_max>>(1000);  // with what a letter is besides, too large for a block
  goes_across<sized<5000>>(1000);
  goes_across<wide>(1000);
}

TEST_CASE("its memory goes round: the thousandth batch needs no more than the tenth") {
  const auto batch = [] {
    coir::run([] {
      coir::mailbox<std::uint64_t> box;
      const auto to = box.sender();
      for (std::uint64_t i = 0; i < 1000; ++i) to.send(i);
      while (box.try_receive()) {
      }
    });
  };
  for (int i = 0; i < 10; ++i) batch();
  const long before = support::heap.bytes;
  for (int i = 0; i < 990; ++i) batch();
  CHECK(support::heap.bytes == before);
}

TEST_CASE("what a thread has sent outlives it, and what it has read comes back with its end") {
  for (int round = 0; round < 100; ++round) {
    coir::run([] {
      coir::mailbox<std::unique_ptr<int>> box;
      std::thread([to = box.sender()] {
        for (int i = 0; i < 300; ++i) to.send(std::make_unique<int>(i));
      }).join();
      for (int i = 0; i < 300; ++i) CHECK(**box.try_receive() == i);
      CHECK_FALSE(box.try_receive());
    });
  }
  const auto elsewhere = [] {
    std::thread([] {
      coir::run([] {
        coir::mailbox<int> box;
        const auto to = box.sender();
        for (int i = 0; i < 300; ++i) to.send(i);
        while (box.try_receive()) {
        }
      });
    }).join();
  };
  elsewhere();
  const long before = support::heap.bytes;
  for (int round = 0; round < 100; ++round) elsewhere();
  CHECK(support::heap.bytes == before);
}

TEST_CASE("a value that refuses to be moved into a letter leaves nothing behind") {
  coir::run([] {
    coir::mailbox<stubborn> box(8);
    const auto to = box.sender();
    stubborn first(true);
    CHECK_THROWS_WITH(to.try_send(first), "no");
    for (int i = 0; i < 8; ++i) CHECK(to.try_send(stubborn(false)) == coir::delivery::sent);  // it took no place
    for (int i = 0; i < 8; ++i) CHECK(box.try_receive());
    CHECK_FALSE(box.try_receive());
  });
}
