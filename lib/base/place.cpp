#include <coir/base/place.hpp>

namespace coir {

namespace {

// What the compilers' builtin lays down for std::source_location (GCC and Clang agree).
struct laid_down {
  const char* file_name;
  const char* function_name;
  unsigned line;
  unsigned column;
};

const laid_down* pointed_to(std::uint64_t word) noexcept {
  return reinterpret_cast<const laid_down*>(word);
}

}  // namespace

const char* place::file_name() const noexcept {
  const std::uint64_t word = packed();
  if (word == 0) return "";
  if (word >> line_shift == 0) return pointed_to(word)->file_name;
  return reinterpret_cast<const char*>(word & ((std::uint64_t{1} << line_shift) - 1));
}

unsigned place::line() const noexcept {
  const std::uint64_t word = packed();
  if (word == 0) return 0;
  if (word >> line_shift == 0) return pointed_to(word)->line;
  return static_cast<unsigned>(word >> line_shift);
}

const char* place::function_name() const noexcept {
  const std::uint64_t word = packed();
  return word == 0 || word >> line_shift != 0 ? "" : pointed_to(word)->function_name;
}

}  // namespace coir
