// What a simulator promises whatever is drawn: each test runs with many seeds, with and without faults.
#include <coir/testing/simulator.hpp>

#include "support/both.hpp"
#include "support/catch.hpp"
#include "support/loop_tools.hpp"

#include <coir/coir.hpp>

#include <algorithm>
#include <optional>
#include <set>
#include <thread>

using namespace std::chrono_literals;
using coir::request;
using coir::testing::simulator;
using coir::testing::simulator_options;
using support::asked;
using support::bytes_of;
using support::finish;
using support::text_of;

namespace {

const coir::net::address here("127.0.0.1", 7000);

template <class Body>
void for_seeds(std::uint64_t count, Body&& body) {
  for (std::uint64_t seed = 1; seed <= count; ++seed) {
    for (const double faults : {0.0, 0.3}) {
      INFO("seed " << seed << ", faults " << faults);
      body(simulator_options().seed(seed).faults(faults));
    }
  }
}

std::string pattern(std::size_t bytes) {
  std::string text(bytes, ' ');
  for (std::size_t i = 0; i < bytes; ++i) text[i] = static_cast<char>('a' + i * 7 % 26);
  return text;
}

}  // namespace

TEST_CASE("a loop says that it is on a simulator, and with what") {
  simulator sim(simulator_options().seed(7).short_transfers(0.5));
  coir::loop loop(sim.for_loop());
  CHECK(loop.kind() == coir::backend_kind::given);
  CHECK_THAT(loop.describe(), Catch::Contains("simulator, seed 7") && Catch::Contains("short 0.5"));
}

TEST_CASE("a simulator is one loop's at a time, and after it another's") {
  simulator sim;
  {
    coir::loop first(sim.for_loop());
    CHECK_THROWS_AS(coir::loop(sim.for_loop()), std::logic_error);
  }
  coir::loop second(sim.for_loop());
  CHECK_THROWS_AS(sim.streams(), std::logic_error);
}

TEST_CASE("a given backend that nobody gave is an error") {
  CHECK_THROWS_AS(coir::loop(coir::loop_options().backend(coir::backend_kind::given)), std::logic_error);
}

TEST_CASE("a program can choose the backend of all loops that leave the choice to coir") {
  const coir::backend_kind before = coir::backend_report().kind;
  simulator sim;
  coir::choose_backend(&sim);
  CHECK(coir::backend_report().kind == coir::backend_kind::given);
  CHECK(coir::loop().kind() == coir::backend_kind::given);
  CHECK(coir::loop(coir::loop_options().backend(coir::backend_kind::epoll)).kind() == coir::backend_kind::epoll);
  coir::choose_backend(nullptr);
  CHECK(coir::backend_report().kind == before);
}

TEST_CASE("every byte that is written is read, in order, however small the buffer") {
  for_seeds(20, [](simulator_options options) {
    simulator sim(options.buffer_bytes(100));
    support::on_both_surfaces(
        [&](auto wait) {
          auto ends = sim.streams();
          auto& client = ends.first;
          auto& server = ends.second;
          const std::string sent = pattern(2000);
          auto writer = coir::spawn([&sent, out = std::move(client)]() mutable {
            coir::await(coir::io::write_all(out, bytes_of(sent)));
          });
          std::string got;
          std::array<std::byte, 64> some{};
          while (const std::size_t count = wait(server.read_some(some))) {
            got += text_of(std::span(some).first(count));
          }
          CHECK(got == sent);
          coir::await(writer.join());
        },
        sim.for_run());
  });
}

TEST_CASE("chunks bring every byte, whatever ends the receive loop early") {
  for_seeds(20, [](simulator_options options) {
    simulator sim(options.buffer_bytes(300));
    coir::run(
        [&] {
          auto ends = sim.streams();
          auto& client = ends.first;
          auto& server = ends.second;
          const std::string sent = pattern(5000);
          auto writer = coir::spawn([&sent, out = std::move(client)]() mutable {
            coir::await(coir::io::write_all(out, bytes_of(sent)));
          });
          std::string got;
          auto chunks = server.chunks();
          while (auto chunk = coir::await(chunks.next())) got += text_of(chunk->bytes());
          CHECK(got == sent);
          coir::await(writer.join());
        },
        coir::run_options().loop(sim.for_loop().chunks(4).chunk_bytes(50)));
  });
}

