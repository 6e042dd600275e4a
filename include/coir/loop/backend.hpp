// coir/loop/backend.hpp: what a loop asks of the kernel, or of something that plays the kernel.
//
// Public so that a simulator can be a backend; not stable. Backends name no operation: what a kind of
// request does stands in the table of lib/loop/request.cpp.
//
// Shape    an abstract class and, per descriptor number, the requests in flight on it. The base class
//          owns what must be the same on every backend: admission, completion, and the closing path.
// Order    results are told in the order in which the kernel gave them.
// Thread   the loop's.
// Cancel   withdraw(); see waiter.hpp for the two answers.
// Errors   wait() throws std::system_error only for what no retry can cure.
// Cost     one virtual call to start a request, one per turn to wait.
// See      lib/loop/NOTE.md
#pragma once

#include <coir/base/list.hpp>
#include <coir/base/time.hpp>
#include <coir/loop/chunk.hpp>
#include <coir/loop/fd_table.hpp>
#include <coir/loop/request.hpp>
#include <coir/trace/trace.hpp>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>

namespace coir {

// What the loops know of one descriptor number.
struct descriptor_state {
  list<request> requests;  // in flight on it
  request* closer = nullptr;
  std::uint32_t generation = 0;  // counts the lives of the number
  bool owned = false;  // made by coir and closed by it: nobody else can reuse the number meanwhile
  bool closing = false;
  bool lingers = false;  // close(2) may block for it (SO_LINGER)
  int broken = 0;        // minus the errno with which the connection ended, once somebody was told of it

  // For a backend that works by readiness.
  bool watched = false;   // the kernel reports its edges
  bool readable = false;  // no edge since the last "would block" says otherwise
  bool writable = false;
  bool ended = false;  // hang-up or error: both directions stay ready
  bool plain_tcp = false;  // a TCP socket, and nothing urgent was sent: a short read has read all
  int next_unfinished = 0;  // a chain of those to serve again without an edge; 0: not in it

  // What was known of the number belongs to its life before.
  void begin_life(bool ours) noexcept {
    ++generation;
    owned = ours;
    broken = 0;
    closing = lingers = watched = readable = writable = ended = plain_tcp = false;
  }
};

using descriptor_table = fd_table<descriptor_state>;

struct backend_stats {
  std::uint64_t enters = 0;        // system calls that asked the kernel for events or gave it requests
  std::uint64_t submitted = 0;     // requests started
  std::uint64_t completed = 0;     // results told
  std::uint64_t overflows = 0;     // turns in which the completion queue had overflowed
  std::uint64_t stale_events = 0;  // results or events for something that was over
  std::uint64_t rebuilds = 0;      // of the epoll set, because of a registration that would not die
};

class backend {
 public:
  virtual ~backend();

  // True: it is in flight. False: it is over, request.result is set, nobody will be told.
  bool start(request& what);
  abort_answer withdraw(request& what) noexcept;

  // Gives `fd` to the closing path without anybody waiting for the end of it.
  void close_soon(int fd) noexcept;
  // A descriptor that was just made has this number: what was known of the number is forgotten.
  void adopt(int fd);
  // Somebody else closes it from here on. Nothing is in flight on it.
  void disown(int fd) noexcept;
  // close(2) on `fd` may block: it is then done off the loop's thread where the backend can.
  void lingers(int fd) { descriptors_[fd].lingers = true; }

  // Sends everything and waits for results until `deadline` (instant::min(): only looks), measured
  // on the steady clock. Returns how many results and events came, including those of `wake_fd`.
  virtual std::size_t wait(instant deadline) = 0;
  // Sends everything without waiting.
  virtual void submit() = 0;
  // Readable when wait() would find something in the kernel. Another one after a wait() that counted a
  // rebuild.
  virtual int pollable_fd() = 0;
  // wait() would find something that pollable_fd() does not show.
  virtual bool has_more() const noexcept = 0;

  // The watchers' epoll set is to end a wait too. It counts as another one after a rebuild, and keeps its number.
  void attend(int set, std::uint64_t rebuilds) {
    if (set == attended_ && rebuilds == attended_rebuilds_) [[likely]]
      return;
    unattend();
    do_attend(set);  // may throw
    attended_ = set;
    attended_rebuilds_ = rebuilds;
  }
  // ... no more.
  void unattend() noexcept {
    if (attended_ < 0) return;
    do_unattend();
    attended_ = -1;
  }
  // Has it had something to tell, in the last wait?
  bool take_attention() noexcept { return std::exchange(attention_, false); }

