// A connect beyond what every request does: where it cannot even begin.
#include "support/loop_tools.hpp"

#include <coir/loop/loop.hpp>

#include <sys/un.h>

#include <cerrno>

using coir::request;

TEST_CASE("a connect to a Unix socket whose queue is full is refused, and the loop does not spin") {
  coir::loop loop;
  sockaddr_un name{};
  name.sun_family = AF_UNIX;
  const auto make = [] {
    return coir::unique_fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  };
  const coir::unique_fd listener = make();
  // The kernel chooses an abstract name.
  auto* const address = reinterpret_cast<sockaddr*>(&name);
  socklen_t size = sizeof name.sun_family;
  REQUIRE(::bind(listener.get(), address, size) == 0);
  REQUIRE(::listen(listener.get(), 0) == 0);
  size = sizeof name;
  REQUIRE(::getsockname(listener.get(), address, &size) == 0);
  const coir::unique_fd first = make();
  CHECK(support::finish(loop, request::connect(first.get(), address, size)) == 0);
  const coir::unique_fd second = make();
  CHECK(support::finish(loop, request::connect(second.get(), address, size)) == -ECONNREFUSED);
  const coir::unique_fd accepted(support::finish(loop, request::accept(listener.get())));
  CHECK(support::finish(loop, request::connect(second.get(), address, size)) == 0);
}
