// coir/loop/path_watch.hpp: what happens to a file, or in a directory, called back.
//
//   auto d = loop.watch_path(folder, coir::fs_mask::create | coir::fs_mask::remove, [&](coir::fs_event e) {
//     if (e.is(coir::fs_mask::overflow)) return look_anew();
//     seen += std::string(e.name);
//   });                                                             [tests/loop/path_watch_test.cpp]
//
// The meaning is inotify's: events are of the file that the path names when it is registered (symbolic links are
// followed), not of the path, and not of what lies in directories below it.
//
// Shape    a registration. All of a loop share one inotify descriptor, which is there from the first one to the end
//          of the loop, and those of one file (by whatever path) share the kernel's watch, which goes with the last.
// Order    the kernel's; for one event, in the order of registering. At most 256 events in a turn, the rest in the
//          next. What a callback ends hears nothing more, what it registers hears nothing of what was before; of
//          a file that is watched already it may hear the last event before, since the kernel merges equal ones.
// Overflow the kernel keeps /proc/sys/fs/inotify/max_queued_events and drops what comes then. `overflow` is told
//          to every path of the loop, whatever its mask: look at the files anew. Even a `gone` may have been
//          dropped; registering anew finds out.
// Gone     the kernel ended the watch: the file was deleted (its last name and the last descriptor of it) or its
//          file system unmounted. The registration has ended when it is told so, whatever its mask.
// Thread   the loop's.
// Errors   std::invalid_argument for an empty mask, one with bits that cannot be asked for, and a path with a null
//          character; std::system_error, with the path, for what the kernel says of it (ENOENT, EACCES, ENOTDIR),
//          ENOSPC and EMFILE for the user's limits, which the text names. What a callback throws leaves run();
//          what was not delivered then comes in the next run, also after a stop().
// Cost     making one: two system calls (four for a loop's first); ending one: one; one more each where no other is
//          there. The end of the loop holds up the thread for 12 ms, since the kernel waits when it closes the
//          descriptor (Linux 6.18). A read(2) brings up to 256 events. While a watch is shared the kernel reports
//          whatever any of its registrations ever asked for.
// See      coir/loop/registration.hpp; inotify(7); lib/loop/NOTE.md
#pragma once

#include <coir/base/assert.hpp>
#include <coir/base/callback.hpp>
#include <coir/base/list.hpp>
#include <coir/loop/registration.hpp>

#include <cstdint>
#include <string>
#include <string_view>

namespace coir {

class path_hub;

enum class fs_mask : std::uint32_t {
  none = 0,
  access = 0x1,          // read
  modify = 0x2,          // written or truncated
  attributes = 0x4,      // mode, owner, times, number of names
  close_write = 0x8,     // closed by one who could write
  close_nowrite = 0x10,  // ... could not
  open = 0x20,
  moved_from = 0x40,  // renamed, out of the directory; moved_to has the same cookie
  moved_to = 0x80,    // ... into it
  create = 0x100,
  remove = 0x200,
  remove_self = 0x400,
  move_self = 0x800,
  all = 0xfff,        // that can be asked for
  overflow = 0x4000,  // comes without being asked for
  gone = 0x8000,      // the same
};

constexpr fs_mask operator|(fs_mask left, fs_mask right) noexcept {
  return static_cast<fs_mask>(static_cast<std::uint32_t>(left) | static_cast<std::uint32_t>(right));
}
constexpr fs_mask operator&(fs_mask left, fs_mask right) noexcept {
  return static_cast<fs_mask>(static_cast<std::uint32_t>(left) & static_cast<std::uint32_t>(right));
}
constexpr fs_mask operator~(fs_mask of) noexcept { return static_cast<fs_mask>(~static_cast<std::uint32_t>(of)); }

struct fs_event {
  fs_mask what = fs_mask::none;  // one of them
  bool is_directory = false;     // what it happened to
  std::uint32_t cookie = 0;      // joins moved_from and moved_to; else 0
  std::string_view name;         // in the watched directory; empty for what is watched itself. Valid during the call
  std::string_view path;         // as it was registered

  bool is(fs_mask one_of) const noexcept { return (what & one_of) != fs_mask::none; }
};

// Whoever hears of a path: a base, so that it may lie in the frame of one who waits. Subscribing allocates only
// where the loop has more subscribers than ever.
class path_subscriber {
 public:
  path_subscriber(const path_subscriber&) = delete;
  path_subscriber& operator=(const path_subscriber&) = delete;

 protected:
  path_subscriber() noexcept = default;
  virtual ~path_subscriber() {
    COIR_ASSERT(!subscribed(), "a subscriber of a path was destroyed while it was subscribed");
  }

  // `path` must last as long. Errors as on the card.
  void subscribe(loop& on, const char* path, fs_mask mask);
  // Idempotent.
  void unsubscribe() noexcept;
  bool subscribed() const noexcept { return hub_ != nullptr; }

 private:
  friend class path_hub;
  struct place : list_node {
    explicit place(path_subscriber* which) noexcept : whose(which) {}
    path_subscriber* whose;
  };

  // Is no longer subscribed when it is told `gone`. May destroy itself.
  virtual void tell(const fs_event& event) = 0;

  place in_all_{this};
  place in_bucket_{this};
  path_hub* hub_ = nullptr;
  std::string_view path_;
  std::uint64_t since_ = 0;  // where in the stream of events its own begin
  fs_mask mask_ = fs_mask::none;
  int number_ = -1;  // of the kernel's watch
};

class path_watch final : public registration, private path_subscriber {
 public:
  const std::string& path() const noexcept { return path_; }
  fs_mask mask() const noexcept { return mask_; }

  std::string describe() const override;

 private:
  friend class loop;
  path_watch(loop& of, std::string&& path, fs_mask mask, callback<const fs_event&>&& then);
  ~path_watch() override = default;
  void leave() noexcept override { unsubscribe(); }
  void drop() noexcept override { then_ = nullptr; }
  void tell(const fs_event& event) override;

  std::string path_;
  fs_mask mask_;
  callback<const fs_event&> then_;
};

}  // namespace coir
