#include <coir/thread/runtime.hpp>

#include <coir/base/error.hpp>

#include "start_thread.hpp"

#include <fmt/format.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <mutex>
#include <stdexcept>
#include <system_error>
#include <thread>

namespace coir {

namespace {

std::vector<std::size_t> processors() {
  std::vector<std::size_t> all;
  cpu_set_t mine;
  CPU_ZERO(&mine);
  if (::sched_getaffinity(0, sizeof mine, &mine) == 0) {
    for (std::size_t i = 0; i < CPU_SETSIZE; ++i) {
      if (CPU_ISSET(i, &mine)) all.push_back(i);
    }
  }
  if (all.empty()) all.push_back(0);
  return all;
}

void pin_this_thread(std::size_t processor) noexcept {
  cpu_set_t only;
  CPU_ZERO(&only);
  CPU_SET(processor, &only);
  // Where that is forbidden it runs where it is allowed to.
  ::pthread_setaffinity_np(::pthread_self(), sizeof only, &only);
}

// What a line on standard error says, made by a function that may run out of memory.
template <class Text>
void tell_line(Text text) noexcept {
  try {
    priv::tell(text());
  } catch (const std::bad_alloc&) {
    priv::tell("coir: a runtime or one of its fibers failed, and there is no memory to say how\n");
  }
}

bool is_cancellation(const std::exception_ptr& what) {
  try {
    std::rethrow_exception(what);
  } catch (const std::system_error& error) {
    return error.code() == std::errc::operation_canceled;
  } catch (...) {
    return false;
  }
}

constexpr duration default_spin = std::chrono::microseconds(20);

}  // namespace

// What the runtime, its loops and the fibers on them share; it lives as long as any of them.
class runtime_core : public std::enable_shared_from_this<runtime_core> {
 public:
  explicit runtime_core(const runtime_options& options)
      : options_(options), made_in_(::getpid()), processors_(processors()) {
    const bool many = processors_.size() > 1;
    options_.loop_.spin(options.spin_.value_or(many ? default_spin : duration::zero()));
  }

  class home final : public remote_home, private post_node {
   public:
    explicit home(std::shared_ptr<runtime_core> of) noexcept : of_(std::move(of)) {}
    void check_process() const override { of_->check_process(); }
    void ended() noexcept override { of_->one_less(); }
    void failed(std::exception_ptr why) noexcept override {
      if (of_->is_child()) return;  // a thread of the parent's may have had the lock
      // Who joined one that the same stop has cancelled before.
      if (of_->stopping() && is_cancellation(why)) return;
      of_->fail(std::move(why));
    }
    void report(const remote_core& whom, const fiber_base* which, std::exception_ptr why) noexcept override {
      if (which != nullptr) {
        fibers->tell_failure(*which, std::move(why));
        return;
      }
      tell_line([&] {
        return fmt::format("coir: a remote fiber{}{} of loop {} could not begin: {}\n", whom.name().empty() ? "" : " ",
                           whom.name(), index, priv::text_of(why));
      });
    }

    // Its loop is to look at what has changed. With the core's lock. Nothing is allocated: it may be what ends a program
    // that has no memory left.
    void tell(const std::shared_ptr<home>& self) noexcept {
      // A thread that has not got that far will look by itself when it has.
      if (told_ || port == nullptr) return;
      told_ = true;
      ++on_the_way_;
      self_ = self;
      if (port->push(*this)) return;
      told_ = false;
      if (--on_the_way_ == 0) self_.reset();
    }

    bool in_run = false;  // of a thread that is in run(), which knows itself when it has ended
    bool left = false;    // its thread's: run() is over, and nothing may begin on its loop
    owned<timer> grace;   // its thread's

   private:
    void run() override {
      {
        const std::lock_guard held(of_->lock_);
        told_ = false;
      }
      of_->look(*this);
    }
    void over() noexcept override {
      if (of_->is_child()) return;  // as in failed()
      std::shared_ptr<home> last;
      const std::shared_ptr<runtime_core> of = of_;
      const std::lock_guard held(of->lock_);
      if (--on_the_way_ == 0) last = std::move(self_);
    }

    const std::shared_ptr<runtime_core> of_;
    // With the core's lock:
    bool told_ = false;         // and has not begun to look
    unsigned on_the_way_ = 0;   // at most two: one that looks, and the next
    std::shared_ptr<home> self_;
  };

  run_options options_of_run() const {
    return run_options().loop(options_.loop_).on_failure(options_.on_failure_);
  }

