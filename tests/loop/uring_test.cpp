// What only io_uring has: set-up flags, rings that come out smaller, and slots that are used again.
#include "loop/backend_uring.hpp"
#include "loop/uring_only.hpp"

#include <linux/io_uring.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>

#include <bit>
#include <chrono>
#include <cstddef>
#include <filesystem>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <system_error>
#include <thread>
#include <utility>

using namespace std::chrono_literals;
using Catch::Matchers::Contains;
using coir::request;
using tests::without_uring;

namespace {

coir::loop_options on_uring() {
  return coir::loop_options().backend(coir::backend_kind::uring);
}

// A kernel that does not know some flags, or has no memory for a large ring, while this lives.
struct other_kernel {
  explicit other_kernel(unsigned unknown_flags) { coir::priv::uring_unknown_flags = unknown_flags; }
  other_kernel(int error, unsigned entries_max) {
    coir::priv::uring_setup_error = error;
    coir::priv::uring_entries_max = entries_max;
  }
  other_kernel(const other_kernel&) = delete;
  ~other_kernel() {
    coir::priv::uring_unknown_flags = coir::priv::uring_entries_max = 0;
    coir::priv::uring_setup_error = 0;
  }
};

// A bit of everything that depends on how the ring was set up.
void work(coir::loop& loop) {
  const support::fd_pair ends = support::socket_pair();
  std::array<std::byte, 16> buffer;
  support::asked get(request::recv(ends[0].get(), buffer));
  REQUIRE(loop.start(get.request));
  CHECK(loop.run_once(1ms) == 0);
  CHECK(support::finish(loop, request::send(ends[1].get(), support::bytes_of("abc"))) == 3);
  support::run_until(loop, [&] { return get.over(); });
  CHECK(get.seen.last() == 3);

  support::asked all(request::recv_multi(ends[0].get()));
  std::string text;
  all.seen.then = [&](request& told) {
    if (told.result <= 0) return;
    const auto size = static_cast<std::size_t>(told.result);
    text += support::text_of(loop.chunks().claim(told.chunk(), size).bytes());
  };
  REQUIRE(loop.start(all.request));
  for (const std::string_view part : {"one ", "two ", "three"}) {
    REQUIRE(::write(ends[1].get(), part.data(), part.size()) == static_cast<ssize_t>(part.size()));
    loop.run_once();
  }
  support::run_until(loop, [&] { return text == "one two three"; });
  CHECK(support::give_up(loop, all) == -ECANCELED);
  CHECK(loop.chunks().free() == loop.chunks().count());

  // More than the completion queue holds.
  std::vector<std::unique_ptr<support::asked>> many;
  for (int i = 0; i < 100; ++i) {
    many.push_back(std::make_unique<support::asked>(request::poll(ends[0].get(), POLLIN)));
    REQUIRE(loop.start(many.back()->request));
  }
  REQUIRE(::write(ends[1].get(), "x", 1) == 1);
  bool posted = false;
  std::thread other([&] { loop.post([&] { posted = true; }); });
  support::run_until(loop, [&] { return posted && loop.in_flight() == 0; });
  other.join();

  support::asked never_served(request::poll(ends[1].get(), POLLIN));
  REQUIRE(loop.start(never_served.request));
  loop.run_once();
  CHECK(support::give_up(loop, never_served) == -ECANCELED);
}

// The kernel object of the one ring of this process.
int only_ring() {
  int found = -1;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    std::error_code gone;
    if (std::filesystem::read_symlink(entry.path(), gone) != "anon_inode:[io_uring]") continue;
    REQUIRE(found == -1);
    found = std::stoi(entry.path().filename());
  }
  return found;
}

// A completion that nothing asked for, put into the ring by the kernel (Linux 6.13). False: it
// cannot.
bool complete_out_of_nothing(std::uint64_t user_data, int result) {
  constexpr unsigned register_send_msg_ring = 31;
  io_uring_sqe message{};
  message.opcode = IORING_OP_MSG_RING;
  message.fd = only_ring();
  message.len = static_cast<unsigned>(result);
  message.off = user_data;
  return ::syscall(SYS_io_uring_register, -1, register_send_msg_ring, &message, 1) == 0;
}

// As in lib/loop/backend_uring.cpp: the slot, and above it how often it was used before.
std::uint64_t user_data(std::uint32_t slot, std::uint32_t generation) {
  return std::uint64_t{generation} << 32 | slot;
}

}  // namespace

