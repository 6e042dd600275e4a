// Who is called for what, and in which order.
#include "loop/watch_tools.hpp"

#include <netinet/in.h>
#include <sys/socket.h>

#include <algorithm>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

using namespace std::chrono_literals;
using coir::watch_options;
using coir::watcher;
using tests::line;
using tests::put;
using tests::take;

namespace {

// Connected to a port where nobody listens, and told so: EPOLLERR and EPOLLOUT, and no EPOLLIN.
coir::unique_fd refused_socket() {
  coir::unique_fd gone = support::bound_socket(SOCK_DGRAM);
  const sockaddr_in where = support::own_address(gone.get());
  gone.reset();
  coir::unique_fd made = support::tcp_socket(SOCK_DGRAM);
  REQUIRE(::connect(made.get(), support::generic(where), sizeof where) == 0);
  put(made, "x");
  return made;
}

int pending_error(int fd) {
  int error = 0;
  socklen_t size = sizeof error;
  REQUIRE(::getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) == 0);
  return error;
}

}  // namespace

TEST_CASE("readable and writable at once: read before write") {
  coir::loop loop;
  const support::fd_pair ends = support::socket_pair();
  std::string order;
  auto both = loop.watch(ends[0].get(),
                         watch_options{.read = [&] { order += "r"; }, .write = [&] { order += "w"; }});
  put(ends[1], "x");
  loop.run_once();
  CHECK(order == "rw");
}

TEST_CASE("a read that cancels its watcher leaves the write to nobody") {
  coir::loop loop;
  const support::fd_pair ends = support::socket_pair();
  auto both = loop.watch(ends[0].get(), watch_options{.read = [&](watcher& w) { w.cancel(); },
                                                      .write = [] { FAIL("cancelled"); }});
  put(ends[1], "x");
  support::idle_turns(loop);
  CHECK_FALSE(both);
}

TEST_CASE("a read that disables writing leaves the write to nobody") {
  coir::loop loop;
  const support::fd_pair ends = support::socket_pair();
  int reads = 0;
  auto both = loop.watch(ends[0].get(), watch_options{.read =
                                                          [&](watcher& w) {
                                                            ++reads;
                                                            w.disable_write();
                                                          },
                                                      .write = [] { FAIL("disabled"); }});
  put(ends[1], "x");
  support::idle_turns(loop);
  CHECK(reads == 5);
}

TEST_CASE("a read that enables writing is not followed by a write for the same event") {
  coir::loop loop;
  const support::fd_pair ends = support::socket_pair();
  std::string order;
  auto both = loop.watch(ends[0].get(), watch_options{.read =
                                                          [&](watcher& w) {
                                                            order += "r";
                                                            w.enable_write();
                                                          },
                                                      .write = [&] { order += "w"; }});
  both->disable_write();
  put(ends[1], "x");
  loop.run_once();
  CHECK(order == "r");
  loop.run_once();
  CHECK(order == "rrw");
}

TEST_CASE("a read that replaces its watcher leaves the write to nobody, and the new one hears next turn") {
  coir::loop loop;
  const support::fd_pair ends = support::socket_pair();
  std::string order;
  coir::owned<watcher> second;
  auto first = loop.watch(ends[0].get(), watch_options{
      .read =
          [&](watcher& w) {
            order += "1r";
            second = loop.watch(w.fd(), watch_options{.read = [&] { order += "2r"; },
                                                      .write = [&] { order += "2w"; },
                                                      .replace = true});
            CHECK_FALSE(w.active());
          },
      .write = [] { FAIL("replaced"); }});
  put(ends[1], "x");
  loop.run_once();
  CHECK(order == "1r");
  loop.run_once();
  CHECK(order == "1r2r2w");
}

TEST_CASE("an error calls the error callback and nothing else") {
  coir::loop loop;
  const coir::unique_fd socket = refused_socket();
  std::string order;
  auto all = loop.watch(socket.get(), watch_options{.read = [&] { order += "r"; },
                                                    .write = [&] { order += "w"; },
                                                    .error = [&](watcher& w) {
                                                      order += "e";
                                                      CHECK(pending_error(w.fd()) == ECONNREFUSED);
                                                      w.disable_write();
                                                    }});
  support::idle_turns(loop);
  CHECK(order == "e");
  CHECK(loop.stats().watchers.errors == 1);
}

