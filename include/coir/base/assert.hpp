// coir/base/assert.hpp: the assertion for our own invariants.
//
//   COIR_ASSERT(count > 0, "a count went below zero");
//
// A user's mistake is not an assertion but std::logic_error with a clear text (base/error.hpp).
//
// Shape    a macro, so that the failing expression and its line can be shown.
// Thread   any.
// Errors   prints what, where and the expression on standard error, then aborts.
// Cost     a test and a predicted branch; nothing at all under NDEBUG.
#pragma once

namespace coir::priv {
[[noreturn]] void assertion_failed(const char* expression, const char* text, const char* file,
                                   unsigned line) noexcept;
}

#if defined(NDEBUG)
#define COIR_ASSERT(condition, text) static_cast<void>(0)
#else
#define COIR_ASSERT(condition, text)                                                            \
  ((condition) ? static_cast<void>(0)                                                           \
               : ::coir::priv::assertion_failed(#condition, text, __FILE__, __LINE__))
#endif
