// The load generator: a closed loop of echo requests on many connections, from one thread.
//
// Every connection has one message outstanding from the first moment to the last; the next one
// goes out when the last byte of the echo has come back and was compared. After the warm-up a
// window of the asked length is measured and printed as one JSON line.
//
// It is bare liburing because on two cores a dear client hides what the server costs: a request is
// one send that says nothing when it succeeds and one completion of a multishot receive. Where the
// kernel refuses io_uring it works on epoll instead, so that servers can be shown there as well, and
// the JSON line says so: figures of the two kinds of client must not be compared.
//
// Server CPU is read here rather than by the runner (`--server-pid`), at the same two moments at
// which requests are counted: warm-up and connection set-up stay out of the figure.

#include "command_line.hpp"

#include <arpa/inet.h>
#include <liburing.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <random>
#include <string>
#include <vector>

namespace {

[[noreturn]] void fail(const std::string& what) {
  std::fprintf(stderr, "echo_load: %s\n", what.c_str());
  std::exit(1);
}

[[noreturn]] void fail(const std::string& what, int error) {
  fail(what + ": " + std::strerror(error));
}

constexpr std::int64_t ns_per_second = 1'000'000'000;

std::int64_t read_clock(clockid_t clock) {
  timespec now{};
  if (clock_gettime(clock, &now) != 0) {
    fail("clock_gettime(" + std::to_string(clock) + ")", errno);
  }
  return now.tv_sec * ns_per_second + now.tv_nsec;
}

// The CPU clock of all threads of a process; exact at any moment, unlike the files in /proc.
clockid_t cpu_clock_of(pid_t pid) {
  clockid_t clock{};
  if (const int error = clock_getcpuclockid(pid, &clock)) {
    fail("the CPU clock of process " + std::to_string(pid), error);
  }
  return clock;
}

// Latencies in bins whose width is at most 1/64 of their value: any length of run in 32 KiB.
class histogram {
 public:
  void add(std::int64_t nanoseconds) { ++bins_[bin_of(static_cast<std::uint64_t>(nanoseconds))]; }

  void clear() { bins_.fill(0); }

  // The least upper end of a bin that `fraction` of all values do not exceed.
  double quantile_us(double fraction, std::uint64_t total) const {
    const auto wanted = static_cast<std::uint64_t>(fraction * static_cast<double>(total));
    std::uint64_t passed = 0;
    for (std::size_t bin = 0; bin < bins_.size(); ++bin) {
      passed += bins_[bin];
      if (passed > wanted) {
        return static_cast<double>(upper_end(bin)) / 1000.0;
      }
    }
    return 0.0;
  }

 private:
  static constexpr unsigned fine_bits = 6;
  static constexpr std::uint64_t fine = 1u << fine_bits;

  static std::size_t bin_of(std::uint64_t value) {
    if (value < fine) {
      return value;
    }
    const unsigned shift = static_cast<unsigned>(std::bit_width(value)) - fine_bits - 1;
    return (shift + 1) * fine + ((value >> shift) - fine);
  }

  static std::uint64_t upper_end(std::size_t bin) {
    if (bin < fine) {
      return bin;
    }
    const std::size_t shift = bin / fine - 1;
    return (bin % fine + fine + 1) << shift;
  }

  std::array<std::uint64_t, (64 - fine_bits + 1) * fine> bins_{};
};

struct options {
  int port;
  unsigned connections;
  unsigned size;
  double seconds;
  double warmup;
  pid_t server_pid;
  int window_fd;
  std::string client;
};

enum class event : unsigned { receive, send, begin, end };

class load {
 public:
  explicit load(const options& chosen)
      : options_(chosen), connections_(chosen.connections), pattern_(pattern_bytes + chosen.size) {
    // Every message is a slice of one random block: it costs nothing to make, and an echo of
    // another connection or of an earlier message differs from it in almost every byte.
    std::minstd_rand random(1);
    std::generate(pattern_.begin(), pattern_.end(),
                  [&] { return static_cast<char>(random() >> 8); });
    // A buffer is free again as soon as its completion was looked at, so that few are enough;
    // more would only cool the cache.
    buffer_bytes_ = std::clamp(chosen.size, 64u, 16384u);
    start_client();
  }

