// A fiber that does all there is to wait for, cancelled at each of its suspend points in turn.
#include "counted.hpp"
#include "until.hpp"

#include "support/catch.hpp"
#include "support/descriptors.hpp"

#include <coir/coir.hpp>

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>

using namespace std::chrono_literals;
using coir::fiber_outcome;
using coir::fiber_state;
using support::counted;

namespace {

// Where the fiber is, and where it was when it was told.
struct trail {
  int step = 0;
  int told_at = 0;
  int told = 0;
  void at(int number) { step = number; }
};

// What is on the other side: sends back what it gets, until it is cancelled.
coir::task<> echo(coir::net::tcp_listener listener) {
  for (;;) {
    coir::net::tcp_stream peer = co_await listener.accept();
    coir::spawn(
        [](coir::net::tcp_stream stream) -> coir::task<> {
          std::array<std::byte, 64> buffer;
          while (const std::size_t got = co_await stream.read_some(buffer)) {
            // So that the other side waits.
            co_await coir::sleep_for(20us);
            co_await coir::io::write_all(stream, std::span(buffer).first(got));
          }
        }(std::move(peer)),
        coir::report_failure);
  }
}
coir::task<counted> late(int value) {
  co_await coir::sleep_for(20us);
  co_return counted(value);
}
coir::task<int> nested(int depth, counted held) {
  co_await coir::yield();
  if (depth == 0) {
    co_await coir::sleep_for(20us);
  } else {
    static_cast<void>(co_await nested(depth - 1, counted(held.value + 1)));
  }
  co_await coir::yield();
  co_return held.value;
}
// Comes to the listener after a while.
coir::task<> visits(coir::net::address where) {
  co_await coir::sleep_for(20us);
  coir::net::tcp_stream near = co_await coir::net::tcp_stream::connect(where);
  const std::array<std::byte, 3> text{std::byte{'a'}, std::byte{'b'}, std::byte{'\n'}};
  co_await coir::io::write_all(near, text);
}

coir::task<> in_coroutine(trail& where, coir::net::address peer) {
  const counted local(1);
  try {
    std::array<std::byte, 16> buffer{};
    where.at(1);
    co_await coir::yield();
    where.at(2);
    co_await coir::sleep_for(20us);
    where.at(3);
    co_await coir::sleep_for(0s);
    auto child = coir::spawn(late(7));
    where.at(4);
    co_await child.join();
    auto other = coir::spawn([held = counted(2)] {
      coir::await(coir::sleep_for(20us));
      return counted(held.value);
    });
    where.at(5);
    const counted taken = co_await other.take();
    for (int depth = 1; depth <= 5; ++depth) {
      where.at(5 + depth);
      static_cast<void>(co_await nested(depth, counted(1)));
    }
    where.at(11);
    coir::net::tcp_stream stream = co_await coir::net::tcp_stream::connect(peer);
    where.at(12);
    co_await coir::io::write_all(stream, buffer);
    where.at(13);
    co_await coir::io::read_exactly(stream, std::span(buffer));
    where.at(14);
    static_cast<void>(co_await stream.write_some(buffer));
    where.at(15);
    static_cast<void>(co_await stream.read_some(buffer));
    auto chunks = stream.chunks();
    co_await coir::io::write_all(stream, buffer);
    where.at(16);
    const auto arrived = co_await chunks.next();
    where.at(17);
    co_await coir::on_stack([&] {
      const counted held(3);
      coir::await(coir::sleep_for(20us));
      coir::await(nested(3, counted(1)));
    });
    coir::net::tcp_listener listener(coir::net::address("127.0.0.1", 0));
    auto visitor = coir::spawn(visits(listener.local_address()), coir::report_failure);
    where.at(18);
    coir::net::tcp_stream guest = co_await listener.accept();
    coir::io::buffered_reader<coir::net::tcp_stream> reader(guest);
    where.at(19);
    static_cast<void>(co_await reader.read_line());
    where.at(20);
    static_cast<void>(co_await coir::as_result(visitor.join()));
    where.at(21);
    co_await coir::end_op(visitor);
    where.at(22);
    co_await std::move(stream).close();
    where.at(23);
    co_await coir::yield();
  } catch (const coir::cancelled&) {
    where.told_at = where.step;
    ++where.told;
    throw;
  }
}

void on_stack(trail& where, coir::net::address peer) {
  const counted local(1);
  try {
    std::array<std::byte, 16> buffer{};
    where.at(1);
    coir::await(coir::yield());
    where.at(2);
    coir::await(coir::sleep_for(20us));
    where.at(3);
    coir::await(coir::sleep_for(0s));
    auto child = coir::spawn(late(7));
    where.at(4);
    coir::await(child.join());
    auto other = coir::spawn([held = counted(2)] {
      coir::await(coir::sleep_for(20us));
      return counted(held.value);
    });
    where.at(5);
    const counted taken = coir::await(other.take());
    for (int depth = 1; depth <= 5; ++depth) {
      where.at(5 + depth);
      static_cast<void>(coir::await(nested(depth, counted(1))));
    }
    where.at(11);
    coir::net::tcp_stream stream = coir::await(coir::net::tcp_stream::connect(peer));
    where.at(12);
    coir::await(coir::io::write_all(stream, buffer));
    where.at(13);
    coir::await(coir::io::read_exactly(stream, std::span(buffer)));
    where.at(14);
    static_cast<void>(coir::await(stream.write_some(buffer)));
    where.at(15);
    static_cast<void>(coir::await(stream.read_some(buffer)));
    auto chunks = stream.chunks();
    coir::await(coir::io::write_all(stream, buffer));
    where.at(16);
    const auto arrived = coir::await(chunks.next());
    where.at(17);
    coir::await([]() -> coir::task<> {
      auto function = [held = counted(3)] {
        coir::await(coir::sleep_for(20us));
        coir::await(nested(3, counted(1)));
      };
      co_await coir::on_stack(function);
    }());
    coir::net::tcp_listener listener(coir::net::address("127.0.0.1", 0));
    auto visitor = coir::spawn(visits(listener.local_address()), coir::report_failure);
    where.at(18);
    coir::net::tcp_stream guest = coir::await(listener.accept());
    coir::io::buffered_reader<coir::net::tcp_stream> reader(guest);
    where.at(19);
    static_cast<void>(coir::await(reader.read_line()));
    where.at(20);
    static_cast<void>(coir::await(coir::as_result(visitor.join())));
    where.at(21);
    coir::await(coir::end_op(visitor));
    where.at(22);
    coir::await(std::move(stream).close());
    where.at(23);
    coir::await(coir::yield());
  } catch (const coir::cancelled&) {
    where.told_at = where.step;
    ++where.told;
    throw;
  }
}

constexpr int steps = 23;
// Writing, joining who has ended, closing.
constexpr bool may_be_done_at_once(int step) {
  return step == 12 || step == 14 || (step >= 20 && step <= 22);
}
using body = coir::fiber<void> (*)(trail& where, coir::net::address peer);
constexpr body bodies[] = {
    [](trail& where, coir::net::address peer) { return coir::spawn(in_coroutine(where, peer)); },
    [](trail& where, coir::net::address peer) { return coir::spawn([&where, peer] { on_stack(where, peer); }); },
};

// Runs the body and cancels it at its `pause`th suspend point in step `step`, when it is in that state. False:
// it had no such point.
bool cancel_at(body make, int step, fiber_state state, int pause) {
  bool reached = false;
  INFO("step " << step << ", " << coir::name_of(state) << ", pause " << pause);
  coir::run([&] {
    const coir::fiber_home& home = coir::running_fiber().home();
    const std::uint64_t alive = home.alive();
    auto scene = coir::spawn([&] {
      coir::net::tcp_listener listener(coir::net::address("127.0.0.1", 0));
      const coir::net::address peer = listener.local_address();
      coir::spawn(echo(std::move(listener)));
      trail where;
      auto who = make(where, peer);
      int seen = 0;
      support::until([&] {
        if (who.state() == fiber_state::dead) return true;
        if (where.step == step && who.state() == state && ++seen == pause) reached = true;
        return reached;
      });
      if (reached) {
        who.cancel();
        coir::await(coir::end_op(who));
        // A result that was there is delivered first, at most at the end of this step.
        CHECK(who.outcome() == (where.told == 0 ? fiber_outcome::returned : fiber_outcome::cancelled));
        CHECK(where.told <= 1);
        if (where.told == 1) CHECK((where.told_at == step || where.told_at == step + 1));
        if (where.told == 0) CHECK(step >= steps - 1);
      }
    });
    coir::await(scene.join());
    CHECK(home.alive() == alive);
    CHECK(counted::alive == 0);
  });
  return reached;
}

}  // namespace

