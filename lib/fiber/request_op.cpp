#include <coir/fiber/request_op.hpp>

#include <coir/base/error.hpp>

#include <fmt/format.h>

namespace coir {

std::error_code request_op_base::code() const noexcept {
  // Cancelled, but not by us: the descriptor was closed under it.
  return error_of(outcome() == -ECANCELED ? EBADF : -outcome());
}

void request_op_base::begin_again() {
  // The number may be another's by now.
  if (what_.closed_under()) {
    std::string text = name_of(what_.kind);
    describe(text);
    throw_misuse(text + ", which was closed while the same request waited");
  }
  aborted_ = false;
}

void request_op_base::throw_outcome() const {
  if (was_withdrawn()) throw cancelled();
  std::string text = name_of(what_.kind);
  describe(text);
  if (outcome() == -ECANCELED) text += ", which was closed meanwhile";
  throw std::system_error(code(), text);
}

void request_op_base::describe(std::string& text) const {
  if (what_.kind == request_kind::open) {
    text += fmt::format(" of \"{}\"", static_cast<const char*>(what_.address));
  } else {
    text += fmt::format(" on descriptor {}", what_.fd);
  }
}

}  // namespace coir
