// 256 fibers, each of which waits for a message, does blocking work in the pool, and answers: 65,536 messages, all
// answered once.
#include "support/both.hpp"
#include "support/catch.hpp"

#include <coir/base/config.hpp>
#include <coir/coir.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

namespace {

constexpr std::size_t workers = 256;
// With a sanitizer each takes several times as long.
constexpr std::size_t messages = COIR_ADDRESS_SANITIZER || COIR_THREAD_SANITIZER ? 8'192 : 65'536;

struct question {
  std::uint32_t number;
};
struct answer {
  std::uint32_t number;
  std::uint32_t value;
};

std::uint32_t blocking_work(std::uint32_t number) { return number * 2 + 1; }

// Asks all of them with `ask`, hears their answers, and checks that each has one and that it is right.
template <class Ask>
void ask_all(coir::channel<answer>& answers, Ask ask) {
  auto asking = coir::spawn([&] {
    for (std::uint32_t i = 0; i < messages; ++i) ask(question{i});
  });
  std::vector<std::uint8_t> seen(messages);
  std::size_t wrong = 0;
  for (std::size_t i = 0; i < messages; ++i) {
    const std::optional<answer> got = coir::await(answers.receive());
    if (got->value != blocking_work(got->number)) ++wrong;
    ++seen[got->number];
  }
  coir::await(asking.join());
  CHECK(wrong == 0);
  CHECK(std::all_of(seen.begin(), seen.end(), [](std::uint8_t times) { return times == 1; }));
  CHECK(answers.empty());
}

// Threads, the channel that all answer to, and a body that asks.
template <class Body>
void play(Body body) {
  coir::pool threads(coir::pool_options().threads(4));
  coir::run([&] {
    coir::channel<answer> answers(workers);
    body(threads, answers);
  });
  CHECK(threads.stats().done == messages);
}

// All fibers hear from one channel, which is closed when there is nothing more to ask.
coir::task<> serve(coir::channel<question>& questions, coir::pool& threads, coir::channel<answer>& answers) {
  while (const std::optional<question> asked = co_await questions.receive()) {
    const std::uint32_t number = asked->number;
    const std::uint32_t value = co_await coir::offload(threads, [number] { return blocking_work(number); });
    co_await answers.send(answer{number, value});
  }
}
void serve_on_stack(coir::channel<question>& questions, coir::pool& threads, coir::channel<answer>& answers) {
  while (const std::optional<question> asked = coir::await(questions.receive())) {
    const std::uint32_t number = asked->number;
    const std::uint32_t value = coir::await(coir::offload(threads, [number] { return blocking_work(number); }));
    coir::await(answers.send(answer{number, value}));
  }
}

// Each fiber hears from its own inbox, until it is cancelled.
coir::task<> serve_own(coir::pool& threads, coir::channel<answer>& answers) {
  for (;;) {
    const question asked = co_await coir::receive<question>();
    const std::uint32_t value = co_await coir::offload(threads, [asked] { return blocking_work(asked.number); });
    co_await answers.send(answer{asked.number, value});
  }
}
void serve_own_on_stack(coir::pool& threads, coir::channel<answer>& answers) {
  for (;;) {
    const question asked = coir::await(coir::receive<question>());
    const std::uint32_t value = coir::await(coir::offload(threads, [asked] { return blocking_work(asked.number); }));
    coir::await(answers.send(answer{asked.number, value}));
  }
}

template <class Spawn>
void play_with_a_channel(Spawn spawn) {
  play([&](coir::pool& threads, coir::channel<answer>& answers) {
    coir::channel<question> questions(workers);
    std::vector<coir::fiber<void>> all;
    for (std::size_t i = 0; i < workers; ++i) all.push_back(spawn(questions, threads, answers));
    ask_all(answers, [&](question next) { coir::await(questions.send(next)); });
    questions.close();
    for (auto& each : all) coir::await(each.join());
  });
}

template <class Spawn>
void play_with_inboxes(Spawn spawn) {
  play([&](coir::pool& threads, coir::channel<answer>& answers) {
    std::vector<coir::fiber<void>> all;
    for (std::size_t i = 0; i < workers; ++i) {
      all.push_back(spawn(threads, answers));
      all.back().inbox<question>().set_capacity(8);
    }
    ask_all(answers, [&](question next) { coir::await(all[next.number % workers].inbox<question>().send(next)); });
    for (auto& each : all) each.cancel();
  });
}

}  // namespace

TEST_CASE("256 coroutines answer the messages of one channel with work in the pool, each message once") {
  play_with_a_channel([](coir::channel<question>& questions, coir::pool& threads, coir::channel<answer>& answers) {
    return coir::spawn(serve(questions, threads, answers));
  });
}

TEST_CASE("256 fibers on stacks answer the messages of one channel with work in the pool, each message once") {
  play_with_a_channel([](coir::channel<question>& questions, coir::pool& threads, coir::channel<answer>& answers) {
    return coir::spawn([&] { serve_on_stack(questions, threads, answers); });
  });
}

TEST_CASE("256 coroutines answer the messages in their inboxes with work in the pool, each message once") {
  play_with_inboxes([](coir::pool& threads, coir::channel<answer>& answers) {
    return coir::spawn(serve_own(threads, answers));
  });
}

TEST_CASE("256 fibers on stacks answer the messages in their inboxes with work in the pool, each message once") {
  play_with_inboxes([](coir::pool& threads, coir::channel<answer>& answers) {
    return coir::spawn([&] { serve_own_on_stack(threads, answers); });
  });
}
