// What loops that fibers run on have their pools do: the hook run_blocking of coir/loop/backend.hpp.
#include <coir/base/error.hpp>
#include <coir/loop/loop.hpp>
#include <coir/loop/post.hpp>
#include <coir/thread/pool.hpp>

#include <memory>
#include <new>
#include <system_error>
#include <utility>
#include <vector>

namespace coir {

namespace {

// Of one loop, all on its thread but where said otherwise.
class blocking_desk {
 public:
  explicit blocking_desk(loop& of) noexcept : on_(&of) {}

  static void install(loop& to, priv::pool_link threads) {
    const backend::blocking_hook there = to.blocking();
    if (there.run == run) {
      static_cast<blocking_desk*>(there.self)->threads_ = std::move(threads);
      return;
    }
    auto made = std::make_unique<blocking_desk>(to);
    made->threads_ = std::move(threads);
    to.install({run, made.get(), withdraw, settle, gone});
    static_cast<void>(made.release());  // goes in gone()
  }

 private:
  struct job final : priv::pool_job, post_node {
    explicit job(blocking_desk& owner) noexcept : pool_job(kind_of_this), of(&owner) {}

    // On the pool's thread.
    static void perform(pool_job& mine) noexcept {
      auto& self = static_cast<job&>(mine);
      self.result = self.work(*self.what);
    }
    static void tell(pool_job& mine) noexcept {
      auto& self = static_cast<job&>(mine);
      // Ours: the loop may be waiting for this to end.
      const std::shared_ptr<loop_port> home = self.of->on_->port();
      home->push(self);
    }
    // On that of whoever ends the pool: the loop does it itself.
    static void drop(pool_job& mine) noexcept {
      static_cast<job&>(mine).dropped = true;
      tell(mine);
    }
    void run() override { finish(); }
    void over() noexcept override {
      finish();
      of->put_back(*this);
    }
    void finish() noexcept {
      if (what == nullptr) return;
      request& mine = *std::exchange(what, nullptr);
      mine.result = dropped ? work(mine) : result;
      of->on_->finish_blocking(mine);
    }

    static constexpr pool_job::kind kind_of_this{perform, tell, drop};
    blocking_desk* of;
    request* what = nullptr;
    int (*work)(request&) = nullptr;
    int result = 0;
    bool dropped = false;
    priv::pool_link given_to;
  };

  static bool run(void* self, request& what, int (*work)(request&)) {
    return static_cast<blocking_desk*>(self)->give(what, work);
  }
  static bool withdraw(void* self, request& what) noexcept {
    return static_cast<blocking_desk*>(self)->take_back(what);
  }
  static bool settle(void* self) noexcept {
    auto& mine = *static_cast<blocking_desk*>(self);
    if (mine.used_ == 0) return false;
    mine.on_->drop_posts();
    return true;
  }
  static void gone(void* self) noexcept {
    auto* const mine = static_cast<blocking_desk*>(self);
    // In a child process they are its parent's, and told already. Nobody else ever looks at them again.
    if (!mine->on_->usable()) {
      for (const auto& each : mine->jobs_) each->what = nullptr;
      if (mine->used_ != 0) return;
    }
    mine->leaving_ = true;
    mine->leave_if_over();
  }

  // True: it is done.
  bool give(request& what, int (*work)(request&)) {
    try {
      if (!threads_) threads_ = default_pool().link();
      if (free_.empty()) {
        free_.reserve(jobs_.size() + 1);
        jobs_.push_back(std::make_unique<job>(*this));
        free_.push_back(jobs_.back().get());
      }
      job& next = *free_.back();
      next.what = &what;
      next.work = work;
      next.dropped = false;
      next.given_to = threads_;
      if (used_ == 0) hold_ = loop::hold(*on_);
      try {
        next.given_to.submit(next, false);
      } catch (...) {
        next.what = nullptr;
        if (used_ == 0) hold_ = loop::hold();
        throw;
      }
      free_.pop_back();
      ++used_;
      return false;
    } catch (const std::system_error&) {  // the pool is ending, or there is no thread to be had
    } catch (const std::bad_alloc&) {
    }
    // Rather hold up the loop than fail where the backend cannot.
    what.result = work(what);
    return true;
  }

  bool take_back(request& what) noexcept {
    for (const auto& each : jobs_) {
      if (each->what != &what) continue;
      if (!each->given_to.withdraw(*each)) return false;
      each->what = nullptr;
      put_back(*each);
      return true;
    }
    return false;
  }
  void put_back(job& which) noexcept {
    free_.push_back(&which);
    if (--used_ == 0) hold_ = loop::hold();
    leave_if_over();
  }
  void leave_if_over() noexcept {
    if (leaving_ && used_ == 0) delete this;
  }

  loop* on_;
  priv::pool_link threads_;  // none yet: the default pool
  std::vector<std::unique_ptr<job>> jobs_;
  std::vector<job*> free_;
  std::size_t used_ = 0;
  loop::hold hold_;  // a job is out
  bool leaving_ = false;
};

}  // namespace

void use_pool(loop& on, pool& threads) {
  threads.link().check_usable();
  blocking_desk::install(on, threads.link());
}

bool priv::know_pools() noexcept {
  choose_blocking([](loop& to) { blocking_desk::install(to, priv::pool_link()); });
  return true;
}

}  // namespace coir
