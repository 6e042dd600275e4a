// Every op there is, once: what the rules of op.hpp are tested with.
//
// A case makes ops of one kind and can bring about what they wait for:
//   make()         an op that waits until complete()
//   complete()     what it waits for happens; if nobody waits, the next op finds it
//   right(result)  is that what complete() brought, all of it, and nothing else?
//   answer()       what abort() says while it waits
//   prepare(n)     from now on make_ready() gives, n times, an op that need not wait
//   stopped()      where only the test can end an op that was aborted: it does
// Cases are made and used by a fiber on a stack, on a clock that is moved by hand.
//
// A class with an abort() that is not mentioned here fails the test "op_list" (op_list_check.py).
#pragma once

#include "hand_op.hpp"
#include "until.hpp"

#include <coir/coir.hpp>
#include <coir/testing/mock_clock.hpp>
#include <coir/testing/sequencer.hpp>

#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <condition_variable>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <ctime>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <semaphore>
#include <span>
#include <stdexcept>
#include <stop_token>
#include <string>
#include <string_view>
#include <thread>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

namespace op_list {

using namespace std::chrono_literals;
using coir::abort_answer;

inline coir::testing::mock_clock* clock = nullptr;  // that of the test that runs

inline coir::loop& loop_here() { return coir::running_fiber().home().on(); }
// What a request in the kernel answers.
inline abort_answer answer_of_requests() {
  return loop_here().kind() == coir::backend_kind::epoll ? abort_answer::now : abort_answer::later;
}
inline void check(bool succeeded, const char* what) {
  if (!succeeded) throw std::runtime_error(what);
}

// Two ends of a stream: one of coir's, one that the test reads and writes with system calls.
struct ends {
  ends() {
    int both[2];
    check(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, both) == 0, "socketpair");
    mine = both[0];
    peer = coir::unique_fd(both[1]);
  }
  void give(std::string_view text) const {
    check(::send(peer.get(), text.data(), text.size(), MSG_NOSIGNAL) ==
              static_cast<ssize_t>(text.size()),
          "send");
  }
  int mine;  // whoever takes it closes it
  coir::unique_fd peer;
};

// --- fibers and time ---

struct sleeping {
  static constexpr const char* name = "sleep_for: sleep_op";
  coir::sleep_op make() { return coir::sleep_for(1s); }
  void complete() { clock->advance(1s); }
  bool right() { return true; }
  static abort_answer answer() { return abort_answer::now; }
  void prepare(unsigned) {}
  coir::sleep_op make_ready() { return coir::sleep_until(coir::instant::min()); }
};

// The first slot is free, so it is taken before.
struct taking_slots {
  static constexpr const char* name = "throttler::wait: slot_op";
  coir::slot_op make() { return limit.wait(); }
  void complete() { clock->advance(1s); }
  bool right(std::uint64_t missed) { return missed == 0; }
  static abort_answer answer() { return abort_answer::now; }
  void prepare(unsigned) {}
  coir::slot_op make_ready() {
    complete();
    return make();
  }
  coir::throttler limit{1s};
  std::uint64_t first = coir::await(limit.wait());
};

// A limit that is never over changes nothing.
struct sleeping_limited : sleeping {
  static constexpr const char* name = "move_on_after: limited_op";
  auto make() { return coir::move_on_after(10h, coir::sleep_for(1s)); }
  bool right(bool done) { return done; }
  auto make_ready() { return coir::move_on_after(10h, coir::sleep_until(coir::instant::min())); }
};

struct joining {
  static constexpr const char* name = "join: join_op";
  coir::join_op<int> make() { return whom.join(); }
  void complete() { end->complete(7); }
  bool right(int result) { return result == 7; }
  static abort_answer answer() { return abort_answer::now; }
  void prepare(unsigned) {
    complete();
    support::until([&] { return whom.state() == coir::fiber_state::dead; });
  }
  coir::join_op<int> make_ready() { return whom.join(); }

  // Shared, because the fiber may outlive this.
  std::shared_ptr<support::hand> end = std::make_shared<support::hand>();
  coir::fiber<int> whom =
      coir::spawn([end = end] { return coir::await(support::hand_op(*end)); });
};

struct joining_any : joining {
  static constexpr const char* name = "the end of any fiber: end_op";
  coir::end_op make() { return coir::end_op(whom); }
  bool right() { return true; }
  coir::end_op make_ready() { return coir::end_op(whom); }
};

struct taking {
  static constexpr const char* name = "take: take_op";
  coir::take_op<int> make() { return whom.take(); }
  void complete() { end->complete(7); }
  bool right(int result) { return result == 7; }
  static abort_answer answer() { return abort_answer::now; }
  void prepare(unsigned count) {
    while (dead.size() < count) dead.push_back(coir::spawn([] { return 7; }));
    support::until([&] { return dead.back().state() == coir::fiber_state::dead; });
  }
  coir::take_op<int> make_ready() { return dead[next++].take(); }

