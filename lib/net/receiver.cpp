#include "receiver.hpp"

#include "socket.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

namespace coir::net::priv {

namespace {

// Chunks that wait for one slow reader. Beyond, the kernel is told to stop; what it had on its way already
// is copied out of the pool, so that nobody hoards what others need.
constexpr std::size_t queue_max = 16;

// A pool that was empty is used again when a quarter of it is back, so that it is not emptied at once.
bool recovered(const chunk_pool& pool) noexcept {
  return pool.free() >= std::max(1U, pool.count() / 4);
}

}  // namespace

receiver::receiver(loop& on, int fd) : waiter(kind), link_(on), loop_(on), fd_(fd) {}

void receiver::drop_all() noexcept {
  first_ = chunk();
  queue_.clear();
  head_ = 0;
}

void receiver::shut() noexcept {
  drop_all();
  error_ = EBADF;
  serve_waiting();
}

void receiver::abandon() noexcept {
  link_.visit([](void* self, loop* on) noexcept { static_cast<receiver*>(self)->end(on); }, this);
}

void receiver::end(loop* on) noexcept {
  abandoned_ = true;
  if (on != nullptr) {
    shut();
  } else {
    drop_all();
  }
  // The closing path withdraws a request in flight, and on_result() has the last word. What is in flight
  // without a loop belongs to the parent process of this one, and stays as it is.
  if (!request_.armed()) delete this;
}

bool receiver::wait(receive_wait& who, waiter& told) {
  if (waiting_ != nullptr) throw_two_readers();
  who.error_ = 0;
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
  if (!first_) {
    who.error_ = error_;
    who.ended_ = error_ == EBADF;
  }
  who.serve_(who, *this);
}

void receiver::serve_waiting() noexcept {
  if (waiting_ == nullptr || !has_something()) return;
  receive_wait& who = *waiting_;
  stop_waiting();
  serve(who);
  who.told_->done();
}

void receiver::arm() {
  while (waiting_ != nullptr && !request_.armed() && !has_something()) {
    begin();
    if (loop_.start(request_)) return;
    handle(request_.result);
  }
}

void receiver::begin() {
  if (starved_) {
    own_ = chunk(loop_.chunks().chunk_bytes());
    request_ = request::recv(fd_, own_.bytes());
  } else {
    request_ = request::recv_multi(fd_);
  }
  request_.told = this;
  request_.background = true;
  held_back_ = false;
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
    mine.fail(ENOMEM);
  }
  mine.serve_waiting();
}

void receiver::handle(int result) noexcept {
  const bool multishot = request_.kind == request_kind::recv_multi;
  if (result > 0) {
    const auto size = static_cast<std::size_t>(result);
    try {
      if (multishot) {
        keep(loop_.chunks().claim(request_.chunk(), size));
      } else {
        // Only now: a pool that looks full while the kernel finds nothing in it costs a plain receive each
        // time, and no more.
        if (recovered(loop_.chunks())) starved_ = false;
        own_.shrink_to(size);
        keep(std::move(own_));
      }
    } catch (...) {
      fail(ENOMEM);
    }
  } else if (result == 0) {
    ended_ = true;
  } else if (multishot && (result == -ENOBUFS || result == -EAGAIN)) {
    // No chunk was free, or a kernel does not wait here; a plain receive needs neither.
    starved_ = true;
  } else if (result == -ECANCELED) {
    // Not our doing: the descriptor is being closed.
    if (!held_back_) fail(EBADF);
  } else if (result != -EINTR) {
    fail(-result);
  }
}

void receiver::keep(chunk arrived) {
  // Behind a failure something is missing.
  if (abandoned_ || error_ != 0) return;
  if (first_) return keep_behind(std::move(arrived));
  first_ = std::move(arrived);
}

void receiver::keep_behind(chunk arrived) {
  const std::size_t waiting = 1 + queue_.size() - head_;
  if (waiting >= queue_max && arrived.pooled()) {
    chunk copy(arrived.bytes().size());
    std::memcpy(copy.bytes().data(), arrived.bytes().data(), arrived.bytes().size());
    arrived = std::move(copy);
  }
  if (head_ >= queue_max) {
    // A reader that never comes to the end of the queue must not make it grow.
    queue_.erase(queue_.begin(), queue_.begin() + static_cast<std::ptrdiff_t>(head_));
    head_ = 0;
  }
  queue_.push_back(std::move(arrived));
  if (waiting + 1 >= queue_max) hold_back();
}

void receiver::hold_back() noexcept {
  if (held_back_ || !request_.armed()) return;
  // On epoll it is over at once, and nobody is told.
  held_back_ = loop_.withdraw(request_) == abort_answer::later;
}

// What has arrived is still read first.
void receiver::fail(int error) noexcept {
  if (error_ == 0) error_ = error;
  hold_back();
}

void receiver::move_up() noexcept {
  first_ = std::move(queue_[head_++]);
  if (head_ == queue_.size()) {
    queue_.clear();
    head_ = 0;
  }
}

std::size_t receiver::take_into(std::span<std::byte> into) noexcept {
  if (!first_) return 0;
  const std::size_t count = std::min(into.size(), first_.bytes().size());
  std::memcpy(into.data(), first_.bytes().data(), count);
  first_.drop_front(count);
  if (first_.bytes().empty()) take();
  return count;
}

void receiver_deleter::operator()(receiver* which) const noexcept { which->abandon(); }

}  // namespace coir::net::priv
