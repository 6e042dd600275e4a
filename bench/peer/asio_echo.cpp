// Peer: TCP echo on Boost.Asio coroutines, one thread.
//
// Built twice from this file: on Asio's epoll reactor, and on its io_uring backend
// (BOOST_ASIO_HAS_IO_URING with BOOST_ASIO_DISABLE_EPOLL).

#include "../command_line.hpp"

#include <boost/asio/awaitable.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/signal_set.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>

#include <array>
#include <cstdio>

namespace {

namespace asio = boost::asio;
using asio::ip::tcp;

asio::awaitable<void> serve(tcp::socket peer) {
  std::array<char, 4096> buffer;
  try {
    for (;;) {
      const std::size_t received =
          co_await peer.async_read_some(asio::buffer(buffer), asio::use_awaitable);
      co_await asio::async_write(peer, asio::buffer(buffer, received), asio::use_awaitable);
    }
  } catch (const boost::system::system_error&) {
    // The end of the stream, or a reset: either way this peer is done.
  }
}

asio::awaitable<void> accept_all(tcp::acceptor& acceptor) {
  for (;;) {
    tcp::socket peer = co_await acceptor.async_accept(asio::use_awaitable);
    peer.set_option(tcp::no_delay(true));
    co_spawn(acceptor.get_executor(), serve(std::move(peer)), asio::detached);
  }
}

}  // namespace

int main(int argc, char** argv) {
  command_line arguments(argc, argv);
  const auto port = arguments.number<unsigned short>("--port", 0, 0, 65535);
  arguments.finish();
  try {
    asio::io_context context(1);  // the hint that one thread runs it leaves out its locks
    asio::signal_set quit(context, SIGTERM);
    quit.async_wait([&](auto, auto) { context.stop(); });
    tcp::acceptor acceptor(context);
    const tcp::endpoint here(asio::ip::address_v4::loopback(), port);
    acceptor.open(here.protocol());
    acceptor.set_option(tcp::acceptor::reuse_address(true));
    acceptor.bind(here);
    acceptor.listen(4096);
    co_spawn(context, accept_all(acceptor), asio::detached);
    std::printf("listening %d\n", acceptor.local_endpoint().port());
    std::fflush(stdout);
    context.run();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s: %s\n", argv[0], error.what());
    return 1;
  }
}
