// Messages between loops in coir: the cases of thread_cases.hpp, on both surfaces.

#include "thread_cases.hpp"

#include <coir/coir.hpp>

#include <cstdint>
#include <string>
#include <utility>

namespace {

using number = std::uint64_t;
using box = coir::mailbox<number>;
using box_end = coir::mailbox_sender<number>;
using channel = coir::remote_channel<number>;
using channel_end = coir::remote_sender<number>;

constexpr std::size_t other = 0;  // the loop that is not the measuring thread's

// Runs body(iterations) as the main fiber of this thread's loop, beside a loop on another thread.
template <class Body>
double time_across(Body body) {
  coir::runtime rt(coir::runtime_options().loops(1));
  return micro::ns_per_iteration([&](std::size_t iterations) {
    rt.run([&] { return body(rt, iterations); });
    return iterations;
  });
}

// ---- ping-pong ------------------------------------------------------------------------------

coir::task<> answer(box_end back, coir::mailbox_sender<box_end> tell, std::size_t rounds) {
  box there;
  tell.send(there.sender());
  for (std::size_t i = 0; i < rounds; ++i) {
    const auto got = co_await there.receive();
    back.send(*got);
  }
}
coir::task<> ask(coir::runtime& rt, std::size_t rounds) {
  box back;
  coir::mailbox<box_end> ends;
  auto answers = rt.spawn_on(other, [to = back.sender(), tell = ends.sender(), rounds] { return answer(to, tell, rounds); });
  const auto there = co_await ends.receive();
  for (std::size_t i = 0; i < rounds; ++i) {
    there->send(i);
    const auto got = co_await back.receive();
    crossing::check(got == i, "a ping came back wrong");
  }
  co_await answers.join();
}
double coroutine_ping_pong() {
  return time_across([](coir::runtime& rt, std::size_t rounds) { return ask(rt, rounds); });
}

double stack_ping_pong() {
  return time_across([](coir::runtime& rt, std::size_t rounds) {
    box back;
    coir::mailbox<box_end> ends;
    auto answers = rt.spawn_on(other, [to = back.sender(), tell = ends.sender(), rounds] {
      box there;
      tell.send(there.sender());
      for (std::size_t i = 0; i < rounds; ++i) to.send(*coir::await(there.receive()));
    });
    const box_end there = *coir::await(ends.receive());
    for (std::size_t i = 0; i < rounds; ++i) {
      there.send(i);
      crossing::check(coir::await(back.receive()) == i, "a ping came back wrong");
    }
    coir::await(answers.join());
  });
}

// ---- streaming ------------------------------------------------------------------------------

coir::task<> send_many(channel_end to, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) co_await to.send(i);
}
coir::task<> receive_many(coir::runtime& rt, std::size_t capacity, std::size_t count) {
  channel between(capacity);
  auto sends = rt.spawn_on(other, [to = between.sender(), count] { return send_many(to, count); });
  for (std::size_t i = 0; i < count; ++i) {
    const auto got = co_await between.receive();
    crossing::check(got == i, "a message was lost");
  }
  co_await sends.join();
}
double coroutine_stream(std::size_t capacity) {
  return time_across(
      [capacity](coir::runtime& rt, std::size_t count) { return receive_many(rt, capacity, count); });
}

double stack_stream(std::size_t capacity) {
  return time_across([capacity](coir::runtime& rt, std::size_t count) {
    channel between(capacity);
    auto sends = rt.spawn_on(other, [to = between.sender(), count] {
      for (std::size_t i = 0; i < count; ++i) coir::await(to.send(i));
    });
    for (std::size_t i = 0; i < count; ++i) {
      crossing::check(coir::await(between.receive()) == i, "a message was lost");
    }
    coir::await(sends.join());
  });
}

coir::task<> receive_mail(coir::runtime& rt, std::size_t count) {
  box between;
  auto sends = rt.spawn_on(other, [to = between.sender(), count] {
    for (std::size_t i = 0; i < count; ++i) to.send(i);
  });
  for (std::size_t i = 0; i < count; ++i) {
    const auto got = co_await between.receive();
    crossing::check(got == i, "a message was lost");
  }
  co_await sends.join();
}
double coroutine_mail() {
  return time_across([](coir::runtime& rt, std::size_t count) { return receive_mail(rt, count); });
}
double stack_mail() {
  return time_across([](coir::runtime& rt, std::size_t count) {
    box between;
    auto sends = rt.spawn_on(other, [to = between.sender(), count] {
      for (std::size_t i = 0; i < count; ++i) to.send(i);
    });
    for (std::size_t i = 0; i < count; ++i) {
      crossing::check(coir::await(between.receive()) == i, "a message was lost");
    }
    coir::await(sends.join());
  });
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<micro::bench_case> cases{{"threads/ping-pong", "coir", "ns", coroutine_ping_pong},
                                       {"threads/ping-pong", "coir-stack", "ns", stack_ping_pong}};
  for (const std::size_t capacity : crossing::stream_capacities) {
    const std::string name = "threads/stream/" + std::to_string(capacity);
    cases.push_back({name, "coir", "ns", [capacity] { return coroutine_stream(capacity); }});
    cases.push_back({name, "coir-stack", "ns", [capacity] { return stack_stream(capacity); }});
  }
  cases.push_back({"threads/stream/mailbox", "coir", "ns", coroutine_mail});
  cases.push_back({"threads/stream/mailbox", "coir-stack", "ns", stack_mail});
  return micro::run(argc, argv, cases);
}
