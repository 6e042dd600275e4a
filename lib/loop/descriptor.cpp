#include <coir/loop/descriptor.hpp>

#include "registry.hpp"

#include <fmt/format.h>

#include <stdexcept>

namespace coir {

descriptor::descriptor(loop& on, int fd) : loop_(&on), fd_(fd), number_(on.number()) {
  if (fd < 0) {
    fd_ = -1;
    throw std::invalid_argument(fmt::format("{} is not a descriptor", fd));
  }
  on.adopt(fd);
}

void descriptor::reset() noexcept {
  if (fd_ < 0) return;
  const int fd = std::exchange(fd_, -1);
  if (loop_ == loop::current() && loop_->number() == number_ && loop_->usable()) {
    loop_->close_soon(fd);
  } else {
    loop_registry::close(loop_, number_, fd);
  }
}

}  // namespace coir