TEST_CASE("every connection is accepted once, whatever ends the accepting early") {
  for_seeds(20, [](const simulator_options& options) {
    simulator sim(options);
    coir::run(
        [&] {
          auto listener = sim.listener(here, 3);
          std::vector<coir::fiber<void>> clients;
          for (int i = 0; i < 10; ++i) {
            clients.push_back(coir::spawn([i] {
              auto stream = coir::await(coir::net::tcp_stream::connect(here));
              const auto mine = static_cast<std::byte>(i);
              coir::await(coir::io::write_all(stream, std::span(&mine, 1)));
            }));
          }
          std::set<int> seen;
          for (int i = 0; i < 10; ++i) {
            auto peer = coir::await(listener.accept());
            std::byte one{};
            CHECK(coir::await(peer.read_some(std::span(&one, 1))) == 1);
            seen.insert(static_cast<int>(one));
            CHECK(coir::await(peer.read_some(std::span(&one, 1))) == 0);
          }
          CHECK(seen.size() == 10);
          for (auto& client : clients) coir::await(client.join());
        },
        sim.for_run());
  });
}

TEST_CASE("nobody listens: a connect is refused by the kernel") {
  simulator sim;
  // A port that was somebody's a moment ago.
  const sockaddr_in gone = support::own_address(support::tcp_listener().get());
  coir::loop loop(sim.for_loop());
  const auto socket = support::tcp_socket();
  CHECK(finish(loop, support::connect_to(socket.get(), gone)) == -ECONNREFUSED);
}

TEST_CASE("one address has one listener; when that is closed those in its queue read the end") {
  simulator sim;
  coir::loop loop(sim.for_loop());
  coir::unique_fd listener = sim.listen(here);
  CHECK_THROWS_AS(sim.listen(here), std::system_error);
  const auto client = support::tcp_socket();
  REQUIRE(finish(loop, request::connect(client.get(), here.raw(), here.raw_bytes())) == 0);
  CHECK(finish(loop, request::connect(client.get(), here.raw(), here.raw_bytes())) == -EISCONN);
  std::array<std::byte, 4> got{};
  asked read(request::recv(client.get(), got));
  if (loop.start(read.request)) {
    listener.reset();
    support::run_until(loop, [&] { return read.over(); });
    CHECK(read.seen.last() == 0);
  }
  const auto again = sim.listen(here);
  CHECK(again);
}

TEST_CASE("a direction that was shut down is read to its end, and the other goes on") {
  for_seeds(20, [](const simulator_options& options) {
    simulator sim(options);
    coir::run(
        [&] {
          auto ends = sim.streams();
          auto& client = ends.first;
          auto& server = ends.second;
          coir::await(coir::io::write_all(client, bytes_of("last")));
          client.shutdown(coir::net::direction::send);
          CHECK_THROWS_AS(coir::await(client.write_some(bytes_of("x"))), std::system_error);
          std::array<std::byte, 4> got{};
          coir::await(coir::io::read_exactly(server, got));
          CHECK(coir::await(server.read_some(got)) == 0);
          coir::await(coir::io::write_all(server, bytes_of("back")));
          coir::await(coir::io::read_exactly(client, got));
          CHECK(text_of(got) == "back");
        },
        sim.for_run());
  });
}

TEST_CASE("a stream whose peer is gone gives what was written, then its end, and takes nothing") {
  for_seeds(20, [](const simulator_options& options) {
    simulator sim(options);
    coir::loop loop(sim.for_loop());
    auto ends = sim.pair();
    CHECK(finish(loop, request::send(ends[0].get(), bytes_of("x"))) == 1);
    ends[0].reset();
    std::array<std::byte, 4> got{};
    CHECK(finish(loop, request::send(ends[1].get(), bytes_of("x"))) == -EPIPE);
    CHECK(finish(loop, request::recv(ends[1].get(), got)) == 1);
    CHECK(finish(loop, request::recv(ends[1].get(), got)) == 0);
  });
}

