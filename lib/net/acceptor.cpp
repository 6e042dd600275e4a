#include "acceptor.hpp"

#include <cerrno>
#include <chrono>
#include <utility>

namespace coir::net::priv {

namespace {

// Connections accepted ahead of anybody who wants them. Beyond, they wait in the kernel's backlog.
constexpr std::size_t ready_max = 64;

// Without descriptors every try fails at once. Long enough to cost nothing, short enough not to be felt.
constexpr std::chrono::milliseconds starved_pause(10);

enum class verdict { again, peer_gone, starved, permanent };

verdict judge(int error) noexcept {
  switch (error) {
    // Interrupted before anything came.
    case EINTR:
    case EAGAIN: return verdict::again;
    // The connection died in the backlog, or the network under it did (accept(2), "Error handling").
    case ECONNABORTED:
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
      link_(on),
      loop_(on),
      socket_(std::move(socket)),
      // Multishot pays where an accept costs a submission. On epoll, accept(2) when somebody asks is the
      // same price, and leaves the rest in the backlog.
      multishot_(on.kind() != backend_kind::epoll),
      lingering_(lingering) {
  request_ = multishot_ ? request::accept_multi(socket_.get()) : request::accept(socket_.get());
  request_.told = this;
  // It counts only while somebody waits for it.
  request_.background = true;
}

void acceptor::abandon() noexcept {
  link_.visit([](void* self, loop* on) noexcept { static_cast<acceptor*>(self)->end(on); }, this);
}

void acceptor::end(loop* on) noexcept {
  abandoned_ = true;
  ready_.clear();
  if (on != nullptr) {
    on->disarm(paused_);
    fail_all(EBADF);
  }
  // The closing path withdraws the request, and on_result() has the last word: it may come at once, and
  // `this` is gone then.
  const bool last = !request_.armed() && !paused_.armed();
  const descriptor closing = std::move(socket_);
  // What is still armed without a loop belongs to the parent process of this one, and stays as it is.
  if (last) delete this;
}

bool acceptor::wait(accept_op& who, waiter& told) {
  // What it knows of its last wait.
  who.told_ = nullptr;
  who.next_ = nullptr;
  who.error_ = 0;
  if (!ready_.empty()) {
    who.accepted_ = std::move(ready_.front());
    ready_.pop_front();
    return false;
  }
  if (lost_) {
    who.error_ = EBADF;
    return false;
  }
  (last_ == nullptr ? first_ : last_->next_) = &who;
  last_ = &who;
  loop_.expect_more();
  // Whom to tell only when arm() is through: what comes at once is not told.
  try {
    arm();
  } catch (...) {
    stop_waiting(who);
    throw;
  }
  if (who.accepted_ || who.error_ != 0) return false;
  who.told_ = &told;
  return true;
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
  if (first_ == nullptr && !multishot_) hold_back();
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
    held_back_ = false;
    if (loop_.start(request_)) return;
    handle(request_.result);
  }
}

// Where nobody is to catch what arm() throws: those who wait are told.
void acceptor::go_on() noexcept {
  try {
    arm();
  } catch (...) {
    fail_all(ENOMEM);
  }
}

void acceptor::on_result(waiter& self) noexcept {
  auto& mine = static_cast<acceptor&>(self);
  mine.handle(mine.request_.result);
  if (!mine.abandoned_) {
    mine.go_on();
  } else if (!mine.request_.armed()) {
    delete &mine;
  }
}

void acceptor::handle(int result) noexcept {
  if (result >= 0) {
    give(result);
    return;
  }
  if (abandoned_) return;
  if (result == -ECANCELED) {
    // Not our doing: the loop ends, or the descriptor is being closed behind our back.
    if (held_back_) return;
    lost_ = true;
    fail_all(EBADF);
    return;
  }
  switch (judge(-result)) {
    case verdict::again: break;
    case verdict::peer_gone: ++stats_.aborted; break;
    case verdict::starved: pause(); break;
    case verdict::permanent: fail_all(-result); break;
  }
}

void acceptor::hold_back() noexcept {
  if (held_back_ || !request_.armed()) return;
  // On epoll it is over at once, and nobody is told.
  held_back_ = loop_.withdraw(request_) == abort_answer::later;
}

void acceptor::give(int fd) noexcept {
  ++stats_.accepted;
  try {
    descriptor connection(loop_, fd);
    if (lingering_) loop_.lingers(fd);
    if (abandoned_) return;
    if (accept_op* const who = pop(); who != nullptr) {
      who->accepted_ = std::move(connection);
      if (who->told_ != nullptr) who->told_->done();
      return;
    }
    ready_.push_back(std::move(connection));
  } catch (const std::bad_alloc&) {
    // Not even room for its number: as if it had never been accepted. Its descriptor has closed it.
    return;
  }
  if (ready_.size() >= ready_max) hold_back();
}

void acceptor::fail_all(int error) noexcept {
  while (accept_op* const who = pop()) {
    who->error_ = error;
    // The listener has ended, or is about to.
    if (error == EBADF) who->from_ = nullptr;
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

void acceptor::resume(timer_node& which) { static_cast<pause_timer&>(which).whose->go_on(); }

void acceptor_deleter::operator()(acceptor* which) const noexcept { which->abandon(); }

}  // namespace coir::net::priv
