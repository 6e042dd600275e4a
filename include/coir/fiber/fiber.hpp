// coir/fiber/fiber.hpp: the handle of a fiber.
//
//   coir::fiber<int> child = coir::spawn(work());
//   const int& seen = co_await child.join();   // for as many as ask
//   int mine = co_await child.take();          // moves it out, once
//   child.cancel();                                            [tests/fiber/fiber_test.cpp]
//
// Shape    one pointer; copies. It owns nothing: dropping it changes nothing.
// Order    joiners are woken in the order in which they came.
// Thread   one loop.
// Cancel   cancel() marks the fiber and all it spawned; each gets `cancelled` at its suspend point. It is
//          level-triggered: a fiber that swallows it gets it again. join() and take() abort at once.
// Errors   joining a fiber that failed throws what it threw, and then counts as handled; one that was
//          cancelled, std::system_error with std::errc::operation_canceled. std::logic_error: joining
//          oneself, taking twice, using an empty handle.
// Cost     join: about 15 ns when the fiber is dead already. A handle keeps the result and the control block
//          (about 150 bytes), not the body.
// See      coir/fiber/scheduler.hpp
#pragma once

#include <coir/base/error.hpp>
#include <coir/fiber/fiber_base.hpp>
#include <coir/fiber/fiber_home.hpp>
#include <coir/fiber/op.hpp>

#include <cstddef>
#include <cstdint>
#include <exception>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

namespace coir {

// A control block with room for the result.
template <class T>
class fiber_block : public fiber_base {
 public:
  using stored = std::conditional_t<std::is_reference_v<T>, std::remove_reference_t<T>*, T>;

  const stored& value() const noexcept { return value_; }
  stored& value() noexcept { return value_; }

 protected:
  // Not an inherited constructor: that one would be deleted for a result without a trivial one.
  fiber_block(const fiber_kind& kind, fiber_home& home, coir::region& where, place at) noexcept
      : fiber_base(kind, home, where, at) {}
  ~fiber_block() {}
  static void destroy_value(fiber_base& self) noexcept {
    auto& mine = static_cast<fiber_block&>(self);
    if (mine.has_value()) mine.value_.~stored();
  }
  static constexpr auto destroyer =
      std::is_trivially_destructible_v<stored> ? nullptr : &destroy_value;
  template <class... From>
  void emplace(From&&... from) {
    ::new (static_cast<void*>(std::addressof(value_))) stored(std::forward<From>(from)...);
    set_returned();
  }

 private:
  union {
    stored value_;
  };
};

template <>
class fiber_block<void> : public fiber_base {
 protected:
  using fiber_base::fiber_base;
  ~fiber_block() = default;
  static constexpr std::nullptr_t destroyer = nullptr;
  void emplace() noexcept { set_returned(); }
};

// What handles of all types do.
class handle_base {
 public:
  handle_base() noexcept = default;
  handle_base(const handle_base& other) noexcept : handle_base(other.block_) {}
  handle_base(handle_base&& other) noexcept : block_(std::exchange(other.block_, nullptr)) {}
  handle_base& operator=(handle_base other) noexcept {
    std::swap(block_, other.block_);
    return *this;
  }
  ~handle_base() {
    if (block_ != nullptr) block_->release();
  }

  explicit operator bool() const noexcept { return block_ != nullptr; }
  friend bool operator==(const handle_base&, const handle_base&) noexcept = default;

  std::uint64_t id() const { return block().id(); }
  std::string_view name() const { return block().name(); }
  fiber_state state() const { return block().state(); }
  fiber_outcome outcome() const { return block().outcome(); }
  place spawned_at() const { return block().spawned_at(); }
  void cancel() const { block().cancel(); }
  // Failures of the body and of children that came after the one that join() throws.
  std::vector<std::exception_ptr> other_failures() const;
  // The control block: what a debugger wants to know, and no user needs.
  const fiber_base& control() const { return block(); }

 protected:
  struct adopted {
    fiber_base* block;
  };
  explicit handle_base(adopted block) noexcept : block_(block.block) {}
  explicit handle_base(fiber_base* block) noexcept : block_(block) {
    if (block_ != nullptr) block_->hold();
  }
  fiber_base& block() const {
    if (block_ == nullptr) throw_misuse("an empty fiber handle was used");
    return *block_;
  }
  fiber_base* get() const noexcept { return block_; }

