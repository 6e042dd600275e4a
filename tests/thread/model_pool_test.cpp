// The pool's queue, in all orders in which threads may come to it (support/model.hpp).
#include "support/catch.hpp"
#include "support/model.hpp"

#include "thread/pool_queue.hpp"

#include <array>
#include <cstddef>
#include <memory>
#include <system_error>
#include <vector>

namespace {

using answer = coir::pool_queue::answer;

constexpr std::size_t threads_most = 4;

struct scene;

struct job final : coir::priv::pool_job {
  explicit job(scene& in) noexcept : pool_job(kind_of_this), of(in) {}
  ~job() { unlink(); }  // of a run that has failed
  bool over() const noexcept { return finished + dropped + withdrawn != 0; }
  // Each that was taken comes to one end, and only that of one that began is that it is finished.
  bool right() const noexcept {
    return finished + dropped + withdrawn == (given == answer::taken ? 1 : 0) && begun == finished;
  }
  static void run(pool_job& mine) noexcept;
  static void finish(pool_job& mine) noexcept;
  static void drop(pool_job& mine) noexcept { ++static_cast<job&>(mine).dropped; }
  static constexpr kind kind_of_this{run, finish, drop};

  scene& of;
  answer given = answer::ending;
  int begun = 0;
  int finished = 0;
  int dropped = 0;
  int withdrawn = 0;
};

// A queue whose threads are the model's, each of which may be called to work once.
struct scene final : coir::pool_queue::crew {
  explicit scene(unsigned threads, unsigned kept = 0, std::size_t room = 100, int looks = 0)
      : queue(*this, {room, threads, kept, coir::duration(1), coir::duration(looks)}) {}
  ~scene() {
    for (auto& each : places) each.unlink();
  }

  // As pool_core: in the place of one that has left, when its thread is over.
  bool one_more(coir::list<coir::pool_queue::worker>& left, bool, std::error_code& error) noexcept override {
    if (called == threads_of) {
      error = std::make_error_code(std::errc::resource_unavailable_try_again);
      return false;
    }
    std::size_t place = 0;
    if (left.empty()) {
      place = places_used++;
    } else {
      while (&places[place] != &left.front()) ++place;
      left.pop_front();
      model::wait_at("join", &places[place], [this, place] { return !at_work[place]; }, false);
    }
    at_work[place] = true;
    places_of[called++] = place;
    return true;
  }
  // Goes on by being read: the same in each run with the same orders.
  coir::instant now() const noexcept override { return coir::instant(coir::duration(++readings)); }
  void work(std::size_t number) {
    // Those that were not needed end one by one, as there is nothing to try in that.
    model::wait([this, number] { return called > number || (closed && over == number); });
    if (called <= number) {
      ++over;
      return;
    }
    const std::size_t place = places_of[number];
    coir::pool_queue::worker& self = places[place];
    for (auto* now = queue.next(self, nullptr); now != nullptr; now = queue.next(self, now)) coir::pool_queue::run(*now);
    at_work[place] = false;
    ++over;
  }
  answer submit(job& what, bool only_if_room = false) {
    std::error_code error;
    return what.given = queue.submit(what, only_if_room, error);
  }
  void withdraw(job& what) {
    if (queue.withdraw(what)) ++what.withdrawn;
  }
  void wait_for(const job& what) {
    model::wait([&what] { return what.over(); });
  }
  void end() {
    queue.end();
    model::wait([this] { return over == called; });
    closed = true;
  }

