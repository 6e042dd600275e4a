// coir/base/callback.hpp: something to call later, owned.
//
//   coir::callback<int> tell = [&](int value) { ... };   // or [&] { ... }, if it does not care
//   tell(3);                                                        [tests/base/callback_test.cpp]
//
// std::function without copies: what it holds may be move-only, as captured handles and sockets are.
//
// Shape    three words of its own for small functions that move without throwing; larger ones lie on the heap.
// Thread   one.
// Errors   constructing may throw what copying the function throws, and std::bad_alloc.
// Cost     a call is one indirect call.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <new>
#include <type_traits>
#include <utility>

namespace coir {

template <class... Arguments>
class callback;

namespace priv {
// What may hold no function: then the callback holds none either.
template <class Function>
inline constexpr bool may_be_null = std::is_pointer_v<Function>;
template <class Signature>
inline constexpr bool may_be_null<std::function<Signature>> = true;
template <class... Arguments>
inline constexpr bool may_be_null<callback<Arguments...>> = true;
#if defined(__cpp_lib_move_only_function)
template <class Signature>
inline constexpr bool may_be_null<std::move_only_function<Signature>> = true;
#endif
}  // namespace priv

template <class... Arguments>
class callback {
 public:
  callback() noexcept = default;
  callback(std::nullptr_t) noexcept {}  // NOLINT: .error = nullptr is how it is meant to be written

  template <class F, class Function = std::decay_t<F>>
    requires(!std::is_same_v<Function, callback> && !std::is_same_v<Function, std::nullptr_t> &&
             (std::is_invocable_v<Function&, Arguments...> || std::is_invocable_v<Function&>))
  callback(F&& function) {  // NOLINT: a lambda stands for it
    if constexpr (priv::may_be_null<std::remove_cvref_t<F>>) {
      if (!function) return;
    }
    if constexpr (fits<Function>) {
      new (memory_) Function(std::forward<F>(function));
      actions_ = &small<Function>;
    } else {
      new (memory_) Function*(new Function(std::forward<F>(function)));
      actions_ = &large<Function>;
    }
  }
  callback(callback&& other) noexcept { take(other); }
  callback& operator=(callback&& other) noexcept {
    if (this != &other) {
      reset();
      take(other);
    }
    return *this;
  }
  ~callback() { reset(); }

  explicit operator bool() const noexcept { return actions_ != nullptr; }
  void operator()(Arguments... arguments) {
    actions_->call(memory_, std::forward<Arguments>(arguments)...);
  }

 private:
  struct actions {
    void (*call)(void* memory, Arguments... arguments);
    void (*move)(void* from, void* to) noexcept;
    void (*destroy)(void* memory) noexcept;
  };
  static constexpr std::size_t own_bytes = 3 * sizeof(void*);

  template <class Function>
  static constexpr bool fits = sizeof(Function) <= own_bytes && alignof(Function) <= alignof(void*) &&
                               std::is_nothrow_move_constructible_v<Function>;

  template <class Function>
  static void invoke(Function& function, Arguments... arguments) {
    if constexpr (std::is_invocable_v<Function&, Arguments...>) {
      static_cast<void>(function(std::forward<Arguments>(arguments)...));
    } else {
      static_cast<void>(function());
    }
  }

  template <class Function>
  static constexpr actions small{
      [](void* memory, Arguments... arguments) {
        invoke(*static_cast<Function*>(memory), std::forward<Arguments>(arguments)...);
      },
      [](void* from, void* to) noexcept {
        new (to) Function(std::move(*static_cast<Function*>(from)));
        std::destroy_at(static_cast<Function*>(from));
      },
      [](void* memory) noexcept { std::destroy_at(static_cast<Function*>(memory)); }};

  template <class Function>
  static constexpr actions large{
      [](void* memory, Arguments... arguments) {
        invoke(**static_cast<Function**>(memory), std::forward<Arguments>(arguments)...);
      },
      [](void* from, void* to) noexcept { new (to) Function*(*static_cast<Function**>(from)); },
      [](void* memory) noexcept { delete *static_cast<Function**>(memory); }};

  void take(callback& other) noexcept {
    if (other.actions_ == nullptr) return;
    other.actions_->move(other.memory_, memory_);
    actions_ = std::exchange(other.actions_, nullptr);
  }
  void reset() noexcept {
    // Empty first: what is destroyed may look here.
    if (const actions* const mine = std::exchange(actions_, nullptr)) mine->destroy(memory_);
  }

  alignas(void*) std::byte memory_[own_bytes];
  const actions* actions_ = nullptr;
};

}  // namespace coir
