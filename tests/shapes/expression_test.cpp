// What stands in one full expression with a co_await: temporaries live to its end and are destroyed once.
#include "shapes.hpp"

#include "support/descriptors.hpp"

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

using namespace shapes;

TEST_CASE("a temporary task that is awaited, its parameters and its result are destroyed once") {
  balanced([]() -> coir::task<> {
    const counted got = co_await echo(counted(1));
    CHECK(got.value == 1);
    const counted later = co_await late(counted(2));
    CHECK(later.value == 2);
    co_await late(counted(3));
  });
}

TEST_CASE("a temporary op with a destructor is destroyed once, whether it waits or not") {
  balanced([]() -> coir::task<> {
    const counted waited = co_await noisy(1);
    const counted ready = co_await noisy_at_once(2);
    CHECK(waited.value + ready.value == 3);
    co_await noisy(3);
    noisy_op named = noisy(4);
    const counted of_named = co_await named;
    CHECK(of_named.value == 4);
    const auto result = co_await coir::as_result(noisy(5));
    CHECK(result->value == 5);
  });
}

TEST_CASE("a member of an awaited temporary is read before the temporary goes") {
  balanced([]() -> coir::task<> {
    const int direct = (co_await late(counted(7))).value;
    CHECK(direct == 7);
    const int of_op = (co_await noisy(8)).value;
    CHECK(of_op == 8);
    const std::size_t size = (co_await echo(counted(1)), std::string("four")).size();
    CHECK(size == 4);
  });
}

TEST_CASE("temporaries beside a co_await live through the wait") {
  balanced([]() -> coir::task<> {
    const int by_value = sum(counted(1), co_await late(counted(2)));
    CHECK(by_value == 3);
    const int turned = sum(co_await late(counted(3)), counted(4));
    CHECK(turned == 7);
    const int by_reference = sum_of(counted(5), co_await late(counted(6)));
    CHECK(by_reference == 11);
    const int both = sum_of(co_await late(counted(7)), co_await noisy(8));
    CHECK(both == 15);
    const int three = sum(co_await noisy(1), co_await late(counted(sum(counted(1), co_await noisy(2)))));
    CHECK(three == 4);
  });
}

TEST_CASE("an awaited argument of an awaited task") {
  balanced([]() -> coir::task<> {
    const counted got = co_await late(co_await late(co_await echo(co_await noisy(4))));
    CHECK(got.value == 4);
    const int sum = co_await number_of(counted(co_await late_number(2) + co_await late_number(3)));
    CHECK(sum == 5);
  });
}

TEST_CASE("operators around co_await: arithmetic, compound assignment, comma, logic, comparison") {
  balanced([]() -> coir::task<> {
    int x = 1;
    x += co_await late_number(2);
    x *= (co_await late(counted(3))).value;
    CHECK(x == 9);
    x = (co_await late_number(1), co_await late_number(2));
    CHECK(x == 2);
    const bool both = co_await late_number(1) == 1 && co_await late_number(0) != 0;
    CHECK_FALSE(both);
    // The right side of || is not awaited when the left decides.
    int awaited = 0;
    const auto counts = [](int& count) -> coir::task<bool> {
      ++count;
      co_await coir::yield();
      co_return true;
    };
    const bool any = co_await counts(awaited) || co_await counts(awaited);
    CHECK(any);
    CHECK(awaited == 1);
    std::string text = "a";
    text += std::string("b") + std::to_string(co_await late_number(3)) + std::string("c");
    CHECK(text == "ab3c");
  });
}

TEST_CASE("the conditional operator chooses between numbers, and `if` between objects") {
  balanced([]() -> coir::task<> {
    for (const bool first : {true, false}) {
      const int number = first ? co_await late_number(3) : co_await late_number(4);
      CHECK(number == (first ? 3 : 4));
      const int one_sided = first ? (co_await late(counted(5))).value : 6;
      CHECK(one_sided == (first ? 5 : 6));
      const int condition = co_await late_number(first ? 1 : 0) != 0 ? 7 : 8;
      CHECK(condition == (first ? 7 : 8));
      counted got;
      if (first) {
        got = co_await late(counted(1));
      } else {
        got = co_await noisy(2);
      }
      CHECK(got.value == (first ? 1 : 2));
      // Where nothing is awaited it may choose between anything.
      const counted chosen = first ? got : counted(9);
      CHECK(chosen.value == (first ? 1 : 9));
    }
  });
}

TEST_CASE("constructors and standard aggregates-by-constructor around co_await") {
  balanced([]() -> coir::task<> {
    const pair_of made(co_await late(counted(1)), counted(2));
    CHECK(made.sum() == 3);
    const int temporary = pair_of(counted(3), co_await noisy(4)).sum();
    CHECK(temporary == 7);
    const auto pair = std::pair<counted, counted>(co_await late(counted(5)), counted(6));
    CHECK(pair.first.value + pair.second.value == 11);
    const auto tuple = std::make_tuple(co_await late(counted(7)), counted(8), co_await noisy(9));
    CHECK(std::get<2>(tuple).value == 9);
    const auto owned = std::make_unique<counted>(co_await late(counted(10)));
    CHECK(owned->value == 10);
    std::vector<counted> many;
    many.push_back(co_await late(counted(11)));
    many.emplace_back(co_await late_number(12));
    CHECK(many[0].value + many[1].value == 23);
    const std::optional<counted> perhaps(co_await late(counted(13)));
    CHECK(perhaps->value == 13);
  });
}