  std::array<coir::pool_queue::worker, threads_most> places;  // in front of the queue, in which they lie
  coir::pool_queue queue;
  std::array<bool, threads_most> at_work{};
  std::array<std::size_t, threads_most> places_of{};  // of each thread
  std::size_t places_used = 0;
  std::size_t threads_of = 0;  // the model has so many
  std::size_t called = 0;
  std::size_t over = 0;
  mutable int readings = 0;
  bool closed = false;
  std::vector<const job*> order;
};

void job::run(pool_job& mine) noexcept {
  auto& self = static_cast<job&>(mine);
  model::check(!self.of.closed, "a job ran after the end");
  ++self.begun;
  self.of.order.push_back(&self);
  model::point("runs", &mine);
}
void job::finish(pool_job& mine) noexcept {
  auto& self = static_cast<job&>(mine);
  model::check(!self.of.closed, "a job was over after the end");
  ++self.finished;
}

struct four_jobs {
  template <class... Limits>
  explicit four_jobs(Limits... limits) : pool(limits...) {}
  scene pool;
  job a{pool};
  job b{pool};
  job c{pool};
  job d{pool};
};

template <class... Limits>
std::shared_ptr<four_jobs> play(model::run& now, std::size_t threads, Limits... limits) {
  auto shared = std::make_shared<four_jobs>(limits...);
  for (std::size_t i = 0; i < threads; ++i) now.thread([shared, i] { shared->pool.work(i); });
  shared->pool.threads_of = threads;
  now.after([shared] {
    for (const job* each : {&shared->a, &shared->b, &shared->c, &shared->d}) {
      model::check(each->right(), "a job came to no end, to two, or to the wrong one");
    }
    const coir::pool_stats stats = shared->pool.queue.stats();
    model::check(stats.begun == stats.done && stats.queued + stats.waiting == 0, "the queue is empty");
    model::check(stats.threads == 0 && stats.idle == 0, "all threads have left");
  });
  return shared;
}

bool in_order(const scene& in, const job& first, const job& second) {
  for (const job* each : in.order) {
    if (each == &first || each == &second) return each == &first;
  }
  return false;
}

}  // namespace

TEST_CASE("two threads give a pool their jobs: each runs once, in the order of who gave it") {
  const auto tried = model::explore([](model::run& now) {
    const auto shared = play(now, 1, 1U);
    now.thread([shared] {
      shared->pool.submit(shared->a);
      shared->pool.submit(shared->b);
      for (const job* each : {&shared->a, &shared->b, &shared->c}) shared->pool.wait_for(*each);
      shared->pool.end();
      model::check(in_order(shared->pool, shared->a, shared->b), "one thread's jobs are in order");
    });
    now.thread([shared] { shared->pool.submit(shared->c); });
  });
  CHECK(tried.failure == "");
  CHECK(tried.runs > 100);
}

TEST_CASE("a job that is given while a pool's thread lies down is not slept over") {
  const auto tried = model::explore(
      [](model::run& now) {
        const auto shared = play(now, 1, 1U);
        now.thread([shared] {
          shared->pool.submit(shared->a);
          shared->pool.wait_for(shared->a);
          shared->pool.submit(shared->b);
          shared->pool.wait_for(shared->b);
          shared->pool.submit(shared->c);
          shared->pool.submit(shared->d);
          shared->pool.wait_for(shared->c);
          shared->pool.wait_for(shared->d);
          shared->pool.end();
        });
      },
      {.preemptions = 3});
  CHECK(tried.failure == "");
  CHECK(tried.runs > 100);
}

TEST_CASE("a job that is given while a pool's thread begins to look for one, looks, or gives up is not lost") {
  for (const unsigned timeouts : {0U, 1U}) {
    const auto tried = model::explore(
        [](model::run& now) {
          const auto shared = play(now, 2, 1U, 0U, 100U, 2);
          now.thread([shared] {
            shared->pool.submit(shared->a);
            shared->pool.wait_for(shared->a);
            shared->pool.submit(shared->b);
            shared->pool.wait_for(shared->b);
            shared->pool.end();
          });
        },
        {.timeouts = timeouts});
    CHECK(tried.failure == "");
    CHECK(tried.runs > 100);
  }
}

