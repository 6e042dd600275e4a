#include "support/catch.hpp"
#include "support/model.hpp"

#include <coir/loop/loop.hpp>
#include <coir/thread/mailbox.hpp>

#include <algorithm>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

namespace {

// What is sent, and counts what of it is alive.
class token {
 public:
  explicit token(int number) noexcept : number_(number) { ++alive; }
  token(token&& other) noexcept : number_(other.number_) { ++alive; }
  token& operator=(token&&) = default;
  ~token() { --alive; }
  int number() const noexcept { return number_; }
  static inline int alive = 0;

 private:
  int number_;
};

// The loop that receives, turned by hand: it sleeps where no post is.
struct state {
  coir::loop on;
  std::optional<coir::mailbox<token>> box{std::in_place, on};
  std::vector<int> got;
  int senders_done = 0;

  void turn() {
    on.run_once();
    while (auto next = box->try_receive()) got.push_back(next->number());
  }
};

// Sends its numbers, and then its end goes.
void send(model::run& now, const std::shared_ptr<state>& shared, std::vector<int> numbers) {
  auto end = std::make_shared<coir::mailbox_sender<token>>(shared->box->sender());
  now.thread([shared, end, numbers]() mutable {
    for (const int each : numbers) static_cast<void>(end->try_send(token(each)));
    *end = {};
    ++shared->senders_done;
  });
}

bool comes_before(const std::vector<int>& all, int first, int second) {
  return std::find(all.begin(), all.end(), first) < std::find(all.begin(), all.end(), second);
}

}  // namespace

TEST_CASE("mail of two threads comes to its loop once and in each one's order, and the loop is told of all of it") {
  const auto tried = model::explore([](model::run& now) {
    auto shared = std::make_shared<state>();
    send(now, shared, {1, 2});
    send(now, shared, {11});
    now.thread([shared] {
      shared->turn();
      shared->turn();
      model::wait([shared] { return shared->senders_done == 2; });
      // Only what a knock brings: nothing is looked for that the loop was not told of.
      shared->on.run_once();
      model::check(!shared->on.can_wake(), "a knock was left behind");
      shared->turn();
      model::check(shared->got.size() == 3, "a message was lost, or came twice");
      model::check(comes_before(shared->got, 1, 2), "one thread's messages are in order");
      model::check(shared->box->stats().senders == 0, "both ends have gone");
    });
  });
  CHECK(tried.failure == "");
  CHECK(tried.runs > 100);
  CHECK(token::alive == 0);
}

TEST_CASE("what is sent while a mailbox closes was received or is refused") {
  const auto tried = model::explore([](model::run& now) {
    auto shared = std::make_shared<state>();
    auto end = std::make_shared<coir::mailbox_sender<token>>(shared->box->sender());
    now.thread([shared, end] {
      const bool sent = end->try_send(token(1)) == coir::delivery::sent;
      *end = {};
      ++shared->senders_done;
      model::wait([shared] { return shared->box->closed() && shared->senders_done == 2; });
      model::check(sent == !shared->got.empty(), "what was sent came, and what was refused did not");
    });
    now.thread([shared] {
      shared->turn();
      shared->box->close();
      model::wait([shared] { return shared->senders_done == 1; });
      shared->turn();
      ++shared->senders_done;
    });
  });
  CHECK(tried.failure == "");
  CHECK(tried.runs > 10);
  CHECK(token::alive == 0);
}

TEST_CASE("a mailbox may go while others send: nothing is left, and nothing is touched") {
  const auto tried = model::explore([](model::run& now) {
    auto shared = std::make_shared<state>();
    auto end = std::make_shared<coir::mailbox_sender<token>>(shared->box->sender());
    now.thread([end] {
      static_cast<void>(end->try_send(token(1)));
      static_cast<void>(end->try_send(token(2)));
      *end = {};
    });
    now.thread([shared] {
      shared->on.run_once();
      shared->box.reset();
      shared->on.run_once();
    });
  });
  CHECK(tried.failure == "");
  CHECK(tried.runs > 10);
  CHECK(token::alive == 0);
}

TEST_CASE("a loop may end while somebody sends, and who sends afterwards is refused") {
  const auto tried = model::explore([](model::run& now) {
    struct ending {
      std::optional<coir::loop> on{std::in_place, coir::loop_options().backend(coir::backend_kind::epoll)};
      coir::mailbox<token> box{*on};
      coir::mailbox_sender<token> end = box.sender();
      bool over = false;
    };
    auto shared = std::make_shared<ending>();
    now.thread([shared] {
      for (int i = 0; i < 2; ++i) {
        const bool late = shared->over;
        const bool sent = shared->end.try_send(token(i)) == coir::delivery::sent;
        model::check(!(late && sent), "there is no loop any more");
      }
    });
    now.thread([shared] {
      // What the loop does first when it ends; its own call is not one of this program's.
      shared->on->port()->close();
      shared->on.reset();
      shared->over = true;
    });
  });
  CHECK(tried.failure == "");
  CHECK(tried.runs > 10);
  CHECK(token::alive == 0);
}

TEST_CASE("of two that send to a mailbox in which one place becomes free, one always gets it") {
  const auto tried = model::explore([](model::run& now) {
    auto shared = std::make_shared<state>();
    shared->box.emplace(shared->on, 1);
    auto end = std::make_shared<coir::mailbox_sender<token>>(shared->box->sender());
    auto other = std::make_shared<coir::mailbox_sender<token>>(shared->box->sender());
    static_cast<void>(end->try_send(token(0)));
    auto sent = std::make_shared<int>(0);
    now.thread([end, sent] {
      if (end->try_send(token(1)) == coir::delivery::sent) ++*sent;
      *end = {};
    });
    now.thread([shared, other, sent] {
      model::check(other->try_send(token(2)) == coir::delivery::full, "one place was there for two");
      model::check(shared->box->try_receive().has_value(), "what was there from the beginning can be had");
      // It knows that a place became free. If it is told otherwise, the other has it.
      if (other->try_send(token(2)) == coir::delivery::sent) ++*sent;
      *other = {};
    });
    now.after([sent] { model::check(*sent == 1, "the place was taken by neither, or by both"); });
  }, {.preemptions = 3});
  CHECK(tried.failure == "");
  CHECK(tried.runs > 10);
  CHECK(token::alive == 0);
}