TEST_CASE("a loop that ends gives up an open that waits, and it says that it was withdrawn") {
  if (without_uring()) return;
  const std::string fifo = std::filesystem::temp_directory_path() / ("coir-fifo-" + std::to_string(::getpid()));
  std::filesystem::remove(fifo);
  REQUIRE(::mkfifo(fifo.c_str(), 0600) == 0);
  for (const bool is_withdrawn : {true, false}) {
    support::leaves_no_descriptor([&] {
      std::optional<coir::loop> loop(std::in_place, on_uring());
      // Waits for somebody who writes, in a thread of the kernel's.
      support::asked opening(request::open(fifo.c_str(), O_RDONLY | O_CREAT, 0));
      REQUIRE(loop->start(opening.request));
      loop->run_once(1ms);
      if (is_withdrawn) {
        CHECK(support::give_up(*loop, opening) == -ECANCELED);
      }
      loop.reset();
      CHECK(opening.over());
      CHECK(opening.request.result == -ECANCELED);
    });
  }
  std::filesystem::remove(fifo);
}

TEST_CASE("an open for writing waits for who reads, in whatever cache its path is") {
  if (without_uring()) return;
  const std::string fifo = std::filesystem::temp_directory_path() / ("coir-fifo-w-" + std::to_string(::getpid()));
  std::filesystem::remove(fifo);
  REQUIRE(::mkfifo(fifo.c_str(), 0600) == 0);
  coir::loop loop(on_uring());
  support::asked opening(request::open(fifo.c_str(), O_WRONLY, 0));
  REQUIRE(loop.start(opening.request));
  support::idle_turns(loop, 10);
  CHECK_FALSE(opening.over());
  const coir::unique_fd reader(::open(fifo.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC));
  support::run_until(loop, [&] { return opening.over(); });
  const coir::unique_fd made(opening.request.result);
  CHECK(made);
  // Who does not want to wait is refused.
  const std::string lonely = fifo + "-alone";
  REQUIRE(::mkfifo(lonely.c_str(), 0600) == 0);
  CHECK(support::finish(loop, request::open(lonely.c_str(), O_WRONLY | O_NONBLOCK, 0)) == -ENXIO);
  support::asked withdrawn(request::open(lonely.c_str(), O_WRONLY, 0));
  REQUIRE(loop.start(withdrawn.request));
  loop.run_for(10ms);
  CHECK(support::give_up(loop, withdrawn) == -ECANCELED);
  std::filesystem::remove(fifo);
  std::filesystem::remove(lonely);
}

TEST_CASE("opens that wait for a stranger hold up no work on files") {
  if (without_uring()) return;
  const std::string fifo = std::filesystem::temp_directory_path() / ("coir-fifos-" + std::to_string(::getpid()));
  std::filesystem::remove(fifo);
  REQUIRE(::mkfifo(fifo.c_str(), 0600) == 0);
  const coir::unique_fd file(::memfd_create("file", MFD_CLOEXEC));
  coir::loop loop(on_uring());
  for (int round = 0; round < 2; ++round) {
    // More than the kernel has threads for files.
    std::vector<std::unique_ptr<support::asked>> opens;
    for (int i = 0; i < 12; ++i) {
      opens.push_back(std::make_unique<support::asked>(request::open(fifo.c_str(), O_WRONLY, 0)));
      REQUIRE(loop.start(opens.back()->request));
    }
    loop.run_for(10ms);
    for (int i = 0; i < 3; ++i) CHECK(support::finish(loop, request::fsync(file.get())) == 0);
    for (const auto& each : opens) {
      CHECK_FALSE(each->over());
      CHECK(support::give_up(loop, *each) == -ECANCELED);
    }
  }
  std::filesystem::remove(fifo);
}