TEST_CASE("an error without an error callback counts as readable and as writable") {
  coir::loop loop;
  const coir::unique_fd socket = refused_socket();
  std::string order;
  auto both = loop.watch(socket.get(), watch_options{.read = [&](watcher& w) {
                                                       order += "r";
                                                       CHECK(pending_error(w.fd()) == ECONNREFUSED);
                                                     },
                                                     .write = [&](watcher& w) {
                                                       order += "w";
                                                       w.disable_write();
                                                     }});
  support::idle_turns(loop);
  CHECK(order == "rw");
}

TEST_CASE("an error without an error callback reaches a watcher of one direction, whichever it is") {
  coir::loop loop;
  const coir::unique_fd one = refused_socket();
  const coir::unique_fd two = refused_socket();
  std::string order;
  auto in = loop.watch(one.get(), watch_options{.read = [&](watcher& w) {
                         order += "r";
                         CHECK(pending_error(w.fd()) == ECONNREFUSED);
                       }});
  auto out = loop.watch(two.get(), watch_options{.write = [&](watcher& w) {
                          order += "w";
                          CHECK(pending_error(w.fd()) == ECONNREFUSED);
                          w.disable_write();
                        }});
  support::idle_turns(loop);
  std::sort(order.begin(), order.end());
  CHECK(order == "rw");
}

TEST_CASE("an error callback alone is enough, and hears a pipe whose readers are gone") {
  coir::loop loop;
  support::fd_pair ends = support::pipe_pair();
  int errors = 0;
  auto out = loop.watch(ends[1].get(), watch_options{.error = [&](watcher& w) {
                          ++errors;
                          w.cancel();
                        }});
  support::idle_turns(loop);
  CHECK(errors == 0);
  ends[0].reset();
  loop.run();
  CHECK(errors == 1);
}

TEST_CASE("writing to a pipe whose readers are gone is an error result, never a signal, and ends") {
  coir::loop loop;
  support::fd_pair ends = support::pipe_pair();
  support::fill(ends[1].get());
  int calls = 0;
  auto out = loop.watch(ends[1].get(), watch_options{.write = [&](watcher& w) {
                          ++calls;
                          CHECK(::write(w.fd(), "x", 1) < 0);
                          CHECK(errno == EPIPE);
                          w.cancel();
                        }});
  loop.run_once();
  CHECK(calls == 0);
  ends[0].reset();
  loop.run();
  CHECK(calls == 1);
}

TEST_CASE("a hang-up is readable, so that the end is found by reading") {
  coir::loop loop;
  support::fd_pair ends = support::pipe_pair();
  int ended = 0;
  auto in = loop.watch(ends[0].get(), watch_options{.read = [&](watcher& w) {
                                                      char byte;
                                                      CHECK(::read(w.fd(), &byte, 1) == 0);
                                                      ++ended;
                                                      w.cancel();
                                                    },
                                                    .error = [] { FAIL("no error"); }});
  ends[1].reset();
  loop.run();
  CHECK(ended == 1);
}

TEST_CASE("what was written before a hang-up is read before the end") {
  coir::loop loop;
  support::fd_pair ends = support::pipe_pair();
  std::string text;
  auto in = loop.watch(ends[0].get(), watch_options{.read = [&](watcher& w) {
                         const std::string some = take(w.fd(), 2);
                         text += some.empty() ? "." : some;
                         if (some.empty()) w.cancel();
                       }});
  put(ends[1], "abcde");
  ends[1].reset();
  loop.run();
  CHECK(text == "abcde.");
}

TEST_CASE("a peer that has only stopped writing makes readable, and not an error or a hang-up") {
  coir::loop loop;
  const support::fd_pair ends = support::tcp_pair();
  std::string order;
  auto both = loop.watch(ends[0].get(), watch_options{.read = [&](watcher& w) {
                                                        char byte;
                                                        CHECK(::read(w.fd(), &byte, 1) == 0);
                                                        order += "end";
                                                        w.disable_read();
                                                      },
                                                      .error = [] { FAIL("no error"); }});
  REQUIRE(::shutdown(ends[1].get(), SHUT_WR) == 0);
  while (order.empty()) loop.run_once(-1ns);
  support::idle_turns(loop);
  CHECK(order == "end");
  CHECK(both->listens());
  CHECK(loop.stats().watchers.unheard == 0);
}

