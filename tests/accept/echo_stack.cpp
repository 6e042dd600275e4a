// The same on stacks.
#include <coir/coir.hpp>

#include <array>
#include <cstddef>
#include <span>

int main() {
    return coir::run([] {
        coir::net::tcp_listener listener(coir::net::address("::1", 7000));
        for (;;) {
            coir::spawn([peer = coir::await(listener.accept())]() mutable {
                std::array<std::byte, 4096> buffer;
                while (std::size_t n = coir::await(peer.read_some(buffer)))
                    coir::await(coir::io::write_all(peer, std::span(buffer).first(n)));
            }, coir::report_failure);
        }
        return 0;
    });
}
