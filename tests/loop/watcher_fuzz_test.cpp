// Watchers on both backends against a plain reference: random programs, in which callbacks end, replace,
// close and reuse each other. A seed that fails is run alone, and told, with COIR_FUZZ_SEED=<seed>.
#include "watcher_fuzz_reference.hpp"

#include <any>
#include <chrono>
#include <cstdlib>
#include <memory>
#include <optional>
#include <system_error>

namespace {

using coir::watcher;
using tests::fuzz::journal;
using tests::fuzz::kind;
using tests::fuzz::misuse;
using tests::fuzz::player;
using tests::fuzz::view;
using tests::fuzz::wishes;

class on_coir final : public tests::fuzz::subject {
 public:
  on_coir(player& of, coir::backend_kind backend)
      : player_(of),
        seats_(of.places()),
        idle_(support::socket_pair()),
        loop_(coir::loop_options().backend(backend).submission_entries(8)) {}

  void begin_turn(unsigned turn) override {
    if (player_.has_request(turn) == (asked_ != nullptr)) return;
    if (asked_ != nullptr) return withdraw();
    asked_ = std::make_unique<support::asked>(coir::request::recv(idle_[0].get(), byte_));
    REQUIRE(loop_.start(asked_->request));
  }
  void turn(bool naps) override { loop_.run_once(std::chrono::microseconds(naps ? 20 : 0)); }

  int watch(unsigned place, int number, const wishes& how, int id) override {
    coir::watch_options options;
    if (how.read) options.read = call(place, number, id, kind::read);
    if (how.write) options.write = call(place, number, id, kind::write);
    if (how.error) options.error = call(place, number, id, kind::error);
    options.edge_triggered = how.edge;
    options.oneshot = how.oneshot;
    options.replace = how.replace;
    options.data = id;
    return outcome_of([&] {
      coir::owned<watcher> made = loop_.watch(number, std::move(options));
      seat& here = seats_[place];
      retire(here);
      here.now = &*made;
      how.kept ? made.keep() : static_cast<void>(here.handle.emplace(std::move(made)));
    });
  }
  int enable(unsigned place, kind direction) override {
    watcher& which = *seats_[place].now;
    return outcome_of([&] { direction == kind::read ? which.enable_read() : which.enable_write(); });
  }
  void disable(unsigned place, kind direction) override {
    watcher& which = *seats_[place].now;
    direction == kind::read ? which.disable_read() : which.disable_write();
  }
  int rearm(unsigned place) override {
    return outcome_of([&] { seats_[place].now->rearm(); });
  }
  void end(unsigned place, int number, unsigned way) override {
    seat& here = seats_[place];
    watcher* const which = std::exchange(here.now, nullptr);
    if (which == nullptr || way == 0) {
      loop_.unwatch(number);
    } else if (way == 1) {
      which->cancel();
    } else if (here.handle) {
      here.handle->reset();
      return here.handle.reset();
    } else {
      which->cancel();
    }
    retire(here);
  }
  int use_former(unsigned place, unsigned way) override {
    std::optional<coir::owned<watcher>>& former = seats_[place].former;
    if (!former) return way == 0 ? 0 : misuse;
    REQUIRE_FALSE(*former);
    watcher& inert = **former;
    inert.disable_read();
    return outcome_of([&] {
      switch (way) {
        case 0: return former.reset();
        case 1: return inert.enable_read();
        case 2: return inert.enable_write();
        default: return inert.rearm();
      }
    });
  }
  void stop() override { loop_.stop(); }
  view look(unsigned place) const override {
    const watcher& which = *seats_[place].now;
    return {which.listens(), which.reads(), which.writes()};
  }
  bool can_wake() const override { return loop_.can_wake(); }
  std::size_t count() const override { return loop_.census().watchers; }
  coir::watch_stats stats() const { return loop_.stats().watchers; }
  int idle_events() override {
    // An entry that a duplicate kept alive tells of itself, and goes with its set in the turn after that.
    support::idle_turns(loop_, 4);
    const std::uint64_t before = loop_.stats().watchers.events;
    support::idle_turns(loop_, 2);
    return static_cast<int>(loop_.stats().watchers.events - before);
  }

 private:
  struct seat {
    std::optional<coir::owned<watcher>> handle;  // none: it was left to the loop
    std::optional<coir::owned<watcher>> former;
    watcher* now = nullptr;
  };

