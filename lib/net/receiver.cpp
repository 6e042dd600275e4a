#include "receiver.hpp"

#include <coir/base/error.hpp>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace coir::net::priv {

namespace {

// Chunks that wait for one slow reader. Beyond, the kernel is told to stop; what it had on its way already
// is copied out of the pool, so that nobody hoards what others need.
constexpr std::size_t queue_max = 16;

}  // namespace

receiver::receiver(loop& on, int fd) : waiter(kind), loop_(on), fd_(fd) {}

void receiver::abandon() noexcept {
  abandoned_ = true;
  queue_.clear();
  head_ = 0;
  error_ = EBADF;
  if (receive_wait* const who = waiting_; who != nullptr) {
    stop_waiting();
    serve(*who);
    who->told_->done();
  }
  // The closing path withdraws the request, and on_result() has the last word.
  if (!request_.armed()) delete this;
}

bool receiver::wait(receive_wait& who, waiter& told) {
  if (waiting_ != nullptr) throw_misuse("two fibers read from one stream at the same time");
  waiting_ = &who;
  loop_.expect_more();
  try {
    arm();
  } catch (...) {
    stop_waiting();
    throw;
  }
  if (!has_something()) {
    who.told_ = &told;
    return true;
  }
  stop_waiting();
  serve(who);
  return false;
}

void receiver::stop_waiting() noexcept {
  waiting_ = nullptr;
  loop_.expect_less();
}

void receiver::serve(receive_wait& who) noexcept {
  if (head_ == queue_.size()) who.error_ = error_;
  who.serve_(who, *this);
}

void receiver::arm() {
  while (waiting_ != nullptr && !request_.armed() && !has_something()) {
    if (starved_ && loop_.chunks().free() >= loop_.chunks().count() / 4) starved_ = false;
    if (starved_) {
      own_ = chunk(loop_.chunks().chunk_bytes());
      request_ = request::recv(fd_, own_.bytes());
    } else {
      request_ = request::recv_multi(fd_);
    }
    request_.told = this;
    request_.background = true;
    if (loop_.start(request_)) return;
    handle(request_.result);
  }
}

void receiver::on_result(waiter& self) noexcept {
  auto& mine = static_cast<receiver&>(self);
  mine.handle(mine.request_.result);
  if (mine.abandoned_) {
    if (!mine.request_.armed()) delete &mine;
    return;
  }
  try {
    mine.arm();
  } catch (...) {
    mine.error_ = ENOMEM;
  }
  if (receive_wait* const who = mine.waiting_; who != nullptr && mine.has_something()) {
    mine.stop_waiting();
    mine.serve(*who);
    who->told_->done();
  }
}

void receiver::handle(int result) noexcept {
  const bool multishot = request_.kind == request_kind::recv_multi;
  try {
    if (result > 0 && multishot) {
      keep(loop_.chunks().claim(request_.chunk(), static_cast<std::size_t>(result)));
      return;
    }
    if (result > 0) {
      own_.shrink_to(static_cast<std::size_t>(result));
      keep(std::move(own_));
      return;
    }
  } catch (...) {
    result = -ENOMEM;
  }
  if (result == 0) {
    ended_ = true;
  } else if (result == -ENOBUFS && multishot) {
    starved_ = true;
  } else if (result != -ECANCELED) {
    error_ = -result;
  } else if (!withdrawn_) {
    error_ = EBADF;  // not our doing: the descriptor is being closed
  }
  if (!request_.armed()) withdrawn_ = false;
}

void receiver::keep(chunk arrived) {
  if (abandoned_) return;
  const std::size_t waiting = queue_.size() - head_;
  if (waiting >= queue_max && arrived.pooled()) {
    chunk copy(arrived.bytes().size());
    std::memcpy(copy.bytes().data(), arrived.bytes().data(), arrived.bytes().size());
    arrived = std::move(copy);
  }
  queue_.push_back(std::move(arrived));
  if (waiting + 1 >= queue_max && request_.armed() && !withdrawn_) {
    withdrawn_ = loop_.withdraw(request_) == abort_answer::later;
  }
}

std::optional<chunk> receiver::take() noexcept {
  if (head_ == queue_.size()) return std::nullopt;
  std::optional<chunk> first(std::move(queue_[head_++]));
  if (head_ == queue_.size()) {
    queue_.clear();
    head_ = 0;
  }
  return first;
}

std::size_t receiver::take_into(std::span<std::byte> into) noexcept {
  if (head_ == queue_.size()) return 0;
  chunk& first = queue_[head_];
  const std::size_t count = std::min(into.size(), first.bytes().size());
  std::memcpy(into.data(), first.bytes().data(), count);
  first.drop_front(count);
  if (first.bytes().empty()) take();
  return count;
}

void receiver_deleter::operator()(receiver* which) const noexcept { which->abandon(); }

}  // namespace coir::net::priv
