#include "backend_epoll.hpp"

#include <coir/base/error.hpp>
#include <coir/base/fd.hpp>

#include "epoll_sleep.hpp"
#include "request_row.hpp"

#include <fmt/format.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <span>
#include <utility>

namespace coir {

namespace {

// One registration per descriptor, made when a request first finds it not ready, and left in place:
// edge-triggered, so that requests come and go without a system call. What an edge said is remembered
// in descriptor_state until a call answers "would block".
constexpr std::uint32_t edges = EPOLLIN | EPOLLPRI | EPOLLOUT | EPOLLRDHUP | EPOLLET;

// Events per wait, and results per multishot request and turn: more are taken on the next turn, after
// the fibers had theirs.
constexpr std::size_t events_per_wait = 256;
// With nothing else to do few are taken at a time, because between the receive for a fiber and what that sends come those
// for all others in the batch, and each takes kilobytes of the kernel's through the cache. Not beside other work: fibers
// that are ready may take 10 ms of each turn, and descriptors would come too short.
constexpr std::size_t events_per_sleep = 32;
constexpr int results_per_turn = 64;

// What follows the last in the chain of those to serve again; a descriptor in it is its number plus one.
constexpr int chain_end = -1;

constexpr std::uint64_t wake_data = ~std::uint64_t{0};
constexpr std::uint64_t attended_data = wake_data - 1;

std::uint64_t data_of(int fd, const descriptor_state& state) noexcept {
  return static_cast<std::uint64_t>(state.generation) << 32 | static_cast<std::uint32_t>(fd);
}

bool may_block(const request& what, const request_row& row) noexcept {
  if (row.may_block == blocking::no) [[likely]]
    return false;
  return row.may_block == blocking::yes || what.offset != request::no_offset;
}
bool may_block(const request& what) noexcept { return may_block(what, row_of(what.kind)); }

class epoll_backend final : public backend {
 public:
  epoll_backend(trace::control& trace, const backend_settings& settings);
  ~epoll_backend() override { epoll_ ? drain() : let_go(); }

  std::size_t wait(instant deadline) override;
  void submit() override {}
  bool has_more() const noexcept override { return unfinished_ != chain_end; }
  int pollable_fd() override { return epoll_.get(); }
  std::string describe() const override;

 private:
  bool do_start(request& what, descriptor_state& state) override;
  abort_answer do_withdraw(request& what, descriptor_state& state) noexcept override;
  void do_abandon() noexcept override { epoll_.reset(); }
  void forget(int fd, descriptor_state& state) noexcept override;
  void do_attend(int set) override;
  void do_unattend() noexcept override { ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, attended_, nullptr); }

  [[gnu::noinline]] bool start_blocking(request& what, descriptor_state& state);
  [[gnu::noinline]] bool begin_watching(request& what, descriptor_state& state);
  bool watch(int fd, descriptor_state& state, int& error) noexcept;
  [[gnu::noinline]] bool take_chunk(request& what) noexcept;
  [[gnu::noinline]] void serve_later(int fd, descriptor_state& state) noexcept;
  std::size_t serve_unfinished(int first) noexcept;
  template <bool Plain>
  int attempt(const request_row& row, request& what, descriptor_state& state) noexcept;
  template <bool Plain>
  bool start_as(const request_row& row, request& what, descriptor_state& state);
  [[gnu::noinline]] bool start_special(request& what, descriptor_state& state) {
    return start_as<false>(row_of(what.kind), what, state);
  }
  bool waits_ahead(const descriptor_state& state, bool for_input) const noexcept;
  // In the middle of a wait nothing may throw: the edges not yet looked at would be lost.
  void serve(int fd, descriptor_state& state) noexcept;
  [[gnu::noinline]] void serve_special(request& what, descriptor_state& state, bool& input,
                                       bool& output) noexcept;
  bool serve_multishot(request& what, descriptor_state& state) noexcept;
  void unwatch_foreign(int fd, descriptor_state& state) noexcept;
  int rebuild() noexcept;

