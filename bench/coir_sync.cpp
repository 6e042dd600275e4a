// Channels, select and mutexes in coir: the cases of sync_cases.hpp, on both surfaces.

#include "sync_cases.hpp"

#include <coir/coir.hpp>

#include <array>
#include <deque>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace {

class program {
 public:
  coir::loop loop;
  coir::scheduler fibers{loop};
};

// Counts the rounds of a measurement, and stops the loop after the last.
template <class Spawn>
double time_rounds(const Spawn& spawn) {
  return micro::ns_per_iteration([&](std::size_t iterations) {
    program here;
    spawn(here, iterations);
    here.loop.run();
    return iterations;
  });
}

using ints = coir::channel<std::uint64_t>;

// ---- ping-pong ------------------------------------------------------------------------------

coir::task<> ping(coir::loop& loop, ints& there, ints& back, std::size_t rounds) {
  for (std::size_t i = 0; i < rounds; ++i) {
    co_await there.send(i);
    const auto got = co_await back.receive();
    exchange::check(got == i, "a ping came back wrong");
  }
  loop.stop();
}
coir::task<> pong(ints& there, ints& back) {
  for (;;) {
    const auto got = co_await there.receive();
    co_await back.send(*got);
  }
}

double coroutine_ping_pong() {
  ints there;
  ints back;
  return time_rounds([&](program& here, std::size_t rounds) {
    here.fibers.spawn(pong(there, back));
    here.fibers.spawn(ping(here.loop, there, back, rounds));
  });
}
double stack_ping_pong() {
  ints there;
  ints back;
  return time_rounds([&](program& here, std::size_t rounds) {
    here.fibers.spawn([&] {
      for (;;) coir::await(back.send(*coir::await(there.receive())));
    });
    here.fibers.spawn([&, rounds] {
      for (std::size_t i = 0; i < rounds; ++i) {
        coir::await(there.send(i));
        exchange::check(coir::await(back.receive()) == i, "a ping came back wrong");
      }
      here.loop.stop();
    });
  });
}

// ---- streaming ------------------------------------------------------------------------------

coir::task<> send_many(ints& to, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) co_await to.send(i);
}
coir::task<> receive_many(coir::loop& loop, ints& from, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) {
    const auto got = co_await from.receive();
    exchange::check(got == i, "a message was lost");
  }
  loop.stop();
}

double coroutine_stream(std::size_t capacity) {
  ints between(capacity);
  return time_rounds([&](program& here, std::size_t count) {
    here.fibers.spawn(send_many(between, count));
    here.fibers.spawn(receive_many(here.loop, between, count));
  });
}
double stack_stream(std::size_t capacity) {
  ints between(capacity);
  return time_rounds([&](program& here, std::size_t count) {
    here.fibers.spawn([&, count] {
      for (std::size_t i = 0; i < count; ++i) coir::await(between.send(i));
    });
    here.fibers.spawn([&, count] {
      for (std::size_t i = 0; i < count; ++i) {
        exchange::check(coir::await(between.receive()) == i, "a message was lost");
      }
      here.loop.stop();
    });
  });
}

// ---- the mutex ------------------------------------------------------------------------------

coir::task<> lock_often(coir::loop& loop, coir::mutex& one, std::size_t times, unsigned& left) {
  for (std::size_t i = 0; i < times; ++i) {
    const auto held = co_await one.lock();
    co_await coir::yield();
  }
  if (--left == 0) loop.stop();
}

double coroutine_mutex() {
  coir::mutex one;
  unsigned left = 0;
  return time_rounds([&](program& here, std::size_t times) {
    left = 2;
    for (int i = 0; i < 2; ++i) here.fibers.spawn(lock_often(here.loop, one, times / 2, left));
  });
}
double stack_mutex() {
  coir::mutex one;
  unsigned left = 0;
  return time_rounds([&](program& here, std::size_t times) {
    left = 2;
    for (int i = 0; i < 2; ++i) {
      here.fibers.spawn([&, times] {
        for (std::size_t round = 0; round < times / 2; ++round) {
          const auto held = coir::await(one.lock());
          coir::await(coir::yield());
        }
        if (--left == 0) here.loop.stop();
      });
    }
  });
}

// ---- select ---------------------------------------------------------------------------------

using many_ints = std::array<ints, 8>;

template <std::size_t... I>
auto receive_any(many_ints& from, std::index_sequence<I...>) {
  return coir::select(from[I].receive()...);
}
template <std::size_t Count, class Got>
void check_got(const Got& got, std::size_t expected) {
  exchange::check(got.index() == expected % Count, "a select said the wrong channel");
}

template <std::size_t Count>
coir::task<> select_many(coir::loop& loop, many_ints& from, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) {
    const auto got = co_await receive_any(from, std::make_index_sequence<Count>());
    check_got<Count>(got, i);
  }
  loop.stop();
}
template <std::size_t Count>
coir::task<> send_in_turn(many_ints& to) {
  for (std::size_t i = 0;; i = i + 1 == Count ? 0 : i + 1) co_await to[i].send(i);
}