  std::size_t in_flight() const noexcept { return in_flight_; }
  // Of those, how many can wake somebody.
  std::size_t awaited() const noexcept { return stalled() ? 0 : in_flight_ - background_; }
  // All that is in flight waits for what only others of this loop could do. A kernel cannot know.
  bool stalled() const noexcept { return knows_stalls_ && is_stalled(); }
  const backend_stats& stats() const noexcept { return stats_; }
  virtual std::string describe() const = 0;

  // How the backend runs what may block and is no request of the kernel's (files on epoll). `run` answers
  // true when it is done, result set; false when it will call finish_blocking() on the loop's thread, which
  // must have happened before the loop ends.
  // Until a thread pool installs itself here, it runs on the spot.
  struct blocking_hook {
    bool (*run)(void* self, request& what, int (*work)(request&));
    void* self;
    // Asked to give up what it has not begun. True: it never will, and nobody is told.
    bool (*withdraw)(void* self, request& what) noexcept = nullptr;
    // The loop ends: waits until something that it runs is over, and finishes that. False: it runs nothing.
    bool (*settle)(void* self) noexcept = nullptr;
    // Another one takes its place, which must not happen while this one runs something; or the loop has ended.
    void (*gone)(void* self) noexcept = nullptr;
  };
  void install(blocking_hook hook) noexcept {
    dismiss_blocking();
    blocking_ = hook;
  }
  blocking_hook blocking() const noexcept { return blocking_; }
  void finish_blocking(request& what) noexcept { complete(what, what.result); }

  // Runs until nothing is in flight any more. What is still there is withdrawn first, and nothing new
  // begins: -ECANCELED.
  void drain() noexcept;
  // After fork(2), in the child: lets go of the kernel objects shared with the parent, touching nothing.
  void abandon() noexcept;
  // In place of drain() for one that was abandoned: what is in flight is the parent's, and ends here.
  void let_go() noexcept;

  chunk_pool& chunks();

 protected:
  backend(trace::control& trace, unsigned chunk_count, std::size_t chunk_bytes);

  // A close comes here only for a lingering descriptor for whose end somebody waits, when nothing else is in flight on
  // it. What is on no descriptor has a state of its own.
  virtual bool do_start(request& what, descriptor_state& state) = 0;
  virtual abort_answer do_withdraw(request& what, descriptor_state& state) noexcept = 0;
  virtual void do_abandon() noexcept = 0;
  // From here on wait() sets attention_ when this set is readable.
  virtual void do_attend(int set) = 0;
  // Asked where knows_stalls_ is set.
  virtual bool is_stalled() const noexcept { return false; }
  // ... no more; attended_ is that set.
  virtual void do_unattend() noexcept = 0;
  // The descriptor is about to be closed and nothing is in flight on it.
  virtual void forget(int fd, descriptor_state& state) noexcept = 0;

  // Of one that the hook runs.
  abort_answer withdraw_blocking(request& what) noexcept {
    if (blocking_.withdraw == nullptr || !blocking_.withdraw(blocking_.self, what)) return abort_answer::later;
    detach(what);
    return abort_answer::now;
  }

  // Everything below keeps the counts, the lists and the closing path right; nothing else may.
  void arm(request& what, descriptor_state& state) noexcept {
    what.armed_ = true;
    state.requests.push_back(what);
    ++in_flight_;
    if (what.background) [[unlikely]]
      ++background_;
  }
  // The last result. Inline, and ends in the call of whoever is told: this is on every request's way.
  void complete(request& what, int result) noexcept {
    if (what.held_up_) [[unlikely]]
      return complete_held_up(what, result);
    finish(what, result);
  }
  void deliver(request& what, int result) noexcept;   // one of several
  // ... after which it is asked for more. False: whoever was told has withdrawn it, and its memory may be gone.
  bool survives_delivery(request& what, const descriptor_state& state, int result) noexcept;
  void detach(request& what) noexcept { leave(what); }  // over, nobody is told

  // The system call of a request, once: its result, or minus its errno. It waits only where the kernel cannot
  // say when it would not (files). The chunk of a recv_multi is in address and length.
  static int perform(request& what) noexcept;