  std::shared_ptr<support::hand> end = std::make_shared<support::hand>();
  coir::fiber<int> whom =
      coir::spawn([end = end] { return coir::await(support::hand_op(*end)); });
  std::deque<coir::fiber<int>> dead;
  std::size_t next = 0;
};

struct hearing_of_a_death {
  static constexpr const char* name = "monitor::next: death_op";
  coir::death_op make() { return deaths.next(); }
  void complete() { end->complete(); }
  bool right(const coir::handle_base& dead) { return support::dead(dead); }
  static abort_answer answer() { return abort_answer::now; }
  void prepare(unsigned count) {
    std::vector<coir::fiber<void>> dying;
    for (unsigned i = 0; i < count; ++i) deaths.watch(dying.emplace_back(coir::spawn([] {})));
    support::until([&] { return support::dead(dying.back()); });
  }
  coir::death_op make_ready() { return make(); }

  std::shared_ptr<support::hand> end = std::make_shared<support::hand>();
  coir::fiber<int> whom =
      coir::spawn([end = end] { return coir::await(support::hand_op(*end)); });
  coir::monitor deaths;
  bool watched = deaths.watch(whom);
};

struct taking_turns {
  static constexpr const char* name = "sequencer::turn: turn_op";
  using sequencer = coir::testing::sequencer;
  sequencer::turn_op make() { return order.turn(1); }
  void complete() { first.reset(); }
  bool right(const sequencer::held&) { return true; }
  static abort_answer answer() { return abort_answer::now; }
  void prepare(unsigned) {}
  sequencer::turn_op make_ready() { return other.turn(next++); }

  sequencer order;
  sequencer other;
  unsigned next = 0;
  std::optional<sequencer::held> first{coir::await(order.turn(0))};
};

// --- channels ---

struct receiving_from_channel {
  static constexpr const char* name = "channel::receive: channel_receive_op";
  auto make() { return numbers.receive(); }
  void complete() { check(numbers.try_send(7), "try_send"); }
  bool right(const std::optional<int>& got) { return got == 7; }
  static abort_answer answer() { return abort_answer::now; }
  void prepare(unsigned count) {
    for (unsigned i = 0; i < count; ++i) complete();
  }
  auto make_ready() { return make(); }

  coir::channel<int> numbers{coir::unbounded};
};

struct selecting_channels : receiving_from_channel {
  static constexpr const char* name = "select of channels: select_op";
  auto make() { return coir::select(full.send(1), receiving_from_channel::make(), receiving_from_channel::make()); }
  template <class Got>
  bool right(Got&& got) {
    if (got.index() == 1) return receiving_from_channel::right(std::get<1>(std::move(got)));
    return got.index() == 2 && receiving_from_channel::right(std::get<2>(std::move(got)));
  }
  auto make_ready() { return make(); }
  coir::channel<int> full;
};

struct receiving_a_message {
  static constexpr const char* name = "receive: inbox_receive_op";
  // Of the fiber that waits, which is none of ours: another's inbox.
  auto make() { return coir::inbox_receive_op<int>(whose.inbox<int>()); }
  void complete() { whose.send(7); }
  bool right(int got) { return got == 7; }
  static abort_answer answer() { return abort_answer::now; }
  void prepare(unsigned count) {
    for (unsigned i = 0; i < count; ++i) complete();
  }
  auto make_ready() { return make(); }

  std::shared_ptr<support::hand> end = std::make_shared<support::hand>();
  coir::fiber<int> whose = coir::spawn([end = end] { return coir::await(support::hand_op(*end)); });
};

struct hearing {
  static constexpr const char* name = "subscription::receive: broadcast_receive_op";
  auto make() { return mine.receive(); }
  void complete() { numbers.publish(7); }
  bool right(const std::optional<coir::heard<int>>& got) { return got && got->value() == 7 && got->missed() == 0; }
  static abort_answer answer() { return abort_answer::now; }
  void prepare(unsigned count) {
    for (unsigned i = 0; i < count; ++i) complete();
  }
  auto make_ready() { return make(); }

  coir::broadcast<int> numbers{1'000};
  coir::subscription<int> mine = numbers.subscribe();
};

// To one that has no room until complete().
struct sending_to_channel {
  static constexpr const char* name = "channel::send: channel_send_op";
  auto make() { return numbers.send(7); }
  void complete() {
    const std::vector<int> before = numbers.receive_all();
    arrived = static_cast<std::size_t>(std::count(before.begin(), before.end(), 7));
    if (arrived == 0) prepare(1);
  }
  bool right() {
    const std::vector<int> rest = numbers.receive_all();
    return std::exchange(arrived, 0) + static_cast<std::size_t>(std::count(rest.begin(), rest.end(), 7)) == 1;
  }
  static abort_answer answer() { return abort_answer::now; }
  void prepare(unsigned) { numbers.set_capacity(coir::unbounded); }
  auto make_ready() { return make(); }

