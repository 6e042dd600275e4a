// What the floors on io_uring do alike: the ring, the choices behind it, and the one system call of a turn.
#pragma once

#include "../command_line.hpp"
#include "../echo_listener.hpp"

#include <liburing.h>

#include <cerrno>
#include <string>

namespace echo {

struct ring_options {
  unsigned entries;
  unsigned completion_entries;
  std::string task_work;
  bool registered;
};

inline ring_options ring_options_of(command_line& arguments) {
  ring_options chosen{};
  chosen.entries = arguments.number("--entries", 256u, 1u, 32768u);
  chosen.completion_entries = arguments.number("--completion-entries", 4096u, 1u, 65536u);
  chosen.task_work = arguments.choice("--task-work", {"defer", "cooperative", "interrupt"});
  chosen.registered = !arguments.flag("--no-registered-ring");
  return chosen;
}

inline void start(io_uring& ring, const ring_options& chosen) {
  io_uring_params parameters{};
  parameters.flags = IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP | IORING_SETUP_SUBMIT_ALL;
  parameters.cq_entries = chosen.completion_entries;
  if (chosen.task_work == "defer") {
    parameters.flags |= IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN;
  } else if (chosen.task_work == "cooperative") {
    parameters.flags |= IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_COOP_TASKRUN;
  }
  if (const int error = io_uring_queue_init_params(chosen.entries, &ring, &parameters)) {
    fail("io_uring_setup", -error);
  }
  if (chosen.registered) {
    if (const int count = io_uring_register_ring_fd(&ring); count != 1) {
      fail("io_uring_register_ring_fd", -count);
    }
  }
}

// Sends all that was prepared, and waits for the next completion.
inline void enter(io_uring& ring) {
  const int submitted = io_uring_submit_and_wait(&ring, 1);
  if (submitted < 0 && submitted != -EINTR && submitted != -EAGAIN && submitted != -EBUSY) {
    fail("io_uring_enter", -submitted);
  }
}

inline io_uring_sqe* next_entry(io_uring& ring) {
  io_uring_sqe* entry = io_uring_get_sqe(&ring);
  while (entry == nullptr) {  // full: the kernel takes all of them at once
    io_uring_submit(&ring);
    entry = io_uring_get_sqe(&ring);
  }
  return entry;
}

}  // namespace echo
