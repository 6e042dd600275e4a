#include <coir/base/assert.hpp>

#include <cstdio>
#include <cstdlib>

namespace coir::priv {

void assertion_failed(const char* expression, const char* text, const char* file,
                      unsigned line) noexcept {
  std::fprintf(stderr, "coir: %s\n  at %s:%u: %s\n", text, file, line, expression);
  std::abort();
}

}  // namespace coir::priv
