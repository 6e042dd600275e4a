// What parked fibers cost, and that nothing grows.
#include "gate.hpp"
#include "stacks.hpp"
#include "until.hpp"

#include "support/catch.hpp"
#include "support/counted_heap.hpp"

#include <coir/coir.hpp>

#include <cstddef>
#include <utility>
#include <vector>

namespace {

using support::sanitized;

// A line of fibers, each of which waits for its turn. Sits on a word of its own in each frame.
class parking {
 public:
  class [[nodiscard]] park_op {
   public:
    static constexpr const char* name = "park";
    explicit park_op(parking& of) noexcept : of_(&of) {}
    bool start(coir::waiter& told) {
      of_->parked_.push_back(&told);
      return true;
    }
    coir::abort_answer abort() noexcept { return coir::abort_answer::later; }
    void take() noexcept {}

   private:
    parking* of_;
  };

  explicit parking(std::size_t room) { parked_.reserve(room); }
  park_op park() noexcept { return park_op(*this); }
  std::size_t size() const noexcept { return parked_.size(); }
  void release() {
    for (coir::waiter* each : std::exchange(parked_, {})) each->done();
  }

 private:
  std::vector<coir::waiter*> parked_;
};

coir::task<> parks(parking& where) { co_await where.park(); }
coir::task<> sleeps() { co_await coir::sleep_for(std::chrono::hours(1)); }
coir::task<int> adds(int one, int other) {
  co_await coir::yield();
  co_return one + other;
}

}  // namespace

TEST_CASE("a hundred thousand parked coroutine fibers take at most 256 bytes each") {
  if (sanitized) return;
  constexpr std::size_t count = 100'000;
  coir::run([] {
    parking lot(count);
    coir::await(coir::yield());
    const long before = support::heap.bytes;
    for (std::size_t i = 0; i < count; ++i) coir::spawn(parks(lot));
    support::until([&] { return lot.size() == count; });
    const auto each = static_cast<std::size_t>(support::heap.bytes - before) / count;
    INFO(each << " bytes");
    CHECK(each <= 256);
    CHECK(each >= sizeof(coir::fiber_base));
    lot.release();
    support::until([] { return coir::running_fiber().home().alive() == 1; });
  });
}

TEST_CASE("a sleeping coroutine fiber takes at most 64 bytes more, its place in the timer heap included") {
  if (sanitized) return;
  constexpr std::size_t count = 50'000;
  coir::run([] {
    const long before = support::heap.bytes;
    for (std::size_t i = 0; i < count; ++i) coir::spawn(sleeps());
    support::until([] { return coir::running_fiber().home().on().timers() == count; });
    const auto each = static_cast<std::size_t>(support::heap.bytes - before) / count;
    INFO(each << " bytes");
    CHECK(each <= 256 + 64);
  });
}

TEST_CASE("parked fibers on stacks take at most 4700 bytes each: a page, and the control block") {
#if defined(__OPTIMIZE__)
  if (sanitized) return;
  constexpr std::size_t count = 20'000;
  coir::run([] {
    parking lot(count);
    // What the program touches for the first time is not the fibers'.
    auto warm = coir::spawn([&] { coir::await(lot.park()); });
    support::until([&] { return lot.size() == 1; });
    lot.release();
    coir::await(warm.join());
    lot = parking(count);
    const std::size_t before = support::memory_of_process().resident_bytes;
    for (std::size_t i = 0; i < count; ++i) coir::spawn([&] { coir::await(lot.park()); });
    support::until([&] { return lot.size() == count; });
    const std::size_t each = (support::memory_of_process().resident_bytes - before) / count;
    INFO(each << " bytes");
    CHECK(each <= 4700);
    lot.release();
    support::until([] { return coir::running_fiber().home().alive() == 1; });
  });
#endif
}

TEST_CASE("a million spawns and joins leave no byte behind, on both bodies") {
  constexpr int count = sanitized ? 20'000 : 1'000'000;
  coir::run([] {
    const auto work = [](int times) {
      for (int i = 0; i < times; i += 4) {
        auto task = coir::spawn(adds(i, 1));
        auto function = coir::spawn([i] { return i; });
        auto factory = coir::spawn([i]() -> coir::task<int> { co_return co_await adds(i, 2); });
        auto dropped = coir::spawn([i] { coir::await(adds(i, 3)); });
        dropped = {};
        if (coir::await(task.join()) + coir::await(function.take()) + coir::await(factory.join()) !=
            3 * i + 3) {
          return false;
        }
      }
      return true;
    };
    REQUIRE(work(10'000));
    support::until([] { return coir::running_fiber().home().alive() == 1; });
    const long before = support::heap.bytes;
    const std::size_t resident = support::memory_of_process().resident_bytes;
    CHECK(work(count));
    support::until([] { return coir::running_fiber().home().alive() == 1; });
    CHECK(support::heap.bytes == before);
    if (!sanitized) CHECK(support::memory_of_process().resident_bytes <= resident + (std::size_t{1} << 20));
  });
}

TEST_CASE("failures, cancellations and borrowed stacks leave no byte behind either") {
  constexpr int count = sanitized ? 500 : 20'000;
  coir::run(
      [] {
        const auto work = [](int times) {
          for (int i = 0; i < times; ++i) {
            auto fails = coir::spawn([] { throw 1; }, coir::report_failure);
            auto waits = coir::spawn([] { coir::await(coir::sleep_for(std::chrono::hours(1))); },
                                     coir::spawn_options().name("a name that is too long for its place"));
            auto borrows = coir::spawn([]() -> coir::task<> {
              co_await coir::on_stack([] { coir::await(sleeps()); });
            });
            coir::await(coir::yield());
            waits.cancel();
            borrows.cancel();
            coir::await(coir::end_op(waits));
            coir::await(coir::end_op(borrows));
            coir::await(coir::end_op(fails));
          }
        };
        work(100);
        const long before = support::heap.bytes;
        work(count);
        CHECK(support::heap.bytes == before);
      },
      coir::run_options().on_failure([](const coir::fiber_base&, const std::exception_ptr&) {}));
}

TEST_CASE("a run leaves no byte behind that the one before did not") {
  const auto program = [] {
    coir::run([] {
      std::vector<coir::fiber<int>> children;
      for (int i = 0; i < 100; ++i) {
        children.push_back(coir::spawn(adds(i, 1)));
        children.push_back(coir::spawn([i] { return coir::await(adds(i, 2)); }));
      }
      for (auto& each : children) coir::await(each.join());
      for (int i = 0; i < 100; ++i) coir::spawn(sleeps());
    });
  };
  program();
  program();
  const long before = support::heap.bytes;
  for (int i = 0; i < 5; ++i) program();
  CHECK(support::heap.bytes == before);
}
