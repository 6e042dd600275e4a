#include "support/both.hpp"
#include "support/catch.hpp"
#include "support/counted_heap.hpp"

#include <coir/coir.hpp>

#include <cstddef>
#include <cstdint>
#include <string>

namespace {

// Two fibers that send so many numbers to and fro.
long allocations_of(std::size_t capacity, int rounds) {
  coir::channel<int> there(capacity);
  coir::channel<int> back(capacity);
  long allocated = 0;
  auto echo = coir::spawn([](coir::channel<int>& from, coir::channel<int>& to) -> coir::task<> {
    while (auto number = co_await from.receive()) co_await to.send(*number);
  }(there, back));
  auto ask = coir::spawn([&]() -> coir::task<> {
    for (int i = 0; i < 2 * rounds; ++i) {
      if (i == rounds) allocated = -support::heap.allocations;
      co_await there.send(i);
      co_await back.receive();
    }
    allocated += support::heap.allocations;
    there.close();
  });
  coir::await(ask.join());
  coir::await(echo.join());
  return allocated;
}

}  // namespace

TEST_CASE("a message allocates nothing, whether or not somebody waits for it") {
  coir::run([] {
    for (const std::size_t capacity : {std::size_t{0}, std::size_t{1}, std::size_t{64}}) {
      CHECK(allocations_of(capacity, 1'000) == 0);
    }
    coir::channel<int> full(64);
    for (int round = 0; round < 4; ++round) {
      const long before = support::heap.allocations;
      for (int i = 0; i < 64; ++i) coir::await(full.send(i));
      for (int i = 0; i < 64; ++i) coir::await(full.receive());
      if (round > 0) CHECK(support::heap.allocations == before);
    }
  });
}

TEST_CASE("a channel has no memory before the first value is buffered, and none after it was cleared") {
  coir::run([] {
    const long before = support::heap.blocks;
    coir::channel<int> numbers(1'000'000);
    CHECK(support::heap.blocks == before);
    coir::await(numbers.send(1));
    if (support::heap_is_counted) CHECK(support::heap.blocks == before + 1);
    numbers.clear();
    CHECK(support::heap.blocks == before);
  });
}

#if !COIR_ADDRESS_SANITIZER && !COIR_THREAD_SANITIZER
TEST_CASE("a buffer that cannot grow is an error to the sender, who has its value still") {
  support::on_both_surfaces([](auto wait) {
    coir::channel<std::string> texts(coir::unbounded);
    for (int i = 0; i < 4; ++i) wait(texts.send(std::to_string(i)));
    std::string text = "a text that is too long to lie in the string itself";
    auto sending = texts.send(std::move(text));
    support::heap.exhausted = true;
    bool refused = false;
    try {
      coir::await(sending);
    } catch (const std::bad_alloc&) {
      refused = true;
    }
    support::heap.exhausted = false;
    CHECK(refused);
    CHECK(sending.value() == "a text that is too long to lie in the string itself");
    CHECK(texts.size() == 4);
    CHECK(texts.stats().sent == 4);
    coir::await(sending);
    CHECK(texts.receive_all().size() == 5);
  });
}
#endif
