// What a loop tells the backend it makes. Private to lib/loop.
#pragma once

#include <coir/loop/backend.hpp>

#include <cstddef>

namespace coir {

struct backend_settings {
  int wake_fd;           // an eventfd whose every write(2) must end a wait
  unsigned entries;      // of the submission queue
  unsigned completions;  // of the completion queue; 0: four times the entries
  unsigned chunks;
  std::size_t chunk_bytes;
};

}  // namespace coir
