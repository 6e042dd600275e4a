#include <coir/testing/seeds.hpp>

#include <coir/base/error.hpp>

#include <fmt/format.h>

#include <charconv>
#include <cstdlib>
#include <exception>
#include <string_view>
#include <system_error>

namespace coir::testing {

namespace {

std::uint64_t parsed(std::string_view text) {
  std::uint64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size()) {
    throw std::invalid_argument(fmt::format("COIR_SEED is \"{}\", which is no number", text));
  }
  return number;
}

void run_with(std::uint64_t seed, const std::function<void(std::uint64_t)>& test) {
  try {
    test(seed);
  } catch (const std::exception& why) {
    std::throw_with_nested(seed_failure(seed, why.what()));
  } catch (...) {
    coir::priv::tell(fmt::format("coir: a test failed with seed {0}; COIR_SEED={0} repeats it\n", seed));
    throw;
  }
}

}  // namespace

seed_failure::seed_failure(std::uint64_t seed, const std::string& why)
    : std::runtime_error(fmt::format("seed {0}: {1} (COIR_SEED={0} repeats it)", seed, why)), seed_(seed) {}

void for_each_seed(std::uint64_t count, const std::function<void(std::uint64_t)>& test) {
  if (const char* const chosen = std::getenv("COIR_SEED"); chosen != nullptr && *chosen != '\0') {
    run_with(parsed(chosen), test);
    return;
  }
  for (std::uint64_t seed = 1; seed <= count; ++seed) run_with(seed, test);
}

}  // namespace coir::testing
