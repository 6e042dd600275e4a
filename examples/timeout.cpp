// Teaches: limits in time. No operation takes a timeout: a piece of code runs under one. What it waits for is
// given up when the time is over, nothing of it goes on behind one's back, and no byte is lost.
//
// Try it:  build/test/examples/timeout
//
// OUTPUT
//   the peer answers: hello
//   the shy peer does not answer within 20 ms
//   the shy peer was asked again: timed out
//   it answers the third question: hello
//   under a limit of 20 ms 2 of 3 children ended, and none lives

#include <coir/coir.hpp>

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdio>
#include <span>
#include <string>
#include <utility>

using namespace std::chrono_literals;
using coir::net::tcp_listener;
using coir::net::tcp_stream;

// Says hello when it has been asked so often.
coir::task<> answer(tcp_stream asker, std::size_t questions) {
  std::array<std::byte, 1> question;
  std::size_t asked = 0;
  while (std::size_t n = co_await asker.read_some(question)) {
    asked += n;
    if (asked % questions == 0) co_await coir::io::write_all(asker, std::as_bytes(std::span("hello", 5)));
  }
}

coir::task<> serve(tcp_listener listener, std::size_t questions) {
  tcp_stream asker = co_await listener.accept();
  co_await answer(std::move(asker), questions);
}

coir::task<std::string> ask(tcp_stream& whom) {
  co_await coir::io::write_all(whom, std::as_bytes(std::span("?", 1)));
  std::array<std::byte, 5> answer;
  co_await coir::io::read_exactly(whom, answer);
  co_return std::string(reinterpret_cast<const char*>(answer.data()), answer.size());
}

// README: limits
coir::task<> ask_under_limits(tcp_stream& peer, tcp_stream& shy) {
  // Empty when the time is over.
  std::optional<std::string> got = co_await coir::move_on_after(10s, ask(peer));
  std::printf("the peer answers: %s\n", got ? got->c_str() : "nothing");
  got = co_await coir::move_on_after(20ms, ask(shy));
  if (!got) std::puts("the shy peer does not answer within 20 ms");

  // The same, for those who cannot go on without.
  try {
    co_await coir::fail_after(20ms, ask(shy));
  } catch (const coir::timed_out&) {
    std::puts("the shy peer was asked again: timed out");
  }
}
// README end

coir::task<int> use_limits() {
  tcp_listener listener(coir::net::address("127.0.0.1", 0));
  tcp_listener shy_listener(coir::net::address("127.0.0.1", 0));
  tcp_stream peer = co_await tcp_stream::connect(listener.local_address());
  tcp_stream shy = co_await tcp_stream::connect(shy_listener.local_address());
  coir::spawn(serve(std::move(listener), 1));
  coir::spawn(serve(std::move(shy_listener), 3));

  co_await ask_under_limits(peer, shy);
  const std::string third = co_await ask(shy);
  std::printf("it answers the third question: %s\n", third.c_str());

  // A limit holds for all that is inside.
  int ended = 0;
  auto children = [&ended](coir::nursery& n) -> coir::task<> {
    for (const auto length : {1ms, 2ms, 3'600'000ms}) {
      n.spawn([](std::chrono::milliseconds wait, int& count) -> coir::task<> {
        co_await coir::sleep_for(wait);
        ++count;
      }(length, ended));
    }
    co_return;
  };
  co_await coir::move_on_after(20ms, coir::with_nursery(children));
  std::printf("under a limit of 20 ms %d of 3 children ended, and none lives\n", ended);
  co_return 0;
}

int main() { return coir::run(use_limits()); }
