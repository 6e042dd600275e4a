#include <coir/base/error.hpp>
#include <coir/loop/post.hpp>

#include <poll.h>
#include <sched.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <utility>

namespace coir {

inbox::inbox() : fd_(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) {
  if (!fd_) throw_error(errno, "eventfd for the loop's inbox");
}

inbox::~inbox() {
  awake();
  // What dies here may post once more.
  while (post_node* node = take()) {
    while (node != nullptr) std::exchange(node, node->next_)->over();
  }
  if (abandoned_) return;
  // Whoever rang has let the loop run, which may have come to its end before the write(2) has.
  while (rings_over_.load(std::memory_order_acquire) != rings_begun_) ::sched_yield();
}

void inbox::drop_some() noexcept {
  silence();
  if (fall_asleep()) {
    pollfd until{fd_.get(), POLLIN, 0};
    while (::poll(&until, 1, -1) < 0) {
    }
  }
  awake();
  for (post_node* node = take(); node != nullptr;) std::exchange(node, node->next_)->over();
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
  awake();
  post_node* expected = nullptr;
  if (!head_.compare_exchange_strong(expected, asleep(), std::memory_order_seq_cst)) return false;
  asleep_ = true;
  if (!stop_.load(std::memory_order_seq_cst)) return true;
  awake();
  return false;
}

void inbox::awake() noexcept {
  if (!asleep_) return;
  asleep_ = false;
  post_node* expected = asleep();
  // Relaxed: this writes no data for anybody; a post that came meanwhile stays where it is. Who has replaced
  // "asleep" rings, one for each sleep.
  if (!head_.compare_exchange_strong(expected, nullptr, std::memory_order_relaxed)) ++rings_begun_;
}

post_node* inbox::take() noexcept {
  if (head_.load(std::memory_order_relaxed) == nullptr) return nullptr;
  // Acquire: pairs with the release of every push in the chain.
  post_node* newest = head_.exchange(nullptr, std::memory_order_acquire);
  if (newest == asleep()) {
    asleep_ = false;
    return nullptr;
  }
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
  // Release, and the last touch: ~inbox waits for it.
  rings_over_.fetch_add(1, std::memory_order_release);
}

}  // namespace coir