TEST_CASE("a reset calls the error callback once, or read and write once each") {
  for (const bool listens : {true, false}) {
    coir::loop loop;
    support::fd_pair ends = support::tcp_pair();
    std::string order;
    watch_options wanted{.read = [&] { order += "r"; }, .write = [&](watcher& w) {
                           order += "w";
                           w.cancel();
                         }};
    if (listens) {
      wanted.error = [&](watcher& w) {
        order += "e";
        w.cancel();
      };
    }
    support::reset(ends[1]);
    auto all = loop.watch(ends[0].get(), std::move(wanted));
    loop.run();
    CHECK(order == (listens ? "e" : "rw"));
  }
}

TEST_CASE("a hang-up where reading is disabled is told to the error callback, else to write") {
  coir::loop loop;
  support::fd_pair one = support::socket_pair();
  support::fd_pair two = support::socket_pair();
  support::fill(two[0].get());
  std::string order;
  auto first = loop.watch(one[0].get(), watch_options{.read = [] { FAIL("disabled"); },
                                                      .error = [&](watcher& w) {
                                                        order += "e";
                                                        w.cancel();
                                                      }});
  auto second = loop.watch(two[0].get(), watch_options{.write = [&](watcher& w) {
                             order += "w";
                             w.cancel();
                           }});
  first->disable_read();
  loop.run_once();
  CHECK(order.empty());
  one[1].reset();
  two[1].reset();
  loop.run();
  CHECK(order == "ew");
}

TEST_CASE("a hang-up that is not read is told to the error callback alone, also where there is room to write") {
  for (const bool writes : {true, false}) {
    coir::loop loop;
    support::fd_pair ends = support::socket_pair();
    int writable = 0;
    int errors = 0;
    auto in = loop.watch(ends[0].get(), watch_options{.write = [&] { ++writable; }, .error = [&] { ++errors; }});
    if (!writes) in->disable_write();
    loop.run_once();
    CHECK(writable == (writes ? 1 : 0));
    ends[1].reset();
    writable = 0;
    support::idle_turns(loop, 10);
    CHECK(errors == 10);
    CHECK(writable == 0);
  }
}

TEST_CASE("descriptors are told in the kernel's order: that in which they became ready") {
  coir::loop loop;
  std::vector<line> lines(5);
  std::string order;
  for (std::size_t i = 0; i < lines.size(); ++i) {
    lines[i].in = loop.watch(lines[i].fd(), watch_options{.read = [&order, i](watcher& w) {
                               order += std::to_string(i);
                               take(w.fd());
                             }});
  }
  for (const std::size_t i : {3U, 0U, 4U, 1U, 2U}) put(lines[i].ends[1], "x");
  loop.run_once();
  CHECK(order == "30412");
}

TEST_CASE("more descriptors than fit in a batch are all told before one is told again") {
  coir::loop loop;
  std::vector<line> lines(400);
  std::vector<int> calls(lines.size());
  for (std::size_t i = 0; i < lines.size(); ++i) {
    lines[i].in = loop.watch(lines[i].fd(), watch_options{.read = [&calls, i] { ++calls[i]; }});
    put(lines[i].ends[1], "x");
  }
  for (int turn = 0; turn < 8; ++turn) {
    loop.run_once();
    const auto [least, most] = std::minmax_element(calls.begin(), calls.end());
    CHECK(*most - *least <= 1);
  }
  CHECK(loop.stats().watchers.largest_batch < lines.size());
}

TEST_CASE("a watcher cancelled, disabled or unwatched by one before it in the batch is not called") {
  coir::loop loop;
  line one, two, three, four;
  std::string order;
  const auto never = [] { FAIL("ended"); };
  one.in = loop.watch(one.fd(), watch_options{.read = [&] {
                        order += "1";
                        two.in.reset();
                        three.in->disable_read();
                        loop.unwatch(four.fd());
                      }});
  two.in = loop.watch(two.fd(), watch_options{.read = never});
  three.in = loop.watch(three.fd(), watch_options{.read = never});
  four.in = loop.watch(four.fd(), watch_options{.read = never});
  for (line* each : {&one, &two, &three, &four}) put(each->ends[1], "x");
  loop.run_once();
  CHECK(order == "1");
  loop.run_once();
  CHECK(order == "11");
}

