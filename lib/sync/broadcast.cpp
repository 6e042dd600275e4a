#include <coir/sync/broadcast.hpp>

#include <coir/base/error.hpp>

#include "type_name.hpp"

#include <fmt/format.h>

namespace coir::priv {

void describe_broadcast(std::string& text, const std::type_info& type, std::uint64_t published) {
  text += fmt::format(" of {}, after {} that were published", name_of(type), published);
}

void throw_no_history() { throw_misuse("a broadcast with a history of 0: it must keep at least the last value"); }

void throw_no_reason_to_close() {
  throw_misuse("a broadcast was closed with an empty exception_ptr: close() is without an error");
}

void throw_subscriber_waits() {
  throw_misuse("a second receive of the same subscription, while one has not ended: each fiber subscribes for itself");
}

}  // namespace coir::priv
