// coir/scope/heartbeat.hpp: a child of a supervisor says that it has not got stuck.
//
//   s.add("reader", read_all, coir::child_options(coir::permanent).heartbeat(30s));
//   ... for (;;) { coir::heartbeat(); handle(co_await next()); }     // in read_all
//                                                         [tests/scope/heartbeat_test.cpp]
//
// A child that has not called it for so long is cancelled and counts as failed (child_hung). The fibers that
// it spawns speak for it; those that another fiber spawned do not.
//
// Shape    a function; nothing happens where nobody asked for it.
// Thread   one loop.
// Cancel   no suspend point. A child that hangs in code that never waits is not reached by a cancellation, nor
//          does its loop notice: for such code there are threads and processes.
// Errors   std::logic_error outside of a fiber.
// Cost     about 40 ns: a look at the fiber's locals, and at the clock.
// See      coir/scope/supervisor.hpp
#pragma once

#include <coir/base/time.hpp>

#include <memory>
#include <stdexcept>
#include <string>

namespace coir {

// What became of a child that did not call heartbeat() in time.
class child_hung : public std::runtime_error {
 public:
  explicit child_hung(const std::string& what);
};

void heartbeat();

namespace priv {

// When a child was heard of last. Of one incarnation: what an earlier one left behind does not speak for it.
struct pulse {
  instant last;
};
// The running fiber, and what it spawns, speak for this one.
void speak_for(const std::shared_ptr<pulse>& whom);

}  // namespace priv

}  // namespace coir
