// What the micro benchmarks share: choosing cases, timing them, printing one JSON line each.
//
// A program hands its list of cases to micro::run and is called as `PROGRAM CASE...`, where a CASE
// is a whole name or the beginning of one up to a slash (`switch`, `switch/stack`); no CASE means
// all of them.
#pragma once

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include <unistd.h>

namespace micro {

struct bench_case {
  std::string name;     // as in `switch/stack/100`
  std::string subject;  // whose cost it is, as in `floor-stack-pair`
  std::string unit;
  std::function<double()> measure;
};

// Nanoseconds per iteration of body(n), which runs about n iterations and returns how many.
//
// The doubling towards a measurable length is the warm-up. The median of several short stretches
// leaves out those that the machine interrupted.
inline double ns_per_iteration(const std::function<std::size_t(std::size_t)>& body) {
  using clock = std::chrono::steady_clock;
  const auto timed = [&](std::size_t iterations, std::size_t& done) {
    const auto begin = clock::now();
    done = body(iterations);
    return std::chrono::duration<double, std::nano>(clock::now() - begin).count();
  };
  constexpr double stretch_ns = 10e6;
  std::size_t iterations = 1000;
  std::size_t done = 0;
  while (timed(iterations, done) < stretch_ns) {
    iterations *= 2;
  }
  std::array<double, 7> stretches{};
  for (double& stretch : stretches) {
    const double elapsed = timed(iterations, done);
    stretch = elapsed / static_cast<double>(done);
  }
  std::nth_element(stretches.begin(), stretches.begin() + stretches.size() / 2, stretches.end());
  return stretches[stretches.size() / 2];
}

// Memory of this process that is in RAM.
inline std::size_t resident_bytes() {
  std::FILE* const file = std::fopen("/proc/self/statm", "r");
  std::size_t total_pages = 0;
  std::size_t resident_pages = 0;
  if (file == nullptr || std::fscanf(file, "%zu %zu", &total_pages, &resident_pages) != 2) {
    std::fprintf(stderr, "cannot read /proc/self/statm\n");
    std::exit(1);
  }
  std::fclose(file);
  return resident_pages * static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
}

inline int run(int argc, char** argv, const std::vector<bench_case>& cases) {
  const std::vector<std::string_view> wanted(argv + 1, argv + argc);
  const auto selects = [](std::string_view word, const std::string& name) {
    return name == word ||
           (name.starts_with(word) && name.size() > word.size() && name[word.size()] == '/');
  };
  for (const std::string_view word : wanted) {
    if (std::none_of(cases.begin(), cases.end(),
                     [&](const bench_case& one) { return selects(word, one.name); })) {
      std::fprintf(stderr, "%s: no case '%.*s'; the cases are:\n", argv[0],
                   static_cast<int>(word.size()), word.data());
      std::string_view last;  // a case with several subjects stands in the list once for each
      for (const bench_case& one : cases) {
        if (one.name != last) {
          std::fprintf(stderr, "  %s\n", one.name.c_str());
        }
        last = one.name;
      }
      return 2;
    }
  }
  for (const bench_case& one : cases) {
    if (wanted.empty() || std::any_of(wanted.begin(), wanted.end(), [&](std::string_view word) {
          return selects(word, one.name);
        })) {
      std::printf("{\"case\":\"%s\",\"subject\":\"%s\",\"unit\":\"%s\",\"value\":%.3f}\n",
                  one.name.c_str(), one.subject.c_str(), one.unit.c_str(), one.measure());
      std::fflush(stdout);
    }
  }
  return 0;
}

}  // namespace micro