  // Larger than what lies in a callback itself: a sanitizer sees one that is destroyed while it runs.
  coir::callback<watcher&> call(unsigned place, int number, int id, kind what) {
    return [this, place, number, id, what](watcher& which) {
      REQUIRE(which.fd() == number);
      REQUIRE(std::any_cast<int>(which.data) == id);
      player_.happened(place, id, what);
    };
  }
  template <class Body>
  static int outcome_of(Body&& body) {
    try {
      body();
      return 0;
    } catch (const std::system_error& refused) {
      return refused.code().value();
    } catch (const std::logic_error&) {
      return misuse;
    }
  }
  // The handle of one that is over is used once more, or not at all.
  static void retire(seat& which) {
    if (!which.handle) return;
    which.former.reset();
    which.former.emplace(std::move(*which.handle));
    which.handle.reset();
  }
  void withdraw() {
    loop_.withdraw(asked_->request);
    over_.push_back(std::move(asked_));
  }

  player& player_;
  std::vector<seat> seats_;
  support::fd_pair idle_;
  std::array<std::byte, 1> byte_;
  std::unique_ptr<support::asked> asked_;
  std::vector<std::unique_ptr<support::asked>> over_;
  coir::loop loop_;  // ends first: handles outlive their loop
};

std::vector<tests::fuzz::record> run_program(std::uint64_t seed, coir::backend_kind backend, bool tells,
                                             coir::watch_stats& total) {
  journal notes;
  {
    player who(seed, notes, tells);
    on_coir on(who, backend);
    who.play(on);
    const coir::watch_stats mine = on.stats();
    CHECK((mine.rebuilds == 0 || !who.is_gentle()));
    total.events += mine.events;
    total.errors += mine.errors;
    total.stale += mine.stale;
    total.unheard += mine.unheard;
    total.rebuilds += mine.rebuilds;
  }
  notes.rewind();
  {
    player who(seed, notes, tells);
    tests::fuzz::reference on(who);
    who.play(on);
  }
  if (notes.next() != nullptr) notes.differs("the reference has come to its end");
  return notes.lines();
}

bool is_refused(coir::backend_kind backend) {
  try {
    const coir::loop trial(coir::loop_options().backend(backend));
    return false;
  } catch (const std::system_error& refused) {
    WARN("skipped: " << refused.what());
    return true;
  }
}

unsigned wanted_programs() {
  if (std::getenv("COIR_TEST_LONG") != nullptr) return 100'000;
  return COIR_ADDRESS_SANITIZER || COIR_THREAD_SANITIZER ? 500 : 2'000;
}

}  // namespace

TEST_CASE("watchers do on each backend what plain epoll would do, through any program") {
  const tests::fuzz::without_sigpipe quiet;
  const char* const alone = std::getenv("COIR_FUZZ_SEED");
  const std::uint64_t first = alone != nullptr ? std::strtoull(alone, nullptr, 10) : 1;
  const unsigned count = alone != nullptr ? 1 : wanted_programs();
  std::vector backends{coir::backend_kind::epoll};
  if (!is_refused(coir::backend_kind::uring)) backends.push_back(coir::backend_kind::uring);
  unsigned parted = 0;
  coir::watch_stats total;
  for (std::uint64_t seed = first; seed != first + count; ++seed) {
    std::vector<std::vector<tests::fuzz::record>> journals;
    for (const coir::backend_kind backend : backends) {
      const char* const name = backend == coir::backend_kind::uring ? "io_uring" : "epoll";
      INFO("COIR_FUZZ_SEED=" << seed << " on " << name);
      try {
        journals.push_back(run_program(seed, backend, alone != nullptr, total));
      } catch (const tests::fuzz::mismatch& found) {
        FAIL(found.what());
      }
    }
    parted += journals.front() != journals.back();
  }
  // Each has been found right by itself. They part where the kernel tells of several events in another order.
  INFO(parted << " programs of " << count << " went another way on the other backend");
  CHECK(parted <= count / 10);
  if (alone != nullptr) return;
  // What is rare must be there, or the programs prove little.
  const auto runs = count * backends.size();
  CHECK(total.events > runs * 5);
  CHECK(total.errors > runs / 10);
  CHECK(total.stale > runs / 10);
  CHECK(total.unheard > runs / 20);
  CHECK(total.rebuilds > runs / 40);
}
