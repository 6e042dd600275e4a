#include "support/model.hpp"

#include <sched.h>

#include <cstdio>
#include <cstdlib>
#include <deque>
#include <exception>
#include <semaphore>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

namespace model {

namespace {

// Unwinds a thread of a run that has failed.
struct abandoned {};

// One thread runs at a time: on one core they follow each other without waking another.
class one_core {
 public:
  one_core() {
    ::sched_getaffinity(0, sizeof before_, &before_);
    cpu_set_t only;
    CPU_ZERO(&only);
    CPU_SET(static_cast<std::size_t>(::sched_getcpu()), &only);
    ::sched_setaffinity(0, sizeof only, &only);
  }
  one_core(const one_core&) = delete;
  ~one_core() { ::sched_setaffinity(0, sizeof before_, &before_); }

 private:
  cpu_set_t before_;
};

// One run is longer than this only if it never ends.
constexpr std::size_t steps_max = 10'000;

constexpr unsigned spins_max = 3;

}  // namespace

class explorer {
 public:
  explorer(const std::function<void(run&)>& setup, const options& how) : setup_(setup), how_(how) {}
  ~explorer() {
    for (worker& each : workers_) {
      each.body = nullptr;
      each.go.release();
      each.thread.join();
    }
  }

  result explore() {
    result found;
    do {
      if (found.runs == how_.runs_max) {
        found.failure = "more than " + std::to_string(how_.runs_max) + " runs, and not all were tried";
        return found;
      }
      ++found.runs;
      one_run();
      if (!failure_.empty()) {
        found.failure = failure_ + "\n" + history();
        return found;
      }
    } while (next_path());
    return found;
  }

  void add(std::function<void()> body) {
    if (used_ == workers_.size()) {
      worker& made = workers_.emplace_back();
      made.number = used_;
      made.thread = std::thread([this, &made] { serve(made); });
    }
    worker& mine = workers_[used_++];
    mine.body = std::move(body);
    mine.over = false;
    mine.condition = nullptr;
  }
  void add_after(std::function<void()> check) { after_.push_back(std::move(check)); }

  static void reach(const char* what, const volatile void* where) {
    if (current == nullptr) return;
    explorer& all = *current->of;
    if (all.abandoned_) return;
    all.note_spin(what, where);
    all.note(what, where);
    all.go_on();
  }
  static void wait(const std::function<bool()>& condition) {
    if (current == nullptr) {
      check(condition(), "nobody is left to bring about what is waited for");
      return;
    }
    wait("wait", nullptr, condition, false);
    if (current->of->abandoned_) throw abandoned();
  }
  static bool wait(const char* what, const volatile void* where, const std::function<bool()>& condition, bool limited) {
    if (current == nullptr) return condition();
    explorer& all = *current->of;
    worker& mine = *current;
    all.note(what, where);
    if (all.abandoned_) return false;
    mine.condition = condition;
    mine.limited = limited;
    all.go_on();
    const bool holds = !all.abandoned_ && ready(mine);
    if (!holds) ++all.timeouts_;
    mine.condition = nullptr;
    return holds;
  }
  static void check(bool holds, const char* what) {
    if (holds) return;
    explorer& all = current != nullptr ? *current->of : *exploring;
    if (all.failure_.empty()) all.failure_ = what;
  }
  static thread_local explorer* exploring;

 private:
  struct worker {
    std::size_t number = 0;
    explorer* of = nullptr;
    std::function<void()> body;
    std::function<bool()> condition;  // it waits until that holds
    bool limited = false;             // or until its time is over
    bool over = true;
    std::binary_semaphore go{0};
    std::thread thread;
  };
  struct step {
    std::size_t thread;
    const char* what;
    const volatile void* where;
  };
  struct choice {
    std::size_t taken;
    std::size_t options;
  };
  static thread_local worker* current;

  void serve(worker& mine) {
    mine.of = this;
    for (;;) {
      mine.go.acquire();
      if (mine.body == nullptr) return;
      current = &mine;
      try {
        if (!abandoned_) mine.body();
      } catch (const abandoned&) {
      } catch (...) {
        if (failure_.empty()) failure_ = "a thread threw";
      }
      current = nullptr;
      mine.over = true;
      hand_over(mine);
    }
  }

  void one_run() {
    used_ = 0;
    depth_ = 0;
    preemptions_ = 0;
    timeouts_ = 0;
    spins_ = 0;
    abandoned_ = false;
    steps_.clear();
    after_.clear();
    exploring = this;
    {
      run now;
      now.of_ = this;
      setup_(now);
    }
    if (worker* const first = choose(nullptr); first != nullptr) {
      first->go.release();
      all_over_.acquire();
    }
    for (std::size_t i = 0; i < used_; ++i) workers_[i].body = [] {};
    for (const auto& check : after_) {
      if (failure_.empty()) check();
    }
    after_.clear();
    exploring = nullptr;
  }

