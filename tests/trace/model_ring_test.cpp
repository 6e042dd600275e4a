#include "support/catch.hpp"
#include "support/model.hpp"

#include "trace/ring.hpp"

#include <cstdint>
#include <memory>

namespace {

namespace trace = coir::trace;

trace::record numbered(std::uint64_t number) {
  return {number, static_cast<std::uint32_t>(number), trace::point::spawn, 1, number, number};
}

bool whole(const trace::record& entry) {
  return entry.ticks == entry.a && entry.a == entry.b && entry.fiber == entry.a;
}

}  // namespace

TEST_CASE("who reads a ring while it is written gets whole records, in order, up to the newest") {
  const auto tried = model::explore([](model::run& now) {
    auto shared = std::make_shared<trace::ring<2>>();
    for (std::uint64_t i = 1; i <= 3; ++i) shared->write(numbered(i));
    now.thread([shared] {
      for (std::uint64_t i = 4; i <= 6; ++i) shared->write(numbered(i));
    });
    now.thread([shared] {
      const auto seen = shared->read();
      for (std::size_t i = 0; i < seen.size(); ++i) {
        model::check(whole(seen[i]), "a record is torn");
        model::check(i == 0 || seen[i].a == seen[i - 1].a + 1, "a record in the middle is missing");
      }
      const auto later = shared->read();
      if (!seen.empty() && !later.empty()) {
        model::check(later.back().a >= seen.back().a, "the newest is older than what was seen before");
      }
    });
    now.after([shared] {
      const auto left = shared->read();
      model::check(left.size() == 2 && left[0].a == 5 && left[1].a == 6, "the newest two are there");
    });
  }, {.preemptions = 3});
  CHECK(tried.failure == "");
  CHECK(tried.runs > 100);
}
