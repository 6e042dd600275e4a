#include <coir/fiber/frame.hpp>

#include <new>

namespace coir::priv {

constinit thread_local frame_lists free_frames{};

namespace {

// Gives the lists of a thread back when it ends. Its own thread-local, because a destructor would make
// every access to free_frames go through a function.
class thread_end {
 public:
  ~thread_end() {
    for (free_frame*& first : free_frames.first) {
      while (first != nullptr) {
        free_frame* const next = first->next;
        ::operator delete(first);
        first = next;
      }
    }
  }
  void arm() noexcept {}
};

thread_local thread_end lists_owner;

}  // namespace

// The largest of its class, so that any frame of the class may use the block.
void* allocate_frame_slow(std::size_t bytes) {
  lists_owner.arm();
  if (bytes > frame_bytes_max) return ::operator new(bytes);
  return ::operator new((frame_class(bytes) + 1) * frame_step - frame_header);
}

void free_frame_slow(void* frame, std::size_t) noexcept { ::operator delete(frame); }

}  // namespace coir::priv
