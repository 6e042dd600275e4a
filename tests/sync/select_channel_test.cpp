// What Go's language specification and its users expect of select, a row for each. (What has to do with nil channels,
// which there are none of, is left out.)
#include "support/catch.hpp"
#include "support/jumping.hpp"

#include <coir/coir.hpp>

#include <array>
#include <chrono>
#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

using namespace std::chrono_literals;
using coir::channel;
using support::jumping;
using support::jumping_on_both;

namespace {

void turns(int count = 3) {
  for (int i = 0; i < count; ++i) coir::await(coir::yield());
}

struct row {
  const char* rule;
  void (*check)();
};

const row rows[] = {
    {"the one case that is ready is taken",
     [] {
       channel<int> a(1);
       channel<int> b(1);
       coir::await(b.send(7));
       for (int i = 0; i < 10; ++i) {
         auto got = coir::await(coir::select(a.receive(), b.receive()));
         REQUIRE(got.index() == 1);
         CHECK(std::get<1>(got) == 7);
         coir::await(b.send(7));
       }
       CHECK(b.size() == 1);
     }},
    {"of several that are ready one is taken, each about as often, and the others have no effect",
     [] {
       channel<int> a(1);
       channel<int> b(1);
       channel<int> full(1);
       std::array<int, 3> wins{};
       for (int i = 0; i < 3000; ++i) {
         a.try_send(1);
         b.try_send(2);
         auto got = coir::await(coir::select(a.receive(), b.receive(), full.send(3)));
         ++wins[got.index()];
         CHECK(a.size() + b.size() + (1 - full.size()) == 2);
         full.clear();
       }
       for (const int each : wins) CHECK(each > 800);
     }},
    {"with a default case nothing waits",
     [] {
       channel<int> empty;
       channel<int> full(1);
       coir::await(full.send(1));
       CHECK(coir::await(coir::select(empty.receive(), coir::otherwise)).index() == 1);
       CHECK(coir::await(coir::select(full.send(2), coir::otherwise)).index() == 1);
       CHECK(coir::await(coir::select(empty.send(2), full.send(2), empty.receive(), coir::otherwise)).index() == 3);
       CHECK(full.size() == 1);
       CHECK(empty.senders_waiting() + empty.receivers_waiting() + full.senders_waiting() == 0);
     }},
    {"with a default case what is ready is taken",
     [] {
       channel<int> one(1);
       CHECK(coir::await(coir::select(one.send(2), coir::otherwise)).index() == 0);
       auto got = coir::await(coir::select(one.receive(), coir::otherwise));
       REQUIRE(got.index() == 0);
       CHECK(std::get<0>(got) == 2);
     }},
    {"a sender finds a select that waits to receive",
     [] {
       channel<int> a;
       channel<int> b;
       auto fiber = coir::spawn([&] { return *std::get<0>(coir::await(coir::select(a.receive(), b.receive()))); });
       turns();
       CHECK(a.try_send(7));
       CHECK_FALSE(b.try_send(8));
       CHECK_FALSE(a.try_send(9));
       CHECK(coir::await(fiber.join()) == 7);
     }},
    {"a receiver finds a select that waits to send",
     [] {
       channel<int> a;
       channel<int> b(1);
       coir::await(b.send(0));
       auto fiber = coir::spawn([&] { return coir::await(coir::select(a.send(7), b.send(8))).index(); });
       turns();
       CHECK(b.try_receive() == 0);
       CHECK(b.try_receive() == 8);
       CHECK_FALSE(b.try_receive());
       CHECK_FALSE(a.try_receive());
       CHECK(coir::await(fiber.join()) == 1);
     }},
    {"a closed channel is always ready to receive from",
     [] {
       channel<int> closed;
       channel<int> other;
       closed.close();
       auto got = coir::await(coir::select(other.receive(), closed.receive()));
       REQUIRE(got.index() == 1);
       CHECK_FALSE(std::get<1>(got));
     }},
    {"what is left in a closed channel comes first",
     [] {
       channel<int> closed(1);
       coir::await(closed.send(7));
       closed.close();
       CHECK(std::get<0>(coir::await(coir::select(closed.receive(), coir::sleep_for(1s)))) == 7);
       CHECK_FALSE(std::get<0>(coir::await(coir::select(closed.receive(), coir::sleep_for(1s)))));
     }},
    {"sending to a closed channel fails, also in a select that was waiting",
     [] {
       channel<int> a;
       channel<int> b;
       auto fiber = coir::spawn(
           [&] { CHECK_THROWS_AS(coir::await(coir::select(a.send(1), b.receive())), coir::closed); });
       turns();
       a.close();
       CHECK(b.receivers_waiting() == 0);
       coir::await(fiber.join());
       CHECK_THROWS_AS(coir::await(coir::select(a.send(1), b.receive())), coir::closed);
       CHECK_THROWS_AS(coir::await(coir::select(a.send(1), coir::otherwise)), coir::closed);
     }},
    {"a close wakes every select that waits there",
     [] {
       channel<int> done;
       channel<int> work;
       std::vector<coir::fiber<std::size_t>> all;
       for (int i = 0; i < 10; ++i) {
         all.push_back(coir::spawn([&] { return coir::await(coir::select(work.receive(), done.receive())).index(); }));
       }
       turns();
       done.close();
       CHECK(work.receivers_waiting() == 0);
       for (auto& each : all) CHECK(coir::await(each.join()) == 1);
     }},
    {"a select does not meet itself: who sends and receives on one channel waits for somebody else",
     [] {
       for (int i = 0; i < 20; ++i) {
         channel<int> both;
         CHECK(coir::await(coir::select(both.send(1), both.receive(), coir::otherwise)).index() == 2);
         auto fiber = coir::spawn([&] { return coir::await(coir::select(both.send(1), both.receive())).index(); });
         turns();
         CHECK(both.senders_waiting() == 1);
         CHECK(both.receivers_waiting() == 1);
         if (i % 2 == 0) {
           CHECK(both.try_receive() == 1);
           CHECK(coir::await(fiber.join()) == 0);
         } else {
           CHECK(both.try_send(2));
           CHECK(coir::await(fiber.join()) == 1);
         }
         CHECK(both.senders_waiting() + both.receivers_waiting() == 0);
       }
     }},
    {"nor does it when an op has a limit, or is in a select of its own",
     [] {
       for (int i = 0; i < 20; ++i) {
         channel<int> both;
         channel<int> other;
         auto fiber = coir::spawn([&] {
           return coir::await(coir::select(coir::move_on_after(1h, both.send(1)),
                                           coir::select(other.receive(), coir::as_result(both.receive()))))
               .index();
         });
         turns();
         CHECK(both.senders_waiting() == 1);
         CHECK(both.receivers_waiting() == 1);
         CHECK(both.try_receive() == 1);
         CHECK(coir::await(fiber.join()) == 0);
         CHECK(other.receivers_waiting() == 0);
       }
     }},
    {"with room for one it sends and receives in turn",
     [] {
       channel<int> one(1);
       std::string got;
       for (int i = 0; i < 10; ++i) {
         auto what = coir::await(coir::select(one.receive(), one.send(i)));
         if (what.index() == 0) got += std::to_string(**std::get_if<0>(&what));
       }
       CHECK(got == "02468");
     }},
    {"two selects meet, and one value passes",
     [] {
       for (int i = 0; i < 20; ++i) {
         channel<int> there;
         channel<int> back;
         auto first = coir::spawn([&] { return coir::await(coir::select(there.send(1), back.receive())).index(); });
         auto second = coir::spawn([&] { return coir::await(coir::select(back.send(2), there.receive())).index(); });
         const std::size_t one = coir::await(first.join());
         const std::size_t other = coir::await(second.join());
         CHECK(one + other == 1);
         CHECK(there.senders_waiting() + there.receivers_waiting() + back.senders_waiting() + back.receivers_waiting() == 0);
         CHECK(there.stats().received + back.stats().received == 1);
       }
     }},
    {"the same channel may stand in several cases, and one of them has the value",
     [] {
       channel<int> one;
       auto receiver = coir::spawn([&] { return coir::await(coir::select(one.receive(), one.receive())).index(); });
       turns();
       CHECK(one.try_send(1));
       CHECK_FALSE(one.try_send(2));
       CHECK(coir::await(receiver.join()) < 2);
       auto sender = coir::spawn([&] { return coir::await(coir::select(one.send(3), one.send(4))).index(); });
       turns();
       const auto got = one.try_receive();
       CHECK_FALSE(one.try_receive());
       CHECK(got == (coir::await(sender.join()) == 0 ? 3 : 4));
     }},
    {"a select gives up its places: those behind it are served",
     [] {
       channel<int> a;
       channel<int> b;
       auto first = coir::spawn([&] { return coir::await(coir::select(a.receive(), b.receive())).index(); });
       turns();
       auto second = coir::spawn([&] { return coir::await(a.receive()); });
       turns();
       CHECK(b.try_send(1));
       CHECK(a.try_send(2));
       CHECK(coir::await(first.join()) == 1);
       CHECK(coir::await(second.join()) == 2);
     }},
    {"a select keeps its place among those that wait, also when it has several there",
     [] {
       channel<int> a;
       std::string order;
       std::vector<coir::fiber<void>> all;
       all.push_back(coir::spawn([&] { coir::await(a.receive()), order += '1'; }));
       turns();
       all.push_back(coir::spawn([&] { coir::await(coir::select(a.receive(), a.receive())), order += '2'; }));
       turns();
       all.push_back(coir::spawn([&] { coir::await(a.receive()), order += '3'; }));
       turns();
       for (int i = 0; i < 3; ++i) CHECK(a.try_send(i));
       for (auto& each : all) coir::await(each.join());
       CHECK(order == "123");
     }},
    {"a timeout is a case",
     [] {
       channel<int> never;
       const coir::instant begin = support::now();
       CHECK(coir::await(coir::select(never.receive(), coir::sleep_for(1s))).index() == 1);
       CHECK(support::now() - begin == 1s);
       CHECK(never.receivers_waiting() == 0);
     }},
    {"of two closed channels none is forgotten",
     [] {
       channel<int> a;
       channel<int> b;
       a.close();
       b.close();
       std::array<int, 2> wins{};
       for (int i = 0; i < 1000; ++i) ++wins[coir::await(coir::select(a.receive(), b.receive())).index()];
       CHECK(wins[0] > 400);
       CHECK(wins[1] > 400);
     }},
    {"sending and receiving on one channel where both can be are as good as any two",
     [] {
       channel<int> both(2);
       coir::await(both.send(0));
       std::array<int, 2> wins{};
       for (int i = 0; i < 1000; ++i) {
         ++wins[coir::await(coir::select(both.send(i), both.receive())).index()];
         if (both.size() == 0) both.try_send(0);
         if (both.size() == 2) both.try_receive();
       }
       CHECK(wins[0] > 400);
       CHECK(wins[1] > 400);
     }},
    {"a closed channel to send to is one that is ready: it is taken like the others, and fails",
     [] {
       channel<int> closed;
       channel<int> full(1);
       closed.close();
       int failed = 0;
       for (int i = 0; i < 1000; ++i) {
         full.try_send(1);
         try {
           const std::size_t won = coir::await(coir::select(closed.send(1), full.receive())).index();
           CHECK(won == 1);
           CHECK(full.size() == 0);
         } catch (const coir::closed&) {
           ++failed;
           CHECK(full.size() == 1);
         }
       }
       CHECK(failed > 400);
       CHECK(failed < 600);
     }},
    {"of several closed channels, one that has a value left, and one that is open, each comes in its turn",
     [] {
       channel<int> drained;
       channel<int> rest(1000);
       channel<int> open(1);
       for (int i = 0; i < 1000; ++i) rest.try_send(i);
       drained.close();
       rest.close();
       std::array<int, 3> wins{};
       int next = 0;
       for (int i = 0; i < 999; ++i) {
         open.try_send(7);
         auto got = coir::await(coir::select(drained.receive(), rest.receive(), open.receive()));
         ++wins[got.index()];
         if (got.index() == 0) CHECK_FALSE(std::get<0>(got));
         if (got.index() == 1) CHECK(std::get<1>(got) == next++);
         if (got.index() == 2) CHECK(std::get<2>(got) == 7);
       }
       for (const int each : wins) CHECK(each > 250);
     }},
    {"a closed channel is ready, so a default case is not taken",
     [] {
       channel<int> one;
       channel<int> other;
       one.close();
       other.close();
       CHECK(coir::await(coir::select(one.receive(), other.receive(), coir::otherwise)).index() < 2);
     }},
    {"what would be sent is evaluated once, whether it is sent or not, and what was not sent is nowhere",
     [] {
       channel<int> full(1);
       channel<int> roomy(1);
       coir::await(full.send(0));
       int evaluated = 0;
       const auto value = [&] { return ++evaluated; };
       CHECK(coir::await(coir::select(full.send(value()), roomy.send(value()))).index() == 1);
       CHECK(evaluated == 2);
       CHECK(roomy.size() == 1);
       CHECK(full.try_receive() == 0);
       CHECK_FALSE(full.try_receive());
     }},
    {"who waits in a select when a channel is closed gets its end once, and what was sent before the close",
     [] {
       channel<int> a;
       channel<int> b;
       auto fiber = coir::spawn([&] { return coir::await(coir::select(a.receive(), b.receive())); });
       turns();
       CHECK(b.try_send(7));
       a.close();
       b.close();
       auto got = coir::await(fiber.take());
       REQUIRE(got.index() == 1);
       CHECK(std::get<1>(got) == 7);
     }},
    {"a stop is felt by a producer that nobody receives from",
     [] {
       channel<int> out;
       channel<int> stop;
       auto producer = coir::spawn([&] {
         int next = 0;
         while (coir::await(coir::select(out.send(next), stop.receive())).index() == 0) ++next;
         return next;
       });
       for (int i = 0; i < 3; ++i) CHECK(coir::await(out.receive()) == i);
       turns();
       stop.close();
       CHECK(coir::await(producer.join()) == 3);
     }},
};

}  // namespace

