// coir/base/error.hpp: how things go wrong: what a fiber catches, and how errno becomes it.
//
//   try { co_await peer.read_some(buffer); }
//   catch (const std::system_error& error) { ... }   // what, where, which value: error.what()
//
// Shape    three families. std::system_error: the world refused (a system call, a peer, a limit).
//          std::logic_error: the caller is wrong. cancelled: the region was cancelled; it is not a
//          std::exception, so that `catch (const std::exception&)` cannot swallow it.
// Thread   any.
// Errors   these are they.
// Cost     an exception: 1 to 2 microseconds plus its text. as_result(op) has the first without a throw.
// See      coir/base/expected.hpp; coir/fiber/op.hpp
#pragma once

#include <cstddef>
#include <exception>
#include <string>
#include <string_view>
#include <system_error>

namespace coir {

namespace priv {
// A line for whoever runs the program. That nobody reads standard error is no error of ours.
void tell(std::string_view text) noexcept;
// What such a line says of an exception.
std::string text_of(const std::exception_ptr& failure);
}  // namespace priv

// Thrown at a suspend point of a fiber whose region is cancelled, and again at the next one if it is
// swallowed. Let it pass: catch it only to rethrow.
class cancelled {
 public:
  cancelled() noexcept = default;
  explicit cancelled(std::size_t transferred) noexcept : transferred_(transferred) {}

  // Bytes that an operation made of several steps (write_all, read_exactly) had moved before.
  std::size_t transferred() const noexcept { return transferred_; }

  // The region that was cancelled, by its address: how a scope knows its own cancellation from others. Null
  // for one that nobody but a `throw` made.
  const void* origin() const noexcept { return origin_; }
  cancelled& because_of(const void* region) noexcept { return origin_ = region, *this; }

 private:
  std::size_t transferred_ = 0;
  const void* origin_ = nullptr;
};

// An errno value as an error code; the one place where errno becomes an error.
std::error_code error_of(int errno_value) noexcept;

// Throws std::system_error for `errno_value`; `what` names the operation and the values it had.
[[noreturn]] void throw_error(int errno_value, const std::string& what);

// Throws std::logic_error.
[[noreturn]] void throw_misuse(const std::string& what);

}  // namespace coir
