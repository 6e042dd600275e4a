// Peer: libevent's loop, with persistent events.

#include "../loop_cases.hpp"

#include <event2/event.h>

namespace {

class event_subject final : public loops::loop_subject {
 public:
  ~event_subject() override {
    for (event* const each : events_) event_free(each);
    event_base_free(base_);
  }

  void watch(loops::ping& one) override {
    contexts_.push_back(std::make_unique<context>(context{this, &one}));
    add(one.ends[0], [](evutil_socket_t, short, void* argument) {
      const auto* const mine = static_cast<context*>(argument);
      mine->one->answer();
      mine->subject->count();
    }, contexts_.back().get());
  }
  void watch_idle(int fd) override {
    add(fd, [](evutil_socket_t, short, void*) { loops::fail("idle"); }, nullptr);
  }
  void run() override { event_base_dispatch(base_); }
  void stop() override { event_base_loopbreak(base_); }
  void set_timers(const std::vector<std::uint64_t>& waits) override {
    const std::size_t first = events_.size();
    for (const std::uint64_t wait : waits) {
      event* const made = evtimer_new(base_, [](evutil_socket_t, short, void* argument) {
        static_cast<event_subject*>(argument)->count();
      }, this);
      const timeval limit{0, static_cast<suseconds_t>(wait / 1000)};
      if (made == nullptr || evtimer_add(made, &limit) != 0) loops::fail("evtimer_add");
      events_.push_back(made);
    }
    for (std::size_t i = first; i < events_.size(); i += 2) evtimer_del(events_[i]);
  }

 private:
  struct context {
    event_subject* subject;
    loops::ping* one;
  };
  void add(int fd, event_callback_fn then, void* argument) {
    event* const made = event_new(base_, fd, EV_READ | EV_PERSIST, then, argument);
    if (made == nullptr || event_add(made, nullptr) != 0) loops::fail("event_add");
    events_.push_back(made);
  }
  event_base* base_ = event_base_new();
  std::vector<std::unique_ptr<context>> contexts_;
  std::vector<event*> events_;
};

}  // namespace

int main(int argc, char** argv) {
  return loops::run_cases(argc, argv, "libevent", []() -> std::unique_ptr<loops::loop_subject> {
    return std::make_unique<event_subject>();
  });
}