  void run() {
    connect_all();
    const std::int64_t start = read_clock(CLOCK_MONOTONIC);
    submit_timer(event::begin, start + static_cast<std::int64_t>(options_.warmup * 1e9),
                 begin_time_);
    submit_timer(event::end,
                 start + static_cast<std::int64_t>((options_.warmup + options_.seconds) * 1e9),
                 end_time_);
    now_ = start;
    for (unsigned number = 0; number < options_.connections; ++number) {
      if (on_epoll()) {
        watch(number, EPOLL_CTL_ADD, EPOLLIN);
      } else {
        submit_receive(number);
      }
      start_message(number);
    }
    while (!ended_) {
      if (on_epoll()) {
        turn_on_epoll();
      } else {
        turn();
      }
    }
    report();
  }

 private:
  static constexpr unsigned pattern_bytes = 65536;
  static constexpr unsigned buffers = 256;
  static constexpr unsigned buffer_gap = 64;

  struct connection {
    int fd = -1;
    unsigned offset = 0;    // where in the pattern the message of the moment begins
    unsigned sent = 0;      // bytes of it that the kernel has taken; epoll only
    unsigned received = 0;  // bytes of its echo that have come back
    std::uint64_t messages = 0;
    std::int64_t started = 0;
  };

  // What is read at both ends of the window.
  struct reading {
    std::int64_t time = 0;
    std::int64_t own_cpu = 0;
    std::int64_t server_cpu = 0;
    std::uint64_t requests = 0;
  };

  void start_client() {
    if (options_.client != "epoll") {
      const int error = start_ring();
      if (error == 0) {
        provide_buffers();
        return;
      }
      if (options_.client == "uring" || error == ENOMEM || error == EMFILE || error == ENFILE) {
        fail("io_uring_setup", error);
      }
    }
    epoll_ = epoll_create1(EPOLL_CLOEXEC);
    if (epoll_ < 0) {
      fail("epoll_create1", errno);
    }
    buffers_ = static_cast<char*>(map(buffer_bytes_));
  }

  bool on_epoll() const { return epoll_ >= 0; }

  // Returns an errno where the kernel refuses.
  int start_ring() {
    io_uring_params parameters{};
    parameters.flags = IORING_SETUP_CQSIZE | IORING_SETUP_SUBMIT_ALL | IORING_SETUP_SINGLE_ISSUER |
                       IORING_SETUP_DEFER_TASKRUN;
    parameters.cq_entries = 4096;
    if (const int error = io_uring_queue_init_params(256, &ring_, &parameters)) {
      return -error;
    }
    if (const int count = io_uring_register_ring_fd(&ring_); count != 1) {
      fail("io_uring_register_ring_fd", -count);
    }
    return 0;
  }

  void provide_buffers() {
    buffers_ = static_cast<char*>(map(buffers * (buffer_bytes_ + buffer_gap)));
    buffer_ring_ = static_cast<io_uring_buf_ring*>(map(buffers * sizeof(io_uring_buf)));
    io_uring_buf_reg registration{};
    registration.ring_addr = reinterpret_cast<__u64>(buffer_ring_);
    registration.ring_entries = buffers;
    if (const int error = io_uring_register_buf_ring(&ring_, &registration, 0)) {
      fail("io_uring_register_buf_ring", -error);
    }
    io_uring_buf_ring_init(buffer_ring_);
    for (unsigned number = 0; number < buffers; ++number) {
      give_back(number);
    }
  }

  static void* map(std::size_t bytes) {
    void* const memory =
        mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) {
      fail("mmap of " + std::to_string(bytes) + " bytes", errno);
    }
    return memory;
  }

  char* buffer(unsigned number) const {
    return buffers_ + std::size_t(number) * (buffer_bytes_ + buffer_gap);
  }

  void give_back(unsigned number) {
    io_uring_buf_ring_add(buffer_ring_, buffer(number), buffer_bytes_,
                          static_cast<unsigned short>(number), io_uring_buf_ring_mask(buffers), 0);
    io_uring_buf_ring_advance(buffer_ring_, 1);
  }

