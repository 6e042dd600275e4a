// Random selects over several channels, and fibers that are cancelled at random moments: what was sent is received
// once, and what was not sent never.
#include "support/catch.hpp"

#include <coir/coir.hpp>
#include <coir/testing/dice.hpp>
#include <coir/testing/seeds.hpp>
#include <coir/testing/simulator.hpp>

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <utility>
#include <variant>
#include <vector>

using namespace std::chrono_literals;

namespace {

constexpr unsigned senders = 4;
constexpr unsigned receivers = 4;
constexpr unsigned per_sender = 12;

using value = std::unique_ptr<unsigned>;

class world {
 public:
  explicit world(std::uint64_t seed) : dice(seed), sent(senders * per_sender), received(senders * per_sender) {
    for (auto& each : channels) each = std::make_unique<coir::channel<value>>(dice.below(3));
  }

  coir::channel<value>& any() { return *channels[dice.below(channels.size())]; }
  void got(std::optional<value> what) {
    if (what) ++received[**what];
  }

  coir::testing::dice dice;
  std::array<std::unique_ptr<coir::channel<value>>, 3> channels;
  std::vector<unsigned> sent;
  std::vector<unsigned> received;
};

// Sends one value wherever it can; false when it was not sent.
bool send_somewhere(world& in, coir::channel_send_op<value>& one) {
  auto pause = std::chrono::milliseconds(in.dice.below(4));
  switch (in.dice.below(5)) {
    case 0: coir::await(one); return true;
    case 1: return coir::await(coir::select(one, coir::sleep_for(pause))).index() == 0;
    case 2: return coir::await(coir::select(coir::sleep_for(pause), one, coir::otherwise)).index() == 1;
    case 3: {
      // It receives at the same time, perhaps from the same channel.
      auto what = coir::await(coir::select(in.any().receive(), one, in.any().receive()));
      if (what.index() == 1) return true;
      in.got(what.index() == 0 ? std::get<0>(std::move(what)) : std::get<2>(std::move(what)));
      return false;
    }
    default: {
      auto what = coir::await(coir::move_on_after(pause, coir::select(one, coir::sleep_for(1h))));
      return what && what->index() == 0;
    }
  }
}

void send_all(world& in, unsigned who) {
  for (unsigned i = 0; i < per_sender; ++i) {
    const unsigned number = who * per_sender + i;
    auto mine = std::make_unique<unsigned>(number);
    while (mine != nullptr) {
      auto op = in.any().send(std::move(mine));
      if (send_somewhere(in, op)) {
        ++in.sent[number];
      } else {
        mine = op.value();
      }
    }
  }
}

void receive_some(world& in) {
  for (;;) {
    auto pause = std::chrono::milliseconds(in.dice.below(4));
    switch (in.dice.below(5)) {
      case 0: in.got(coir::await(in.any().receive())); break;
      case 1: {
        auto what = coir::await(coir::select(in.any().receive(), in.any().receive()));
        in.got(what.index() == 0 ? std::get<0>(std::move(what)) : std::get<1>(std::move(what)));
        break;
      }
      case 2: {
        auto what = coir::await(coir::select(in.any().receive(), coir::sleep_for(pause), coir::otherwise));
        if (what.index() == 0) in.got(std::get<0>(std::move(what)));
        coir::await(coir::yield());
        break;
      }
      case 3: {
        auto what = coir::await(coir::select(coir::move_on_after(pause, in.any().receive()),
                                             coir::select(in.any().receive(), in.any().receive())));
        if (what.index() == 0) {
          if (std::get<0>(what)) in.got(*std::get<0>(std::move(what)));
        } else {
          std::visit([&](auto&& inner) { in.got(std::move(inner)); }, std::get<1>(std::move(what)));
        }
        break;
      }
      default: {
        std::vector<coir::channel_receive_op<value>> all;
        all.reserve(in.channels.size());
        for (auto& each : in.channels) all.push_back(each->receive());
        auto what = coir::await(coir::select_any(all));
        in.got(std::move(what.value));
        for (auto& each : what.also) in.got(std::move(each.value));
        break;
      }
    }
  }
}

void play(std::uint64_t seed) {
  world in(seed);
  coir::with_nursery([&](coir::nursery& all) {
    std::vector<coir::fiber<void>> sending;
    std::vector<coir::fiber<void>> receiving;
    for (unsigned i = 0; i < senders; ++i) sending.push_back(all.spawn([&in, i] { send_all(in, i); }));
    for (unsigned i = 0; i < receivers; ++i) receiving.push_back(all.spawn([&in] { receive_some(in); }));
    for (unsigned i = 0; i < 12; ++i) {
      coir::await(coir::sleep_for(std::chrono::milliseconds(in.dice.below(3))));
      for (unsigned turn = 0; turn < in.dice.below(4); ++turn) coir::await(coir::yield());
      auto& victim = receiving[in.dice.below(receiving.size())];
      victim.cancel();
      if (in.dice.chance(0.5)) victim = all.spawn([&in] { receive_some(in); });
      if (in.dice.chance(0.2)) sending[in.dice.below(sending.size())].cancel();
    }
    all.cancel();
  });
  for (auto& each : in.channels) {
    REQUIRE(each->senders_waiting() + each->receivers_waiting() == 0);
    while (auto left = each->try_receive()) in.got(std::move(left));
  }
  unsigned passed = 0;
  for (std::size_t i = 0; i < in.sent.size(); ++i) {
    REQUIRE(in.sent[i] <= 1);
    REQUIRE(in.received[i] == in.sent[i]);
    passed += in.sent[i];
  }
  REQUIRE(passed > 0);
}

}  // namespace

TEST_CASE("random selects lose nothing and double nothing, whoever is cancelled") {
  coir::testing::for_each_seed(1000, [](std::uint64_t seed) {
    coir::testing::simulator sim(coir::testing::simulator_options().seed(seed));
    coir::run([&] { play(seed); }, sim.for_run());
  });
}

TEST_CASE("bytes that a select read late are in the result, and all arrive") {
  coir::testing::for_each_seed(200, [](std::uint64_t seed) {
    coir::testing::simulator sim(coir::testing::simulator_options().seed(seed).faults(0.4));
    unsigned late = 0;
    coir::run(
        [&] {
          auto [client, server] = sim.streams();
          coir::testing::dice dice(seed);
          constexpr unsigned total = 200;
          auto writer = coir::spawn([&client = client, &dice] {
            for (unsigned i = 0; i < total; ++i) {
              const std::array<std::byte, 1> one{static_cast<std::byte>(i)};
              coir::await(coir::io::write_all(client, one));
              coir::await(coir::sleep_for(std::chrono::milliseconds(dice.below(3))));
            }
          });
          for (unsigned seen = 0; seen < total;) {
            std::array<std::byte, 4> into{};
            auto got = coir::await(coir::select(server.read_some(into),
                                                coir::sleep_for(std::chrono::milliseconds(dice.below(3)))));
            std::size_t bytes = 0;
            if (got.index() == 0) bytes = std::get<0>(got);
            if (const std::size_t* const more = got.also<0>(); more != nullptr) {
              bytes = *more;
              ++late;
            }
            for (std::size_t i = 0; i < bytes; ++i) REQUIRE(into[i] == static_cast<std::byte>(seen++));
          }
          coir::await(writer.join());
        },
        sim.for_run());
    static unsigned all_late = 0;
    all_late += late;
    if (seed == 200) CHECK(all_late > 0);
  });
}
