// 256 fibers, each of which waits for a message, does blocking work in the pool, and answers: 65,536 messages, all
// answered once.
#include "support/both.hpp"
#include "support/catch.hpp"

#include <coir/coir.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <utility>
#include <vector>

namespace {

constexpr std::size_t workers = 256;
constexpr std::size_t messages = 65'536;

// Of one fiber of one loop.
class inbox {
 public:
  class receive_op;
  void send(std::uint32_t message);
  receive_op receive();

 private:
  std::deque<std::uint32_t> kept_;
  coir::waiter* told_ = nullptr;
};

class inbox::receive_op {
 public:
  static constexpr const char* name = "receive";
  explicit receive_op(inbox& of) : of_(&of) {}
  bool start(coir::waiter& told) {
    if (!of_->kept_.empty()) return false;
    of_->told_ = &told;
    return true;
  }
  coir::abort_answer abort() noexcept {
    if (of_->told_ == nullptr) return coir::abort_answer::later;
    of_->told_ = nullptr;
    return coir::abort_answer::now;
  }
  std::uint32_t take() {
    const std::uint32_t first = of_->kept_.front();
    of_->kept_.pop_front();
    return first;
  }

 private:
  inbox* of_;
};

void inbox::send(std::uint32_t message) {
  kept_.push_back(message);
  if (coir::waiter* const told = std::exchange(told_, nullptr)) told->done();
}
inbox::receive_op inbox::receive() { return receive_op(*this); }

std::uint32_t blocking_work(std::uint32_t message) { return message * 2 + 1; }

// By how many each message was answered, and rightly.
struct answers {
  std::vector<std::uint8_t> seen = std::vector<std::uint8_t>(messages);
  std::size_t count = 0;
  std::size_t wrong = 0;
  inbox all_there;
  void add(std::uint32_t message, std::uint32_t answer) {
    if (answer != blocking_work(message)) ++wrong;
    ++seen[message];
    if (++count == messages) all_there.send(0);
  }
};

coir::task<> serve(inbox& in, coir::pool& threads, answers& out) {
  for (;;) {
    const std::uint32_t message = co_await in.receive();
    out.add(message, co_await coir::offload(threads, [message] { return blocking_work(message); }));
  }
}
void serve_on_stack(inbox& in, coir::pool& threads, answers& out) {
  for (;;) {
    const std::uint32_t message = coir::await(in.receive());
    out.add(message, coir::await(coir::offload(threads, [message] { return blocking_work(message); })));
  }
}

template <class Spawn>
void play(Spawn spawn) {
  coir::pool threads(coir::pool_options().threads(4));
  coir::run([&] {
    std::deque<inbox> inboxes(workers);
    answers out;
    std::vector<coir::fiber<void>> all;
    for (inbox& each : inboxes) all.push_back(spawn(each, threads, out));
    for (std::uint32_t i = 0; i < messages; ++i) {
      inboxes[i % workers].send(i);
      if (i % 1024 == 0) coir::await(coir::yield());
    }
    static_cast<void>(coir::await(out.all_there.receive()));
    for (auto& each : all) each.cancel();
    CHECK(out.wrong == 0);
    CHECK(std::all_of(out.seen.begin(), out.seen.end(), [](std::uint8_t times) { return times == 1; }));
  });
  CHECK(threads.stats().done == messages);
}

}  // namespace

TEST_CASE("256 coroutines answer 65,536 messages with work in the pool, each message once") {
  play([](inbox& in, coir::pool& threads, answers& out) { return coir::spawn(serve(in, threads, out)); });
}

TEST_CASE("256 fibers on stacks answer 65,536 messages with work in the pool, each message once") {
  play([](inbox& in, coir::pool& threads, answers& out) {
    return coir::spawn([&] { serve_on_stack(in, threads, out); });
  });
}
