// coir/thread/mail.hpp: what travels from any thread to one loop, and who waits for it there.
//
// The machinery under mailbox and remote_channel; a user needs only those.
//
//     sender, any thread            mail_link                       mail_queue, on its loop
//     push: one compare-and-swap -> word: chain | told | closed --> knocked: takes the chain, oldest first,
//     the first of a batch also     told: a post is on its way      put() queues it, and who waits is handed it
//     posts the link's own node
//
// Shape    the link is shared by all senders and the queue, and goes with the last of them. The queue is a part of
//          the object on the loop.
// Order    mail of one thread comes in its order.
// Thread   the link: any, where it says so. The rest: the loop's.
// Lifetime either side may go at any time. What comes for a queue that is gone is refused; what was on its way, lost.
// Errors   std::logic_error outside of a loop.
// Cost     a push is one compare-and-swap, and one post to the loop for each batch.
// See      coir/thread/mailbox.hpp, coir/thread/remote_channel.hpp; lib/thread/NOTE.md
#pragma once

#include <coir/base/atomic.hpp>
#include <coir/fiber/op.hpp>
#include <coir/loop/loop.hpp>
#include <coir/loop/post.hpp>
#include <coir/sync/wait_list.hpp>
#include <coir/thread/letter_memory.hpp>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <optional>
#include <string>
#include <utility>

namespace coir::priv {

class channel_request;
class mail_queue;
class mail_wait;

// One thing that travels. It belongs to whoever has it.
class mail {
 public:
  mail(const mail&) = delete;
  virtual ~mail() = default;
  // It was read, or nobody ever will read it.
  virtual void drop() noexcept { delete this; }
  // It waits for room (remote_channel.hpp). Only of one that asks.
  virtual channel_request* request() noexcept { return nullptr; }
  bool asks() const noexcept { return asks_; }

 protected:
  explicit mail(bool asks) noexcept : asks_(asks) {}

 private:
  friend class mail_link;
  friend class mail_queue;
  mail* next_ = nullptr;
  bool counted_ = true;  // it takes up room, until it is first handed to somebody
  const bool asks_;
};

template <class T>
class letter : public mail {
 public:
  explicit letter(T&& what, bool asks = false) : mail(asks), value(std::move(what)) {}
  static void* operator new(std::size_t size) { return allocate_letter(size); }
  static void operator delete(void* memory, std::size_t size) noexcept { free_letter(memory, size); }
  static void* operator new(std::size_t size, std::align_val_t large) { return ::operator new(size, large); }
  static void operator delete(void* memory, std::align_val_t large) noexcept { ::operator delete(memory, large); }
  T value;
};

// What is read of one that came; nothing of none.
template <class T>
std::optional<T> read_letter(mail* came) {
  if (came == nullptr) return std::nullopt;
  struct last_use {
    letter<T>* what;
    ~last_use() {
      // Most are letters and nothing more, which need not be asked what they are.
      if (what->asks() || alignof(letter<T>) > __STDCPP_DEFAULT_NEW_ALIGNMENT__) {
        what->drop();
      } else {
        what->letter<T>::~letter();
        free_letter(what, sizeof(letter<T>));
      }
    }
  };
  const last_use after{static_cast<letter<T>*>(came)};
  return std::move(after.what->value);
}

// What was taken from a link at once, oldest first.
struct mail_batch {
  mail* first = nullptr;
  mail* last = nullptr;
  bool asks = false;  // one of them does
};

class mail_link {
 public:
  mail_link(loop& on, mail_queue& receiver);
  mail_link(const mail_link&) = delete;

  // --- any thread ---

  // False: closed, or gone; it is still the caller's.
  bool push(mail& what) noexcept;
  void close() noexcept;
  bool closed() const noexcept { return (word_.load(std::memory_order_relaxed) & is_closed) != 0; }
  void add_sender() noexcept;
  void remove_sender() noexcept;
  std::size_t senders() const noexcept { return senders_.load(std::memory_order_relaxed); }
  // Room for so many more; negative: so many have asked for room and have none.
  atomic<std::ptrdiff_t>& room() noexcept { return room_; }
  // One place, if there is one. Taking it first and giving it back would show others less room than there is.
  bool take_room() noexcept {
    std::ptrdiff_t room = room_.load(std::memory_order_relaxed);
    do {
      if (room <= 0) return false;
    } while (!room_.compare_exchange_weak(room, room - 1, std::memory_order_relaxed, std::memory_order_relaxed));
    return true;
  }
  void release() noexcept;
  // Those who receive are fibers of that loop.
  bool leads_to(const loop& which) const noexcept { return port_ == which.port(); }
  // What outlives its loop gets nothing more.
  void close_if_unreachable() noexcept;

 private:
  friend class mail_queue;
  enum flag : std::uintptr_t {
    is_told = 1,    // a knock is on its way to the loop, or the queue is gone
    is_closed = 2,
    all_flags = is_told | is_closed,
  };
  // What the loop is told with, over and over: it is on its way at most once at a time.
  class knock final : public post_node {
   public:
    explicit knock(mail_link& of) noexcept : of_(of) {}
    void run() override { of_.knocked(); }
    void over() noexcept override { of_.release(); }
    void lost() noexcept override;

