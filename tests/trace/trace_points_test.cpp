// The points that a bare loop passes; those of fibers are in tests/fiber.
#include "support/loop_tools.hpp"

#include <algorithm>

using coir::trace::point;

namespace {

std::vector<coir::trace::record> only(point what) {
  std::vector<coir::trace::record> found;
  for (const auto& each : coir::trace::recorded()) {
    if (each.what == what) found.push_back(each);
  }
  return found;
}

}  // namespace

TEST_CASE("a recorded loop shows each request submitted and completed, with its kind and result") {
  coir::loop loop;
  const support::fd_pair ends = support::socket_pair();
  std::array<std::byte, 8> buffer;
  coir::trace::forget();
  loop.trace().record(coir::trace::all);
  support::asked get(coir::request::recv(ends[0].get(), buffer));
  REQUIRE(loop.start(get.request));
  REQUIRE(::write(ends[1].get(), "abc", 3) == 3);
  support::run_until(loop, [&] { return get.over(); });
  loop.trace().record(0);
  support::idle_turns(loop);

  const auto submitted = only(point::submit);
  REQUIRE(submitted.size() == 1);
  CHECK(submitted[0].a == static_cast<std::uint64_t>(coir::request_kind::recv));
  CHECK(submitted[0].b == static_cast<std::uint64_t>(ends[0].get()));
  CHECK(submitted[0].loop == loop.number());
  CHECK(submitted[0].fiber == 0);
  const auto completed = only(point::complete);
  REQUIRE(completed.size() == 1);
  CHECK(completed[0].a == static_cast<std::uint64_t>(coir::request_kind::recv));
  CHECK(static_cast<std::int64_t>(completed[0].b) == 3);
}

TEST_CASE("a recorded loop shows when it asks the kernel, and whether it may sleep") {
  coir::loop loop;
  loop.run_once();
  coir::trace::forget();
  loop.trace().record(coir::trace::all);
  loop.run_once();
  loop.run_once(std::chrono::milliseconds(1));
  loop.trace().record(0);
  const auto records = coir::trace::recorded();
  REQUIRE(records.size() == 4);
  CHECK(records[0].what == point::poll_enter);
  CHECK(records[0].a == 0);
  CHECK(records[1].what == point::poll_leave);
  CHECK(records[2].what == point::poll_enter);
  CHECK(records[2].a == 1);
  CHECK(records[3].what == point::poll_leave);
}

TEST_CASE("what finishes at once is recorded like what finishes later") {
  coir::loop loop;
  const support::fd_pair ends = support::socket_pair();
  std::array<std::byte, 8> buffer;
  REQUIRE(::write(ends[1].get(), "abc", 3) == 3);
  coir::trace::forget();
  loop.trace().record(coir::trace::all);
  CHECK(support::finish(loop, coir::request::recv(ends[0].get(), buffer)) == 3);
  CHECK(support::finish(loop, coir::request::recv(-1, buffer)) == -EBADF);
  loop.trace().record(0);
  const auto completed = only(point::complete);
  REQUIRE(only(point::submit).size() == 2);
  REQUIRE(completed.size() == 2);
  CHECK(static_cast<std::int64_t>(completed[0].b) == 3);
  CHECK(static_cast<std::int64_t>(completed[1].b) == -EBADF);
}

TEST_CASE("loops have numbers of their own, by which records are told apart") {
  coir::loop one;
  coir::loop two;
  CHECK(one.number() != two.number());
  CHECK(one.number() != 0);
}
