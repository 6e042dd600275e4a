// Floor: a callback per readable descriptor with nothing but epoll. It has no timers.

#include "../loop_cases.hpp"

#include <sys/epoll.h>

namespace {

class plain_epoll final : public loops::loop_subject {
 public:
  plain_epoll() {
    if (set_ < 0) loops::fail("epoll_create1");
  }
  ~plain_epoll() override { ::close(set_); }

  void watch(loops::ping& one) override { add(one.ends[0], &one); }
  void watch_idle(int fd) override { add(fd, nullptr); }
  void run() override {
    running_ = true;
    while (running_) {
      epoll_event events[256];
      const int found = ::epoll_wait(set_, events, 256, -1);
      if (found < 0) loops::fail("epoll_wait");
      for (int i = 0; i < found && running_; ++i) {
        static_cast<loops::ping*>(events[i].data.ptr)->answer();
        count();
      }
    }
  }
  void stop() override { running_ = false; }
  void set_timers(const std::vector<std::uint64_t>&) override {}

 private:
  void add(int fd, void* data) {
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.ptr = data;
    if (::epoll_ctl(set_, EPOLL_CTL_ADD, fd, &event) != 0) loops::fail("epoll_ctl");
  }
  int set_ = ::epoll_create1(EPOLL_CLOEXEC);
  bool running_ = false;
};

}  // namespace

int main(int argc, char** argv) {
  return loops::run_cases(argc, argv, "floor-epoll", []() -> std::unique_ptr<loops::loop_subject> {
    return std::make_unique<plain_epoll>();
  }, false);
}
