// coir/loop/descriptor.hpp: a file descriptor that a loop has requests on.
//
//   coir::descriptor end(loop, fds[0]);     // from here on the loop's to close
//
// Shape    a number and its loop. Moves, never copies.
// Thread   requests: the loop's. It may be destroyed anywhere, also after its loop.
// Cancel   destroying it withdraws what is in flight on it; whoever waits there gets
//          std::errc::bad_file_descriptor.
// Errors   std::invalid_argument for a negative number. What close(2) says is not reported here: wait for
//          a close request to hear it.
// Cost     a close(2), at once when nothing is in flight, else when the kernel has let go.
// See      coir/loop/request.hpp, close()
#pragma once

#include <coir/loop/loop.hpp>
#include <coir/loop/request.hpp>

#include <cstdint>
#include <utility>

namespace coir {

class descriptor {
 public:
  descriptor() noexcept = default;
  descriptor(loop& on, int fd);
  descriptor(descriptor&& other) noexcept
      : loop_(other.loop_), fd_(std::exchange(other.fd_, -1)), number_(other.number_) {}
  descriptor& operator=(descriptor&& other) noexcept {
    if (this != &other) {
      reset();
      loop_ = other.loop_;
      fd_ = std::exchange(other.fd_, -1);
      number_ = other.number_;
    }
    return *this;
  }
  ~descriptor() { reset(); }

  int get() const noexcept { return fd_; }
  explicit operator bool() const noexcept { return fd_ >= 0; }
  loop& on() const noexcept { return *loop_; }

  void reset() noexcept;
  // Somebody else will close it: a close request, or the new owner. Nothing may be in flight.
  int release() noexcept { return std::exchange(fd_, -1); }

 private:
  loop* loop_ = nullptr;
  int fd_ = -1;
  std::uint16_t number_ = 0;  // of the loop, whose address another may have by now
};

}  // namespace coir
