// What switching and spawning cost in coir: the cases of floor/micro_floor.cpp.
//
//   switch/*/N      N fibers yield in turn; the figure is one yield. In stack-mixed the two have different code.
//   spawn/*         a fiber spawns one of its kind that does nothing, and joins it.
//   spawn/parked-*  memory in RAM for each of 100,000 fibers that wait for another to end.
//
// A loop is run as long as one measurement needs and stopped by a fiber, so that its making and the
// spawning of ten thousand fibers stay out of the figure.

#include "micro.hpp"

#include <coir/coir.hpp>

#include <string>
#include <vector>

namespace {

constexpr std::size_t parked = 100'000;
// As the floor's and the peer's: how far apart stacks lie is what page tables cost with ten thousand of them.
constexpr std::size_t stack_bytes = 16 * 1024;

struct program {
  coir::loop loop;
  coir::scheduler fibers{loop};
};

// One of the fibers counts the rounds for all, and stops the loop after the last.
struct round_counter {
  coir::loop& loop;
  std::size_t left = 0;

  void round() {
    if (--left == 0) loop.stop();
  }
};

coir::task<> yield_for_ever() {
  for (;;) co_await coir::yield();
}

coir::task<> yield_and_count(round_counter& rounds) {
  for (;;) {
    rounds.round();
    co_await coir::yield();
  }
}

double time_rounds(program& of, round_counter& rounds, std::size_t fibers) {
  return micro::ns_per_iteration([&](std::size_t iterations) {
    rounds.left = iterations / fibers + 1;
    const std::size_t done = rounds.left * fibers;
    of.loop.run();
    return done;
  });
}

double switch_coroutines(std::size_t fibers) {
  program here;
  round_counter rounds{here.loop};
  for (std::size_t i = 1; i < fibers; ++i) here.fibers.spawn(yield_for_ever());
  here.fibers.spawn(yield_and_count(rounds));
  return time_rounds(here, rounds, fibers);
}

double switch_stacks(std::size_t fibers) {
  program here;
  round_counter rounds{here.loop};
  // One body for all, as in the floor: where a switch leads into other code than it came from, returns are predicted
  // wrong, which stack-mixed shows.
  const auto spawn_one = [&](round_counter* counter) {
    here.fibers.spawn(
        [counter] {
          for (;;) {
            if (counter != nullptr) counter->round();
            coir::await(coir::yield());
          }
        },
        coir::spawn_options().stack_bytes(stack_bytes));
  };
  for (std::size_t i = 1; i < fibers; ++i) spawn_one(nullptr);
  spawn_one(&rounds);
  return time_rounds(here, rounds, fibers);
}

double switch_different_stacks() {
  program here;
  round_counter rounds{here.loop};
  here.fibers.spawn([] {
    for (;;) coir::await(coir::yield());
  });
  here.fibers.spawn([&] {
    for (;;) {
      rounds.round();
      coir::await(coir::yield());
    }
  });
  return time_rounds(here, rounds, 2);
}

coir::task<> nothing() { co_return; }

coir::task<> spawn_and_count(round_counter& rounds) {
  for (;;) {
    auto child = coir::spawn(nothing());
    co_await child.join();
    rounds.round();
  }
}

double spawn_coroutines() {
  program here;
  round_counter rounds{here.loop};
  here.fibers.spawn(spawn_and_count(rounds));
  return time_rounds(here, rounds, 1);
}

double spawn_stacks() {
  program here;
  round_counter rounds{here.loop};
  here.fibers.spawn([&] {
    for (;;) {
      auto child = coir::spawn([] {});
      coir::await(child.join());
      rounds.round();
    }
  });
  return time_rounds(here, rounds, 1);
}

// What the parked fibers wait for; not a parameter, which would be eight bytes more in each.
coir::fiber<void> gate;

coir::task<> join_gate() { co_await gate.join(); }
coir::task<> wait_for_ever() { co_await coir::sleep_until(coir::never); }

template <class SpawnOne>
double park(SpawnOne&& spawn_one) {
  program here;
  here.fibers.on_failure([](const coir::fiber_base&, auto) {});
  gate = here.fibers.spawn(wait_for_ever());
  here.loop.run_once();
  const std::size_t before = micro::resident_bytes();
  for (std::size_t i = 0; i < parked; ++i) spawn_one(here.fibers);
  while (here.fibers.home().has_ready()) here.loop.run_once();
  const std::size_t after = micro::resident_bytes();
  gate = {};
  return static_cast<double>(after - before) / parked;
}

double park_coroutines() {
  return park([](coir::scheduler& fibers) { fibers.spawn(join_gate()); });
}

double park_stacks() {
  return park([](coir::scheduler& fibers) {
    fibers.spawn([] { coir::await(gate.join()); });
  });
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<micro::bench_case> cases;
  for (const std::size_t count : {2, 100, 10'000}) {
    const std::string suffix = std::to_string(count);
    cases.push_back({"switch/coroutine/" + suffix, "coir", "ns",
                     [count] { return switch_coroutines(count); }});
    cases.push_back(
        {"switch/stack/" + suffix, "coir-stack", "ns", [count] { return switch_stacks(count); }});
  }
  cases.push_back({"switch/stack-mixed/2", "coir-stack", "ns", switch_different_stacks});
  cases.push_back({"spawn/coroutine", "coir", "ns", spawn_coroutines});
  cases.push_back({"spawn/stack", "coir-stack", "ns", spawn_stacks});
  cases.push_back({"spawn/parked-coroutine", "coir", "bytes", park_coroutines});
  cases.push_back({"spawn/parked-stack", "coir-stack", "bytes", park_stacks});
  return micro::run(argc, argv, cases);
}
