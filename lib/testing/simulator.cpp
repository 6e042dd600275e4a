#include <coir/testing/simulator.hpp>

#include "sim_world.hpp"

#include <coir/base/error.hpp>
#include <coir/fiber/fiber_home.hpp>

#include <fmt/format.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <ctime>
#include <map>
#include <utility>
#include <vector>

namespace coir::testing {

namespace {

// Of one multishot request in one turn.
constexpr std::uint64_t results_per_turn = 8;
// Also with a chance of 1 a request comes to its end.
constexpr unsigned late_turns_max = 16;

bool is_multishot(const request& what) noexcept {
  return what.kind == request_kind::recv_multi || what.kind == request_kind::accept_multi;
}

bool is_for_input(const request& what) noexcept {
  switch (what.kind) {
    case request_kind::read:
    case request_kind::readv:
    case request_kind::recv:
    case request_kind::recv_multi:
    case request_kind::recvmsg:
    case request_kind::accept:
    case request_kind::accept_multi: return true;
    default: return false;
  }
}

// Takes its turn among those that want the same direction. Polls take nothing away, and what comes from
// elsewhere does not wait for the data.
bool stands_in_line(const request& what) noexcept {
  if (what.kind == request_kind::poll) return false;
  return (what.kind != request_kind::recv && what.kind != request_kind::recvmsg) ||
         (what.flags & (MSG_OOB | MSG_ERRQUEUE)) == 0;
}

// The system call may block although the descriptor does not.
bool may_block(const request& what) noexcept {
  switch (what.kind) {
    case request_kind::open:
    case request_kind::close:
    case request_kind::fsync: return true;
    case request_kind::read:
    case request_kind::write:
    case request_kind::readv:
    case request_kind::writev: return what.offset != request::no_offset;
    default: return false;
  }
}

// Its descriptor has not begun another life under it.
bool is_at_home(const request& what, const descriptor_state& state) noexcept {
  bool found = false;
  state.requests.for_each([&](const request& other) { found |= &other == &what; });
  return found;
}

// Only of a byte stream fewer bytes may be taken without losing the others.
bool is_byte_stream(int fd) noexcept {
  int type = 0;
  socklen_t size = sizeof type;
  if (::getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) == 0) return type == SOCK_STREAM;
  struct stat what {};
  return ::fstat(fd, &what) == 0 && S_ISFIFO(what.st_mode);
}

short events_of(const request& what) noexcept {
  if (what.kind == request_kind::poll) return static_cast<short>(what.flags);
  return is_for_input(what) ? POLLIN : POLLOUT;
}

}  // namespace

class sim_backend final : public backend {
 public:
  sim_backend(const backend_parts& parts, sim_world& world)
      : backend(parts.trace, parts.chunks, parts.chunk_bytes), world_(world), wake_fd_(parts.wake_fd) {
    world_.has_loop = true;
    knows_stalls_ = true;
  }
  ~sim_backend() override {
    abandoned_ ? let_go() : drain();
    world_.has_loop = false;
  }

  std::size_t wait(instant deadline) override;
  void submit() override {}
  int pollable_fd() override;
  bool has_more() const noexcept override {
    return busy_ || (pollable_ && in_flight() != 0 && !is_stalled());
  }
  std::string describe() const override;

 private:
  // A request in flight, under its number: requests are numbered in the order in which they began.
  struct pending {
    request* what;
    bool real;           // the kernel serves it
    bool begun = false;  // ... and was asked once
    unsigned late_turns = 0;
  };

  bool do_start(request& what, descriptor_state& state) override;
  abort_answer do_withdraw(request& what, descriptor_state& state) noexcept override;
  void do_abandon() noexcept override { abandoned_ = true; }
  // The attended set is polled in each wait.
  void do_attend(int) override {}
  void do_unattend() noexcept override {}
  bool is_stalled() const noexcept override;
  void forget(int, descriptor_state&) noexcept override {}