TEST_CASE("a watcher that was called before may be cancelled by one behind it in the batch") {
  coir::loop loop;
  line one, two;
  std::string order;
  one.in = loop.watch(one.fd(), watch_options{.read = [&] { order += "1"; }});
  two.in = loop.watch(two.fd(), watch_options{.read = [&] {
                        order += "2";
                        one.in.reset();
                      }});
  put(one.ends[1], "x");
  put(two.ends[1], "x");
  loop.run_once();
  loop.run_once();
  CHECK(order == "122");
}

TEST_CASE("a watcher replaced by one before it in the batch is not called, and the new one next turn") {
  coir::loop loop;
  line one, two;
  std::string order;
  one.in = loop.watch(one.fd(), watch_options{.read = [&](watcher& w) {
                        order += "1";
                        take(w.fd());
                        two.in = loop.watch(two.fd(), watch_options{.read = [&] { order += "new"; },
                                                                    .replace = true});
                      }});
  two.in = loop.watch(two.fd(), watch_options{.read = [] { FAIL("replaced"); }});
  put(one.ends[1], "x");
  put(two.ends[1], "x");
  loop.run_once();
  CHECK(order == "1");
  loop.run_once();
  CHECK(order == "1new");
}

TEST_CASE("a watcher cancelled and made anew by one before it hears in the next turn, not in this") {
  coir::loop loop;
  line one, two;
  std::string order;
  one.in = loop.watch(one.fd(), watch_options{.read = [&](watcher& w) {
                        order += "1";
                        take(w.fd());
                        two.in.reset();
                        two.in = loop.watch(two.fd(), watch_options{.read = [&] { order += "new"; }});
                      }});
  two.in = loop.watch(two.fd(), watch_options{.read = [] { FAIL("cancelled"); }});
  put(one.ends[1], "x");
  put(two.ends[1], "x");
  loop.run_once();
  CHECK(order == "1");
  loop.run_once();
  CHECK(order == "1new");
}

TEST_CASE("what is registered in a callback is called in the next turn at the earliest, ready or not") {
  coir::loop loop;
  line one, two;
  std::string order;
  put(two.ends[1], "x");
  one.in = loop.watch(one.fd(), watch_options{.read = [&](watcher& w) {
                        order += "1";
                        take(w.fd());
                        two.in = loop.watch(two.fd(), watch_options{.read = [&] { order += "2"; }});
                      }});
  put(one.ends[1], "x");
  loop.run_once();
  CHECK(order == "1");
  loop.run_once();
  CHECK(order == "12");
}

TEST_CASE("a number closed and reused in its own callback: the new registration gets its own event") {
  coir::loop loop;
  support::fd_pair ends = support::pipe_pair();
  const support::fd_pair other = support::pipe_pair();
  put(ends[1], "old");
  put(other[1], "new");
  std::string order;
  coir::owned<watcher> second;
  auto first = loop.watch(ends[0].get(), watch_options{
      .read =
          [&](watcher& w) {
            order += take(w.fd());
            const int number = ends[0].release();
            ::close(number);
            REQUIRE(::dup2(other[0].get(), number) == number);
            ends[0] = coir::unique_fd(number);
            second = loop.watch(number, watch_options{.read = [&](watcher& again) {
                                  order += take(again.fd());
                                }});
          },
      .write = [] { FAIL("ended"); }});
  loop.run_once();
  CHECK(order == "old");
  CHECK_FALSE(first);
  loop.run_once();
  CHECK(order == "oldnew");
}

TEST_CASE("a number closed and reused by one before it in the batch: the old event reaches nobody") {
  for (const bool unwatches : {true, false}) {
    coir::loop loop;
    line one, two;
    const support::fd_pair other = support::pipe_pair();
    std::string order;
    one.in = loop.watch(one.fd(), watch_options{.read = [&](watcher& w) {
      order += take(w.fd());
      const int number = two.fd();
      if (unwatches) two.in.reset();
      two.ends[0].reset();
      REQUIRE(::dup2(other[0].get(), number) == number);
      two.ends[0] = coir::unique_fd(number);
      two.in = loop.watch(number, watch_options{.read = [&](watcher& again) { order += take(again.fd()); }});
    }});
    two.in = loop.watch(two.fd(), watch_options{.read = [] { FAIL("closed"); }});
    put(one.ends[1], "1");
    put(two.ends[1], "2");
    support::idle_turns(loop);
    CHECK(order == "1");
    put(other[1], "new");
    loop.run_once();
    CHECK(order == "1new");
    CHECK(loop.stats().watchers.rebuilds == 0);
  }
}