  unique_fd epoll_;
  int wake_fd_;
  epoll_sleep sleep_;
  int unfinished_ = chain_end;   // the first descriptor with results left from the last turn
};

// Reads that take what they give from elsewhere, or leave it in place: they say nothing of what is left.
constexpr int from_elsewhere = MSG_OOB | MSG_ERRQUEUE;
constexpr int looks_only = MSG_PEEK | from_elsewhere;

// That it would block says that nothing is there to read, or no room to write.
bool asks_direction(const request& what) noexcept {
  if (what.kind == request_kind::poll) return (what.flags & (POLLIN | POLLOUT)) != 0;
  return (what.flags & from_elsewhere) == 0;
}

// Takes its turn among those that want the same direction. Polls take nothing away, and may wait for both
// directions; what comes from elsewhere does not wait for the data.
bool stands_in_line(const request& what) noexcept {
  return what.kind != request_kind::poll && (what.flags & from_elsewhere) == 0;
}

// A multishot request that the kernel would refuse, but would never show to be ready either. An errno, or
// 0.
int refusal(const request& what) noexcept {
  int listens = 0;
  socklen_t size = sizeof listens;
  if (::getsockopt(what.fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &size) < 0) return errno;
  return what.kind == request_kind::accept_multi && listens == 0 ? EINVAL : 0;
}

// Waits for one direction, in line, and has one result: what nearly all requests are. The functions on their way
// exist twice, so that one test here is all that the others cost.
bool is_plain(const request& what, const request_row& row) noexcept {
  return row.plain() && (what.flags & from_elsewhere) == 0;
}

template <bool Plain = false>
bool for_input(const request& what, const request_row& row) noexcept {
  if (!Plain && what.kind == request_kind::poll) return (what.flags & POLLOUT) == 0;
  return (row.readiness & POLLIN) != 0;
}
bool for_input(const request& what) noexcept { return for_input(what, row_of(what.kind)); }

epoll_backend::epoll_backend(trace::control& trace, const backend_settings& settings)
    : backend(trace, settings.chunks, settings.chunk_bytes), wake_fd_(settings.wake_fd) {
  if (const int error = rebuild(); error != 0) throw_error(error, "epoll set of a loop");
}

// Makes the epoll set anew and answers an errno, or 0. At the start, and when a registration fires that
// cannot be removed: its descriptor was closed behind our back while a duplicate keeps the open file, and
// the registration with it, alive.
int epoll_backend::rebuild() noexcept {
  unique_fd fresh(::epoll_create1(EPOLL_CLOEXEC));
  if (!fresh) return errno;
  const auto add = [&](int fd, std::uint32_t events, std::uint64_t data) {
    epoll_event event{};
    event.events = events;
    event.data.u64 = data;
    return ::epoll_ctl(fresh.get(), EPOLL_CTL_ADD, fd, &event) < 0 ? errno : 0;
  };
  if (const int error = add(wake_fd_, EPOLLIN | EPOLLET, wake_data); error != 0) return error;
  if (attended_ >= 0) {
    if (const int error = add(attended_, EPOLLIN, attended_data); error != 0) return error;
  }
  descriptors_.for_each([&](int fd, descriptor_state& state) {
    if (!state.watched) return;
    // A number that was closed behind our back may be the new set's own by now.
    state.watched = fd != fresh.get() && add(fd, edges, data_of(fd, state)) == 0;
    // The new registration reports what is ready; until then, trying is the safe answer.
    state.readable = state.writable = true;
  });
  epoll_ = std::move(fresh);
  // Closed, or no memory for the new entry: nothing would ever report on it again, so those who wait are
  // told now. Not before the new set is ours: whoever is told may start something, which belongs in there.
  descriptors_.for_each([&](int fd, descriptor_state& state) {
    if (state.watched) return;
    int refused = EBADF;
    walk(state.requests, [&](request& what) {
      if (may_block(what) || state.watched) return;
      if (fd == epoll_.get() || !watch(fd, state, refused)) complete(what, -refused);
    });
  });
  return 0;
}

// Level-triggered: what it has is told again in the next wait, until the watchers have taken it.
void epoll_backend::do_attend(int set) {
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.u64 = attended_data;
  if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, set, &event) < 0) {
    throw_error(errno, "the watchers' epoll set in that of the requests");
  }
}

std::string epoll_backend::describe() const {
  return fmt::format("epoll, edge-triggered, {} to {} events a wait, {}", events_per_sleep, events_per_wait,
                     sleep_.in_nanoseconds() ? "epoll_pwait2" : "epoll_wait in milliseconds");
}

bool epoll_backend::watch(int fd, descriptor_state& state, int& error) noexcept {
  epoll_event event{};
  event.events = edges;
  event.data.u64 = data_of(fd, state);
  if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) < 0) {
    // EEXIST: a registration of an earlier life of the number, for the same open file.
    if (errno != EEXIST || ::epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, fd, &event) < 0) {
      error = errno;
      return false;
    }
  }
  state.watched = true;
  int protocol = 0;
  socklen_t size = sizeof protocol;
  state.plain_tcp = ::getsockopt(fd, SOL_SOCKET, SO_PROTOCOL, &protocol, &size) == 0 &&
                    protocol == IPPROTO_TCP;
  // Adding reports what is ready already, as an event of the next wait.
  state.readable = state.writable = state.ended = false;
  return true;
}

void epoll_backend::forget(int fd, descriptor_state& state) noexcept {
  // Before close(2): afterwards a duplicate elsewhere, in a forked child say, would keep the
  // registration alive and out of reach.
  if (state.watched) ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr);
}

