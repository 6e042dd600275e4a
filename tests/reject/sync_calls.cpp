#include <coir/coir.hpp>

#include <string>

coir::task<> waits(std::string text);

coir::task<> waits(std::string text) {
  coir::mutex m;
  coir::condition changed;
  coir::once loaded;
  auto held = co_await m.lock();
  const auto holds = [text] { return !text.empty(); };
  const auto body = [text]() -> coir::task<> { co_return; };
  co_await changed.wait(held, holds);
  co_await changed.wait(held, [&] { return !text.empty(); });
  co_await loaded.call(body);
  co_await loaded.call([&]() -> coir::task<> { co_return; });

  // WRONG 1, gcc before 13: Name the predicate first: auto holds = [...] {...};
#if WRONG == 1
  co_await changed.wait(held, [text] { return !text.empty(); });
#endif

  // WRONG 2, gcc before 13: Name the function first: auto body = [...] {...};
#if WRONG == 2
  co_await loaded.call([text]() -> coir::task<> { co_return; });
#endif

  // WRONG 3: takes a function that gives nothing, or a task of nothing
#if WRONG == 3
  loaded.call([] { return 7; });
#endif

  // WRONG 4: nodiscard
#if WRONG == 4
  m.lock();
#endif
}
