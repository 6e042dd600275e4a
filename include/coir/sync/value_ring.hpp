// coir/sync/value_ring.hpp: values in a row that are taken out at the front: what a channel's buffer is made of.
//
//   coir::value_ring<int> row;
//   row.push_back(1);   row.push_front(0);   int first = row.pop_front();      [tests/sync/value_ring_test.cpp]
//
// Shape    a ring that has no memory before the first value, doubles when it is full, and keeps its memory until
//          reset(). Values must be movable, and destructible, without throwing.
// Order    that of the row.
// Thread   one.
// Errors   std::bad_alloc when it cannot grow; then nothing has happened, not even to the value.
// Cost     O(1), and an allocation for each doubling; remove_if: O(n).
#pragma once

#include <coir/base/assert.hpp>

#include <algorithm>
#include <bit>
#include <cstddef>
#include <memory>
#include <type_traits>
#include <utility>

namespace coir {

template <class T>
class value_ring {
  static_assert(std::is_object_v<T> && !std::is_const_v<T> && !std::is_array_v<T>);
  static_assert(std::is_nothrow_move_constructible_v<T> && std::is_nothrow_destructible_v<T>,
                "a value changes its place while nobody could catch what that throws: its move constructor and "
                "destructor must be noexcept (or send a std::unique_ptr to it)");

 public:
  value_ring() noexcept = default;
  value_ring(value_ring&& other) noexcept { swap(other); }
  value_ring& operator=(value_ring&& other) noexcept {
    value_ring(std::move(other)).swap(*this);
    return *this;
  }
  ~value_ring() { reset(); }

  bool empty() const noexcept { return count_ == 0; }
  std::size_t size() const noexcept { return count_; }
  T& operator[](std::size_t index) noexcept { return slots_[(head_ + index) & mask()]; }
  const T& operator[](std::size_t index) const noexcept { return slots_[(head_ + index) & mask()]; }

  void push_back(T&& value) {
    if (count_ == room_) [[unlikely]]
      grow(count_ + 1);
    std::construct_at(slots_ + ((head_ + count_) & mask()), std::move(value));
    ++count_;
  }
  void push_front(T&& value) {
    if (count_ == room_) [[unlikely]]
      grow(count_ + 1);
    head_ = (head_ - 1) & mask();
    std::construct_at(slots_ + head_, std::move(value));
    ++count_;
  }
  // Moves the first value to `to(T&&)` and out of the row.
  template <class To>
  void move_front(To&& to) noexcept {
    COIR_ASSERT(count_ != 0, "a value was taken out of an empty row");
    T& first = slots_[head_];
    head_ = (head_ + 1) & mask();
    --count_;
    to(std::move(first));
    std::destroy_at(&first);
  }
  T pop_front() noexcept {
    COIR_ASSERT(count_ != 0, "a value was taken out of an empty row");
    T& first = slots_[head_];
    T value(std::move(first));
    std::destroy_at(&first);
    head_ = (head_ + 1) & mask();
    --count_;
    return value;
  }
  // So many find room without memory.
  void reserve(std::size_t count) {
    if (count > room_) grow(count);
  }
  // Returns how many went. When `unwanted` throws, those it was called for before are gone or stay, as it said.
  template <class Unwanted>
  std::size_t remove_if(Unwanted&& unwanted) {
    std::size_t kept = 0;
    std::size_t seen = 0;
    // The rest moves up also when it throws.
    struct closing_up {
      value_ring& row;
      std::size_t& kept;
      std::size_t& seen;
      ~closing_up() {
        while (seen < row.count_) row.move_up(seen++, kept++);
        row.count_ = kept;
      }
    };
    const std::size_t before = count_;
    {
      const closing_up gap{*this, kept, seen};
      while (seen < count_) {
        if (unwanted(std::as_const((*this)[seen]))) {
          std::destroy_at(&(*this)[seen++]);
        } else {
          move_up(seen++, kept++);
        }
      }
    }
    return before - count_;
  }
  // Empty, and without memory.
  void reset() noexcept {
    for (std::size_t i = 0; i < count_; ++i) std::destroy_at(&(*this)[i]);
    if (slots_ != nullptr) std::allocator<T>().deallocate(slots_, room_);
    slots_ = nullptr;
    room_ = head_ = count_ = 0;
  }
  void swap(value_ring& other) noexcept {
    std::swap(slots_, other.slots_);
    std::swap(room_, other.room_);
    std::swap(head_, other.head_);
    std::swap(count_, other.count_);
  }

 private:
  static constexpr std::size_t room_at_first = 4;

  std::size_t mask() const noexcept { return room_ - 1; }
  void move_up(std::size_t from, std::size_t to) noexcept {
    if (from == to) return;
    T& value = (*this)[from];
    std::construct_at(&(*this)[to], std::move(value));
    std::destroy_at(&value);
  }
  [[gnu::noinline]] void grow(std::size_t count) {
    const std::size_t room = std::max(room_at_first, std::bit_ceil(count));
    T* const slots = std::allocator<T>().allocate(room);
    for (std::size_t i = 0; i < count_; ++i) {
      std::construct_at(slots + i, std::move((*this)[i]));
      std::destroy_at(&(*this)[i]);
    }
    if (slots_ != nullptr) std::allocator<T>().deallocate(slots_, room_);
    slots_ = slots;
    room_ = room;
    head_ = 0;
  }

  T* slots_ = nullptr;
  std::size_t room_ = 0;  // a power of two, or nothing
  std::size_t head_ = 0;
  std::size_t count_ = 0;
};

}  // namespace coir
