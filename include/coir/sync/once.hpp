// coir/sync/once.hpp: what is to be done once, by whoever comes first, while the others wait for it.
//
//   coir::once loaded;
//   co_await loaded.call([&] { return load(tables); });       // a function that gives a task
//   loaded.call([&] { load_here(tables); });                  // on a stack: a plain function
//                                                             [tests/sync/once_test.cpp]
//
// When the one who does it fails or is cancelled, that is its caller's; the next of those who wait tries.
//
// Shape    an object that is neither copied nor moved. call() of a function that gives a task is a task. enter() is the
//          op underneath: it gives a turn, which is empty when all is done or the once is gone(), and on which whoever has
//          it calls done().
// Order    first come, first served.
// Thread   one loop.
// Lifetime those who still wait when it goes wait until they are cancelled. So do those in call() who had been handed
//          the turn and had not run yet; enter() gives them one that is gone().
// Cancel   a waiter's aborts now. One that has been handed the turn already runs the body, which is cancelled at its
//          first suspend point; then the next has the turn.
// Errors   what the body throws. std::logic_error for a body that calls the once it runs in.
// Cost     a few ns when it is done, and for a task its frame. No allocation besides.
// See      coir/sync/mutex.hpp, coir/sync/event.hpp
#pragma once

#include <coir/base/place.hpp>
#include <coir/fiber/await.hpp>
#include <coir/fiber/fiber_base.hpp>
#include <coir/fiber/op.hpp>
#include <coir/fiber/task.hpp>
#include <coir/scope/inside.hpp>
#include <coir/sync/event.hpp>
#include <coir/sync/wait_list.hpp>

#include <cstddef>
#include <cstdint>
#include <string>
#include <type_traits>
#include <utility>

namespace coir {

struct once_stats {
  std::uint64_t tried = 0;
  std::uint64_t waited = 0;     // for another who tried
  std::uint64_t cancelled = 0;  // of those
  std::size_t waiting = 0;
};

class once {
 public:
  // Whoever has it does it.
  class [[nodiscard("its destructor passes it on")]] turn {
   public:
    turn() noexcept = default;
    turn(turn&& other) noexcept : of_(std::exchange(other.of_, nullptr)), gone_(other.gone_) {
      if (of_ != nullptr) of_->runner_ = this;
    }
    turn& operator=(turn&&) = delete;
    ~turn() {
      if (of_ != nullptr) of_->pass_on();
    }
    // False: it has been done, or the once is gone.
    explicit operator bool() const noexcept { return of_ != nullptr; }
    bool gone() const noexcept { return gone_; }
    void done() noexcept {
      if (of_ != nullptr) std::exchange(of_, nullptr)->finish();
    }

   private:
    friend class once;
    once* of_ = nullptr;
    bool gone_ = false;
  };

  class [[nodiscard("co_await it, or coir::await(it)")]] once_op : public wait_node {
   public:
    static constexpr const char* name = "once";
    once_op(once& of, place at) noexcept : of_(&of), at_(at) {}

    bool start(waiter& told);
    abort_answer abort() noexcept;
    turn take() noexcept { return std::move(got_); }
    void describe(std::string& text) const;

   private:
    friend class once;
    once* of_;
    const fiber_base* who_ = nullptr;
    place at_;
    turn got_;  // if nobody takes it, it is passed on
  };

  once() noexcept = default;
  once(const once&) = delete;
  once& operator=(const once&) = delete;
  ~once() {
    if (runner_ == nullptr) return;
    runner_->of_ = nullptr;
    runner_->gone_ = true;
  }

  template <class Body>
  auto call(Body&& body, place at = here::current()) {
    using result = std::invoke_result_t<std::remove_reference_t<Body>&>;
    static_assert(std::is_void_v<result> || std::is_same_v<result, task<>>,
                  "once::call takes a function that gives nothing, or a task of nothing");
    if constexpr (std::is_void_v<result>) {
      turn mine = coir::await(enter(at), at);
      if (mine.gone()) coir::await(event().wait());
      if (!mine) return;
      body();
      mine.done();
    } else {
      static_assert(priv::safe_in_await<Body>,
                    "gcc before 13 destroys the captures of a temporary in a co_await expression twice. "
                    "Name the function first: auto body = [...] {...}; co_await loaded.call(body);");
      return call_task<std::decay_t<Body>>(std::forward<Body>(body), at);
    }
  }
  once_op enter(place at = here::current()) noexcept { return once_op(*this, at); }
  bool is_done() const noexcept { return done_; }
  once_stats stats() const noexcept;

 private:
  template <class Body>
  task<> call_task(Body body, place at) {
    turn mine = co_await enter(at);
    if (mine.gone()) {
      event nothing;
      co_await nothing.wait();
    }
    if (!mine) co_return;
    co_await body();
    mine.done();
  }
  void give(once_op& next) noexcept;
  void pass_on() noexcept;
  void finish() noexcept;

  turn* runner_ = nullptr;
  std::uint64_t runner_id_ = 0;
  place since_;
  bool done_ = false;
  wait_list<once_op> waiting_;
  priv::loop_bound bound_;
  once_stats stats_;
};

}  // namespace coir