template <std::size_t Count>
double coroutine_select() {
  many_ints between;
  return time_rounds([&](program& here, std::size_t count) {
    here.fibers.spawn(send_in_turn<Count>(between));
    here.fibers.spawn(select_many<Count>(here.loop, between, count));
  });
}
template <std::size_t Count>
double stack_select() {
  many_ints between;
  return time_rounds([&](program& here, std::size_t count) {
    here.fibers.spawn([&] {
      for (std::size_t i = 0;; i = i + 1 == Count ? 0 : i + 1) coir::await(between[i].send(i));
    });
    here.fibers.spawn([&, count] {
      for (std::size_t i = 0; i < count; ++i) {
        check_got<Count>(coir::await(receive_any(between, std::make_index_sequence<Count>())), i);
      }
      here.loop.stop();
    });
  });
}

// ---- skynet ---------------------------------------------------------------------------------

coir::task<> skynet(ints& result, std::uint64_t first, std::uint64_t size) {
  if (size == 1) {
    co_await result.send(first);
    co_return;
  }
  ints parts(exchange::sky_fan);
  const std::uint64_t part = size / exchange::sky_fan;
  for (std::uint64_t i = 0; i < exchange::sky_fan; ++i) {
    coir::spawn(skynet(parts, first + i * part, part), coir::spawn_options().first());
  }
  std::uint64_t sum = 0;
  for (std::uint64_t i = 0; i < exchange::sky_fan; ++i) {
    const auto got = co_await parts.receive();
    sum += *got;
  }
  co_await result.send(sum);
}

coir::task<> run_skynet(coir::loop& loop, std::uint64_t& sum) {
  ints result;
  coir::spawn(skynet(result, 0, exchange::sky));
  const auto got = co_await result.receive();
  sum = *got;
  loop.stop();
}

std::uint64_t coroutine_skynet() {
  program here;
  std::uint64_t sum = 0;
  here.fibers.spawn(run_skynet(here.loop, sum));
  here.loop.run();
  return sum;
}

// ---- the ring -------------------------------------------------------------------------------

coir::task<> pass_on(ints& from, ints& to) {
  for (;;) {
    const auto got = co_await from.receive();
    co_await to.send(*got + 1);
  }
}
coir::task<> go_round(coir::loop& loop, ints& from, ints& to, std::size_t rounds) {
  for (std::size_t i = 0; i < rounds; ++i) {
    co_await to.send(1);
    const auto got = co_await from.receive();
    exchange::check(got == exchange::ring, "a token took another way");
  }
  loop.stop();
}

template <class Spawn>
double time_ring(const Spawn& spawn) {
  std::vector<ints> between(exchange::ring);
  return micro::ns_per_iteration([&](std::size_t iterations) {
    const std::size_t rounds = (iterations + exchange::ring - 1) / exchange::ring;
    program here;
    spawn(here, between, rounds);
    here.loop.run();
    return rounds * exchange::ring;
  });
}

double coroutine_ring() {
  return time_ring([](program& here, std::vector<ints>& between, std::size_t rounds) {
    for (std::size_t i = 1; i < exchange::ring; ++i) here.fibers.spawn(pass_on(between[i - 1], between[i]));
    here.fibers.spawn(go_round(here.loop, between.back(), between.front(), rounds));
  });
}
double stack_ring() {
  return time_ring([](program& here, std::vector<ints>& between, std::size_t rounds) {
    for (std::size_t i = 1; i < exchange::ring; ++i) {
      here.fibers.spawn([&from = between[i - 1], &to = between[i]] {
        for (;;) coir::await(to.send(*coir::await(from.receive()) + 1));
      });
    }
    here.fibers.spawn([&here, &between, rounds] {
      for (std::size_t i = 0; i < rounds; ++i) {
        coir::await(between.front().send(1));
        exchange::check(coir::await(between.back().receive()) == exchange::ring, "a token took another way");
      }
      here.loop.stop();
    });
  });
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<micro::bench_case> cases;
  const auto add = [&](const std::string& name, double (*coroutine)(), double (*stack)()) {
    cases.push_back({name, "coir", "ns", coroutine});
    cases.push_back({name, "coir-stack", "ns", stack});
  };
  add("channel/ping-pong", coroutine_ping_pong, stack_ping_pong);
  for (const std::size_t capacity : exchange::stream_capacities) {
    const std::string name = "channel/stream/" + std::to_string(capacity);
    cases.push_back({name, "coir", "ns", [capacity] { return coroutine_stream(capacity); }});
    cases.push_back({name, "coir-stack", "ns", [capacity] { return stack_stream(capacity); }});
  }
  add("mutex/hand-over", coroutine_mutex, stack_mutex);
  add("select/2", coroutine_select<2>, stack_select<2>);
  add("select/8", coroutine_select<8>, stack_select<8>);
  cases.push_back({"skynet/time", "coir", "ns", [] { return exchange::sky_ns(coroutine_skynet); }});
  cases.push_back({"skynet/memory", "coir", "bytes", [] { return exchange::sky_bytes(coroutine_skynet); }});
  add("ring/1000", coroutine_ring, stack_ring);
  return micro::run(argc, argv, cases);
}
