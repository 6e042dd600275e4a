// Connections that die before they are accepted.
#include <coir/coir.hpp>

#include "net/peers.hpp"

#include "fiber/until.hpp"
#include "support/both.hpp"
#include "support/catch.hpp"
#include "support/loop_tools.hpp"

#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <deque>
#include <string>

using coir::net::tcp_listener;
using coir::net::tcp_stream;
using support::loopback;

namespace {

// Errors that the next accepts give, where they are system calls (epoll).
std::deque<int> injected;
unsigned accepts = 0;

}  // namespace

// In place of the C library's, also for libcoir.
int accept4(int fd, sockaddr* address, socklen_t* size, int flags) {
  ++accepts;
  if (!injected.empty()) {
    errno = injected.front();
    injected.pop_front();
    return -1;
  }
  return static_cast<int>(::syscall(SYS_accept4, fd, address, size, flags));
}

TEST_CASE("a connection that was reset in the backlog is no failure of accept") {
  support::leaves_no_descriptor([] {
    support::on_both_surfaces([](auto wait) {
      tcp_listener listener(loopback);
      // Some of them are reset before anybody accepts, some while somebody waits.
      for (const bool waits_before : {false, true}) {
        std::string got;
        auto acceptor = coir::spawn([&] {
          while (got.find('!') == std::string::npos) {
            tcp_stream peer = wait(listener.accept());
            try {
              got += support::read_text(wait, peer);
            } catch (const std::system_error& error) {
              CHECK(error.code() == std::errc::connection_reset);
              got += '-';
            }
          }
        });
        if (waits_before) support::until([&] { return support::waiting(acceptor); });
        for (int i = 0; i < 20; ++i) {
          auto client = support::raw_client(listener.local_address());
          support::reset(client);
        }
        const auto client = support::raw_client(listener.local_address());
        support::send_raw(client, "!");
        coir::await(acceptor.join());
        CHECK(got.back() == '!');
      }
      CHECK(listener.stats().starved == 0);
    });
  });
}

TEST_CASE("errors of one connection go past whoever waits, and are counted") {
  support::leaves_no_descriptor([] {
    coir::run(
        [] {
          tcp_listener listener(loopback);
          const auto client = support::raw_client(listener.local_address());
          injected = {ECONNABORTED, EPROTO, ENETDOWN, EHOSTUNREACH, ENETUNREACH, ENOPROTOOPT};
          CHECK(coir::await(listener.accept()));
          CHECK(injected.empty());
          CHECK(listener.stats().aborted == 6);
          CHECK(listener.stats().accepted == 1);

          const auto second = support::raw_client(listener.local_address());
          injected = {EINTR, EAGAIN};
          CHECK(coir::await(listener.accept()));
          CHECK(listener.stats().aborted == 6);
        },
        coir::run_options().loop(coir::loop_options().backend(coir::backend_kind::epoll)));
  });
}

TEST_CASE("a lack of anything is a pause, and anything else an error") {
  support::leaves_no_descriptor([] {
    coir::run(
        [] {
          tcp_listener listener(loopback);
          const auto client = support::raw_client(listener.local_address());
          for (const int error : {EMFILE, ENFILE, ENOBUFS, ENOMEM}) {
            injected.push_back(error);
          }
          const unsigned before = accepts;
          CHECK(coir::await(listener.accept()));
          CHECK(accepts - before == 5);
          CHECK(listener.stats().starved == 4);

          const auto second = support::raw_client(listener.local_address());
          injected = {EACCES};
          CHECK(support::error_of([&] { coir::await(listener.accept()); }) ==
                std::errc::permission_denied);
          // It has not lost its connection.
          CHECK(coir::await(listener.accept()));
        },
        coir::run_options().loop(coir::loop_options().backend(coir::backend_kind::epoll)));
  });
}
