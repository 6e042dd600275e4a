// coir's loop, alone: watchers and timers without fibers. Once on each backend.

#include "loop_cases.hpp"

#include <coir/loop/loop.hpp>

namespace {

template <coir::backend_kind Kind>
class coir_loop final : public loops::loop_subject {
 public:
  void watch(loops::ping& one) override {
    watchers_.push_back(loop_.watch(one.ends[0], coir::watch_options{.read = [this, &one] {
                                      one.answer();
                                      count();
                                    }}));
  }
  void watch_idle(int fd) override {
    watchers_.push_back(loop_.watch(fd, coir::watch_options{.read = [] { loops::fail("idle"); }}));
  }
  void run() override { loop_.run(); }
  void stop() override { loop_.stop(); }
  void set_timers(const std::vector<std::uint64_t>& waits) override {
    timers_.reserve(waits.size());
    for (const std::uint64_t wait : waits) {
      timers_.push_back(loop_.after(std::chrono::nanoseconds(wait), [this] { count(); }));
    }
    for (std::size_t i = 0; i < timers_.size(); i += 2) timers_[i].reset();
  }

 private:
  coir::loop loop_{coir::loop_options().backend(Kind)};
  std::vector<coir::owned<coir::watcher>> watchers_;
  std::vector<coir::owned<coir::timer>> timers_;
};

template <coir::backend_kind Kind>
std::unique_ptr<loops::loop_subject> make() {
  return std::make_unique<coir_loop<Kind>>();
}

}  // namespace

int main(int argc, char** argv) {
  using coir::backend_kind;
  if (coir::backend_report().kind == backend_kind::uring) {
    const int code = loops::run_cases(argc, argv, "coir-uring", make<backend_kind::uring>);
    if (code != 0) return code;
  }
  return loops::run_cases(argc, argv, "coir-epoll", make<backend_kind::epoll>);
}
