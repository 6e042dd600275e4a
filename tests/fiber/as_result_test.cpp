// as_result(op), for every op there is, on both surfaces.
#include "op_scene.hpp"

#include "support/both.hpp"
#include "support/loop_tools.hpp"

#include <coir/testing/wait_all_blocked.hpp>

#include <cerrno>
#include <memory>
#include <system_error>
#include <tuple>
#include <utility>

namespace {

// One wait for it that ends with the result, one that is cancelled, and one that need not wait.
template <class Case, class Surface>
void play() {
  INFO("op: " << Case::name << ", surface: " << Surface::name);
  coir::testing::mock_clock time(coir::testing::mock_clock::mode::by_hand);
  op_list::clock = &time;
  coir::run(
      [] {
        op_list::as_result<Case> world;
        support::spy_log log;
        bool right = false;
        const op_scene::receive<op_list::as_result<Case>> then{&world, &log, &right};
        const auto spawn = [&](auto what) -> coir::handle_base {
          return op_scene::bodies::spawn(Surface(), std::move(what), then);
        };
        auto stopped = spawn(world.make());
        op_scene::until_waiting(stopped);
        stopped.cancel();
        if constexpr (requires { world.stopped(); }) world.stopped();
        op_scene::until_dead(stopped);
        CHECK(stopped.outcome() == coir::fiber_outcome::cancelled);
        CHECK(log.user_code == 0);

        auto served = spawn(world.make());
        op_scene::until_waiting(served);
        world.complete();
        op_scene::until_dead(served);
        CHECK(log.user_code == 1);
        CHECK(right);

        world.prepare(1);
        auto at_once = spawn(world.make_ready());
        op_scene::until_dead(at_once);
        CHECK(log.user_code == 2);
        CHECK(at_once.outcome() == coir::fiber_outcome::returned);
      },
      coir::run_options().loop(coir::loop_options().time(&time)));
}

template <class... Cases>
void play_all(std::tuple<Cases...>*) {
  (play<Cases, surfaces::coroutine>(), ...);
  ((requires { Cases::is_slow; } ? void() : play<Cases, surfaces::stack>()), ...);
}

}  // namespace

TEST_CASE("as_result of each op that waits has its result, throws `cancelled`, and need not wait where the op need not") {
  play_all(static_cast<op_list::plain*>(nullptr));
}

TEST_CASE("as_result has the error of what is closed, gone or was cancelled on another loop as a code") {
  support::on_both_surfaces([](auto wait) {
    auto closed = std::make_unique<coir::remote_channel<int>>(1);
    auto to = closed->sender();
    CHECK(wait(coir::as_result(to.send(1))).has_value());
    // Waits for room, and hears of the end.
    auto refused = coir::spawn([&] { return wait(coir::as_result(to.send(2))).error() == std::errc::broken_pipe; });
    support::until([&] { return closed->stats().waiting_senders == 1; });
    closed.reset();
    CHECK(wait(refused.take()));
    CHECK(wait(coir::as_result(to.send(3))).error() == std::errc::broken_pipe);

    auto stopped = op_list::elsewhere().spawn_on(0, [] { coir::await(coir::sleep_until(coir::never)); });
    stopped.cancel();
    CHECK(wait(coir::as_result(stopped.join())).error() == std::errc::operation_canceled);
    auto failed = op_list::elsewhere().spawn_on(0, []() -> int { coir::throw_error(EDOM, "here"); });
    CHECK(wait(coir::as_result(failed.take())).error() == std::errc::argument_out_of_domain);
  });
}

TEST_CASE("what was read is in the result, or the error's message") {
  coir::run([]() -> coir::task<> {
    std::vector<std::string> logged;
    const auto log = [&](std::string what) { logged.push_back(std::move(what)); };
    op_list::ends both;
    coir::net::tcp_stream peer(*coir::loop::current(), both.mine);
    std::array<std::byte, 16> buffer;
    both.give("abc");
    for (const bool open : {true, false}) {
      if (!open) peer = coir::net::tcp_stream(*coir::loop::current(), support::tcp_socket().release());
      coir::expected<std::size_t, std::error_code> got = co_await coir::as_result(peer.read_some(buffer));
      if (!got) log(got.error().message());
      if (open) CHECK(got.value() == 3);
    }
    CHECK(logged == std::vector{std::make_error_code(std::errc::not_connected).message()});
  });
}

TEST_CASE("as_result of the ops that the list leaves out") {
  support::on_both_surfaces([](auto wait) {
    CHECK(wait(coir::as_result(coir::yield())).has_value());
    CHECK(wait(coir::as_result(coir::testing::wait_all_blocked())).has_value());

    coir::mutex m;
    coir::condition changed;
    auto held = wait(m.lock());
    coir::spawn([&] { changed.notify_all(); });
    CHECK(wait(coir::as_result(changed.wait(held))).has_value());
    CHECK(held);
  });
}