TEST_CASE("a fiber is cancelled at every one of its suspend points in turn, and nothing is left of it") {
  static_cast<void>(coir::backend_report());
  const std::size_t descriptors = support::open_descriptors();
  for (const body each : bodies) {
    for (int step = 1; step <= steps; ++step) {
      int reached = 0;
      for (const fiber_state state : {fiber_state::waiting, fiber_state::ready}) {
        // The looks at the fiber come once in a turn: the first, and some later ones.
        for (const int pause : {1, 2, 4, 8}) reached += cancel_at(each, step, state, pause) ? 1 : 0;
        REQUIRE(counted::alive == 0);
        REQUIRE(support::open_descriptors() == descriptors);
      }
      INFO("step " << step);
      if (!may_be_done_at_once(step)) CHECK(reached > 0);
    }
  }
}

TEST_CASE("without a cancellation the same fiber comes to its end") {
  for (const body each : bodies) {
    coir::run([&] {
      auto scene = coir::spawn([&] {
        coir::net::tcp_listener listener(coir::net::address("127.0.0.1", 0));
        const coir::net::address peer = listener.local_address();
        coir::spawn(echo(std::move(listener)));
        trail where;
        auto who = each(where, peer);
        coir::await(who.join());
        CHECK(where.step == steps);
        CHECK(where.told == 0);
      });
      coir::await(scene.join());
    });
    CHECK(counted::alive == 0);
  }
}
