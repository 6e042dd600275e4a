// Many fibers that wait until the test lets them go.
//
//   gate closed;   ... in many fibers: coir::await(closed.wait());   ... closed.open();
#pragma once

#include "hand_op.hpp"

#include <coir/coir.hpp>

#include <memory>

namespace support {

// Made in a fiber; those that wait are its children or their children.
class gate {
 public:
  auto wait() { return coir::end_op(keeper_); }
  void open() { hold_->complete(); }

 private:
  // Shared, because the fiber may outlive this.
  std::shared_ptr<hand> hold_ = std::make_shared<hand>();
  coir::fiber<void> keeper_ = coir::spawn([hold = hold_] { coir::await(hand_op(*hold)); });
};

}  // namespace support
