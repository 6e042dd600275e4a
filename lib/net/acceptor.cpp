#include "acceptor.hpp"

#include <unistd.h>

#include <cerrno>
#include <new>

namespace coir::net::priv {

namespace {

// Connections accepted ahead of anybody who wants them. Beyond, they wait in the kernel's backlog.
constexpr std::size_t ready_max = 64;

// Without descriptors every try fails at once. Long enough to cost nothing, short enough not to be felt.
constexpr std::chrono::milliseconds starved_pause(10);

enum class verdict { peer_gone, starved, permanent };

verdict judge(int error) noexcept {
  switch (error) {
    // The connection died in the backlog, or the network under it did (accept(2), "Error handling").
    case ECONNABORTED:
    case EINTR:
    case EAGAIN:
    case ENETDOWN:
    case EPROTO:
    case ENOPROTOOPT:
    case EHOSTDOWN:
    case ENONET:
    case EHOSTUNREACH:
    case ENETUNREACH: return verdict::peer_gone;
    case EMFILE:
    case ENFILE:
    case ENOBUFS:
    case ENOMEM: return verdict::starved;
    default: return verdict::permanent;
  }
}

}  // namespace

acceptor::acceptor(loop& on, descriptor socket, bool lingering)
    : waiter(kind),
      loop_(on),
      socket_(std::move(socket)),
      // Multishot pays where an accept costs a submission. On epoll, accept(2) when somebody asks is the
      // same price, and leaves the rest in the backlog.
      multishot_(on.kind() == backend_kind::uring),
      lingering_(lingering) {
  request_ = multishot_ ? request::accept_multi(socket_.get()) : request::accept(socket_.get());
  request_.told = this;
  // It counts only while somebody waits for it.
  request_.background = true;
}

void acceptor::abandon() noexcept {
  abandoned_ = true;
  if (paused_.armed()) loop_.disarm(paused_);
  for (const int fd : ready_) loop_.close_soon(fd);
  ready_.clear();
  fail_all(EBADF);
  if (!request_.armed()) {
    delete this;
    return;
  }
  // The closing path withdraws the request, and on_result() has the last word: it may come at once, and
  // `this` is gone then.
  const descriptor closing = std::move(socket_);
}

bool acceptor::wait(accept_op& who, waiter& told) {
  if (!ready_.empty()) {
    who.accepted_ = own(ready_.front());
    ready_.pop_front();
    return false;
  }
  (last_ == nullptr ? first_ : last_->next_) = &who;
  last_ = &who;
  loop_.expect_more();
  // Whom to tell only when arm() is through: what comes at once is not told.
  arm();
  if (who.accepted_ || who.error_ != 0) return false;
  who.told_ = &told;
  return true;
}

descriptor acceptor::own(int fd) {
  descriptor owned(loop_, fd);
  if (lingering_) loop_.lingers(fd);
  return owned;
}

bool acceptor::stop_waiting(accept_op& who) noexcept {
  accept_op** at = &first_;
  accept_op* before = nullptr;
  while (*at != nullptr && *at != &who) {
    before = *at;
    at = &before->next_;
  }
  if (*at == nullptr) return false;
  *at = who.next_;
  if (last_ == &who) last_ = before;
  loop_.expect_less();
  // A single accept that nobody waits for would take a connection out of the backlog for nobody.
  if (first_ == nullptr && !multishot_ && request_.armed()) {
    static_cast<void>(loop_.withdraw(request_));
  }
  return true;
}

accept_op* acceptor::pop() noexcept {
  if (first_ == nullptr) return nullptr;
  accept_op* const who = first_;
  first_ = who->next_;
  if (first_ == nullptr) last_ = nullptr;
  loop_.expect_less();
  return who;
}

void acceptor::arm() {
  // A single accept is tried again as long as it finishes at once; a multishot one always waits.
  while (first_ != nullptr && !request_.armed() && !paused_.armed() && !abandoned_) {
    if (loop_.start(request_)) return;
    handle(request_.result);
  }
}

void acceptor::on_result(waiter& self) noexcept {
  auto& mine = static_cast<acceptor&>(self);
  mine.handle(mine.request_.result);
  if (mine.abandoned_) {
    if (!mine.request_.armed()) delete &mine;
    return;
  }
  try {
    mine.arm();
  } catch (...) {
    mine.fail_all(ENOMEM);
  }
}

void acceptor::handle(int result) noexcept {
  if (result >= 0) {
    ++stats_.accepted;
    give(result);
    return;
  }
  // Withdrawn: because enough are ready, because nobody waits, or because the socket is being closed.
  if (abandoned_ || result == -ECANCELED) return;
  switch (judge(-result)) {
    case verdict::peer_gone: ++stats_.aborted; break;
    case verdict::starved: pause(); break;
    case verdict::permanent: fail_all(-result); break;
  }
}

void acceptor::give(int fd) noexcept {
  if (abandoned_) {
    ::close(fd);
    return;
  }
  try {
    if (accept_op* const who = pop(); who != nullptr) {
      who->accepted_ = own(fd);
      if (who->told_ != nullptr) who->told_->done();
      return;
    }
    loop_.adopt(fd);
    ready_.push_back(fd);
  } catch (const std::bad_alloc&) {
    // Not even room for its number: as if it had never been accepted.
    ::close(fd);
    return;
  }
  if (ready_.size() >= ready_max && request_.armed()) static_cast<void>(loop_.withdraw(request_));
}

void acceptor::fail_all(int error) noexcept {
  while (accept_op* const who = pop()) {
    who->error_ = error;
    if (who->told_ != nullptr) who->told_->done();
  }
}

void acceptor::pause() noexcept {
  ++stats_.starved;
  try {
    loop_.arm(paused_, after(loop_.time(), starved_pause));
  } catch (...) {
    fail_all(ENOMEM);
  }
}

void acceptor::resume(timer& which) { static_cast<pause_timer&>(which).whose->arm(); }

void acceptor_deleter::operator()(acceptor* which) const noexcept { which->abandon(); }

}  // namespace coir::net::priv