  coir::channel<int> numbers{0};
  std::size_t arrived = 0;
};

// --- locks, gates and pools ---

// Somebody has it until complete(). Whoever gets it gives it back with the result.
struct locking {
  static constexpr const char* name = "mutex::lock: lock_op";
  auto make() { return one.lock(); }
  void complete() { first.reset(); }
  bool right(const coir::mutex::held& held) { return static_cast<bool>(held); }
  static abort_answer answer() { return abort_answer::now; }
  void prepare(unsigned) {}
  auto make_ready() { return other.lock(); }

  coir::mutex one;
  coir::mutex other;
  std::optional<coir::mutex::held> first{coir::await(one.lock())};
};

struct locking_alone {
  static constexpr const char* name = "shared_mutex::lock: shared_mutex_op";
  auto make() { return one.lock(); }
  void complete() { first.reset(); }
  template <class Held>
  bool right(const Held& held) {
    return static_cast<bool>(held);
  }
  static abort_answer answer() { return abort_answer::now; }
  void prepare(unsigned) {}
  auto make_ready() { return other.lock(); }

  coir::shared_mutex one;
  coir::shared_mutex other;
  std::optional<coir::shared_mutex::held> first{coir::await(one.lock())};
};

struct locking_shared : locking_alone {
  static constexpr const char* name = "shared_mutex::lock_shared: shared_mutex_op";
  auto make() { return one.lock_shared(); }
  auto make_ready() { return other.lock_shared(); }
};

struct acquiring {
  static constexpr const char* name = "semaphore::acquire: acquire_op";
  auto make() { return one.acquire(2); }
  void complete() { one.release(); }
  bool right(const coir::semaphore::permit& got) { return got.count() == 2; }
  static abort_answer answer() { return abort_answer::now; }
  void prepare(unsigned) {}
  auto make_ready() { return other.acquire(); }

  coir::semaphore one{1};
  coir::semaphore other{1};
};

struct passing_gate {
  static constexpr const char* name = "event::wait: gate_op";
  auto make() { return one.wait(); }
  void complete() { one.set(); }
  bool right() { return true; }
  static abort_answer answer() { return abort_answer::now; }
  void prepare(unsigned) { complete(); }
  auto make_ready() { return make(); }

  coir::event one;
};

struct arriving {
  static constexpr const char* name = "latch::arrive_and_wait: latch_op";
  auto make() { return one.arrive_and_wait(); }
  void complete() { one.count_down(); }
  bool right() { return one.is_open(); }
  static abort_answer answer() { return abort_answer::now; }
  void prepare(unsigned) {}
  auto make_ready() { return other.wait(); }

  coir::latch one{2};
  coir::latch other{0};
};

// The other one comes.
struct meeting {
  static constexpr const char* name = "barrier::arrive_and_wait: barrier_op";
  auto make() { return one.arrive_and_wait(); }
  void complete() {
    coir::spawn([&one = one] { static_cast<void>(coir::await(one.arrive_and_wait())); });
  }
  bool right(bool) { return one.stats().rounds == 1; }
  static abort_answer answer() { return abort_answer::now; }
  void prepare(unsigned) {}
  auto make_ready() { return other.arrive_and_wait(); }

  coir::barrier one{2};
  coir::barrier other{1};
};

// The one who tries fails.
struct trying_once {
  static constexpr const char* name = "once::enter: once_op";
  auto make() { return one.enter(); }
  void complete() { first.reset(); }
  bool right(const coir::once::turn& mine) { return static_cast<bool>(mine); }
  static abort_answer answer() { return abort_answer::now; }
  void prepare(unsigned) {}
  auto make_ready() { return other.enter(); }

  coir::once one;
  coir::once other;
  std::optional<coir::once::turn> first{coir::await(one.enter())};
};

// Underneath resource_pool::acquire, which is a task.
struct taking_from_pool {
  static constexpr const char* name = "resource_pool::acquire: pool_op";
  auto make() { return one.turn(coir::place()); }
  void complete() { first.reset(); }
  bool right(const coir::priv::pool_turn& got) { return static_cast<bool>(got.right); }
  static abort_answer answer() { return abort_answer::now; }
  void prepare(unsigned) {}
  auto make_ready() { return other.turn(coir::place()); }

