#include <coir/base/error.hpp>
#include <coir/loop/post.hpp>

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <thread>
#include <utility>

namespace coir {

inbox::inbox() : fd_(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) {
  if (!fd_) throw_error(errno, "eventfd for the loop's inbox");
}

inbox::~inbox() {
  // What dies here may post once more.
  while (post_node* node = take()) {
    while (node != nullptr) std::exchange(node, node->next_)->lost();
  }
}

void inbox::drop_some() noexcept {
  // Who asked the loop to stop has what he wanted: it ends. With that asked for it would not sleep.
  clear_stop();
  silence();
  if (fall_asleep()) {
    pollfd until{fd_.get(), POLLIN, 0};
    while (::poll(&until, 1, -1) < 0) {
    }
  }
  awake();
  for (post_node* node = take(); node != nullptr;) std::exchange(node, node->next_)->lost();
}

// A value of head_ that no node can have.
post_node* inbox::asleep() const noexcept {
  return reinterpret_cast<post_node*>(const_cast<atomic<post_node*>*>(&head_));
}

void inbox::push(post_node& node) noexcept {
  post_node* head = head_.load(std::memory_order_relaxed);
  do {
    node.next_ = head == asleep() ? nullptr : head;
    // Release: the loop that takes the chain sees what this thread wrote before, the node included.
  } while (!head_.compare_exchange_weak(head, &node, std::memory_order_release,
                                        std::memory_order_relaxed));
  // Only the push that replaced "asleep" rings: one write per sleep, whatever the number of posts.
  if (head == asleep()) ring();
}

void inbox::stop() noexcept {
  // Sequentially consistent against fall_asleep(), which stores "asleep" and then reads stop_: one of
  // the two sees the other, or the request would be slept over.
  stop_.store(true, std::memory_order_seq_cst);
  post_node* expected = asleep();
  if (head_.compare_exchange_strong(expected, nullptr, std::memory_order_seq_cst)) ring();
}

bool inbox::fall_asleep() noexcept {
  post_node* expected = nullptr;
  if (!head_.compare_exchange_strong(expected, asleep(), std::memory_order_seq_cst)) return false;
  if (!stop_.load(std::memory_order_seq_cst)) return true;
  awake();
  return false;
}

void inbox::awake() noexcept {
  post_node* expected = asleep();
  // Relaxed: this writes no data for anybody; a post that came meanwhile stays where it is.
  head_.compare_exchange_strong(expected, nullptr, std::memory_order_relaxed);
}

post_node* inbox::take() noexcept {
  if (head_.load(std::memory_order_relaxed) == nullptr) return nullptr;
  // Acquire: pairs with the release of every push in the chain.
  post_node* newest = head_.exchange(nullptr, std::memory_order_acquire);
  if (newest == asleep()) return nullptr;
  post_node* oldest = nullptr;
  while (newest != nullptr) {
    post_node* const next = newest->next_;
    newest->next_ = oldest;
    oldest = newest;
    newest = next;
  }
  return oldest;
}

bool inbox::empty() const noexcept {
  post_node* const head = head_.load(std::memory_order_relaxed);
  return head == nullptr || head == asleep();
}

void inbox::silence() noexcept {
  std::uint64_t rung = 0;
  static_cast<void>(::read(fd_.get(), &rung, sizeof rung));
}

void inbox::ring() noexcept {
  const std::uint64_t one = 1;
  // The counter would have to reach 2^64 - 1 for this to fail, and would be readable then all the same.
  if (::write(fd_.get(), &one, sizeof one) < 0 && errno != EAGAIN) std::abort();
}

bool loop_port::push(post_node& node) noexcept {
  // Acquire: who finds it open comes before close(), which then waits.
  const bool reached = (word_.fetch_add(pushing, std::memory_order_acquire) & closed) == 0;
  if (reached) to_->push(node);
  word_.fetch_sub(pushing, std::memory_order_release);
  return reached;
}

void loop_port::close() noexcept {
  if ((word_.fetch_or(closed, std::memory_order_relaxed) & closed) != 0) return;
  // A push is a few instructions: whoever is in one is about to leave, or waits for a processor.
  while (word_.load(std::memory_order_acquire) != closed) std::this_thread::yield();
}

}  // namespace coir
