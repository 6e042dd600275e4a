// Pools of threads in coir: the cases of pool_cases.hpp.

#include "pool_cases.hpp"

#include <coir/coir.hpp>

#include <chrono>
#include <vector>

namespace {

struct program {
  coir::pool threads{coir::pool_options().threads(pools::threads)};
};

coir::task<> call_often(coir::pool& threads, std::size_t times) {
  for (std::size_t i = 0; i < times; ++i) {
    const int got = co_await coir::offload(threads, [] { return 1; });
    pools::check(got == 1, "a call gave something else than its result");
  }
}

double coroutine_round_trip() {
  program here;
  return micro::ns_per_iteration([&](std::size_t iterations) {
    coir::run(call_often(here.threads, iterations));
    return iterations;
  });
}

// The pool's thread and the loop look for each other before they sleep.
double spinning_round_trip(coir::duration loop_spin) {
  constexpr auto spin = std::chrono::microseconds(20);
  coir::pool threads(coir::pool_options().threads(pools::threads).spin(spin));
  return micro::ns_per_iteration([&](std::size_t iterations) {
    coir::run(call_often(threads, iterations), coir::run_options().loop(coir::loop_options().spin(loop_spin)));
    return iterations;
  });
}

double stack_round_trip() {
  program here;
  return micro::ns_per_iteration([&](std::size_t iterations) {
    coir::run([&] {
      for (std::size_t i = 0; i < iterations; ++i) {
        pools::check(coir::await(coir::offload(here.threads, [] { return 1; })) == 1,
                     "a call gave something else than its result");
      }
    });
    return iterations;
  });
}

coir::task<> compute(coir::pool& threads, std::uint64_t steps, std::size_t& done) {
  const std::uint64_t result = co_await coir::offload(threads, [steps] { return pools::compute(steps); });
  done += result != 0;
}

double fan_out(const pools::fan_out& how) {
  program here;
  const std::uint64_t steps = pools::steps_for(how.microseconds);
  return micro::ns_per_iteration([&](std::size_t) {
    std::size_t done = 0;
    coir::run([&] {
      coir::with_nursery([&](coir::nursery& n) {
        for (std::size_t i = 0; i < how.jobs; ++i) n.spawn(compute(here.threads, steps, done));
      });
    });
    pools::check(done == how.jobs, "a job was not done");
    return how.jobs;
  });
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<micro::bench_case> cases{{"pool/round-trip", "coir", "ns", coroutine_round_trip},
                                       {"pool/round-trip", "coir-stack", "ns", stack_round_trip},
                                       {"pool/round-trip", "coir-pool-spins", "ns",
                                        [] { return spinning_round_trip(coir::duration::zero()); }},
                                       {"pool/round-trip", "coir-both-spin", "ns",
                                        [] { return spinning_round_trip(std::chrono::microseconds(20)); }}};
  for (const pools::fan_out& each : pools::fans) {
    cases.push_back({each.name, "coir", "ns", [&each] { return fan_out(each); }});
  }
  return micro::run(argc, argv, cases);
}
