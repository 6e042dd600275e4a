// coir/loop/chunk.hpp: received bytes in memory that the loop owns.
//
//   while (auto chunk = co_await chunks.next())
//     co_await coir::io::write_all(peer, chunk->bytes());               [tests/net/chunks_test.cpp]
//
// On io_uring the kernel picks a free chunk when bytes arrive: a thousand idle connections hold none.
//
// Shape    a pool per loop, made on first use: loop_options' 256 chunks of 4096 bytes. A chunk moves,
//          never copies, and goes back to its pool when it dies.
// Thread   the loop's. A chunk may outlive its loop, and then die on any thread: the pool's memory waits for the last
//          one.
// Errors   when no chunk is free, a chunk comes from the heap instead; std::bad_alloc when that is full.
// Cost     take and give back: a few instructions, no system call, no allocation.
// See      coir/loop/request.hpp, recv_multi; coir/net/tcp.hpp, chunks()
#pragma once

#include <coir/base/atomic.hpp>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>

namespace coir {

class chunk_pool;

class chunk {
 public:
  chunk() noexcept = default;
  // A chunk of its own, outside of any pool.
  explicit chunk(std::size_t capacity)
      : data_(new std::byte[capacity]), size_(static_cast<std::uint32_t>(capacity)) {}
  chunk(chunk&& other) noexcept
      : pool_(std::exchange(other.pool_, nullptr)),
        data_(std::exchange(other.data_, nullptr)),
        begin_(std::exchange(other.begin_, 0)),
        size_(std::exchange(other.size_, 0)),
        number_(other.number_) {}
  chunk& operator=(chunk&& other) noexcept {
    if (this != &other) {
      drop();
      pool_ = std::exchange(other.pool_, nullptr);
      data_ = std::exchange(other.data_, nullptr);
      begin_ = std::exchange(other.begin_, 0);
      size_ = std::exchange(other.size_, 0);
      number_ = other.number_;
    }
    return *this;
  }
  ~chunk() { drop(); }

  // False: default-constructed, or moved from.
  explicit operator bool() const noexcept { return data_ != nullptr; }
  std::span<std::byte> bytes() const noexcept { return {data_ + begin_, size_}; }
  // Bytes of a pool, which others could use; false for a chunk from the heap.
  bool pooled() const noexcept { return pool_ != nullptr; }

  void shrink_to(std::size_t size) noexcept { size_ = static_cast<std::uint32_t>(size); }
  void drop_front(std::size_t count) noexcept {
    begin_ += static_cast<std::uint32_t>(count);
    size_ -= static_cast<std::uint32_t>(count);
  }

 private:
  friend class chunk_pool;
  chunk(chunk_pool& pool, std::byte* data, std::uint32_t size, std::uint16_t number) noexcept
      : pool_(&pool), data_(data), size_(size), number_(number) {}
  void drop() noexcept {
    if (data_ != nullptr) release();
  }
  void release() noexcept;

  chunk_pool* pool_ = nullptr;
  std::byte* data_ = nullptr;
  std::uint32_t begin_ = 0;
  std::uint32_t size_ = 0;
  std::uint16_t number_ = 0;
};

// The pool behind a loop's chunks. Used by backends; a user meets it in loop.chunks().free().
class chunk_pool {
 public:
  // Owned by reference count: the loop holds one, every chunk in use another.
  static chunk_pool* create(unsigned count, std::size_t chunk_bytes);
  void release() noexcept;
  // Its loop is at its end, or left behind by a fork: chunks that die from now on, on whichever thread, are only counted.
  void orphan() noexcept;

  std::size_t chunk_bytes() const noexcept { return chunk_bytes_; }
  unsigned count() const noexcept { return count_; }
  // Chunks that nobody holds. On io_uring some of them may already hold bytes not yet delivered.
  unsigned free() const noexcept { return free_; }
  std::byte* memory(std::uint16_t number) const noexcept {
    return memory_.get() + number * chunk_bytes_;
  }

  // A number from the free ones; false when there is none. Not while a kernel ring feeds on the pool.
  bool take(std::uint16_t& number) noexcept;
  void give_back(std::uint16_t number) noexcept;
  // The chunk `number`, which was taken here or by the kernel, with `size` bytes in it.
  chunk claim(std::uint16_t number, std::size_t size) noexcept {
    count(+1);
    return {*this, memory(number), static_cast<std::uint32_t>(size), number};
  }

  // While a kernel ring takes chunks by itself: what is given back goes to `accept`.
  using acceptor = void (*)(void* ring, chunk_pool&, std::uint16_t number);
  void feed(void* ring, acceptor accept) noexcept;
  // The kernel took a chunk.
  void taken() noexcept { --free_; }

 private:
  friend class chunk;
  chunk_pool(unsigned count, std::size_t chunk_bytes);
  void take_back(std::uint16_t number) noexcept;
  // On the loop's thread, which is alone with it until the pool is an orphan: no locked instruction.
  void count(int more) noexcept {
    const unsigned now = references_.load(std::memory_order_relaxed);
    references_.store(now + static_cast<unsigned>(more), std::memory_order_relaxed);
  }

  struct free_memory {
    void operator()(std::byte* memory) const noexcept;
  };

  std::unique_ptr<std::byte[], free_memory> memory_;
  std::unique_ptr<std::uint16_t[]> numbers_;  // the first kept_ are free; none while a kernel ring has them
  std::size_t chunk_bytes_;
  unsigned count_;
  unsigned free_;
  unsigned kept_ = 0;
  atomic<unsigned> references_ = 1;
  bool orphan_ = false;
  void* ring_ = nullptr;
  acceptor accept_ = nullptr;
};

}  // namespace coir