TEST_CASE("a number reused without being watched anew hears nothing of the old descriptor, nor it of the new") {
  coir::loop loop;
  line one, two;
  const support::fd_pair other = support::pipe_pair();
  std::string order;
  one.in = loop.watch(one.fd(), watch_options{.read = [&](watcher& w) {
                        order += take(w.fd());
                        const int number = two.fd();
                        two.in.reset();
                        two.ends[0].reset();
                        REQUIRE(::dup2(other[0].get(), number) == number);
                        two.ends[0] = coir::unique_fd(number);
                      }});
  two.in = loop.watch(two.fd(), watch_options{.read = [] { FAIL("ended"); }});
  put(one.ends[1], "1");
  put(two.ends[1], "2");
  put(other[1], "new");
  support::idle_turns(loop);
  CHECK(order == "1");
}

TEST_CASE("an exception leaves run, and the others of the batch are served by the next") {
  coir::loop loop;
  std::vector<line> lines(4);
  std::string order;
  for (std::size_t i = 0; i < lines.size(); ++i) {
    lines[i].in = loop.watch(lines[i].fd(), watch_options{.read = [&order, i](watcher& w) {
                               order += std::to_string(i);
                               take(w.fd());
                               if (i == 1) throw std::runtime_error("thrown");
                             }});
    put(lines[i].ends[1], "x");
  }
  CHECK_THROWS_WITH(loop.run(), "thrown");
  CHECK(order == "01");
  loop.run_once();
  CHECK(order == "0123");
  support::idle_turns(loop);
  CHECK(order == "0123");
}

TEST_CASE("an error callback that throws leaves run, and the loop goes on") {
  coir::loop loop;
  support::fd_pair ends = support::pipe_pair();
  int errors = 0;
  auto out = loop.watch(ends[1].get(), watch_options{.error = [&](watcher& w) {
                          if (++errors == 1) throw std::runtime_error("thrown");
                          w.cancel();
                        }});
  ends[0].reset();
  CHECK_THROWS_AS(loop.run(), std::runtime_error);
  loop.run();
  CHECK(errors == 2);
}

TEST_CASE("a callback that throws in every turn keeps nobody from being told, however often") {
  coir::loop loop;
  line one;
  int calls = 0;
  one.in = loop.watch(one.fd(), watch_options{.read = [&] {
                        ++calls;
                        throw std::runtime_error("thrown");
                      }});
  put(one.ends[1], "x");
  for (int i = 0; i < 1000; ++i) CHECK_THROWS_AS(loop.run_once(), std::runtime_error);
  CHECK(calls == 1000);
}

TEST_CASE("watchers are called before the timers, and both in the turn in which both are due") {
  coir::loop loop;
  line one;
  std::string order;
  auto soon = loop.after(0ns, [&] { order += "t"; });
  loop.post([&] { order += "p"; });
  one.in = loop.watch(one.fd(), watch_options{.read = [&](watcher& w) {
                        order += "r";
                        w.cancel();
                      }});
  put(one.ends[1], "x");
  loop.run_once();
  CHECK(order == "rtp");
}

TEST_CASE("a timer that a watcher sets waits for the next turn, also when it is due") {
  coir::loop loop;
  line one;
  coir::owned<coir::timer> late;
  std::uint64_t set_in = 0;
  std::uint64_t fired_in = 0;
  one.in = loop.watch(one.fd(), watch_options{.read = [&](watcher& w) {
                        w.cancel();
                        set_in = loop.stats().turns;
                        late = loop.at(loop.time() - 1h, [&] { fired_in = loop.stats().turns; });
                      }});
  put(one.ends[1], "x");
  loop.run_once();
  CHECK(set_in == loop.stats().turns);
  CHECK(fired_in == 0);
  loop.run_once();
  CHECK(fired_in == set_in + 1);
}
