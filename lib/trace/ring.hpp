// The ring of a thread's records: one writes, any may read. Private to lib/trace.
#pragma once

#include <coir/base/atomic.hpp>
#include <coir/trace/trace.hpp>

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <vector>

namespace coir::trace {

// The words are atomic although only one thread writes them, because another may copy them while they are overwritten.
// It finds out afterwards which of them that was, and drops them.
template <std::size_t Records>
class ring {
 public:
  ring() : words_(new(std::nothrow) atomic<std::uint64_t>[slots * 4]) {}

  // The thread that owns it.
  void write(const record& entry) noexcept {
    const std::uint64_t head = head_.load(std::memory_order_relaxed);
    if (words_ != nullptr) {
      const auto words = std::bit_cast<std::array<std::uint64_t, 4>>(entry);
      atomic<std::uint64_t>* const at = &words_[(head % slots) * 4];
      // Release: who sees one of these words sees the head as it is now, and so that the record here before is gone.
      for (std::size_t i = 0; i < 4; ++i) at[i].store(words[i], std::memory_order_release);
    }
    // Release: who sees the new head sees the record below it.
    head_.store(head + 1, std::memory_order_release);
  }

  // Any thread: whole records, in order. The newest of what was written before are there, all of them when nothing is
  // written meanwhile.
  std::vector<record> read() const {
    std::vector<record> found;
    if (words_ == nullptr) return found;
    const std::uint64_t end = head_.load(std::memory_order_acquire);
    const std::uint64_t begin = first(end);
    found.reserve(end - begin);
    for (std::uint64_t i = begin; i < end; ++i) {
      std::array<std::uint64_t, 4> words;
      for (std::size_t w = 0; w < 4; ++w) {
        words[w] = words_[(i % slots) * 4 + w].load(std::memory_order_acquire);
      }
      found.push_back(std::bit_cast<record>(words));
    }
    // The words were acquired: this is the head as it was, or later, when any of them was overwritten.
    const std::uint64_t now = head_.load(std::memory_order_relaxed);
    const std::uint64_t whole = std::min(end, std::max(begin, first(now)));
    found.erase(found.begin(), found.begin() + static_cast<std::ptrdiff_t>(whole - begin));
    return found;
  }

  std::uint64_t lost() const noexcept {
    const std::uint64_t end = head_.load(std::memory_order_relaxed);
    return words_ == nullptr ? end : first(end) - forgotten_.load(std::memory_order_relaxed);
  }

  void forget() noexcept { forgotten_.store(head_.load(std::memory_order_relaxed), std::memory_order_relaxed); }

 private:
  // One more than can be read: the record that is being written is in nobody's place.
  static constexpr std::size_t slots = Records + 1;

  std::uint64_t first(std::uint64_t end) const noexcept {
    return std::max(forgotten_.load(std::memory_order_relaxed), end > Records ? end - Records : 0);
  }

  std::unique_ptr<atomic<std::uint64_t>[]> words_;
  atomic<std::uint64_t> head_{0};
  atomic<std::uint64_t> forgotten_{0};
};

}  // namespace coir::trace
