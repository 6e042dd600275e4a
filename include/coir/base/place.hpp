// coir/base/place.hpp: a line of source code, recorded where a call stands.
//
//   void wait(int what, coir::place at = coir::here::current());   // `at` is the caller's line
//
// Shape    8 bytes, also between a library and a program of different compilers: the address of what
//          std::source_location points to or, on clang 14, which has only the builtins, the file's name
//          and the line in one word. function_name() is empty then.
// Thread   any.
// Errors   none.
// Cost     a constant with std::source_location; two instructions on clang 14.
// See      coir/fiber/op.hpp, where every await records its place
#pragma once

#include <coir/base/config.hpp>

#include <bit>
#include <cstdint>

#if defined(__cpp_lib_source_location)
#include <source_location>
#endif

namespace coir {

#if !defined(__cpp_lib_source_location)
// What std::source_location is elsewhere: what a default argument makes, and a place is made of.
class here {
 public:
  static here current(const char* file = __builtin_FILE(),
                      unsigned line = __builtin_LINE()) noexcept {
    return here(reinterpret_cast<std::uintptr_t>(file) |
                (line < line_max ? line : line_max) << line_shift);
  }

 private:
  friend class place;
  // Addresses fit in 48 bits on the machines coir knows.
  static constexpr unsigned line_shift = 48;
  static constexpr std::uint64_t line_max = 0xffff;
  explicit here(std::uint64_t where) noexcept : where_(where) {}

  std::uint64_t where_;
};
#endif

class place {
 public:
  constexpr place() noexcept = default;

  const char* file_name() const noexcept;
  unsigned line() const noexcept;
  const char* function_name() const noexcept;

  // For records, and back.
  std::uint64_t packed() const noexcept { return std::bit_cast<std::uint64_t>(where_); }
  static place unpacked(std::uint64_t word) noexcept {
    place at;
    at.where_ = std::bit_cast<decltype(where_)>(word);
    return at;
  }

 private:
  // What the compiler keeps of a place is an address; a file's name with a line above it is no address.
  static constexpr unsigned line_shift = 48;

#if defined(__cpp_lib_source_location)
 public:
  // NOLINTNEXTLINE: std::source_location::current() must be the default argument itself.
  constexpr place(std::source_location where) noexcept : where_(where) {}

 private:
  static_assert(sizeof(std::source_location) == sizeof(std::uint64_t));
  std::source_location where_;
#else
 public:
  // NOLINTNEXTLINE: here::current() must be the default argument itself.
  place(here where) noexcept : where_(where.where_) {}

 private:
  std::uint64_t where_ = 0;
#endif
};

// here::current() as a default argument is the place of the call.
#if defined(__cpp_lib_source_location)
using here = std::source_location;
#endif

}  // namespace coir
