// coir/base/place.hpp: a line of source code, recorded where a call stands.
//
//   void wait(int what, coir::place at = coir::place::current());   // `at` is the caller's line
//
// Shape    8 bytes: std::source_location where the compiler has it; on clang 14, which has only the
//          builtins, the file's name and the line in one word, and function_name() is empty.
// Thread   any.
// Errors   none.
// Cost     a constant with std::source_location; two instructions on clang 14.
// See      coir/fiber/op.hpp, where every await records its place
#pragma once

#include <coir/base/config.hpp>

#include <cstdint>

#if defined(__cpp_lib_source_location)
#include <source_location>
#endif

namespace coir {

#if defined(__cpp_lib_source_location)
using place = std::source_location;
#else
class place {
 public:
  constexpr place() noexcept = default;

  // Addresses of string literals fit in 48 bits on the machines clang 14 compiles for here, and a line
  // beyond 65535 is shown as 65535: one word in every await is worth that.
  static place current(const char* file = __builtin_FILE(),
                       unsigned line = __builtin_LINE()) noexcept {
    place here;
    here.packed_ = reinterpret_cast<std::uintptr_t>(file) |
                   static_cast<std::uint64_t>(line < 0xffff ? line : 0xffff) << 48;
    return here;
  }
  const char* file_name() const noexcept {
    if (packed_ == 0) return "";
    return reinterpret_cast<const char*>(packed_ & 0xffff'ffff'ffff);
  }
  unsigned line() const noexcept { return static_cast<unsigned>(packed_ >> 48); }
  const char* function_name() const noexcept { return ""; }

 private:
  std::uint64_t packed_ = 0;
};
#endif

static_assert(sizeof(place) == 8);

}  // namespace coir
