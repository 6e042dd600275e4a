#include <coir/fiber/run.hpp>

#include "overflow.hpp"

#include <coir/fiber/stack.hpp>
#include <coir/fiber/task.hpp>

#include <fmt/format.h>

#include <cstdio>
#include <cstdlib>

namespace coir {

namespace {

std::string text_of(place at) { return fmt::format("{}:{}", at.file_name(), at.line()); }

void describe_call(place at, std::string& text) {
  text += fmt::format("    awaited at {}\n", text_of(at));
}
void describe_chain(const promise_base* first, std::string& text) {
  for (const promise_base* each = first; each != nullptr; each = each->caller()) {
    describe_call(each->waits_at(), text);
  }
}

void describe(const fiber_base& which, instant now, std::string& text) {
  text += fmt::format("  fiber {}{}{}: {}", which.id(), which.name().empty() ? "" : " ",
                      which.name(), name_of(which.state()));
  if (which.state() == fiber_state::waiting) {
    text += fmt::format(" in {}", which.waits_for());
    which.describe_wait(text);
    text += fmt::format(" at {} since {:.3f} s", text_of(which.waits_at()),
                        std::chrono::duration<double>(now - which.since()).count());
  }
  if (which.state() == fiber_state::ending) {
    text += " (its children are not over)";
  }
  if (which.parked()) text += ", parked";
  text += fmt::format(", spawned at {}\n", text_of(which.spawned_at()));
  // From the inside out: what awaits the innermost, the await on a stack, who borrowed that stack.
  const stack* const on = which.current_stack();
  const promise_base* const borrower = on == nullptr ? nullptr : on->borrower();
  const promise_base* const innermost = which.innermost();
  if (which.waits_on_stack()) {
    if (innermost != borrower) describe_chain(innermost, text);
  } else if (innermost != nullptr) {
    describe_chain(innermost->caller(), text);
    if (on != nullptr) describe_call(on->waits_at(), text);
  }
  describe_chain(borrower, text);
}

}  // namespace

std::string describe(const fiber_home& fibers) {
  std::string text;
  const instant now = fibers.on().time();
  fibers.for_each([&](const fiber_base& which) { describe(which, now, text); });
  return text;
}

// Stops the loop when the fiber it joins has ended.
class runner::watch : public waiter {
 public:
  explicit watch(loop& of) noexcept : waiter(kind), loop_(of) {}
  bool done() const noexcept { return done_; }

 private:
  static void finished(waiter& self) noexcept {
    auto& mine = static_cast<watch&>(self);
    mine.done_ = true;
    mine.loop_.stop();
  }
  static constexpr waiter_kind kind{finished};

  loop& loop_;
  bool done_ = false;
};

runner::outer_fiber::outer_fiber() : which_(current_fiber) {
  if (which_ != nullptr && which_->is_of_this_process()) {
    throw_misuse("coir::run was called from a fiber: await the task there, or spawn it");
  }
}

runner::outer_fiber::~outer_fiber() { current_fiber = which_; }

runner::runner(const run_options& options)
    : loop_(options.loop_), fibers_(loop_), reports_overflow_(options.report_overflow_) {
  // Not before: whose stack this is, the scheduler has asked.
  current_fiber = nullptr;
  if (options.on_failure_) fibers_.on_failure(options.on_failure_);
  fibers_.home().arrange(options.order_);
  give_blocking(loop_);
  if (reports_overflow_) priv::report_stack_overflow();
}

runner::~runner() {
  if (reports_overflow_) priv::stop_reporting_stack_overflow();
}

void runner::run_until_dead(const handle_base& whom) {
  whom.block().control_ |= fiber_base::is_main;
  watch end(loop_);
  end_op joined(whom);
  if (!joined.start(end)) return;
  // What a post or a timer throws, say. The fiber ends with the scheduler, when nobody listens any more.
  struct not_any_more {
    end_op& joined;
    ~not_any_more() { joined.abort(); }
  };
  const not_any_more listening{joined};
  std::string report;
  while (!end.done()) {
    loop_.run();
    if (end.done()) break;
    if (loop_.was_stopped() || loop_.can_wake() || fibers_.home().has_ready()) {
      whom.cancel();
      continue;
    }
    if (!report.empty()) {
      // It was cancelled and waits again for what cannot come. There is nothing left to try, and to leave
      // would destroy what it uses.
      priv::tell("coir: after a deadlock these fibers do not end:\n" + describe(fibers_.home()));
      std::abort();
    }
    report = fmt::format("deadlock: {} fibers wait and nothing can wake them\n{}",
                         fibers_.home().alive(), describe(fibers_.home()));
    fibers_.home().end_parking();
    // All of them: main may wait, behind a shield, for one that is not its child.
    whom.cancel();
    fibers_.home().root().cancel();
  }
  if (!report.empty()) throw deadlock(report);
}

}  // namespace coir