// A descriptor that coir did not make may be closed by its owner at any time, and the kernel drops the
// registration then without a word. So it is registered only while somebody waits.
void epoll_backend::unwatch_foreign(int fd, descriptor_state& state) noexcept {
  if (state.owned || !state.watched || !state.requests.empty()) return;
  state.watched = false;
  // Closed already: a duplicate may keep the registration alive and out of reach. Should it ever fire, it
  // is known to be of an earlier life, and the set is rebuilt.
  if (::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr) < 0) ++state.generation;
}

template <bool Plain>
[[gnu::always_inline]] inline int epoll_backend::attempt(const request_row& row, request& what,
                                                         descriptor_state& state) noexcept {
  int result = 0;
  do {
    result = coir::attempt(row, what);
  } while (result == -EINTR);
  // All was given or taken, which says nothing of what is left. Mostly so when writing.
  if (result == static_cast<int>(what.length)) return Plain || result != 0 ? result : lasting_failure(what, result);
  bool& ready = for_input<Plain>(what, row) ? state.readable : state.writable;
  if (result == -EAGAIN) {
    if (Plain || asks_direction(what)) ready = false;
  } else if (row.stream && state.plain_tcp && !state.ended && result > 0 &&
             (what.flags & looks_only) == 0) {
    // It gave or took less than asked, so it has no more for now: the next edge says when. A hang-up
    // makes no further edge, which is why `ended` keeps both directions ready. Datagrams, terminals,
    // packets and passed descriptors end a read short with more behind it, and so does an urgent byte.
    ready = false;
  } else if (result <= 0) [[unlikely]] {
    return lasting_failure(what, result);
  }
  return result;
}

bool epoll_backend::waits_ahead(const descriptor_state& state, bool input) const noexcept {
  bool found = false;
  state.requests.for_each([&](request& other) {
    found |= stands_in_line(other) && !may_block(other) && for_input(other) == input;
  });
  return found;
}

bool epoll_backend::do_start(request& what, descriptor_state& state) {
  const request_row& row = row_of(what.kind);
  return is_plain(what, row) ? start_as<true>(row, what, state) : start_special(what, state);
}

template <bool Plain>
[[gnu::always_inline]] inline bool epoll_backend::start_as(const request_row& row, request& what,
                                                           descriptor_state& state) {
  if (!Plain && may_block(what, row)) return start_blocking(what, state);
  if (moves_nothing(what)) [[unlikely]] {
    what.result = attempt<Plain>(row, what, state);
    if (what.result != -EAGAIN) return false;
  }
  const bool input = for_input<Plain>(what, row);
  const bool ready = !state.watched || (input ? state.readable : state.writable);
  if (!Plain && what.kind == request_kind::recv_multi) {
    chunks();  // made here, where no memory for it is the caller's error
  }
  // A multishot request tells all its results through its waiter, so it never finishes here.
  const bool in_line = Plain || stands_in_line(what);
  if ((ready || (!Plain && row.always_tried) || !in_line) && (Plain || !row.multishot) &&
      (state.requests.empty() || !in_line || !waits_ahead(state, input))) {
    what.result = attempt<Plain>(row, what, state);
    if (what.result != -EAGAIN) return false;
  }
  // Of others' descriptors each time: whoever opened the number may have closed it since, and the kernel dropped the
  // registration without a word.
  if (!(state.watched && state.owned) && !begin_watching(what, state)) [[unlikely]]
    return false;
  arm(what, state);
  if (!Plain && row.multishot && (state.readable || state.ended)) serve_later(what.fd, state);
  return true;
}

bool epoll_backend::start_blocking(request& what, descriptor_state& state) {
  if (blocking_.run(blocking_.self, what, perform)) return false;
  arm(what, state);
  return true;
}

bool epoll_backend::begin_watching(request& what, descriptor_state& state) {
  int error = row_of(what.kind).multishot ? refusal(what) : 0;
  // What became ready since the attempt is reported by the registration.
  if (error == 0 && watch(what.fd, state, error)) return true;
  // EPERM: a regular file, which is always ready and was answered, or has no readiness at all.
  what.result = -error;
  return false;
}

void epoll_backend::serve_later(int fd, descriptor_state& state) noexcept {
  if (state.next_unfinished == 0) state.next_unfinished = std::exchange(unfinished_, fd + 1);
}

std::size_t epoll_backend::serve_unfinished(int first) noexcept {
  std::size_t count = 0;
  while (first != chain_end) {
    const int fd = first - 1;
    descriptor_state& state = *descriptors_.find(fd);
    first = std::exchange(state.next_unfinished, 0);
    serve(fd, state);
    ++count;
  }
  return count;
}

