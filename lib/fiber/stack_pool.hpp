// Stacks, recycled: mapped many at a time, guarded, coloured. Private to lib/fiber.
#pragma once

#include <coir/fiber/stack.hpp>

#include <cstddef>
#include <memory>
#include <vector>

namespace coir {

class stack_pool {
 public:
  stack_pool();
  stack_pool(const stack_pool&) = delete;
  // All stacks must have been given back.
  ~stack_pool();

  // At least `bytes` (0: the default). Throws std::system_error when there is no memory for it.
  stack& take(std::size_t bytes);
  void give_back(stack& unused) noexcept;
  // give_back() would leave its pages alone.
  bool keeps(const stack& unused) const noexcept;

 private:
  struct slab;
  // The stacks of one size.
  struct size_class {
    std::size_t bytes;
    stack* free = nullptr;  // last in, first out: the pages touched last are used first
    std::size_t hot = 0;    // free ones that still have their pages
  };
  size_class& class_for(std::size_t bytes);
  void map(std::size_t class_number);

  std::vector<size_class> classes_;  // the first is that of the default size
  std::vector<std::unique_ptr<slab>> slabs_;
  std::size_t made_ = 0;
};

}  // namespace coir
