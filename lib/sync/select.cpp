#include <coir/sync/select.hpp>

#include <utility>

namespace coir::priv {

void select_failures::caught(bool by_winner) noexcept {
  try {
    throw;
  } catch (const cancelled& why) {
    // That it was stopped is what was wanted.
    transferred_ += why.transferred();
    if (!by_winner) return;
  } catch (...) {
  }
  std::exception_ptr caught = std::current_exception();
  if (by_winner) std::swap(thrown_, caught);
  if (thrown_ == nullptr) {
    thrown_ = std::move(caught);
  } else if (caught != nullptr) {
    keep_failure(std::move(caught));
  }
}

void select_failures::keep() noexcept {
  if (thrown_ == nullptr) return;
  try {
    std::rethrow_exception(thrown_);
  } catch (const cancelled&) {
    // It comes back at the next suspend point.
  } catch (...) {
    keep_failure(std::current_exception());
  }
}

void select_failures::rethrow() const {
  if (thrown_ != nullptr) std::rethrow_exception(thrown_);
  throw cancelled(transferred_);
}

}  // namespace coir::priv
