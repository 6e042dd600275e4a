#include "signal_hub.hpp"

#include <coir/base/error.hpp>
#include <coir/loop/loop.hpp>

#include "watch_set.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sched.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <bit>
#include <cerrno>
#include <charconv>
#include <csignal>
#include <ctime>
#include <memory>
#include <string>
#include <string_view>

namespace coir {

namespace {

// Between two looks at other descriptors: somebody may send them faster than we read.
constexpr std::size_t infos_per_read = 32;
constexpr std::size_t reads_per_turn = 8;

// At a thread whose mask is about to change: the first at once, then with pauses, for it may have to wait for a
// processor. Some 60 ms in all.
constexpr int looks_per_thread = 500;
constexpr int quick_looks = 100;
constexpr timespec pause_of_looks{0, 100'000};

// All three of the lowest number among them.
std::size_t index_of(std::uint64_t numbers) noexcept {
  return static_cast<std::size_t>(std::countr_zero(numbers));
}
int lowest(std::uint64_t numbers) noexcept { return std::countr_zero(numbers) + 1; }
std::uint64_t lowest_bit(std::uint64_t numbers) noexcept { return numbers & (~numbers + 1); }

sigset_t kernel_set(std::uint64_t numbers) noexcept {
  sigset_t set;
  ::sigemptyset(&set);
  for (; numbers != 0; numbers &= numbers - 1) ::sigaddset(&set, lowest(numbers));
  return set;
}

std::uint64_t missing_in(const sigset_t& mask, std::uint64_t numbers) noexcept {
  std::uint64_t missing = 0;
  for (; numbers != 0; numbers &= numbers - 1) {
    if (::sigismember(&mask, lowest(numbers)) == 0) missing |= lowest_bit(numbers);
  }
  return missing;
}

// Those of them that are open in this thread.
std::uint64_t open_here(std::uint64_t numbers) noexcept {
  sigset_t now;
  ::pthread_sigmask(SIG_BLOCK, nullptr, &now);
  return missing_in(now, numbers);
}

// Those of them that were open.
std::uint64_t block(std::uint64_t numbers) noexcept {
  const sigset_t set = kernel_set(numbers);
  sigset_t before;
  ::pthread_sigmask(SIG_BLOCK, &set, &before);
  return missing_in(before, numbers);
}

void open(std::uint64_t numbers) noexcept {
  if (numbers == 0) return;
  const sigset_t set = kernel_set(numbers);
  ::pthread_sigmask(SIG_UNBLOCK, &set, nullptr);
}

// As if it had not been read: pending for this process, as often as it came if the kernel counts it.
void send_back(const signal_event& event) noexcept {
  siginfo_t info{};
  info.si_signo = event.number;
  info.si_code = event.code;
  info.si_pid = event.pid;
  info.si_uid = event.uid;
  info.si_value.sival_int = event.value;
  for (std::uint64_t left = event.number >= SIGRTMIN ? event.count : 1; left != 0; --left) {
    // To a thread of the process is to all of it; to itself it may tell any code.
    if (::syscall(SYS_rt_sigqueueinfo, ::gettid(), event.number, &info) < 0) return;
  }
}

// Empty: the thread is gone.
std::string status_of(const char* thread) {
  const std::string path = fmt::format("/proc/self/task/{}/status", thread);
  const unique_fd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file) {
    if (errno == ENOENT || errno == ESRCH) return {};
    throw_error(errno, fmt::format("looking at the signal mask of thread {}", thread));
  }
  std::string text;
  std::array<char, 4096> some;
  for (;;) {
    const auto got = ::read(file.get(), some.data(), some.size());
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return {};
    if (got == 0) return text;
    text.append(some.data(), static_cast<std::size_t>(got));
  }
}

std::string_view field(std::string_view status, std::string_view name) {
  const std::size_t at = status.find(name);
  if (at == std::string_view::npos) return {};
  status.remove_prefix(at + name.size());
  return status.substr(0, status.find('\n'));
}

// What the kernel will not give to a thread of this status.
std::uint64_t blocked_in(std::string_view status) {
  const std::string_view state = field(status, "\nState:\t");
  // One that has ended and is not cleared away, as the first thread may be, takes no signals.
  if (state.empty() || state[0] == 'Z' || state[0] == 'X') return ~std::uint64_t{0};
  // It ended while its status was written: the masks below are empty, and nobody's.
  if (field(status, "\nThreads:\t") == "0") return ~std::uint64_t{0};
  const std::string_view mask = field(status, "\nSigBlk:\t");
  std::uint64_t blocked = 0;
  std::from_chars(mask.data(), mask.data() + mask.size(), blocked, 16);
  return blocked;
}

// A thread that begins, or starts another, has everything blocked for a moment, the C library's own numbers
// among it, which nobody else can block. Threads of the kernel (io_uring's) have it so for good.
bool is_passing(std::string_view status, std::uint64_t blocked) {
  constexpr std::uint64_t internal = std::uint64_t{3} << (32 - 1);
  return (blocked & internal) == internal && !status.empty() && !status.starts_with("Name:\tiou-");
}

// As /proc counts, which may be that of another pid namespace.
std::string own_thread() {
  std::array<char, 64> path;
  const auto size = ::readlink("/proc/thread-self", path.data(), path.size());
  if (size <= 0) return std::to_string(::gettid());
  const std::string_view whole(path.data(), static_cast<std::size_t>(size));
  return std::string(whole.substr(whole.rfind('/') + 1));
}

void check_other_threads(std::uint64_t numbers) {
  struct closing {
    void operator()(DIR* listing) const noexcept { ::closedir(listing); }
  };
  const std::unique_ptr<DIR, closing> threads(::opendir("/proc/self/task"));
  if (threads == nullptr) {
    // Without /proc, as in a changed root, there is nobody to ask, and signals are to be had all the same.
    if (errno == ENOENT) return;
    throw_error(errno, "looking at the signal masks of this process's threads");
  }
  const std::string self = own_thread();
  while (const dirent* const entry = ::readdir(threads.get())) {
    if (entry->d_name[0] == '.' || entry->d_name == self) continue;
    std::string status;
    std::uint64_t blocked = 0;
    for (int looks = 0; looks < looks_per_thread; ++looks) {
      status = status_of(entry->d_name);
      blocked = blocked_in(status);
      if (!is_passing(status, blocked)) break;
      if (looks < quick_looks) {
        ::sched_yield();
      } else {
        ::nanosleep(&pause_of_looks, nullptr);
      }
    }
    if ((numbers & ~blocked) == 0) continue;
    throw_misuse(fmt::format("{} is open in thread {} (\"{}\"), which would get it instead of the loop; "
                             "block it in all threads (pthread_sigmask), best before they are started",
                             name_of_signal(lowest(numbers & ~blocked)), entry->d_name,
                             field(status, "Name:\t")));
  }
}

}  // namespace

// They may outlive the loop.
signal_hub::~signal_hub() {
  subscribers_.splice_back(due_);
  subscribers_.splice_back(fresh_);
  while (!subscribers_.empty()) detach(subscribers_.front());
}

void signal_hub::attach(signal_subscriber& which) {
  if (which.attached()) throw_misuse("a subscriber of signals was attached a second time");
  watch_set& watches = of_.watches();
  const std::uint64_t numbers = which.numbers_.bits_;
  if (numbers == 0) throw_misuse("a subscriber of no signal at all: nobody would hear of it");
  const std::uint64_t wanted = numbers & ~owned_;
  // Threads that this one has started since then have open what it had open.
  if (wanted != 0) looked_at_ &= ~open_here(wanted);
  if ((numbers & ~looked_at_) != 0) check_other_threads(numbers & ~looked_at_);
  if (wanted != 0) take(watches, wanted);
  looked_at_ |= numbers;
  for (std::uint64_t left = numbers; left != 0; left &= left - 1) ++uses_[index_of(left)];
  fresh_.push_back(which);
  which.hub_ = this;
}

void signal_hub::take(watch_set& watches, std::uint64_t numbers) {
  struct undo {
    ~undo() {
      if (numbers == 0) return;
      open(blocked);
      signal_owners::give_back(numbers);
    }
    std::uint64_t numbers;
    std::uint64_t blocked = 0;
  };
  signal_owners::take(numbers, of_.number());
  undo taken{numbers};
  // Whose mask it is. Before the first is blocked: SIGPIPE may be among them, and is the loop's to open.
  of_.bind();
  taken.blocked = block(numbers);
  const sigset_t set = kernel_set(owned_ | numbers);
  if (!fd_) {
    unique_fd made(::signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC));
    if (!made) throw_error(errno, "signalfd of a loop");
    watch_options options{.read = [this] { on_readable(); }};
    watcher_ = owned<watcher>(watches.add(of_, made.get(), std::move(options), registration_kind::part));
    fd_ = std::move(made);
  } else {
    if (::signalfd(fd_.get(), &set, 0) < 0) throw_error(errno, "signalfd of a loop");
    if (owned_ == 0 && watcher_) watches.change(*watcher_);  // none: the loop is ending
  }
  owned_ |= numbers;
  blocked_ |= taken.blocked;
  taken.numbers = 0;
}