TEST_CASE("default arguments with destructors, in the call that is awaited") {
  balanced([]() -> coir::task<> {
    struct with_default {
      static coir::task<int> add(counted one, counted other = counted(10)) {
        co_await coir::yield();
        co_return one.value + other.value;
      }
    };
    const int got = co_await with_default::add(counted(1));
    CHECK(got == 11);
  });
}

TEST_CASE("references into temporaries of the expression are good until its end") {
  balanced([]() -> coir::task<> {
    const auto reads = [](const counted& what) -> coir::task<int> {
      co_await coir::yield();
      co_return what.value;
    };
    const int got = co_await reads(counted(3));
    CHECK(got == 3);
    const int nested = co_await reads(co_await late(counted(4)));
    CHECK(nested == 4);
    const auto moves = [](counted&& what) -> coir::task<counted> {
      co_await coir::yield();
      co_return std::move(what);
    };
    const counted moved = co_await moves(counted(5));
    CHECK(moved.value == 5);
  });
}

TEST_CASE("results that only move, references, and std::expected go through the expression") {
  balanced([]() -> coir::task<> {
    const auto owns = [](int value) -> coir::task<std::unique_ptr<counted>> {
      co_await coir::yield();
      co_return std::make_unique<counted>(value);
    };
    const int direct = (*co_await owns(1)).value;
    CHECK(direct == 1);
    const std::unique_ptr<counted> kept = co_await owns(2);
    CHECK(kept->value == 2);
    const std::shared_ptr<counted> shared = co_await owns(3);
    CHECK(shared->value == 3);
    const auto same = [](counted& what) -> coir::task<counted&> {
      co_await coir::yield();
      co_return what;
    };
    counted target(4);
    (co_await same(target)).value = 5;
    CHECK(target.value == 5);
  });
}

TEST_CASE("lambdas that capture references and numbers may stand in an awaited expression") {
  balanced([]() -> coir::task<> {
    const counted outside(7);
    int number = 1;
    const int got = co_await coir::on_stack([&outside, number] {
      coir::await(coir::yield());
      return outside.value + number;
    });
    CHECK(got == 8);
    co_await coir::on_stack([&] { number = coir::await(late_number(5)); });
    CHECK(number == 5);
    const counted made = co_await coir::on_stack([] { return counted(9); });
    CHECK(made.value == 9);
  });
}

TEST_CASE("a named lambda with captures is run on a stack, and its captures are destroyed once") {
  balanced([]() -> coir::task<> {
    auto function = [held = counted(3)] {
      coir::await(coir::yield());
      return held.value;
    };
    const int got = co_await coir::on_stack(function);
    const int again = co_await coir::on_stack(function);
    CHECK(got + again == 6);
  });
}

TEST_CASE("spawn in a coroutine takes a temporary lambda with captures, and a task with parameters") {
  balanced([]() -> coir::task<> {
    auto function = coir::spawn([held = counted(1)] {
      coir::await(coir::yield());
      return counted(held.value);
    });
    auto coroutine = coir::spawn([held = counted(2)]() -> coir::task<counted> {
      co_await coir::yield();
      co_return counted(held.value);
    });
    auto task = coir::spawn(late(counted(3)), coir::spawn_options().name(std::string(100, 'n')));
    const int sum = (co_await function.join()).value + (co_await coroutine.join()).value +
                    (co_await task.join()).value;
    CHECK(sum == 6);
    const counted mine = co_await task.take();
    CHECK(mine.value == 3);
    co_await coir::end_op(function);
    const auto result = co_await coir::as_result(function.join());
    CHECK(result->value == 1);
  });
}

TEST_CASE("a spawn whose argument is awaited") {
  balanced([]() -> coir::task<> {
    auto child = coir::spawn(late(co_await late(counted(4))));
    const int got = (co_await child.join()).value;
    CHECK(got == 4);
    const counted awaited = co_await late(counted(5));
    auto other = coir::spawn([held = awaited] { return held.value; });
    const int also = co_await other.join();
    CHECK(also == 5);
  });
}

TEST_CASE("sockets: addresses, options and streams as temporaries of the awaited expression") {
  const std::size_t before = support::open_descriptors();
  balanced([]() -> coir::task<> {
    coir::net::tcp_listener listener(coir::net::address("127.0.0.1", 0));
    const std::uint16_t port = listener.local_address().port();
    coir::net::tcp_stream near = co_await coir::net::tcp_stream::connect(
        coir::net::address(std::string("127.0.0.1"), port),
        coir::net::tcp_options().no_delay(true).linger(std::chrono::seconds(0)));
    const auto far = co_await coir::as_result(listener.accept());
    CHECK(far.has_value());
    co_await coir::io::write_all(near, std::as_bytes(std::span(std::vector<char>(1000, 'x').data(), 1000)));
    // Streams that nobody keeps.
    co_await coir::net::tcp_stream::connect(listener.local_address());
    (co_await listener.accept()).shutdown(coir::net::direction::both);
    co_await std::move(near).close();
  });
  CHECK(support::open_descriptors() == before);
}
