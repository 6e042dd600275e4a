// Peer: limits in time and cancelling on Boost.Asio coroutines, one thread.
//
// A limit is a race of the operation with a timer, as in cancel_after of later versions. Twice: `asio` is the race as
// documentation writes it (awaitable_operators), which makes two coroutines; `asio-group` is the parallel group below
// it, which makes none. The timer is made once, and tells by its result, not by an exception, that it lost.
//
// Nothing finishes at once in Asio: what is ready goes through the queue of the context.

#include "../scope_cases.hpp"

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/bind_cancellation_slot.hpp>
#include <boost/asio/cancellation_signal.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/deferred.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/experimental/awaitable_operators.hpp>
#include <boost/asio/experimental/channel.hpp>
#include <boost/asio/experimental/parallel_group.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>

#include <deque>
#include <string>
#include <utility>
#include <vector>

namespace {

namespace asio = boost::asio;
using asio::awaitable;
using asio::use_awaitable;
using boost::system::error_code;
using gate = asio::experimental::channel<void(error_code)>;

enum class limited { no, by_operator, by_group };

struct program {
  explicit program(std::size_t deadlines = 0) {
    scopes::other_waits waits;
    for (std::size_t i = 0; i < deadlines; ++i) {
      others.emplace_back(context, waits.next());
      others.back().async_wait([](error_code error) { scopes::check(error.failed(), "another deadline fired"); });
    }
  }

  asio::io_context context{1};  // the hint that one thread runs it leaves out its locks
  std::deque<asio::steady_timer> others;
  gate between{context};
  asio::steady_timer timer{context};
};

// ---- limits -------------------------------------------------------------------------------

// Under a limit, or not, whatever `start` gives for a completion token.
template <limited How, class Start>
awaitable<void> await_one(program& here, const Start& start) {
  if constexpr (How == limited::no) {
    co_await start(use_awaitable);
  } else if constexpr (How == limited::by_operator) {
    using namespace asio::experimental::awaitable_operators;
    here.timer.expires_after(scopes::limit);
    const auto first = co_await (start(use_awaitable) || here.timer.async_wait(asio::as_tuple(use_awaitable)));
    scopes::check(first.index() == 0, "a limit ran out");
  } else {
    using namespace asio::experimental;
    here.timer.expires_after(scopes::limit);
    const auto order = std::get<0>(co_await make_parallel_group(start(asio::deferred), here.timer.async_wait(asio::deferred))
                                       .async_wait(wait_for_one(), asio::as_tuple(use_awaitable)));
    scopes::check(order[0] == 0, "a limit ran out");
  }
}

template <limited How, class Start>
awaitable<void> await_often(program& here, std::size_t times, const Start& start) {
  for (std::size_t i = 0; i < times; ++i) co_await await_one<How>(here, start);
  here.context.stop();
}

template <limited How, class Start>
double time_awaits(program& here, const Start& start) {
  return micro::ns_per_iteration([&](std::size_t iterations) {
    here.context.restart();
    co_spawn(here.context, await_often<How>(here, iterations, start), asio::detached);
    here.context.run();
    return iterations;
  });
}

awaitable<void> keep_open(gate& which) {
  for (;;) co_await which.async_send(error_code(), use_awaitable);
}

awaitable<void> await_ready(program& here) { co_await asio::post(here.context, use_awaitable); }

template <limited How>
double ready(std::size_t deadlines) {
  program here(deadlines);
  return time_awaits<How>(here, [&](auto token) { return asio::post(here.context, token); });
}

template <limited How>
double waits(std::size_t deadlines) {
  program here(deadlines);
  co_spawn(here.context, keep_open(here.between), asio::detached);
  return time_awaits<How>(here, [&](auto token) { return here.between.async_receive(token); });
}

template <limited How>
double task(std::size_t deadlines) {
  program here(deadlines);
  return time_awaits<How>(here, [&](auto token) {
    if constexpr (How == limited::by_group) {
      return co_spawn(here.context, await_ready(here), token);
    } else {
      return await_ready(here);
    }
  });
}

// ---- cancelling ---------------------------------------------------------------------------

awaitable<void> wait_for_ever(asio::io_context& context) {
  asio::steady_timer timer(context, asio::steady_timer::time_point::max());
  co_await timer.async_wait(asio::as_tuple(use_awaitable));
}

double cancel() {
  asio::io_context context(1);
  std::deque<asio::cancellation_signal> signals;
  std::size_t ended = 0;
  for (std::size_t i = 0; i < scopes::parked; ++i) {
    signals.emplace_back();
    co_spawn(context, wait_for_ever(context),
             asio::bind_cancellation_slot(signals.back().slot(), [&](std::exception_ptr) {
               if (++ended == scopes::parked) context.stop();
             }));
  }
  context.poll();
  scopes::check(ended == 0, "a fiber ended before it was cancelled");
  return scopes::ns_for_each(scopes::parked, [&] {
    for (asio::cancellation_signal& each : signals) each.emit(asio::cancellation_type::terminal);
    context.run();
    scopes::check(ended == scopes::parked, "a cancelled fiber has not ended");
  });
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<micro::bench_case> cases;
  for (const auto& [suffix, count] : scopes::none_or_many) {
    const auto add = [&, deadlines = count, ending = suffix](const char* what, const char* subject,
                                                             double (*measure)(std::size_t)) {
      cases.push_back({"limit/" + (what + ending), subject, "ns", [=] { return measure(deadlines); }});
    };
    add("ready", "asio-unlimited", ready<limited::no>);
    add("ready", "asio", ready<limited::by_operator>);
    add("ready", "asio-group", ready<limited::by_group>);
    add("waits", "asio-unlimited", waits<limited::no>);
    add("waits", "asio", waits<limited::by_operator>);
    add("waits", "asio-group", waits<limited::by_group>);
    add("task", "asio-unlimited", task<limited::no>);
    add("task", "asio", task<limited::by_operator>);
    add("task", "asio-group", task<limited::by_group>);
  }
  cases.push_back({"cancel/100k", "asio", "ns", cancel});
  return micro::run(argc, argv, cases);
}
