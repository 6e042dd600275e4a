// A receive loop: memory that coir owns.
#include <coir/coir.hpp>

coir::task<> serve(coir::net::tcp_stream peer) {
    auto chunks = peer.chunks();
    while (auto chunk = co_await chunks.next())                      // empty at end of stream; a chunk goes back to its pool when it dies
        co_await coir::io::write_all(peer, chunk->bytes());
}

int main() {
    return coir::run([] {
        coir::net::tcp_listener listener(coir::net::address("127.0.0.1", 7000));
        for (;;) coir::spawn(serve(coir::await(listener.accept())), coir::report_failure);
        return 0;
    });
}
