#include <coir/net/tcp.hpp>

#include "acceptor.hpp"
#include "receiver.hpp"
#include "socket.hpp"

#include <coir/base/error.hpp>

#include <fmt/format.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <limits>
#include <stdexcept>
#include <utility>

namespace coir::net {

using priv::set_option;

// --- options ---

namespace {

// What does not fit is the longest there is, or less than no time, which the kernel may refuse.
int as_int(std::chrono::seconds time) noexcept {
  using limits = std::numeric_limits<int>;
  return static_cast<int>(std::clamp<std::chrono::seconds::rep>(time.count(), limits::min(), limits::max()));
}

template <class Op>
[[noreturn]] void throw_failed(int error, std::string text, const Op& which) {
  which.describe(text);
  throw_error(error, text);
}

}  // namespace

void tcp_options::apply(const descriptor& to) const {
  set_on(to.get());
  if (lingers()) to.on().lingers(to.get());
}

void tcp_options::set_on(int fd) const {
  set_option(fd, IPPROTO_TCP, TCP_NODELAY, no_delay_ ? 1 : 0, "TCP_NODELAY");
  if (keep_alive_) {
    set_option(fd, SOL_SOCKET, SO_KEEPALIVE, 1, "SO_KEEPALIVE");
    set_option(fd, IPPROTO_TCP, TCP_KEEPIDLE, as_int(keep_idle_), "TCP_KEEPIDLE");
    set_option(fd, IPPROTO_TCP, TCP_KEEPINTVL, as_int(keep_interval_), "TCP_KEEPINTVL");
    set_option(fd, IPPROTO_TCP, TCP_KEEPCNT, keep_probes_, "TCP_KEEPCNT");
  }
  if (linger_) {
    const struct ::linger wanted{1, as_int(*linger_)};
    if (::setsockopt(fd, SOL_SOCKET, SO_LINGER, &wanted, sizeof wanted) < 0) {
      throw_error(errno, fmt::format("setting SO_LINGER to {} s on descriptor {}",
                                     linger_->count(), fd));
    }
  }
}

// --- reading ---

namespace priv {

void throw_negative_linger(std::chrono::seconds limit) {
  throw std::invalid_argument(fmt::format("linger for {} s: less than no time", limit.count()));
}

reading& reading::operator=(reading&& other) noexcept {
  if (this == &other) return *this;
  forget();
  op_ = std::exchange(other.op_, nullptr);
  expect_wait_ = other.expect_wait_;
  if (op_ != nullptr) op_->stream_ = this;
  return *this;
}

void receive_wait::throw_ended() {
  throw_misuse("reading from a TCP stream that ended while the same read waited");
}

void reading::forget() noexcept {
  if (op_ == nullptr) return;
  op_->stream_ = nullptr;
  std::exchange(op_, nullptr)->in_stream_ = false;
}

}  // namespace priv

// What arrived for chunks(), nothing at all, or a second reader.
bool tcp_read_op::start_otherwise(waiter& told) {
  if (into_.empty()) return false;
  if (ended() || (receiver_ == nullptr && stream_ == nullptr)) throw_ended();
  if (receiver_ != nullptr) return receiver_->wait(*this, told);
  priv::throw_two_readers();
}

abort_answer tcp_read_op::abort() noexcept {
  if (receiver_ != nullptr) {
    receiver_->stop_waiting();
    return abort_answer::now;
  }
  const abort_answer answer = direct_.abort();
  if (answer == abort_answer::now) leave_stream();
  return answer;
}

void tcp_read_op::copy_bytes(receive_wait& self, priv::receiver& from) noexcept {
  auto& mine = static_cast<tcp_read_op&>(self);
  mine.count_ = from.take_into(mine.into_);
}

result<std::size_t> tcp_read_op::take_result() {
  if (into_.empty()) return std::size_t{0};
  if (receiver_ == nullptr) {
    leave_stream();
    return direct_.take_result();
  }
  if (error_ != 0) return unexpected<std::error_code>(error_of(error_));
  return count_;
}

std::size_t tcp_read_op::take_otherwise() {
  if (into_.empty()) return 0;
  if (error_ != 0) throw_failed(error_, "receiving from a TCP stream", *this);
  return count_;
}

void tcp_read_op::describe(std::string& text) const { direct_.describe(text); }

chunk_op::chunk_op(priv::receiver& from) noexcept : receive_wait(accept_chunk), from_(&from), fd_(from.fd()) {}

bool chunk_op::start(waiter& told) {
  if (ended()) throw_ended();
  return from_->wait(*this, told);
}

abort_answer chunk_op::abort() noexcept {
  from_->stop_waiting();
  return abort_answer::now;
}

void chunk_op::accept_chunk(receive_wait& self, priv::receiver& from) noexcept {
  static_cast<chunk_op&>(self).arrived_ = from.take();
}

void chunk_op::throw_failure() const { throw_failed(error_, "receiving from a TCP stream", *this); }

result<std::optional<chunk>> chunk_op::take_result() {
  if (error_ != 0) return unexpected<std::error_code>(error_of(error_));
  return taken();
}

void chunk_op::describe(std::string& text) const { text += fmt::format(" on descriptor {}", fd_); }

// --- connecting ---

connect_op::connect_op(loop& on, const address& where, const tcp_options& options)
    : on_(&on), where_(where), options_(options), socket_(made()) {}

descriptor connect_op::made() const {
  descriptor socket(*on_, priv::open_stream_socket(where_));
  options_.apply(socket);
  return socket;
}

bool connect_op::start(waiter& told) {
  // The socket of the last time is a stream, or refused, or still connects.
  if (std::exchange(began_, true)) {
    socket_ = descriptor();
    socket_ = made();
  }
  aborted_ = false;
  // Here and not in the constructor: the address must stay where it is.
  what_ = request::connect(socket_.get(), where_.raw(), where_.raw_bytes());
  what_.told = &told;
  return on_->start(what_);
}

abort_answer connect_op::abort() noexcept {
  aborted_ = true;
  return on_->withdraw(what_);
}

result<tcp_stream> connect_op::take_result() {
  if (what_.result < 0) {
    if (aborted_ && what_.result == -ECANCELED) throw cancelled();
    return unexpected<std::error_code>(error_of(-what_.result));
  }
  return tcp_stream(*on_, std::move(socket_));
}

tcp_stream connect_op::take() {
  result<tcp_stream> connected = take_result();
  if (!connected) {
    throw std::system_error(connected.error(), fmt::format("connecting to {}", where_.to_string()));
  }
  return std::move(*connected);
}

void connect_op::describe(std::string& text) const { text += " to " + where_.to_string(); }

// --- closing ---

bool tcp_close_op::start(waiter& told) {
  // Closed before: twice is as good as once.
  if (!socket_) return false;
  what_ = request::close(socket_.get());
  what_.told = &told;
  const bool waits = socket_.on().start(what_);
  // A loop that ends begins nothing more: it is closed with this op.
  if (waits || what_.result != -ECANCELED) static_cast<void>(socket_.hand_to_close());
  return waits;
}

abort_answer tcp_close_op::abort() noexcept { return socket_.on().withdraw(what_); }

void tcp_close_op::take() const {
  if (what_.result < 0) throw_failed(-what_.result, "closing a TCP stream", *this);
}

result<void> tcp_close_op::take_result() const {
  if (what_.result < 0) return unexpected<std::error_code>(error_of(-what_.result));
  return {};
}

void tcp_close_op::describe(std::string& text) const {
  text += fmt::format(" of descriptor {}", what_.fd);
}

// --- tcp_stream ---

namespace {

// Closing may wait, by what somebody has set on the socket before.
bool lingers(int fd) noexcept {
  ::linger how{};
  socklen_t size = sizeof how;
  return ::getsockopt(fd, SOL_SOCKET, SO_LINGER, &how, &size) == 0 && how.l_onoff != 0 && how.l_linger > 0;
}

descriptor taken_over(loop& on, int fd) {
  descriptor owned(on, fd);
  const int flags = ::fcntl(fd, F_GETFL);
  if (flags < 0 || ::fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0) {
    throw_error(errno, fmt::format("making descriptor {} non-blocking", fd));
  }
  if (lingers(fd)) on.lingers(fd);
  return owned;
}

}  // namespace

tcp_stream::tcp_stream(loop& on, descriptor socket) noexcept
    : loop_(&on), socket_(std::move(socket)) {}
tcp_stream::tcp_stream(loop& on, int fd) : tcp_stream(on, taken_over(on, fd)) {}
tcp_stream::tcp_stream(tcp_stream&& other) noexcept = default;
tcp_stream& tcp_stream::operator=(tcp_stream&& other) noexcept = default;
tcp_stream::~tcp_stream() = default;

connect_op tcp_stream::connect(const address& where, const tcp_options& options) {
  return {priv::running_loop("a TCP connection"), where, options};
}

chunk_reader tcp_stream::chunks() {
  if (receiver_ == nullptr) {
    if (reading_.busy()) priv::throw_two_readers();
    receiver_.reset(new priv::receiver(*loop_, socket_.get()));
  }
  return chunk_reader(*receiver_);
}

void tcp_stream::shutdown(direction which) {
  constexpr int how[] = {SHUT_RD, SHUT_WR, SHUT_RDWR};
  // A peer that is gone has shut down both.
  if (::shutdown(socket_.get(), how[static_cast<int>(which)]) < 0 && errno != ENOTCONN) {
    throw_error(errno, fmt::format("shutdown of descriptor {}", socket_.get()));
  }
}

tcp_close_op tcp_stream::close() {
  // It stays for the sake of chunk_readers, which then hear that the stream is closed.
  if (receiver_ != nullptr) receiver_->shut();
  return tcp_close_op(std::move(socket_));
}

int tcp_stream::release() {
  if (reading_.busy()) throw_misuse("a stream was released while somebody reads from it");
  if (receiver_ != nullptr) throw_misuse("a stream was released after chunks(), which may hold bytes of it");
  return socket_.release();
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
  streams.set_on(fd);
  if (::bind(fd, where.raw(), where.raw_bytes()) < 0 || ::listen(fd, backlog) < 0) {
    throw_error(errno, fmt::format("listening on {}", where.to_string()));
  }
  return socket;
}

}  // namespace

