#include <coir/base/error.hpp>

#include <cstdio>

#include <stdexcept>

namespace coir {

void priv::tell(std::string_view text) noexcept {
  static_cast<void>(std::fwrite(text.data(), 1, text.size(), stderr));
}

std::string priv::text_of(const std::exception_ptr& failure) {
  try {
    std::rethrow_exception(failure);
  } catch (const std::exception& error) {
    return error.what();
  } catch (...) {
    return "an exception that is not a std::exception";
  }
}

std::error_code error_of(int errno_value) noexcept {
  // The generic category, so that a code compares equal to std::errc whatever the platform says.
  return {errno_value, std::generic_category()};
}

void throw_error(int errno_value, const std::string& what) {
  throw std::system_error(error_of(errno_value), what);
}

void throw_misuse(const std::string& what) { throw std::logic_error(what); }

}  // namespace coir
