// Every wrong use of a task is a std::logic_error that says what was wrong.
#include "in_both.hpp"

#include "support/catch.hpp"

#include <coir/coir.hpp>

#include <stdexcept>
#include <string>

using support::in_both;

namespace {

coir::task<int> answer() { co_return 42; }

template <class Use>
std::string misuse(Use&& use) {
  try {
    use();
  } catch (const std::logic_error& error) {
    return error.what();
  }
  return "nothing was thrown";
}

using Catch::Matchers::Contains;

}  // namespace

TEST_CASE("awaiting an empty task says that it is empty") {
  const auto body = []() -> coir::task<> {
    coir::task<int> moved = answer();
    coir::task<int> kept = std::move(moved);
    std::string said;
    try {
      co_await moved;
    } catch (const std::logic_error& error) {
      said = error.what();
    }
    CHECK_THAT(said, Contains("empty task"));
    const int got = co_await kept;
    CHECK(got == 42);
  };
  in_both(body);
  coir::run([] {
    coir::task<int> moved = answer();
    CHECK(coir::await(std::move(moved)) == 42);
    CHECK_THAT(misuse([&] { coir::await(std::move(moved)); }), Contains("empty task"));
  });
}

TEST_CASE("awaiting a task twice says so") {
  const auto body = []() -> coir::task<> {
    coir::task<int> once = answer();
    co_await once;
    std::string said;
    try {
      co_await once;
    } catch (const std::logic_error& error) {
      said = error.what();
    }
    CHECK_THAT(said, Contains("second time"));
  };
  in_both(body);
}

TEST_CASE("a task that was awaited before cannot be awaited on a stack") {
  const auto body = []() -> coir::task<> {
    coir::task<int> once = answer();
    co_await once;
    auto again = [&] {
      CHECK_THAT(misuse([&] { coir::await(std::move(once)); }), Contains("second time"));
    };
    co_await coir::on_stack(again);
  };
  in_both(body);
}

TEST_CASE("an empty task cannot be spawned") {
  coir::run([] {
    coir::task<int> moved = answer();
    auto child = coir::spawn(std::move(moved));
    CHECK_THAT(misuse([&] { coir::spawn(std::move(moved)); }), Contains("empty task"));
    CHECK(coir::await(child.join()) == 42);
  });
}

TEST_CASE("a task that was awaited before cannot be spawned") {
  const auto body = []() -> coir::task<> {
    coir::task<int> once = answer();
    co_await once;
    CHECK_THAT(misuse([&] { coir::spawn(std::move(once)); }), Contains("second time"));
  };
  in_both(body);
}

TEST_CASE("a factory that makes no task fails its fiber") {
  coir::run([] {
    coir::task<int> moved = answer();
    const coir::task<int> kept = std::move(moved);
    auto child = coir::spawn([&moved] { return std::move(moved); }, coir::report_failure);
    CHECK_THAT(misuse([&] { coir::await(child.join()); }), Contains("empty task"));
  });
}

TEST_CASE("a factory that hands out a task that began fails its fiber") {
  const auto body = []() -> coir::task<> {
    coir::task<int> once = answer();
    co_await once;
    auto child = coir::spawn([&once] { return std::move(once); }, coir::report_failure);
    std::string said;
    try {
      co_await child.join();
    } catch (const std::logic_error& error) {
      said = error.what();
    }
    CHECK_THAT(said, Contains("second time"));
  };
  in_both(body);
}
