#include <coir/loop/waker.hpp>

#include <coir/base/atomic.hpp>
#include <coir/base/error.hpp>
#include <coir/base/fd.hpp>
#include <coir/loop/loop.hpp>

#include "watch_set.hpp"

#include <fmt/format.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>

namespace coir {

class waker_counter {
 public:
  waker_counter() : fd_(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) {
    if (!fd_) throw_error(errno, "eventfd for a waker");
  }

  // Not the descriptor but this word says that it is over: the loop's thread ends it while others may be about to
  // write. Relaxed: nothing is read because of what it says.
  bool open() const noexcept { return open_.load(std::memory_order_relaxed); }
  void end() noexcept { open_.store(false, std::memory_order_relaxed); }
  int fd() const noexcept { return fd_.get(); }

  void add(std::uint64_t count) const {
    // An errno here is the producer's: EAGAIN says that the sum does not fit.
    if (::write(fd_.get(), &count, sizeof count) >= 0) return;
    if (errno != EAGAIN) throw_error(errno, "waking a loop");
    throw_error(EAGAIN, fmt::format("waking a loop {} times more: its waker counts to {} until the loop reads it",
                                    count, largest));
  }
  // 0: there is nothing.
  std::uint64_t take() const noexcept {
    std::uint64_t count = 0;
    return ::read(fd_.get(), &count, sizeof count) == sizeof count ? count : 0;
  }

  static constexpr std::uint64_t largest = std::numeric_limits<std::uint64_t>::max() - 1;

 private:
  const unique_fd fd_;
  atomic<bool> open_ = true;
};

namespace {

class waker_registration final : public registration {
 public:
  waker_registration(loop& of, std::shared_ptr<waker_counter> counter, callback<std::uint64_t>&& then)
      : registration(of, registration_kind::waker), counter_(std::move(counter)), then_(std::move(then)) {
    watch_options options{.read = [this] { tell(); }};
    readable_ = owned<watcher>(
        of.watches().add(of, counter_->fd(), std::move(options), registration_kind::part));
  }

  std::string describe() const override { return fmt::format("waker, descriptor {}", counter_->fd()); }

 private:
  void tell() {
    const call during(*this);
    // Nothing: somebody who shares the descriptor has read it.
    if (const std::uint64_t count = counter_->take(); count != 0) then_(count);
  }
  void leave() noexcept override {
    counter_->end();
    readable_.reset();
  }
  void drop() noexcept override { then_ = nullptr; }

  std::shared_ptr<waker_counter> counter_;
  callback<std::uint64_t> then_;
  owned<watcher> readable_;
};

}  // namespace

void waker_end::wake(std::uint64_t count) const {
  if (count == 0 || count > waker_counter::largest) {
    throw std::invalid_argument(
        fmt::format("a loop is to be woken {} times; it can be 1 to {}", count, waker_counter::largest));
  }
  if (!*this) {
    throw_misuse("a waker was woken that is none any more: its handle was reset or kept, or its loop is gone");
  }
  counter_->add(count);
}

waker_end::operator bool() const noexcept { return counter_ != nullptr && counter_->open(); }

waker::waker(loop& of, callback<std::uint64_t>&& then) {
  if (!then) throw_misuse("a waker without a function to call");
  auto counter = std::make_shared<waker_counter>();
  made_ = owned<registration>(*new waker_registration(of, counter, std::move(then)));
  end_ = waker_end(std::move(counter));
}

}  // namespace coir
