// Each thing that is drawn, drawn always and never.
#include <coir/testing/simulator.hpp>

#include "support/catch.hpp"
#include "support/loop_tools.hpp"

#include <coir/coir.hpp>

#include <set>

using coir::request;
using coir::testing::simulator;
using coir::testing::simulator_options;
using support::asked;
using support::bytes_of;
using support::finish;
using support::text_of;

namespace {

const coir::net::address here("127.0.0.1", 7000);

// A stream with "twelve bytes" to read.
struct fed {
  explicit fed(const simulator_options& options) : sim(options), loop(sim.for_loop()) {
    std::size_t done = 0;
    while (done < 12) done += static_cast<std::size_t>(finish(loop, request::send(out(), bytes_of("twelve bytes").subspan(done))));
  }
  int in() const { return ends[1].get(); }
  int out() const { return ends[0].get(); }

  simulator sim;
  coir::loop loop;
  std::array<coir::unique_fd, 2> ends = sim.pair();
  std::array<std::byte, 64> got{};
};

}  // namespace

TEST_CASE("what can be served is served inside start(), or never there") {
  fed always(simulator_options().at_once(1));
  CHECK_FALSE(always.loop.start(*std::make_unique<request>(request::recv(always.in(), always.got))));
  fed never(simulator_options().at_once(0));
  asked read(request::recv(never.in(), never.got));
  REQUIRE(never.loop.start(read.request));
  support::run_until(never.loop, [&] { return read.over(); });
  CHECK(read.seen.results == std::vector{12});
}

TEST_CASE("a late request takes more turns, and comes to its end all the same") {
  for (const double late : {0.0, 1.0}) {
    fed on(simulator_options().at_once(0).late(late));
    asked read(request::recv(on.in(), on.got));
    REQUIRE(on.loop.start(read.request));
    int turns = 0;
    for (; !read.over(); ++turns) CHECK(on.loop.run_once() > 0);
    CHECK(turns == (late == 0 ? 1 : 17));
  }
}

TEST_CASE("a short transfer moves some bytes, and never more than there are") {
  std::set<int> sizes;
  for (std::uint64_t seed = 0; seed < 100; ++seed) {
    fed on(simulator_options().seed(seed).short_transfers(1));
    const int size = finish(on.loop, request::recv(on.in(), on.got));
    CHECK(size > 0);
    CHECK(size < 12);
    CHECK(text_of(on.got).substr(0, static_cast<std::size_t>(size)) ==
          std::string("twelve bytes").substr(0, static_cast<std::size_t>(size)));
    sizes.insert(size);
    const int sent = finish(on.loop, request::write(on.out(), bytes_of("more")));
    CHECK(sent > 0);
    CHECK(sent < 4);
  }
  CHECK(sizes.size() == 11);
}

TEST_CASE("a short transfer takes nothing from a real datagram, and is short on a real stream") {
  simulator sim(simulator_options().short_transfers(1));
  coir::loop loop(sim.for_loop());
  std::array<std::byte, 64> got{};
  const auto packets = support::socket_pair(SOCK_DGRAM);
  REQUIRE(::send(packets[0].get(), "twelve bytes", 12, 0) == 12);
  CHECK(finish(loop, request::recv(packets[1].get(), got)) == 12);
  for (const auto& ends : {support::socket_pair(), support::pipe_pair()}) {
    const bool is_pipe = ::send(ends[1].get(), "twelve bytes", 12, MSG_NOSIGNAL) < 0;
    if (is_pipe) REQUIRE(::write(ends[1].get(), "twelve bytes", 12) == 12);
    CHECK(finish(loop, request::read(ends[0].get(), std::span(got).first(12))) < 12);
  }
}