TEST_CASE("of two threads of a pool one looks for jobs and one sleeps, and both are called") {
  const auto tried = model::explore(
      [](model::run& now) {
        const auto shared = play(now, 2, 2U, 0U, 100U, 2);
        now.thread([shared] {
          shared->pool.submit(shared->a);
          shared->pool.submit(shared->b);
          shared->pool.wait_for(shared->a);
          shared->pool.wait_for(shared->b);
          shared->pool.submit(shared->c);
          shared->pool.submit(shared->d);
          shared->pool.wait_for(shared->c);
          shared->pool.wait_for(shared->d);
          shared->pool.end();
        });
      },
      {.preemptions = 1});
  CHECK(tried.failure == "");
  CHECK(tried.runs > 100);
}

TEST_CASE("a job that is taken back from a pool never runs, and one that was not runs") {
  const auto tried = model::explore([](model::run& now) {
    const auto shared = play(now, 1, 1U);
    now.thread([shared] {
      shared->pool.submit(shared->a);
      shared->pool.withdraw(shared->a);
      shared->pool.submit(shared->b);
      for (const job* each : {&shared->a, &shared->b, &shared->c}) shared->pool.wait_for(*each);
      shared->pool.end();
      model::check(shared->b.finished == 1, "what nobody took back has run");
    });
    now.thread([shared] {
      shared->pool.submit(shared->c);
      shared->pool.withdraw(shared->c);
    });
  });
  CHECK(tried.failure == "");
  CHECK(tried.runs > 100);
}

TEST_CASE("when a pool ends, each job has run, is dropped, is taken back, or is refused") {
  const auto tried = model::explore([](model::run& now) {
    const auto shared = play(now, 1, 1U);
    now.thread([shared] {
      shared->pool.submit(shared->a);
      shared->pool.submit(shared->b);
      shared->pool.withdraw(shared->b);
      shared->pool.submit(shared->c);
    });
    now.thread([shared] { shared->pool.end(); });
  });
  CHECK(tried.failure == "");
  CHECK(tried.runs > 100);
}

TEST_CASE("a pool's thread that leaves because it has nothing to do leaves no job behind") {
  for (const unsigned kept : {0U, 1U}) {
    const auto tried = model::explore(
        [kept](model::run& now) {
          const auto shared = play(now, 2, 1U, kept);
          now.thread([shared] {
            shared->pool.submit(shared->a);
            shared->pool.wait_for(shared->a);
            shared->pool.submit(shared->b);
            shared->pool.wait_for(shared->b);
            shared->pool.end();
          });
        },
        {.preemptions = 2, .timeouts = 1});
    CHECK(tried.failure == "");
    CHECK(tried.runs > 100);
  }
}

TEST_CASE("two threads of a pool share the jobs of two others") {
  const auto tried = model::explore(
      [](model::run& now) {
        const auto shared = play(now, 2, 2U);
        now.thread([shared] {
          shared->pool.submit(shared->a);
          shared->pool.wait_for(shared->a);
          shared->pool.wait_for(shared->c);
          shared->pool.end();
        });
        now.thread([shared] { shared->pool.submit(shared->c); });
      },
      {.preemptions = 1});
  CHECK(tried.failure == "");
  CHECK(tried.runs > 100);
}

TEST_CASE("no more jobs lie in a pool than it has room for, whoever gives them at once") {
  const auto tried = model::explore([](model::run& now) {
    const auto shared = play(now, 1, 1U, 0U, 1U);
    const auto posted = std::make_shared<int>(0);
    const auto give = [shared, posted](job& what) {
      shared->pool.submit(what, true);
      model::check(shared->pool.queue.stats().waiting == 0, "nothing waits outside");
      ++*posted;
    };
    now.thread([shared, give, posted] {
      give(shared->a);
      give(shared->b);
      model::wait([posted] { return *posted == 3; });
      shared->pool.end();
    });
    now.thread([shared, give] { give(shared->c); });
  });
  CHECK(tried.failure == "");
  CHECK(tried.runs > 100);
}
