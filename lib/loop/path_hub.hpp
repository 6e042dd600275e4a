// The inotify descriptor of one loop, and who is to hear what it says. Private to lib/loop.
#pragma once

#include <coir/base/fd.hpp>
#include <coir/base/list.hpp>
#include <coir/loop/path_watch.hpp>
#include <coir/loop/watcher.hpp>

#include <sys/inotify.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>

namespace coir {

class path_hub {
 public:
  explicit path_hub(loop& on) noexcept : on_(on) {}
  path_hub(const path_hub&) = delete;
  ~path_hub();
  static path_hub& of(loop& on);

  void add(path_subscriber& made, const char* path, fs_mask mask);
  void remove(path_subscriber& which) noexcept;
  // In a forked child: the watches are the parent's.
  void abandon() noexcept;

 private:
  using place = path_subscriber::place;
  using bucket = list<place>;

  // An event has 16 bytes and its name. One read of this size brings at most 256.
  static constexpr std::size_t buffer_bytes = 256 * sizeof(inotify_event);

  void open();
  void rest() noexcept;
  void unlink(path_subscriber& which) noexcept;
  void forget_events() noexcept;

  void deliver();
  bool take() noexcept;
  inotify_event event() const noexcept;
  void begin(const inotify_event& what) noexcept;
  void skip() noexcept;
  void keep_rest() noexcept;
  void tell(path_subscriber& to, const inotify_event& what);

  path_subscriber* following(const path_subscriber& which) const noexcept;
  path_subscriber* first_of(int number) const noexcept;
  path_subscriber* with_number(const bucket& among, place* at, int number) const noexcept;
  bucket& bucket_of(int number) const noexcept;
  void make_room();

  loop& on_;
  unique_fd fd_;  // made for the first path; it rests while there is none
  owned<watcher> readable_;

  bucket all_;                         // in the order of subscribing, as those in a bucket are
  std::unique_ptr<bucket[]> buckets_;  // by the kernel's number
  std::size_t bucket_count_ = 0;       // a power of two
  std::size_t subscribers_ = 0;

  alignas(inotify_event) std::array<char, buffer_bytes> buffer_;
  std::size_t at_ = 0;  // the event that is being delivered
  std::size_t size_ = 0;
  bool begun_ = false;
  bool to_all_ = false;
  path_subscriber* next_ = nullptr;  // who is to be told of it next
  std::uint64_t taken_ = 0;          // bytes ever read from the kernel
  std::uint64_t resumed_in_ = 0;     // the turn that delivered what one before had left
};

}  // namespace coir
