#include <coir/fiber/fiber_base.hpp>

#include <coir/fiber/fiber.hpp>
#include <coir/fiber/scheduler.hpp>
#include <coir/fiber/task.hpp>

#include <cxxabi.h>
#include <fmt/format.h>

#include <typeinfo>

namespace coir {

constinit thread_local fiber_base* current_fiber COIR_TLS = nullptr;

void throw_no_fiber() {
  throw_misuse(
      "this waits or spawns and was called outside of any fiber: call it from one that coir::run or "
      "scheduler::spawn started");
}

const char* name_of(fiber_state state) noexcept {
  switch (state) {
    case fiber_state::fresh: return "fresh";
    case fiber_state::running: return "running";
    case fiber_state::waiting: return "waiting";
    case fiber_state::ready: return "ready";
    case fiber_state::ending: return "ending";
    case fiber_state::dead: return "dead";
  }
  return "";
}

// --- fiber_base ---

fiber_base::cold& fiber_base::make_cold() {
  if (cold* const mine = cold_part(); mine != nullptr) return *mine;
  auto made = std::make_unique<cold>();
  if (more_ != 0) made->innermost = &innermost_region();
  more_ = reinterpret_cast<std::uintptr_t>(made.get());
  return *made.release();
}

std::string_view fiber_base::name() const noexcept {
  const cold* const mine = cold_part();
  return mine == nullptr ? std::string_view() : std::string_view(mine->name);
}

fiber_base* fiber_base::parent() const noexcept {
  return region::parent_ == nullptr ? nullptr : region::parent_->fiber();
}

fiber_base* fiber_base::next_sibling() const noexcept { return younger_; }

// A function on a stack may have coroutines around it, which lent it the stack or called it there, and in
// it, which it awaits.
bool fiber_base::waits_on_stack() const noexcept {
  return stack_ != nullptr && (coroutine_ == stack_->borrower() || !suspended_);
}

place fiber_base::waits_at() const noexcept {
  if (waits_on_stack()) return stack_->waits_at();
  return coroutine_ != nullptr ? coroutine_->waits_at() : spawned_at_;
}

void fiber_base::add_failure(std::exception_ptr why) noexcept {
  try {
    cold& mine = make_cold();
    if (mine.failure == nullptr) {
      mine.failure = std::move(why);
    } else {
      mine.failures.push_back(std::move(why));
    }
  } catch (const std::bad_alloc&) {
    // It has failed all the same, which failure() says; of several failures this one is not kept. Its outcome comes
    // later: the body may still run.
    control_ |= failure_lost;
  }
}

void fiber_base::keep_failures(const std::vector<std::exception_ptr>& others) noexcept {
  if (others.empty()) return;
  try {
    std::vector<std::exception_ptr>& mine = make_cold().failures;
    mine.insert(mine.end(), others.begin(), others.end());
  } catch (const std::bad_alloc&) {
    // They stay with the region, as long as it lives.
  }
}

std::exception_ptr fiber_base::failure() const noexcept {
  if (const cold* const mine = cold_part(); mine != nullptr && mine->failure != nullptr) {
    return mine->failure;
  }
  return std::make_exception_ptr(std::bad_alloc());
}

void fiber_base::body_failed(std::exception_ptr why) noexcept {
  if (*why.__cxa_exception_type() == typeid(coir::cancelled)) {
    outcome_ = fiber_outcome::cancelled;
    return;
  }
  outcome_ = fiber_outcome::failed;
  add_failure(std::move(why));
}

// --- handles ---

std::vector<std::exception_ptr> handle_base::other_failures() const {
  const fiber_base::cold* const cold = block().cold_part();
  return cold == nullptr ? std::vector<std::exception_ptr>() : cold->failures;
}

void join_base::refuse_self() { throw_misuse("a fiber cannot join itself"); }

abort_answer join_base::abort() noexcept {
  fiber_base& whom = *get();
  // The end has come, and this joiner has been told of it.
  if (previous_ == nullptr) return abort_answer::later;
  if (whom.joiners_ == this) {
    whom.joiners_ = next_;
    if (next_ != nullptr) next_->previous_ = previous_;
  } else {
    previous_->next_ = next_;
    (next_ != nullptr ? next_ : whom.joiners_)->previous_ = previous_;
  }
  next_ = previous_ = nullptr;
  return abort_answer::now;
}

void join_base::describe(std::string& text) const {
  text += fmt::format(" of fiber {}{}{}", get()->id(), get()->name().empty() ? "" : " ",
                      get()->name());
}

void join_base::throw_no_result() const {
  const fiber_base& whom = *get();
  switch (whom.outcome()) {
    case fiber_outcome::failed: std::rethrow_exception(whom.failure());
    case fiber_outcome::cancelled:
      throw_error(ECANCELED, fmt::format("joining fiber {}{}{}, which was cancelled", whom.id(),
                                         whom.name().empty() ? "" : " ", whom.name()));
    case fiber_outcome::none: throw_misuse("the result of a fiber was wanted that has not ended: it was moved away");
    case fiber_outcome::returned: break;
  }
  throw_misuse("the result of a fiber was taken before");
}

}  // namespace coir
