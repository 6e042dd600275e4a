#include "sim_world.hpp"

#include <coir/base/error.hpp>

#include <fmt/format.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <span>

namespace coir::testing {

namespace {

// Calls visit(memory, bytes) for each part of the buffer of a request, until it answers false.
template <class Visit>
void for_each_part(const request& what, Visit&& visit) {
  const iovec* parts = nullptr;
  std::size_t count = 0;
  switch (what.kind) {
    case request_kind::readv:
    case request_kind::writev:
      parts = static_cast<const iovec*>(what.address);
      count = what.length;
      break;
    case request_kind::recvmsg:
    case request_kind::sendmsg: {
      const auto* const message = static_cast<const msghdr*>(what.address);
      parts = message->msg_iov;
      count = message->msg_iovlen;
      break;
    }
    default: visit(static_cast<std::byte*>(what.address), std::size_t{what.length}); return;
  }
  for (const iovec& part : std::span(parts, count)) {
    if (!visit(static_cast<std::byte*>(part.iov_base), part.iov_len)) return;
  }
}

std::size_t bytes_of(const request& what) {
  std::size_t total = 0;
  for_each_part(what, [&](std::byte*, std::size_t bytes) {
    total += bytes;
    return true;
  });
  return total;
}

// Zero bytes on the silent socket: is this direction still open?
bool can_send(int fd) { return ::send(fd, nullptr, 0, MSG_NOSIGNAL | MSG_DONTWAIT) >= 0; }
bool has_ended(int fd) {
  pollfd one{fd, POLLRDHUP, 0};
  return ::poll(&one, 1, 0) > 0;
}

constexpr int known_flags = MSG_PEEK | MSG_DONTWAIT | MSG_NOSIGNAL;

}  // namespace

// --- who is there ---

std::array<unique_fd, 2> sim_world::silent_pair() const {
  int both[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, both) < 0) {
    throw_error(errno, "descriptors for a simulated stream");
  }
  return {unique_fd(both[0]), unique_fd(both[1])};
}

sim_world::end& sim_world::add(int fd) {
  struct stat known {};
  if (::fstat(fd, &known) < 0) throw_error(errno, fmt::format("descriptor {} of a simulator", fd));
  end fresh{};
  fresh.number = known.st_ino;
  return ends_.insert_or_assign(fd, std::move(fresh)).first->second;
}

sim_world::end* sim_world::find(int fd) {
  const auto found = ends_.find(fd);
  if (found == ends_.end()) return nullptr;
  struct stat now {};
  if (::fstat(fd, &now) == 0 && now.st_ino == found->second.number && S_ISSOCK(now.st_mode)) {
    return &found->second;
  }
  // It was closed, and the number may be somebody else's.
  ends_.erase(found);
  return nullptr;
}

std::array<unique_fd, 2> sim_world::pair() {
  std::array<unique_fd, 2> both = silent_pair();
  end& first = add(both[0].get());
  end& second = add(both[1].get());
  first.in = second.out = std::make_shared<channel>();
  first.out = second.in = std::make_shared<channel>();
  return both;
}

unique_fd sim_world::listen(const net::address& where, std::size_t backlog) {
  for (auto at = ends_.begin(); at != ends_.end();) {
    const auto next = std::next(at);
    if (end* const other = find(at->first); other != nullptr && !other->in && other->where == where) {
      throw_error(EADDRINUSE, fmt::format("listening on {} in a simulator", where.to_string()));
    }
    at = next;
  }
  unique_fd made(::socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!made) throw_error(errno, "a descriptor for a simulated listener");
  end& of = add(made.get());
  of.backlog = std::max<std::size_t>(1, backlog);
  of.where = where;
  return made;
}

void sim_world::close_backlogs() {
  for (auto at = ends_.begin(); at != ends_.end();) {
    const auto next = std::next(at);
    if (!at->second.in) find(at->first);
    at = next;
  }
}

