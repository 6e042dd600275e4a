// coir/scope/cancel_scope.hpp: a region of code that can be stopped: control over it, from anywhere on its loop.
//
//   coir::cancel_scope scope;
//   scope.deadline(loop.time() + 5s);          // may be moved at any time
//   auto got = co_await scope.run(work());     // maybe<T>: empty when the scope cut it short
//   auto here = scope.run([&] { return coir::await(work()); });    // the same on a stack
//   ... scope.cancel();   scope.cancel(2s);   std::jthread worker(job, scope.stop_token());
//                                                            [tests/scope/cancel_scope_test.cpp]
//
// When is it valid to cancel? Always: before it is entered (its body then gets `cancelled` at its first suspend
// point), while a fiber is in it, after it was left (nothing happens), twice, and from inside. cancel() never runs
// user code of the fibers that it stops: they are made ready. A cancelled fiber gets the exception `cancelled`
// at its suspend point, also if the op there could finish at once, and again at the next one if it swallows it.
// An op has no effect and throws, or it completes: what could not be stopped any more is delivered, and the
// cancellation surfaces at the next suspend point.
//
// Shape    an object of 232 bytes, control only: nothing is inside before run(), and run() works once.
// Order    fibers get it from the innermost region outwards, children in the order in which they were spawned.
// Thread   one loop. Other threads have the token of link(); stop_token() gives others one to look at.
// Cancel   a scope inside is cancelled too, unless it is shielded. A scope catches its own cancellation and no other.
// Errors   run(): what the body throws, then the first failure of what it spawned. Entering it a second time is
//          std::logic_error. link() and a moved deadline: std::bad_alloc.
// Cost     10 ns for entering and leaving; cancel() touches each fiber below once; a deadline as in timeout.hpp.
// See      coir/scope/timeout.hpp, nursery.hpp, shutdown.hpp; coir/fiber/op.hpp has the rules of ops
#pragma once

#include <coir/base/place.hpp>
#include <coir/base/time.hpp>
#include <coir/scope/inside.hpp>

#include <chrono>
#include <memory>
#include <stop_token>
#include <type_traits>
#include <utility>
#include <vector>

namespace coir {

class cancel_scope;

namespace priv {

// A scope that its user made, while its body runs.
class scope_of_call {
 public:
  using argument = cancel_scope&;
  template <class Body>
  using result = body_result_t<Body>;
  template <class Body>
  using called = std::invoke_result_t<Body&>;

  explicit scope_of_call(cancel_scope& which);
  scope_of_call(const scope_of_call&) = delete;
  ~scope_of_call();
  entered_region& region() noexcept;
  template <class Body>
  decltype(auto) call(Body& body) {
    return body();
  }

 private:
  cancel_scope& scope_;
};

}  // namespace priv

class cancel_scope : private entered_region {
 public:
  cancel_scope() noexcept;
  cancel_scope(const cancel_scope&) = delete;
  cancel_scope& operator=(const cancel_scope&) = delete;
  ~cancel_scope();

  // An instant of the loop's clock; `never`: none. It may be moved while the body runs, by whoever has the scope:
  // that moves one timer. Once it has passed, it has.
  void deadline(instant at) { entered_region::deadline(at); }
  // So long from when the fiber parks in it next; or from now, when it is parked or a deadline counts already.
  template <class Rep, class Period>
  void limit(std::chrono::duration<Rep, Period> from_parking) {
    entered_region::limit(saturated(from_parking));
  }
  // `never` also while a limit has not begun to count.
  instant deadline() const noexcept { return entered_region::deadline(); }

  void cancel() noexcept { entered_region::cancel(); }
  // First asks: coir::shutting_down() is true inside, and wait_shutting_down() returns. Cancels when this time
  // is over.
  template <class Rep, class Period>
  void cancel(std::chrono::duration<Rep, Period> grace) {
    cancel_after(saturated(grace));
  }

  // What is around it cannot cancel it: give it a limit. Lifted, the scope is what is around it is.
  void shield(bool on = true) noexcept { set_shield(on); }
  using entered_region::shielded;

  // It was cancelled, by whatever: cancel(), its deadline, a failure inside, or something around it.
  using entered_region::cancelled;
  // ... by its deadline, or the end of its grace.
  using entered_region::expired;
  using entered_region::shutting_down;
  // run() returned because the scope cut its body short.
  bool caught() const noexcept { return caught_; }

  // A token that is stopped when the scope is cancelled. Callbacks on it run in the loop's thread, and cannot wait.
  std::stop_token stop_token();
  // Cancels the scope when this token is stopped, by whatever thread: that one only posts to the loop. As long as
  // that may happen, fibers that wait are no deadlock. That nobody is left who could is seen when the loop goes to
  // sleep next; one that sleeps already is not told.
  void link(std::stop_token token);

  template <class Body>
  auto run(Body&& body, place at = here::current()) {
    return priv::run_in<priv::scope_of_call>(*this, inside::rest::is_cancelled, ending(*this),
                                             std::forward<Body>(body), at);
  }

 private:
  friend class priv::scope_of_call;
  class ending {
   public:
    template <class T>
    using result = maybe<T>;
    explicit ending(cancel_scope& of) noexcept : of_(&of) {}
    template <class T>
    maybe<T> end(maybe<T>&& got) {
      of_->caught_ = !got;
      return std::move(got);
    }

   private:
    cancel_scope* of_;
  };
  class stop_link;

  static void tell_token(entered_region& mine) noexcept;
  void make_link(const std::stop_token& token);
  void cut_links() noexcept;

  std::stop_source source_{std::nostopstate};
  std::vector<std::stop_token> wanted_;  // to be linked when the loop is known
  std::vector<std::unique_ptr<stop_link>> links_;
  std::shared_ptr<cancel_scope*> self_;  // for what other threads post: null once the body is over
  bool caught_ = false;
};

}  // namespace coir
