#include <coir/base/error.hpp>
#include <coir/base/expected.hpp>

#include "support/catch.hpp"

#include <cerrno>
#include <stdexcept>
#include <string>

using Catch::Matchers::Equals;

TEST_CASE("an errno becomes a code that compares with std::errc and prints as the system says") {
  const std::error_code code = coir::error_of(ECONNREFUSED);
  CHECK(code == std::errc::connection_refused);
  CHECK(code.value() == ECONNREFUSED);
  CHECK(code.message() == "Connection refused");
  CHECK_FALSE(coir::error_of(0));
}

TEST_CASE("a refusal by the world is a std::system_error that says what, and with which code") {
  try {
    coir::throw_error(EADDRINUSE, "bind 127.0.0.1:80");
    FAIL("nothing was thrown");
  } catch (const std::system_error& error) {
    CHECK(error.code() == std::errc::address_in_use);
    CHECK_THAT(error.what(), Equals("bind 127.0.0.1:80: Address already in use"));
  }
}

TEST_CASE("a mistake of the caller is a std::logic_error with its text") {
  try {
    coir::throw_misuse("a loop was run from inside itself");
    FAIL("nothing was thrown");
  } catch (const std::logic_error& error) {
    CHECK_THAT(error.what(), Equals("a loop was run from inside itself"));
  }
}

TEST_CASE("cancelled passes through handlers of std::exception, and says how many bytes had moved") {
  bool swallowed = false;
  try {
    try {
      throw coir::cancelled(17);
    } catch (const std::exception&) {
      swallowed = true;
    }
    FAIL("it did not arrive");
  } catch (const coir::cancelled& stopped) {
    CHECK(stopped.transferred() == 17);
  }
  CHECK_FALSE(swallowed);
  CHECK(coir::cancelled().transferred() == 0);
}

TEST_CASE("a result holds a value or a code") {
  coir::result<int> good = 7;
  REQUIRE(good);
  CHECK(*good == 7);
  coir::result<int> bad = coir::unexpected<std::error_code>(coir::error_of(EPIPE));
  REQUIRE_FALSE(bad);
  CHECK(bad.error() == std::errc::broken_pipe);
}