TEST_CASE("a connection that is cut loses its bytes, and each end hears it once") {
  for_seeds(10, [](const simulator_options& options) {
    simulator sim(options);
    coir::loop loop(sim.for_loop());
    const auto ends = sim.pair();
    CHECK(finish(loop, request::send(ends[0].get(), bytes_of("lost"))) > 0);
    CHECK(sim.unread(ends[1].get()) > 0);
    sim.reset(ends[0].get());
    CHECK(sim.unread(ends[1].get()) == 0);
    std::array<std::byte, 4> got{};
    for (const auto& end : ends) {
      CHECK((finish(loop, request::poll(end.get(), POLLIN)) & POLLERR) != 0);
      CHECK(finish(loop, request::recv(end.get(), got)) == -ECONNRESET);
      CHECK(finish(loop, request::recv(end.get(), got)) == 0);
      CHECK(finish(loop, request::send(end.get(), bytes_of("x"))) == -EPIPE);
    }
    const auto foreign = support::socket_pair();
    CHECK_THROWS_AS(sim.reset(foreign[0].get()), std::logic_error);
  });
}

TEST_CASE("every kind of transfer finds the bytes of every other") {
  for_seeds(10, [](const simulator_options& options) {
    simulator sim(options);
    coir::loop loop(sim.for_loop());
    const auto ends = sim.pair();
    std::string one = "abc";
    std::string two = "defg";
    std::array<iovec, 2> from{iovec{one.data(), one.size()}, iovec{two.data(), two.size()}};
    std::array<std::byte, 2> low{};
    std::array<std::byte, 9> high{};
    std::array<iovec, 2> into{iovec{low.data(), low.size()}, iovec{high.data(), high.size()}};
    msghdr out{};
    out.msg_iov = from.data();
    msghdr in{};
    in.msg_iov = into.data();
    out.msg_iovlen = in.msg_iovlen = 2;
    const int fd = ends[0].get();
    const int to = ends[1].get();
    for (const auto& writes : {request::writev(fd, from.data(), 2), request::sendmsg(fd, &out)}) {
      for (const auto& reads : {request::readv(to, into.data(), 2), request::recvmsg(to, &in)}) {
        const int sent = finish(loop, writes);
        REQUIRE((sent > 0 && sent <= 7));
        std::string got;
        while (got.size() < static_cast<std::size_t>(sent)) {
          const int count = finish(loop, reads);
          REQUIRE(count > 0);
          const auto size = static_cast<std::size_t>(count);
          got += text_of(std::span(low).first(std::min<std::size_t>(2, size)));
          got += text_of(std::span(high).first(size > 2 ? size - 2 : 0));
        }
        CHECK(got == std::string("abcdefg").substr(0, static_cast<std::size_t>(sent)));
      }
    }
    CHECK(finish(loop, request::write(fd, bytes_of("x"))) == 1);
    CHECK(finish(loop, request::recv(to, low, MSG_PEEK)) == 1);
    CHECK(finish(loop, request::read(to, low)) == 1);
  });
}

TEST_CASE("what makes no sense on a descriptor is refused as a socket would") {
  simulator sim;
  coir::loop loop(sim.for_loop());
  const auto ends = sim.pair();
  const auto listener = sim.listen(here);
  std::array<std::byte, 4> some{};
  CHECK(finish(loop, request::accept(ends[0].get())) == -EINVAL);
  CHECK(finish(loop, request::accept_multi(ends[0].get())) == -EINVAL);
  CHECK(finish(loop, request::recv(listener.get(), some)) == -EINVAL);
  CHECK(finish(loop, request::send(listener.get(), some)) == -ENOTCONN);
  CHECK(finish(loop, request::recv(ends[0].get(), some, MSG_OOB)) == -EOPNOTSUPP);
  CHECK(finish(loop, request::fsync(ends[0].get())) == -EINVAL);
  CHECK(finish(loop, request::read(ends[0].get(), some, 0)) == -ESPIPE);
  coir::net::tcp_stream stream(loop, ::dup(ends[0].get()));
  CHECK_THROWS_AS(stream.set(coir::net::tcp_options()), std::system_error);
  CHECK_THROWS_AS(stream.local_address(), std::invalid_argument);
}

