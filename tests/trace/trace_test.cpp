#include <coir/trace/trace.hpp>

#include "support/catch.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <string>

using coir::trace::point;
using Catch::Matchers::Contains;

namespace {

constexpr std::uint64_t ring_records = 65'536;  // as trace.hpp says

coir::place called_at(coir::place at = coir::here::current()) { return at; }

}  // namespace

TEST_CASE("nothing is recorded while the mask is off") {
  coir::trace::forget();
  coir::trace::control control;
  CHECK(control.mask() == 0);
  COIR_TRACE(control, point::resume, 1);
  control.record(coir::trace::all & ~coir::trace::bit(point::resume));
  COIR_TRACE(control, point::resume, 1);
  CHECK(coir::trace::recorded().empty());
  CHECK(coir::trace::lost() == 0);
}

TEST_CASE("what the mask names is recorded, with all it was given, and nothing else") {
  coir::trace::forget();
  coir::trace::control control;
  control.loop = 12;
  control.record(coir::trace::bit(point::submit) | coir::trace::bit(point::end));
  COIR_TRACE(control, point::submit, 0x1'0000'0007, 4, 9);
  COIR_TRACE(control, point::complete, 7, 4, 9);
  COIR_TRACE(control, point::end, 8);
  const auto records = coir::trace::recorded();
  REQUIRE(records.size() == 2);
  CHECK(records[0].what == point::submit);
  CHECK(records[0].fiber == 7);
  CHECK(records[0].loop == 12);
  CHECK(records[0].a == 4);
  CHECK(records[0].b == 9);
  CHECK(records[1].what == point::end);
  CHECK(records[1].a == 0);
  CHECK(records[0].ticks <= records[1].ticks);
  control.record(0);
  COIR_TRACE(control, point::end, 8);
  CHECK(coir::trace::recorded().size() == 2);
}

TEST_CASE("what a trace point is given is not computed while nobody looks") {
  coir::trace::control control;
  int computed = 0;
  const auto expensive = [&] { return static_cast<std::uint64_t>(++computed); };
  COIR_TRACE(control, point::resume, expensive());
  CHECK(computed == 0);
  control.record(coir::trace::all);
  COIR_TRACE(control, point::resume, expensive());
  CHECK(computed == 1);
}

TEST_CASE("a full ring forgets the oldest and counts them") {
  coir::trace::forget();
  coir::trace::control control;
  for (std::uint64_t i = 0; i < ring_records; ++i) coir::trace::emit(control, point::resume, 0, i);
  CHECK(coir::trace::lost() == 0);
  CHECK(coir::trace::recorded().size() == ring_records);
  for (std::uint64_t i = 0; i < 1000; ++i) {
    coir::trace::emit(control, point::resume, 0, ring_records + i);
  }
  CHECK(coir::trace::lost() == 1000);
  const auto records = coir::trace::recorded();
  REQUIRE(records.size() == ring_records);
  std::uint64_t expected = 1000;
  CHECK(std::all_of(records.begin(), records.end(),
                    [&](const coir::trace::record& each) { return each.a == expected++; }));
}

TEST_CASE("what was forgotten does not come back, also when the ring wraps later") {
  coir::trace::control control;
  for (int i = 0; i < 100; ++i) coir::trace::emit(control, point::ready, 1);
  coir::trace::forget();
  CHECK(coir::trace::recorded().empty());
  CHECK(coir::trace::lost() == 0);
  coir::trace::emit(control, point::ready, 2);
  REQUIRE(coir::trace::recorded().size() == 1);
  CHECK(coir::trace::recorded()[0].fiber == 2);
  for (std::uint64_t i = 0; i < ring_records; ++i) coir::trace::emit(control, point::ready, 3);
  CHECK(coir::trace::lost() == 1);
  CHECK(coir::trace::recorded().front().fiber == 3);
  coir::trace::forget();
}

TEST_CASE("every point has a name of its own") {
  for (unsigned i = 0; i < coir::trace::points; ++i) {
    for (unsigned k = 0; k < i; ++k) {
      CHECK(std::string(coir::trace::name_of(point(i))) != coir::trace::name_of(point(k)));
    }
  }
  CHECK(std::string(coir::trace::name_of(point::spawn)) == "spawn");
  CHECK(std::string(coir::trace::name_of(point::poll_leave)) == "poll_leave");
  CHECK(coir::trace::bit(point::poll_leave) == (coir::trace::all + 1) / 2);
}

TEST_CASE("a dump has one line per record, in words") {
  coir::trace::forget();
  coir::trace::control control;
  control.loop = 3;
  const coir::place at = called_at();
  coir::trace::emit(control, point::spawn, 5, 4, at.packed());
  coir::trace::emit(control, point::park, 5, reinterpret_cast<std::uintptr_t>("sleep"), at.packed());
  coir::trace::emit(control, point::complete, 0, 2, static_cast<std::uint64_t>(-104));
  coir::trace::emit(control, point::end, 5, 2);
  coir::trace::emit(control, point::poll_enter, 0, 1);
  const std::string text = coir::trace::text(coir::trace::recorded());
  CHECK(std::count(text.begin(), text.end(), '\n') == 5);
  const std::string place = fmt::format("at trace_test.cpp:{}", at.line());
  CHECK_THAT(text, Contains("       0.000 loop=3 fiber=5 spawn parent=4 " + place + "\n"));
  CHECK_THAT(text, Contains(" loop=3 fiber=5 park on sleep " + place + "\n"));
  CHECK_THAT(text, Contains(" loop=3 fiber=0 complete request=2 result=-104\n"));
  CHECK_THAT(text, Contains(" loop=3 fiber=5 end cancelled\n"));
  CHECK_THAT(text, Contains(" loop=3 fiber=0 poll_enter sleep\n"));
  CHECK(coir::trace::text({}).empty());
  coir::trace::forget();
}

TEST_CASE("the times of a dump are microseconds") {
  coir::trace::forget();
  coir::trace::control control;
  coir::trace::emit(control, point::ready, 1);
  const coir::instant began = coir::steady_now();
  while (coir::steady_now() - began < std::chrono::milliseconds(20)) {
  }
  coir::trace::emit(control, point::ready, 1);
  const coir::duration took = coir::steady_now() - began;
  const std::string text = coir::trace::text(coir::trace::recorded());
  const double microseconds = std::stod(text.substr(text.find('\n') + 1));
  CHECK(microseconds >= 19'500);  // the counter's frequency is measured, and not exactly
  CHECK(microseconds <= static_cast<double>(took.count()) / 1000 * 1.05 + 100);
  coir::trace::forget();
}
