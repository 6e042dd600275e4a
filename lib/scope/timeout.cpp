#include <coir/scope/timeout.hpp>

#include <fmt/format.h>

namespace coir {

timed_out::timed_out(const std::string& what)
    : std::system_error(std::make_error_code(std::errc::timed_out), what) {}

void priv::or_timed_out::refuse() const {
  throw timed_out(fmt::format("the limit in time at {}:{} was over", at_.file_name(), at_.line()));
}

}  // namespace coir
