#include <coir/testing/dice.hpp>

#include "support/catch.hpp"

#include <set>
#include <vector>

using coir::testing::dice;

TEST_CASE("the draws of a seed are the same everywhere, for ever") {
  dice first(0);
  CHECK(first.next() == 0xe220'a839'7b1d'cdaf);  // the published sequence
  CHECK(first.next() == 0x6e78'9e6a'a1b9'65f4);
  dice other(1);
  CHECK(other.next() != dice(0).next());
}

TEST_CASE("a number below a limit is, and each of them comes") {
  dice draws(7);
  std::set<std::uint64_t> seen;
  for (int i = 0; i < 1000; ++i) seen.insert(draws.below(10));
  CHECK(seen.size() == 10);
  CHECK(*seen.rbegin() == 9);
  CHECK(draws.below(0) == 0);
}

TEST_CASE("a chance comes about as often as it says; none is drawn for one that never comes") {
  dice draws(7);
  int came = 0;
  for (int i = 0; i < 10'000; ++i) came += draws.chance(0.25) ? 1 : 0;
  CHECK(came > 2300);
  CHECK(came < 2700);
  dice a(3);
  dice b(3);
  CHECK_FALSE(a.chance(0));
  CHECK(a.next() == b.next());
  CHECK(a.chance(1));
}
