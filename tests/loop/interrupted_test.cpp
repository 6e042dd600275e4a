// A kernel that does not answer as one would like: signals in every wait, and calls it refuses for
// now.
#include "loop/timers.hpp"
#include "support/child_process.hpp"
#include "support/loop_tools.hpp"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <pthread.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include <atomic>
#include <csignal>
#include <cstddef>
#include <cstdio>
#include <deque>
#include <functional>
#include <memory>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

using namespace std::chrono_literals;
using coir::request;
using tests::ringer;

namespace {

std::atomic<unsigned> handled = 0;
void count_signal(int) {
  ++handled;
}

// Another thread signals this one as often as it can; no system call is restarted.
class storm {
 public:
  storm() {
    handled = 0;
    struct sigaction wanted {};
    wanted.sa_handler = count_signal;
    REQUIRE(::sigaction(SIGUSR1, &wanted, &before_) == 0);
    sender_ = std::thread([this, whom = ::pthread_self()] {
      while (!over_) {
        const unsigned seen = handled;
        ::pthread_kill(whom, SIGUSR1);
        while (handled == seen && !over_) std::this_thread::yield();
      }
    });
  }
  storm(const storm&) = delete;
  ~storm() {
    over_ = true;
    sender_.join();
    // One may still be pending: it comes before the next call returns.
    ::sched_yield();
    ::sigaction(SIGUSR1, &before_, nullptr);
  }
  bool has_raged() const { return handled >= 2000; }

 private:
  struct sigaction before_ {};
  std::atomic<bool> over_ = false;
  std::thread sender_;
};

// One round of everything: a stream, a connection, a file, a post, a timer. It also runs in
// children, whose failures are seen when they throw: REQUIRE, not CHECK.
void work(coir::loop& loop, int round) {
  const support::fd_pair ends = support::socket_pair();
  const coir::unique_fd listener = support::tcp_listener();
  const coir::unique_fd socket = support::tcp_socket();
  const sockaddr_in where = support::own_address(listener.get());
  std::array<std::byte, 64> buffer;
  const std::string text = "round " + std::to_string(round);
  support::asked get(request::recv(ends[0].get(), buffer));
  support::asked accept(request::accept(listener.get()));
  support::asked connect(support::connect_to(socket.get(), where));
  support::asked open(request::open("/dev/null", O_RDONLY, 0));
  std::vector<int> fired;
  const coir::instant deadline = loop.time() + 100us;
  bool early = false;
  ringer soon(fired, 1, [&] { early = loop.time() < deadline; });
  bool posted = false;
  std::deque<support::asked*> started{&get, &accept, &connect, &open};
  for (support::asked* each : started) loop.start(each->request);
  loop.arm(soon, deadline);
  loop.post([&] { posted = true; });
  loop.run_once();
  REQUIRE(support::finish(loop, request::send(ends[1].get(), support::bytes_of(text))) ==
          static_cast<int>(text.size()));
  support::run_until(loop, [&] { return posted && fired.size() == 1 && loop.in_flight() == 0; });
  REQUIRE_FALSE(early);
  REQUIRE(get.request.result == static_cast<int>(text.size()));
  REQUIRE(support::text_of(std::span(buffer).first(text.size())) == text);
  REQUIRE(connect.request.result == 0);
  REQUIRE(coir::unique_fd(accept.request.result));
  REQUIRE(coir::unique_fd(open.request.result));
}

// Answers the calls of one number that this thread makes, for the rest of the process's life: with
// an errno, or by letting the kernel do them (0). Linux 5.5; false where it is not to be had.
class supervisor {
 public:
  using answer = std::function<int(unsigned call)>;
  static bool begin(long number, answer decide) {
    sock_filter program[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, static_cast<unsigned>(number), 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    const sock_fprog filter{4, program};
    if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return false;
    const long listener =
        ::syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &filter);
    if (listener < 0) return false;
    std::thread([fd = static_cast<int>(listener), decide = std::move(decide)] {
      for (unsigned call = 0;;) {
        seccomp_notif asked{};
        if (::ioctl(fd, SECCOMP_IOCTL_NOTIF_RECV, &asked) != 0) continue;
        seccomp_notif_resp answered{};
        answered.id = asked.id;
        answered.error = -decide(call++);
        if (answered.error == 0) answered.flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE;
        ::ioctl(fd, SECCOMP_IOCTL_NOTIF_SEND, &answered);
      }
    }).detach();
    return true;
  }
};

void say(const std::string& text) {
  std::fprintf(stderr, "%s\n", text.c_str());
}

long wait_call(const coir::loop& loop) {
  return support::on_uring(loop) ? SYS_io_uring_enter : SYS_epoll_pwait2;
}

}  // namespace

