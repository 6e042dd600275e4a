#include "path_hub.hpp"

#include <coir/base/error.hpp>
#include <coir/loop/loop.hpp>

#include "watch_set.hpp"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <span>
#include <string>
#include <utility>

namespace coir {

namespace {

constexpr std::uint32_t bits(fs_mask mask) { return static_cast<std::uint32_t>(mask); }

static_assert(bits(fs_mask::access) == IN_ACCESS && bits(fs_mask::modify) == IN_MODIFY &&
              bits(fs_mask::attributes) == IN_ATTRIB && bits(fs_mask::close_write) == IN_CLOSE_WRITE &&
              bits(fs_mask::close_nowrite) == IN_CLOSE_NOWRITE && bits(fs_mask::open) == IN_OPEN &&
              bits(fs_mask::moved_from) == IN_MOVED_FROM && bits(fs_mask::moved_to) == IN_MOVED_TO &&
              bits(fs_mask::create) == IN_CREATE && bits(fs_mask::remove) == IN_DELETE &&
              bits(fs_mask::remove_self) == IN_DELETE_SELF && bits(fs_mask::move_self) == IN_MOVE_SELF &&
              bits(fs_mask::all) == IN_ALL_EVENTS && bits(fs_mask::overflow) == IN_Q_OVERFLOW &&
              bits(fs_mask::gone) == IN_IGNORED);

std::string why_refused(int error, const char* path) {
  if (error == ENOSPC) {
    return fmt::format("watching the path \"{}\": the user has as many watches as "
                       "/proc/sys/fs/inotify/max_user_watches allows", path);
  }
  return fmt::format("watching the path \"{}\"", path);
}

}  // namespace

// They may outlive the loop.
path_hub::~path_hub() {
  while (!all_.empty()) unlink(*all_.front().whose);
}

path_hub& path_hub::of(loop& on) {
  on.check_own_thread();
  if (on.paths_ == nullptr) on.paths_ = std::make_unique<path_hub>(on);
  return *on.paths_;
}

// --- who hears of what ---

void path_hub::add(path_subscriber& made, const char* path, fs_mask mask) {
  struct undo {
    path_hub& of;
    ~undo() {
      if (of.subscribers_ == 0) of.rest();
    }
  };
  const undo unless_added{*this};
  if (!fd_) {
    open();
  } else if (subscribers_ == 0 && readable_) {  // none: the loop is ending
    on_.watches().change(*readable_);
  }
  make_room();
  // Before the watch: what happens between the two is rather heard too early than not at all.
  int queued = 0;
  if (::ioctl(fd_.get(), FIONREAD, &queued) < 0) throw_error(errno, why_refused(errno, path));
  const int number = ::inotify_add_watch(fd_.get(), path, bits(mask) | IN_MASK_ADD);
  if (number < 0) throw_error(errno, why_refused(errno, path));
  made.hub_ = this;
  made.path_ = path;
  made.mask_ = mask;
  made.number_ = number;
  // The last event in the kernel's queue may come to stand for a later one that is equal.
  made.since_ = taken_ + static_cast<std::uint64_t>(std::max(1, queued));
  all_.push_back(made.in_all_);
  bucket_of(number).push_back(made.in_bucket_);
  ++subscribers_;
}

void path_hub::remove(path_subscriber& which) noexcept {
  unlink(which);
  // EINVAL where the kernel has ended it, and nobody has read so. Its IN_IGNORED finds nobody.
  if (fd_ && first_of(which.number_) == nullptr) ::inotify_rm_watch(fd_.get(), which.number_);
  if (subscribers_ == 0) rest();
}

void path_hub::unlink(path_subscriber& which) noexcept {
  if (next_ == &which) next_ = following(which);
  which.in_all_.unlink();
  which.in_bucket_.unlink();
  which.hub_ = nullptr;
  --subscribers_;
}

void path_hub::open() {
  unique_fd made(::inotify_init1(IN_NONBLOCK | IN_CLOEXEC));
  if (!made) {
    throw_error(errno, errno == EMFILE
                           ? "inotify: the process has no descriptor left, or the user has as many instances as "
                             "/proc/sys/fs/inotify/max_user_instances allows"
                           : "inotify");
  }
  watch_options options{.read = [this] { deliver(); }};
  readable_ = owned<watcher>(
      on_.watches().add(on_, made.get(), std::move(options), registration_kind::part));
  fd_ = std::move(made);
}

// What is left in the kernel's queue is nobody's, and is read with what comes for the next.
void path_hub::rest() noexcept {
  if (readable_) on_.watches_->rest(*readable_);
  forget_events();
}

// The child that comes back into a delivery finds nothing left of it.
void path_hub::abandon() noexcept {
  fd_.reset();
  forget_events();
}

void path_hub::forget_events() noexcept {
  at_ = size_ = 0;
  begun_ = false;
  next_ = nullptr;
}

// --- the table ---

path_hub::bucket& path_hub::bucket_of(int number) const noexcept {
  // The kernel counts them up: their low bits are as good as any hash.
  return buckets_[static_cast<unsigned>(number) & (bucket_count_ - 1)];
}

path_subscriber* path_hub::with_number(const bucket& among, place* at, int number) const noexcept {
  while (at != nullptr && at->whose->number_ != number) at = among.after(*at);
  return at == nullptr ? nullptr : at->whose;
}

path_subscriber* path_hub::first_of(int number) const noexcept {
  if (bucket_count_ == 0) return nullptr;
  const bucket& among = bucket_of(number);
  return among.empty() ? nullptr : with_number(among, &among.front(), number);
}

path_subscriber* path_hub::following(const path_subscriber& which) const noexcept {
  if (to_all_) {
    place* const next = all_.after(which.in_all_);
    return next == nullptr ? nullptr : next->whose;
  }
  const bucket& among = bucket_of(which.number_);
  return with_number(among, among.after(which.in_bucket_), which.number_);
}

void path_hub::make_room() {
  if (subscribers_ < bucket_count_) return;
  const std::size_t count = std::max<std::size_t>(16, 2 * bucket_count_);
  const std::unique_ptr<bucket[]> old = std::exchange(buckets_, std::make_unique<bucket[]>(count));
  const std::size_t old_count = std::exchange(bucket_count_, count);
  // From the front: those of one watch stay in the order of their subscribing.
  for (bucket& each : std::span(old.get(), old_count)) {
    while (!each.empty()) {
      place& moved = each.pop_front();
      bucket_of(moved.whose->number_).push_back(moved);
    }
  }
}

// --- what the kernel says ---

bool path_hub::take() noexcept {
  const ssize_t got = ::read(fd_.get(), buffer_.data(), buffer_.size());
  if (got <= 0) return false;
  size_ = static_cast<std::size_t>(got);
  taken_ += size_;
  return true;
}

inotify_event path_hub::event() const noexcept {
  inotify_event what;
  std::memcpy(&what, &buffer_[at_], sizeof what);
  return what;
}

void path_hub::deliver() {
  const inbox& stops = on_.inbox_;
  const bool stopped_before = stops.stop_requested();
  const std::uint64_t turn = on_.stats_.turns;
  if (at_ != size_) {
    resumed_in_ = turn;
  } else {
    at_ = size_ = 0;
    // Called a second time in a turn, because the kernel has more: that is for the next.
    if (resumed_in_ == turn || !take()) return;
  }
  struct afterwards {
    path_hub& of;
    ~afterwards() { of.keep_rest(); }
  };
  const afterwards rest{*this};
  while (at_ != size_) {
    const inotify_event what = event();
    if (!begun_) begin(what);
    while (next_ != nullptr) {
      if (!stopped_before && stops.stop_requested()) return;
      path_subscriber& to = *next_;
      // Counted as told before it is: one that throws is not told again.
      next_ = following(to);
      tell(to, what);
    }
    skip();
  }
}

void path_hub::begin(const inotify_event& what) noexcept {
  begun_ = true;
  to_all_ = (what.mask & IN_Q_OVERFLOW) != 0;
  next_ = !to_all_ ? first_of(what.wd) : all_.empty() ? nullptr : all_.front().whose;
}

// Nothing is left where the last subscriber went meanwhile.
void path_hub::skip() noexcept {
  begun_ = false;
  if (at_ != size_) at_ += sizeof(inotify_event) + event().len;
}

// The kernel will not tell again what it has handed out.
void path_hub::keep_rest() noexcept {
  if (begun_ && next_ == nullptr) skip();
  if (at_ != size_ && readable_) on_.watches_->again(*readable_);
}

void path_hub::tell(path_subscriber& to, const inotify_event& what) {
  const std::size_t behind = at_ + sizeof what + what.len;
  fs_event told;
  told.path = to.path_;
  told.is_directory = (what.mask & IN_ISDIR) != 0;
  told.cookie = what.cookie;
  const char* const name = buffer_.data() + at_ + sizeof what;
  told.name = std::string_view(name, ::strnlen(name, what.len));
  if ((what.mask & IN_IGNORED) != 0) {
    told.what = fs_mask::gone;
    unlink(to);
    if (subscribers_ == 0) rest();
  } else {
    if (taken_ - (size_ - behind) < to.since_) return;
    told.what = static_cast<fs_mask>(what.mask) & (to.mask_ | fs_mask::overflow);
    if (told.what == fs_mask::none) return;
  }
  to.tell(told);
}

}  // namespace coir
