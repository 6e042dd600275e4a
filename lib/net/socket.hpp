// System calls on sockets that do not wait, with their errors. Private to lib/net.
#pragma once

#include <coir/loop/loop.hpp>
#include <coir/net/address.hpp>

namespace coir::net::priv {

// The running fiber's, or the one that this thread runs. Where there is none: std::logic_error, about what was made.
loop& running_loop(const char* what);

[[noreturn]] void throw_two_readers();

// Non-blocking and close-on-exec.
int open_stream_socket(const address& for_address);
void set_option(int fd, int level, int option, int value, const char* name);
address local_address(int fd);
address peer_address(int fd);

}  // namespace coir::net::priv
