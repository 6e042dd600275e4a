// The children that a loop watches, by number. Private to lib/loop.
#pragma once

#include <coir/loop/child.hpp>

#include <sys/types.h>

#include <unordered_map>

namespace coir {

class child_table {
 public:
  void add(child_watch& which) { watches_.emplace(which.pid(), &which); }
  void remove(child_watch& which) noexcept;
  // Another that will reap this very process, and not one that had its number before.
  bool is_reaped(pid_t pid) noexcept;
  // The status is about to be taken: the others have a look at it while it is there.
  void look_before(child_watch& reaper) noexcept;

 private:
  std::unordered_multimap<pid_t, child_watch*> watches_;
};

}  // namespace coir
