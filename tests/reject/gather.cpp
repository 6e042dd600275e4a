// What can be gathered by all() and first(), and how it may be given.
#include <coir/coir.hpp>

#include <chrono>
#include <string>
#include <utility>
#include <vector>

using namespace std::chrono_literals;

coir::task<> in_a_coroutine(std::string text);
void on_a_stack();

namespace {

coir::task<int> number() { co_return 1; }
coir::task<> nothing() { co_return; }
[[maybe_unused]] int twice(int x) { return 2 * x; }

}  // namespace

coir::task<> in_a_coroutine(std::string text) {
  auto named = [text]() -> coir::task<int> { co_return 1; };
  auto [one, two] = co_await coir::all(number(), named);
  std::vector<coir::task<int>> many;
  many.push_back(number());
  const std::vector<int> results = co_await coir::all(std::move(many));
  std::vector<coir::task<>> quiet;
  quiet.push_back(nothing());
  co_await coir::all(std::move(quiet));
  // References, pointers and numbers may be captured anywhere.
  auto won = co_await coir::first(number(), [&text]() -> coir::task<int> { co_return int(text.size()); });
  static_cast<void>(one + two + results[0] + won.value);

  // WRONG 1: all and first take tasks and functions, which run as fibers: await this op in one
#if WRONG == 1
  co_await coir::first(number(), coir::sleep_for(1s));
#endif

  // WRONG 2: all and first take tasks and functions, which run as fibers: await this op in one
#if WRONG == 2
  auto pause = coir::sleep_for(1s);
  co_await coir::all(pause, number());
#endif

  // WRONG 3, gcc before 13: Name the function first: auto body = [...] {...};
#if WRONG == 3
  co_await coir::all(number(), [text]() -> coir::task<int> { co_return 1; });
#endif

  // WRONG 4, gcc before 13: Name the function first: auto body = [...] {...};
#if WRONG == 4
  co_await coir::first([text]() -> coir::task<int> { co_return 1; }, number());
#endif

  // WRONG 5: a task runs once: write std::move(task)
#if WRONG == 5
  coir::task<int> kept = number();
  co_await coir::all(kept, number());
#endif

  // WRONG 6: a vector of tasks is the only argument, and tasks run once: write std::move(tasks)
#if WRONG == 6
  co_await coir::all(quiet);
#endif

  // WRONG 7: a vector of tasks is the only argument, and tasks run once: write std::move(tasks)
#if WRONG == 7
  co_await coir::first(std::move(quiet), number());
#endif

  // WRONG 8: all and first take tasks and functions without arguments
#if WRONG == 8
  co_await coir::all(number(), twice);
#endif

  // WRONG 9: no matching function for call to 'first
#if WRONG == 9
  co_await coir::first();
#endif

  // all() of a vector of task<> gives nothing.
  // WRONG 10: 'void'
#if WRONG == 10
  std::vector<int> got = co_await coir::all(std::move(quiet));
#endif

  // WRONG 11: std::monostate
#if WRONG == 11
  int got = (co_await coir::first(nothing(), nothing())).value;
#endif

  // WRONG 12: a task does nothing before it is awaited or spawned
#if WRONG == 12
  coir::all(number(), number());
#endif
}

void on_a_stack() {
  static_cast<void>(coir::await(coir::all([] { return 1; }, [] {})));

  // WRONG 13: a task runs once: write std::move(task)
#if WRONG == 13
  const coir::task<int> kept = number();
  static_cast<void>(coir::await(coir::first(kept)));
#endif
}