  void note(const char* what, const volatile void* where) {
    if (steps_.size() >= steps_max) {
      std::fprintf(stderr, "model: %s\n%s", failure_.empty() ? "a run does not end" : failure_.c_str(),
                   history().c_str());
      std::abort();
    }
    steps_.push_back({current->number, what, where});
  }
  // Who reads one thing again and again waits for another to change it, and lets others go on.
  void note_spin(std::string_view what, const volatile void* where) {
    if (what == "after") return;
    const bool again = what == "load" && !steps_.empty() && steps_.back().thread == current->number &&
                       steps_.back().where == where;
    spins_ = again ? spins_ + 1 : 0;
  }

  // The running thread is at a point, or waits.
  void go_on() {
    worker& mine = *current;
    worker* const next = choose(&mine);
    if (next == &mine) return;
    if (next == nullptr) {
      abandon();
      return;
    }
    next->go.release();
    mine.go.acquire();
  }
  // The running thread has ended.
  void hand_over(worker& mine) {
    worker* const next = abandoned_ ? any_left() : choose(&mine);
    if (next != nullptr) {
      next->go.release();
    } else if (worker* const stuck = any_left(); stuck != nullptr) {
      abandon();
      stuck->go.release();
    } else {
      all_over_.release();
    }
  }
  void abandon() {
    if (failure_.empty()) failure_ = "no thread can go on: a wake-up was lost";
    abandoned_ = true;
  }
  worker* any_left() {
    for (std::size_t i = 0; i < used_; ++i) {
      if (!workers_[i].over) return &workers_[i];
    }
    return nullptr;
  }

  // A condition may look at atomics: those are no places to go on from.
  static bool ready(const worker& which) {
    if (which.over) return false;
    if (which.condition == nullptr) return true;
    worker* const asks = std::exchange(current, nullptr);
    const bool holds = which.condition();
    current = asks;
    return holds;
  }
  bool can_run(const worker& which) const {
    return ready(which) || (!which.over && which.limited && timeouts_ < how_.timeouts);
  }
  // Who goes on. Null: nobody can.
  worker* choose(worker* running) {
    std::vector<worker*> able;
    const bool stays = running != nullptr && spins_ < spins_max && ready(*running);
    if (stays) able.push_back(running);
    if (!stays || preemptions_ < how_.preemptions) {
      for (std::size_t i = 0; i < used_; ++i) {
        worker& each = workers_[i];
        // One that spins lets others go on; one that waits may be the next whose time is over.
        if (&each == running && ready(each)) continue;
        if (can_run(each)) able.push_back(&each);
      }
    }
    if (able.empty()) return running != nullptr && can_run(*running) ? running : nullptr;
    if (!stays) spins_ = 0;
    std::size_t which = 0;
    if (able.size() > 1) {
      if (depth_ == path_.size()) path_.push_back({0, able.size()});
      which = path_[depth_++].taken;
    }
    if (stays && which != 0) ++preemptions_;
    return able[which];
  }
  bool next_path() {
    while (!path_.empty()) {
      if (++path_.back().taken < path_.back().options) return true;
      path_.pop_back();
    }
    return false;
  }

  std::string history() const {
    std::string text;
    for (const step& each : steps_) {
      char line[120];
      std::snprintf(line, sizeof line, "  thread %zu: %s %p\n", each.thread, each.what,
                    const_cast<const void*>(each.where));
      text += line;
    }
    return text;
  }

  const std::function<void(run&)>& setup_;
  options how_;
  std::deque<worker> workers_;  // kept from run to run
  std::size_t used_ = 0;
  std::vector<std::function<void()>> after_;
  std::vector<choice> path_;
  std::size_t depth_ = 0;
  unsigned preemptions_ = 0;
  unsigned timeouts_ = 0;
  unsigned spins_ = 0;
  bool abandoned_ = false;
  std::vector<step> steps_;
  std::string failure_;
  std::binary_semaphore all_over_{0};
};

thread_local explorer* explorer::exploring = nullptr;
thread_local explorer::worker* explorer::current = nullptr;

void run::thread(std::function<void()> body) { of_->add(std::move(body)); }
void run::after(std::function<void()> check) { of_->add_after(std::move(check)); }

result explore(const std::function<void(run&)>& setup, const options& how) {
  const one_core here;
  return explorer(setup, how).explore();
}
void check(bool holds, const char* what) { explorer::check(holds, what); }
void wait(const std::function<bool()>& condition) { explorer::wait(condition); }
bool wait_at(const char* what, const volatile void* where, const std::function<bool()>& condition, bool limited) {
  return explorer::wait(what, where, condition, limited);
}
void point(const char* what, const volatile void* where) { explorer::reach(what, where); }

}  // namespace model
