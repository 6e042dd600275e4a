#include <coir/fiber/frame.hpp>

#include <new>

namespace coir::priv {

constinit thread_local frame_lists free_frames COIR_TLS{};

namespace {

// Gives the lists of a thread back when it ends. Its own thread-local, because a destructor would make
// every access to free_frames go through a function.
class frames_end {
 public:
  ~frames_end() {
    free_frames.owned = false;
    ended_ = true;
    for (free_frame*& first : free_frames.first) {
      while (first != nullptr) {
        free_frame* const next = first->next;
        ::operator delete(first);
        first = next;
      }
    }
  }
  // Once it has ended, what still dies on this thread goes to the heap.
  void arm() noexcept { free_frames.owned = !ended_; }

 private:
  bool ended_ = false;
};

thread_local frames_end lists_owner;

}  // namespace

// The largest of its class, so that any frame of the class may use the block.
void* allocate_frame_slow(std::size_t bytes) {
  lists_owner.arm();
  if (bytes > frame_bytes_max) return ::operator new(bytes);
  return ::operator new((frame_class(bytes) + 1) * frame_step - frame_header);
}

// Too much for the list, or the first on this thread, which may never have allocated one.
void free_frame_slow(void* frame, std::size_t bytes) noexcept {
  if (!free_frames.owned) {
    lists_owner.arm();
    if (free_frames.owned) return release_frame(frame, bytes);
  }
  ::operator delete(frame);
}

}  // namespace coir::priv