  void check_process() const {
    if (::getpid() != made_in_) {
      throw_misuse("a runtime was used in a child process (fork) of the one that made it, which has none of its threads");
    }
  }
  bool is_child() const noexcept { return ::getpid() != made_in_; }

  void start();
  void join() noexcept {
    for (std::thread& each : threads_) {
      if (each.joinable()) each.join();
    }
  }
  // All threads have ended, or will: remote handles may keep this, and not the other way round.
  void end() noexcept {
    join();
    std::exception_ptr unheard;
    {
      const std::lock_guard held(lock_);
      over_ = true;
      if (!heard_) unheard = failure_;
      homes_.clear();
    }
    if (unheard != nullptr) tell_unheard(std::move(unheard));
  }
  // In a forked child: the threads are the parent's.
  void leave_behind() noexcept { static_cast<void>(new std::vector<std::thread>(std::move(threads_))); }
  // One of its threads, or one that is in run().
  bool is_own_thread() noexcept {
    if (std::any_of(threads_.begin(), threads_.end(),
                    [](const std::thread& each) { return each.get_id() == std::this_thread::get_id(); })) {
      return true;
    }
    const loop* const running = loop::current();
    if (running == nullptr) return false;
    const std::lock_guard held(lock_);
    return std::any_of(guests_.begin(), guests_.end(), [&](const auto& each) { return each->port == running->port(); });
  }

  std::size_t size() const noexcept { return homes_.size(); }
  std::shared_ptr<remote_home> at(std::size_t index);
  std::size_t index_of(const loop& which);
  std::shared_ptr<remote_home> least_loaded() noexcept {
    const std::size_t first = next_.fetch_add(1, std::memory_order_relaxed);
    std::shared_ptr<home>* best = nullptr;
    std::size_t least = 0;
    for (std::size_t i = 0; i < homes_.size(); ++i) {
      std::shared_ptr<home>& each = homes_[(first + i) % homes_.size()];
      const std::size_t load = each->load.load(std::memory_order_relaxed);
      if (best == nullptr || load < least) {
        best = &each;
        least = load;
      }
    }
    return *best;
  }

  void one_more() noexcept { alive_.fetch_add(1, std::memory_order_relaxed); }
  void one_less() noexcept {
    // Sequentially consistent against stop(), which sets stopping_ and then wakes all.
    if (alive_.fetch_sub(1, std::memory_order_seq_cst) == 1 && stopping_.load(std::memory_order_seq_cst)) wake_all();
  }
  bool all_ended() const noexcept { return alive_.load(std::memory_order_seq_cst) == 0; }

  void fail(std::exception_ptr why) noexcept;
  std::exception_ptr take_failure() noexcept {
    const std::lock_guard held(lock_);
    // Who asked too early has not heard of what comes later.
    heard_ = heard_ || failure_ != nullptr;
    return failure_;
  }

  void stop(duration grace) noexcept;
  bool stopping() const noexcept { return stopping_.load(std::memory_order_seq_cst); }
  void wait_threads() {
    std::unique_lock held(lock_);
    changed_.wait(held, [&] { return running_ == 0; });
  }

  // A thread in run().
  void enter(std::shared_ptr<home> guest);
  void leave(const std::shared_ptr<remote_home>& guest) noexcept;

 private:
  std::exception_ptr refusal_of_thread(std::size_t index, std::size_t count) const;
  void work(std::size_t index) noexcept;
  void serve(home& mine, loop& on);
  void wake_all() noexcept;
  void look(home& mine);
  static void tell_unheard(std::exception_ptr why) noexcept;

  runtime_options options_;
  const pid_t made_in_;
  const std::vector<std::size_t> processors_;
  std::vector<std::shared_ptr<home>> homes_;  // as they were when the constructor returned
  std::vector<std::thread> threads_;
  atomic<std::size_t> next_{0};
  atomic<std::size_t> alive_{0};  // remote fibers of all loops, and threads in run()
  atomic<bool> stopping_{false};

