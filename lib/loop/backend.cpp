#include <coir/loop/backend.hpp>

#include "request_row.hpp"

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <new>

namespace coir {

namespace {

// Nobody hears when it has sent everything, and then close(2) would only wait: the kernel goes on sending all the same,
// as it does when the time is over. A linger of 0 is another thing, a reset.
void stop_lingering(int fd) noexcept {
  ::linger how{};
  socklen_t size = sizeof how;
  if (::getsockopt(fd, SOL_SOCKET, SO_LINGER, &how, &size) < 0 || how.l_onoff == 0 || how.l_linger == 0) return;
  how.l_onoff = how.l_linger = 0;
  ::setsockopt(fd, SOL_SOCKET, SO_LINGER, &how, size);
}

bool run_here(void*, request& what, int (*work)(request&)) {
  what.result = work(what);
  return true;
}

}  // namespace

backend::backend(trace::control& trace, unsigned chunk_count, std::size_t chunk_bytes)
    : trace_(trace),
      blocking_{run_here, nullptr},
      chunk_count_(chunk_count),
      chunk_bytes_(chunk_bytes) {}

int backend::perform(request& what) noexcept {
  int result = 0;
  do {
    result = attempt(row_of(what.kind), what);
  } while (result == -EINTR);
  return result;
}

backend::~backend() {
  dismiss_blocking();
  if (chunks_ == nullptr) return;
  chunks_->orphan();
  chunks_->release();
}

chunk_pool& backend::chunks() {
  if (chunks_ == nullptr) chunks_ = chunk_pool::create(chunk_count_, chunk_bytes_);
  return *chunks_;
}

// Ends in the backend's own function, see request_row::attempt.
[[gnu::always_inline]] inline bool backend::begin(request& what) {
  descriptor_state* const state = descriptors_.find(what.fd);
  if (state == nullptr || state->closing || what.kind == request_kind::close) [[unlikely]]
    return begin_otherwise(what);
  return do_start(what, *state);
}

// On no descriptor, on a number not seen before, or when one is being closed.
bool backend::begin_otherwise(request& what) {
  // A path has no descriptor yet.
  if (what.kind == request_kind::open) return do_start(what, apart_);
  // A number that is no descriptor must not make the table as long as it is large.
  if (what.fd < 0 || (descriptors_.find(what.fd) == nullptr && ::fcntl(what.fd, F_GETFD) < 0) ||
      descriptors_[what.fd].closing) {
    what.result = -EBADF;
    return false;
  }
  if (what.kind == request_kind::close) return start_close(what);
  return do_start(what, descriptors_[what.fd]);
}

bool backend::start(request& what) {
  COIR_ASSERT(!what.armed_, "a request was started twice");
  what.withdrawn_ = what.more_expected_ = what.held_up_ = false;
  if (draining_) [[unlikely]] {
    what.result = -ECANCELED;
    return false;
  }
  ++stats_.submitted;
  constexpr std::uint32_t traced = trace::bit(trace::point::submit) | trace::bit(trace::point::complete);
  if ((trace_.mask() & traced) != 0) [[unlikely]]
    return begin_traced(what);
  return begin(what);
}

bool backend::begin_traced(request& what) {
  COIR_TRACE(trace_, trace::point::submit, 0, static_cast<std::uint64_t>(what.kind),
             static_cast<std::uint64_t>(what.fd));
  if (begin(what)) return true;
  COIR_TRACE(trace_, trace::point::complete, 0, static_cast<std::uint64_t>(what.kind),
             static_cast<std::uint64_t>(static_cast<std::int64_t>(what.result)));
  return false;
}

abort_answer backend::withdraw(request& what) noexcept {
  COIR_ASSERT(what.armed_, "a request was withdrawn that is not in flight");
  // A closing that has begun is not stopped: half of it is already done.
  if (what.kind == request_kind::close) return abort_answer::later;
  return do_withdraw(what, what.fd < 0 ? apart_ : descriptors_[what.fd]);
}

void backend::adopt(int fd) {
  descriptor_state& state = descriptors_[fd];
  if (!state.requests.empty()) [[unlikely]]
    disinherit(state);
  state.begin_life(true);
}

void backend::complete_held_up(request& what, int result) noexcept {
  const int fd = what.fd;
  finish(what, result);
  go_on_closing(fd);
}

void backend::go_on_closing(int fd) noexcept {
  descriptor_state& state = descriptors_[fd];
  if (!state.closing || !state.requests.empty()) return;
  request* const closer = std::exchange(state.closer, nullptr);
  if (finish_close(fd, state, closer) && closer != nullptr) {
    if (closer->armed_) leave(*closer);
    count_completed(*closer, closer->result);
    if (closer->told != nullptr) closer->told->done();
  }
}

bool backend::survives_delivery(request& what, const descriptor_state& state, int result) noexcept {
  walker mine{nullptr, &what, state.requests, walkers_};
  walkers_ = &mine;
  deliver(what, result);
  walkers_ = mine.outer;
  return mine.told != nullptr;
}

void backend::deliver(request& what, int result) noexcept {
  count_completed(what, result);
  what.result = result;
  what.told->done();
}

// True: it is over. Nobody asked for it to stop, so whoever waits for it is told.
bool backend::give_up(request& what, descriptor_state& state) noexcept {
  if (do_withdraw(what, state) == abort_answer::later) return false;
  what.result = -ECANCELED;
  count_completed(what, what.result);
  if (what.told != nullptr) what.told->done();
  return true;
}

void backend::withdraw_all(descriptor_state& state) noexcept {
  walk(state.requests, [&](request& what) {
    what.held_up_ = true;
    give_up(what, state);
  });
}

// Requests of an earlier life of the number, which somebody closed under them.
void backend::disinherit(descriptor_state& state) noexcept {
  walk(state.requests, [&](request& what) {
    what.held_up_ = true;
    if (give_up(what, state)) return;
    step_over(what);
    what.unlink();
    apart_.requests.push_back(what);
  });
}

namespace {

// SOCK_STREAM and its like; below 0: no socket.
int type_of(int fd) noexcept {
  int type = -1;
  socklen_t size = sizeof type;
  return ::getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) < 0 ? -1 : type;
}

// An error with which a connection is over, and which the kernel tells once.
bool ends_connection(int fd, int error) noexcept {
  switch (error) {
    case ECONNRESET:
      // A socket for datagrams lives on, and an empty one is a message.
      return type_of(fd) != SOCK_DGRAM;
    // Nobody answered, or what a router said last (icmp(7)), which is no reason while it lives.
    case ETIMEDOUT:
    case ECONNABORTED:
    case ECONNREFUSED:
    case EHOSTDOWN:
    case EHOSTUNREACH:
    case ENETUNREACH:
    case ENONET:
    case ENOPROTOOPT:
    case EPROTO:
    case EACCES: {
      tcp_info now{};
      socklen_t size = sizeof now;
      return ::getsockopt(fd, IPPROTO_TCP, TCP_INFO, &now, &size) == 0 && now.tcpi_state == TCP_CLOSE;
    }
    // Told each time (EPIPE, ENOTCONN), or of the call: too many parts, no memory, no offsets here.
    default: return false;
  }
}

}  // namespace

