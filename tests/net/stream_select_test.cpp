// select() of several ops on one stream: what wins takes the others back while the loop still looks at the descriptor.
#include <coir/coir.hpp>

#include "net/peers.hpp"

#include "fiber/until.hpp"
#include "support/both.hpp"
#include "support/catch.hpp"
#include "support/loop_tools.hpp"

#include <array>
#include <memory>
#include <span>
#include <string>
#include <system_error>
#include <utility>

using support::connected;

namespace {

enum class event { can_read, can_write, ends };

}  // namespace

TEST_CASE("a read and a write of one stream in a select: one has an effect, the other has none") {
  support::leaves_no_descriptor([] {
    support::on_both_surfaces([](auto wait) {
      for (const event what : {event::can_read, event::can_write, event::ends}) {
        auto ends = connected();
        auto near = std::make_unique<coir::net::tcp_stream>(std::move(ends.near));
        const std::size_t filled = support::fill(near->fd());
        std::array<std::byte, 16> into{};
        const std::string from(100, 'x');
        std::size_t read = 0;
        std::size_t written = 0;
        std::error_code code;
        auto both = coir::spawn([&] {
          code = support::error_of([&] {
            auto first = wait(coir::select(near->read_some(into), near->write_some(std::as_bytes(std::span(from)))));
            first.index() == 0 ? read = std::get<0>(first) : written = std::get<1>(first);
          });
        });
        support::until([&] { return support::waiting(both); });
        support::let_turns_pass();
        std::size_t drained = 0;
        switch (what) {
          case event::can_read: wait(coir::io::write_all(ends.far, "hello")); break;
          case event::can_write:
            while (both.state() != coir::fiber_state::dead) {
              drained += support::drain(ends.far.fd());
              support::let_turns_pass();
            }
            break;
          case event::ends: near.reset(); break;
        }
        coir::await(both.join());
        if (what == event::ends) {
          CHECK(code == std::errc::bad_file_descriptor);
          continue;
        }
        CHECK_FALSE(code);
        CHECK((read == 5) == (what == event::can_read));
        CHECK((written > 0) == (what == event::can_write));
        near.reset();
        std::array<std::byte, 1 << 16> block;
        while (const std::size_t some = wait(ends.far.read_some(block))) drained += some;
        CHECK(drained == filled + written);
      }
    });
  });
}

TEST_CASE("waiting for both directions of one descriptor in a select") {
  support::on_both_surfaces([](auto wait) {
    for (const bool can_read : {true, false}) {
      auto ends = connected();
      support::fill(ends.near.fd());
      coir::loop& loop = *coir::loop::current();
      std::size_t winner = 2;
      auto both = coir::spawn([&] {
        winner = wait(coir::select(coir::request_op<coir::readiness>(loop, coir::request::poll(ends.near.fd(), POLLIN)),
                                   coir::request_op<coir::readiness>(loop, coir::request::poll(ends.near.fd(), POLLOUT))))
                     .index();
      });
      support::until([&] { return support::waiting(both); });
      support::let_turns_pass();
      if (can_read) {
        wait(coir::io::write_all(ends.far, "hello"));
      } else {
        while (both.state() != coir::fiber_state::dead) {
          support::drain(ends.far.fd());
          support::let_turns_pass();
        }
      }
      coir::await(both.join());
      CHECK(winner == (can_read ? 0 : 1));
    }
  });
}
