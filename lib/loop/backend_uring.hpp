// Requests as completions: io_uring. Private to lib/loop.
#pragma once

#include "backend_settings.hpp"

#include <memory>
#include <string>

namespace coir {

// io_uring is not to be had here, whatever the errno: the caller takes epoll instead. Too little memory
// or too few descriptors is not this: those are errors, thrown as std::system_error.
struct uring_refusal {
  int error;  // errno, or 0 when the kernel lacks something
  std::string why;
};

std::unique_ptr<backend> make_uring_backend(trace::control& trace,
                                            const backend_settings& settings,
                                            uring_refusal& refusal);

namespace priv {
// For tests only: set-up flags that io_uring_setup shall seem not to know, and an errno it shall seem
// to give as long as more than `uring_entries_max` entries are asked.
extern unsigned uring_unknown_flags;
extern int uring_setup_error;
extern unsigned uring_entries_max;
}  // namespace priv

}  // namespace coir
