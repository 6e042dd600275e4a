#include <coir/trace/trace.hpp>

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <memory>
#include <new>

#if defined(__x86_64__)
#include <x86intrin.h>
#endif

namespace coir::trace {

namespace {

constexpr std::size_t ring_records = 65536;

std::uint64_t ticks_now() noexcept {
#if defined(__x86_64__)
  return __rdtsc();
#else
  return static_cast<std::uint64_t>(steady_now().time_since_epoch().count());
#endif
}

// One writer, the thread itself. The words are atomic although only one thread writes them, because
// an exporter may copy them from another thread while they are overwritten. Such a one must look at head_
// again, and drop what the writer may have touched meanwhile; read() is for the ring's own thread.
class ring {
 public:
  ring() : words_(new(std::nothrow) std::atomic<std::uint64_t>[ring_records * 4]) {}

  void write(const record& entry) noexcept {
    const std::uint64_t head = head_.load(std::memory_order_relaxed);
    if (words_ != nullptr) {
      const auto words = std::bit_cast<std::array<std::uint64_t, 4>>(entry);
      std::atomic<std::uint64_t>* at = &words_[(head % ring_records) * 4];
      for (std::size_t i = 0; i < 4; ++i) at[i].store(words[i], std::memory_order_relaxed);
    }
    // Release: who sees the new head sees the record below it.
    head_.store(head + 1, std::memory_order_release);
  }

  std::vector<record> read() const {
    std::vector<record> found;
    if (words_ == nullptr) return found;
    const std::uint64_t end = head_.load(std::memory_order_acquire);
    for (std::uint64_t i = first(end); i < end; ++i) {
      std::array<std::uint64_t, 4> words;
      for (std::size_t w = 0; w < 4; ++w) {
        words[w] = words_[(i % ring_records) * 4 + w].load(std::memory_order_relaxed);
      }
      found.push_back(std::bit_cast<record>(words));
    }
    return found;
  }

  std::uint64_t lost() const noexcept {
    const std::uint64_t end = head_.load(std::memory_order_relaxed);
    return words_ == nullptr ? end : first(end) - forgotten_;
  }

  void forget() noexcept { forgotten_ = head_.load(std::memory_order_relaxed); }

 private:
  std::uint64_t first(std::uint64_t end) const noexcept {
    return std::max(forgotten_, end > ring_records ? end - ring_records : 0);
  }

  std::unique_ptr<std::atomic<std::uint64_t>[]> words_;
  std::atomic<std::uint64_t> head_{0};
  std::uint64_t forgotten_ = 0;
};

ring& own_ring() {
  thread_local ring mine;
  return mine;
}

}  // namespace

void emit(const control& control, point what, std::uint64_t fiber, std::uint64_t a,
          std::uint64_t b) noexcept {
  own_ring().write({ticks_now(), static_cast<std::uint32_t>(fiber), what, control.loop, a, b});
}

std::vector<record> recorded() { return own_ring().read(); }
std::uint64_t lost() noexcept { return own_ring().lost(); }
void forget() noexcept { own_ring().forget(); }

}  // namespace coir::trace
