#include <coir/coir.hpp>

using namespace std::chrono_literals;

coir::task<> selects();

namespace {

coir::task<int> work() { co_return 1; }
int call() { return 1; }

}  // namespace

coir::task<> selects() {
  auto child = coir::spawn(work());
  const auto got = co_await coir::select(child.join(), coir::sleep_for(1s), coir::otherwise);
  static_cast<void>(got);

  // WRONG 1: a task is not an op: select waits for ops. For tasks and functions there is coir::first(...)
#if WRONG == 1
  co_await coir::select(work(), coir::sleep_for(1s));
#endif

  // WRONG 2: for the end of a fiber write handle.join()
#if WRONG == 2
  co_await coir::select(coir::sleep_for(1s), child);
#endif

  // WRONG 3: for functions there is coir::first(...)
#if WRONG == 3
  co_await coir::select(coir::sleep_for(1s), call);
#endif

  // WRONG 4: coir::otherwise is the last argument of select
#if WRONG == 4
  co_await coir::select(coir::otherwise, coir::sleep_for(1s));
#endif

  // WRONG 5: coir::otherwise is the last argument of select, behind an op
#if WRONG == 5
  co_await coir::select(coir::otherwise);
#endif

  // WRONG 6: select cannot stop this op
#if WRONG == 6
  co_await coir::select(coir::yield(), coir::sleep_for(1s));
#endif

  // WRONG 7: an op is changed by waiting for it
#if WRONG == 7
  const auto never = coir::sleep_until(coir::never);
  co_await coir::select(never, coir::sleep_for(1s));
#endif
  static_cast<void>(call);
}