  bool start_blocking(request& what, descriptor_state& state);
  static bool waits_ahead(const request& what, const descriptor_state& state) noexcept;
  bool is_ready(const pending& of) const noexcept;
  int attempt(pending& of);
  int attempt_real(request& what);
  std::size_t serve_all();
  std::size_t serve(std::uint32_t number);
  std::size_t serve_withdrawn(std::uint32_t number, pending& of, bool its_turn);
  std::size_t serve_multishot(std::uint32_t number, pending& of);
  void finish(std::uint32_t number, int result);
  std::size_t look_outside(instant deadline);

  sim_world& world_;
  int wake_fd_;
  std::uint32_t next_number_ = 0;
  std::map<std::uint32_t, pending> pending_;
  bool busy_ = false;  // something could have been served in the last turn, and was not
  bool abandoned_ = false;
  unique_fd pollable_;
};

// --- starting ---

bool sim_backend::do_start(request& what, descriptor_state& state) {
  if (may_block(what)) return start_blocking(what, state);
  if (what.kind == request_kind::recv_multi) chunks();
  const std::uint32_t number = next_number_++;
  pending of{.what = &what, .real = !world_.has(what)};
  const bool may_be_tried = !is_multishot(what) && !waits_ahead(what, state);
  if (moves_nothing(what) || (may_be_tried && world_.draws.chance(world_.options.at_once_))) {
    what.result = attempt(of);
    if (what.result != -EAGAIN) {
      world_.note(number, what.result);
      return false;
    }
  }
  pending_.emplace(number, of);
  slot_of(what) = number;
  arm(what, state);
  return true;
}

bool sim_backend::start_blocking(request& what, descriptor_state& state) {
  if (blocking_.run(blocking_.self, what, perform)) return false;
  arm(what, state);
  return true;
}

// Somebody who came earlier wants the same direction of the same descriptor.
bool sim_backend::waits_ahead(const request& what, const descriptor_state& state) noexcept {
  if (!stands_in_line(what) || state.requests.empty()) return false;
  // Of a long line nearly all have the first one ahead.
  for (const request* each = &state.requests.front(); each != nullptr && each != &what;
       each = state.requests.after(*each)) {
    if (stands_in_line(*each) && !may_block(*each) && is_for_input(*each) == is_for_input(what)) return true;
  }
  return false;
}

abort_answer sim_backend::do_withdraw(request& what, descriptor_state&) noexcept {
  if (may_block(what)) return withdraw_blocking(what);
  if (withdrawn(what)) return abort_answer::later;
  if (!world_.draws.chance(world_.options.withdrawn_now_)) {
    withdrawn(what) = true;
    return abort_answer::later;
  }
  pending_.erase(slot_of(what));
  detach(what);
  return abort_answer::now;
}

// --- serving ---

bool sim_backend::is_ready(const pending& of) const noexcept {
  if (!of.real) return world_.is_ready(*of.what);
  // What the kernel refuses it may never show to be ready.
  if (!of.begun) return true;
  pollfd one{of.what->fd, events_of(*of.what), 0};
  return ::poll(&one, 1, 0) != 0;
}

int sim_backend::attempt_real(request& what) {
  const std::uint32_t length = what.length;
  switch (what.kind) {
    case request_kind::read:
    case request_kind::write:
    case request_kind::recv:
    case request_kind::recv_multi:
    case request_kind::send:
      if (world_.options.short_ > 0 && is_byte_stream(what.fd)) {
        what.length = static_cast<std::uint32_t>(world_.share_of(length));
      }
      break;
    default: return perform(what);
  }
  const int result = perform(what);
  what.length = length;
  return result;
}

int sim_backend::attempt(pending& of) {
  request& what = *of.what;
  of.begun = true;
  const bool into_chunk = what.kind == request_kind::recv_multi;
  std::uint16_t number = 0;
  if (into_chunk) {
    if (!chunks_->take(number)) return -ENOBUFS;
    what.address = chunks_->memory(number);
    what.length = static_cast<std::uint32_t>(chunks_->chunk_bytes());
    chunk_of(what) = number;
  }
  const int result = of.real ? attempt_real(what) : world_.attempt(what);
  if (result > 0) return result;
  if (into_chunk) chunks_->give_back(number);
  return lasting_failure(what, result);
}

