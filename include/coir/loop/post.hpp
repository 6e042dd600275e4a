// coir/loop/post.hpp: the inbox through which other threads reach a loop.
//
// The machinery under loop.post() and loop.stop(); a user needs only those.
//
// Shape    one atomic word: nothing, "asleep", or a chain of posts, newest first. A post is a node with
//          something to run; the node belongs to the inbox until it is over, and deletes itself then, unless it
//          is part of something that says otherwise.
// Order    posts of one thread run in their order.
// Thread   push and stop: any, as long as the inbox is known to live; through a port, also when not. The rest: the
//          loop's.
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
  // It has run. From within run() on whoever made it may push it again.
  virtual void over() noexcept { delete this; }
  // It never will: its loop has ended.
  virtual void lost() noexcept { over(); }

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
  // Waits for one; all that are there then are lost.
  void drop_some() noexcept;
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
  unique_fd fd_;
};

// The way to a loop's inbox for those who may outlive the loop, or whose push may be what lets it end. Shared by them
// and the loop (loop::port()).
class loop_port {
 public:
  explicit loop_port(inbox& to) noexcept : to_(&to) {}
  loop_port(const loop_port&) = delete;

  // Any thread. False: the loop has ended, or is the parent process's, and the node is still the caller's.
  bool push(post_node& node) noexcept;
  bool open() const noexcept { return (word_.load(std::memory_order_acquire) & closed) == 0; }

  // The loop's thread, when it ends: waits until nobody is in the middle of a push.
  void close() noexcept;
  // In a forked child: whoever was in the middle of one is not there.
  void abandon() noexcept { word_.store(closed, std::memory_order_relaxed); }

 private:
  static constexpr std::uint32_t closed = 1;
  static constexpr std::uint32_t pushing = 2;  // for each thread that is

  atomic<std::uint32_t> word_{0};
  inbox* to_;
};

}  // namespace coir
