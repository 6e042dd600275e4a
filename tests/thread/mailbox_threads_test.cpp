// Mailboxes under several threads at once.
#include <coir/thread/mailbox.hpp>

#include "support/both.hpp"
#include "support/catch.hpp"

#include <coir/coir.hpp>

#include <array>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <memory>
#include <thread>
#include <vector>

using namespace std::chrono_literals;
using coir::delivery;

namespace {

constexpr int threads = 4;

int messages() { return std::getenv("COIR_TEST_LONG") != nullptr ? 10'000'000 : 200'000; }

struct numbered {
  int thread;
  int number;
};

// Counts, and checks the order of each thread.
class ledger {
 public:
  void enter(const numbered& what) {
    int& next = next_[static_cast<std::size_t>(what.thread)];
    out_of_order_ += what.number != next;
    next = what.number + 1;
    ++total_;
  }
  int total() const { return total_; }
  int out_of_order() const { return out_of_order_; }

 private:
  std::array<int, threads> next_{};
  int total_ = 0;
  int out_of_order_ = 0;
};

// With pauses, so that where there are few processors the other thread comes to its end.
template <class M>
void send_until_refused(const coir::mailbox_sender<M>& to, const M& what) {
  for (int i = 0; to.try_send(M(what)) == delivery::sent; ++i) {
    if (i % 16 == 15) std::this_thread::yield();
  }
}

}  // namespace

TEST_CASE("of two hundred thousand messages of four threads none is lost or comes twice, each thread's in order") {
  const int each = messages() / threads;
  support::on_both_surfaces([&](auto wait) {
    coir::mailbox<numbered> box;
    ledger seen;
    std::vector<std::thread> senders;
    for (int thread = 0; thread < threads; ++thread) {
      senders.emplace_back([to = box.sender(), thread, each] {
        for (int i = 0; i < each; ++i) to.send({thread, i});
      });
    }
    while (seen.total() != threads * each) seen.enter(*wait(box.receive()));
    for (std::thread& sender : senders) sender.join();
    CHECK(seen.out_of_order() == 0);
    CHECK_FALSE(box.try_receive());
  });
}

TEST_CASE("so it is with a bounded one whose senders try again, and four receivers of which some are cancelled") {
  // A quarter of them: where there is no room a thread sleeps, which on a busy machine takes its time.
  const int each = messages() / threads / 4;
  coir::run([&] {
    coir::mailbox<numbered> box(64);
    int total = 0;
    std::vector<std::thread> senders;
    for (int thread = 0; thread < threads; ++thread) {
      senders.emplace_back([to = box.sender(), thread, each] {
        for (int i = 0; i < each; ++i) {
          // A thread that only yields keeps the processor from the loop, where there are few, for a time slice.
          while (to.try_send({thread, i}) != delivery::sent) std::this_thread::sleep_for(10us);
        }
      });
    }
    coir::with_nursery([&](coir::nursery& n) {
      const auto receiver = [&] {
        while (auto got = coir::await(box.receive())) {
          if (++total == threads * each) box.close();
        }
      };
      for (int i = 0; i < 3; ++i) n.spawn(receiver);
      while (total != threads * each) {
        auto one = coir::spawn(receiver);
        for (int i = 0; i < 3; ++i) coir::await(coir::yield());
        one.cancel();
      }
    });
    for (std::thread& sender : senders) sender.join();
    CHECK(total == threads * each);
  });
}

TEST_CASE("a message sent just as the loop falls asleep is not slept over") {
  constexpr int rounds = 20'000;
  coir::run([&] {
    coir::mailbox<int> box;
    std::atomic<int> seen = 0;
    std::thread other([&, to = box.sender()] {
      for (int i = 1; i <= rounds; ++i) {
        to.send(i);
        while (seen.load(std::memory_order_acquire) != i) std::this_thread::yield();
        for (int spin = 0; spin < i % 512; ++spin) std::atomic_signal_fence(std::memory_order_seq_cst);
      }
    });
    for (int i = 1; i <= rounds; ++i) {
      CHECK(coir::await(box.receive()) == i);
      seen.store(i, std::memory_order_release);
    }
    other.join();
  });
}

TEST_CASE("a mailbox may go at any moment, with senders in the middle") {
  constexpr int rounds = 2'000;
  const auto alive = std::make_shared<int>();
  coir::run([&] {
    for (int round = 0; round < rounds; ++round) {
      std::atomic<bool> go = false;
      auto box = std::make_unique<coir::mailbox<std::shared_ptr<int>>>();
      std::thread other([&, to = box->sender()] {
        while (!go.load(std::memory_order_acquire)) std::this_thread::yield();
        send_until_refused(to, alive);
      });
      go.store(true, std::memory_order_release);
      for (int i = 0; i < round % 7; ++i) {
        if (round % 2 == 0) {
          coir::await(coir::yield());
        } else {
          static_cast<void>(coir::await(box->receive()));
        }
      }
      box.reset();
      other.join();
      CHECK(alive.use_count() == 1);
    }
  });
}

TEST_CASE("a loop may end at any moment, with senders in the middle") {
  constexpr int rounds = 500;
  const auto alive = std::make_shared<int>();
  for (int round = 0; round < rounds; ++round) {
    std::thread other;
    coir::mailbox_sender<std::shared_ptr<int>> to;
    std::atomic<bool> go = false;
    coir::run([&] {
      coir::mailbox<std::shared_ptr<int>> box;
      to = box.sender();
      other = std::thread([&go, to, &alive] {
        while (!go.load(std::memory_order_acquire)) std::this_thread::yield();
        send_until_refused(to, alive);
      });
      go.store(true, std::memory_order_release);
      for (int i = 0; i < round % 5; ++i) coir::await(coir::yield());
    });
    other.join();
    to = {};
    CHECK(alive.use_count() == 1);
  }
}

TEST_CASE("senders come and go on many threads while a fiber waits") {
  coir::run([] {
    coir::mailbox<int> box;
    std::vector<std::thread> others;
    for (int thread = 0; thread < threads; ++thread) {
      others.emplace_back([to = box.sender()] {
        for (int i = 0; i < 2'000; ++i) {
          const coir::mailbox_sender<int> copy = to;
          copy.send(1);
        }
      });
    }
    int sum = 0;
    while (sum != threads * 2'000) sum += *coir::await(box.receive());
    for (std::thread& other : others) other.join();
    CHECK(box.stats().senders == 0);
  });
}