void sim_backend::finish(std::uint32_t number, int result) {
  request& what = *pending_.at(number).what;
  pending_.erase(number);
  world_.note(number, result);
  complete(what, result);
}

// Whoever is told may start and withdraw others: nothing of a request is used behind finish() and deliver().
std::size_t sim_backend::serve_all() {
  std::vector<std::uint32_t> order;
  order.reserve(pending_.size());
  for (const auto& [number, of] : pending_) order.push_back(number);
  for (std::size_t i = order.size(); i > 1; --i) {
    std::swap(order[i - 1], order[static_cast<std::size_t>(world_.draws.below(i))]);
  }
  busy_ = false;
  std::size_t told = 0;
  for (const std::uint32_t number : order) told += serve(number);
  return told;
}

std::size_t sim_backend::serve(std::uint32_t number) {
  const auto found = pending_.find(number);
  if (found == pending_.end()) return 0;
  pending& of = found->second;
  request& what = *of.what;
  const descriptor_state& state = *descriptors_.find(what.fd);
  const bool its_turn = !waits_ahead(what, state) && is_at_home(what, state);
  if (withdrawn(what)) return serve_withdrawn(number, of, its_turn);
  if (!its_turn || !is_ready(of)) return 0;
  if (of.late_turns < late_turns_max && world_.draws.chance(world_.options.late_)) {
    ++of.late_turns;
    busy_ = true;
    return 0;
  }
  if (is_multishot(what)) return serve_multishot(number, of);
  const int result = attempt(of);
  if (result == -EAGAIN) return 0;
  finish(number, result);
  return 1;
}

std::size_t sim_backend::serve_withdrawn(std::uint32_t number, pending& of, bool its_turn) {
  int result = -EAGAIN;
  if (its_turn && is_ready(of) && world_.draws.chance(world_.options.late_success_)) result = attempt(of);
  finish(number, result == -EAGAIN ? -ECANCELED : result);
  return 1;
}

std::size_t sim_backend::serve_multishot(std::uint32_t number, pending& of) {
  request& what = *of.what;
  const simulator_options& options = world_.options;
  if (what.kind == request_kind::recv_multi && world_.draws.chance(options.no_chunks_)) {
    finish(number, -ENOBUFS);
    return 1;
  }
  std::size_t told = 0;
  for (std::uint64_t most = 1 + world_.draws.below(results_per_turn); told < most; ++told) {
    const int result = attempt(of);
    if (result == -EAGAIN) return told;
    const bool over = result < 0 || (result == 0 && what.kind == request_kind::recv_multi);
    const bool lost = !over && world_.draws.chance(options.lost_);
    if (over || lost) {
      finish(number, result);
      return told + 1;
    }
    world_.note(number, result);
    deliver(what, result);
    if (!pending_.contains(number) || withdrawn(what)) return told + 1;
    if (!is_ready(of)) return told + 1;
    if (world_.draws.chance(options.lost_)) {
      finish(number, -EINTR);
      return told + 2;
    }
  }
  busy_ = true;
  return told;
}

// --- waiting ---

bool sim_backend::is_stalled() const noexcept {
  // What is not here is with the blocking hook.
  return in_flight() == pending_.size() &&
         std::none_of(pending_.begin(), pending_.end(), [&](const auto& each) {
           return each.second.real || withdrawn(*each.second.what) || is_ready(each.second);
         });
}