TEST_CASE("requests of one direction end in the order in which they began") {
  for_seeds(30, [](const simulator_options& options) {
    simulator sim(options);
    coir::loop loop(sim.for_loop());
    const auto ends = sim.pair();
    std::vector<std::unique_ptr<asked>> reads;
    std::array<std::array<std::byte, 1>, 20> got{};
    std::vector<std::size_t> order;
    for (std::size_t i = 0; i < 20; ++i) {
      reads.push_back(std::make_unique<asked>(request::recv(ends[1].get(), got[i])));
      reads[i]->seen.then = [&order, i](request&) { order.push_back(i); };
      REQUIRE(loop.start(reads[i]->request));
    }
    const std::string sent = pattern(20);
    for (const char& each : sent) REQUIRE(finish(loop, request::send(ends[0].get(), bytes_of({&each, 1}))) == 1);
    support::run_until(loop, [&] { return order.size() == 20; });
    CHECK(std::is_sorted(order.begin(), order.end()));
    for (std::size_t i = 0; i < 20; ++i) CHECK(text_of(got[i]) == sent.substr(i, 1));
  });
}

TEST_CASE("a withdrawn request is over now or later, and bytes it did not take are there for the next") {
  std::set<std::string> ways;
  for_seeds(60, [&](const simulator_options& options) {
    simulator sim(options);
    coir::loop loop(sim.for_loop());
    const auto ends = sim.pair();
    std::array<std::byte, 4> got{};
    asked read(request::recv(ends[1].get(), got));
    REQUIRE(loop.start(read.request));
    loop.run_once();
    REQUIRE(finish(loop, request::send(ends[0].get(), bytes_of("x"))) == 1);
    if (read.over()) return;
    if (loop.withdraw(read.request) == coir::abort_answer::now) {
      ways.insert("now");
    } else {
      CHECK(loop.withdraw(read.request) == coir::abort_answer::later);
      support::run_until(loop, [&] { return read.over(); });
      REQUIRE(read.seen.count() == 1);
      if (read.seen.last() == 1) {
        ways.insert("success");
        return;
      }
      CHECK(read.seen.last() == -ECANCELED);
      ways.insert("later");
    }
    CHECK(finish(loop, request::recv(ends[1].get(), got)) == 1);
  });
  CHECK(ways == std::set<std::string>{"now", "later", "success"});
}

TEST_CASE("a connection accepted after its accept was cancelled is closed or the next one's") {
  for_seeds(40, [](const simulator_options& options) {
    support::leaves_no_descriptor([&] {
      simulator sim(options);
      coir::run(
          [&] {
            auto listener = sim.listener(here);
            auto waits = coir::spawn([&] { static_cast<void>(coir::await(listener.accept())); });
            coir::await(coir::yield());
            auto client = coir::await(coir::net::tcp_stream::connect(here));
            waits.cancel();
            coir::await(coir::as_result(waits.join()));
          },
          sim.for_run());
    });
  });
}

// --- seeds ---

namespace {

// In which order ten readers get their byte, and what was told on the way.
std::pair<std::vector<int>, std::uint64_t> order_of(std::uint64_t seed, double faults) {
  simulator sim(simulator_options().seed(seed).faults(faults));
  std::vector<int> order;
  coir::run(
      [&] {
        std::vector<coir::net::tcp_stream> peers;
        for (int i = 0; i < 10; ++i) {
          auto ends = sim.streams();
          auto& client = ends.first;
          auto& server = ends.second;
          peers.push_back(std::move(client));
          coir::spawn([&order, i, in = std::move(server)]() mutable {
            std::array<std::byte, 8> got{};
            coir::await(coir::io::read_exactly(in, got));
            order.push_back(i);
          });
        }
        coir::await(coir::sleep_for(1s));
        for (auto& peer : peers) coir::await(coir::io::write_all(peer, bytes_of("8 bytes.")));
        coir::await(coir::sleep_for(1s));
      },
      sim.for_run());
  return {order, sim.fingerprint()};
}

}  // namespace

TEST_CASE("the same seed gives the same order, result for result; another seed gives another") {
  std::set<std::vector<int>> orders;
  std::set<std::uint64_t> fingerprints;
  for (std::uint64_t seed = 1; seed <= 50; ++seed) {
    const auto first = order_of(seed, 0.3);
    CHECK(first.first.size() == 10);
    CHECK(order_of(seed, 0.3) == first);
    orders.insert(first.first);
    fingerprints.insert(first.second);
  }
  CHECK(orders.size() > 40);
  CHECK(fingerprints.size() == 50);
}

// --- time, and what is not simulated ---