  coir::priv::pool_base one{1};
  coir::priv::pool_base other{1};
  std::optional<coir::priv::pool_turn> first{coir::await(one.turn(coir::place()))};
};

template <abort_answer Answer>
struct by_hand {
  static constexpr const char* name =
      Answer == abort_answer::now ? "by hand, abort now: hand_op" : "by hand, abort later: hand_op";
  support::hand_op make() { return support::hand_op(end); }
  void complete() { end.complete(7); }
  bool right(int result) { return result == 7; }
  static abort_answer answer() { return Answer; }
  void stopped() {
    if constexpr (Answer == abort_answer::later) end.give_up();
  }
  void prepare(unsigned) {}
  support::hand_op make_ready() {
    complete();
    return make();
  }
  support::hand end{Answer};
};

// The other op of a select never comes to its end, and stops at once.
template <abort_answer Answer>
struct selecting : by_hand<Answer> {
  static constexpr const char* name = Answer == abort_answer::now ? "select, abort now: select_op"
                                                                  : "select, abort later: select_op";
  auto make() { return coir::select(by_hand<Answer>::make(), support::hand_op(other)); }
  template <class Got>
  bool right(const Got& got) {
    return got.index() == 0 && std::get<0>(got) == 7 && got.template also<1>() == nullptr;
  }
  auto make_ready() {
    this->complete();
    return make();
  }
  support::hand other;
};

// Ops with a name, in a select in a limit in a select.
struct selecting_nested : by_hand<abort_answer::now> {
  static constexpr const char* name = "select of select: select_op";
  auto make() {
    inner.emplace(end);
    return coir::select(support::hand_op(other), coir::move_on_after(10h, coir::select(*inner, support::hand_op(third))));
  }
  template <class Got>
  bool right(const Got& got) {
    if (got.index() != 1 || !std::get<1>(got)) return false;
    return std::get<1>(got)->index() == 0 && std::get<0>(*std::get<1>(got)) == 7;
  }
  auto make_ready() {
    complete();
    return make();
  }
  support::hand other;
  support::hand third;
  std::optional<support::hand_op> inner;
};

struct selecting_any : by_hand<abort_answer::now> {
  static constexpr const char* name = "select_any: select_any_op";
  auto make() {
    ops.clear();
    for (support::hand* each : {&other, &end, &third}) ops.emplace_back(*each);
    return coir::select_any(ops);
  }
  template <class Got>
  bool right(const Got& got) {
    return got.index == 1 && got.value == 7 && got.also.empty();
  }
  auto make_ready() {
    complete();
    return make();
  }
  support::hand other;
  support::hand third;
  std::vector<support::hand_op> ops;
};

// --- between threads ---

struct receiving_mail {
  static constexpr const char* name = "mailbox::receive: mail_op";
  coir::mail_op<int> make() { return box.receive(); }
  void complete() { to.send(7); }
  bool right(std::optional<int> got) { return got == 7; }
  static abort_answer answer() { return abort_answer::now; }
  void prepare(unsigned count) {
    for (unsigned i = 0; i < count; ++i) complete();
  }
  coir::mail_op<int> make_ready() { return make(); }

  coir::mailbox<int> box;
  coir::mailbox_sender<int> to = box.sender();
};

// There is one place, and what is in it is taken out by complete().
struct sending_remotely {
  static constexpr const char* name = "remote_sender::send: remote_send_op";
  coir::remote_send_op<int> make() { return to.send(7); }
  void complete() { check(narrow.try_receive() == 0, "what filled the channel is gone"); }
  bool right() { return narrow.try_receive() == 7; }
  static abort_answer answer() { return abort_answer::now; }
  void prepare(unsigned) {}
  coir::remote_send_op<int> make_ready() { return to_wide.send(7); }

  coir::remote_channel<int> narrow{1};
  coir::remote_channel<int> wide{1000};
  coir::remote_sender<int> to = narrow.sender();
  coir::remote_sender<int> to_wide = wide.sender();
  int filled = (coir::await(to.send(0)), 1);
};

// One other loop for all of them.
inline coir::runtime& elsewhere() {
  static coir::runtime one(coir::runtime_options().loops(1).spin(0s));
  return one;
}

struct joining_remotely {
  static constexpr const char* name = "remote::join: remote_join_op";
  struct enough {};
  coir::remote_join_op<int> make() { return whom.join(); }
  void complete() { whom.interrupt(enough()); }
  bool right(int result) { return result == 7; }
  static abort_answer answer() { return abort_answer::now; }
  void prepare(unsigned) {
    complete();
    until_dead();
  }
  coir::remote_join_op<int> make_ready() { return whom.join(); }
  void until_dead() {
    support::until([&] { return whom.state() == coir::remote_state::dead; });
  }
  joining_remotely() {
    support::until([&] { return begun->load(); });
  }
  ~joining_remotely() { whom.cancel(); }

  std::shared_ptr<std::atomic<bool>> begun = std::make_shared<std::atomic<bool>>(false);
  coir::remote<int> whom = elsewhere().spawn_on(0, [begun = begun] {
    *begun = true;
    try {
      coir::await(coir::sleep_until(coir::never));
    } catch (const enough&) {
    }
    return 7;
  });
};

struct taking_remotely : joining_remotely {
  static constexpr const char* name = "remote::take: remote_take_op";
  coir::remote_take_op<int> make() { return whom.take(); }
  void prepare(unsigned count) {
    while (dead.size() < count) dead.push_back(elsewhere().spawn_on(0, [] { return 7; }));
    support::until([&] { return dead.back().state() == coir::remote_state::dead; });
  }
  coir::remote_take_op<int> make_ready() { return dead[next++].take(); }

