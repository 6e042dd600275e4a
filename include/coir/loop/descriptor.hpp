// coir/loop/descriptor.hpp: a file descriptor that a loop has requests on.
//
//   coir::descriptor end(loop, fds[0]);     // from here on the loop's to close
//
// Shape    a number and its loop. Moves, never copies.
// Thread   requests: the loop's. It may be destroyed anywhere, also after its loop.
// Cancel   destroying it withdraws what is in flight on it; whoever waits there gets
//          std::errc::bad_file_descriptor.
// Errors   std::invalid_argument for a negative number; std::bad_alloc, and it is closed then. What
//          close(2) says is not reported here: wait for a close request to hear it.
// Cost     a close(2), at once when nothing is in flight, else when the kernel has let go.
// See      coir/loop/request.hpp, close()
#pragma once

#include <coir/loop/loop.hpp>
#include <coir/loop/loop_link.hpp>

#include <utility>

namespace coir {

class descriptor {
 public:
  descriptor() noexcept = default;
  descriptor(loop& on, int fd);
  descriptor(descriptor&& other) noexcept
      : link_(other.link_), fd_(std::exchange(other.fd_, -1)) {}
  descriptor& operator=(descriptor&& other) noexcept {
    if (this != &other) {
      reset();
      link_ = other.link_;
      fd_ = std::exchange(other.fd_, -1);
    }
    return *this;
  }
  ~descriptor() { reset(); }

  int get() const noexcept { return fd_; }
  explicit operator bool() const noexcept { return fd_ >= 0; }
  loop& on() const noexcept { return link_.get(); }

  void reset() noexcept;
  // Somebody else will close it. Nothing may be in flight. On the loop's thread.
  int release() noexcept;
  // A close request will, which may withdraw what is in flight.
  int hand_to_close() noexcept { return std::exchange(fd_, -1); }

 private:
  [[no_unique_address]] loop_link link_;  // and the number in what is left of its last word
  int fd_ = -1;
};

static_assert(sizeof(descriptor) == 2 * sizeof(void*));

}  // namespace coir
