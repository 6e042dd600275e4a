// Teaches: a worker that crashes and is started again. What it must not lose is kept outside of it; what it was doing
// when it crashed is left alone by the next one.
//
// OUTPUT
//   worker 1 begins
//   3 + 4 = 7
//   a worker failed: what is 'four'?
//   worker 2 begins
//   5 + 6 = 11
//   a worker failed: what is 'seven'?
//   worker 3 begins
//   7 + 8 = 15
//   the work is done after 2 restarts

#include <coir/coir.hpp>

#include <chrono>
#include <cstddef>
#include <cstdio>
#include <deque>
#include <exception>
#include <stdexcept>
#include <string>

using namespace std::chrono_literals;

namespace {

int number_from(const std::string& text) {
  std::size_t end = 0;
  try {
    const int number = std::stoi(text, &end);
    if (end == text.size()) return number;
  } catch (const std::invalid_argument&) {
  }
  throw std::runtime_error("what is '" + text + "'?");
}

struct sum {
  std::string left;
  std::string right;
};

}  // namespace

// README: supervised
coir::task<> work(std::deque<sum>& jobs, int number) {
  std::printf("worker %d begins\n", number);
  while (!jobs.empty()) {
    const sum job = jobs.front();
    jobs.pop_front();
    co_await coir::sleep_for(1ms);
    std::printf("%s + %s = %d\n", job.left.c_str(), job.right.c_str(), number_from(job.left) + number_from(job.right));
  }
}

coir::task<> work_off(std::deque<sum> jobs) {
  int workers = 0;
  co_await coir::supervise(
      coir::supervisor_options{}.intensity(5, 10s).backoff(1ms, 1s), [&](coir::supervisor& s) {
        s.add("worker", [&] { return work(jobs, ++workers); }, coir::transient);
        s.on_event([](const coir::child_event& event) {
          if (!event.failed()) return;
          try {
            std::rethrow_exception(event.failure);
          } catch (const std::exception& error) {
            std::printf("a worker failed: %s\n", error.what());
          }
        });
      });
  std::printf("the work is done after %d restarts\n", workers - 1);
}
// README end

int main() {
  coir::run(work_off({{"3", "4"}, {"4", "four"}, {"5", "6"}, {"seven", "8"}, {"7", "8"}}));
}