TEST_CASE("a storm of signals loses no request, no byte, no post, and fires nothing early") {
  support::leaves_no_descriptor([] {
    coir::loop loop;
    const storm signals;
    for (int round = 0; !signals.has_raged(); ++round) work(loop, round);
    CHECK(loop.in_flight() == 0);
  });
}

TEST_CASE("a storm of signals neither cuts run_for short nor keeps it from its end") {
  coir::loop loop;
  const storm signals;
  while (!signals.has_raged()) {
    const coir::instant began = loop.time();
    loop.run_for(3ms);
    REQUIRE(loop.time() >= began + 3ms);
  }
}

TEST_CASE("a loop that waits for one thing only is not ended by signals") {
  // The thread sanitizer puts a signal off until a call that it knows, and this loop makes none.
  if (COIR_THREAD_SANITIZER) return;
  coir::loop loop;
  const support::fd_pair ends = support::socket_pair();
  std::array<std::byte, 8> buffer;
  support::asked get(request::recv(ends[0].get(), buffer));
  REQUIRE(loop.start(get.request));
  const storm signals;
  std::thread other([&] {
    while (!signals.has_raged()) std::this_thread::yield();
    REQUIRE(::write(ends[1].get(), "x", 1) == 1);
  });
  loop.run();
  other.join();
  CHECK(get.seen.results == std::vector{1});
}

TEST_CASE("calls that the kernel refuses for now are made again, and nothing is lost") {
  const auto child = support::in_child([] {
    coir::loop loop(coir::loop_options().submission_entries(2).completion_entries(4));
    loop.run_once();
    // EINTR is the only one that epoll_pwait2 has.
    const std::vector<int> refusals =
        support::on_uring(loop) ? std::vector{EAGAIN, EBUSY, EINTR, ENOMEM} : std::vector{EINTR};
    // Copies: the supervisor's thread outlives what is here.
    const auto calls = std::make_shared<std::atomic<unsigned>>(0);
    if (!supervisor::begin(wait_call(loop), [=](unsigned call) {
          *calls = call;
          return call % 3 == 0 ? 0 : refusals[call % refusals.size()];
        })) {
      say("not to be had");
      return;
    }
    for (int round = 0; round < 20; ++round) work(loop, round);
    if (*calls < 40) say("nothing was refused");
  });
  if (child.text == "not to be had\n") {
    WARN("skipped: this kernel lets nobody answer system calls");
    return;
  }
  CHECK(child.text == "");
  CHECK(child.exit_code == 0);
}

TEST_CASE("while the kernel takes nothing, the loop pauses between its attempts") {
  coir::loop probe;
  if (!support::on_uring(probe)) {
    WARN("skipped: this is about io_uring, and the tests run on epoll");
    return;
  }
  for (const int refusal : {EAGAIN, EBUSY, ENOMEM}) {
    for (const unsigned entries : {2U, 256U}) {
      INFO(refusal << ", " << entries << " entries");
      const auto child = support::in_child([&] {
        coir::loop loop(coir::loop_options().submission_entries(entries));
        loop.run_once();
        const support::fd_pair ends = support::socket_pair();
        std::deque<support::asked> all;
        for (int i = 0; i < 10; ++i) {
          all.emplace_back(request::poll(ends[0].get(), POLLIN));
        }
        REQUIRE(::write(ends[1].get(), "x", 1) == 1);
        constexpr unsigned refused = 60;
        if (!supervisor::begin(SYS_io_uring_enter,
                               [=](unsigned call) { return call < refused ? refusal : 0; })) {
          say("not to be had");
          return;
        }
        const coir::instant began = coir::steady_now();
        for (support::asked& each : all) loop.start(each.request);
        loop.run();
        // A few attempts a turn, and a pause of a millisecond after each turn.
        if (coir::steady_now() - began < 10ms) say("it spins");
        for (const support::asked& each : all) {
          if (each.seen.results != std::vector<int>{POLLIN}) say("lost");
        }
      });
      if (child.text == "not to be had\n") {
        WARN("skipped: this kernel lets nobody answer system calls");
        return;
      }
      CHECK(child.text == "");
      CHECK(child.exit_code == 0);
    }
  }
}

TEST_CASE("a wait that fails for good is an error of run, not a spin") {
  const auto child = support::in_child([] {
    coir::loop loop;
    loop.run_once();
    const coir::loop::hold more(loop);
    if (!supervisor::begin(wait_call(loop), [](unsigned) { return EIO; })) {
      say("not to be had");
      return;
    }
    try {
      loop.run();
      say("it ran");
    } catch (const std::system_error& error) {
      if (error.code() != std::errc::io_error) say(error.what());
    }
  });
  if (child.text == "not to be had\n") {
    WARN("skipped: this kernel lets nobody answer system calls");
    return;
  }
  CHECK(child.text == "");
  CHECK(child.exit_code == 0);
}
