#include <coir/scope/inside.hpp>

#include <coir/fiber/scheduler.hpp>

#include <new>
#include <utility>

namespace coir {

void inside::refuse() {
  throw_misuse("a region was entered a second time: it is for one piece of code, once");
}

void inside::caught() noexcept {
  try {
    throw;
  } catch (const cancelled& why) {
    // Its own cancellation has come to where it was meant to.
    if (!where_.is_own(why.origin())) foreign_ = std::current_exception();
  } catch (...) {
    where_.fail(std::current_exception());
  }
}

void inside::begin_waiting(rest what) noexcept {
  if (what == rest::is_cancelled || foreign_ != nullptr) where_.cancel_rest();
  rest_ = what;
  waited_ = true;
}

void inside::leave_and_throw() {
  // What interrupted the wait for the children belongs to it, and would else come up where nobody expects it.
  if (waited_) {
    if (std::exception_ptr given = where_.fiber()->take_interrupt(); given != nullptr) {
      where_.fail(std::move(given));
    }
  }
  fiber_base& self = *where_.fiber();
  self.keep_failures(where_.other_failures());
  const bool incomplete = waited_ && rest_ == rest::is_awaited && where_.lost_child();
  where_.leave();
  if (where_.failure() != nullptr) {
    priv::forgive_cancellation(foreign_);
    std::rethrow_exception(where_.failure());
  }
  if (foreign_ != nullptr) std::rethrow_exception(foreign_);
  // Children that were to come to their end have not: it would be a lie to go on as if they had.
  if (incomplete) self.check_interrupted();
}

void priv::keep_failure(std::exception_ptr why) noexcept {
  try {
    running_fiber().keep_failures({std::move(why)});
  } catch (const std::bad_alloc&) {
    // Then it is not.
  }
}

void priv::forgive_cancellation(const std::exception_ptr& unheard) noexcept {
  if (unheard == nullptr) return;
  try {
    std::rethrow_exception(unheard);
  } catch (const cancelled& why) {
    running_fiber().forgive(why);
  } catch (...) {
  }
}

}  // namespace coir
