// Peer: libuv's loop, with uv_poll_t and uv_timer_t. Its timers count milliseconds.

#include "../loop_cases.hpp"

#include <uv.h>

namespace {

class uv_subject final : public loops::loop_subject {
 public:
  uv_subject() {
    if (uv_loop_init(&loop_) != 0) loops::fail("uv_loop_init");
  }
  ~uv_subject() override {
    uv_walk(&loop_, [](uv_handle_t* handle, void*) { if (uv_is_closing(handle) == 0) uv_close(handle, nullptr); },
            nullptr);
    uv_run(&loop_, UV_RUN_DEFAULT);
    uv_loop_close(&loop_);
  }

  void watch(loops::ping& one) override {
    add(one.ends[0], &one, [](uv_poll_t* handle, int, int) {
      auto* const mine = static_cast<ping_handle*>(handle->data);
      mine->one->answer();
      mine->subject->count();
    });
  }
  void watch_idle(int fd) override {
    add(fd, nullptr, [](uv_poll_t*, int, int) { loops::fail("idle"); });
  }
  void run() override { uv_run(&loop_, UV_RUN_DEFAULT); }
  void stop() override { uv_stop(&loop_); }
  void set_timers(const std::vector<std::uint64_t>& waits) override {
    timers_ = std::vector<uv_timer_t>(waits.size());
    for (std::size_t i = 0; i < waits.size(); ++i) {
      uv_timer_init(&loop_, &timers_[i]);
      timers_[i].data = this;
      uv_timer_start(&timers_[i], [](uv_timer_t* timer) { static_cast<uv_subject*>(timer->data)->count(); },
                     (waits[i] + 999'999) / 1'000'000, 0);
    }
    for (std::size_t i = 0; i < timers_.size(); i += 2) uv_timer_stop(&timers_[i]);
  }

 private:
  struct ping_handle {
    uv_poll_t handle;
    loops::ping* one;
    uv_subject* subject;
  };
  void add(int fd, loops::ping* one, uv_poll_cb then) {
    handles_.push_back(std::make_unique<ping_handle>());
    ping_handle& made = *handles_.back();
    made.one = one;
    made.subject = this;
    made.handle.data = &made;
    if (uv_poll_init(&loop_, &made.handle, fd) != 0 || uv_poll_start(&made.handle, UV_READABLE, then) != 0) {
      loops::fail("uv_poll");
    }
  }
  uv_loop_t loop_;
  std::vector<std::unique_ptr<ping_handle>> handles_;
  std::vector<uv_timer_t> timers_;
};

}  // namespace

int main(int argc, char** argv) {
  return loops::run_cases(argc, argv, "libuv", []() -> std::unique_ptr<loops::loop_subject> {
    return std::make_unique<uv_subject>();
  });
}
