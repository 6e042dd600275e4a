// join() and take() of a temporary handle: the callable would stand in the expression that is awaited, and
// gcc 12 destroys its captures twice. And what the control verbs do not take.
#include <coir/coir.hpp>

#include <memory>

coir::task<> joins();
void on_a_stack();

coir::task<> joins() {
  auto child = coir::spawn([p = std::make_unique<int>(2)] { return *p; });
  co_await child.join();
  const auto& same = child;
  co_await same.join();
  co_await coir::end_op(child);
  co_await child.take();

  // WRONG 1: auto child = coir::spawn(...); co_await child.join();
#if WRONG == 1
  co_await coir::spawn([] { return 1; }).join();
#endif

  // WRONG 2: auto child = coir::spawn(...); co_await child.take();
#if WRONG == 2
  co_await coir::spawn([] { return 1; }).take();
#endif

  // WRONG 3: co_await child.join();
#if WRONG == 3
  co_await std::move(child).join();
#endif
}

void on_a_stack() {
  auto child = coir::spawn([] {});
  coir::await(child.join());

  // WRONG 4: auto child = coir::spawn(...);
#if WRONG == 4
  coir::await(coir::spawn([] {}).join());
#endif

  child.interject([] {});
  // WRONG 5: interject takes a plain function that returns nothing
#if WRONG == 5
  child.interject([] { return joins(); });
#endif

  auto with_result = coir::spawn([] { return 1; });
  with_result.stop(2);
  // WRONG 6: stop() takes what the fiber could have returned
#if WRONG == 6
  with_result.stop("two");
#endif
}
