#include "support/both.hpp"
#include "support/catch.hpp"
#include "support/child_process.hpp"

#include <coir/coir.hpp>
#include <coir/sync/wait_list.hpp>

#include <memory>
#include <optional>
#include <string>

namespace {

// The smallest thing that is handed over: one token.
class baton {
 public:
  class [[nodiscard]] take_op : public coir::wait_node {
   public:
    static constexpr const char* name = "baton";
    explicit take_op(baton& of) noexcept : of_(&of) {}
    bool start(coir::waiter& told) {
      of_->bound_.check();
      if (of_->free_) {
        of_->free_ = false;
        return false;
      }
      of_->waiting_.add(*this, told);
      return true;
    }
    coir::abort_answer abort() noexcept { return leave(); }
    void take() noexcept {}

   private:
    baton* of_;
  };

  take_op get() noexcept { return take_op(*this); }
  void put() noexcept {
    if (waiting_.empty()) {
      free_ = true;
    } else {
      waiting_.wake_first();
    }
  }
  bool free() const noexcept { return free_; }
  std::size_t waiting() const noexcept { return waiting_.size(); }

 private:
  coir::wait_list<take_op> waiting_;
  coir::priv::loop_bound bound_;
  bool free_ = true;
};

}  // namespace

TEST_CASE("what waits in a list is served in the order in which it came") {
  coir::run([] {
    baton one;
    coir::await(one.get());
    std::string order;
    coir::with_nursery([&](coir::nursery& n) {
      for (const char who : {'a', 'b', 'c'}) {
        n.spawn([&, who] {
          coir::await(one.get());
          order += who;
          one.put();
        });
      }
      coir::await(coir::yield());
      CHECK(one.waiting() == 3);
      one.put();
    });
    CHECK(order == "abc");
    CHECK(one.free());
  });
}

TEST_CASE("a waiter that leaves gives up its place, and those behind it move up") {
  coir::run([] {
    baton one;
    coir::await(one.get());
    auto first = coir::spawn([&] { coir::await(one.get()); });
    bool second = false;
    auto other = coir::spawn([&] {
      coir::await(one.get());
      second = true;
    });
    coir::await(coir::yield());
    first.cancel();
    CHECK(one.waiting() == 1);
    one.put();
    coir::await(other.join());
    CHECK(second);
  });
}

TEST_CASE("a waiter that was woken and is cancelled before it runs has what it was given") {
  support::on_both_surfaces([](auto wait) {
    baton one;
    wait(one.get());
    bool got = false;
    bool next = false;
    auto first = coir::spawn([&] {
      wait(one.get());
      got = true;
      one.put();
      wait(coir::yield());
      next = true;
    });
    wait(coir::yield());
    wait(coir::yield());
    one.put();
    first.cancel();
    coir::await(coir::yield());
    coir::await(coir::yield());
    CHECK(got);
    CHECK_FALSE(next);
    CHECK(one.free());
  });
}

TEST_CASE("who still waits when the list goes waits until it is cancelled") {
  bool went_on = false;
  coir::run([&] {
    auto one = std::make_unique<baton>();
    coir::await(one->get());
    auto left = coir::spawn([&] {
      coir::await(one->get());
      went_on = true;
    });
    coir::await(coir::yield());
    one.reset();
    coir::await(coir::yield());
    CHECK(left.state() == coir::fiber_state::waiting);
  });
  CHECK_FALSE(went_on);
}

#if !defined(NDEBUG)
TEST_CASE("what belongs to one loop and is used on another is an assertion that names both") {
  const auto ended = support::in_child([] {
    baton one;
    coir::loop first;
    coir::scheduler on_first(first);
    on_first.spawn([&] { coir::await(one.get()); });
    first.run_once();
    coir::loop second;
    coir::scheduler on_second(second);
    on_second.spawn([&] { coir::await(one.get()); });
    second.run_once();
  });
  CHECK(ended.signal == SIGABRT);
  CHECK_THAT(ended.text, Catch::Matchers::Matches("coir: what belongs to loop [0-9]+ was used on loop [0-9]+:.*\n"));
}
#endif

TEST_CASE("what outlives its loop may be used on any other, also when a third has the address of the first") {
  baton one;
  std::optional<coir::loop> there(std::in_place);
  {
    coir::scheduler fibers(*there);
    fibers.spawn([&] {
      coir::await(one.get());
      one.put();
    });
    there->run_once();
  }
  there.emplace();
  coir::run([&] {
    coir::await(one.get());
    one.put();
  });
  CHECK(one.free());
}

TEST_CASE("what outlives its loop may be used on the next") {
  baton one;
  for (int round = 0; round < 2; ++round) {
    coir::run([&] {
      coir::await(one.get());
      one.put();
    });
  }
  CHECK(one.free());
}