TEST_CASE("a timeout of an hour takes no time, and does not fire while bytes are under way") {
  for_seeds(20, [](simulator_options options) {
    simulator sim(options.late(0.9));
    const coir::instant began = coir::steady_now();
    coir::run(
        [&] {
          auto ends = sim.streams();
          auto& client = ends.first;
          auto& server = ends.second;
          const coir::instant before = sim.clock().now();
          std::array<std::byte, 4> got{};
          coir::await(coir::io::write_all(client, bytes_of("ping")));
          coir::await(coir::io::read_exactly(server, got));
          CHECK(sim.clock().now() == before);
          auto reader = coir::spawn([&] { static_cast<void>(coir::await(server.read_some(got))); });
          coir::await(coir::sleep_for(1h));
          reader.cancel();
          coir::await(coir::as_result(reader.join()));
          CHECK(sim.clock().now() - before == 1h);
        },
        sim.for_run());
    CHECK(coir::steady_now() - began < 5s);
  });
}

TEST_CASE("fibers that wait for each other's bytes are a deadlock, and it is told at once") {
  for_seeds(10, [](const simulator_options& options) {
    simulator sim(options);
    const auto program = [&](bool listens) {
      coir::run(
          [&] {
            auto ends = sim.streams();
            auto& client = ends.first;
            auto& server = ends.second;
            auto listener = sim.listener(here);
            std::array<std::byte, 4> got{};
            auto other = coir::spawn([&] {
              listens ? static_cast<void>(coir::await(listener.accept()))
                      : static_cast<void>(coir::await(server.read_some(got)));
            });
            coir::await(client.read_some(got));
          },
          sim.for_run());
    };
    CHECK_THROWS_WITH(program(false), Catch::Contains("in read on descriptor"));
    CHECK_THROWS_WITH(program(true), Catch::Contains("in accept on descriptor"));
  });
}

TEST_CASE("posts of other threads wake a loop that has nothing of its own to wait for") {
  for_seeds(3, [](const simulator_options& options) {
    simulator sim(options);
    coir::loop loop(sim.for_loop());
    const auto ends = sim.pair();
    std::array<std::byte, 1> got{};
    asked read(request::recv(ends[1].get(), got));
    REQUIRE(loop.start(read.request));
    std::optional<coir::loop::hold> held(loop);
    int posts = 0;
    asked write(request::send(ends[0].get(), bytes_of("x")));
    std::thread other([&] {
      for (int i = 0; i < 20; ++i) {
        std::this_thread::sleep_for(1ms);
        loop.post([&] {
          if (++posts < 20) return;
          loop.start(write.request);
          held.reset();
        });
      }
    });
    loop.run();
    other.join();
    CHECK(posts == 20);
    CHECK(read.seen.results == std::vector{1});
  });
}

TEST_CASE("watchers, signals' like and real descriptors work beside what is simulated") {
  for_seeds(10, [](const simulator_options& options) {
    simulator sim(options);
    coir::run(
        [&] {
          auto ends = sim.streams();
          auto& client = ends.first;
          auto& server = ends.second;
          const auto real = support::pipe_pair();
          const auto watched = support::pipe_pair();
          coir::loop& loop = *coir::loop::current();
          int calls = 0;
          std::thread writer;
          auto watcher = loop.watch(watched[0].get(), coir::watch_options{.read = [&](coir::watcher& which) {
            ++calls;
            which.cancel();
          }});
          std::array<std::byte, 4> got{};
          auto reader = coir::spawn([&] {
            std::array<std::byte, 4> from_pipe{};
            CHECK(coir::await(coir::request_op<coir::byte_count>(
                      loop, request::read(real[0].get(), from_pipe))) > 0);
            coir::await(coir::io::write_all(client, bytes_of("done")));
          });
          coir::loop::hold held(loop);
          writer = std::thread([&] {
            std::this_thread::sleep_for(1ms);
            static_cast<void>(::write(watched[1].get(), "x", 1));
            std::this_thread::sleep_for(1ms);
            static_cast<void>(::write(real[1].get(), "real", 4));
          });
          coir::await(coir::io::read_exactly(server, got));
          CHECK(calls == 1);
          writer.join();
          coir::await(reader.join());
        },
        coir::run_options().loop(sim.for_loop()));
  });
}
