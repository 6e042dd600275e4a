// Test programs on the simulator: COIR_BACKEND=simulator, which libcoir does not know. Descriptors are real, and
// the order of what is told is drawn; COIR_SEED is the seed of the first loop.
#pragma once

#include <coir/loop/loop.hpp>
#include <coir/testing/simulator.hpp>

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <string_view>
#include <vector>

namespace support {

class simulated_loops final : public coir::backend_maker {
 public:
  simulated_loops() {
    const char* const wanted = std::getenv("COIR_BACKEND");
    if (wanted == nullptr || std::string_view(wanted) != "simulator") return;
    if (const char* const seed = std::getenv("COIR_SEED"); seed != nullptr) {
      seed_ = std::strtoull(seed, nullptr, 10);
    }
    coir::choose_backend(this);
  }
  simulated_loops(const simulated_loops&) = delete;
  ~simulated_loops() { coir::choose_backend(nullptr); }

  std::unique_ptr<coir::backend> make(const coir::backend_parts& parts) override {
    const std::scoped_lock held(lock_);
    // What is withdrawn is over later: the rules for `now` are tested on epoll.
    const auto options = coir::testing::simulator_options().seed(seed_++).withdrawn_now(0);
    made_.push_back(std::make_unique<coir::testing::simulator>(options));
    return made_.back()->make(parts);
  }

 private:
  std::mutex lock_;
  std::uint64_t seed_ = 1;
  std::vector<std::unique_ptr<coir::testing::simulator>> made_;  // each outlives its loop
};

}  // namespace support
