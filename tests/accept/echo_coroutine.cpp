// An echo server of ten lines, as a newcomer writes it.
#include <coir/coir.hpp>

#include <array>
#include <cstddef>
#include <span>
#include <utility>

coir::task<> serve(coir::net::tcp_stream peer) {
    std::array<std::byte, 4096> buffer;
    while (std::size_t n = co_await peer.read_some(buffer))          // 0 at end of stream
        co_await coir::io::write_all(peer, std::span(buffer).first(n));
}

coir::task<int> listen_and_serve(coir::net::address where) {
    coir::net::tcp_listener listener(where);
    for (;;) {
        coir::net::tcp_stream peer = co_await listener.accept();
        coir::spawn(serve(std::move(peer)), coir::report_failure);   // a child; its reset is not ours
    }
}

int main() { return coir::run(listen_and_serve(coir::net::address("127.0.0.1", 7000))); }
