// Limits in time, cancelling and nurseries in coir: the cases of scope_cases.hpp, on both surfaces.

#include "scope_cases.hpp"

#include <coir/coir.hpp>

#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace {

class program {
 public:
  explicit program(std::size_t deadlines = 0) {
    scopes::other_waits waits;
    others_.reserve(deadlines);
    for (std::size_t i = 0; i < deadlines; ++i) {
      others_.push_back(loop.after(waits.next(), [] { scopes::check(false, "another deadline fired"); }));
    }
  }

  coir::loop loop;
  coir::scheduler fibers{loop};

 private:
  std::vector<coir::owned<coir::timer>> others_;
};

// ---- ops ----------------------------------------------------------------------------------

// The least that an op can be, so that nothing hides what a limit adds.
class ready_op {
 public:
  static constexpr const char* name = "ready";
  ready_op() noexcept {}
  bool start(coir::waiter&) noexcept { return false; }
  coir::abort_answer abort() noexcept { return coir::abort_answer::now; }
  int take() noexcept { return 1; }
};

class gate {
 public:
  class pass_op {
   public:
    static constexpr const char* name = "gate";
    explicit pass_op(gate& which) noexcept : gate_(&which) {}
    bool start(coir::waiter& told) noexcept {
      gate_->waiting_ = &told;
      return true;
    }
    coir::abort_answer abort() noexcept {
      gate_->waiting_ = nullptr;
      return coir::abort_answer::now;
    }
    int take() noexcept { return 1; }

   private:
    gate* gate_;
  };

  pass_op pass() noexcept { return pass_op(*this); }
  void open() noexcept {
    if (waiting_ != nullptr) std::exchange(waiting_, nullptr)->done();
  }

 private:
  coir::waiter* waiting_ = nullptr;
};

void check_result(int got) { scopes::check(got == 1, "a wait gave something else than its result"); }
void check_result(const std::optional<int>& got) { scopes::check(got == 1, "a limit ran out"); }

// ---- limits -------------------------------------------------------------------------------

template <class Make>
coir::task<> await_often(coir::loop& loop, std::size_t times, const Make& make) {
  for (std::size_t i = 0; i < times; ++i) {
    const auto got = co_await make();
    check_result(got);
  }
  loop.stop();
}

template <class Make>
double time_awaits(program& here, const Make& make) {
  return micro::ns_per_iteration([&](std::size_t iterations) {
    here.fibers.spawn(await_often(here.loop, iterations, make));
    here.loop.run();
    return iterations;
  });
}

template <class Call>
double time_calls(program& here, const Call& call) {
  return micro::ns_per_iteration([&](std::size_t iterations) {
    here.fibers.spawn([&] {
      for (std::size_t i = 0; i < iterations; ++i) check_result(call());
      here.loop.stop();
    });
    here.loop.run();
    return iterations;
  });
}

coir::task<> keep_open(gate& which) {
  for (;;) {
    which.open();
    co_await coir::yield();
  }
}

coir::task<int> await_ready() { co_return co_await ready_op(); }

template <bool Limited>
double coroutine_ready(std::size_t deadlines) {
  program here(deadlines);
  return time_awaits(here, [] {
    if constexpr (Limited) {
      return coir::move_on_after(scopes::limit, ready_op());
    } else {
      return ready_op();
    }
  });
}

template <bool Limited>
double coroutine_waits(std::size_t deadlines) {
  gate between;
  program here(deadlines);
  here.fibers.spawn(keep_open(between));
  return time_awaits(here, [&] {
    if constexpr (Limited) {
      return coir::move_on_after(scopes::limit, between.pass());
    } else {
      return between.pass();
    }
  });
}

template <bool Limited>
double coroutine_task(std::size_t deadlines) {
  program here(deadlines);
  return time_awaits(here, [] {
    if constexpr (Limited) {
      return coir::move_on_after(scopes::limit, await_ready());
    } else {
      return await_ready();
    }
  });
}

template <bool Limited>
double stack_ready(std::size_t deadlines) {
  program here(deadlines);
  return time_calls(here, [] {
    if constexpr (Limited) {
      return coir::await(coir::move_on_after(scopes::limit, ready_op()));
    } else {
      return coir::await(ready_op());
    }
  });
}

template <bool Limited>
double stack_waits(std::size_t deadlines) {
  gate between;
  program here(deadlines);
  here.fibers.spawn([&] {
    for (;;) {
      between.open();
      coir::await(coir::yield());
    }
  });
  return time_calls(here, [&] {
    if constexpr (Limited) {
      return coir::await(coir::move_on_after(scopes::limit, between.pass()));
    } else {
      return coir::await(between.pass());
    }
  });
}

