#include "counted.hpp"
#include "in_both.hpp"

#include "support/catch.hpp"

#include <coir/coir.hpp>

#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

using support::counted;
using support::in_both;

namespace {

coir::task<int> fetch(int x) {
  co_await coir::yield();
  co_return x;
}
coir::task<int> twice(int x) { co_return 2 * co_await fetch(x); }

coir::task<> note(std::vector<int>& order, int what) {
  order.push_back(what);
  co_return;
}

}  // namespace

TEST_CASE("a task is awaited in the same fiber, and spawned as one of its own") {
  const auto body = []() -> coir::task<> {
    const std::uint64_t id = coir::running_fiber().id();
    const int y = co_await twice(21);
    CHECK(y == 42);
    CHECK(coir::running_fiber().id() == id);
    auto child = coir::spawn(twice(4));
    CHECK(child.id() != id);
    const int got = co_await child.join();
    CHECK(got == 8);
  };
  in_both(body);
}

TEST_CASE("a task does not begin before it is awaited") {
  const auto body = []() -> coir::task<> {
    std::vector<int> order;
    coir::task<> later = note(order, 1);
    CHECK(order.empty());
    co_await coir::yield();
    CHECK(order.empty());
    co_await later;
    CHECK(order == std::vector<int>{1});
  };
  in_both(body);
}

TEST_CASE("a task that is awaited runs at once, before any other fiber") {
  const auto body = []() -> coir::task<> {
    std::vector<int> order;
    auto other = coir::spawn(note(order, 2));
    co_await note(order, 1);
    co_await other.join();
    CHECK(order == std::vector<int>{1, 2});
  };
  in_both(body);
}

TEST_CASE("a task moves, and leaves an empty one behind") {
  std::vector<int> order;
  coir::task<> first = note(order, 1);
  CHECK(static_cast<bool>(first));
  coir::task<> second = std::move(first);
  CHECK_FALSE(static_cast<bool>(first));
  CHECK(static_cast<bool>(second));
  first = note(order, 2);
  // The one that was there never runs.
  first = std::move(second);
  CHECK_FALSE(static_cast<bool>(second));
  coir::run(std::move(first));
  CHECK(order == std::vector<int>{1});
  STATIC_REQUIRE_FALSE(std::is_copy_constructible_v<coir::task<>>);
  STATIC_REQUIRE(sizeof(coir::task<std::string>) == sizeof(void*));
}

TEST_CASE("a task that is destroyed before it began destroys its parameters and never runs") {
  bool ran = false;
  const auto body = [](counted value, bool& began) -> coir::task<int> {
    began = true;
    co_return value.value;
  };
  {
    const coir::task<int> unused = body(counted(1), ran);
    CHECK(counted::alive == 1);
  }
  CHECK(counted::alive == 0);
  CHECK_FALSE(ran);
}

TEST_CASE("a task and its parameters live until the end of the expression that awaits it") {
  const auto body = []() -> coir::task<> {
    const auto child = [](counted value) -> coir::task<int> { co_return value.value; };
    const int got = co_await child(counted(7));
    CHECK(got == 7);
    CHECK(counted::alive == 0);
    coir::task<int> kept = child(counted(8));
    const int again = co_await kept;
    CHECK(again == 8);
    CHECK(counted::alive == 1);
  };
  in_both(body);
  CHECK(counted::alive == 0);
}

namespace {

class no_default {
 public:
  explicit no_default(int value) noexcept : value_(value) {}
  int value() const noexcept { return value_; }

 private:
  int value_;
};

coir::task<int&> reference_to(int& what) { co_return what; }
coir::task<const std::string&> constant(const std::string& what) { co_return what; }
coir::task<std::unique_ptr<int>> move_only(int value) { co_return std::make_unique<int>(value); }
coir::task<no_default> made(int value) { co_return no_default(value); }
coir::task<std::string> converted() { co_return "from a literal"; }
coir::task<counted> counted_result() { co_return counted(5); }
coir::task<std::vector<std::string>> large() {
  co_return std::vector<std::string>(100, std::string(100, 'x'));
}

}  // namespace

