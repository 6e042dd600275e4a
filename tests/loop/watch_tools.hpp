// What tests of watchers and timers share.
#pragma once

#include "support/loop_tools.hpp"

#include <coir/loop/loop.hpp>

#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

namespace tests {

// A pipe with a watcher on it that a test can name.
struct line {
  support::fd_pair ends = support::pipe_pair();
  coir::owned<coir::watcher> in;
  int fd() const { return ends[0].get(); }
};

inline void put(const coir::unique_fd& into, std::string_view text) {
  REQUIRE(::write(into.get(), text.data(), text.size()) == static_cast<ssize_t>(text.size()));
}

// Reads once; empty at the end and when there is nothing.
inline std::string take(int from, std::size_t at_most = 64) {
  std::string text(at_most, '\0');
  const ssize_t got = ::read(from, text.data(), text.size());
  text.resize(got > 0 ? static_cast<std::size_t>(got) : 0);
  return text;
}

// The errno of a call that fails by std::system_error; 0: it did not.
template <class Body>
int refusal(Body&& body) {
  try {
    body();
  } catch (const std::system_error& error) {
    return error.code().value();
  }
  return 0;
}

// Runs something when the last function that has captured it is destroyed.
inline std::shared_ptr<void> at_end(std::function<void()> what) {
  return {nullptr, [then = std::move(what)](void*) { then(); }};
}

}  // namespace tests
