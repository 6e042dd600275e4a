#include <coir/net/tcp.hpp>

#include "acceptor.hpp"
#include "receiver.hpp"
#include "socket.hpp"

#include <coir/base/error.hpp>

#include <fmt/format.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>

namespace coir::net {

using priv::set_option;

// --- options ---

void tcp_options::apply(const descriptor& to) const {
  const int fd = to.get();
  set_option(fd, IPPROTO_TCP, TCP_NODELAY, no_delay_ ? 1 : 0, "TCP_NODELAY");
  if (keep_alive_) {
    set_option(fd, SOL_SOCKET, SO_KEEPALIVE, 1, "SO_KEEPALIVE");
    set_option(fd, IPPROTO_TCP, TCP_KEEPIDLE, static_cast<int>(keep_idle_.count()), "TCP_KEEPIDLE");
    set_option(fd, IPPROTO_TCP, TCP_KEEPINTVL, static_cast<int>(keep_interval_.count()),
               "TCP_KEEPINTVL");
    set_option(fd, IPPROTO_TCP, TCP_KEEPCNT, keep_probes_, "TCP_KEEPCNT");
  }
  if (linger_) {
    const struct ::linger wanted{1, static_cast<int>(linger_->count())};
    if (::setsockopt(fd, SOL_SOCKET, SO_LINGER, &wanted, sizeof wanted) < 0) {
      throw_error(errno, fmt::format("setting SO_LINGER to {} s on descriptor {}",
                                     linger_->count(), fd));
    }
    if (linger_->count() > 0) to.on().lingers(fd);
  }
}

// --- reading ---

tcp_read_op::tcp_read_op(loop& on, int fd, priv::receiver* receiver, std::span<std::byte> into,
                         bool* drained) noexcept
    : receive_wait(copy_bytes),
      direct_(on, request::recv(fd, into)),
      receiver_(receiver),
      into_(into),
      drained_(drained) {}

bool tcp_read_op::start(waiter& told) {
  if (into_.empty()) return false;
  if (receiver_ != nullptr) return receiver_->wait(*this, told);
  direct_.expect_wait(*drained_);
  return direct_.start(told);
}

abort_answer tcp_read_op::abort() noexcept {
  if (receiver_ == nullptr) return direct_.abort();
  receiver_->stop_waiting();
  return abort_answer::now;
}

void tcp_read_op::copy_bytes(receive_wait& self, priv::receiver& from) noexcept {
  auto& mine = static_cast<tcp_read_op&>(self);
  mine.count_ = from.take_into(mine.into_);
}

result<std::size_t> tcp_read_op::take_result() {
  if (receiver_ == nullptr) {
    const result<std::size_t> got = direct_.take_result();
    if (got) *drained_ = !direct_.more_waits();
    return got;
  }
  if (error_ != 0) return unexpected<std::error_code>(error_of(error_));
  return count_;
}

std::size_t tcp_read_op::take() {
  if (receiver_ == nullptr) {
    const std::size_t got = direct_.take();
    *drained_ = !direct_.more_waits();
    return got;
  }
  if (error_ != 0) throw_error(error_, "receiving from a TCP stream");
  return count_;
}

void tcp_read_op::describe(std::string& text) const { direct_.describe(text); }

chunk_op::chunk_op(priv::receiver& from) noexcept : receive_wait(accept_chunk), from_(&from) {}

bool chunk_op::start(waiter& told) { return from_->wait(*this, told); }

abort_answer chunk_op::abort() noexcept {
  from_->stop_waiting();
  return abort_answer::now;
}

void chunk_op::accept_chunk(receive_wait& self, priv::receiver& from) noexcept {
  static_cast<chunk_op&>(self).arrived_ = from.take();
}

std::optional<chunk> chunk_op::take() {
  if (error_ != 0) throw_error(error_, "receiving from a TCP stream");
  return std::move(arrived_);
}

result<std::optional<chunk>> chunk_op::take_result() {
  if (error_ != 0) return unexpected<std::error_code>(error_of(error_));
  return std::move(arrived_);
}

// --- connecting ---

connect_op::connect_op(loop& on, const address& where, const tcp_options& options)
    : where_(where), socket_(on, priv::open_stream_socket(where)) {
  options.apply(socket_);
}

bool connect_op::start(waiter& told) {
  // Here and not in the constructor: the address must stay where it is.
  what_ = request::connect(socket_.get(), where_.raw(), where_.raw_bytes());
  what_.told = &told;
  return socket_.on().start(what_);
}

abort_answer connect_op::abort() noexcept {
  aborted_ = true;
  return socket_.on().withdraw(what_);
}

result<tcp_stream> connect_op::take_result() {
  if (what_.result < 0) {
    if (aborted_ && what_.result == -ECANCELED) throw cancelled();
    return unexpected<std::error_code>(error_of(-what_.result));
  }
  loop& on = socket_.on();
  return tcp_stream(on, std::move(socket_));
}

tcp_stream connect_op::take() {
  result<tcp_stream> connected = take_result();
  if (!connected) {
    throw std::system_error(connected.error(), fmt::format("connecting to {}", where_.to_string()));
  }
  return std::move(*connected);
}

void connect_op::describe(std::string& text) const { text += " to " + where_.to_string(); }

// --- tcp_stream ---

namespace {

descriptor non_blocking(loop& on, int fd) {
  descriptor owned(on, fd);
  const int flags = ::fcntl(fd, F_GETFL);
  if (flags < 0 || ::fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0) {
    throw_error(errno, fmt::format("making descriptor {} non-blocking", fd));
  }
  return owned;
}

}  // namespace

tcp_stream::tcp_stream(loop& on, descriptor socket) noexcept
    : loop_(&on), socket_(std::move(socket)) {}
tcp_stream::tcp_stream(loop& on, int fd) : tcp_stream(on, non_blocking(on, fd)) {}
tcp_stream::tcp_stream(tcp_stream&& other) noexcept = default;
tcp_stream& tcp_stream::operator=(tcp_stream&& other) noexcept = default;
tcp_stream::~tcp_stream() = default;

connect_op tcp_stream::connect(const address& where, const tcp_options& options) {
  return {priv::loop_here("a TCP connection"), where, options};
}

chunk_reader tcp_stream::chunks() {
  if (receiver_ == nullptr) receiver_.reset(new priv::receiver(*loop_, socket_.get()));
  return chunk_reader(*receiver_);
}

void tcp_stream::shutdown(direction which) {
  constexpr int how[] = {SHUT_RD, SHUT_WR, SHUT_RDWR};
  // A peer that is gone has shut down both.
  if (::shutdown(socket_.get(), how[static_cast<int>(which)]) < 0 && errno != ENOTCONN) {
    throw_error(errno, fmt::format("shutdown of descriptor {}", socket_.get()));
  }
}

request_op<nothing> tcp_stream::close() {
  receiver_.reset();
  return {*loop_, request::close(socket_.release())};
}

address tcp_stream::local_address() const { return priv::local_address(socket_.get()); }
address tcp_stream::peer_address() const { return priv::peer_address(socket_.get()); }

// --- listening ---

namespace {

descriptor listening(loop& on, const address& where, bool reuse_address, bool reuse_port,
                     bool only_v6, int backlog, const tcp_options& streams) {
  descriptor socket(on, priv::open_stream_socket(where));
  const int fd = socket.get();
  if (reuse_address) set_option(fd, SOL_SOCKET, SO_REUSEADDR, 1, "SO_REUSEADDR");
  if (reuse_port) set_option(fd, SOL_SOCKET, SO_REUSEPORT, 1, "SO_REUSEPORT");
  if (where.is_v6()) set_option(fd, IPPROTO_IPV6, IPV6_V6ONLY, only_v6 ? 1 : 0, "IPV6_V6ONLY");
  // What is set here is what accepted sockets begin with: no system call for each of them.
  streams.apply(socket);
  if (::bind(fd, where.raw(), where.raw_bytes()) < 0 || ::listen(fd, backlog) < 0) {
    throw_error(errno, fmt::format("listening on {}", where.to_string()));
  }
  return socket;
}

}  // namespace

tcp_listener::tcp_listener(const address& where, const tcp_listener_options& options)
    : tcp_listener(priv::loop_here("a TCP listener"), where, options) {}

tcp_listener::tcp_listener(loop& on, const address& where, const tcp_listener_options& options)
    : acceptor_(new priv::acceptor(
          on,
          listening(on, where, options.reuse_address_, options.reuse_port_, options.only_v6_,
                    options.backlog_, options.streams_),
          options.streams_.lingers())) {}

tcp_listener::tcp_listener(tcp_listener&& other) noexcept = default;
tcp_listener& tcp_listener::operator=(tcp_listener&& other) noexcept = default;
tcp_listener::~tcp_listener() = default;

address tcp_listener::local_address() const { return priv::local_address(acceptor_->fd()); }
tcp_listener_stats tcp_listener::stats() const noexcept { return acceptor_->stats(); }
int tcp_listener::fd() const noexcept { return acceptor_->fd(); }

bool accept_op::start(waiter& told) { return from_->wait(*this, told); }

abort_answer accept_op::abort() noexcept {
  return from_->stop_waiting(*this) ? abort_answer::now : abort_answer::later;
}

result<tcp_stream> accept_op::take_result() {
  if (error_ != 0) return unexpected<std::error_code>(error_of(error_));
  loop& on = accepted_.on();
  return tcp_stream(on, std::move(accepted_));
}

tcp_stream accept_op::take() {
  if (error_ != 0) throw_error(error_, "accepting a TCP connection");
  loop& on = accepted_.on();
  return tcp_stream(on, std::move(accepted_));
}

void accept_op::describe(std::string& text) const {
  text += fmt::format(" on descriptor {}", from_->fd());
}

}  // namespace coir::net
