#include "backend_uring.hpp"

#include <coir/base/config.hpp>
#include <coir/base/error.hpp>
#include <coir/base/fd.hpp>

#include "request_row.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <liburing.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>
#if COIR_THREAD_SANITIZER
#include <sanitizer/tsan_interface.h>
#endif

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <vector>

// Newer than the headers of liburing 2.3. Flags of io_uring_enter(2) and feature bits only: what
// io_uring_setup(2) takes must be known to liburing, which maps the ring accordingly (NO_SQARRAY with
// 2.3 is accepted and corrupts the ring).
#if !defined(IORING_ENTER_ABS_TIMER)
#define IORING_ENTER_ABS_TIMER (1U << 5)
#endif
#if !defined(IORING_ENTER_NO_IOWAIT)
#define IORING_ENTER_NO_IOWAIT (1U << 7)
#endif
#if !defined(IORING_FEAT_MIN_TIMEOUT)
#define IORING_FEAT_MIN_TIMEOUT (1U << 15)
#endif
#if !defined(IORING_FEAT_NO_IOWAIT)
#define IORING_FEAT_NO_IOWAIT (1U << 17)
#endif

namespace coir {

namespace priv {
unsigned uring_unknown_flags = 0;
int uring_setup_error = 0;
unsigned uring_entries_max = 0;
}  // namespace priv

namespace {

// What set-up is tried with, best first; a kernel that answers EINVAL gets the next.
struct setup_step {
  unsigned flags;
  const char* name;
};
constexpr unsigned always = IORING_SETUP_CLAMP | IORING_SETUP_CQSIZE | IORING_SETUP_R_DISABLED;
constexpr std::array<setup_step, 5> setup_steps{{
    {always | IORING_SETUP_SUBMIT_ALL | IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN |
         IORING_SETUP_TASKRUN_FLAG,
     "SINGLE_ISSUER, DEFER_TASKRUN, TASKRUN_FLAG, SUBMIT_ALL"},
    {always | IORING_SETUP_SUBMIT_ALL | IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_COOP_TASKRUN |
         IORING_SETUP_TASKRUN_FLAG,
     "SINGLE_ISSUER, COOP_TASKRUN, TASKRUN_FLAG, SUBMIT_ALL"},
    {always | IORING_SETUP_SUBMIT_ALL | IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG,
     "COOP_TASKRUN, TASKRUN_FLAG, SUBMIT_ALL"},
    {always | IORING_SETUP_SUBMIT_ALL, "SUBMIT_ALL"},
    {always, "no optional flags"},
}};

constexpr unsigned entries_min = 8;

// user_data: the generation of the slot in the high half, its number in the low half; for the cancellation of what
// is in a slot, with the highest bit set. The last four of those numbers mean something else.
constexpr std::uint32_t cancel_bit = 0x8000'0000;
constexpr std::uint32_t slot_of_other_cancels = 0xffff'fffe;
constexpr std::uint32_t slot_of_wake = 0xffff'fffd;
constexpr std::uint32_t slot_of_attended = 0xffff'fffc;
constexpr std::uint32_t no_slot = 0xffff'ffff;

constexpr std::uint64_t user_data(std::uint32_t slot, std::uint32_t generation) noexcept {
  return static_cast<std::uint64_t>(generation) << 32 | slot;
}

constexpr unsigned chunk_group = 0;

// ERESTARTSYS to ERESTART_RESTARTBLOCK, which no header for programs has.
constexpr int restart_first = 512;
constexpr int restart_last = 516;

// The io-wq threads that the kernel may start for what it cannot do without blocking, for all rings of a thread (who
// sets the limit last has his way): enough for file work, and far from filling the process table.
constexpr unsigned worker_threads_max = 8;
// ... and for what waits in a call and is no file: a blocking descriptor, or a receive on a socket with something in
// its error queue, which the kernel takes for ready. Each holds one up as long as it waits, and who finds none is
// never tried.
constexpr unsigned waiting_threads_max = 1024;

// So often what may be with a disk is asked to stop: more than the 128 times that the kernel tries a descriptor which
// polls ready.
constexpr std::uint16_t cancels_in_vain_max = 1000;

unsigned acquire(const unsigned* word) noexcept { return __atomic_load_n(word, __ATOMIC_ACQUIRE); }
unsigned relaxed(const unsigned* word) noexcept { return __atomic_load_n(word, __ATOMIC_RELAXED); }

class uring_backend final : public backend {
 public:
  uring_backend(trace::control& trace, const backend_settings& settings, io_uring ring,
                const setup_step& step);
  ~uring_backend() override;

  std::size_t wait(instant deadline) override;
  void submit() override;
  int pollable_fd() override;
  bool has_more() const noexcept override {
    return pollable_ && (io_uring_cq_ready(&ring_) != 0 || work_flagged() || unsent() != 0 || owed_first_ != no_slot);
  }
  std::string describe() const override;

 private:
  // Where a completion finds its request. The generation counts the uses of the slot, so that a result
  // that comes for an earlier use, and a cancellation meant for it, find nobody.
  struct slot {
    request* what = nullptr;
    std::uint32_t generation = 0;
    std::uint32_t next = no_slot;  // in the free list, or among those owed an entry
    // What few requests are, under one test.
    enum : std::uint8_t {
      owed_start = 1,
      owed_cancel = 2,
      polls = 4,       // waits for readiness in place of an operation that answered EAGAIN
      lasting = 8,     // polls until there is an answer, whatever else it hears
      answered = 16,   // ... which has come, and is in the request's result
      erred = 32,      // such a poll has told of nothing but an error or a hang-up before
      by_worker = 64,  // one of the kernel's workers does it, who may wait
      no_hint = 128,   // it has been polled for: now it is to be tried
    };
    std::uint8_t marks = 0;
    std::uint16_t cancels_in_vain = 0;
    bool is(std::uint8_t mark) const noexcept { return (marks & mark) != 0; }
    void mark(std::uint8_t with) noexcept { marks |= with; }
    void unmark(std::uint8_t gone) noexcept { marks &= static_cast<std::uint8_t>(~gone); }
    std::uint32_t turn = 0;  // in which it was written
  };

