// Two loops on two threads that post to each other in turn.
#pragma once

#include <coir/loop/loop.hpp>

#include <thread>

namespace support {

// How often the ball was caught, by both together, when both have stopped.
inline int play_ball(coir::loop& here, coir::loop& there, int rounds) {
  struct ball {
    coir::loop* to;
    coir::loop* back;
    int* count;
    int rounds;
    void operator()() const {
      if (++*count == rounds) {
        to->stop();
        back->stop();
      } else {
        back->post(ball{back, to, count, rounds});
      }
    }
  };
  const coir::loop::hold more(here);
  int count = 0;
  std::thread other([&] {
    const coir::loop::hold more_there(there);
    there.run();
  });
  there.post(ball{&there, &here, &count, rounds});
  here.run();
  other.join();
  return count;
}

}  // namespace support
