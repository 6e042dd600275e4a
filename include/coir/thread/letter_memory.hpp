// coir/thread/letter_memory.hpp: memory for what one thread makes and another one frees, over and over.
//
// Nobody calls this but the letters of mailboxes and remote channels (mail.hpp). malloc pays for each with a miss of its
// lists and the lock of the other thread's arena, and puts neighbours far apart. Here a thread carves what it sends out of
// one block after the other, so that the receiver reads memory in order, and it is blocks that come back.
//
// Shape    letters of up to 256 bytes, in steps of 16; larger ones, and all under the address sanitizer, are the heap's.
// Thread   any; what one has allocated another one may free.
// Errors   std::bad_alloc.
// Cost     a few instructions each; for 4 KiB of letters one block, two atomic subtractions, and the move of its lines. A
//          letter that is never read keeps its block. Each thread keeps at most two blocks until it ends, the process 32.
// See      lib/thread/NOTE.md
#pragma once

#include <coir/base/atomic.hpp>
#include <coir/base/config.hpp>

#include <cstddef>
#include <cstdint>
#include <utility>

namespace coir::priv {

inline constexpr std::size_t letter_step = 16;
inline constexpr std::size_t letter_bytes_max = 256;

// Begins with the count, and is aligned to its size, so that a letter knows where its block is.
class letter_block {
 public:
  static constexpr std::size_t bytes = 4096;
  static constexpr std::size_t header = 64;  // a line of its own: the letters' lines change sides, this one hardly ever

  static letter_block* make();
  static letter_block& of(void* letter) noexcept {
    return *reinterpret_cast<letter_block*>(reinterpret_cast<std::uintptr_t>(letter) & ~std::uintptr_t{bytes - 1});
  }
  std::byte* begin() noexcept { return reinterpret_cast<std::byte*>(this) + header; }
  std::byte* end() noexcept { return reinterpret_cast<std::byte*>(this) + bytes; }

  // The thread that carves: no more comes out of it than these.
  void finish(std::uint32_t carved) noexcept { subtract(unfinished - carved); }
  // Whoever has read them.
  void give_back(std::uint32_t count) noexcept { subtract(count); }

 private:
  static constexpr std::uint32_t unfinished = 1U << 31;
  letter_block() noexcept = default;
  ~letter_block() = default;
  void subtract(std::uint32_t count) noexcept {
    // Release: all that was done with the letters comes before their next use. Acquire: the last one sees it.
    if (left_.fetch_sub(count, std::memory_order_acq_rel) == count) recycle();
  }
  void recycle() noexcept;

  atomic<std::uint32_t> left_{unfinished};
};

struct letter_memory {
  std::byte* next;  // in the block that this thread carves; null: none
  std::byte* end;
  std::uint32_t carved;
  std::uint32_t read;  // of the block whose letters this thread frees, and not given back yet
  letter_block* reads;
  bool owned;  // given back when the thread ends; until then nothing is kept
};
constinit extern thread_local letter_memory letters COIR_TLS;

// What tries the letters' own files in all interleavings would go through those of their memory each time.
#if defined(COIR_ATOMIC_HEADER)
inline constexpr bool letters_have_blocks = false;
#else
inline constexpr bool letters_have_blocks = !COIR_ADDRESS_SANITIZER;
#endif
constexpr bool letter_has_block(std::size_t size) noexcept { return letters_have_blocks && size <= letter_bytes_max; }

void* allocate_letter_slow(std::size_t size);
void free_letter_slow(void* letter) noexcept;

inline void* allocate_letter(std::size_t size) {
  if (!letter_has_block(size)) return ::operator new(size);
  const std::size_t step = (size + letter_step - 1) / letter_step * letter_step;
  if (static_cast<std::size_t>(letters.end - letters.next) < step) [[unlikely]]
    return allocate_letter_slow(step);
  ++letters.carved;
  return std::exchange(letters.next, letters.next + step);
}

inline void free_letter(void* letter, std::size_t size) noexcept {
  if (!letter_has_block(size)) return ::operator delete(letter);
  if (&letter_block::of(letter) != letters.reads) [[unlikely]]
    return free_letter_slow(letter);
  ++letters.read;
}

}  // namespace coir::priv
