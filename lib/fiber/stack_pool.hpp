// Stacks, recycled: mapped many at a time, guarded, coloured. Private to lib/fiber.
#pragma once

#include "context.hpp"

#include <coir/fiber/stack.hpp>

#include <cstddef>
#include <memory>
#include <utility>
#include <vector>

namespace coir {

class stack_pool {
 public:
  stack_pool();
  stack_pool(const stack_pool&) = delete;
  // All stacks must have been given back.
  ~stack_pool();

  // At least `bytes` (0: the default). Throws std::system_error when there is no memory for it.
  stack& take(std::size_t bytes) {
    size_class& of = bytes == 0 ? classes_.front() : class_for(bytes);
    if (of.free == nullptr) [[unlikely]]
      map(of);
    stack& taken = *of.free;
    of.free = std::exchange(taken.next_free_, nullptr);
    if (std::exchange(taken.hot_, false)) --of.hot;
    priv::open_side(taken.side_);
    // Frames that were left for good, and not by a return, have left their red zones behind.
    priv::clear_red_zones(taken.low_, taken.bytes());
    return taken;
  }

  void give_back(stack& unused) noexcept {
    if (!keeps(unused)) [[unlikely]] {
      give_pages_back(unused);
      put_first(unused);
    } else {
      give_back_hot(unused);
    }
  }
  // Leaves its pages alone: somebody still stands on it.
  void give_back_hot(stack& left) noexcept {
    ++classes_[left.size_class_].hot;
    left.hot_ = true;
    put_first(left);
  }
  // give_back() would leave its pages alone.
  bool keeps(const stack& unused) const noexcept {
    return classes_[unused.size_class_].hot < hot_max;
  }

 private:
  // Free stacks that keep their pages, per size. Beyond, the pages go back to the kernel, which costs 1.3
  // microseconds now and a page fault when the stack is used again.
  static constexpr std::size_t hot_max = 4096;

  struct slab;
  // The stacks of one size.
  struct size_class {
    std::size_t bytes;
    stack* free = nullptr;  // last in, first out: the pages touched last are used first
    std::size_t hot = 0;    // free ones that still have their pages
  };
  void put_first(stack& unused) noexcept {
    size_class& of = classes_[unused.size_class_];
    unused.next_free_ = of.free;
    of.free = &unused;
  }
  size_class& class_for(std::size_t bytes);
  void map(size_class& of);
  static void give_pages_back(stack& unused) noexcept;

  std::vector<size_class> classes_;  // the first is that of the default size
  std::vector<std::unique_ptr<slab>> slabs_;
  std::size_t made_ = 0;
};

}  // namespace coir
