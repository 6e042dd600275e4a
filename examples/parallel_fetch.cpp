// Teaches: a nursery. Its children run side by side, all of them have ended when it has, and the first that fails
// stops the others: nobody goes on fetching what nobody will use.
//
// Try it:  build/test/examples/parallel_fetch
//
// OUTPUT
//   fetched side by side: page of /a, page of /b, page of /c
//   one of 101 is missing: no page at /missing
//   connections that the server still has: 0

#include <coir/coir.hpp>

#include <cstddef>
#include <cstdio>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

using coir::net::address;
using coir::net::tcp_listener;
using coir::net::tcp_stream;

// Answers with a page, with nothing where there is none, or not at all.
coir::task<> answer(tcp_stream peer, int& connections) {
  coir::io::buffered_reader reader(peer);
  const std::optional<std::string_view> name = co_await reader.read_line();
  if (name == "/endless") {
    // Until the client is gone.
    co_await reader.read_line();
  } else if (name && *name != "/missing") {
    const std::string page = "page of " + std::string(*name) + "\n";
    co_await coir::io::write_all(peer, std::as_bytes(std::span(page)));
  }
  --connections;
}

coir::task<> serve(tcp_listener listener, int& connections) {
  for (;;) {
    tcp_stream peer = co_await listener.accept();
    ++connections;
    coir::spawn(answer(std::move(peer), connections), coir::report_failure);
  }
}

coir::task<std::string> fetch(address server, std::string name) {
  tcp_stream peer = co_await tcp_stream::connect(server);
  const std::string question = name + "\n";
  co_await coir::io::write_all(peer, std::as_bytes(std::span(question)));
  coir::io::buffered_reader reader(peer);
  const std::optional<std::string_view> page = co_await reader.read_line();
  if (!page) throw std::runtime_error("no page at " + name);
  co_return std::string(*page);
}

// README: nursery
coir::task<> fetch_all(address server) {
  co_await coir::with_nursery([&](coir::nursery& n) -> coir::task<> {
    for (int i = 0; i < 100; ++i) n.spawn(fetch(server, "/endless"));
    n.spawn(fetch(server, "/missing"));
    co_return;
  });  // has ended when all 101 have
}
// README end

coir::task<int> fetch_in_parallel() {
  tcp_listener listener(address("127.0.0.1", 0));
  const address server = listener.local_address();
  int connections = 0;
  coir::spawn(serve(std::move(listener), connections));

  std::vector<std::string> pages(3);
  auto fetch_three = [&](coir::nursery& n) -> coir::task<> {
    for (std::size_t i = 0; i < pages.size(); ++i) {
      n.spawn([](address from, std::string name, std::string& into) -> coir::task<> {
        into = co_await fetch(from, std::move(name));
      }(server, std::string("/") + static_cast<char>('a' + i), pages[i]));
    }
    co_return;
  };
  co_await coir::with_nursery(fetch_three);
  std::printf("fetched side by side: %s, %s, %s\n", pages[0].c_str(), pages[1].c_str(), pages[2].c_str());

  try {
    co_await fetch_all(server);
  } catch (const std::runtime_error& error) {
    std::printf("one of 101 is missing: %s\n", error.what());
  }

  while (connections != 0) co_await coir::sleep_for(std::chrono::milliseconds(1));
  std::printf("connections that the server still has: %d\n", connections);
  co_return 0;
}

int main() { return coir::run(fetch_in_parallel()); }
