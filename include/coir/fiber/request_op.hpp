// coir/fiber/request_op.hpp: a kernel request as an op.
//
//   int events = co_await coir::request_op<coir::readiness>(loop, coir::request::poll(fd, POLLIN));
//
// What streams, files and sockets are made of; a user meets them there.
//
// Shape    the request and its loop: 88 bytes in the waiting frame. `As` says what the result is.
// Thread   one loop.
// Cancel   io_uring: later, the kernel answers. epoll: now.
// Errors   std::system_error with what was asked of which descriptor. A descriptor that is closed while
//          this waits: std::errc::bad_file_descriptor.
// Cost     as the request (coir/loop/request.hpp).
// See      coir/fiber/op.hpp
#pragma once

#include <coir/base/expected.hpp>
#include <coir/fiber/op.hpp>
#include <coir/loop/loop.hpp>
#include <coir/loop/request.hpp>

#include <cerrno>
#include <cstddef>
#include <string>
#include <utility>

namespace coir {

// What a result of zero or more means.
struct byte_count {
  using type = std::size_t;
  static type from(int value) noexcept { return static_cast<std::size_t>(value); }
};
struct readiness {
  using type = int;  // POLLIN, POLLOUT, POLLHUP, POLLERR, ...
  static type from(int value) noexcept { return value; }
};
struct nothing {
  using type = void;
  static void from(int) noexcept {}
};

class request_op_base {
 public:
  request_op_base(loop& on, const request& what) noexcept : loop_(&on), what_(what) {}

  bool start(waiter& told) {
    if (std::exchange(what_.told, &told) != nullptr) [[unlikely]]
      begin_again();
    return loop_->start(what_);
  }
  abort_answer abort() noexcept {
    aborted_ = true;
    return loop_->withdraw(what_);
  }
  void describe(std::string& text) const;
  // See request::expect_wait, request::more_expected and request::closed_under.
  void expect_wait(bool expected) noexcept { what_.expect_wait = expected; }
  bool more_expected() const noexcept { return what_.more_expected(); }
  bool closed_under() const noexcept { return what_.closed_under(); }

 protected:
  ~request_op_base() = default;
  int outcome() const noexcept { return what_.result; }
  // The kernel gave it up because we asked it to.
  bool was_withdrawn() const noexcept { return aborted_ && what_.result == -ECANCELED; }
  std::error_code code() const noexcept;
  [[noreturn, gnu::cold]] void throw_outcome() const;

  loop* loop_;
  request what_;

 private:
  void begin_again();

  bool aborted_ = false;
};

template <class As>
class [[nodiscard("co_await it, or coir::await(it)")]] request_op : public request_op_base {
 public:
  static constexpr const char* name = "request";
  using value_type = typename As::type;

  using request_op_base::request_op_base;

  value_type take() const {
    if (outcome() < 0) [[unlikely]]
      throw_outcome();
    return As::from(outcome());
  }
  result<value_type> take_result() const {
    if (outcome() < 0) [[unlikely]] {
      if (was_withdrawn()) throw cancelled();
      return unexpected<std::error_code>(code());
    }
    if constexpr (std::is_void_v<value_type>) {
      return {};
    } else {
      return As::from(outcome());
    }
  }
};

}  // namespace coir