void signal_hub::detach(signal_subscriber& which) noexcept {
  which.unlink();
  which.hub_ = nullptr;
  std::uint64_t unused = 0;
  for (std::uint64_t left = which.numbers_.bits_; left != 0; left &= left - 1) {
    if (--uses_[index_of(left)] == 0) unused |= lowest_bit(left);
  }
  // In a forked child none is owned any more.
  if ((unused & owned_) != 0) let_go(unused & owned_);
}

void signal_hub::let_go(std::uint64_t numbers) noexcept {
  // What was read of them and nobody has heard of is pending again, and takes its course with the rest.
  const std::uint64_t begun = delivering_ ? lowest_bit(came_) : 0;
  for (std::uint64_t left = came_ & numbers & ~(heard_ ? begun : 0); left != 0; left &= left - 1) {
    send_back(events_[index_of(left)]);
  }
  if ((begun & numbers) != 0) heard_ = true;
  came_ &= ~numbers | begun;
  owned_ &= ~numbers;
  const sigset_t set = kernel_set(owned_);
  ::signalfd(fd_.get(), &set, 0);
  if (owned_ == 0) {
    if (watcher_) of_.watches_->rest(*watcher_);
    came_ = 0;
    delivering_ = heard_ = false;
  }
  // The mask of another thread is out of reach.
  if (of_.is_own_thread()) open(numbers & blocked_);
  blocked_ &= ~numbers;
  signal_owners::give_back(numbers);
}

