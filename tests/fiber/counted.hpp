// Objects that count themselves: nothing may be destroyed twice, or never.
#pragma once

#include <cstdlib>
#include <utility>

namespace support {

class counted {
 public:
  static inline int alive = 0;
  static inline int made = 0;  // copies and moves included

  counted() noexcept : counted(0) {}
  explicit counted(int number) noexcept : value(number) { begin(); }
  counted(const counted& other) noexcept : value(other.value) { begin(); }
  counted(counted&& other) noexcept : value(std::exchange(other.value, -1)) { begin(); }
  counted& operator=(counted other) noexcept {
    value = other.value;
    return *this;
  }
  ~counted() {
    // A second destruction finds no life to end.
    if (life_ != living) std::abort();
    life_ = 0;
    --alive;
  }

  int value;

 private:
  static constexpr unsigned living = 0x11f3;
  void begin() noexcept {
    life_ = living;
    ++alive;
    ++made;
  }
  volatile unsigned life_ = 0;
};

}  // namespace support
