// Remote channels under several threads at once.
#include <coir/thread/remote_channel.hpp>

#include "support/both.hpp"
#include "support/catch.hpp"

#include <coir/coir.hpp>
#include <coir/thread/runtime.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <utility>
#include <vector>

namespace {

constexpr std::size_t loops = 4;

int messages() { return std::getenv("COIR_TEST_LONG") != nullptr ? 10'000'000 : 200'000; }

struct numbered {
  std::size_t fiber;
  int number;
};

}  // namespace

TEST_CASE("of two hundred thousand values of four loops none is lost or comes twice, each fiber's in order") {
  // On each loop two, which wait for room side by side.
  constexpr std::size_t fibers = 2 * loops;
  coir::runtime rt(coir::runtime_options().loops(loops));
  // What waits for room goes there and back between threads: few of these take as long as many of the others.
  struct part {
    std::size_t capacity;
    int permille;
  };
  for (const part& now : {part{0, 10}, part{1, 10}, part{64, 280}, part{1024, 700}}) {
    const int each = messages() / 1000 * now.permille / static_cast<int>(fibers);
    const int all = each * static_cast<int>(fibers);
    coir::run([&] {
      coir::remote_channel<numbered> numbers(now.capacity);
      std::vector<coir::remote<void>> senders;
      for (std::size_t i = 0; i < fibers; ++i) {
        senders.push_back(rt.spawn_on(i % loops, [to = numbers.sender(), i, each] {
          for (int number = 0; number < each; ++number) coir::await(to.send({i, number}));
        }));
      }
      std::array<int, fibers> next{};
      int out_of_order = 0;
      for (int total = 0; total < all; ++total) {
        const auto got = coir::await(numbers.receive());
        out_of_order += got->number != std::exchange(next[got->fiber], got->number + 1);
      }
      for (auto& sender : senders) coir::await(sender.join());
      CHECK(out_of_order == 0);
      CHECK_FALSE(numbers.try_receive());
      CHECK(numbers.stats().received == static_cast<std::uint64_t>(all));
    });
  }
}