  std::mutex lock_;
  std::condition_variable changed_;
  std::vector<std::shared_ptr<home>> guests_;
  std::size_t running_ = 0;  // threads
  std::size_t starting_ = 0;
  instant cancel_at_ = never;  // the end of the grace, on the steady clock
  std::exception_ptr failure_;
  bool heard_ = false;
  bool over_ = false;
};

void runtime_core::start() {
  const std::size_t count = options_.loops_ != 0 ? options_.loops_ : processors_.size();
  try {
    homes_.reserve(count);
    threads_.reserve(count);
    for (std::size_t i = 0; i < count; ++i) {
      homes_.push_back(std::make_shared<home>(shared_from_this()));
      homes_.back()->index = i;
    }
  } catch (...) {
    homes_.clear();  // they hold this
    throw;
  }
  std::exception_ptr refused;
  {
    const priv::all_signals_blocked inherited;
    for (std::size_t i = 0; i < count && refused == nullptr; ++i) {
      {
        const std::lock_guard held(lock_);
        ++running_;
        ++starting_;
      }
      try {
        threads_.emplace_back([core = shared_from_this(), i] { core->work(i); });
      } catch (...) {
        refused = refusal_of_thread(i, count);
        const std::lock_guard held(lock_);
        --running_;
        --starting_;
      }
    }
  }
  {
    std::unique_lock held(lock_);
    changed_.wait(held, [&] { return starting_ == 0; });
    if (refused == nullptr) refused = failure_;
  }
  if (refused == nullptr) return;
  heard_ = true;
  stop(duration::zero());
  end();
  std::rethrow_exception(std::move(refused));
}

// What is thrown now, and of a system that has no more threads where that was.
std::exception_ptr runtime_core::refusal_of_thread(std::size_t index, std::size_t count) const {
  try {
    throw;
  } catch (const std::system_error& refusal) {
    return std::make_exception_ptr(std::system_error(
        refusal.code(), fmt::format("starting thread {}-{} of a runtime of {} loops", options_.name_, index, count)));
  } catch (...) {
    return std::current_exception();
  }
}

void runtime_core::work(std::size_t index) noexcept {
  const auto started = [&] {
    const std::lock_guard held(lock_);
    --starting_;
    changed_.notify_all();
  };
  bool is_started = false;
  try {
    priv::name_this_thread(fmt::format("{}-{}", options_.name_, index));
    if (options_.pin_) pin_this_thread(processors_[index % processors_.size()]);
    home& mine = *homes_[index];
    loop on(options_.loop_);
    give_blocking(on);
    scheduler fibers(on);
    if (options_.on_failure_) fibers.on_failure(options_.on_failure_);
    {
      // Another one that failed may be waking all that are there.
      const std::lock_guard held(lock_);
      mine.fibers = &fibers.home();
      mine.port = on.port();
    }
    started();
    is_started = true;
    serve(mine, on);
  } catch (...) {
    fail(std::current_exception());
    if (!is_started) started();
  }
  const std::lock_guard held(lock_);
  --running_;
  changed_.notify_all();
}

void runtime_core::serve(home& mine, loop& on) {
  // A failure of a loop is the runtime's; the loop goes on, so that its fibers can end.
  const auto keep_going = [&](auto&& turning) noexcept {
    try {
      turning();
    } catch (...) {
      if (is_child()) {
        // There is nothing to go back to: the other threads, and this one's caller, are the parent's.
        priv::tell("coir: a fiber of a runtime forked, and the child came back from it; it must end there, in exec or "
                   "_exit\n");
        std::abort();
      }
      fail(std::current_exception());
    }
  };
  {
    const loop::hold more(on);
    while (!stopping()) keep_going([&] { on.run(); });
  }
  // The loops end together: until then this one answers the others.
  while (!all_ended()) keep_going([&] { on.run_once(duration(-1)); });
  mine.grace.reset();
}

// On the loop of `mine`: does what stop() asks for.
void runtime_core::look(home& mine) {
  if (!stopping() || mine.left) return;
  instant until;
  {
    const std::lock_guard held(lock_);
    until = cancel_at_;
  }
  region& root = mine.fibers->root();
  loop& on = mine.fibers->on();
  const duration grace = until - steady_now();
  mine.grace.reset();
  if (grace > duration::zero()) {
    root.shut_down();
    try {
      mine.grace = on.after(grace, [&root](timer&) { root.cancel(); });
    } catch (const std::bad_alloc&) {
      // Nobody could end the grace.
      root.cancel();
    }
  } else {
    root.cancel();
  }
  if (!mine.in_run) on.stop();
}

void runtime_core::wake_all() noexcept {
  const std::lock_guard held(lock_);
  for (const auto* const some : {&homes_, &guests_}) {
    for (const std::shared_ptr<home>& each : *some) each->tell(each);
  }
}

void runtime_core::stop(duration grace) noexcept {
  {
    const std::lock_guard held(lock_);
    cancel_at_ = std::min(cancel_at_, coir::after(steady_now(), std::max(grace, duration::zero())));
  }
  stopping_.store(true, std::memory_order_seq_cst);
  wake_all();
}

void runtime_core::fail(std::exception_ptr why) noexcept {
  bool late = false;
  {
    const std::lock_guard held(lock_);
    late = over_;
    if (failure_ == nullptr) failure_ = why;
  }
  if (late) {
    tell_unheard(std::move(why));
  } else {
    stop(duration::zero());
  }
}

void runtime_core::tell_unheard(std::exception_ptr why) noexcept {
  tell_line([&] { return "coir: what a runtime ended with was never asked for: " + priv::text_of(why) + "\n"; });
}

void runtime_core::enter(std::shared_ptr<home> guest) {
  {
    const std::lock_guard held(lock_);
    std::size_t index = homes_.size();
    while (std::any_of(guests_.begin(), guests_.end(), [&](const auto& each) { return each->index == index; })) ++index;
    guest->index = index;
    guests_.push_back(guest);
    one_more();
  }
  try {
    look(*guest);
  } catch (...) {
    leave(guest);
    throw;
  }
}

void runtime_core::leave(const std::shared_ptr<remote_home>& guest) noexcept {
  auto& mine = static_cast<home&>(*guest);
  mine.left = true;
  mine.grace.reset();
  if (is_child()) return;  // as in failed()
  {
    const std::lock_guard held(lock_);
    std::erase(guests_, guest);
  }
  one_less();
}

std::shared_ptr<remote_home> runtime_core::at(std::size_t index) {
  if (index < homes_.size()) [[likely]]
    return homes_[index];
  const std::lock_guard held(lock_);
  for (const std::shared_ptr<home>& each : guests_) {
    if (each->index == index) return each;
  }
  throw std::out_of_range(fmt::format("loop {} of a runtime that has {}, and {} threads in run()", index, homes_.size(),
                                      guests_.size()));
}

std::size_t runtime_core::index_of(const loop& which) {
  const std::lock_guard held(lock_);
  for (const auto* const some : {&homes_, &guests_}) {
    for (const std::shared_ptr<home>& each : *some) {
      if (each->port == which.port()) return each->index;
    }
  }
  throw_misuse(fmt::format("loop {} is none of this runtime's", which.number()));
}

// --- runtime ---

runtime::runtime(const runtime_options& options) : core_(std::make_shared<runtime_core>(options)) { core_->start(); }

runtime::~runtime() {
  if (core_->is_child()) {
    core_->leave_behind();
    return;
  }
  if (core_->is_own_thread()) {
    priv::tell("coir: a runtime was destroyed by one of its own fibers\n");
    std::abort();
  }
  core_->stop(duration::zero());
  core_->end();
}

std::size_t runtime::size() const noexcept { return core_->size(); }

std::size_t runtime::load(std::size_t index) const {
  return core_->at(index)->load.load(std::memory_order_relaxed);
}

std::size_t runtime::this_loop() const {
  const loop* const own = loop_here();
  if (own == nullptr) throw_misuse("this thread runs no loop of a runtime");
  return core_->index_of(*own);
}

std::shared_ptr<remote_home> runtime::home(std::size_t index) const {
  core_->check_process();
  return core_->at(index);
}

std::shared_ptr<remote_home> runtime::least_loaded() const {
  core_->check_process();
  return core_->least_loaded();
}

void runtime::begin(remote_core&) { core_->one_more(); }

void runtime::stop_in(duration grace) noexcept {
  if (!core_->is_child()) core_->stop(grace);
}

bool runtime::stopping() const noexcept { return core_->stopping(); }

void runtime::rethrow_failure() const {
  if (std::exception_ptr why = core_->take_failure(); why != nullptr) std::rethrow_exception(std::move(why));
}

void runtime::wait() {
  core_->check_process();
  if (loop_here() != nullptr) {
    throw_misuse("runtime::wait() blocks, and was called on the thread of a loop");
  }
  core_->wait_threads();
  rethrow_failure();
}

run_options runtime::like_mine() const { return core_->options_of_run(); }

runtime::seat::seat(runtime& of, runner& program) : of_(of) {
  of.core_->check_process();
  auto guest = std::make_shared<runtime_core::home>(of.core_);
  guest->in_run = true;
  guest->fibers = &program.fibers().home();
  guest->port = guest->fibers->on().port();
  home_ = guest;
  of.core_->enter(std::move(guest));
}

runtime::seat::~seat() { of_.core_->leave(home_); }

}  // namespace coir
