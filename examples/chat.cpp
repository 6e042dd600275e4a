// Teaches: a chat on several loops. One loop accepts and hands the connections out; each lives on a loop of its own
// choosing, and they talk through mailboxes.
//
// Try it:  build/test/examples/chat 7000
//          nc 127.0.0.1 7000                             in several terminals: a name first, then what you say
//
// CLIENTS
//   1 > ann
//   1 < * ann enters
//   2 > bob
//   2 < * bob enters
//   1 < * bob enters
//   1 > good morning
//   2 < ann: good morning
//   2 > and to you
//   1 < bob: and to you
//   2 end
//   1 < * bob leaves
//   1 end
//
// OUTPUT
//   listening on 127.0.0.1:PORT
//   ann is on loop 0
//   bob is on loop 1
//   stopped

#include <coir/coir.hpp>

#include "server.hpp"

#include <cstddef>
#include <cstdio>
#include <map>
#include <optional>
#include <string>
#include <system_error>
#include <utility>

namespace {

using screen = coir::mailbox_sender<std::string>;

// What the room hears of a guest: who enters brings a screen, who leaves has nothing to say.
struct news {
  std::size_t guest;
  std::string text;
  screen shows;
};

// README: loops
coir::task<> show(coir::mailbox<std::string>& lines, coir::net::tcp_stream& peer) {
  while (std::optional<std::string> line = co_await lines.receive()) {
    *line += '\n';
    co_await coir::io::write_all(peer, *line);
  }
}

coir::task<> hear(coir::io::buffered_reader<coir::net::tcp_stream>& reader, std::size_t guest, std::string name,
                  coir::mailbox_sender<news> room) {
  while (auto line = co_await reader.read_line()) room.send({guest, name + ": " + std::string(*line), {}});
}

// On the loop that got the connection.
coir::task<> converse(coir::unique_fd socket, std::size_t loop, std::size_t guest, coir::mailbox_sender<news> room) {
  coir::net::tcp_stream peer(*coir::loop::current(), socket.release());
  coir::io::buffered_reader reader(peer);
  const auto first = co_await reader.read_line();
  if (!first) co_return;
  const std::string name(*first);
  std::printf("%s is on loop %zu\n", name.c_str(), loop);
  coir::mailbox<std::string> lines;
  room.send({guest, "* " + name + " enters", lines.sender()});
  try {
    co_await coir::first(hear(reader, guest, name, room), show(lines, peer));
  } catch (const std::system_error&) {  // the line broke: so it leaves
  }
  room.send({guest, "* " + name + " leaves", {}});
}

// On the loop that listens.
coir::task<> accept_all(coir::runtime& rt, coir::net::address where, coir::mailbox_sender<news> room) {
  coir::net::tcp_listener listener(where);
  example::announce(listener);
  for (std::size_t guest = 0;; ++guest) {
    coir::net::tcp_stream peer = co_await listener.accept();
    rt.spawn_least_loaded(
        [&rt, socket = coir::unique_fd(peer.release()), guest, room]() mutable {
          return converse(std::move(socket), rt.this_loop(), guest, room);
        },
        coir::report_failure);
  }
}
// README end

coir::task<> chat(coir::runtime& rt, coir::net::address where) {
  coir::mailbox<news> room;
  coir::spawn(accept_all(rt, where, room.sender()));
  std::map<std::size_t, screen> guests;
  while (std::optional<news> heard = co_await room.receive()) {
    const bool speaks = heard->text.front() != '*';
    if (heard->shows) {
      guests[heard->guest] = heard->shows;
    } else if (!speaks) {
      guests.erase(heard->guest);
    }
    for (const auto& [guest, shows] : guests) {
      if (!speaks || guest != heard->guest) shows.try_send(std::string(heard->text));
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  return example::run_server(argc, argv, [](coir::net::address where) {
    coir::runtime rt(coir::runtime_options().loops(2));
    rt.run(chat(rt, where));
    return 0;
  });
}
