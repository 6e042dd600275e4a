#include <coir/sync/channel.hpp>

#include <coir/base/error.hpp>
#include <coir/sync/holder.hpp>
#include <coir/sync/inbox.hpp>

#include "type_name.hpp"

#include <fmt/format.h>

#include <cerrno>
#include <string>
#include <string_view>

namespace coir::priv {

namespace {

std::string name_of(const fiber_base& whose) {
  const std::string_view name = whose.name();
  return fmt::format("fiber {}{}{}", whose.id(), name.empty() ? "" : " ", name);
}

}  // namespace

void describe_channel(std::string& text, const channel_picture& what) {
  text += fmt::format(" of {}", name_of(*what.type));
  if (what.inbox_of != nullptr) {
    text += fmt::format(", inbox of {}", name_of(*what.inbox_of));
  }
  if (what.capacity == unbounded) {
    text += fmt::format(", {} there", what.size);
  } else {
    text += fmt::format(", {} of {} there", what.size, what.capacity);
  }
  describe_place(what.before, text);
}

void throw_inbox_full(const fiber_base& whose, const std::type_info& type, std::size_t capacity) {
  throw_error(ENOBUFS, fmt::format("sending to {}: its inbox of {} has a capacity of {}, and is full: "
                                   "co_await handle.inbox<...>().send(message) waits",
                                   name_of(whose), name_of(type), capacity));
}

void throw_sent_already() {
  throw_misuse("the value of a send was wanted, and it was sent: only one that did not happen has it");
}

void throw_sent_twice() {
  throw_misuse("a send was awaited again after it had sent its value: only one that did not happen still has it");
}

void throw_no_reason() {
  throw_misuse("a channel was closed with an empty exception_ptr: close() is without an error");
}

}  // namespace coir::priv