// The descriptors that are the kernel's: the inbox, the watchers' set, and those of real requests.
std::size_t sim_backend::look_outside(instant deadline) {
  std::vector<pollfd> all{{wake_fd_, POLLIN, 0}, {attended_, POLLIN, 0}};
  for (const auto& [number, of] : pending_) {
    if (of.real) all.push_back({of.what->fd, events_of(*of.what), 0});
  }
  // Each once: poll(2) takes no more entries than the process may have descriptors.
  const auto first = all.begin() + 2;
  std::sort(first, all.end(), [](const pollfd& a, const pollfd& b) { return a.fd < b.fd; });
  const auto merged = [](pollfd& a, const pollfd& b) {
    if (a.fd != b.fd) return false;
    a.events = static_cast<short>(a.events | b.events);
    return true;
  };
  if (first != all.end()) {
    auto last = first;
    for (auto each = first + 1; each != all.end(); ++each) {
      if (!merged(*last, *each)) *++last = *each;
    }
    all.erase(last + 1, all.end());
  }
  timespec limit{};
  if (deadline != instant::min() && deadline != never) {
    const duration left = std::max(duration::zero(), deadline - steady_now());
    limit.tv_sec = left / std::chrono::seconds(1);
    limit.tv_nsec = (left % std::chrono::seconds(1)).count();
  }
  ++stats_.enters;
  COIR_TRACE(trace_, trace::point::poll_enter, 0, deadline != instant::min());
  const int count = ::ppoll(all.data(), all.size(), deadline == never ? nullptr : &limit, nullptr);
  COIR_TRACE(trace_, trace::point::poll_leave, 0, static_cast<std::uint64_t>(std::max(0, count)));
  if (count < 0 && errno != EINTR) throw_error(errno, "poll of a simulator");
  if (count <= 0) return 0;
  if (all[0].revents != 0) {
    // It stays readable until somebody reads it, and poll(2) has no edges.
    std::uint64_t rung = 0;
    static_cast<void>(::read(wake_fd_, &rung, sizeof rung));
  }
  if (all[1].revents != 0) attention_ = true;
  return static_cast<std::size_t>(count);
}

std::size_t sim_backend::wait(instant deadline) {
  world_.close_backlogs();
  std::size_t found = serve_all();
  const bool sleeps = found == 0 && !busy_;
  const std::size_t outside = look_outside(sleeps ? deadline : instant::min());
  if (outside != 0) found += outside + serve_all();
  return found + (busy_ ? 1 : 0);
}

// Never readable: no descriptor shows what is in memory. A foreign loop is told by has_more(), and comes again
// and again as long as anything may be served.
int sim_backend::pollable_fd() {
  if (!pollable_) {
    pollable_ = unique_fd(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
    if (!pollable_) throw_error(errno, "a simulator's pollable descriptor");
  }
  return pollable_.get();
}

std::string sim_backend::describe() const {
  const simulator_options& with = world_.options;
  return fmt::format("simulator, seed {}, at once {}, late {}, withdrawn now {}, late success {}, short {}, "
                     "lost multishots {}, no chunks {}, {} bytes a buffer",
                     with.seed_, with.at_once_, with.late_, with.withdrawn_now_, with.late_success_,
                     with.short_, with.lost_, with.no_chunks_, with.buffer_bytes_);
}

// --- the object ---

simulator::simulator(const simulator_options& options)
    : world_(std::make_unique<sim_world>(options)), order_(options.seed_) {}
simulator::~simulator() = default;

std::array<unique_fd, 2> simulator::pair() { return world_->pair(); }
unique_fd simulator::listen(const net::address& where, std::size_t backlog) {
  return world_->listen(where, backlog);
}

namespace {

loop& running_loop() {
  loop* const here = loop_here();
  if (here == nullptr) {
    throw_misuse("a simulator made streams outside of a running loop: use pair() and listen() there");
  }
  return *here;
}

}  // namespace

std::pair<net::tcp_stream, net::tcp_stream> simulator::streams() {
  loop& here = running_loop();
  std::array<unique_fd, 2> both = pair();
  net::tcp_stream first(here, both[0].release());
  return {std::move(first), net::tcp_stream(here, both[1].release())};
}

net::tcp_listener simulator::listener(const net::address& where, std::size_t backlog) {
  loop& here = running_loop();
  return net::tcp_listener(here, listen(where, backlog).release());
}

void simulator::reset(int fd) { world_->reset(fd); }
std::size_t simulator::unread(int fd) const { return world_->unread(fd); }
std::uint64_t simulator::fingerprint() const noexcept { return world_->fingerprint; }

std::unique_ptr<backend> simulator::make(const backend_parts& parts) {
  if (world_->has_loop) throw_misuse("a simulator is one loop's at a time");
  return std::make_unique<sim_backend>(parts, *world_);
}

}  // namespace coir::testing
