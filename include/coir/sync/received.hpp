// coir/sync/received.hpp: what a receive gives: a std::optional, empty when nothing more will come.
//
//   while (auto o = co_await orders.receive()) handle(*o);
//   std::optional<order> last = co_await orders.receive();       [tests/sync/channel_test.cpp]
//
// Shape    a std::optional<T>, and nothing else.
// Thread   any.
// Errors   none of its own.
// Cost     it is made where it is wanted. A small std::optional comes back from a function in registers: gcc writes it
//          to memory in two pieces and reads it back in one before they are there, which was half of a message's time.
// See      coir/sync/channel.hpp
#pragma once

#include <optional>
#include <type_traits>
#include <utility>

namespace coir {

template <class T>
class received : public std::optional<T> {
 public:
  received() noexcept = default;
  received(std::nullopt_t) noexcept {}
  explicit received(std::in_place_t, T&& value) noexcept : std::optional<T>(std::in_place, std::move(value)) {}
  // Not trivial: what is trivial comes back in registers.
  received(received&& other) noexcept(std::is_nothrow_move_constructible_v<T>)
      : std::optional<T>(static_cast<std::optional<T>&&>(other)) {}
  received(const received&) = default;
  received& operator=(received&&) = default;
  received& operator=(const received&) = default;
};

}  // namespace coir
