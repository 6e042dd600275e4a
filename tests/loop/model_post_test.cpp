#include "support/catch.hpp"
#include "support/model.hpp"

#include <coir/loop/post.hpp>

#include <poll.h>

#include <memory>
#include <optional>
#include <string>
#include <utility>

namespace {

// What a loop does with its inbox, turn by turn, with a record of what it got.
class sleeper {
 public:
  struct letter final : coir::post_node {
    letter(std::string& to, char what) : to_(to), what_(what) {}
    void run() override { to_ += what_; }
    std::string& to_;
    char what_;
  };

  void push(char what) { inbox_.push(*new letter(got_, what)); }
  void stop() { inbox_.stop(); }

  // Turns until that much has come.
  void run_until(std::size_t count) {
    for (; got_.size() < count; take()) sleep();
  }
  void run_until_stopped() {
    for (; !inbox_.stop_requested(); take()) sleep();
    inbox_.clear_stop();
  }
  void take() {
    for (coir::post_node* at = inbox_.take(); at != nullptr;) {
      const std::unique_ptr<coir::post_node> first(at);
      at = coir::inbox::behind(*first);
      first->run();
    }
  }
  const std::string& got() const { return got_; }
  bool empty() const { return inbox_.empty(); }

 private:
  void sleep() {
    if (!inbox_.empty() || inbox_.stop_requested() || !inbox_.fall_asleep()) return;
    model::wait([this] { return rung(); });
    inbox_.awake();
    inbox_.silence();
  }
  bool rung() const {
    pollfd ask{inbox_.fd(), POLLIN, 0};
    return ::poll(&ask, 1, 0) == 1;
  }

  coir::inbox inbox_;
  std::string got_;
};

bool in_order(const std::string& got, char first, char second) { return got.find(first) < got.find(second); }

}  // namespace

TEST_CASE("a loop that looks and sleeps gets what two threads post, each in its order") {
  const auto tried = model::explore(
      [](model::run& now) {
        auto shared = std::make_shared<sleeper>();
        now.thread([shared] { shared->run_until(4); });
        now.thread([shared] {
          shared->push('a');
          shared->push('b');
        });
        now.thread([shared] {
          shared->push('1');
          shared->push('2');
        });
        now.after([shared] {
          model::check(shared->got().size() == 4, "a post came twice");
          model::check(in_order(shared->got(), 'a', 'b'), "the first thread's posts are in order");
          model::check(in_order(shared->got(), '1', '2'), "the second thread's posts are in order");
          model::check(shared->empty(), "nothing is left");
        });
      });
  CHECK(tried.failure == "");
  CHECK(tried.runs > 100);
}

TEST_CASE("a stop is not slept over, whatever is posted at the same time") {
  const auto tried = model::explore([](model::run& now) {
    auto shared = std::make_shared<sleeper>();
    now.thread([shared] {
      shared->run_until_stopped();
      shared->run_until(1);
    });
    now.thread([shared] { shared->stop(); });
    now.thread([shared] { shared->push('a'); });
    now.after([shared] { model::check(shared->got() == "a", "the post came once"); });
  }, {.preemptions = 3});
  CHECK(tried.failure == "");
  CHECK(tried.runs > 100);
}

TEST_CASE("posts that nobody took die with the inbox") {
  const auto tried = model::explore([](model::run& now) {
    auto shared = std::make_shared<sleeper>();
    now.thread([shared] { shared->push('a'); });
    now.thread([shared] { shared->take(); });
    now.after([shared] { model::check(shared->got() == "a" || !shared->empty(), "the post is somewhere"); });
  });
  CHECK(tried.failure == "");
}

TEST_CASE("a port says whether a post has reached its inbox, which goes only when nobody is in the middle of one") {
  struct counted final : coir::post_node {
    void run() override {}
    void over() noexcept override { ++ends; }
    int ends = 0;
  };
  const auto tried = model::explore(
      [](model::run& now) {
        struct state {
          std::optional<coir::inbox> inbox{std::in_place};
          coir::loop_port port{*inbox};
          counted first;
          counted second;
          int reached = 0;
        };
        auto shared = std::make_shared<state>();
        for (counted* const each : {&shared->first, &shared->second}) {
          now.thread([shared, each] {
            if (shared->port.push(*each)) ++shared->reached;
          });
        }
        now.thread([shared] {
          shared->port.close();
          shared->inbox.reset();
        });
        now.after([shared] {
          model::check(shared->first.ends + shared->second.ends == shared->reached, "what has reached it is over once");
          model::check(!shared->port.open(), "it is closed");
        });
      },
      {.preemptions = 3});
  CHECK(tried.failure == "");
  CHECK(tried.runs > 100);
}
