// What the shapes are made of: objects, ops and tasks whose destructions are counted.
//
//   const auto body = []() -> coir::task<> { ... co_await echo(counted(1)) ... };
//   balanced(body);     // in both bodies; all that was made was destroyed, once
//
// Here is what must work. What gcc 12 gets wrong, and what to write instead, is in README.md ("Coroutines on
// gcc 12"); the last column of that table stands here.
//
// counted aborts when it is destroyed a second time. No Catch macro stands around a co_await: what it
// makes of its argument is a shape of its own.
#pragma once

#include "fiber/counted.hpp"
#include "fiber/in_both.hpp"

#include "support/catch.hpp"

#include <coir/coir.hpp>

#include <stdexcept>
#include <utility>

namespace shapes {

using support::counted;

template <class Make>
void balanced(Make&& make) {
  support::in_both(make);
  CHECK(counted::alive == 0);
}

inline coir::task<counted> echo(counted value) { co_return value; }
inline coir::task<int> number_of(counted value) { co_return value.value; }
// After others have run: the awaiting expression really stops half-way.
inline coir::task<counted> late(counted value) {
  co_await coir::yield();
  co_return value;
}
inline coir::task<int> late_number(int value) {
  co_await coir::yield();
  co_return value;
}
inline coir::task<counted> throws_late(counted) {
  co_await coir::yield();
  throw std::runtime_error("late");
}
inline coir::task<> for_ever(counted) { co_await coir::sleep_until(coir::never); }

inline int sum(counted one, counted other) { return one.value + other.value; }
inline int sum_of(const counted& one, const counted& other) { return one.value + other.value; }

// An op with a destructor, and a result with one.
class [[nodiscard]] noisy_op {
 public:
  static constexpr const char* name = "noisy";
  noisy_op(int value, bool waits) noexcept : held_(value), waits_(waits) {}
  bool start(coir::waiter& told) noexcept {
    if (waits_) told.done();
    return waits_;
  }
  coir::abort_answer abort() noexcept { return coir::abort_answer::later; }
  counted take() { return held_; }

 private:
  counted held_;
  bool waits_;
};
inline noisy_op noisy(int value) { return {value, true}; }
inline noisy_op noisy_at_once(int value) { return {value, false}; }

// What takes its parts by a constructor, and is no aggregate.
class pair_of {
 public:
  pair_of(counted one, counted other) noexcept : one_(std::move(one)), other_(std::move(other)) {}
  int sum() const noexcept { return one_.value + other_.value; }

 private:
  counted one_;
  counted other_;
};

}  // namespace shapes
