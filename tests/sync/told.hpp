// What the tests of locks ask for: the text of a refusal, that of a deadlock, and a few turns of the others.
#pragma once

#include "support/both.hpp"
#include "support/catch.hpp"

#include <coir/coir.hpp>

#include <fnmatch.h>

#include <sstream>
#include <stdexcept>
#include <string>

namespace told {

template <class Body>
std::string refusal_of(Body&& body) {
  try {
    body();
  } catch (const std::logic_error& error) {
    return error.what();
  }
  return "it was taken";
}

template <class Body>
std::string deadlock_of(Body&& body) {
  try {
    coir::run(body);
  } catch (const coir::deadlock& error) {
    return error.what();
  }
  return "there was no deadlock";
}

// A line as the shell's pattern has it. A regular expression for the whole text goes some frames deeper with each
// character, which is more than a thread's stack where sanitizers make them large.
inline auto has_line(const std::string& pattern) {
  const auto holds = [pattern](const std::string& text) {
    std::istringstream lines(text);
    for (std::string line; std::getline(lines, line);) {
      if (fnmatch(pattern.c_str(), line.c_str(), 0) == 0) return true;
    }
    return false;
  };
  return Catch::Matchers::Predicate<std::string>(holds, "has a line like \"" + pattern + '"');
}

// Everyone who is ready runs, and those they wake, and so on.
inline void let_run() {
  for (int i = 0; i < 5; ++i) coir::await(coir::yield());
}

inline bool is(const coir::handle_base& whom, coir::fiber_outcome how) {
  return whom.state() == coir::fiber_state::dead && whom.outcome() == how;
}

}  // namespace told
