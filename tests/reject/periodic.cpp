// What can be the body of a loop, and how it may be given.
#include <coir/coir.hpp>

#include <chrono>
#include <string>

using namespace std::chrono_literals;

coir::task<> in_a_coroutine(std::string text);
void on_a_stack(std::string text);

coir::task<> in_a_coroutine(std::string text) {
  auto named = [text]() -> coir::task<> { co_return; };
  co_await coir::every(1s, named);
  co_await coir::throttled_loop(1s, named, 5);
  coir::throttler limit(1s);
  co_await coir::throttled_loop(limit, named);
  // References, pointers and numbers may be captured anywhere.
  std::size_t number = 7;
  co_await coir::every(1s, [&text, number]() mutable -> coir::task<coir::flow> {
    co_return text.size() < ++number ? coir::flow::leave : coir::flow::go_on;
  });
  // These are no awaitables.
  auto spinning = coir::spin_loop([text]() -> coir::task<> { co_return; });
  coir::spin_loop(1s, [text]() -> coir::task<> { co_return; });
  coir::after(1s, [text]() -> coir::task<> { co_return; });
  co_await spinning.join();

  // WRONG 1, gcc before 13: Name the body first: auto body = [...] {...}; co_await coir::every(1s, body);
#if WRONG == 1
  co_await coir::every(1s, [text]() -> coir::task<> { co_return; });
#endif

  // WRONG 2, gcc before 13: Name the body first
#if WRONG == 2
  co_await coir::throttled_loop(1s, std::move(named));
#endif

  // WRONG 3, gcc before 13: Name the body first
#if WRONG == 3
  co_await coir::throttled_loop(limit, [text]() -> coir::task<> { co_return; });
#endif

  // WRONG 4: a task does nothing before it is awaited or spawned
#if WRONG == 4
  coir::every(1s, named);
#endif

  // WRONG 5: co_await it, or coir::await(it)
#if WRONG == 5
  limit.wait();
#endif
}

void on_a_stack(std::string text) {
  coir::every(1s, [text] {});
  coir::throttled_loop(1s, [text](std::uint64_t) { return coir::flow::leave; });

  // WRONG 6: the body of a loop returns nothing or coir::flow, or a task of one of these
#if WRONG == 6
  coir::every(1s, [] { return true; });
#endif

  // WRONG 7: the body of a loop returns nothing or coir::flow, or a task of one of these
#if WRONG == 7
  coir::await(coir::throttled_loop(1s, []() -> coir::task<int> { co_return 1; }));
#endif

  // WRONG 8: the body of a loop is called without arguments, or with the number of points that were missed
#if WRONG == 8
  coir::spin_loop([](const std::string&) {});
#endif

  // WRONG 9: deleted
#if WRONG == 9
  coir::throttler limit(1s);
  coir::throttler other(limit);
#endif
}