tcp_listener::tcp_listener(const address& where, const tcp_listener_options& options)
    : tcp_listener(priv::running_loop("a TCP listener"), where, options) {}

tcp_listener::tcp_listener(loop& on, const address& where, const tcp_listener_options& options)
    : acceptor_(new priv::acceptor(
          on,
          listening(on, where, options.reuse_address_, options.reuse_port_, options.only_v6_,
                    options.backlog_, options.streams_),
          options.streams_.lingers())) {}

tcp_listener::tcp_listener(loop& on, int fd)
    : acceptor_(new priv::acceptor(on, taken_over(on, fd), lingers(fd))) {}

tcp_listener::tcp_listener(tcp_listener&& other) noexcept = default;
tcp_listener& tcp_listener::operator=(tcp_listener&& other) noexcept = default;
tcp_listener::~tcp_listener() = default;

address tcp_listener::local_address() const { return priv::local_address(acceptor_->fd()); }
tcp_listener_stats tcp_listener::stats() const noexcept { return acceptor_->stats(); }
int tcp_listener::fd() const noexcept { return acceptor_->fd(); }

accept_op::accept_op(priv::acceptor& from) noexcept : from_(&from), fd_(from.fd()) {}

bool accept_op::start(waiter& told) {
  if (from_ == nullptr) throw_misuse("accepting from a TCP listener that ended while the same accept waited");
  return from_->wait(*this, told);
}

abort_answer accept_op::abort() noexcept {
  return from_ != nullptr && from_->stop_waiting(*this) ? abort_answer::now : abort_answer::later;
}

result<tcp_stream> accept_op::take_result() {
  if (error_ != 0) return unexpected<std::error_code>(error_of(error_));
  loop& on = accepted_.on();
  return tcp_stream(on, std::move(accepted_));
}

tcp_stream accept_op::take() {
  if (error_ != 0) throw_failed(error_, "accepting a TCP connection", *this);
  loop& on = accepted_.on();
  return tcp_stream(on, std::move(accepted_));
}

void accept_op::describe(std::string& text) const { text += fmt::format(" on descriptor {}", fd_); }

}  // namespace coir::net
