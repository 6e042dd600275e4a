#include <coir/loop/path_watch.hpp>

#include <coir/base/error.hpp>
#include <coir/loop/loop.hpp>

#include "path_hub.hpp"

#include <fmt/format.h>

#include <stdexcept>
#include <utility>

namespace coir {

void path_subscriber::subscribe(loop& on, const char* path, fs_mask mask) {
  if ((mask & fs_mask::all) == fs_mask::none || (mask & ~fs_mask::all) != fs_mask::none) {
    throw std::invalid_argument(
        fmt::format("the path \"{}\" is to be watched for {:#x}: it must be some of coir::fs_mask::all, {:#x}", path,
                    static_cast<std::uint32_t>(mask), static_cast<std::uint32_t>(fs_mask::all)));
  }
  COIR_ASSERT(!subscribed(), "a subscriber was to hear of a second path");
  path_hub::of(on).add(*this, path, mask);
}

void path_subscriber::unsubscribe() noexcept {
  if (subscribed()) hub_->remove(*this);
}

path_watch::path_watch(loop& of, std::string&& path, fs_mask mask, callback<const fs_event&>&& then)
    : registration(of, registration_kind::path), path_(std::move(path)), mask_(mask), then_(std::move(then)) {
  if (path_.find('\0') != std::string::npos) {
    throw std::invalid_argument(fmt::format("the path \"{}\" has a null character in it", path_.c_str()));
  }
  subscribe(of, path_.c_str(), mask);
}

void path_watch::tell(const fs_event& event) {
  const call during(*this);
  // Before it is told, so that it may register the path anew, and that an exception changes nothing.
  if (event.is(fs_mask::gone)) cancel();
  then_(event);
}

std::string path_watch::describe() const { return fmt::format("path \"{}\"", path_); }

}  // namespace coir