  bool do_start(request& what, descriptor_state& state) override;
  abort_answer do_withdraw(request& what, descriptor_state& state) noexcept override;
  void do_abandon() noexcept override;
  void forget(int, descriptor_state&) noexcept override {}
  void do_attend(int) override { attended_lost_ = true; }
  void do_unattend() noexcept override;

  bool feed_chunks();
  // What the first starts of all need; then the request starts after all.
  [[gnu::cold, gnu::noinline]] bool start_prepared(request& what, descriptor_state& state);
  void add_slots();
  void free_slot(std::uint32_t number) noexcept;

  bool is_full() const noexcept { return unsent() >= ring_.sq.ring_entries; }
  io_uring_sqe& take_entry() noexcept {
    io_uring_sqe& taken = ring_.sq.sqes[ring_.sq.sqe_tail++ & ring_.sq.ring_mask];
    clear(taken);
    return taken;
  }
  static void clear(io_uring_sqe& entry) noexcept;
  io_uring_sqe* next_entry_or_submit() noexcept;
  void fill(io_uring_sqe& entry, const request& what, slot& of) noexcept;
  [[gnu::noinline]] static void fill_otherwise(io_uring_sqe& entry, const request& what, const slot& of) noexcept;
  [[gnu::noinline]] bool start_crowded(std::uint32_t number) noexcept;
  bool write_start(std::uint32_t number) noexcept;
  bool write_cancel(std::uint32_t number) noexcept;
  void cancel(std::uint32_t number) noexcept;
  void owe(std::uint32_t number) noexcept;
  void pay() noexcept;
  void watch_wake_fd() noexcept;
  void watch_attended() noexcept;

  unsigned unsent() const noexcept { return ring_.sq.sqe_tail - acquire(ring_.sq.khead); }
  bool work_flagged() const noexcept {
    return (relaxed(ring_.sq.kflags) & (IORING_SQ_CQ_OVERFLOW | IORING_SQ_TASKRUN)) != 0;
  }
  // Completions did not fit in the queue, and wait in the kernel.
  bool overflowed() const noexcept { return (relaxed(ring_.sq.kflags) & IORING_SQ_CQ_OVERFLOW) != 0; }
  void bind();
  void allow_workers() noexcept;
  void give_worker_back(slot& of) noexcept;
  void signal_to(int fd);
  void hear_again();
  int enter(unsigned wait_for, unsigned flags, instant deadline) noexcept;
  void judge(int entered);
  void pause_if_refused(int entered) const noexcept;
  std::size_t reap() noexcept;
  [[gnu::noinline]] void hear(std::uint64_t data, int result, std::uint32_t flags) noexcept;
  void hear_of_cancel(std::uint64_t data, int result) noexcept;
  static bool is_asked_again(const request& what, const slot& of, int result) noexcept;
  void finish(std::uint32_t number, int result, std::uint32_t flags) noexcept;
  [[gnu::noinline]] bool goes_on(std::uint32_t number, int& result, std::uint32_t flags) noexcept;
  bool ask_again(std::uint32_t number) noexcept;
  bool polls_on(std::uint32_t number, int& result, std::uint32_t flags) noexcept;
  void end_poll(std::uint32_t number, int result) noexcept;

  io_uring ring_;
  const setup_step& step_;
  bool absolute_;  // deadlines go to the kernel as they are
  int wake_fd_;
  bool bound_ = false;
  bool abandoned_ = false;
  bool wake_lost_ = true;  // the poll of wake_fd_ is to be queued (again)
  bool attended_lost_ = false;  // ... and that of the watchers' set
  std::uint32_t attended_life_ = 0;  // tells its poll from those of sets before
  unsigned enter_flags_ = 0;
  std::uint32_t turn_ = 0;  // how often wait() was called
  int enter_fd_;

  std::vector<slot> slots_;
  std::uint32_t slot_count_ = 0;  // of slots_, whose size() takes a division
  std::uint32_t free_slots_ = no_slot;
  std::uint32_t owed_first_ = no_slot;
  std::uint32_t owed_last_ = no_slot;

