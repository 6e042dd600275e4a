#include "support/catch.hpp"
#include "support/jumping.hpp"

#include <coir/coir.hpp>

#include <chrono>
#include <stdexcept>
#include <vector>

using namespace std::chrono_literals;
using support::jumping;
using support::now;

namespace {

coir::task<> append_after(coir::duration wait, std::vector<int>& to, int what) {
  co_await coir::sleep_for(wait);
  to.push_back(what);
}
coir::task<> fail_after_sleep(coir::duration wait) {
  co_await coir::sleep_for(wait);
  throw std::runtime_error("failed");
}

}  // namespace

TEST_CASE("a nursery ends after its children, on both surfaces") {
  jumping([] {
    std::vector<int> seen;
    coir::with_nursery([&](coir::nursery& n) {
      n.spawn(append_after(2s, seen, 2));
      n.spawn([&] {
        coir::await(coir::sleep_for(1s));
        seen.push_back(1);
      });
    });
    CHECK(seen == std::vector{1, 2});
    coir::await(coir::with_nursery([&](coir::nursery& n) -> coir::task<> {
      n.spawn(append_after(2s, seen, 4));
      n.spawn(append_after(1s, seen, 3));
      co_return;
    }));
    CHECK(seen == std::vector{1, 2, 3, 4});
  });
}

TEST_CASE("the first failure cancels the siblings and is thrown after they ended") {
  jumping([] {
    std::vector<int> seen;
    const coir::instant begin = now();
    CHECK_THROWS_AS(coir::with_nursery([&](coir::nursery& n) {
                      n.spawn(append_after(1h, seen, 1));
                      n.spawn(fail_after_sleep(1s));
                      coir::await(coir::sleep_for(2h));
                    }),
                    std::runtime_error);
    CHECK(now() - begin == 1s);
    CHECK(seen.empty());
  });
}

TEST_CASE("a nursery that is closing refuses new children") {
  jumping([] {
    coir::nursery n;
    CHECK_THROWS_AS(n.spawn([] {}), std::logic_error);
    CHECK(n.run([&] {
      n.spawn([] {});
      n.close();
      CHECK_THROWS_AS(n.spawn([] {}), std::system_error);
    }));
    CHECK_THROWS_AS(n.spawn([] {}), std::logic_error);
  });
}

TEST_CASE("a hundred thousand children need no deep recursion") {
  jumping([] {
    int done = 0;
    coir::with_nursery([&](coir::nursery& n) {
      for (int i = 0; i < 100'000; ++i) {
        n.spawn([](int& count) -> coir::task<> {
          co_await coir::yield();
          ++count;
        }(done));
      }
    });
    CHECK(done == 100'000);
    coir::cancel_scope scope;
    CHECK_FALSE(scope.run([&] {
      coir::with_nursery([&](coir::nursery& n) {
        for (int i = 0; i < 100'000; ++i) {
          n.spawn([](int& count) -> coir::task<> {
            co_await coir::sleep_for(1h);
            ++count;
          }(done));
        }
        coir::await(coir::yield());
        scope.cancel();
      });
    }));
    CHECK(done == 100'000);
  });
}