TEST_CASE("a multishot request that is lost has told its result, or -EINTR, and is over") {
  std::set<int> last;
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    simulator sim(simulator_options().seed(seed).lost_multishots(0.5));
    coir::loop loop(sim.for_loop().chunk_bytes(4));
    const auto ends = sim.pair();
    asked read(request::recv_multi(ends[1].get()));
    std::string got;
    read.seen.then = [&](request& told) {
      if (told.result > 0) got += text_of(loop.chunks().claim(told.chunk(), static_cast<std::size_t>(told.result)).bytes());
    };
    REQUIRE(loop.start(read.request));
    REQUIRE(finish(loop, request::send(ends[0].get(), bytes_of("twelve bytes"))) == 12);
    for (int i = 0; i < 10 && !read.over(); ++i) loop.run_once();
    CHECK(std::string("twelve bytes").substr(0, got.size()) == got);
    if (read.over()) last.insert(read.seen.last());
    CHECK(sim.unread(ends[1].get()) == 12 - got.size());
    if (!read.over()) support::give_up(loop, read);
    CHECK(loop.chunks().free() == loop.chunks().count());
  }
  CHECK(last == std::set{4, -EINTR});
}

TEST_CASE("a receive loop that finds no chunk ends with -ENOBUFS, and has taken nothing") {
  fed on(simulator_options().no_chunks(1));
  asked read(request::recv_multi(on.in()));
  CHECK(finish(on.loop, read) == -ENOBUFS);
  CHECK(on.sim.unread(on.in()) == 12);
  CHECK(on.loop.chunks().free() == on.loop.chunks().count());
}

TEST_CASE("a withdrawn request is over now, or later, or later with success") {
  const auto withdraw = [](const simulator_options& options) {
    simulator sim(options);
    coir::loop loop(sim.for_loop());
    const auto ends = sim.pair();
    std::array<std::byte, 64> got{};
    asked read(request::recv(ends[1].get(), got));
    REQUIRE(loop.start(read.request));
    REQUIRE(finish(loop, request::send(ends[0].get(), bytes_of("twelve bytes"))) == 12);
    const int result = support::give_up(loop, read);
    CHECK(sim.unread(ends[1].get()) == (result == 12 ? 0 : 12));
    return std::pair(read.seen.count(), result);
  };
  const auto options = [] { return simulator_options().at_once(1).late(1); };
  CHECK(withdraw(options().withdrawn_now(1)) == std::pair<std::size_t, int>(0, -ECANCELED));
  CHECK(withdraw(options().withdrawn_now(0)) == std::pair<std::size_t, int>(1, -ECANCELED));
  CHECK(withdraw(options().withdrawn_now(0).late_success(1)) == std::pair<std::size_t, int>(1, 12));
}

TEST_CASE("a late success of what cannot be served is none") {
  simulator sim(simulator_options().withdrawn_now(0).late_success(1));
  coir::loop loop(sim.for_loop());
  const auto ends = sim.pair();
  const auto listener = sim.listen(here);
  std::array<std::byte, 64> got{};
  asked first(request::recv(ends[1].get(), got));
  asked second(request::recv(ends[1].get(), got));
  asked accept(request::accept_multi(listener.get()));
  for (asked* const each : {&first, &second, &accept}) REQUIRE(loop.start(each->request));
  // The one behind in line must not take what is the first's.
  REQUIRE(finish(loop, request::send(ends[0].get(), bytes_of("x"))) == 1);
  loop.withdraw(second.request);
  support::run_until(loop, [&] { return first.over() && second.over(); });
  CHECK(first.seen.last() + second.seen.last() == 1 - ECANCELED);
  CHECK(support::give_up(loop, accept) == -ECANCELED);
}

TEST_CASE("a success after a close by hand is not of the number's next user") {
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    simulator sim(simulator_options().seed(seed).withdrawn_now(0).late_success(1));
    coir::loop loop(sim.for_loop());
    auto ends = sim.pair();
    std::array<std::byte, 64> got{};
    asked read(request::recv(ends[1].get(), got));
    REQUIRE(loop.start(read.request));
    const int number = ends[1].get();
    ends[1].reset();
    auto others = sim.pair();
    REQUIRE((others[0].get() == number || others[1].get() == number));
    const auto& writer = others[0].get() == number ? others[1] : others[0];
    loop.adopt(number);
    REQUIRE(finish(loop, request::send(writer.get(), bytes_of("new"))) == 3);
    support::run_until(loop, [&] { return read.over(); });
    CHECK(read.seen.last() < 0);
    CHECK(finish(loop, request::recv(number, got)) == 3);
    loop.disown(number);
  }
}
