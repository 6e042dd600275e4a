// What the servers of this folder do besides serving: their command line, and their end.
#pragma once

#include <coir/coir.hpp>

#include <charconv>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>

namespace example {

inline coir::loop* running = nullptr;

inline void say_address(const coir::net::tcp_listener& listener) {
  std::printf("listening on %s\n", listener.local_address().to_string().c_str());
  std::fflush(stdout);
}

// From here on Ctrl-C and SIGTERM cancel the main fiber, and with it all that it spawned; a second one
// ends the program at once. Says where the listener listens.
inline void announce(const coir::net::tcp_listener& listener) {
  running = coir::loop::current();
  for (int number : {SIGINT, SIGTERM}) {
    std::signal(number, [](int arrived) {
      std::signal(arrived, SIG_DFL);
      running->stop();
    });
  }
  say_address(listener);
}

inline std::uint16_t port_from(std::string_view text) {
  std::uint16_t port = 0;
  const char* const end = text.data() + text.size();
  const auto [stopped_at, error] = std::from_chars(text.data(), end, port);
  if (error != std::errc() || stopped_at != end) {
    throw std::invalid_argument("'" + std::string(text) + "' is not a port (0 to 65535; 0: any)");
  }
  return port;
}

// How a program ends whose main fiber was cancelled.
inline bool was_stopped(const std::exception& error) {
  const auto* const reason = dynamic_cast<const std::system_error*>(&error);
  return reason != nullptr && reason->code() == std::errc::operation_canceled;
}

// Calls `serve` with the address that the command line asks for, PROGRAM [PORT]. Returns the exit code.
template <class Serve>
int run_server(int argc, char** argv, Serve serve) {
  try {
    const std::uint16_t port = argc > 1 ? port_from(argv[1]) : 7000;
    return serve(coir::net::address("127.0.0.1", port));
  } catch (const std::exception& error) {
    if (was_stopped(error)) {
      std::puts("stopped");
      return 0;
    }
    std::fprintf(stderr, "%s: %s\n", argv[0], error.what());
    return 1;
  }
}

}  // namespace example