bool epoll_backend::take_chunk(request& what) noexcept {
  std::uint16_t number = 0;
  if (!chunks_->take(number)) return false;
  what.address = chunks_->memory(number);
  what.length = static_cast<std::uint32_t>(chunks_->chunk_bytes());
  chunk_of(what) = number;
  return true;
}

abort_answer epoll_backend::do_withdraw(request& what, descriptor_state& state) noexcept {
  if (may_block(what)) return withdraw_blocking(what);
  detach(what);
  unwatch_foreign(what.fd, state);
  return abort_answer::now;
}

bool epoll_backend::serve_multishot(request& what, descriptor_state& state) noexcept {
  for (int i = 0; i < results_per_turn; ++i) {
    const bool into_chunk = what.kind == request_kind::recv_multi;
    if (into_chunk && !take_chunk(what)) {
      complete(what, -ENOBUFS);
      return true;
    }
    const int result = attempt<false>(row_of(what.kind), what, state);
    if (into_chunk && result <= 0) chunks_->give_back(chunk_of(what));
    if (result == -EAGAIN) return false;
    const bool over = result < 0 || (result == 0 && what.kind == request_kind::recv_multi);
    if (over) {
      complete(what, result);
      return true;
    }
    if (!survives_delivery(what, state, result)) return true;
    if (!state.readable) return false;
  }
  serve_later(what.fd, state);
  return true;
}

void epoll_backend::serve(int fd, descriptor_state& state) noexcept {
  bool input = state.readable || state.ended;
  bool output = state.writable || state.ended;
  walk(state.requests, [&](request& what) {
    const request_row& row = row_of(what.kind);
    if (!is_plain(what, row)) [[unlikely]]
      return serve_special(what, state, input, output);
    // The first that would block closes its direction to those in line behind it.
    bool& open = for_input<true>(what, row) ? input : output;
    if (!open) return;
    const int result = attempt<true>(row, what, state);
    if (result == -EAGAIN) [[unlikely]] {
      open = false;
    } else {
      complete(what, result);
    }
  });
  unwatch_foreign(fd, state);
}

void epoll_backend::serve_special(request& what, descriptor_state& state, bool& input,
                                  bool& output) noexcept {
  if (may_block(what)) return;  // it is with the blocking hook
  const request_row& row = row_of(what.kind);
  const bool in_line = stands_in_line(what);
  bool& open = for_input(what, row) ? input : output;
  if (in_line && !open) return;
  bool served = false;
  if (row.multishot) {
    served = serve_multishot(what, state);
  } else if (const int result = attempt<false>(row, what, state); result != -EAGAIN) {
    complete(what, result);
    served = true;
  }
  if (in_line && !served) open = false;
}

std::size_t epoll_backend::wait(instant deadline) {
  if (has_more()) deadline = instant::min();
  COIR_TRACE(trace_, trace::point::poll_enter, 0, deadline != instant::min());
  std::array<epoll_event, events_per_wait> events;
  ++stats_.enters;
  const std::size_t asked = deadline == instant::min() ? events_per_wait : events_per_sleep;
  const std::size_t count = sleep_.wait(epoll_.get(), std::span(events).first(asked), deadline);
  const int unfinished = std::exchange(unfinished_, chain_end);

  bool stale = false;
  for (std::size_t i = 0; i < count; ++i) {
    const std::uint64_t data = events[i].data.u64;
    const std::uint32_t happened = events[i].events;
    if (data == wake_data) continue;
    if (data == attended_data) {
      attention_ = true;
      continue;
    }
    const int fd = static_cast<int>(data & 0xffff'ffff);
    descriptor_state& state = *descriptors_.find(fd);
    if (state.generation != data >> 32) {
      ++stats_.stale_events;
      stale = true;
      continue;
    }
    if ((happened & (EPOLLIN | EPOLLRDHUP | EPOLLPRI)) != 0) state.readable = true;
    if ((happened & EPOLLOUT) != 0) state.writable = true;
    if ((happened & EPOLLPRI) != 0) state.plain_tcp = false;
    if ((happened & (EPOLLERR | EPOLLHUP)) != 0) state.readable = state.writable = true;
    if ((happened & (EPOLLERR | EPOLLHUP | EPOLLRDHUP)) != 0) state.ended = true;
    serve(fd, state);
  }
  const std::size_t served_again = serve_unfinished(unfinished);
  // Without a descriptor for the new set the old one stays: its stale registrations are edge-triggered
  // and cannot spin.
  if (stale && rebuild() == 0) ++stats_.rebuilds;
  COIR_TRACE(trace_, trace::point::poll_leave, 0, count);
  return count + served_again;
}

}  // namespace

std::unique_ptr<backend> make_epoll_backend(trace::control& trace,
                                            const backend_settings& settings) {
  return std::make_unique<epoll_backend>(trace, settings);
}

}  // namespace coir