sim_world::end* sim_world::listener_at(const request& what) {
  const auto* const raw = static_cast<const sockaddr*>(what.address);
  if (raw == nullptr || (raw->sa_family != AF_INET && raw->sa_family != AF_INET6)) return nullptr;
  for (auto at = ends_.begin(); at != ends_.end();) {
    const auto next = std::next(at);
    if (end* const of = find(at->first); of != nullptr && !of->in && what.length == of->where.raw_bytes() &&
                                         net::address::from(*raw, what.length) == of->where) {
      return of;
    }
    at = next;
  }
  return nullptr;
}

void sim_world::reset(int fd) {
  end* const of = find(fd);
  if (of == nullptr || !of->in) throw_misuse(fmt::format("descriptor {} is no simulated stream", fd));
  for (channel* const each : {of->in.get(), of->out.get()}) {
    each->bytes.clear();
    each->cut = true;
  }
}

std::size_t sim_world::unread(int fd) {
  end* const of = find(fd);
  if (of == nullptr || !of->in) throw_misuse(fmt::format("descriptor {} is no simulated stream", fd));
  return of->in->bytes.size();
}

// --- requests ---

bool sim_world::has(const request& what) {
  if (what.kind == request_kind::connect && listener_at(what) != nullptr) return true;
  return !ends_.empty() && find(what.fd) != nullptr;
}

std::size_t sim_world::share_of(std::size_t possible) noexcept {
  if (possible < 2 || !draws.chance(options.short_)) return possible;
  return 1 + static_cast<std::size_t>(draws.below(possible - 1));
}

void sim_world::note(std::uint64_t number, int result) noexcept {
  for (const std::uint64_t word : {number, static_cast<std::uint64_t>(static_cast<unsigned>(result))}) {
    fingerprint = (fingerprint ^ word) * 0x100'0000'01b3;
  }
}

// That the connection was cut is heard once by each end; then it is one that is over.
int sim_world::hear_reset(end& of) {
  if (!of.in->cut || std::exchange(of.heard_reset, true)) return 0;
  return -ECONNRESET;
}

int sim_world::receive(const request& what, end& of) {
  if (!of.in) return -EINVAL;
  if ((what.flags & ~known_flags) != 0) return -EOPNOTSUPP;
  if (const int error = hear_reset(of); error != 0) return error;
  std::vector<std::byte>& bytes = of.in->bytes;
  const std::size_t wanted = bytes_of(what);
  if (wanted == 0) return 0;
  if (bytes.empty()) return of.in->cut || has_ended(what.fd) ? 0 : -EAGAIN;
  const std::size_t count = share_of(std::min(wanted, bytes.size()));
  std::size_t done = 0;
  for_each_part(what, [&](std::byte* to, std::size_t room) {
    const std::size_t some = std::min(room, count - done);
    std::memcpy(to, bytes.data() + done, some);
    done += some;
    return done < count;
  });
  if ((what.flags & MSG_PEEK) == 0) {
    bytes.erase(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(count));
  }
  return static_cast<int>(count);
}

int sim_world::send(const request& what, end& of) {
  if (!of.in) return -ENOTCONN;
  if ((what.flags & ~known_flags) != 0) return -EOPNOTSUPP;
  if (const int error = hear_reset(of); error != 0) return error;
  if (of.out->cut || !can_send(what.fd)) return -EPIPE;
  std::vector<std::byte>& bytes = of.out->bytes;
  const std::size_t wanted = bytes_of(what);
  if (wanted == 0) return 0;
  if (bytes.size() >= options.buffer_bytes_) return -EAGAIN;
  std::size_t left = share_of(std::min(wanted, options.buffer_bytes_ - bytes.size()));
  const auto count = static_cast<int>(left);
  for_each_part(what, [&](const std::byte* from, std::size_t size) {
    const std::size_t some = std::min(size, left);
    bytes.insert(bytes.end(), from, from + some);
    left -= some;
    return left != 0;
  });
  return count;
}

