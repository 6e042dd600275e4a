#include <coir/coir.hpp>

#include <memory>
#include <utility>

void spawns();

namespace {

coir::task<int> work() { co_return 1; }

class twice_the_work {
 public:
  coir::task<int> operator()() { return work(); }
};

struct alignas(64) line {
  char bytes[64] = {};
};

}  // namespace

void spawns() {
  coir::task<int> task = work();
  coir::spawn(std::move(task));
  coir::spawn(work());
  coir::spawn([p = std::make_unique<int>(2)] { return *p; });
  twice_the_work callable;
  coir::spawn(callable);
  // On a stack it lies where it must.
  coir::spawn([held = line()] { return held.bytes[0]; });

  // WRONG 1: write spawn(std::move(task))
#if WRONG == 1
  coir::task<int> kept = work();
  coir::spawn(kept);
#endif

  // WRONG 2: write spawn(std::move(task))
#if WRONG == 2
  const coir::task<int> constant = work();
  coir::spawn(std::move(constant));
#endif

  // WRONG 3: spawn takes a coir::task or something that can be called without arguments
#if WRONG == 3
  coir::spawn([](int x) { return x; });
#endif

  // WRONG 4: spawn takes a coir::task or something that can be called without arguments
#if WRONG == 4
  coir::spawn(coir::yield());
#endif

  // WRONG 5: a fiber cannot return an over-aligned type
#if WRONG == 5
  coir::spawn([] { return line(); });
#endif

  // WRONG 6: the captures of a function that makes a task are over-aligned
#if WRONG == 6
  coir::spawn([held = line()]() -> coir::task<char> { co_return held.bytes[0]; });
#endif
}
