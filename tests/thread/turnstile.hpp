// Where threads wait until a test lets them go on.
#pragma once

#include <condition_variable>
#include <mutex>
#include <stop_token>

namespace support {

class turnstile {
 public:
  // Called in a job: waits until open().
  void pass() {
    std::unique_lock held(lock_);
    ++inside_;
    changed_.notify_all();
    changed_.wait(held, [&] { return open_; });
    --inside_;
  }
  // ... or until it is asked to stop. False: it was.
  bool pass(const std::stop_token& asked) {
    std::unique_lock held(lock_);
    ++inside_;
    changed_.notify_all();
    changed_.wait(held, asked, [&] { return open_; });
    --inside_;
    return !asked.stop_requested();
  }
  void open() {
    const std::lock_guard held(lock_);
    open_ = true;
    changed_.notify_all();
  }
  void close() {
    const std::lock_guard held(lock_);
    open_ = false;
  }
  // Blocks the caller until so many wait.
  void until_inside(int count) {
    std::unique_lock held(lock_);
    changed_.wait(held, [&] { return inside_ == count; });
  }

 private:
  std::mutex lock_;
  std::condition_variable_any changed_;
  int inside_ = 0;
  bool open_ = false;
};

// Opens it in any case: a pool's end waits for whoever is inside.
class opened_at_end {
 public:
  explicit opened_at_end(turnstile& of) : of_(of) {}
  opened_at_end(const opened_at_end&) = delete;
  ~opened_at_end() { of_.open(); }

 private:
  turnstile& of_;
};

}  // namespace support