int sim_world::accept(end& of) {
  if (of.in) return -EINVAL;
  if (of.waiting.empty()) return -EAGAIN;
  const int accepted = of.waiting.front().release();
  of.waiting.pop_front();
  return accepted;
}

// The client's socket becomes one end of a pair, under its own number.
int sim_world::connect(const request& what) {
  end* const mine = find(what.fd);
  if (mine != nullptr) return mine->in ? -EISCONN : -EINVAL;
  end* const of = listener_at(what);
  if (of == nullptr) return -ECONNREFUSED;
  if (of->waiting.size() >= of->backlog) return -EAGAIN;
  int type = 0;
  socklen_t size = sizeof type;
  if (::getsockopt(what.fd, SOL_SOCKET, SO_TYPE, &type, &size) < 0) return -errno;
  if (type != SOCK_STREAM) return -EPROTOTYPE;
  std::array<unique_fd, 2> both = silent_pair();
  if (::dup3(both[0].get(), what.fd, O_CLOEXEC) < 0) return -errno;
  end& client = add(what.fd);
  end& server = add(both[1].get());
  client.in = server.out = std::make_shared<channel>();
  client.out = server.in = std::make_shared<channel>();
  listener_at(what)->waiting.push_back(std::move(both[1]));
  return 0;
}

int sim_world::poll(const request& what, end& of) {
  int events = 0;
  if (!of.in) {
    if (!of.waiting.empty()) events |= POLLIN | POLLRDNORM;
  } else {
    const bool ended = of.in->cut || has_ended(what.fd);
    const bool broken = of.out->cut || !can_send(what.fd);
    if (!of.in->bytes.empty() || ended) events |= POLLIN | POLLRDNORM;
    if (ended) events |= POLLRDHUP;
    if (broken || of.out->bytes.size() < options.buffer_bytes_) events |= POLLOUT | POLLWRNORM;
    if (ended && broken) events |= POLLHUP;
    if (of.in->cut && !of.heard_reset) events |= POLLERR;
  }
  events &= what.flags | POLLHUP | POLLERR;
  return events == 0 ? -EAGAIN : events;
}

int sim_world::attempt(request& what) {
  if (what.kind == request_kind::connect) return connect(what);
  end* const of = find(what.fd);
  if (of == nullptr) return -EBADF;  // closed behind our back
  switch (what.kind) {
    case request_kind::read:
    case request_kind::readv:
    case request_kind::recv:
    case request_kind::recv_multi:
    case request_kind::recvmsg: return receive(what, *of);
    case request_kind::write:
    case request_kind::writev:
    case request_kind::send:
    case request_kind::sendmsg: return send(what, *of);
    case request_kind::accept:
    case request_kind::accept_multi: return accept(*of);
    case request_kind::poll: return poll(what, *of);
    default: return -EINVAL;
  }
}

bool sim_world::is_ready(const request& what) {
  if (what.kind == request_kind::connect) {
    end* const of = listener_at(what);
    return of == nullptr || find(what.fd) != nullptr || of->waiting.size() < of->backlog;
  }
  end* const of = find(what.fd);
  if (of == nullptr) return true;
  if (what.kind == request_kind::poll) return poll(what, *of) != -EAGAIN;
  // It will be refused.
  if ((what.flags & ~known_flags) != 0) return true;
  switch (what.kind) {
    case request_kind::accept:
    case request_kind::accept_multi: return of->in || !of->waiting.empty();
    case request_kind::write:
    case request_kind::writev:
    case request_kind::send:
    case request_kind::sendmsg:
      return !of->in || of->in->cut || of->out->bytes.size() < options.buffer_bytes_ || !can_send(what.fd) ||
             bytes_of(what) == 0;
    default:
      // The buffer of a recv_multi is chosen when it is served.
      return !of->in || of->in->cut || !of->in->bytes.empty() || has_ended(what.fd) ||
             (what.kind != request_kind::recv_multi && bytes_of(what) == 0);
  }
}

}  // namespace coir::testing