  void connect_all() {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<in_port_t>(options_.port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    for (connection& peer : connections_) {
      peer.fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
      if (peer.fd < 0) {
        fail("socket", errno);
      }
      const int on = 1;
      setsockopt(peer.fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
      // Ending by a reset leaves no socket in TIME_WAIT: after thousands of connections in
      // windows of a few hundred milliseconds there would be no port left.
      const linger reset{1, 0};
      setsockopt(peer.fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
      if (connect(peer.fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
        fail("connection " + std::to_string(&peer - connections_.data()) +
                 " to 127.0.0.1:" + std::to_string(options_.port),
             errno);
      }
    }
  }

  io_uring_sqe* prepare(event kind, unsigned number) {
    io_uring_sqe* entry = io_uring_get_sqe(&ring_);
    while (entry == nullptr) {
      io_uring_submit(&ring_);
      entry = io_uring_get_sqe(&ring_);
    }
    // The preparing functions of liburing clear the entry but not this field.
    entry->user_data = std::uint64_t(number) << 2 | static_cast<unsigned>(kind);
    return entry;
  }

  void submit_timer(event kind, std::int64_t when, __kernel_timespec& storage) {
    storage = {when / ns_per_second, when % ns_per_second};
    if (on_epoll()) {
      watch_timer(kind, storage);
      return;
    }
    io_uring_sqe* const entry = prepare(kind, 0);
    io_uring_prep_timeout(entry, &storage, 0, IORING_TIMEOUT_ABS);
  }

  void submit_receive(unsigned number) {
    io_uring_sqe* const entry = prepare(event::receive, number);
    io_uring_prep_recv_multishot(entry, connections_[number].fd, nullptr, 0, 0);
    entry->flags |= IOSQE_BUFFER_SELECT;
    entry->buf_group = 0;
    entry->ioprio |= IORING_RECVSEND_POLL_FIRST;  // nothing was asked yet, nothing is there
  }

  void start_message(unsigned number) {
    connection& peer = connections_[number];
    peer.offset = static_cast<unsigned>((number * 977 + peer.messages * 331) % pattern_bytes);
    peer.received = 0;
    peer.started = now_;
    if (on_epoll()) {
      peer.sent = 0;
      send_more(number);
      return;
    }
    io_uring_sqe* const entry = prepare(event::send, number);
    io_uring_prep_send(entry, peer.fd, pattern_.data() + peer.offset, options_.size,
                       MSG_NOSIGNAL | MSG_WAITALL);
    entry->flags |= IOSQE_CQE_SKIP_SUCCESS;
  }

  void turn() {
    const int submitted = io_uring_submit_and_wait(&ring_, 1);
    if (submitted < 0 && submitted != -EINTR && submitted != -EAGAIN && submitted != -EBUSY) {
      fail("io_uring_enter", -submitted);
    }
    // One reading of the clock serves all completions of the turn: none of them could have
    // been noticed earlier.
    now_ = read_clock(CLOCK_MONOTONIC);
    io_uring_cqe* completion;
    unsigned head;
    unsigned seen = 0;
    io_uring_for_each_cqe(&ring_, head, completion) {
      ++seen;
      complete(*completion);
    }
    io_uring_cq_advance(&ring_, seen);
  }

  void complete(const io_uring_cqe& completion) {
    const auto number = static_cast<unsigned>(completion.user_data >> 2);
    switch (static_cast<event>(completion.user_data & 3)) {
      case event::receive:
        received(number, completion);
        return;
      case event::send:
        // A whole send is silent, so this one failed or the connection broke under it.
        lost(number, "sending", completion.res < 0 ? -completion.res : EPIPE);
      case event::begin:
        begin_window();
        return;
      case event::end:
        end_window();
        return;
    }
  }

  void begin_window() {
    begin_ = read();
    latencies_.clear();
    mark("enable\n");
  }

  void end_window() {
    end_ = read();
    mark("disable\n");
    ended_ = true;
  }

  void watch(unsigned number, int operation, std::uint32_t events) const {
    epoll_event wanted{};
    wanted.events = events;
    wanted.data.u64 = std::uint64_t(number) << 2 | static_cast<unsigned>(event::receive);
    if (epoll_ctl(epoll_, operation, connections_[number].fd, &wanted) != 0) {
      fail("epoll_ctl", errno);
    }
  }

  void watch_timer(event kind, const __kernel_timespec& when) const {
    const int timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC);
    itimerspec setting{};
    setting.it_value = {when.tv_sec, when.tv_nsec};
    epoll_event wanted{};
    wanted.events = EPOLLIN | EPOLLONESHOT;
    wanted.data.u64 = static_cast<unsigned>(kind);
    if (timer < 0 || timerfd_settime(timer, TFD_TIMER_ABSTIME, &setting, nullptr) != 0 ||
        epoll_ctl(epoll_, EPOLL_CTL_ADD, timer, &wanted) != 0) {
      fail("a timer", errno);
    }
  }

  void turn_on_epoll() {
    std::array<epoll_event, 256> ready;
    const int count = epoll_wait(epoll_, ready.data(), static_cast<int>(ready.size()), -1);
    if (count < 0 && errno != EINTR) {
      fail("epoll_wait", errno);
    }
    now_ = read_clock(CLOCK_MONOTONIC);
    for (int at = 0; at < count; ++at) {
      const epoll_event& seen = ready[static_cast<std::size_t>(at)];
      const auto number = static_cast<unsigned>(seen.data.u64 >> 2);
      switch (static_cast<event>(seen.data.u64 & 3)) {
        case event::begin:
          begin_window();
          break;
        case event::end:
          end_window();
          break;
        default:
          if ((seen.events & EPOLLOUT) != 0) {
            watch(number, EPOLL_CTL_MOD, EPOLLIN);
            send_more(number);
          }
          if ((seen.events & ~EPOLLOUT) != 0) {
            receive_some(number);
          }
      }
    }
  }

  void send_more(unsigned number) {
    connection& peer = connections_[number];
    const ssize_t sent = send(peer.fd, pattern_.data() + peer.offset + peer.sent,
                              options_.size - peer.sent, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent < 0 && errno != EAGAIN) {
      lost(number, "sending", errno);
    }
    peer.sent += static_cast<unsigned>(std::max<ssize_t>(sent, 0));
    if (peer.sent < options_.size) {
      watch(number, EPOLL_CTL_MOD, EPOLLIN | EPOLLOUT);
    }
  }

  void receive_some(unsigned number) {
    const ssize_t got = recv(connections_[number].fd, buffers_, buffer_bytes_, MSG_DONTWAIT);
    if (got > 0) {
      compare(number, buffers_, static_cast<unsigned>(got));
    } else if (got == 0 || errno != EAGAIN) {
      lost(number, "receiving", got == 0 ? 0 : errno);
    }
  }

  void received(unsigned number, const io_uring_cqe& completion) {
    if (completion.res > 0) {
      const unsigned chunk = completion.flags >> IORING_CQE_BUFFER_SHIFT;
      compare(number, buffer(chunk), static_cast<unsigned>(completion.res));
      give_back(chunk);
    } else if (completion.res != -ENOBUFS) {
      lost(number, "receiving", -completion.res);
    }
    if ((completion.flags & IORING_CQE_F_MORE) == 0) {
      submit_receive(number);
    }
  }

  void compare(unsigned number, const char* bytes, unsigned length) {
    connection& peer = connections_[number];
    if (peer.received + length > options_.size) {
      fail("connection " + std::to_string(number) + ": the echo of message " +
           std::to_string(peer.messages) + " is longer than its " + std::to_string(options_.size) +
           " bytes");
    }
    const char* const expected = pattern_.data() + peer.offset + peer.received;
    if (std::memcmp(expected, bytes, length) != 0) {
      const auto wrong = std::mismatch(bytes, bytes + length, expected).first - bytes;
      fail("connection " + std::to_string(number) + ": byte " +
           std::to_string(peer.received + wrong) + " of the echo of message " +
           std::to_string(peer.messages) + " is wrong");
    }
    peer.received += length;
    if (peer.received == options_.size) {
      latencies_.add(now_ - peer.started);
      ++requests_;
      ++peer.messages;
      start_message(number);
    }
  }

  [[noreturn]] void lost(unsigned number, const std::string& doing, int error) const {
    fail("the server ended connection " + std::to_string(number) + " while " + doing + " message " +
         std::to_string(connections_[number].messages) + " (" +
         (error == 0 ? "end of stream" : std::strerror(error)) + "), " + std::to_string(requests_) +
         " requests after the start");
  }

  reading read() const {
    reading result;
    result.requests = requests_;
    result.own_cpu = read_clock(CLOCK_PROCESS_CPUTIME_ID);
    if (options_.server_pid != 0) {
      result.server_cpu = read_clock(cpu_clock_of(options_.server_pid));
    }
    result.time = read_clock(CLOCK_MONOTONIC);
    return result;
  }

  // `enable` and `disable` are the words that perf's --control understands.
  void mark(std::string_view word) const {
    if (options_.window_fd >= 0 && ::write(options_.window_fd, word.data(), word.size()) !=
                                       static_cast<ssize_t>(word.size())) {
      fail("writing to --window-fd " + std::to_string(options_.window_fd), errno);
    }
  }

  void report() const {
    const std::uint64_t requests = end_.requests - begin_.requests;
    if (requests == 0) {
      fail("no request was answered within " + std::to_string(options_.seconds) + " seconds");
    }
    const double seconds = static_cast<double>(end_.time - begin_.time) / 1e9;
    std::printf(
        "{\"connections\":%u,\"size\":%u,\"requests\":%llu,\"seconds\":%.6f,"
        "\"requests_per_second\":%.1f,\"p50_us\":%.2f,\"p99_us\":%.2f,"
        "\"client\":\"%s\",\"cpu_seconds\":%.6f",
        options_.connections, options_.size, static_cast<unsigned long long>(requests), seconds,
        static_cast<double>(requests) / seconds, latencies_.quantile_us(0.50, requests),
        latencies_.quantile_us(0.99, requests), on_epoll() ? "epoll" : "io_uring",
        static_cast<double>(end_.own_cpu - begin_.own_cpu) / 1e9);
    if (options_.server_pid != 0) {
      std::printf(",\"server_cpu_seconds\":%.6f",
                  static_cast<double>(end_.server_cpu - begin_.server_cpu) / 1e9);
    }
    std::printf("}\n");
  }

  const options options_;
  std::vector<connection> connections_;
  std::vector<char> pattern_;
  unsigned buffer_bytes_ = 0;
  int epoll_ = -1;
  io_uring ring_{};
  io_uring_buf_ring* buffer_ring_ = nullptr;
  char* buffers_ = nullptr;
  __kernel_timespec begin_time_{};
  __kernel_timespec end_time_{};
  std::int64_t now_ = 0;
  std::uint64_t requests_ = 0;
  bool ended_ = false;
  reading begin_;
  reading end_;
  histogram latencies_;
};

// Says before the run what would otherwise be a refused socket in the middle of it.
void want_files(unsigned connections) {
  const rlim_t wanted = connections + 16;  // the ring, the standard streams, what was inherited
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) {
    fail("getrlimit(RLIMIT_NOFILE)", errno);
  }
  if (limit.rlim_cur >= wanted) {
    return;
  }
  const rlim_t before = limit.rlim_cur;
  // Raising the hard limit needs a privilege; without it the hard limit is what there is.
  limit.rlim_cur = wanted;
  limit.rlim_max = std::max(limit.rlim_max, wanted);
  if (setrlimit(RLIMIT_NOFILE, &limit) != 0) {
    fail(std::to_string(connections) + " connections need " + std::to_string(wanted) +
         " open files, the limit is " + std::to_string(before) +
         " and may not be raised (ulimit -n)");
  }
}

}  // namespace

int main(int argc, char** argv) {
  command_line arguments(argc, argv);
  options chosen{};
  chosen.port = arguments.number("--port", 0, 1, 65535);
  chosen.connections = arguments.number("--connections", 50u, 1u, 1000000u);
  chosen.size = arguments.number("--size", 64u, 1u, 1u << 24);
  chosen.seconds = arguments.number("--seconds", 1.0, 0.001, 86400.0);
  chosen.warmup = arguments.number("--warmup", 0.2, 0.0, 86400.0);
  chosen.server_pid = arguments.number("--server-pid", 0, 1, 1 << 30);
  chosen.window_fd = arguments.number("--window-fd", -1, 0, 1 << 20);
  chosen.client = arguments.choice("--client", {"auto", "uring", "epoll"});
  arguments.finish();
  if (chosen.port == 0) {
    arguments.refuse("wants --port N, the port of the server on 127.0.0.1");
  }
  want_files(chosen.connections);
  load(chosen).run();
}
