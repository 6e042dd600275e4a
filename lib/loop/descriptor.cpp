#include <coir/loop/descriptor.hpp>

#include <fmt/format.h>
#include <unistd.h>

#include <cstdint>
#include <stdexcept>

namespace coir {

descriptor::descriptor(loop& on, int fd) : link_(on), fd_(fd) {
  if (fd < 0) {
    fd_ = -1;
    throw std::invalid_argument(fmt::format("{} is not a descriptor", fd));
  }
  try {
    on.adopt(fd);
  } catch (...) {
    ::close(fd);
    throw;
  }
}

void descriptor::reset() noexcept {
  if (fd_ < 0) return;
  const std::intptr_t number = std::exchange(fd_, -1);
  link_.visit(
      [](void* what, loop* on) noexcept {
        const int fd = static_cast<int>(reinterpret_cast<std::intptr_t>(what));
        if (on != nullptr) {
          on->close_soon(fd);
        } else {
          // With the loop went all that was in flight.
          ::close(fd);
        }
      },
      reinterpret_cast<void*>(number));
}

int descriptor::release() noexcept {
  const std::intptr_t number = fd_;
  if (fd_ >= 0) {
    link_.visit(
        [](void* what, loop* on) noexcept {
          if (on != nullptr) on->disown(static_cast<int>(reinterpret_cast<std::intptr_t>(what)));
        },
        reinterpret_cast<void*>(number));
  }
  return std::exchange(fd_, -1);
}

}  // namespace coir
