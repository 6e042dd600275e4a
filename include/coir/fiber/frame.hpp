// coir/fiber/frame.hpp: memory for coroutine frames, recycled per thread.
//
// Nobody calls this but the promise of task<T>.
//
// Shape    free lists by size in steps of 16 bytes up to 1 KiB, at the sizes that malloc hands out without
//          waste (24, 40, 56, ...); larger frames come from the heap.
// Thread   a frame may be freed by another thread than allocated it.
// Errors   std::bad_alloc.
// Cost     a few instructions when a frame of that size was freed before. Each list keeps at most 1 MiB;
//          a thread's lists go back to the heap when it ends. Under the address sanitizer every frame
//          comes from the heap, so that use after free is found.
// See      lib/fiber/NOTE.md
#pragma once

#include <coir/base/config.hpp>

#include <cstddef>
#include <new>

namespace coir::priv {

inline constexpr std::size_t frame_step = 16;
inline constexpr std::size_t frame_header = 8;  // what malloc keeps in front of a block
inline constexpr std::size_t frame_bytes_max = 1024 - frame_header;
constexpr std::size_t frame_class(std::size_t bytes) noexcept {
  return (bytes + frame_header - 1) / frame_step;
}
inline constexpr std::size_t frame_list_bytes_max = std::size_t{1} << 20;

struct free_frame {
  free_frame* next;
  std::size_t below;  // how many follow, itself included
};

struct frame_lists {
  free_frame* first[frame_class(frame_bytes_max) + 1];
  bool owned;  // given back when the thread ends; until then nothing is kept
};
constinit extern thread_local frame_lists free_frames COIR_TLS;

void* allocate_frame_slow(std::size_t bytes);
void free_frame_slow(void* frame, std::size_t bytes) noexcept;

inline void* allocate_frame(std::size_t bytes) {
  if (!COIR_ADDRESS_SANITIZER && bytes <= frame_bytes_max) [[likely]] {
    free_frame*& first = free_frames.first[frame_class(bytes)];
    if (first != nullptr) [[likely]] {
      free_frame* const taken = first;
      first = taken->next;
      return taken;
    }
  }
  return allocate_frame_slow(bytes);
}

inline void release_frame(void* frame, std::size_t bytes) noexcept {
  if (!COIR_ADDRESS_SANITIZER && bytes <= frame_bytes_max) [[likely]] {
    free_frame*& first = free_frames.first[frame_class(bytes)];
    const std::size_t below = first == nullptr ? 1 : first->below + 1;
    if (below * bytes <= frame_list_bytes_max && free_frames.owned) [[likely]] {
      first = new (frame) free_frame{first, below};
      return;
    }
  }
  free_frame_slow(frame, bytes);
}

}  // namespace coir::priv