 private:
  fiber_base* block_ = nullptr;
};

// Waiting for the end of a fiber.
class join_base : public handle_base {
 public:
  join_base(join_base&& other) noexcept
      : handle_base(std::move(other)), next_(nullptr), previous_(nullptr) {}

  bool start(waiter& told) {
    fiber_base& whom = *get();
    if (whom.phase_ == fiber_base::phase::dead) return false;
    if (&whom == current_fiber) [[unlikely]]
      refuse_self();
    told_ = &told;
    if (whom.joiners_ == nullptr) [[likely]] {
      previous_ = this;
      whom.joiners_ = this;
    } else {
      previous_ = std::exchange(whom.joiners_->previous_, this);
      previous_->next_ = this;
    }
    return true;
  }
  abort_answer abort() noexcept;
  void describe(std::string& text) const;

 protected:
  explicit join_base(fiber_base& whom) noexcept : handle_base(&whom) {}
  explicit join_base(const handle_base& whom) noexcept : handle_base(whom) {}
  ~join_base() = default;
  // Throws unless the fiber returned and its result is still there.
  void check_result() const {
    if (get()->outcome() != fiber_outcome::returned || (get()->flags_ & fiber_base::taken) != 0) [[unlikely]]
      throw_no_result();
  }
  void mark_taken() const noexcept { get()->flags_ |= fiber_base::taken; }

 private:
  friend class fiber_home;
  [[noreturn, gnu::cold]] static void refuse_self();
  [[noreturn, gnu::cold]] void throw_no_result() const;

  waiter* told_ = nullptr;
  join_base* next_ = nullptr;      // of the youngest: null
  join_base* previous_ = nullptr;  // of the oldest: the youngest
};

template <class T>
class [[nodiscard("co_await it, or coir::await(it)")]] join_op : public join_base {
 public:
  static constexpr const char* name = "join";
  explicit join_op(fiber_block<T>& whom) noexcept : join_base(whom) {}

  decltype(auto) take() const {
    check_result();
    if constexpr (std::is_reference_v<T>) {
      return static_cast<T>(*static_cast<fiber_block<T>*>(get())->value());
    } else if constexpr (!std::is_void_v<T>) {
      return std::as_const(*static_cast<fiber_block<T>*>(get())).value();
    }
  }
};

// The end of a fiber, whatever it was.
class [[nodiscard("co_await it, or coir::await(it)")]] end_op : public join_base {
 public:
  static constexpr const char* name = "join";
  explicit end_op(const handle_base& whom) : join_base(whom) {}
  void take() const noexcept {}
};

template <class T>
class [[nodiscard("co_await it, or coir::await(it)")]] take_op : public join_base {
 public:
  static constexpr const char* name = "join";
  explicit take_op(fiber_block<T>& whom) noexcept : join_base(whom) {}

  T take() const {
    check_result();
    mark_taken();
    if constexpr (std::is_reference_v<T>) {
      return static_cast<T>(*static_cast<fiber_block<T>*>(get())->value());
    } else if constexpr (!std::is_void_v<T>) {
      return std::move(static_cast<fiber_block<T>*>(get())->value());
    }
  }
};

template <class T>
class fiber : public handle_base {
 public:
  fiber() noexcept = default;
  explicit fiber(fiber_block<T>& block) noexcept : handle_base(&block) {}
  // The first handle: its reference is counted already.
  static fiber first(fiber_block<T>& block) noexcept { return fiber(handle_base::adopted{&block}); }

  // On a named handle only. `co_await spawn(f).join()` would put a temporary callable in the expression
  // that is awaited, which gcc 12 destroys twice; and a task can be awaited without a fiber.
  join_op<T> join() & { return join_op<T>(static_cast<fiber_block<T>&>(block())); }
  join_op<T> join() const& { return join_op<T>(static_cast<fiber_block<T>&>(block())); }
  join_op<T> join() && {
    static_assert(priv::never<T>,
                  "join() needs a named handle: auto child = coir::spawn(...); co_await child.join();");
    return std::as_const(*this).join();
  }
  take_op<T> take() & { return take_op<T>(static_cast<fiber_block<T>&>(block())); }
  take_op<T> take() && {
    static_assert(priv::never<T>,
                  "take() needs a named handle: auto child = coir::spawn(...); co_await child.take();");
    return static_cast<fiber&>(*this).take();
  }

 private:
  explicit fiber(handle_base::adopted block) noexcept : handle_base(block) {}
};

}  // namespace coir
