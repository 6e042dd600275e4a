// Tries all interleavings of a few short threads, up to a number of preemptions.
//
//   const model::result tried = model::explore([](model::run& now) {
//     auto state = std::make_shared<state_of_the_test>();
//     now.thread([state] { state->inbox.push(state->node); });
//     now.thread([state] { model::wait([&] { return state->there(); });   model::check(state->right(), "..."); });
//     now.after([state] { model::check(state->empty(), "everything was taken"); });
//   });
//   CHECK(tried.failure == "");
//
// The threads are real, but only one runs at a time: before and after each access to an atomic, and in wait(), it is
// decided who goes on; the same before a lock is taken, after it is let go, and where a condition is waited for
// (support/model_lock.hpp). All decisions are gone through, depth first. Going on with another thread although this one could
// is a preemption, of which there are at most so many: nearly all that can go wrong between threads goes wrong with two.
// Accesses are in one order that all threads agree on; what a weaker memory would do besides is for the thread sanitizer.
//
// A program that uses this is compiled with COIR_ATOMIC_HEADER and COIR_LOCK_HEADER, and has the sources of what it tries as its own.
#pragma once

#include <cstddef>
#include <functional>
#include <string>

namespace model {

class run {
 public:
  // A thread of the run, which begins when the setup has returned.
  void thread(std::function<void()> body);
  // When all threads have ended: what must hold then.
  void after(std::function<void()> check);

 private:
  friend class explorer;
  class explorer* of_ = nullptr;
};

struct options {
  unsigned preemptions = 2;
  unsigned timeouts = 0;  // so many times a wait with a limit may find it over, at any moment
  std::size_t runs_max = 2'000'000;  // more than that is a failure: the test is too large to be complete
};

struct result {
  std::size_t runs = 0;
  std::string failure;  // empty: none. Else what, and who did what in which order
};

result explore(const std::function<void(run&)>& setup, const options& how = {});

// In a thread of a run, or after it.
void check(bool holds, const char* what);
// This thread goes on only when that is so. When no thread can go on, the run has failed.
void wait(const std::function<bool()>& condition);

// A place where another thread may go on. `what` and `where` are for the report.
void point(const char* what, const volatile void* where);
// The same, where this thread goes on only when that is so; `limited`: or when its time is over. False: its time is over,
// or the run has failed; as it throws nothing, it may stand where nothing may be thrown.
bool wait_at(const char* what, const volatile void* where, const std::function<bool()>& condition, bool limited);

}  // namespace model
