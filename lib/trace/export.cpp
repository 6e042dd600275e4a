#include <coir/trace/trace.hpp>

#include <fmt/format.h>

#include <cstring>

namespace coir::trace {

namespace {

constexpr const char* point_names[points] = {"spawn",    "ready",      "resume",    "park", "end",
                                             "submit", "complete", "poll_enter", "poll_leave"};

// The counter's frequency is not published by the kernel: it is measured against the steady clock,
// between the first use of this file and now.
double nanoseconds_per_tick() {
#if defined(__x86_64__)
  struct reading {
    std::uint64_t ticks = __builtin_ia32_rdtsc();
    instant time = steady_now();
  };
  static const reading start;
  reading now;
  while (now.time - start.time < std::chrono::milliseconds(1)) now = reading();
  return static_cast<double>((now.time - start.time).count()) /
         static_cast<double>(now.ticks - start.ticks);
#else
  return 1.0;
#endif
}

std::string place_text(std::uint64_t word) {
  const place at = place::unpacked(word);
  const char* slash = std::strrchr(at.file_name(), '/');
  return fmt::format("{}:{}", slash == nullptr ? at.file_name() : slash + 1, at.line());
}

std::string arguments(const record& entry) {
  switch (entry.what) {
    case point::spawn: return fmt::format(" parent={} at {}", entry.a, place_text(entry.b));
    case point::park:
      return fmt::format(" on {} at {}", reinterpret_cast<const char*>(entry.a),
                         place_text(entry.b));
    case point::end:
      return entry.a == 0 ? " returned" : entry.a == 1 ? " failed" : " cancelled";
    case point::submit: return fmt::format(" request={} fd={}", entry.a, static_cast<int>(entry.b));
    case point::complete:
      return fmt::format(" request={} result={}", entry.a, static_cast<std::int64_t>(entry.b));
    case point::poll_enter: return entry.a != 0 ? " sleep" : " look";
    case point::poll_leave: return fmt::format(" events={}", entry.a);
    case point::ready:
    case point::resume: return "";
  }
  return "";
}

}  // namespace

const char* name_of(point which) noexcept { return point_names[static_cast<unsigned>(which)]; }

std::string text(const std::vector<record>& records) {
  if (records.empty()) return "";
  const double scale = nanoseconds_per_tick() / 1000.0;
  std::string lines;
  for (const record& entry : records) {
    lines += fmt::format("{:12.3f} loop={} fiber={} {}{}\n",
                         static_cast<double>(entry.ticks - records.front().ticks) * scale,
                         entry.loop, entry.fiber, name_of(entry.what), arguments(entry));
  }
  return lines;
}

}  // namespace coir::trace
