// Both bodies and both spellings of waiting, for tests that must hold for each.
//
//   on_both_surfaces([](auto wait) { ... wait(op) ... });
//
// runs the function once inside a fiber on a stack, where wait(op) is coir::await(op), and once where
// wait(op) goes through a coroutine's co_await.
#pragma once

#include <coir/coir.hpp>

#include <type_traits>
#include <utility>

namespace support {

struct on_stack {
  template <class Op>
  decltype(auto) operator()(Op&& what) const {
    return coir::await(std::forward<Op>(what));
  }
};

// `co_await what`, and the result out of the coroutine. The function stands on a stack, so that one test
// text serves both; the op itself is awaited by a coroutine and by nothing else.
struct in_coroutine {
  template <class Op>
  static auto wait(Op what) -> coir::task<std::remove_cvref_t<coir::result_of<Op>>> {
    co_return co_await what;
  }
  template <class Op>
  auto operator()(Op&& what) const {
    return coir::await(wait(std::forward<Op>(what)));
  }
};

// Either, in one type: what a test says is compiled once, and not for each.
class on_surface {
 public:
  explicit on_surface(bool in_a_coroutine) : in_a_coroutine_(in_a_coroutine) {}
  template <class Op>
  std::remove_cvref_t<coir::result_of<Op>> operator()(Op&& what) const {
    if (in_a_coroutine_) return in_coroutine()(std::forward<Op>(what));
    return on_stack()(std::forward<Op>(what));
  }

 private:
  bool in_a_coroutine_;
};

// wait(again(op)): the op itself, which wait(op) may move away.
template <class Op>
class [[nodiscard]] again {
 public:
  static constexpr const char* name = Op::name;
  explicit again(Op& which) : which_(&which) {}
  bool start(coir::waiter& told) { return which_->start(told); }
  coir::abort_answer abort() noexcept { return which_->abort(); }
  auto take() { return which_->take(); }

 private:
  Op* which_;
};

template <class Body>
void on_both_surfaces(Body&& body, const coir::run_options& options = {}) {
  for (const bool in_a_coroutine : {false, true}) {
    coir::run([&] { body(on_surface(in_a_coroutine)); }, options);
  }
}

}  // namespace support
