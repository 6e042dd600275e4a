// coir/base/fd.hpp: a file descriptor with an owner.
//
//   coir::unique_fd pipe_end(fds[0]);
//
// For descriptors that no loop has requests on. Those a loop works with are closed through it
// (loop/descriptor.hpp).
//
// Shape    an int; -1 is none. Moves, never copies.
// Thread   any.
// Errors   a close that fails is not reported: on Linux the number is free afterwards all the same.
// Cost     one close(2) in the destructor.
#pragma once

#include <utility>

namespace coir {

class unique_fd {
 public:
  unique_fd() noexcept = default;
  explicit unique_fd(int fd) noexcept : fd_(fd) {}
  unique_fd(unique_fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  unique_fd& operator=(unique_fd&& other) noexcept {
    if (this != &other) reset(std::exchange(other.fd_, -1));
    return *this;
  }
  ~unique_fd() { reset(); }

  int get() const noexcept { return fd_; }
  explicit operator bool() const noexcept { return fd_ >= 0; }
  int release() noexcept { return std::exchange(fd_, -1); }
  void reset(int fd = -1) noexcept;

 private:
  int fd_ = -1;
};

}  // namespace coir
