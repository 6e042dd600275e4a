// What is awaited must be an op or a task.
#include <coir/coir.hpp>

#include <future>
#include <utility>

coir::task<> in_a_coroutine();
void on_a_stack();

namespace {

coir::task<int> work() { co_return 1; }

}  // namespace

coir::task<> in_a_coroutine() {
  auto child = coir::spawn(work());
  coir::task<int> task = work();
  int got = co_await task;
  got += co_await work();
  got += co_await child.join();
  co_await coir::yield();
  auto pause = coir::sleep_for(std::chrono::seconds(1));
  co_await pause;
  static_cast<void>(co_await coir::as_result(child.join()));
  static_cast<void>(got);

  // WRONG 1: co_await in a coir::task takes an op
#if WRONG == 1
  co_await 1;
#endif

  // WRONG 2: for the end of a fiber write co_await handle.join()
#if WRONG == 2
  co_await child;
#endif

  // WRONG 3: co_await in a coir::task takes an op (coir/fiber/op.hpp), a coir::task or coir::on_stack(...)
#if WRONG == 3
  std::future<int> foreign;
  co_await foreign;
#endif

  // WRONG 4: co_await in a coir::task takes an op
#if WRONG == 4
  co_await std::suspend_always();
#endif
}

void on_a_stack() {
  auto child = coir::spawn(work());
  coir::task<int> task = work();
  coir::await(child.join());
  coir::await(work());
  coir::await(std::move(task));

  // WRONG 5: coir::await takes an op
#if WRONG == 5
  coir::await(1);
#endif

  // WRONG 6: for the end of a fiber write coir::await(handle.join())
#if WRONG == 6
  coir::await(child);
#endif

  // WRONG 7: write std::move(task)
#if WRONG == 7
  coir::task<int> kept = work();
  coir::await(kept);
#endif
}

// WRONG 8: a task cannot return an over-aligned type
#if WRONG == 8
struct alignas(64) line {
  int x;
};
coir::task<line> over_aligned() { co_return line(); }
#endif
