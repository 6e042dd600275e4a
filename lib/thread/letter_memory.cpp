#include <coir/thread/letter_memory.hpp>

#include <array>
#include <new>

namespace coir::priv {

constinit thread_local letter_memory letters COIR_TLS{};

namespace {

// Blocks that nobody uses. Each place is taken and filled by one exchange: no list, in which a block that comes back
// might be taken for one that was never away.
constinit std::array<atomic<letter_block*>, 32> spare{};

void finish_block() noexcept {
  if (letters.next == nullptr) return;
  letter_block::of(letters.next - 1).finish(std::exchange(letters.carved, 0));
  letters.next = letters.end = nullptr;
}

void give_back_read() noexcept {
  if (letters.reads == nullptr) return;
  std::exchange(letters.reads, nullptr)->give_back(std::exchange(letters.read, 0));
}

// As of frames: a destructor would make every access to the letters go through a function.
class letters_end {
 public:
  ~letters_end() {
    letters.owned = false;
    ended_ = true;
    finish_block();
    give_back_read();
  }
  // Once it has ended, what still dies on this thread is given back at once.
  void arm() noexcept { letters.owned = !ended_; }

 private:
  bool ended_ = false;
};

thread_local letters_end letters_owner;

}  // namespace

letter_block* letter_block::make() {
  for (atomic<letter_block*>& place : spare) {
    if (place.load(std::memory_order_relaxed) == nullptr) continue;
    // Acquire: pairs with the release of whoever has put it there.
    if (letter_block* const found = place.exchange(nullptr, std::memory_order_acquire); found != nullptr) {
      return new (found) letter_block();
    }
  }
  return new (::operator new(bytes, std::align_val_t{bytes})) letter_block();
}

void letter_block::recycle() noexcept {
  for (atomic<letter_block*>& place : spare) {
    letter_block* none = nullptr;
    if (place.load(std::memory_order_relaxed) == nullptr &&
        place.compare_exchange_strong(none, this, std::memory_order_release, std::memory_order_relaxed)) {
      return;
    }
  }
  ::operator delete(this, std::align_val_t{bytes});
}

void* allocate_letter_slow(std::size_t step) {
  letters_owner.arm();
  letter_block* const made = letter_block::make();
  finish_block();
  letters.next = made->begin() + step;
  letters.end = made->end();
  letters.carved = 1;
  if (!letters.owned) finish_block();
  return made->begin();
}

void free_letter_slow(void* letter) noexcept {
  letters_owner.arm();
  letter_block& block = letter_block::of(letter);
  if (!letters.owned) return block.give_back(1);
  give_back_read();
  letters.reads = &block;
  letters.read = 1;
}

}  // namespace coir::priv