TEST_CASE("a connect that waits in the kernel says that it was withdrawn") {
  if (without_uring()) return;
  sockaddr_un where{};
  where.sun_family = AF_UNIX;
  // In no file system.
  const std::string name = "coir-full-" + std::to_string(::getpid());
  name.copy(where.sun_path + 1, name.size());
  const auto size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + name.size());
  const auto* const generic = reinterpret_cast<const sockaddr*>(&where);
  const coir::unique_fd listener(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  REQUIRE(::bind(listener.get(), generic, size) == 0);
  REQUIRE(::listen(listener.get(), 0) == 0);
  const coir::unique_fd first(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  REQUIRE(::connect(first.get(), generic, size) == 0);
  const coir::unique_fd blocking(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  coir::loop loop(on_uring());
  support::asked connects(request::connect(blocking.get(), generic, size));
  REQUIRE(loop.start(connects.request));
  // Time for it to come so far.
  loop.run_for(10ms);
  REQUIRE_FALSE(connects.over());
  CHECK(support::give_up(loop, connects) == -ECANCELED);
}

TEST_CASE("more polls that are answered at once than the queues hold do not hold up a loop, with whatever flags") {
  if (without_uring()) return;
  for (const unsigned unknown : {0u, static_cast<unsigned>(IORING_SETUP_DEFER_TASKRUN)}) {
    const other_kernel here(unknown);
    coir::loop loop(on_uring().submission_entries(16));
    std::vector<support::fd_pair> streams;
    std::vector<std::unique_ptr<support::asked>> rooms;
    for (int i = 0; i < 200; ++i) {
      const support::fd_pair& ends = streams.emplace_back(support::socket_pair());
      REQUIRE(::shutdown(ends[1].get(), SHUT_WR) == 0);
      support::fill(ends[0].get());
      rooms.push_back(std::make_unique<support::asked>(request::poll(ends[0].get(), POLLOUT)));
      REQUIRE(loop.start(rooms.back()->request));
    }
    for (int i = 0; i < 5; ++i) {
      bool posted = false;
      loop.post([&] { posted = true; });
      support::run_until(loop, [&] { return posted; });
    }
    for (std::size_t i = 0; i < rooms.size(); ++i) {
      CHECK_FALSE(rooms[i]->over());
      support::drain(streams[i][1].get());
      support::run_until(loop, [&] { return rooms[i]->over(); });
      CHECK(rooms[i]->seen.results == std::vector{POLLOUT});
    }
  }
}

TEST_CASE("a kernel that does not know a set-up flag gets a ring without it, and all works") {
  if (without_uring()) return;
  struct step {
    unsigned unknown;
    const char* with;
    const char* without;
  };
  for (const step& kernel_of : {
           step{0, "DEFER_TASKRUN", "COOP_TASKRUN"},
           step{IORING_SETUP_DEFER_TASKRUN, "SINGLE_ISSUER, COOP_TASKRUN", "DEFER_TASKRUN"},
           step{IORING_SETUP_SINGLE_ISSUER, "COOP_TASKRUN, TASKRUN_FLAG", "SINGLE_ISSUER"},
           step{IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_COOP_TASKRUN, "SUBMIT_ALL", "TASKRUN"},
           step{IORING_SETUP_TASKRUN_FLAG, "SUBMIT_ALL", "TASKRUN"},
           step{IORING_SETUP_SUBMIT_ALL, "no optional flags", "SUBMIT_ALL"},
       }) {
    INFO("unknown: " << kernel_of.unknown);
    const other_kernel kernel(kernel_of.unknown);
    support::leaves_no_descriptor([&] {
      coir::loop loop(on_uring().submission_entries(4).completion_entries(8));
      CHECK_THAT(loop.describe(), Contains(kernel_of.with) && !Contains(kernel_of.without));
      for (int i = 0; i < 3; ++i) work(loop);
    });
  }
}

TEST_CASE("a kernel that lacks what cannot be done without refuses, in words") {
  if (without_uring()) return;
  const other_kernel kernel(IORING_SETUP_R_DISABLED);
  support::leaves_no_descriptor([] {
    CHECK_THROWS_WITH(coir::loop(on_uring()),
                      Contains("io_uring") && Contains("refused") && Contains("Invalid argument"));
  });
}

TEST_CASE("when there is no memory for a ring, a smaller one will do") {
  if (without_uring()) return;
  for (const unsigned most : {8U, 16U, 100U}) {
    const other_kernel kernel(ENOMEM, most);
    coir::loop loop(on_uring().submission_entries(1024));
    CHECK_THAT(loop.describe(), Contains(std::to_string(std::bit_floor(most)) + " submission"));
    work(loop);
  }
}

TEST_CASE("when there is no memory for the smallest ring either, the error says so") {
  if (without_uring()) return;
  const other_kernel kernel(ENOMEM, 0);
  support::leaves_no_descriptor([] {
    try {
      coir::loop loop(on_uring());
      FAIL("a loop was made");
    } catch (const std::system_error& error) {
      CHECK(error.code() == std::errc::not_enough_memory);
      CHECK_THAT(error.what(), Contains("io_uring_setup") && Contains("8 entries"));
    }
  });
}

TEST_CASE("queues of any size can be asked for; the kernel's limits hold") {
  if (without_uring()) return;
  constexpr unsigned most = std::numeric_limits<unsigned>::max();
  for (const auto& [entries, completions] : {std::pair{0U, 0U},
                                             {1U, 0U},
                                             {1U, 1U},
                                             {3U, 2U},
                                             {64U, 1U},
                                             {1U << 20, 0U},
                                             {1U << 30, 0U},
                                             {most, 0U},
                                             {2U, most},
                                             {most, most}}) {
    INFO(entries << " and " << completions);
    coir::loop loop(on_uring().submission_entries(entries).completion_entries(completions));
    work(loop);
  }
}

TEST_CASE("a result of an earlier use of a slot does not reach the later one") {
  if (without_uring()) return;
  coir::loop loop;
  const support::fd_pair first_ends = support::socket_pair();
  const support::fd_pair later_ends = support::socket_pair();
  support::asked first(request::poll(first_ends[0].get(), POLLIN));
  support::asked later(request::poll(later_ends[0].get(), POLLIN));
  REQUIRE(loop.start(first.request));
  loop.run_once();
  // It seems to be over, while the kernel still has it.
  if (!complete_out_of_nothing(user_data(0, 0), POLLIN)) {
    WARN("skipped: this kernel cannot send a completion to a ring");
    support::give_up(loop, first);
    return;
  }
  support::run_until(loop, [&] { return first.over(); });
  CHECK(first.seen.results == std::vector<int>{POLLIN});

  REQUIRE(loop.start(later.request));
  loop.run_once();
  REQUIRE(::write(first_ends[1].get(), "x", 1) == 1);
  support::run_until(loop, [&] { return loop.stats().backend.stale_events == 1; });
  support::idle_turns(loop);
  CHECK_FALSE(later.over());
  CHECK(first.seen.count() == 1);

  REQUIRE(::write(later_ends[1].get(), "x", 1) == 1);
  support::run_until(loop, [&] { return later.over(); });
  CHECK(later.seen.results == std::vector<int>{POLLIN});
}

TEST_CASE("results for slots that nobody uses, or that never were, are counted and harm nobody") {
  if (without_uring()) return;
  coir::loop loop;
  const support::fd_pair ends = support::socket_pair();
  support::asked waits(request::poll(ends[0].get(), POLLIN));
  REQUIRE(loop.start(waits.request));
  loop.run_once();
  std::uint64_t sent = 0;
  for (const std::uint64_t nobody :
       {user_data(0, 1), user_data(0, 0xffff'ffff), user_data(1, 0), user_data(1, 7),
        user_data(1'000'000, 0), user_data(0xffff'ffff, 0)}) {
    if (!complete_out_of_nothing(nobody, -EIO)) {
      WARN("skipped: this kernel cannot send a completion to a ring");
      break;
    }
    ++sent;
    support::run_until(loop, [&] { return loop.stats().backend.stale_events == sent; });
  }
  CHECK_FALSE(waits.over());
  CHECK(support::give_up(loop, waits) == -ECANCELED);
}

TEST_CASE("a withdrawal never reaches a request that got the slot afterwards") {
  if (without_uring()) return;
  coir::loop loop;
  const support::fd_pair ends = support::socket_pair();
  const support::fd_pair quiet = support::socket_pair();
  for (int round = 0; round < 200; ++round) {
    support::asked old(request::poll(ends[0].get(), POLLIN));
    support::asked fresh(request::poll(quiet[0].get(), POLLIN));
    REQUIRE(loop.start(old.request));
    loop.run_once();
    // Over in the kernel, not yet here; the next request of this loop gets its slot.
    REQUIRE(::write(ends[1].get(), "x", 1) == 1);
    old.seen.then = [&](request&) { CHECK(loop.start(fresh.request)); };
    loop.withdraw(old.request);
    support::run_until(loop, [&] { return old.over(); });
    support::idle_turns(loop, 2);
    REQUIRE_FALSE(fresh.over());
    support::give_up(loop, fresh);
    support::drain(ends[0].get());
  }
}