  std::deque<coir::remote<int>> dead;
  std::size_t next = 0;
};

// --- requests ---

struct polling {
  static constexpr const char* name = "poll: request_op";
  using op_type = coir::request_op<coir::readiness>;
  op_type make() { return {loop_here(), coir::request::poll(mine.get(), POLLIN)}; }
  void complete() { both.give("x"); }
  bool right(int events) { return (events & POLLIN) != 0; }
  static abort_answer answer() { return answer_of_requests(); }
  void prepare(unsigned) { complete(); }
  op_type make_ready() { return make(); }

  ends both;
  coir::descriptor mine{loop_here(), both.mine};
};

// A byte at a time, so that many ops find one.
struct receiving {
  static constexpr const char* name = "recv: request_op";
  using op_type = coir::request_op<coir::byte_count>;
  op_type make() { return {loop_here(), coir::request::recv(mine.get(), into)}; }
  void complete() { both.give("x"); }
  bool right(std::size_t bytes) { return bytes == 1 && std::exchange(into[0], {}) == std::byte{'x'}; }
  static abort_answer answer() { return answer_of_requests(); }
  void prepare(unsigned count) { both.give(std::string(count, 'x')); }
  op_type make_ready() { return make(); }

  ends both;
  coir::descriptor mine{loop_here(), both.mine};
  std::array<std::byte, 1> into{};
};

struct selecting_a_receive : receiving {
  static constexpr const char* name = "select of a recv: select_op";
  auto make() { return coir::select(support::hand_op(other), receiving::make()); }
  template <class Got>
  bool right(const Got& got) {
    return got.index() == 1 && receiving::right(std::get<1>(got));
  }
  auto make_ready() { return make(); }
  support::hand other;
};

struct reading : receiving {
  static constexpr const char* name = "read: request_op";
  op_type make() { return {loop_here(), coir::request::read(mine.get(), into)}; }
  op_type make_ready() { return make(); }
};

// A stream that takes nothing more until complete(). What the op sends is told from what filled it.
struct full_stream {
  static constexpr abort_answer (*answer)() = answer_of_requests;
  full_stream() {
    const int little = 1;
    ::setsockopt(both.mine, SOL_SOCKET, SO_SNDBUF, &little, sizeof little);
    const std::string filler(1024, 'f');
    while (::send(both.mine, filler.data(), filler.size(), MSG_NOSIGNAL | MSG_DONTWAIT) > 0) {
    }
    check(errno == EAGAIN, "send");
  }
  void complete() {
    std::array<char, 4096> some;
    ssize_t got = 0;
    while ((got = ::recv(both.peer.get(), some.data(), some.size(), 0)) > 0) {
      markers += static_cast<std::size_t>(std::count(some.begin(), some.begin() + got, 'm'));
    }
    check(got < 0 && errno == EAGAIN, "recv");
  }
  // What reached the peer since the last time.
  bool arrived(std::size_t count) {
    complete();
    return std::exchange(markers, 0) == count;
  }
  std::span<const std::byte> bytes() const { return std::as_bytes(std::span(text)); }

  ends both;
  std::array<char, 3> text{'m', 'm', 'm'};
  std::size_t markers = 0;
};

struct sending : full_stream {
  static constexpr const char* name = "send: request_op";
  using op_type = coir::request_op<coir::byte_count>;
  op_type make() { return {loop_here(), coir::request::send(mine.get(), bytes())}; }
  bool right(std::size_t count) { return count == bytes().size() && arrived(count); }
  void prepare(unsigned) { complete(); }
  op_type make_ready() {
    complete();
    return make();
  }
  coir::descriptor mine{loop_here(), both.mine};
};

struct becoming_readable : polling {
  static constexpr const char* name = "wait_readable: readable_op";
  coir::readable_op make() { return coir::wait_readable(mine.get()); }
  bool right() { return true; }
  coir::readable_op make_ready() { return make(); }
};

struct becoming_writable : full_stream {
  static constexpr const char* name = "wait_writable: writable_op";
  coir::writable_op make() { return coir::wait_writable(mine.get()); }
  bool right() { return true; }
  void prepare(unsigned) { complete(); }
  coir::writable_op make_ready() {
    complete();
    return make();
  }
  coir::descriptor mine{loop_here(), both.mine};
};

// --- events ---

// Blocked, so that one that nobody waits for stays pending. Standard signals merge.
struct hearing_signal {
  static constexpr const char* name = "wait_signal: signal_op";
  hearing_signal() {
    ::sigemptyset(&own);
    ::sigaddset(&own, SIGUSR1);
    check(::pthread_sigmask(SIG_BLOCK, &own, &before) == 0, "pthread_sigmask");
  }
  ~hearing_signal() {
    const timespec at_once{};
    while (::sigtimedwait(&own, nullptr, &at_once) > 0) {
    }
    ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  }
  coir::signal_op make() { return coir::wait_signal(SIGUSR1); }
  void complete() { check(::kill(::getpid(), SIGUSR1) == 0, "kill"); }
  bool right(const coir::signal_event& event) { return event.number == SIGUSR1 && event.count == 1; }
  static abort_answer answer() { return abort_answer::now; }
  static constexpr unsigned ready_at_most = 1;
  void prepare(unsigned) { complete(); }
  coir::signal_op make_ready() { return make(); }