bool backend::is_empty_move(const request& what) noexcept {
  switch (what.kind) {
    case request_kind::read: return true;
    case request_kind::write:
    case request_kind::send: {
      // An empty message is one, and stands in line.
      const int type = type_of(what.fd);
      return type < 0 || type == SOCK_STREAM;
    }
    default: return false;
  }
}

int backend::lasting_failure(const request& what, int result) noexcept {
  // Of others' descriptors nobody knows when the number is another's.
  descriptor_state* const state = what.fd < 0 || what.closed_under() ? nullptr : descriptors_.find(what.fd);
  if (state == nullptr || !state->owned) return result;
  switch (what.kind) {
    case request_kind::connect: state->broken = 0; break;
    case request_kind::read:
    case request_kind::readv:
    case request_kind::recv:
    case request_kind::recv_multi:
    case request_kind::recvmsg:
      // A message from the error queue has no bytes of the peer's.
      if (result == 0 && state->broken != 0 && (what.flags & MSG_ERRQUEUE) == 0 &&
          (what.length != 0 || what.kind == request_kind::recv_multi)) {
        return state->broken;
      }
      [[fallthrough]];
    case request_kind::write:
    case request_kind::writev:
    case request_kind::send:
    case request_kind::sendmsg:
      if (result < 0 && ends_connection(what.fd, -result)) state->broken = result;
      break;
    default: break;
  }
  return result;
}

void backend::disown(int fd) noexcept {
  descriptor_state* const state = descriptors_.find(fd);
  if (state == nullptr) return;
  forget(fd, *state);
  state->begin_life(false);
}

bool backend::start_close(request& what) {
  descriptor_state& state = descriptors_[what.fd];
  state.closing = true;
  withdraw_all(state);
  if (state.requests.empty()) return !finish_close(what.fd, state, &what);
  state.closer = &what;
  arm(what, apart_);
  return true;
}

void backend::close_soon(int fd) noexcept {
  descriptor_state& state = descriptors_[fd];
  if (state.closing) return;
  state.closing = true;
  withdraw_all(state);
  if (state.requests.empty()) finish_close(fd, state, nullptr);
}

bool backend::finish_close(int fd, descriptor_state& state, request* closer) noexcept {
  forget(fd, state);
  const bool lingers = state.lingers;
  state.begin_life(false);
  if (lingers && closer == nullptr) {
    stop_lingering(fd);
  } else if (lingers) {
    if (closer->armed_) leave(*closer);
    try {
      return !do_start(*closer, apart_);
    } catch (const std::bad_alloc&) {
      // Rather hold up the loop than leave it open.
    }
  }
  request last = request::close(fd);
  const int result = perform(last);
  if (closer != nullptr) closer->result = result;
  return true;
}

void backend::drain() noexcept {
  draining_ = true;
  attended_ = -1;  // the watchers are gone, and their descriptor may be a stranger's
  descriptors_.for_each([&](int, descriptor_state& state) { withdraw_all(state); });
  walk(apart_.requests, [&](request& what) {
    if (what.kind != request_kind::close) give_up(what, apart_);
  });
  while (in_flight_ != 0) {
    if (blocking_.settle == nullptr || !blocking_.settle(blocking_.self)) wait(never);
  }
  if (chunks_ != nullptr) chunks_->orphan();
}

void backend::abandon() noexcept {
  // Of a thread of the parent, if any, whose stack is not here: whoever is told in a walk queues, and never forks.
  walkers_ = nullptr;
  // Whoever destroys a chunk finds no loop from here on, and may do so on any thread.
  if (chunks_ != nullptr) chunks_->orphan();
  do_abandon();
}

void backend::let_go() noexcept {
  const auto tell = [&](request& what) {
    leave(what);
    what.result = -ECANCELED;
    if (what.told != nullptr) what.told->done();
  };
  descriptors_.for_each([&](int fd, descriptor_state& state) {
    walk(state.requests, tell);
    state.lingers = false;
    if (state.closing) go_on_closing(fd);
  });
  walk(apart_.requests, tell);
}

}  // namespace coir
