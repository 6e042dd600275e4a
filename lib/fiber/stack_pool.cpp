#include "stack_pool.hpp"

#include "context.hpp"

#include <coir/base/error.hpp>

#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>

namespace coir {

namespace {

constexpr std::size_t default_bytes = std::size_t{256} << 10;

// So many stacks per mmap(2): one mapping in the kernel's books instead of one per stack.
constexpr std::size_t stacks_per_slab = 64;
constexpr std::size_t slab_bytes_max = std::size_t{64} << 20;

// Stack tops at the same place in their page would fight for the same lines of the first-level cache: a
// factor of 3 to 4 per switch with 100 fibers. A quarter of a page is enough, and leaves a parked fiber
// on one page.
constexpr std::size_t colours = 16;
constexpr std::size_t colour_bytes = 64;

// Newer than the headers of Debian 12; Linux 6.13. Unlike mprotect(2) it splits no mapping, of which a
// process may have 65530.
constexpr int madv_guard_install = 102;

std::size_t page_bytes() noexcept {
  static const auto bytes = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  return bytes;
}

}  // namespace

struct stack_pool::slab {
  // What was asked for may not be there: errno says why.
  slab(std::size_t count, std::size_t stack_bytes)
      : stacks(new stack[count]), stack_count(count), bytes(count * stack_bytes) {
    void* const got = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
    if (got == MAP_FAILED) return;
    memory = static_cast<std::byte*>(got);
    for (std::size_t i = 0; i < count; ++i) {
      std::byte* const low = memory + i * stack_bytes;
      if (::madvise(low, page_bytes(), madv_guard_install) < 0 &&
          ::mprotect(low, page_bytes(), PROT_NONE) < 0) {
        return;
      }
    }
    guarded = true;
  }
  slab(const slab&) = delete;
  ~slab() {
    if (memory == nullptr) return;
    for (std::size_t i = 0; i < stack_count; ++i) {
      if (stacks[i].low_ == nullptr) continue;
      priv::close_side(stacks[i].side_);
      priv::forget_valgrind(stacks[i].valgrind_id_);
    }
    ::munmap(memory, bytes);
  }

  bool usable() const noexcept { return memory != nullptr && guarded; }

  std::unique_ptr<stack[]> stacks;
  std::size_t stack_count;
  std::size_t bytes;
  std::byte* memory = nullptr;
  bool guarded = false;
};

stack_pool::stack_pool() { class_for(default_bytes); }
stack_pool::~stack_pool() = default;

stack_pool::size_class& stack_pool::class_for(std::size_t bytes) {
  // A page for the guard, and no stack so small that a signal or printf could not run on it.
  // A size that rounding up would take around the end is left to mmap, which refuses it.
  bytes = std::clamp(bytes, std::size_t{16} << 10, ~std::size_t{0} / 2);
  bytes = (bytes + page_bytes() - 1) / page_bytes() * page_bytes() + page_bytes();
  for (size_class& known : classes_) {
    if (known.bytes == bytes) return known;
  }
  return classes_.emplace_back(size_class{bytes});
}

void stack_pool::map(size_class& of) {
  std::size_t count = std::clamp<std::size_t>(slab_bytes_max / of.bytes, 1, stacks_per_slab);
  auto fresh = std::make_unique<slab>(count, of.bytes);
  // Where memory, or what the kernel keeps of it, is short, there may be enough for fewer.
  while (!fresh->usable() && count > 1) {
    count /= 2;
    fresh.reset();
    fresh = std::make_unique<slab>(count, of.bytes);
  }
  if (fresh->memory == nullptr) {
    throw_error(errno,
                fmt::format("mmap of {} bytes for fiber stacks ({} are in use)", of.bytes, made_));
  }
  if (!fresh->guarded) {
    throw_error(errno, fmt::format("a guard page for fiber stack number {} (this kernel needs two "
                                   "mappings for each; see /proc/sys/vm/max_map_count)",
                                   made_));
  }
  // A stack touches one page of its 256 KiB; a huge page would make that 2 MiB.
  ::madvise(fresh->memory, fresh->bytes, MADV_NOHUGEPAGE);
  slabs_.push_back(std::move(fresh));
  slab& kept = *slabs_.back();
  for (std::size_t i = count; i > 0; --i) {
    std::byte* const start = kept.memory + (i - 1) * of.bytes;
    stack& made = kept.stacks[i - 1];
    made.low_ = start + page_bytes();
    made.high_ = start + of.bytes - (made_ + i) % colours * colour_bytes;
    made.size_class_ = static_cast<unsigned>(&of - classes_.data());
    made.side_.low = made.low_;
    made.side_.bytes = made.bytes();
    made.valgrind_id_ = priv::tell_valgrind(made.low_, made.high_);
    made.next_free_ = of.free;
    of.free = &made;
  }
  made_ += count;
}

void stack_pool::give_pages_back(stack& unused) noexcept {
  ::madvise(unused.low_, unused.bytes() & ~(page_bytes() - 1), MADV_DONTNEED);
}

std::size_t stack::high_water_bytes() const noexcept {
  // The lowest page that is there: pages come in from the top, and stay.
  const std::size_t pages = (bytes() + page_bytes() - 1) / page_bytes();
  constexpr std::size_t pages_at_a_time = 64;
  std::array<unsigned char, pages_at_a_time> resident;
  for (std::size_t first = 0; first < pages; first += pages_at_a_time) {
    const std::size_t count = std::min(pages_at_a_time, pages - first);
    if (::mincore(low_ + first * page_bytes(), count * page_bytes(), resident.data()) < 0) return 0;
    for (std::size_t i = 0; i < count; ++i) {
      if ((resident[i] & 1) != 0) {
        return bytes() - (first + i) * page_bytes();
      }
    }
  }
  return 0;
}

}  // namespace coir
