#include <coir/sync/closed.hpp>

#include <coir/base/error.hpp>

#include <cerrno>

namespace coir {

closed::closed(const char* where) : std::system_error(error_of(EPIPE), where) {}

void priv::throw_closed(const char* where) { throw closed(where); }

}  // namespace coir