  sigset_t own;
  sigset_t before;
};

struct outliving_child {
  static constexpr const char* name = "wait_child: child_op";
  outliving_child() {
    check(pid >= 0, "fork");
    if (pid != 0) return;
    for (;;) ::pause();
  }
  ~outliving_child() {
    // Somebody may have reaped it.
    if (::waitpid(pid, nullptr, WNOHANG) == 0) {
      ::kill(pid, SIGKILL);
      ::waitpid(pid, nullptr, 0);
    }
  }
  coir::child_op make() { return coir::wait_child(pid); }
  void complete() { ::kill(pid, SIGKILL); }
  bool right(const coir::child_status& status) { return status.pid == pid && status.signal == SIGKILL; }
  static abort_answer answer() { return abort_answer::now; }
  static constexpr unsigned ready_at_most = 1;
  void prepare(unsigned) { complete(); }
  coir::child_op make_ready() { return make(); }

  pid_t pid = ::fork();
};

// --- TCP ---

struct reading_some {
  static constexpr const char* name = "tcp_stream::read_some: tcp_read_op";
  coir::net::tcp_read_op make() { return stream.read_some(into); }
  void complete() { both.give("x"); }
  bool right(std::size_t bytes) { return bytes == 1 && std::exchange(into[0], {}) == std::byte{'x'}; }
  static abort_answer answer() { return answer_of_requests(); }
  void prepare(unsigned count) { both.give(std::string(count, 'x')); }
  coir::net::tcp_read_op make_ready() { return make(); }

  ends both;
  coir::net::tcp_stream stream{loop_here(), both.mine};
  std::array<std::byte, 1> into{};
};

// From a stream that receives into chunks.
struct reading_from_chunks : reading_some {
  static constexpr const char* name = "tcp_stream::read_some after chunks(): tcp_read_op";
  reading_from_chunks() { static_cast<void>(stream.chunks()); }
  static abort_answer answer() { return abort_answer::now; }
};

struct reading_chunks : reading_some {
  static constexpr const char* name = "chunk_reader::next: chunk_op";
  // Bytes that come together are one chunk.
  static constexpr unsigned ready_at_most = 1;
  coir::net::chunk_op make() { return chunks.next(); }
  bool right(const std::optional<coir::chunk>& arrived) {
    return arrived.has_value() && arrived->bytes().size() == 1 && arrived->bytes()[0] == std::byte{'x'};
  }
  static abort_answer answer() { return abort_answer::now; }
  coir::net::chunk_op make_ready() { return make(); }

