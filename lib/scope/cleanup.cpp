#include <coir/scope/cleanup.hpp>

#include <coir/base/error.hpp>

#include <fmt/format.h>

#include <typeinfo>

namespace coir::priv {

namespace {

bool is_cancellation(const std::exception_ptr& what) noexcept {
  return what != nullptr && *what.__cxa_exception_type() == typeid(cancelled);
}

}  // namespace

void two_endings::settle(bool in_time) {
  if (cleanup_ == nullptr && !in_time) {
    cleanup_ = std::make_exception_ptr(
        timed_out(fmt::format("the cleanup at {}:{} did not end in time", at_.file_name(), at_.line())));
  }
  if (body_ != nullptr && !is_cancellation(body_)) {
    if (cleanup_ != nullptr && !is_cancellation(cleanup_)) keep_failure(cleanup_);
    forgive_cancellation(cleanup_);
    std::rethrow_exception(body_);
  }
  if (cleanup_ != nullptr && !is_cancellation(cleanup_)) {
    forgive_cancellation(body_);
    std::rethrow_exception(cleanup_);
  }
  if (body_ != nullptr) std::rethrow_exception(body_);
  if (cleanup_ != nullptr) std::rethrow_exception(cleanup_);
}

}  // namespace coir::priv