TEST_CASE("a select does with channels what Go's does") {
  for (const row& each : rows) {
    INFO(each.rule);
    jumping(each.check);
  }
}

TEST_CASE("a value that a select did not send is still in the op that has a name") {
  jumping_on_both([](auto wait) {
    channel<std::unique_ptr<int>> out;
    auto sending = out.send(std::make_unique<int>(7));
    CHECK(wait(coir::select(sending, coir::sleep_for(1s))).index() == 1);
    CHECK(wait(coir::select(coir::sleep_for(1s), sending)).index() == 0);
    std::unique_ptr<int> kept = sending.value();
    REQUIRE(kept != nullptr);
    CHECK(*kept == 7);
  });
}

TEST_CASE("a select that was given a value and is cancelled before it runs delivers it") {
  jumping_on_both([](auto wait) {
    channel<int> a;
    channel<int> b;
    std::optional<int> got;
    bool went_on = false;
    auto fiber = coir::spawn([&] {
      got = std::get<1>(wait(coir::select(a.receive(), b.receive())));
      wait(coir::yield());
      went_on = true;
    });
    turns();
    CHECK(b.try_send(7));
    fiber.cancel();
    turns();
    CHECK(got == 7);
    CHECK_FALSE(went_on);
    CHECK(fiber.outcome() == coir::fiber_outcome::cancelled);
  });
}

TEST_CASE("select_any() serves as many channels as there are") {
  jumping_on_both([](auto wait) {
    std::vector<std::unique_ptr<channel<int>>> all;
    for (int i = 0; i < 100; ++i) all.push_back(std::make_unique<channel<int>>());
    auto sender = coir::spawn([&] {
      for (int i = 0; i < 100; ++i) coir::await(all[static_cast<std::size_t>(i * 37 % 100)]->send(i));
    });
    for (int i = 0; i < 100; ++i) {
      std::vector<coir::channel_receive_op<int>> receives;
      receives.reserve(all.size());
      for (auto& each : all) receives.push_back(each->receive());
      auto got = wait(coir::select_any(receives));
      CHECK(got.value == i);
      CHECK(got.index == static_cast<std::size_t>(i * 37 % 100));
    }
  });
}
