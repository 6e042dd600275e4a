#include <coir/sync/channel.hpp>

#include <coir/base/error.hpp>

#include <cxxabi.h>
#include <fmt/format.h>

#include <cstdlib>
#include <memory>

namespace coir::priv {

void describe_channel(std::string& text, const channel_picture& what) {
  struct release {
    void operator()(char* name) const noexcept { std::free(name); }
  };
  int status = 0;
  const std::unique_ptr<char, release> readable(abi::__cxa_demangle(what.type->name(), nullptr, nullptr, &status));
  text += fmt::format(" of {}", status == 0 ? readable.get() : what.type->name());
  if (what.inbox_of != nullptr) {
    const std::string_view name = what.inbox_of->name();
    text += fmt::format(", inbox of fiber {}{}{}", what.inbox_of->id(), name.empty() ? "" : " ", name);
  }
  if (what.capacity == unbounded) {
    text += fmt::format(", {} there", what.size);
  } else {
    text += fmt::format(", {} of {} there", what.size, what.capacity);
  }
  if (what.before != 0) text += fmt::format(", behind {}", what.before);
}

void throw_sent_already() { throw_misuse("the value of a send was wanted, and it was sent: only one that did not happen has it"); }

void throw_no_reason() { throw_misuse("a channel was closed with an empty exception_ptr: close() is without an error"); }

}  // namespace coir::priv
