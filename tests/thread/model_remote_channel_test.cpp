#include "support/catch.hpp"
#include "support/model.hpp"

#include <coir/coir.hpp>
#include <coir/thread/remote_channel.hpp>

#include <algorithm>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <system_error>
#include <vector>

namespace {

// What is sent, and counts what of it is alive.
class token {
 public:
  explicit token(int number) noexcept : number_(number) { ++alive, ++made; }
  token(token&& other) noexcept : number_(other.number_) { ++alive, ++made; }
  token& operator=(token&&) = default;
  ~token() { --alive; }
  int number() const noexcept { return number_; }
  static inline int alive = 0;
  static inline int made = 0;

 private:
  int number_;
};

coir::loop_options plain() { return coir::loop_options().backend(coir::backend_kind::epoll); }

// A loop that is turned by hand, as long as something has been posted to it.
class turned {
 public:
  coir::loop on{plain()};

  // The loop's own call is not one of this program's.
  ~turned() { on.port()->close(); }
  void turn() { on.run_once(); }
  bool has_post() const {
    const auto why = on.why_alive();
    return std::find(why.begin(), why.end(), "posts not yet run") != why.end();
  }
};

// The channel and its loop.
struct state : turned {
  explicit state(std::size_t capacity) : channel(std::in_place, on, capacity) {}
  std::optional<coir::remote_channel<token>> channel;
  std::vector<int> got;
  std::vector<int> sent;
  int senders_done = 0;

  void receive() {
    while (auto next = channel->try_receive()) got.push_back(next->number());
  }
};

// A thread with a loop of its own, a fiber of which sends one. `meanwhile` is called when it waits, or is done.
void send(model::run& now, const std::shared_ptr<state>& shared, int number,
          std::function<void(coir::fiber<void>&)> meanwhile = nullptr) {
  auto end = std::make_shared<coir::remote_sender<token>>(shared->channel->sender());
  now.thread([shared, end, number, meanwhile] {
    turned mine;
    coir::scheduler fibers(mine.on);
    auto sender = fibers.spawn([&] {
      try {
        coir::await(end->send(token(number)));
        shared->sent.push_back(number);
      } catch (const std::system_error&) {  // closed
      }
    });
    mine.turn();
    if (meanwhile) meanwhile(sender);
    while (sender.state() != coir::fiber_state::dead) {
      model::wait([&] { return mine.has_post() || mine.on.installed()->has_ready(); });
      mine.turn();
    }
    *end = {};
    ++shared->senders_done;
  });
}

// What the receiver's loop is told is received, until all who send have gone.
void receive_all(const std::shared_ptr<state>& shared, int senders) {
  for (;;) {
    model::wait([&] { return shared->has_post() || shared->senders_done == senders; });
    if (!shared->has_post()) break;
    shared->turn();
    shared->receive();
  }
  shared->receive();
}

void check_same(const std::shared_ptr<state>& shared) {
  std::sort(shared->got.begin(), shared->got.end());
  std::sort(shared->sent.begin(), shared->sent.end());
  model::check(shared->got == shared->sent, "what was sent was received, once, and nothing else");
}

}  // namespace

TEST_CASE("what two loops send through a channel with room for one is received, each once") {
  const auto tried = model::explore([&](model::run& now) {
    auto shared = std::make_shared<state>(1);
    send(now, shared, 1);
    send(now, shared, 2);
    now.thread([shared] { receive_all(shared, 2); });
    now.after([shared] {
      check_same(shared);
      model::check(shared->got.size() == 2, "both were sent");
    });
  }, {.preemptions = 1});
  CHECK(tried.failure == "");
  CHECK(tried.runs > 100);
  CHECK(token::alive == 0);
}

TEST_CASE("room that goes and comes back while somebody looks for it leaves nothing behind") {
  const auto tried = model::explore([&](model::run& now) {
    auto shared = std::make_shared<state>(1);
    auto waits = std::make_shared<bool>(false);
    send(now, shared, 1, [waits](coir::fiber<void>&) { *waits = true; });
    now.thread([shared, waits] {
      {
        coir::scheduler fibers(shared->on);
        auto own = fibers.spawn([&] { coir::await(shared->channel->sender().send(token(2))); });
        shared->turn();
        // The other one has found no room, and begins to ask for it.
        const int before = token::made;
        model::wait([&] { return token::made > before || *waits; });
        shared->receive();
        own.cancel();
        while (own.state() != coir::fiber_state::dead) {
          model::wait([&] { return shared->has_post() || shared->on.installed()->has_ready(); });
          shared->turn();
        }
      }
      receive_all(shared, 1);
    });
  });
  CHECK(tried.failure == "");
  CHECK(tried.runs > 100);
  CHECK(token::alive == 0);
}

TEST_CASE("a send that is cancelled at any moment was received, or was not sent") {
  const std::size_t capacity = GENERATE(0U, 1U);
  const auto tried = model::explore([&](model::run& now) {
    auto shared = std::make_shared<state>(capacity);
    if (capacity != 0) send(now, shared, 1);
    send(now, shared, 2, [](coir::fiber<void>& sender) { sender.cancel(); });
    now.thread([shared, capacity] { receive_all(shared, capacity != 0 ? 2 : 1); });
    now.after([shared] { check_same(shared); });
  }, {.preemptions = 1});
  CHECK(tried.failure == "");
  CHECK(tried.runs > 50);
  CHECK(token::alive == 0);
}

TEST_CASE("a channel closes, or goes, while others send: each is received or refused") {
  const bool goes = GENERATE(false, true);
  const auto tried = model::explore([&](model::run& now) {
    auto shared = std::make_shared<state>(1);
    send(now, shared, 1);
    send(now, shared, 2);
    now.thread([shared, goes] {
      shared->turn();
      shared->receive();
      if (goes) {
        shared->channel.reset();
      } else {
        shared->channel->close();
      }
      model::wait([&] { return shared->senders_done == 2 || shared->has_post(); });
      shared->turn();
      if (!goes) {
        model::wait([&] { return shared->senders_done == 2; });
        shared->turn();
        shared->receive();
      }
    });
    if (!goes) now.after([shared] { check_same(shared); });
  }, {.preemptions = 1});
  CHECK(tried.failure == "");
  CHECK(tried.runs > 100);
  CHECK(token::alive == 0);
}