   private:
    mail_link& of_;
  };
  static mail* chain_of(std::uintptr_t word) noexcept { return reinterpret_cast<mail*>(word & ~std::uintptr_t{all_flags}); }
  ~mail_link() = default;
  bool mark(std::uintptr_t flags, std::uintptr_t unless) noexcept;
  bool tell(const mail* mine) noexcept;
  void knocked();
  // The loop's thread: a knock that brings nothing.
  void call() noexcept;
  bool unreachable(const mail* spared) noexcept;
  // The loop's thread: takes the chain, and leaves of the flags only those.
  mail_batch take(std::uintptr_t keep) noexcept;
  bool empty() const noexcept { return chain_of(word_.load(std::memory_order_relaxed)) == nullptr; }
  // The queue goes.
  void abandon() noexcept;

  // All that changes sides with a batch, in one cache line. What changes less often, in the next one.
  alignas(64) atomic<std::uintptr_t> word_{0};
  knock knock_{*this};
  atomic<std::size_t> references_{1};  // the queue, senders, a knock that is on its way
  mail_queue* receiver_;               // the loop's thread; null: gone
  alignas(64) atomic<std::ptrdiff_t> room_{0};
  atomic<std::size_t> senders_{0};
  const std::shared_ptr<loop_port> port_;
};

// What has come and nobody has been given yet, and who waits for more.
class mail_queue {
 public:
  mail_queue(const mail_queue&) = delete;
  mail_queue& operator=(const mail_queue&) = delete;

 protected:
  explicit mail_queue(loop& on);
  virtual ~mail_queue();
  static loop& here();

  mail_link& link() const noexcept { return *link_; }
  // Null: there is nothing now.
  mail* try_take();
  void push(mail& what) noexcept;
  // Places for mail become free as it is read. Their number's line goes to and fro between the threads each time somebody
  // changes it, so those who send hear of so many at once, and of fewer when nothing is left to be read or the loop's next
  // turn has come. 0: nobody counts them.
  void pass_on_room_in(std::ptrdiff_t batch) noexcept { batch_ = batch; }
  void pass_on_room() noexcept {
    if (const std::ptrdiff_t freed = std::exchange(freed_, 0); freed != 0) add_room(freed);
  }
  // To those who wait, as long as there is something.
  void hand_out() noexcept;
  // Fibers wait here, and somebody may yet send: that is no deadlock.
  void update_hold() noexcept;
  std::size_t pending() const noexcept;  // O(n)
  std::size_t waiting() const noexcept { return waiting_.size(); }
  std::uint64_t received() const noexcept { return received_; }
  std::uint64_t knocks() const noexcept { return knocks_; }
  void check() noexcept { bound_.check(); }

 private:
  friend class mail_link;
  friend class mail_wait;
  // One that asks has come.
  virtual void asked(mail&) noexcept {}
  virtual void add_room(std::ptrdiff_t) noexcept {}
  // Nothing is queued: another that may be given out, or null.
  virtual mail* next_in_line() noexcept { return nullptr; }
  virtual void link_closed() noexcept {}

  void arrived(const mail_batch& batch) noexcept;
  void put(const mail_batch& batch) noexcept;
  mail* pop() noexcept;
  mail* pop_arrived() noexcept;
  mail* pop_unqueued() noexcept;
  void made_room() noexcept;
  void give_back(mail& what) noexcept;
  void hand(mail_wait& to, mail* what) noexcept;
  bool at_home() const noexcept;
  bool drained() const noexcept { return link_->closed() && link_->empty() && first_ == nullptr; }

  mail_link* link_;
  loop* on_;
  std::uint16_t number_;
  mail* first_ = nullptr;
  mail* last_ = nullptr;
  std::ptrdiff_t freed_ = 0;  // places that nobody has been told of
  std::ptrdiff_t batch_ = 0;
  wait_list<mail_wait> waiting_;
  list<mail_wait> handed_;  // have been given something, and have not taken it
  std::optional<loop::hold> hold_;
  std::uint64_t received_ = 0;
  std::uint64_t knocks_ = 0;
  loop_bound bound_;
};

// Waiting for the next.
class mail_wait : public wait_node {
 public:
  bool start(waiter& told);
  abort_answer abort() noexcept;
  void describe(std::string& text) const;

 protected:
  explicit mail_wait(mail_queue& from) noexcept : from_(&from) {}
  mail_wait(mail_wait&& other) noexcept : wait_node(other), from_(other.from_) {}
  ~mail_wait() {
    if (got_ != nullptr) [[unlikely]]
      return_it();
  }
  // Null: closed and drained.
  mail* take_mail() noexcept;

 private:
  friend class mail_queue;
  template <class>
  friend class coir::wait_list;

  void return_it() noexcept;

  mail_queue* from_;  // null: gone
  mail* got_ = nullptr;
};

}  // namespace coir::priv

namespace coir {

// The next value that comes; empty when what it comes through is closed and drained.
template <class T>
class [[nodiscard("co_await it, or coir::await(it)")]] mail_op : public priv::mail_wait {
 public:
  static constexpr const char* name = "mail";
  explicit mail_op(priv::mail_queue& from) noexcept : mail_wait(from) {}

  std::optional<T> take() { return priv::read_letter<T>(take_mail()); }
};

}  // namespace coir