  unique_fd pollable_;  // an eventfd that the kernel signals, once somebody asked for it
  bool deaf_ = false;   // the next signal for it may be lost
  io_uring_buf_ring* chunk_ring_ = nullptr;
  std::size_t chunk_ring_bytes_ = 0;
  bool chunks_refused_ = false;
  unsigned held_workers_ = 0;  // with opens that wait, each has one
};

// Whether the steady clock is set off against the host's (time_namespaces(7)), by which io_uring reads absolute times
// all the same (Linux 6.12 to 7.0). Where there is no /proc nobody knows, and hardly anybody has that.
bool has_own_time() noexcept {
  // The file below has the offsets of the children's namespace. Where that is another one, there is no telling.
  std::array<char, 64> mine{}, of_children{};
  if (::readlink("/proc/self/ns/time", mine.data(), mine.size()) > 0 &&
      ::readlink("/proc/self/ns/time_for_children", of_children.data(), of_children.size()) > 0 &&
      mine != of_children) {
    return true;
  }
  const unique_fd offsets(::open("/proc/self/timens_offsets", O_RDONLY | O_CLOEXEC));
  std::array<char, 256> text{};
  if (!offsets || ::read(offsets.get(), text.data(), text.size() - 1) <= 0) return false;
  long long seconds = 0;
  long nanoseconds = 0;
  return std::sscanf(text.data(), "monotonic %lld %ld", &seconds, &nanoseconds) == 2 &&
         (seconds != 0 || nanoseconds != 0);
}

// What a descriptor is to be ready for. What is in the error queue shows as an error only, which is always told.
short asked_of(const request& what) noexcept {
  if (what.kind == request_kind::poll) return static_cast<short>(what.flags);
  if (what.kind == request_kind::recv || what.kind == request_kind::recvmsg) {
    if ((what.flags & MSG_ERRQUEUE) != 0) return 0;
    // A peer may announce an urgent byte long before it sends it, with others to be read meanwhile.
    if ((what.flags & MSG_OOB) != 0) return POLLPRI | POLLRDHUP;
  }
  return row_of(what.kind).readiness;
}

// liburing maps and unmaps behind the back of the thread sanitizer, which takes the queues of one thread's
// new ring for those of another's old one that were in the same place.
#if COIR_THREAD_SANITIZER
char old_rings;
void ring_comes() noexcept { __tsan_acquire(&old_rings); }
void ring_goes() noexcept { __tsan_release(&old_rings); }
#else
void ring_comes() noexcept {}
void ring_goes() noexcept {}
#endif

uring_backend::uring_backend(trace::control& trace, const backend_settings& settings, io_uring ring,
                             const setup_step& step)
    : backend(trace, settings.chunks, settings.chunk_bytes),
      ring_(ring),
      step_(step),
      absolute_((ring.features & IORING_FEAT_MIN_TIMEOUT) != 0 && !has_own_time()),
      wake_fd_(settings.wake_fd),
      enter_fd_(ring.ring_fd) {
  ring_comes();
  // Entry i of the queue is always submission entry i, so that sending is one store to the tail. liburing 2.6 and
  // later has the kernel do without that array where it can.
  if (ring_.sq.array != nullptr) {
    for (unsigned i = 0; i < ring_.sq.ring_entries; ++i) ring_.sq.array[i] = i;
  }
  if ((ring_.features & IORING_FEAT_NO_IOWAIT) != 0) enter_flags_ |= IORING_ENTER_NO_IOWAIT;
  // A forked child must not have the queues: both would write them.
  io_uring_ring_dontfork(&ring_);
}

uring_backend::~uring_backend() {
  if (abandoned_) {
    let_go();
  } else {
    drain();
    ring_goes();
    io_uring_queue_exit(&ring_);
  }
  if (chunk_ring_ != nullptr) {
    chunks_->feed(nullptr, nullptr);
    ::munmap(chunk_ring_, chunk_ring_bytes_);
  }
}

void uring_backend::do_abandon() noexcept {
  // Only the descriptor: unmapping here could hit what the child has mapped in the same place.
  abandoned_ = true;
  ::close(ring_.ring_fd);
}

std::string uring_backend::describe() const {
  return fmt::format("io_uring, {} submission and {} completion entries, {}{}{}",
                     ring_.sq.ring_entries, ring_.cq.ring_entries, step_.name,
                     (enter_flags_ & IORING_ENTER_NO_IOWAIT) != 0 ? ", NO_IOWAIT" : "",
                     absolute_ ? ", absolute timeouts" : "");
}

// The ring was made disabled, perhaps by another thread: SINGLE_ISSUER belongs to the one that enables
// it, which is the one that first runs the loop.
void uring_backend::bind() {
  bound_ = true;
  // io_uring_enable_rings() is declared by liburing 2.3 and missing from its shared library.
  const int enabled = io_uring_register(static_cast<unsigned>(ring_.ring_fd),
                                        IORING_REGISTER_ENABLE_RINGS, nullptr, 0);
  if (enabled < 0) {
    throw_error(-enabled, "io_uring: enabling the ring on the loop's thread");
  }
  // Saves the kernel a reference count per call; where it is refused, the plain descriptor does.
  if (io_uring_register_ring_fd(&ring_) == 1) {
    enter_fd_ = ring_.enter_ring_fd;
    enter_flags_ |= IORING_ENTER_REGISTERED_RING;
  }
  allow_workers();
}

// As many for files as ever, and those that are held up by what waits for a stranger.
void uring_backend::allow_workers() noexcept {
  std::array<unsigned, 2> workers{worker_threads_max + held_workers_, waiting_threads_max};
  // A kernel that does not know the limit (before 5.15) keeps its own.
  static_cast<void>(io_uring_register_iowq_max_workers(&ring_, workers.data()));
}

void uring_backend::give_worker_back(slot& of) noexcept {
  of.unmark(slot::by_worker);
  --held_workers_;
  allow_workers();
}

// The ring's own descriptor will not do: with DEFER_TASKRUN a completion that still has to be worked off
// wakes nobody who polls it, directly or through epoll (Linux 6.18).
int uring_backend::pollable_fd() {
  if (!pollable_) {
    if (!bound_) bind();
    unique_fd signalled(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
    if (!signalled) throw_error(errno, "eventfd for a loop's pollable descriptor");
    signal_to(signalled.get());
    pollable_ = std::move(signalled);
    // The foreign loop waits for the inbox itself. A poll of it here would only signal a second time, late.
    if (io_uring_sqe* const entry = wake_lost_ ? nullptr : next_entry_or_submit(); entry != nullptr) {
      io_uring_prep_cancel64(entry, user_data(slot_of_wake, 0), 0);
      entry->user_data = user_data(slot_of_other_cancels, 0);
    }
  }
  return pollable_.get();
}

void uring_backend::signal_to(int fd) {
  if (const int registered = io_uring_register_eventfd(&ring_, fd); registered < 0) {
    throw_error(-registered, "io_uring: an eventfd for a loop's pollable descriptor");
  }
}

// A completion caused by a write to some other eventfd may not signal ours on the spot. The kernel puts it
// off to the end of an RCU period, and does so once only for each registration (Linux 6.18): the next one
// is lost. So it is registered anew after all that may have been such a completion. What completes
// in between signals nobody: has_more() looks for it.
void uring_backend::hear_again() {
  io_uring_unregister_eventfd(&ring_);
  signal_to(pollable_.get());
  deaf_ = false;
}

void uring_backend::add_slots() {
  const std::size_t size = slots_.size();
  slots_.resize(std::max<std::size_t>(64, size * 2));
  for (std::size_t i = slots_.size(); i > size; --i) {
    slots_[i - 1].next = free_slots_;
    free_slots_ = static_cast<std::uint32_t>(i - 1);
  }
  slot_count_ = static_cast<std::uint32_t>(slots_.size());
}

void uring_backend::free_slot(std::uint32_t number) noexcept {
  slot& old = slots_[number];
  old.what = nullptr;
  ++old.generation;
  old.marks = 0;
  old.next = free_slots_;
  free_slots_ = number;
}

// A full queue means that this turn asked for more than it holds: it is sent in the middle of the turn.
// Null when the kernel takes nothing now; what could not be written is then owed.
io_uring_sqe* uring_backend::next_entry_or_submit() noexcept {
  if (is_full()) {
    if (!bound_) return nullptr;
    static_cast<void>(enter(0, 0, never));
    if (is_full()) return nullptr;
  }
  return &take_entry();
}

// The entry has been another's. What liburing's functions leave for io_uring_get_sqe() to clear from 2.6 on, which is
// not called here, they clear themselves in 2.3, whose headers have no version.
inline void uring_backend::clear([[maybe_unused]] io_uring_sqe& entry) noexcept {
#if defined(IO_URING_VERSION_MAJOR)
  entry.flags = 0;
  entry.ioprio = 0;
  entry.rw_flags = 0;
  entry.buf_index = 0;
  entry.personality = 0;
  entry.file_index = 0;
  entry.addr3 = 0;
  entry.__pad2[0] = 0;
#endif
}

inline void uring_backend::fill(io_uring_sqe& entry, const request& what, slot& of) noexcept {
  of.turn = turn_;
  const std::uint64_t data = user_data(slot_of(what), of.generation);
  if (of.is(slot::lasting | slot::polls | slot::by_worker | slot::no_hint)) [[unlikely]] {
    fill_otherwise(entry, what, of);
  } else {
    row_of(what.kind).prepare(what, entry);
  }
  entry.user_data = data;
}

void uring_backend::fill_otherwise(io_uring_sqe& entry, const request& what, const slot& of) noexcept {
  if (of.is(slot::lasting)) {
    io_uring_prep_poll_multishot(&entry, what.fd, polled_for(what.fd, asked_of(what)));
  } else if (of.is(slot::polls)) {
    io_uring_prep_poll_add(&entry, what.fd, polled_for(what.fd, asked_of(what)));
  } else {
    row_of(what.kind).prepare(what, entry);
    if (of.is(slot::by_worker)) entry.flags |= IOSQE_ASYNC;
    if (what.kind == request_kind::recv) {
      entry.ioprio &= static_cast<std::uint16_t>(~IORING_RECVSEND_POLL_FIRST);
    }
  }
}

bool uring_backend::write_start(std::uint32_t number) noexcept {
  io_uring_sqe* const entry = next_entry_or_submit();
  if (entry == nullptr) return false;
  slot& of = slots_[number];
  fill(*entry, *of.what, of);
  return true;
}

// Others are owed an entry before it, or none is free.
bool uring_backend::start_crowded(std::uint32_t number) noexcept {
  if (owed_first_ != no_slot || !write_start(number)) {
    slots_[number].mark(slot::owed_start);
    owe(number);
  }
  return true;
}

bool uring_backend::write_cancel(std::uint32_t number) noexcept {
  io_uring_sqe* const entry = next_entry_or_submit();
  if (entry == nullptr) return false;
  const std::uint32_t generation = slots_[number].generation;
  io_uring_prep_cancel64(entry, user_data(number, generation), 0);
  entry->user_data = user_data(number | cancel_bit, generation);
  return true;
}

// What is found in the slot is to end, whatever it is by the time the kernel looks.
void uring_backend::cancel(std::uint32_t number) noexcept {
  if (owed_first_ != no_slot || !write_cancel(number)) {
    slots_[number].mark(slot::owed_cancel);
    owe(number);
  }
}

void uring_backend::owe(std::uint32_t number) noexcept {
  slots_[number].next = no_slot;
  if (owed_first_ == no_slot) {
    owed_first_ = number;
  } else {
    slots_[owed_last_].next = number;
  }
  owed_last_ = number;
}

// Writes what found no entry before. In order, so that nobody waits for ever.
void uring_backend::pay() noexcept {
  while (owed_first_ != no_slot) {
    const std::uint32_t number = owed_first_;
    slot& first = slots_[number];
    if (first.is(slot::owed_start) && !write_start(number)) return;
    first.unmark(slot::owed_start);
    if (first.is(slot::owed_cancel) && !write_cancel(number)) return;
    first.unmark(slot::owed_cancel);
    owed_first_ = first.next;
    first.next = no_slot;
    // Withdrawn before it was ever written: only the slot was left.
    if (first.what == nullptr) free_slot(number);
  }
}

void uring_backend::watch_wake_fd() noexcept {
  io_uring_sqe* const entry = next_entry_or_submit();
  if (entry == nullptr) return;
  // Multishot polls tell of every write(2) to an eventfd, also when it is never read.
  io_uring_prep_poll_multishot(entry, wake_fd_, POLLIN);
  entry->user_data = user_data(slot_of_wake, 0);
  wake_lost_ = false;
}

// One shot, which also tells of what is there already: a multishot poll would tell only of what is added, and
// the watchers may leave something behind.
void uring_backend::watch_attended() noexcept {
  io_uring_sqe* const entry = next_entry_or_submit();
  if (entry == nullptr) return;
  io_uring_prep_poll_add(entry, attended_, POLLIN);
  entry->user_data = user_data(slot_of_attended, attended_life_);
  attended_lost_ = false;
}

// A poll that stays, because no entry was free to cancel it with, tells nobody.
void uring_backend::do_unattend() noexcept {
  const std::uint32_t life = attended_life_++;
  if (std::exchange(attended_lost_, false)) return;
  if (io_uring_sqe* const entry = next_entry_or_submit(); entry != nullptr) {
    io_uring_prep_cancel64(entry, user_data(slot_of_attended, life), 0);
    entry->user_data = user_data(slot_of_other_cancels, 0);
  }
}

bool uring_backend::do_start(request& what, descriptor_state& state) {
  const std::uint32_t number = free_slots_;
  if (number == no_slot || (what.kind == request_kind::recv_multi && chunk_ring_ == nullptr)) [[unlikely]]
    return start_prepared(what, state);
  slot& mine = slots_[number];
  free_slots_ = mine.next;
  mine.what = &what;
  slot_of(what) = number;
  arm(what, state);
  if (owed_first_ != no_slot || is_full()) [[unlikely]]
    return start_crowded(number);
  fill(take_entry(), what, mine);
  return true;
}

bool uring_backend::start_prepared(request& what, descriptor_state& state) {
  if (what.kind == request_kind::recv_multi && chunk_ring_ == nullptr && !feed_chunks()) {
    what.result = -ENOBUFS;
    return false;
  }
  if (free_slots_ == no_slot) add_slots();
  return do_start(what, state);
}

abort_answer uring_backend::do_withdraw(request& what, descriptor_state&) noexcept {
  if (abandoned_) [[unlikely]] {
    detach(what);
    return abort_answer::now;
  }
  if (std::exchange(withdrawn(what), true)) return abort_answer::later;
  const std::uint32_t number = slot_of(what);
  slot& mine = slots_[number];
  if (mine.is(slot::owed_start)) {
    // The kernel has never heard of it. Its slot is freed when its turn in the queue comes.
    mine.unmark(slot::owed_start);
    if (mine.is(slot::by_worker)) give_worker_back(mine);
    mine.what = nullptr;
    detach(what);
    return abort_answer::now;
  }
  mine.cancels_in_vain = 0;
  if (!mine.is(slot::owed_cancel)) cancel(number);
  return abort_answer::later;
}

bool uring_backend::feed_chunks() {
  if (chunks_refused_) return false;
  chunk_pool& pool = chunks();
  const unsigned entries = std::bit_ceil(pool.count());
  const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  const std::size_t bytes = (entries * sizeof(io_uring_buf) + page - 1) / page * page;
  void* const memory =
      ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return false;
  io_uring_buf_reg registration{};
  registration.ring_addr = reinterpret_cast<std::uint64_t>(memory);
  registration.ring_entries = entries;
  registration.bgid = chunk_group;
  if (io_uring_register_buf_ring(&ring_, &registration, 0) < 0) {
    // Receivers then bring their own memory; asking again would fail again.
    chunks_refused_ = true;
    ::munmap(memory, bytes);
    return false;
  }
  chunk_ring_ = static_cast<io_uring_buf_ring*>(memory);
  chunk_ring_bytes_ = bytes;
  io_uring_buf_ring_init(chunk_ring_);
  pool.feed(chunk_ring_, [](void* ring, chunk_pool& from, std::uint16_t number) {
    auto* const buffers = static_cast<io_uring_buf_ring*>(ring);
    io_uring_buf_ring_add(buffers, from.memory(number), static_cast<unsigned>(from.chunk_bytes()),
                          number, io_uring_buf_ring_mask(std::bit_ceil(from.count())), 0);
    io_uring_buf_ring_advance(buffers, 1);
  });
  return true;
}

// One io_uring_enter(2): sends what is queued and, if asked, waits. Written here because liburing 2.3
// cannot pass NO_IOWAIT, nor an absolute time. Returns its result or minus errno.
int uring_backend::enter(unsigned wait_for, unsigned flags, instant deadline) noexcept {
  ++stats_.enters;
  // Nothing new before what did not fit is out: until then the kernel ends each multishot with its first result, and
  // polls that are answered at once, and asked for again, would keep it so for ever.
  const unsigned count = overflowed() ? 0 : unsent();
  if (count != 0) {
    // Release: the kernel that sees the tail sees the entries below it.
    __atomic_store_n(ring_.sq.ktail, ring_.sq.sqe_tail, __ATOMIC_RELEASE);
    ring_.sq.sqe_head = ring_.sq.sqe_tail;
  }
  flags |= enter_flags_;
  if (deadline == never) {
    return io_uring_enter2(static_cast<unsigned>(enter_fd_), count, wait_for, flags, nullptr,
                           _NSIG / 8);
  }
  duration limit = deadline.time_since_epoch();
  if (absolute_) {
    flags |= IORING_ENTER_ABS_TIMER;
  } else {
    limit = std::max(duration::zero(), deadline - steady_now());
  }
  __kernel_timespec time{};
  time.tv_sec = limit / std::chrono::seconds(1);
  time.tv_nsec = (limit % std::chrono::seconds(1)).count();
  io_uring_getevents_arg argument{};
  argument.sigmask_sz = _NSIG / 8;
  argument.ts = reinterpret_cast<std::uint64_t>(&time);
  return io_uring_enter2(static_cast<unsigned>(enter_fd_), count, wait_for,
                         flags | IORING_ENTER_EXT_ARG, reinterpret_cast<sigset_t*>(&argument),
                         sizeof argument);
}

void uring_backend::judge(int entered) {
  switch (-entered) {
    case EINTR:  // a signal was handled
    case ETIME:  // the deadline
    case EAGAIN:
    case EBUSY:
    case ENOMEM: return;  // the kernel is short of something: completions first, then again
    case EEXIST: throw_misuse("a loop was used by a thread that does not run it");
    default:
      if (entered < 0) throw_error(-entered, "io_uring_enter of a loop");
  }
}

// Nothing was taken and nothing is there to make room: a pause, not a spin.
void uring_backend::pause_if_refused(int entered) const noexcept {
  if (entered != -EAGAIN && entered != -EBUSY && entered != -ENOMEM) return;
  if (io_uring_cq_ready(&ring_) != 0) return;
  const timespec pause{0, 1'000'000};
  ::nanosleep(&pause, nullptr);
}

void uring_backend::submit() {
  if (!bound_) bind();
  if (deaf_ && pollable_) hear_again();
  if (wake_lost_ && !pollable_) watch_wake_fd();
  pay();
  if (unsent() != 0) {
    // What completes in the next wait() was not answered at once.
    ++turn_;
    const int entered = enter(0, 0, never);
    judge(entered);
    // Who has a foreign loop wait comes back at once.
    if (pollable_) pause_if_refused(entered);
  }
}

std::size_t uring_backend::wait(instant deadline) {
  if (!bound_) bind();
  if (wake_lost_ && (!pollable_ || deadline != instant::min())) watch_wake_fd();
  if (attended_lost_ && attended_ >= 0) [[unlikely]]
    watch_attended();
  if (owed_first_ != no_slot) [[unlikely]]
    pay();
  if (pollable_) {
    // Before the queue is looked at, so that what comes afterwards signals anew.
    std::uint64_t signals = 0;
    static_cast<void>(::read(pollable_.get(), &signals, sizeof signals));
  }
  ++turn_;
  const bool may_sleep = deadline != instant::min() && owed_first_ == no_slot && !wake_lost_ &&
                         !(attended_lost_ && attended_ >= 0);
  COIR_TRACE(trace_, trace::point::poll_enter, 0, may_sleep);
  int entered = 0;
  if (may_sleep) {
    entered = enter(1, IORING_ENTER_GETEVENTS, deadline);
  } else if (unsent() != 0 || work_flagged() ||
             (ring_.flags & IORING_SETUP_TASKRUN_FLAG) == 0) {
    entered = enter(0, IORING_ENTER_GETEVENTS, never);
  }
  if (entered < 0) [[unlikely]] {
    judge(entered);
    if (deadline != instant::min()) pause_if_refused(entered);
  }
  std::size_t count = reap();
  // What did not fit in the queue is moved there when the kernel is asked.
  if (overflowed()) {
    ++stats_.overflows;
    do {
      judge(enter(0, IORING_ENTER_GETEVENTS, never));
      count += reap();
    } while (overflowed());
  }
  COIR_TRACE(trace_, trace::point::poll_leave, 0, count);
  return count;
}

// Completions are told one by one; whoever is told only queues, and may start further requests.
std::size_t uring_backend::reap() noexcept {
  std::size_t count = 0;
  unsigned head = relaxed(ring_.cq.khead);
  const unsigned tail = acquire(ring_.cq.ktail);
  for (; head != tail; ++head, ++count) {
    const io_uring_cqe& entry = ring_.cq.cqes[head & ring_.cq.ring_mask];
    const std::uint64_t data = entry.user_data;
    const int result = entry.res;
    const std::uint32_t flags = entry.flags;
    // Release: the kernel may use the place again once it sees the head.
    __atomic_store_n(ring_.cq.khead, head + 1, __ATOMIC_RELEASE);
    const auto number = static_cast<std::uint32_t>(data & 0xffff'ffff);
    if (number >= slot_count_) [[unlikely]] {
      hear(data, result, flags);
      continue;
    }
    const slot& of = slots_[number];
    if (of.generation != data >> 32 || of.what == nullptr) [[unlikely]] {
      ++stats_.stale_events;
      continue;
    }
    finish(number, result, flags);
  }
  return count;
}

// What is no request's.
void uring_backend::hear(std::uint64_t data, int result, std::uint32_t flags) noexcept {
  switch (static_cast<std::uint32_t>(data & 0xffff'ffff)) {
    case slot_of_wake:
      deaf_ = true;
      // Queued anew by the next wait(), before which the loop looks into its inbox.
      if ((flags & IORING_CQE_F_MORE) == 0) wake_lost_ = true;
      break;
    case slot_of_attended:
      deaf_ = true;
      if (data >> 32 == attended_life_) attention_ = attended_lost_ = true;
      break;
    case slot_of_other_cancels: break;
    default: hear_of_cancel(data, result);
  }
}

// Mostly the request's own completion says it all. But what the kernel has queued to try again it finds nowhere: not
// among those that wait, and not with its workers. Nor what waits for a disk, which no asking hastens.
void uring_backend::hear_of_cancel(std::uint64_t data, int result) noexcept {
  const auto number = static_cast<std::uint32_t>(data & 0xffff'ffff) & ~cancel_bit;
  if (number >= slot_count_) {
    ++stats_.stale_events;
    return;
  }
  slot& of = slots_[number];
  if (result != -ENOENT || of.generation != data >> 32 || of.what == nullptr || of.is(slot::owed_cancel)) return;
  if (!withdrawn(*of.what) && !of.is(slot::answered)) return;
  if (row_of(of.what->kind).may_block != blocking::no && ++of.cancels_in_vain == cancels_in_vain_max) return;
  cancel(number);
}

bool uring_backend::is_asked_again(const request& what, const slot& of, int result) noexcept {
  const request_row& row = row_of(what.kind);
  // It waited for readiness in place of the operation, which comes now.
  if (of.is(slot::polls) && result >= 0) return true;
  // A kernel that will not wait on a non-blocking descriptor: poll in its place. Not where readiness says
  // nothing about the next try.
  if (result == -EAGAIN) return row.readiness != 0 && !row.multishot && !row.always_tried;
  // A path that the kernel has in its cache it opens without waiting: not a FIFO that nobody reads yet.
  if (result == -ENXIO) {
    return what.kind == request_kind::open && (what.flags & O_NONBLOCK) == 0 && !of.is(slot::by_worker);
  }
  // Interrupted before it did anything.
  return result == -EINTR && what.kind != request_kind::connect && !row.multishot;
}

// What was asked, of what a poll tells. Of a socket urgent data is looked for: whoever brings it ordinary data wakes
// those who wait for urgent data up, too. Of files a look may take away what it shows.
int answer_of(const request& what, short asked, int events) noexcept {
  events &= asked | POLLERR | POLLHUP | POLLNVAL;
  if ((events & POLLPRI) == 0 || !is_socket(what.fd)) return events;
  pollfd one{what.fd, asked, 0};
  return ::poll(&one, 1, 0) < 0 ? events : one.revents;
}

// Once it has let go, the request is over with this result.
void uring_backend::end_poll(std::uint32_t number, int result) noexcept {
  slot& of = slots_[number];
  of.what->result = result;
  of.mark(slot::answered);
  of.cancels_in_vain = 0;
  if (!of.is(slot::owed_cancel)) cancel(number);
}

// A poll, or one in place of an operation. io_uring adds to each poll that a peer will send no more (POLLRDHUP), which
// ends a wait for room in the buffer at once, and each one after it. What told that, or other things that nobody
// asked for, is polled with a request that stays, and ends when there is an answer. True: it goes on.
bool uring_backend::polls_on(std::uint32_t number, int& result, std::uint32_t flags) noexcept {
  slot& of = slots_[number];
  request& what = *of.what;
  const bool stays = (flags & IORING_CQE_F_MORE) != 0;
  if (of.is(slot::answered)) {
    if (stays) return true;
    of.unmark(slot::answered);
    result = what.result;
    return false;
  }
  if (result < 0) return false;
  const short asked = asked_of(what);
  int answer = answer_of(what, asked, result);
  if (of.is(slot::polls) && answer != 0 && (answer & ~(POLLERR | POLLHUP)) == 0) {
    // A message in the error queue shows so until somebody takes it, and a connection that is over does for ever,
    // while others wait for something else. Once it has been tried in vain, only the poll that stays is asked.
    if (of.is(slot::erred)) answer = 0;
    of.mark(slot::erred);
    if (answer == 0 && stays && !withdrawn(what)) {
      // It does not wait in the call: the kernel has answered EAGAIN. What comes behind it is told anew.
      const int tried = attempt(row_of(what.kind), what);
      if (tried != -EAGAIN && tried != -EINTR) {
        of.unmark(slot::polls);  // it is done, and not to be tried again
        end_poll(number, tried);
        return true;
      }
    }
  }
  if (answer != 0) {
    result = answer;
    if (!stays) return false;
    end_poll(number, answer);
    return true;
  }
  if (stays) return true;
  if (withdrawn(what)) {
    result = -ECANCELED;
    return false;
  }
  of.mark(slot::lasting);
  return ask_again(number);
}

// True: it is not over yet. `result` is made what the request's row would answer, see request.cpp.
bool uring_backend::goes_on(std::uint32_t number, int& result, std::uint32_t flags) noexcept {
  slot& of = slots_[number];
  request& what = *of.what;
  // What a system call would have been restarted with; an open that is withdrawn answers so (Linux 6.18).
  if (result <= -restart_first && result >= -restart_last) result = -EINTR;
  // As close(2): the number is free all the same.
  if (result == -EINTR && what.kind == request_kind::close) result = 0;
  if ((what.kind == request_kind::poll || of.is(slot::polls | slot::answered)) && polls_on(number, result, flags)) {
    return true;
  }
  if (is_asked_again(what, of, result)) {
    if (!withdrawn(what)) {
      of.unmark(slot::polls | slot::lasting);
      if (result == -ENXIO) {
        of.mark(slot::by_worker);
        ++held_workers_;
        allow_workers();
      }
      if (result == -EAGAIN) of.mark(slot::polls | slot::no_hint);
      return ask_again(number);
    }
    result = -ECANCELED;
  }
  if (of.is(slot::by_worker)) give_worker_back(of);
  if (result == -EINTR && withdrawn(what)) result = -ECANCELED;
  if (result == -EAGAIN && what.kind == request_kind::connect) result = -ECONNREFUSED;
  result = lasting_failure(what, result);
  return false;
}

// As a new use of the slot: a cancellation of what was in it may be on its way.
bool uring_backend::ask_again(std::uint32_t number) noexcept {
  slot& of = slots_[number];
  ++of.generation;
  if (of.is(slot::owed_cancel)) {
    of.unmark(slot::owed_cancel);
    of.mark(slot::owed_start);
    return true;
  }
  return start_crowded(number);
}

inline void uring_backend::finish(std::uint32_t number, int result, std::uint32_t flags) noexcept {
  slot& of = slots_[number];
  request& what = *of.what;
  if (pollable_) [[unlikely]] {
    deaf_ |= what.kind == request_kind::read || what.kind == request_kind::readv ||
             what.kind == request_kind::poll;
  }
  if (result <= 0 || of.marks != 0 || what.kind == request_kind::poll) [[unlikely]] {
    if (goes_on(number, result, flags)) return;
  }
  if ((flags & IORING_CQE_F_BUFFER) != 0) {
    chunk_of(what) = static_cast<std::uint16_t>(flags >> IORING_CQE_BUFFER_SHIFT);
    chunks_->taken();
    if (result <= 0) chunks_->give_back(chunk_of(what));
  }
  if ((flags & IORING_CQE_F_MORE) != 0) return deliver(what, result);
  // Trying first costs a vain attempt when nothing is there, polling first a detour when something is.
  // Measured: with a busy peer on another core the first is right, with one on the same core the second.
  more_expected(what) = (flags & IORING_CQE_F_SOCK_NONEMPTY) != 0 || of.turn + 1 == turn_;
  if (of.is(slot::owed_cancel)) [[unlikely]] {
    // Its slot is in the queue of those owed an entry, and is freed there.
    of.unmark(slot::owed_cancel);
    of.what = nullptr;
  } else {
    free_slot(number);
  }
  complete(what, result);
}

// What the rows of the request table need, by the names of liburing; SEND_ZC is not used but arrived in
// the same release, 6.0, as multishot receive, which has no opcode of its own.
constexpr std::array<int, 15> needed_operations{
    IORING_OP_READ,     IORING_OP_WRITE,    IORING_OP_READV,        IORING_OP_WRITEV,
    IORING_OP_RECV,     IORING_OP_SEND,     IORING_OP_RECVMSG,      IORING_OP_SENDMSG,
    IORING_OP_ACCEPT,   IORING_OP_CONNECT,  IORING_OP_POLL_ADD,     IORING_OP_OPENAT,
    IORING_OP_CLOSE,    IORING_OP_FSYNC,    IORING_OP_ASYNC_CANCEL,
};

// True: it has all that is needed, and nobody forbids its use.
bool is_usable(io_uring& ring, uring_refusal& refusal) {
  // A sandbox may allow the set-up and refuse the rest. A ring that is not enabled yet answers EBADFD.
  const int entered = io_uring_enter2(static_cast<unsigned>(ring.ring_fd), 0, 0, 0, nullptr, _NSIG / 8);
  if (entered < 0 && entered != -EBADFD) {
    refusal = {-entered, fmt::format("io_uring_enter: {}", std::strerror(-entered))};
    return false;
  }
  constexpr unsigned needed_features =
      IORING_FEAT_NODROP | IORING_FEAT_FAST_POLL | IORING_FEAT_EXT_ARG;
  refusal = {0, {}};
  if ((ring.features & needed_features) != needed_features) {
    refusal.why = "the kernel is too old: it may drop completions";
    return false;
  }
  io_uring_probe* const probe = io_uring_get_probe_ring(&ring);
  if (probe == nullptr) {
    refusal.why = "the kernel does not say which operations it has";
    return false;
  }
  for (const int operation : needed_operations) {
    if (!io_uring_opcode_supported(probe, operation)) {
      refusal.why = fmt::format("the kernel lacks operation {}", operation);
    }
  }
  if (!io_uring_opcode_supported(probe, IORING_OP_SEND_ZC)) {
    refusal.why = "the kernel is older than 6.0: no multishot receive";
  }
  io_uring_free_probe(probe);
  return refusal.why.empty();
}

int set_up(unsigned entries, const setup_step& step, unsigned completions, io_uring& ring) noexcept {
  io_uring_params parameters{};
  parameters.flags = step.flags;
  parameters.cq_entries = completions;
  if ((step.flags & priv::uring_unknown_flags) != 0) return -EINVAL;
  if (priv::uring_setup_error != 0 && entries > priv::uring_entries_max) {
    return -priv::uring_setup_error;
  }
  return io_uring_queue_init_params(entries, &ring, &parameters);
}

}  // namespace

std::unique_ptr<backend> make_uring_backend(trace::control& trace,
                                            const backend_settings& settings,
                                            uring_refusal& refusal) {
  unsigned entries = settings.entries;
  std::size_t step = 0;
  io_uring ring{};
  for (;;) {
    const unsigned completions = std::max(
        entries, settings.completions != 0 ? settings.completions : 4 * entries);
    const int answer = set_up(entries, setup_steps[step], completions, ring);
    if (answer >= 0) break;
    if (answer == -EINVAL && step + 1 < setup_steps.size()) {
      ++step;
    } else if (answer == -ENOMEM && entries > entries_min) {
      entries = std::max(entries_min, entries / 2);
    } else if (answer == -ENOMEM || answer == -EMFILE || answer == -ENFILE) {
      throw_error(-answer, fmt::format("io_uring_setup for a loop, {} entries", entries));
    } else {
      refusal.error = -answer;
      refusal.why = fmt::format("io_uring_setup: {}", std::strerror(-answer));
      return nullptr;
    }
  }
  if (!is_usable(ring, refusal)) {
    io_uring_queue_exit(&ring);
    return nullptr;
  }
  return std::make_unique<uring_backend>(trace, settings, ring, setup_steps[step]);
}

}  // namespace coir
