#include <coir/base/callback.hpp>

#include "support/catch.hpp"

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <stdexcept>
#include <utility>

using coir::callback;

namespace {

int plain_calls = 0;
void plain(int by) {
  plain_calls += by;
}

// How many of it there are; `Padding` decides where a callback keeps it.
template <std::size_t Padding>
class counted {
 public:
  explicit counted(int& alive) noexcept : alive_(&alive) { ++*alive_; }
  counted(counted&& other) noexcept : alive_(other.alive_) { ++*alive_; }
  ~counted() { --*alive_; }
  void operator()() noexcept { seen_ = *alive_; }

 private:
  int* alive_;
  int seen_ = 0;
  std::array<char, Padding> padding_{};
};

using small = counted<1>;
using large = counted<100>;

// Movable, but not without a chance to throw.
struct careful {
  explicit careful(int& count) : moves(&count) {}
  careful(careful&& other) noexcept(false) : moves(other.moves) { ++*moves; }
  void operator()() const {}
  int* moves;
};

struct refuses_to_be_copied {
  refuses_to_be_copied() = default;
  refuses_to_be_copied(const refuses_to_be_copied&) { throw std::runtime_error("no copies"); }
  void operator()() const {}
  std::array<char, 100> padding{};
};

struct alignas(64) wide {
  void operator()(bool& straight) const { straight = reinterpret_cast<std::uintptr_t>(this) % 64 == 0; }
  char some = 0;
};

}  // namespace

TEST_CASE("a callback calls what it was made of, with its arguments, as often as it is called") {
  int sum = 0;
  callback<int, int> add = [&](int a, int b) { sum += 10 * a + b; };
  add(1, 2);
  add(3, 4);
  CHECK(sum == 46);
}

TEST_CASE("a function that takes no arguments is called without them") {
  int calls = 0;
  callback<int, const std::unique_ptr<int>&> tell = [&] { ++calls; };
  tell(1, nullptr);
  CHECK(calls == 1);
}

TEST_CASE("a function that can be called both ways is given the arguments") {
  std::size_t count = 99;
  callback<int> tell = [&](auto... all) { count = sizeof...(all); };
  tell(5);
  CHECK(count == 1);
}

TEST_CASE("an argument by reference is the caller's own, and a move-only one is handed over") {
  std::unique_ptr<int> kept;
  callback<int&, std::unique_ptr<int>> take = [&](int& count, std::unique_ptr<int> what) {
    ++count;
    kept = std::move(what);
  };
  int count = 0;
  take(count, std::make_unique<int>(7));
  CHECK(count == 1);
  REQUIRE(kept != nullptr);
  CHECK(*kept == 7);
}

TEST_CASE("what is captured may be move-only, in small functions and in large ones") {
  int sum = 0;
  callback<> one = [&sum, owned = std::make_unique<int>(1)] { sum += *owned; };
  callback<> two = [&sum, owned = std::make_unique<int>(10), more = std::array<int, 100>{}] {
    sum += *owned + more[99];
  };
  one();
  two();
  callback<> moved = std::move(two);
  moved();
  CHECK(sum == 21);
}

TEST_CASE("state that a function changes is kept between the calls") {
  int last = 0;
  callback<> count = [&last, calls = 0]() mutable { last = ++calls; };
  count();
  count();
  callback<> moved(std::move(count));
  moved();
  CHECK(last == 3);
}

TEST_CASE("a plain function, a pointer to one and a std::function can be called back") {
  plain_calls = 0;
  callback<int> direct = plain;
  callback<int> pointed = &plain;
  callback<int> wrapped = std::function<void(int)>(plain);
  direct(1);
  pointed(2);
  wrapped(4);
  CHECK(plain_calls == 7);
}

TEST_CASE("what a function returns is dropped") {
  callback<> answer = [] { return std::make_unique<int>(42); };
  answer();
  CHECK(answer);
}

TEST_CASE("one without a function is false: made empty, made of nullptr, moved from, set to nullptr") {
  callback<> empty;
  CHECK_FALSE(empty);
  const callback<> none = nullptr;
  CHECK_FALSE(none);
  callback<> some = [] {};
  CHECK(some);
  empty = std::move(some);
  CHECK(empty);
  CHECK_FALSE(some);  // NOLINT: what is moved from is what is asked about
  empty = nullptr;
  CHECK_FALSE(empty);
}

TEMPLATE_TEST_CASE("what it holds is destroyed exactly once", "", small, large) {
  int alive = 0;
  {
    callback<> one = TestType(alive);
    CHECK(alive == 1);
    one();
    callback<> two = std::move(one);
    CHECK(alive == 1);
    callback<> three = TestType(alive);
    CHECK(alive == 2);
    three = std::move(two);
    CHECK(alive == 1);
    two = nullptr;
    CHECK(alive == 1);
    callback<>& same = three;
    three = std::move(same);
    CHECK(alive == 1);
    CHECK(three);
    three = nullptr;
    CHECK(alive == 0);
    one = TestType(alive);
    CHECK(alive == 1);
  }
  CHECK(alive == 0);
}

TEST_CASE("a function whose move may throw stays where it is when the callback moves") {
  int moves = 0;
  callback<> one = careful(moves);
  const int before = moves;
  callback<> two = std::move(one);
  callback<> three;
  three = std::move(two);
  three();
  CHECK(moves == before);
}

TEST_CASE("a function that throws while it is copied leaves nothing behind") {
  const refuses_to_be_copied original;
  std::optional<callback<>> made;
  CHECK_THROWS_AS(made.emplace(original), std::runtime_error);
  CHECK_FALSE(made.has_value());
}

TEST_CASE("a function with an alignment of its own gets it") {
  bool straight = false;
  callback<bool&> tell = wide();
  tell(straight);
  CHECK(straight);
}

TEST_CASE("what a function throws comes through, and it can be called again") {
  int calls = 0;
  callback<> fail = [&] {
    if (++calls == 1) throw std::runtime_error("once");
  };
  CHECK_THROWS_AS(fail(), std::runtime_error);
  fail();
  CHECK(calls == 2);
}

TEST_CASE("to what is destroyed with it, a callback is empty already") {
  callback<> holder;
  bool seen_empty = false;
  struct looks {
    looks(callback<>& at, bool& answer) : where(&at), empty(&answer) {}
    looks(looks&& other) noexcept : where(std::exchange(other.where, nullptr)), empty(other.empty) {}
    ~looks() {
      if (where != nullptr) *empty = !*where;
    }
    void operator()() const {}
    callback<>* where;
    bool* empty;
  };
  holder = looks(holder, seen_empty);
  seen_empty = false;
  holder = nullptr;
  CHECK(seen_empty);
}

TEST_CASE("what holds no function makes a callback that holds none") {
  void (*none)(int) = nullptr;
  CHECK_FALSE(coir::callback<int>(none));
  CHECK_FALSE(coir::callback<int>(std::function<void(int)>()));
  CHECK_FALSE(coir::callback<int>(coir::callback<>()));
  CHECK_FALSE(coir::callback<int>(coir::callback<long>()));
  CHECK(coir::callback<int>(coir::callback<>([] {})));
#if defined(__cpp_lib_move_only_function)
  CHECK_FALSE(coir::callback<int>(std::move_only_function<void(int)>()));
#endif
  int got = 0;
  coir::callback<int> some = std::function<void(int)>([&](int value) { got = value; });
  REQUIRE(some);
  some(3);
  CHECK(got == 3);
}
