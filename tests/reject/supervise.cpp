#include <coir/coir.hpp>

#include <string>

using namespace std::chrono_literals;

coir::task<> supervises(std::string text);

namespace {

coir::task<> work() { co_return; }

}  // namespace

coir::task<> supervises(std::string text) {
  auto setup = [text](coir::supervisor& s) { s.add(text, [] { return work(); }); };
  co_await coir::supervise(setup);
  co_await coir::supervise(coir::supervisor_options{}.intensity(5, 10s).backoff(10ms, 5s),
                           [&](coir::supervisor& s) { s.add("work", [] { return work(); }, coir::permanent); });

  // WRONG 1, gcc before 13: Name the function first: auto setup = [...] {...};
#if WRONG == 1
  co_await coir::supervise([text](coir::supervisor& s) { s.add(text, [] { return work(); }); });
#endif

  coir::supervisor s;
  // WRONG 2: give a function that makes the task
#if WRONG == 2
  s.add("work", work());
#endif

  // WRONG 3: a child is a function without arguments
#if WRONG == 3
  s.add("work", [](int x) { return x; });
#endif

  // WRONG 4: a listener is called with a const coir::child_event&
#if WRONG == 4
  s.on_event([](int x) { return x; });
#endif

  // WRONG 5: setup is called with a coir::supervisor&
#if WRONG == 5
  co_await coir::supervise([] {});
#endif
}
