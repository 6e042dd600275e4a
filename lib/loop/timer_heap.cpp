#include <coir/loop/timer_heap.hpp>

#include <span>

namespace coir {

namespace {
// Four children per node: half the levels of a binary heap, and the children of a node share one or
// two cache lines.
constexpr std::size_t arity = 4;
}  // namespace

void timer_heap::clear() noexcept {
  for (const entry& left : heap_) left.which->where_ = timer_node::nowhere;
  for (timer_node* const left : std::span(due_).subspan(due_at_)) {
    if (left == nullptr) continue;
    left->where_ = timer_node::nowhere;
    left->due_ = false;
  }
  heap_.clear();
  due_.clear();
  due_at_ = due_left_ = 0;
}

void timer_heap::sift_up(std::size_t hole, entry moved) noexcept {
  while (hole > 0) {
    const std::size_t parent = (hole - 1) / arity;
    if (!moved.before(heap_[parent])) break;
    put(hole, heap_[parent]);
    hole = parent;
  }
  put(hole, moved);
}

void timer_heap::sift_down(std::size_t hole, entry moved) noexcept {
  const std::size_t size = heap_.size();
  for (;;) {
    const std::size_t first = hole * arity + 1;
    if (first >= size) break;
    const std::size_t last = first + arity < size ? first + arity : size;
    std::size_t least = first;
    for (std::size_t child = first + 1; child < last; ++child) {
      if (heap_[child].before(heap_[least])) least = child;
    }
    if (!heap_[least].before(moved)) break;
    put(hole, heap_[least]);
    hole = least;
  }
  put(hole, moved);
}

void timer_heap::remove(std::size_t at) noexcept {
  const entry last = heap_.back();
  heap_.pop_back();
  if (at == heap_.size()) return;
  if (last.before(heap_[at])) {
    sift_up(at, last);
  } else {
    sift_down(at, last);
  }
}

void timer_heap::arm(timer_node& which, instant deadline) {
  const entry fresh{deadline, sequence_++, &which};
  if (which.armed() && !which.due_) {
    // In place: moving a deadline leaves no garbage and cannot fail.
    const std::size_t at = which.where_;
    if (fresh.before(heap_[at])) {
      sift_up(at, fresh);
    } else {
      sift_down(at, fresh);
    }
    return;
  }
  heap_.push_back(fresh);  // may throw; nothing has changed before
  disarm(which);
  sift_up(heap_.size() - 1, fresh);
}

bool timer_heap::disarm(timer_node& which) noexcept {
  if (!which.armed()) return false;
  const std::size_t at = which.where_;
  which.where_ = timer_node::nowhere;
  if (which.due_) {
    which.due_ = false;
    due_[at] = nullptr;
    --due_left_;
  } else {
    remove(at);
  }
  return true;
}

void timer_heap::collect(instant now, std::size_t limit) {
  if (due_left_ != 0) return;
  due_.clear();
  due_at_ = 0;
  while (due_.size() < limit && !heap_.empty() && heap_.front().deadline <= now) {
    timer_node& first = *heap_.front().which;
    due_.push_back(&first);
    ++due_left_;
    remove(0);
    first.due_ = true;
    first.where_ = static_cast<std::uint32_t>(due_.size() - 1);
  }
}

bool timer_heap::fire_next() {
  while (due_at_ != due_.size()) {
    timer_node* const which = due_[due_at_++];
    if (which == nullptr) continue;
    which->where_ = timer_node::nowhere;
    which->due_ = false;
    --due_left_;
    which->fire_(*which);
    return true;
  }
  return false;
}

}  // namespace coir