template <bool Limited>
double stack_task(std::size_t deadlines) {
  program here(deadlines);
  return time_calls(here, [] {
    const auto body = [] { return coir::await(ready_op()); };
    if constexpr (Limited) {
      return coir::move_on_after(scopes::limit, body);
    } else {
      return body();
    }
  });
}

// ---- cancelling ---------------------------------------------------------------------------

coir::task<> wait_for_ever() { co_await coir::sleep_until(coir::never); }

template <class SpawnOne>
coir::task<> spawn_parked(coir::nursery& in, const SpawnOne& spawn_one) {
  for (std::size_t i = 0; i < scopes::parked; ++i) spawn_one(in);
  co_await wait_for_ever();
}

coir::task<> run_to_the_end(coir::loop& loop, coir::nursery& all, coir::task<> body) {
  const bool whole = co_await all.run(std::move(body));
  scopes::check(!whole, "a cancelled nursery came to its end");
  loop.stop();
}

template <class SpawnOne>
double cancel_parked(const SpawnOne& spawn_one) {
  program here;
  coir::nursery all;
  here.fibers.spawn(run_to_the_end(here.loop, all, spawn_parked(all, spawn_one)));
  do here.loop.run_once();
  while (here.fibers.home().has_ready());
  const std::uint64_t ended = here.fibers.stats().ended;
  const double figure = scopes::ns_for_each(scopes::parked, [&] {
    all.cancel();
    here.loop.run();
  });
  scopes::check(here.fibers.stats().ended >= ended + scopes::parked, "a cancelled fiber has not ended");
  return figure;
}

double cancel_coroutines() {
  return cancel_parked([](coir::nursery& in) { in.spawn(wait_for_ever()); });
}

double cancel_stacks() {
  return cancel_parked([](coir::nursery& in) { in.spawn([] { coir::await(coir::sleep_until(coir::never)); }); });
}

// ---- nurseries ----------------------------------------------------------------------------

coir::task<> nothing() { co_return; }

coir::task<> spawn_coroutines(coir::nursery& in) {
  for (std::size_t i = 0; i < scopes::children; ++i) in.spawn(nothing());
  co_return;
}

coir::task<> run_nurseries(coir::loop& loop, std::size_t times) {
  for (std::size_t i = 0; i < times; ++i) co_await coir::with_nursery(spawn_coroutines);
  loop.stop();
}

template <class SpawnOwner>
double time_nurseries(const SpawnOwner& spawn_owner) {
  program here;
  std::uint64_t expected = 0;
  return micro::ns_per_iteration([&](std::size_t iterations) {
    const std::size_t times = iterations / scopes::children;
    spawn_owner(here, times);
    here.loop.run();
    expected += times * scopes::children + 1;
    scopes::check(here.fibers.stats().ended == expected, "a nursery ended before its children");
    return times * scopes::children;
  });
}

double coroutine_nursery() {
  return time_nurseries([](program& here, std::size_t times) { here.fibers.spawn(run_nurseries(here.loop, times)); });
}

double stack_nursery() {
  return time_nurseries([](program& here, std::size_t times) {
    here.fibers.spawn([&here, times] {
      for (std::size_t i = 0; i < times; ++i) {
        coir::with_nursery([](coir::nursery& in) {
          for (std::size_t child = 0; child < scopes::children; ++child) in.spawn([] {});
        });
      }
      here.loop.stop();
    });
  });
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<micro::bench_case> cases;
  for (const auto& [suffix, count] : scopes::none_or_many) {
    const auto add = [&, deadlines = count, ending = suffix](const char* what, const char* subject,
                                                             double (*measure)(std::size_t)) {
      cases.push_back({"limit/" + (what + ending), subject, "ns", [=] { return measure(deadlines); }});
    };
    add("ready", "coir-unlimited", coroutine_ready<false>);
    add("ready", "coir", coroutine_ready<true>);
    add("ready", "coir-stack-unlimited", stack_ready<false>);
    add("ready", "coir-stack", stack_ready<true>);
    add("waits", "coir-unlimited", coroutine_waits<false>);
    add("waits", "coir", coroutine_waits<true>);
    add("waits", "coir-stack-unlimited", stack_waits<false>);
    add("waits", "coir-stack", stack_waits<true>);
    add("task", "coir-unlimited", coroutine_task<false>);
    add("task", "coir", coroutine_task<true>);
    add("task", "coir-stack-unlimited", stack_task<false>);
    add("task", "coir-stack", stack_task<true>);
  }
  cases.push_back({"cancel/100k", "coir", "ns", cancel_coroutines});
  cases.push_back({"cancel/100k", "coir-stack", "ns", cancel_stacks});
  cases.push_back({"nursery/1000", "coir", "ns", coroutine_nursery});
  cases.push_back({"nursery/1000", "coir-stack", "ns", stack_nursery});
  return micro::run(argc, argv, cases);
}
