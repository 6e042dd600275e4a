// coir/loop/post.hpp: the inbox through which other threads reach a loop.
//
// The machinery under loop.post() and loop.stop(); a user needs only those.
//
// Shape    one atomic word: nothing, "asleep", or a chain of posts, newest first. A post is a node with
//          something to run; the node belongs to the inbox until it is over, and deletes itself then, unless it
//          is part of something that says otherwise.
// Order    posts of one thread run in their order.
// Thread   push and stop: any. The rest: the loop's. What a push brings may be what lets the loop end: the inbox
//          waits, before it goes, for whoever is still about to wake it.
// Errors   none; a push cannot fail.
// Cost     a push is one compare-and-swap, plus one write(2) when, and only when, the loop sleeps.
// See      coir/loop/loop.hpp; lib/loop/NOTE.md
#pragma once

#include <coir/base/atomic.hpp>
#include <coir/base/fd.hpp>

#include <cstdint>

namespace coir {

// Something that another thread wants done on the loop's thread.
class post_node {
 public:
  virtual ~post_node() = default;
  virtual void run() = 0;
  // It was run, or never will be, because its loop ends. On the loop's thread, the last that is done with it.
  virtual void over() noexcept { delete this; }

  struct end {
    void operator()(post_node* node) const noexcept { node->over(); }
  };

 private:
  friend class inbox;
  post_node* next_ = nullptr;
};

class inbox {
 public:
  inbox();
  inbox(const inbox&) = delete;
  ~inbox();

  // Any thread.
  void push(post_node& node) noexcept;
  void stop() noexcept;

  // The loop announces that it is about to sleep. False: it must not, something is here.
  bool fall_asleep() noexcept;
  // The loop is awake: from here on, posts wake nobody.
  void awake() noexcept;
  // All posts so far, oldest first, as a chain.
  post_node* take() noexcept;
  // What stands behind it in that chain; null: nothing.
  static post_node* behind(const post_node& taken) noexcept { return taken.next_; }
  // Waits for one; all that are there then are over without having run.
  void drop_some() noexcept;
  // This process is a child of the one whose threads may be about to wake it.
  void abandon() noexcept { abandoned_ = true; }
  bool empty() const noexcept;
  bool stop_requested() const noexcept { return stop_.load(std::memory_order_acquire); }
  void clear_stop() noexcept { stop_.store(false, std::memory_order_relaxed); }
  // Before fall_asleep(), for those who wait until fd() is readable: from here on only a push or a stop
  // makes it so.
  void silence() noexcept;
  // An eventfd. Nobody needs to read it: both backends watch it edge-triggered, so that waking the loop
  // costs the sleeper no read(2).
  int fd() const noexcept { return fd_.get(); }

 private:
  post_node* asleep() const noexcept;
  void ring() noexcept;

  atomic<post_node*> head_{nullptr};
  atomic<bool> stop_{false};
  // Wake-ups by others: those whose writers have let go of this, and those that the loop knows to have begun.
  atomic<std::uint32_t> rings_over_{0};
  std::uint32_t rings_begun_ = 0;
  bool asleep_ = false;
  bool abandoned_ = false;
  unique_fd fd_;
};

}  // namespace coir