TEST_CASE("a task returns values, references, what only moves, and what converts") {
  const auto body = []() -> coir::task<> {
    int target = 1;
    int& same = co_await reference_to(target);
    CHECK(&same == &target);
    const std::string text = "text";
    const std::string& also = co_await constant(text);
    CHECK(&also == &text);
    const std::unique_ptr<int> owned = co_await move_only(3);
    CHECK(*owned == 3);
    const no_default plain = co_await made(4);
    CHECK(plain.value() == 4);
    const std::string literal = co_await converted();
    CHECK(literal == "from a literal");
    {
      const counted result = co_await counted_result();
      CHECK(result.value == 5);
      CHECK(counted::alive == 1);
    }
    CHECK(counted::alive == 0);
    const auto many = co_await large();
    CHECK(many.size() == 100);
  };
  in_both(body);
}

TEST_CASE("a result that nobody takes is destroyed with its task") {
  const auto body = []() -> coir::task<> {
    auto kept = counted_result();
    static_cast<void>(co_await kept);
    static_cast<void>(co_await counted_result());
  };
  in_both(body);
  CHECK(counted::alive == 0);
}

namespace {

coir::task<int> throws_at(int depth, std::vector<int>& unwound) {
  class on_exit {
   public:
    on_exit(std::vector<int>& where, int depth) noexcept : where_(where), depth_(depth) {}
    ~on_exit() { where_.push_back(depth_); }

   private:
    std::vector<int>& where_;
    int depth_;
  };
  const on_exit guard(unwound, depth);
  if (depth == 0) {
    co_await coir::yield();
    throw std::runtime_error("from the bottom");
  }
  co_return 1 + co_await throws_at(depth - 1, unwound);
}

}  // namespace

TEST_CASE("an exception goes through a hundred tasks, and their locals are destroyed in order") {
  const auto body = []() -> coir::task<> {
    std::vector<int> unwound;
    std::string caught;
    try {
      co_await throws_at(100, unwound);
    } catch (const std::runtime_error& error) {
      caught = error.what();
    }
    CHECK(caught == "from the bottom");
    REQUIRE(unwound.size() == 101);
    for (int i = 0; i <= 100; ++i) CHECK(unwound[static_cast<std::size_t>(i)] == i);
  };
  in_both(body);
}

TEST_CASE("anything can be thrown, and the next task is not touched by it") {
  const auto body = []() -> coir::task<> {
    const auto fails = []() -> coir::task<> {
      throw 42;
      co_return;
    };
    for (int i = 0; i < 3; ++i) {
      int caught = 0;
      try {
        co_await fails();
      } catch (int what) {
        caught = what;
      }
      CHECK(caught == 42);
      const int got = co_await twice(i);
      CHECK(got == 2 * i);
    }
  };
  in_both(body);
}

TEST_CASE("an exception caught in a task is not seen by whoever awaits it") {
  const auto body = []() -> coir::task<> {
    const auto recovers = []() -> coir::task<int> {
      bool failed = false;
      std::vector<int> unwound;
      try {
        co_await throws_at(3, unwound);
      } catch (const std::runtime_error&) {
        failed = true;
      }
      const int got = failed ? co_await twice(5) : 0;
      co_return got;
    };
    const int got = co_await recovers();
    CHECK(got == 10);
  };
  in_both(body);
}

TEST_CASE("a result whose copy throws fails its task, and leaves nothing") {
  class heavy {
   public:
    heavy() = default;
    heavy(const heavy&) { throw std::runtime_error("no copy"); }
    counted part;
  };
  const auto body = []() -> coir::task<> {
    const auto fails = []() -> coir::task<heavy> {
      const heavy local;
      co_return local;
    };
    bool failed = false;
    try {
      static_cast<void>(co_await fails());
    } catch (const std::runtime_error&) {
      failed = true;
    }
    CHECK(failed);
  };
  in_both(body);
  CHECK(counted::alive == 0);
}

TEST_CASE("a result may be made of braces, and have an operator new of its own") {
  struct own {
    int value;
    static void* operator new(std::size_t) = delete;
  };
  const auto pair_of = []() -> coir::task<std::pair<int, int>> { co_return {1, 2}; };
  const auto own_of = []() -> coir::task<own> { co_return own{3}; };
  coir::run([&] {
    CHECK(coir::await(pair_of()) == std::pair(1, 2));
    CHECK(coir::await(own_of()).value == 3);
    auto child = coir::spawn(own_of());
    CHECK(coir::await(child.join()).value == 3);
  });
}
