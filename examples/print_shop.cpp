// Teaches: locks, gates and pools. Jobs lie on a desk that a mutex guards; clerks wait for them in a condition; the
// two printers are a pool's, each made when it is wanted first. None of them blocks the thread, and each wait can be
// cancelled or limited like any other.
//
// Try it:  build/test/examples/print_shop
//
// OUTPUT
//   a printer was bought
//   a printer was bought
//   6 jobs printed, by 3 clerks, 2 at most at a time
//   the shop did not get a fourth clerk's answer in time, and has its desk again

#include <coir/coir.hpp>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <deque>

using namespace std::chrono_literals;

int printing = 0;
int most = 0;
int printed = 0;

class printer {
 public:
  printer() { std::puts("a printer was bought"); }
  printer(printer&&) = default;
  coir::task<> print(int pages) {
    most = std::max(most, ++printing);
    co_await coir::sleep_for(pages * 1ms);
    --printing;
    ++printed;
  }
};

// README: locks
struct desk {
  coir::mutex m;
  coir::condition changed;
  std::deque<int> jobs;
  bool closed = false;
};

coir::task<> serve(desk& mine, coir::resource_pool<printer>& printers) {
  for (;;) {
    auto held = co_await mine.m.lock();
    co_await mine.changed.wait(held, [&] { return !mine.jobs.empty() || mine.closed; });
    if (mine.jobs.empty()) co_return;  // the lock goes with its guard
    const int pages = mine.jobs.front();
    mine.jobs.pop_front();
    held.unlock();
    auto lease = co_await printers.acquire();  // waits while both are out
    co_await lease->print(pages);
  }
}

coir::task<> bring(desk& mine, std::deque<int> jobs) {
  for (const int pages : jobs) {
    auto held = co_await mine.m.lock();
    mine.jobs.push_back(pages);
    mine.changed.notify_one();
  }
  auto held = co_await mine.m.lock();
  mine.closed = true;
  mine.changed.notify_all();
}
// README end

coir::task<int> shop() {
  desk mine;
  coir::resource_pool<printer> printers(2, [] { return printer(); });
  const auto day = [&](coir::nursery& n) -> coir::task<> {
    for (int clerk = 0; clerk < 3; ++clerk) n.spawn(serve(mine, printers));
    std::deque<int> jobs;
    for (int pages = 1; pages <= 6; ++pages) jobs.push_back(pages);
    n.spawn(bring(mine, jobs));
    co_return;
  };
  co_await coir::with_nursery(day);
  std::printf("%d jobs printed, by 3 clerks, %d at most at a time\n", printed, most);

  auto held = co_await mine.m.lock();
  const bool answered = co_await coir::move_on_after(5ms, mine.changed.wait(held));
  if (!answered && mine.m.owned()) {
    std::puts("the shop did not get a fourth clerk's answer in time, and has its desk again");
  }
  co_return 0;
}

int main() { return coir::run(shop()); }