  // It need not wait for anybody. A receive of nothing waits for something to come.
  static bool moves_nothing(const request& what) noexcept { return what.length == 0 && is_empty_move(what); }

  // What a result that is not above 0 says, where the kernel tells whoever asks first why a connection is over (its peer
  // has reset it, say), and those who read behind that nothing but its end.
  [[gnu::cold]] int lasting_failure(const request& what, int result) noexcept;

  // The private marks that backends leave on a request.
  static bool& withdrawn(request& what) noexcept { return what.withdrawn_; }
  static bool& more_expected(request& what) noexcept { return what.more_expected_; }
  static std::uint16_t& chunk_of(request& what) noexcept { return what.chunk_; }
  static std::uint32_t& slot_of(request& what) noexcept { return what.slot_; }
  static std::uint32_t slot_of(const request& what) noexcept { return what.slot_; }

  // Calls `visit` for each of these requests. Whoever is told on the way may withdraw any of them, as a select does
  // with what it lost, and so the next one is kept where step_over() finds it.
  template <class Visit>
  void walk(const list<request>& over, Visit visit) noexcept {
    walker mine{over.empty() ? nullptr : &over.front(), nullptr, over, walkers_};
    walkers_ = &mine;
    while (mine.next != nullptr) {
      request& what = *mine.next;
      mine.next = over.after(what);
      visit(what);
    }
    walkers_ = mine.outer;
  }

  descriptor_table descriptors_;
  backend_stats stats_;
  trace::control& trace_;
  chunk_pool* chunks_ = nullptr;
  blocking_hook blocking_;
  int attended_ = -1;
  bool attention_ = false;
  bool knows_stalls_ = false;

 private:
  void dismiss_blocking() noexcept {
    if (blocking_.gone != nullptr) blocking_.gone(blocking_.self);
  }
  [[gnu::cold]] static bool is_empty_move(const request& what) noexcept;
  bool begin(request& what);
  bool begin_otherwise(request& what);
  [[gnu::noinline]] bool begin_traced(request& what);
  bool start_close(request& what);
  void withdraw_all(descriptor_state& state) noexcept;
  [[gnu::cold]] void complete_held_up(request& what, int result) noexcept;
  void go_on_closing(int fd) noexcept;
  void disinherit(descriptor_state& state) noexcept;
  void count_completed(const request& what, int result) noexcept {
    COIR_TRACE(trace_, trace::point::complete, 0, static_cast<std::uint64_t>(what.kind),
               static_cast<std::uint64_t>(static_cast<std::int64_t>(result)));
    ++stats_.completed;
  }
  bool finish_close(int fd, descriptor_state& state, request* closer) noexcept;
  void finish(request& what, int result) noexcept {
    count_completed(what, result);
    what.result = result;
    leave(what);
    if (what.told != nullptr) what.told->done();  // `what` may be gone from here on
  }
  bool give_up(request& what, descriptor_state& state) noexcept;
  // Before it leaves its list.
  void step_over(const request& what) noexcept {
    for (walker* each = walkers_; each != nullptr; each = each->outer) {
      if (each->next == &what) [[unlikely]]
        each->next = each->over.after(what);
      if (each->told == &what) each->told = nullptr;
    }
  }
  void leave(request& what) noexcept {
    step_over(what);
    what.armed_ = false;
    what.unlink();
    --in_flight_;
    if (what.background) [[unlikely]]
      --background_;
  }

  struct walker {
    request* next;
    const request* told;  // null as soon as it has left
    const list<request>& over;
    walker* outer;
  };
  walker* walkers_ = nullptr;  // the innermost

  // What is in flight on no descriptor: opens, closes that something holds up or that linger, and what was
  // left of a number's earlier life.
  descriptor_state apart_;

  std::size_t in_flight_ = 0;
  std::size_t background_ = 0;  // of those
  unsigned chunk_count_;
  std::size_t chunk_bytes_;
  std::uint64_t attended_rebuilds_ = 0;
  bool draining_ = false;
};

// What a loop tells whoever makes its backend.
struct backend_parts {
  trace::control& trace;
  int wake_fd;  // an eventfd whose every write(2) must end a wait
  unsigned chunks;
  std::size_t chunk_bytes;
};

// Makes a backend in place of the kernel's (loop_options::backend).
class backend_maker {
 public:
  virtual std::unique_ptr<backend> make(const backend_parts& parts) = 0;

 protected:
  ~backend_maker() = default;
};

}  // namespace coir
