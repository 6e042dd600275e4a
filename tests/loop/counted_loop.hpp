// How often a loop was woken: the counter of its eventfd, which a loop that waits by itself never reads.
#pragma once

#include "support/catch.hpp"

#include <coir/loop/loop.hpp>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <memory>
#include <set>
#include <string>
#include <system_error>

namespace tests {

inline std::set<int> eventfds() {
  std::set<int> found;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    std::error_code gone;
    if (std::filesystem::read_symlink(entry.path(), gone) == "anon_inode:[eventfd]") {
      found.insert(std::stoi(entry.path().filename()));
    }
  }
  return found;
}

// A loop, and the counter of the one eventfd that it makes.
struct counted_loop {
  explicit counted_loop(const coir::loop_options& options = {}) {
    // One more look than the loop needs, to find which eventfd is new.
    const std::set<int> before = eventfds();
    loop = std::make_unique<coir::loop>(options);
    for (const int fd : eventfds()) {
      if (!before.contains(fd)) wake = fd;
    }
    REQUIRE(wake >= 0);
  }
  std::uint64_t rung() const {
    std::ifstream info("/proc/self/fdinfo/" + std::to_string(wake));
    for (std::string word; info >> word;) {
      if (word == "eventfd-count:") {
        std::uint64_t count = 0;
        info >> std::hex >> count;
        return count;
      }
    }
    FAIL("the kernel does not show the counter");
    return 0;
  }
  std::unique_ptr<coir::loop> loop;
  int wake = -1;
};

}  // namespace tests