  coir::net::chunk_reader chunks = stream.chunks();
};

struct listening {
  explicit listening(int backlog)
      : listener(coir::net::address("127.0.0.1", 0), coir::net::tcp_listener_options().backlog(backlog)) {}
  // A connection, made without coir.
  coir::unique_fd connected() const {
    coir::unique_fd socket(::socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    const coir::net::address where = listener.local_address();
    check(::connect(socket.get(), where.raw(), where.raw_bytes()) == 0 || errno == EINPROGRESS,
          "connect");
    return socket;
  }
  coir::net::tcp_listener listener;
  std::vector<coir::unique_fd> clients;
};

struct accepting : listening {
  static constexpr const char* name = "tcp_listener::accept: accept_op";
  accepting() : listening(256) {}
  coir::net::accept_op make() { return listener.accept(); }
  void complete() { clients.push_back(connected()); }
  bool right(const coir::net::tcp_stream& stream) { return static_cast<bool>(stream); }
  static abort_answer answer() { return abort_answer::now; }
  void prepare(unsigned count) {
    for (unsigned i = 0; i < count; ++i) complete();
  }
  coir::net::accept_op make_ready() { return make(); }
};

// To a listener whose backlog is full, which leaves the connection without an answer.
struct connecting : listening {
  static constexpr const char* name = "tcp_stream::connect: connect_op";
  // The kernel tries again after a second: this one is played on one surface only.
  static constexpr bool is_slow = true;
  // A backlog of 0 has room for one.
  connecting() : listening(0) { clients.push_back(connected()); }
  coir::net::connect_op make() { return coir::net::tcp_stream::connect(listener.local_address()); }
  void complete() {
    check(coir::unique_fd(::accept(listener.fd(), nullptr, nullptr)).get() >= 0, "accept");
  }
  bool right(const coir::net::tcp_stream& stream) { return static_cast<bool>(stream); }
  static abort_answer answer() { return answer_of_requests(); }
  void prepare(unsigned) {}
  coir::net::connect_op make_ready() {
    return coir::net::tcp_stream::connect(roomy.listener.local_address());
  }
  listening roomy{256};
};

struct writing_some : full_stream {
  static constexpr const char* name = "tcp_stream::write_some: tcp_write_op";
  auto make() { return stream.write_some(bytes()); }
  bool right(std::size_t count) { return count == bytes().size() && arrived(count); }
  void prepare(unsigned) { complete(); }
  auto make_ready() {
    complete();
    return make();
  }
  coir::net::tcp_stream stream{loop_here(), both.mine};
};

// --- made of steps ---

struct writing_all : full_stream {
  static constexpr const char* name = "write_all: write_all_op";
  auto make() { return coir::io::write_all(stream, bytes()); }
  bool right() { return arrived(bytes().size()); }
  void prepare(unsigned) { complete(); }
  auto make_ready() {
    complete();
    return make();
  }
  coir::net::tcp_stream stream{loop_here(), both.mine};
};

struct reading_exactly : reading_some {
  static constexpr const char* name = "read_exactly: read_exactly_op";
  auto make() { return coir::io::read_exactly(stream, into); }
  auto make_ready() { return make(); }
};

struct reading_buffered : reading_some {
  static constexpr const char* name = "buffered_reader::read_some: read_op";
  auto make() { return reader.read_some(into); }
  auto make_ready() { return make(); }
  coir::io::buffered_reader<coir::net::tcp_stream> reader{stream};
};

struct reading_until : reading_buffered {
  static constexpr const char* name = "buffered_reader::read_until: seek_op";
  auto make() { return reader.read_until("x"); }
  bool right(std::span<const std::byte> found) { return found.size() == 1 && found[0] == std::byte{'x'}; }
  auto make_ready() { return make(); }
};

struct reading_lines : reading_buffered {
  static constexpr const char* name = "buffered_reader::read_line: seek_op";
  auto make() { return reader.read_line(); }
  void complete() { both.give("x\r\n"); }
  bool right(std::optional<std::string_view> line) { return line == "x"; }
  void prepare(unsigned count) {
    for (unsigned i = 0; i < count; ++i) complete();
  }
  auto make_ready() { return make(); }
};

struct peeking : reading_buffered {
  static constexpr const char* name = "buffered_reader::peek: seek_op";
  auto make() { return reader.peek(1); }
  bool right(std::span<const std::byte> seen) { return seen.size() == 1 && seen[0] == std::byte{'x'}; }
  auto make_ready() { return make(); }
};

// --- calls that block ---

// A thread of a pool brings what complete() gives: to whoever asks first and has not been told to stop.
struct blocking_source {
  void give(unsigned count) {
    const std::lock_guard held(lock);
    there += count;
    changed.notify_all();
  }
  int take(const std::stop_token& asked) {
    std::unique_lock held(lock);
    changed.wait(held, asked, [&] { return there != 0; });
    if (asked.stop_requested()) throw coir::cancelled();
    --there;
    return 7;
  }
  std::mutex lock;
  std::condition_variable_any changed;
  unsigned there = 0;
};

struct offloading {
  static constexpr const char* name = "offload, in the queue: offload_op";
  auto make() {
    // Nothing begins before complete(), unless that has come and found nobody.
    if (!held_up && unheard == 0) {
      held_up = true;
      threads.post([this] { gate.acquire(); });
      while (threads.stats().begun == threads.stats().done) std::this_thread::yield();
    }
    return coir::offload(threads, call);
  }
  void complete() {
    ++unheard;
    if (std::exchange(held_up, false)) gate.release();
  }
  bool right(int result) { return result == 7; }
  static abort_answer answer() { return abort_answer::now; }
  void prepare(unsigned) {}
  auto make_ready() { return coir::offload(threads, call); }
  ~offloading() { complete(); }

  struct taking_one {
    std::atomic<int>* from;
    int operator()() const {
      --*from;
      return 7;
    }
  };
  std::atomic<int> unheard = 0;
  taking_one call{&unheard};
  bool held_up = false;
  std::counting_semaphore<> gate{0};
  coir::pool threads{coir::pool_options().threads(1)};
};

// When it is awaited, its call has begun: a thread has it.
template <coir::op Op>
class begun_op {
 public:
  static constexpr const char* name = Op::name;
  begun_op(Op what, std::counting_semaphore<>& begun) : what_(std::move(what)), begun_(&begun) {}
  bool start(coir::waiter& told) {
    if (!what_.start(told)) return false;
    begun_->acquire();
    return true;
  }
  abort_answer abort() noexcept { return what_.abort(); }
  auto take() { return what_.take(); }
  auto take_result()
    requires requires(Op& what) { what.take_result(); }
  {
    return what_.take_result();
  }

