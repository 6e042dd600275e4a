#include <coir/base/fd.hpp>

#include "support/catch.hpp"
#include "support/descriptors.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <type_traits>
#include <utility>

namespace {

int fresh() { return ::open("/dev/null", O_RDONLY | O_CLOEXEC); }
bool is_open(int fd) { return ::fcntl(fd, F_GETFD) >= 0; }

}  // namespace

TEST_CASE("a descriptor is closed by its owner, once") {
  const std::size_t before = support::open_descriptors();
  int number = -1;
  {
    const coir::unique_fd owner(fresh());
    number = owner.get();
    CHECK(owner);
    CHECK(is_open(number));
  }
  CHECK_FALSE(is_open(number));
  CHECK(support::open_descriptors() == before);
}

TEST_CASE("an owner moves and does not copy, and what it moved from owns nothing") {
  STATIC_REQUIRE_FALSE(std::is_copy_constructible_v<coir::unique_fd>);
  const std::size_t before = support::open_descriptors();
  {
    coir::unique_fd one(fresh());
    const int number = one.get();
    coir::unique_fd two(std::move(one));
    CHECK(two.get() == number);
    CHECK_FALSE(one);  // NOLINT: looking at what is left is the point
    coir::unique_fd three(fresh());
    const int old = three.get();
    three = std::move(two);
    CHECK_FALSE(is_open(old));
    CHECK(three.get() == number);
    coir::unique_fd& same = three;
    three = std::move(same);
    CHECK(three.get() == number);
    CHECK(is_open(number));
  }
  CHECK(support::open_descriptors() == before);
}

TEST_CASE("a released descriptor stays open, and a reset one is closed") {
  coir::unique_fd owner(fresh());
  const int number = owner.release();
  CHECK_FALSE(owner);
  CHECK(is_open(number));
  owner.reset(number);
  owner.reset();
  CHECK_FALSE(is_open(number));
  owner.reset();
  CHECK(owner.get() == -1);
}
