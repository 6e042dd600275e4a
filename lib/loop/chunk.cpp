#include <coir/base/assert.hpp>
#include <coir/loop/chunk.hpp>

#include <new>

namespace coir {

// On its way back a chunk passes functions that each end in the next: none has registers to save.
void chunk::release() noexcept {
  const std::byte* const own = std::exchange(data_, nullptr);
  if (pool_ != nullptr) return std::exchange(pool_, nullptr)->take_back(number_);
  delete[] own;
}

chunk_pool* chunk_pool::create(unsigned count, std::size_t chunk_bytes) {
  return new chunk_pool(count, chunk_bytes);
}

chunk_pool::chunk_pool(unsigned count, std::size_t chunk_bytes)
    // Page-aligned: a chunk of a page is then one page for the kernel, and the first touch is its own.
    : memory_(static_cast<std::byte*>(
          ::operator new[](count* chunk_bytes, std::align_val_t(4096)))),
      numbers_(new std::uint16_t[count]),
      chunk_bytes_(chunk_bytes),
      count_(count),
      free_(count) {
  // Last in, first out, and the lowest numbers first: few connections touch few pages.
  for (unsigned i = count; i > 0; --i) numbers_[kept_++] = static_cast<std::uint16_t>(i - 1);
}

void chunk_pool::free_memory::operator()(std::byte* memory) const noexcept {
  ::operator delete[](memory, std::align_val_t(4096));
}

void chunk_pool::release() noexcept {
  if (references_.fetch_sub(1, std::memory_order_acq_rel) == 1) delete this;
}

void chunk_pool::orphan() noexcept {
  if (orphan_) return;  // and other threads may look already
  orphan_ = true;
  accept_ = nullptr;
}

void chunk_pool::take_back(std::uint16_t number) noexcept {
  if (orphan_) return release();
  count(-1);
  give_back(number);
}

bool chunk_pool::take(std::uint16_t& number) noexcept {
  if (kept_ == 0) return false;
  number = numbers_[--kept_];
  --free_;
  return true;
}

void chunk_pool::give_back(std::uint16_t number) noexcept {
  COIR_ASSERT(number < count_ && free_ < count_, "a chunk was given back twice");
  ++free_;
  if (accept_ != nullptr) return accept_(ring_, *this, number);
  numbers_[kept_++] = number;
}

void chunk_pool::feed(void* ring, acceptor accept) noexcept {
  ring_ = ring;
  accept_ = accept;
  if (accept == nullptr) return;
  for (unsigned i = 0; i < kept_; ++i) accept_(ring_, *this, numbers_[i]);
  kept_ = 0;
}

}  // namespace coir