 private:
  Op what_;
  std::counting_semaphore<>* begun_;
};

template <class... Policy>
struct offloading_begun {
  static constexpr bool abandons = sizeof...(Policy) != 0;
  static constexpr const char* name =
      abandons ? "offload, begun, to be abandoned: abandonable_op" : "offload, begun: offload_op";
  auto make() { return begun_op(coir::offload(threads, call, Policy()...), calls->begun); }
  void complete() { calls->source.give(1); }
  bool right(int result) { return result == 7; }
  static abort_answer answer() { return abandons ? abort_answer::now : abort_answer::later; }
  void prepare(unsigned count) { calls->source.give(count); }
  auto make_ready() { return make(); }

  struct shared {
    blocking_source source;
    std::counting_semaphore<> begun{0};
  };
  struct taking_from {
    shared* from;
    int operator()(std::stop_token asked) const {
      from->begun.release();
      return from->source.take(asked);
    }
  };
  std::unique_ptr<shared> calls = std::make_unique<shared>();
  taking_from call{calls.get()};
  coir::pool threads{coir::pool_options().threads(2)};
};

struct trying_to_offload : offloading_begun<> {
  static constexpr const char* name = "try_offload: try_offload_op";
  auto make() { return begun_op(coir::try_offload(threads, call), calls->begun); }
  bool right(std::optional<int> result) { return result == 7; }
  auto make_ready() { return make(); }
};

// --- all of them ---

// as_result(op) is an op too: result_op.
template <class Case>
struct as_result : Case {
  auto make() { return coir::as_result(Case::make()); }
  auto make_ready() { return coir::as_result(Case::make_ready()); }
  template <class Result>
  bool right(const Result& result) {
    if (!result.has_value()) return false;
    if constexpr (std::is_void_v<typename Result::value_type>) {
      return Case::right();
    } else {
      return Case::right(*result);
    }
  }
};

// Not here: yield_op, which waits for nothing (scheduler_test.cpp), all_blocked_op, which waits for all others
// (tests/testing), tcp_close_op, which waits only for what else is in flight on the stream (tests/net), path_op,
// which is never ready when it begins (tests/io), region_end_op, which cannot be cancelled, and shutdown_op,
// which waits for a region (tests/scope); condition_op, which is for a fiber that holds a lock (tests/sync).
using waits = std::tuple<sleeping, sleeping_limited, taking_slots, joining, joining_any, taking, hearing_of_a_death,
                         taking_turns,
                         receiving_from_channel, receiving_a_message, sending_to_channel, hearing,
                         by_hand<abort_answer::now>, by_hand<abort_answer::later>>;
using between_threads = std::tuple<receiving_mail, sending_remotely, joining_remotely, taking_remotely>;
using requests = std::tuple<polling, receiving, reading, sending, becoming_readable, becoming_writable>;
using selects = std::tuple<selecting<abort_answer::now>, selecting<abort_answer::later>, selecting_nested,
                           selecting_any, selecting_a_receive, selecting_channels>;
using events = std::tuple<hearing_signal, outliving_child>;
using sockets =
    std::tuple<reading_some, reading_from_chunks, reading_chunks, writing_some, accepting, connecting>;
using steps = std::tuple<writing_all, reading_exactly, reading_buffered, reading_until,
                         reading_lines, peeking>;

using locks = std::tuple<locking, locking_alone, locking_shared, acquiring, passing_gate, arriving, meeting,
                         trying_once, taking_from_pool>;

using calls = std::tuple<offloading, offloading_begun<>, offloading_begun<coir::abandon_t>, trying_to_offload>;

using plain = decltype(std::tuple_cat(std::declval<waits>(), std::declval<locks>(), std::declval<calls>(),
                                      std::declval<between_threads>(), std::declval<requests>(),
                                      std::declval<events>(), std::declval<sockets>(), std::declval<steps>(),
                                      std::declval<selects>()));
// One of each sort: result_op adds only a take() of its own, which as_result_test.cpp tries with all of them.
using results =
    std::tuple<as_result<sleeping>, as_result<joining>, as_result<taking_turns>, as_result<receiving_from_channel>,
               as_result<by_hand<abort_answer::later>>, as_result<receiving>, as_result<accepting>,
               as_result<selecting<abort_answer::later>>,
               as_result<reading_exactly>, as_result<reading_lines>>;
using all = decltype(std::tuple_cat(std::declval<plain>(), std::declval<results>()));

}  // namespace op_list