void signal_hub::abandon() noexcept {
  // The child's only thread is the one that forked, which need not be the loop's.
  if (of_.is_own_thread()) open(blocked_);
  owned_ = blocked_ = 0;
  fd_.reset();
  // What was read is the parent's to tell.
  came_ = 0;
  subscribers_.splice_back(due_);
}

std::size_t signal_hub::size() const noexcept {
  std::size_t count = 0;
  for (const list<signal_subscriber>* const each : {&subscribers_, &due_, &fresh_}) {
    each->for_each([&](const signal_subscriber&) { ++count; });
  }
  return count;
}

void signal_hub::read_some() {
  std::array<signalfd_siginfo, infos_per_read> infos;
  for (std::size_t i = 0; i < reads_per_turn; ++i) {
    const auto got = ::read(fd_.get(), infos.data(), sizeof infos);
    if (got < 0) {
      if (errno == EAGAIN) return;
      throw_error(errno, "reading the signals of a loop");
    }
    const std::size_t count = static_cast<std::size_t>(got) / sizeof(signalfd_siginfo);
    for (std::size_t at = 0; at < count; ++at) {
      const signalfd_siginfo& info = infos[at];
      signal_event& event = events_[info.ssi_signo - 1];
      const std::uint64_t bit = std::uint64_t{1} << (info.ssi_signo - 1);
      event = {.number = static_cast<int>(info.ssi_signo),
               .count = (came_ & bit) != 0 ? event.count + 1 : 1,
               .code = info.ssi_code,
               .pid = static_cast<pid_t>(info.ssi_pid),
               .uid = info.ssi_uid,
               .value = info.ssi_int};
      came_ |= bit;
    }
    if (count < infos.size()) return;
  }
}

// Ends early when a stop is asked for meanwhile.
template <class Stopped>
void signal_hub::deliver(const Stopped& stopped) {
  while (came_ != 0) {
    if (!delivering_) due_.splice_back(subscribers_);
    delivering_ = true;
    const signal_event& event = events_[index_of(came_)];
    while (!due_.empty()) {
      if (stopped()) return;
      signal_subscriber& next = due_.pop_front();
      // Counted as told before it is, so that one that throws is not told again. It may end itself meanwhile.
      subscribers_.push_back(next);
      if (!next.numbers_.has(event.number)) continue;
      heard_ = true;
      next.tell_(next, event);
    }
    // The last subscriber of all may have gone meanwhile.
    if (delivering_) came_ &= came_ - 1;
    delivering_ = heard_ = false;
  }
}

void signal_hub::on_readable() {
  const bool stopped_before = of_.inbox_.stop_requested();
  const auto stopped = [&] { return !stopped_before && of_.inbox_.stop_requested(); };
  // What was read and not told to everybody, because of a stop or an exception: the kernel will not tell again.
  struct rest {
    ~rest() {
      if (of.came_ != 0) of.of_.watches_->again(*of.watcher_);
    }
    signal_hub& of;
  };
  const rest afterwards{*this};
  const std::uint64_t turn = of_.stats_.turns;
  if (came_ != 0) {
    resumed_in_ = turn;
  } else {
    // Called a second time in a turn, because the kernel has more: that is for the next.
    if (resumed_in_ == turn) return;
    subscribers_.splice_back(fresh_);
    read_some();
  }
  deliver(stopped);
}

}  // namespace coir
