#include <coir/base/place.hpp>

#include "support/catch.hpp"

#include <cstring>
#include <string_view>

namespace {

coir::place called_at(coir::place at = coir::here::current()) { return at; }

// A default argument that goes through two functions still is the outermost caller's.
coir::place forwarded(coir::place at = coir::here::current()) { return called_at(at); }

std::string_view base_name(const char* path) {
  const char* const slash = std::strrchr(path, '/');
  return slash == nullptr ? path : slash + 1;
}

}  // namespace

TEST_CASE("a default argument records the line of the call") {
  const coir::place at = called_at();
  CHECK(at.line() == __LINE__ - 1);
  CHECK(base_name(at.file_name()) == "place_test.cpp");
  CHECK(forwarded().line() == __LINE__);
}

TEST_CASE("two calls on two lines are two places") {
  const coir::place one = called_at();
  const coir::place two = called_at();
  CHECK(two.line() == one.line() + 1);
  CHECK(one.packed() != two.packed());
}

TEST_CASE("a place survives being packed in a word") {
  STATIC_REQUIRE(sizeof(coir::place) == 8);
  const coir::place at = called_at();
  const coir::place back = coir::place::unpacked(at.packed());
  CHECK(back.line() == at.line());
  CHECK(std::string_view(back.file_name()) == at.file_name());
  CHECK(std::string_view(back.function_name()) == at.function_name());
}

TEST_CASE("no place has line 0, an empty file name, and the word 0") {
  const coir::place none;
  CHECK(none.line() == 0);
  CHECK(std::string_view(none.file_name()).empty());
  CHECK(std::string_view(none.function_name()).empty());
  CHECK(none.packed() == 0);
}

TEST_CASE("what another compiler packed is read back: a name with a line above it") {
  const char* const file = "/somewhere/else.cpp";
  const std::uint64_t word = reinterpret_cast<std::uintptr_t>(file) | std::uint64_t{321} << 48;
  const coir::place at = coir::place::unpacked(word);
  CHECK(at.line() == 321);
  CHECK(std::string_view(at.file_name()) == file);
  CHECK(std::string_view(at.function_name()).empty());
}

TEST_CASE("what another compiler packed is read back: an address of what the builtin lays down") {
  // As gcc and clang 15 on do for std::source_location.
  static const struct {
    const char* file_name = "/elsewhere/again.cpp";
    const char* function_name = "void f()";
    unsigned line = 70000;
    unsigned column = 3;
  } laid_down;
  const coir::place at = coir::place::unpacked(reinterpret_cast<std::uintptr_t>(&laid_down));
  CHECK(at.line() == 70000);
  CHECK(std::string_view(at.file_name()) == laid_down.file_name);
  CHECK(std::string_view(at.function_name()) == laid_down.function_name);
}
